/* SPDX-License-Identifier: MIT */
/* Accesses that are wider than the device, or reach beyond it. */
#include "hv/vm/bus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static char seen[200];

/* Every byte reads as the low byte of its address. */
static void device(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	size_t n = strlen(seen);

	if (write) {
		snprintf(seen + n, sizeof(seen) - n, "%llx.%u=%llx ", (unsigned long long)addr, size,
			 (unsigned long long)(*val & (~0ull >> (64 - 8 * size))));
		return;
	}
	assert_true(*val == ~0ull);
	snprintf(seen + n, sizeof(seen) - n, "%llx.%u ", (unsigned long long)addr, size);
	for (unsigned i = 0; i < size; i++)
		((u8 *)val)[i] = (u8)(addr + i);
}

static struct vm vm;

static int setup(void **state)
{
	memset(&vm, 0, sizeof(vm));
	assert_int_equal(bus_add_pio(&vm, NULL, 0x70, 2, 1, device), 0);
	assert_int_equal(bus_add_pio(&vm, NULL, 0x608, 4, 4, device), 0);
	assert_int_equal(bus_add_pio(&vm, NULL, 0x60c, 2, 2, device), 0);
	assert_int_equal(bus_add_pio(&vm, NULL, 0x71, 1, 1, device), -E_EXIST);
	assert_int_equal(bus_add_mmio(&vm, NULL, gpa(0x1000), 0x100, 4, device), 0);
	return 0;
}

static void in(u16 port, unsigned size, u32 want, const char *accesses)
{
	u64 val = 0;

	seen[0] = 0;
	assert_int_equal(bus_pio(&vm, port, size, false, &val), !!accesses[0]);
	assert_int_equal(val & (~0ull >> (64 - 8 * size)), want);
	assert_string_equal(seen, accesses);
}

static void out(u16 port, unsigned size, u64 val, const char *accesses)
{
	seen[0] = 0;
	assert_int_equal(bus_pio(&vm, port, size, true, &val), !!accesses[0]);
	assert_string_equal(seen, accesses);
}

static void wide_accesses_come_in_parts(void **state)
{
	in(0x70, 1, 0x70, "70.1 ");
	in(0x70, 2, 0x7170, "70.1 71.1 ");
	in(0x70, 4, 0xffff7170, "70.1 71.1 ");
	in(0x6f, 2, 0x70ff, "70.1 ");
	in(0x608, 4, 0x0b0a0908, "608.4 ");
	in(0x60a, 4, 0x0d0c0b0a, "60a.2 60c.2 ");
	in(0x60c, 4, 0xffff0d0c, "60c.2 ");
	in(0x60b, 4, 0xff0d0c0b, "60b.1 60c.1 60d.1 ");
	in(0x72, 4, 0xffffffff, "");
	in(0xffff, 4, 0xffffffff, "");
	/* Index and data of CMOS in one, as some firmware does. */
	out(0x70, 2, 0x350f, "70.1=f 71.1=35 ");
	out(0x60c, 4, 0x12345678, "60c.2=5678 ");
	out(0x72, 4, 0, "");
}

static void so_does_memory(void **state)
{
	u64 val;

	seen[0] = 0;
	assert_true(bus_mmio(&vm, 0x1000, 8, false, &val));
	assert_true(val == 0x0706050403020100);
	/* What is left of an operand that crosses a page. */
	assert_true(bus_mmio(&vm, 0x10fd, 3, false, &val));
	assert_int_equal(val & 0xffffff, 0xfffefd);
	val = 0x1122334455667788;
	assert_true(bus_mmio(&vm, 0x10fc, 8, true, &val));
	assert_string_equal(seen, "1000.4 1004.4 10fd.1 10fe.2 10fc.4=55667788 ");
	assert_false(bus_mmio(&vm, 0x1100, 8, false, &val));
	assert_true(val == ~0ull);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wide_accesses_come_in_parts), cmocka_unit_test(so_does_memory),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
