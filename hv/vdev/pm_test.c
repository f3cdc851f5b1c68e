/* SPDX-License-Identifier: MIT */
#include "hv/fake/vdev_fake.h"
#include "hv/vdev/pci.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define STS PM_BASE
#define EN (PM_BASE + 2)
#define CNT (PM_BASE + 4)
#define TMR (PM_BASE + 8)
#define HALF_PERIOD (600 * VDEV_FAKE_HZ) /* bit 31 changes every 599.93 s */

static struct vm *vm;
static struct vdev *pm;

static int setup(void **unused)
{
	vm = vdev_fake_vm();
	pm = vdev_fake_add(vm, &pm_type, 0);
	/* SCI: level, high, as the MADT says. */
	vdev_fake_mmio_write(vm, 0xfec00000, 0x22);
	vdev_fake_mmio_write(vm, 0xfec00010, 0x8059);
	return 0;
}

static int teardown(void **unused)
{
	vdev_fake_free(vm);
	return 0;
}

static bool sci(void)
{
	struct vdev *l = vcpu_lapic(vm->vcpus[0]);
	bool got = lapic_pending(l) == 0x59;

	if (got) {
		lapic_ack(l, 0x59);
		lapic_mmio_write(l, 0xb0, 0);
	}
	return got;
}

static void test_timer_rate(void **unused)
{
	u32 a = vdev_fake_in(vm, TMR, 4), b;

	vdev_fake_run(vm, 10 * VDEV_FAKE_HZ);
	b = vdev_fake_in(vm, TMR, 4);
	assert_int_equal(b - a, 35795450);
	assert_int_equal(vdev_fake_in(vm, TMR, 2), b & 0xffff);
	assert_int_equal(vdev_fake_in(vm, TMR + 3, 1), b >> 24);
	/* Linux's init_acpi_pm_clocksource(): it counts up. */
	for (unsigned i = 0; i < 100; i++) {
		vdev_fake_run(vm, 500);
		assert_true(vdev_fake_in(vm, TMR, 4) > b);
		b = vdev_fake_in(vm, TMR, 4);
	}
	vdev_fake_out(vm, TMR, 4, 0); /* read-only */
	assert_int_equal(vdev_fake_in(vm, TMR, 4), b);
}

static void test_timer_overflow(void **unused)
{
	vdev_fake_run(vm, HALF_PERIOD);
	assert_int_equal(vdev_fake_in(vm, STS, 2), 1); /* noticed without a timer */
	assert_false(sci());
	vdev_fake_out(vm, STS, 2, 1);
	assert_int_equal(vdev_fake_in(vm, STS, 2), 0);
	vdev_fake_out(vm, EN, 2, 1);
	assert_int_equal(vdev_fake_in(vm, EN, 2), 1);
	vdev_fake_run(vm, HALF_PERIOD - VDEV_FAKE_HZ);
	assert_false(sci());
	vdev_fake_run(vm, VDEV_FAKE_HZ);
	assert_true(sci());
	assert_true(sci()); /* level: until acknowledged */
	vdev_fake_out(vm, STS, 2, 1);
	sci();
	assert_false(sci());
}

static void test_power_button(void **unused)
{
	assert_false(pm_power_button(pm)); /* nobody listens */
	assert_false(sci());
	assert_int_equal(vdev_fake_in(vm, STS, 4), 0);
	vdev_fake_out(vm, EN, 1, 0x20);
	assert_false(pm_power_button(pm));
	vdev_fake_out(vm, EN + 1, 1, 0x01);
	assert_true(pm_power_button(pm));
	assert_int_equal(vdev_fake_in(vm, STS, 4), 0x01200100);
	assert_true(sci());
	vdev_fake_out(vm, STS, 2, 0xffff);
	sci();
	assert_false(sci());
}

static void test_sleep(void **unused)
{
	assert_int_equal(vdev_fake_in(vm, CNT, 2), 1); /* always in ACPI mode */
	vdev_fake_out(vm, CNT, 2, 0);
	assert_int_equal(vdev_fake_in(vm, CNT, 2), 1);
	vdev_fake_out(vm, CNT, 2, 5 << 10); /* SLP_TYP first, as ACPICA does */
	assert_false(vm->want_poweroff);
	vdev_fake_out(vm, CNT, 2, 3 << 10 | 1 << 13);
	assert_false(vm->want_poweroff); /* there is no S3 */
	vdev_fake_out(vm, CNT, 2, 5 << 10 | 1 << 13);
	assert_true(vm->want_poweroff);
	assert_int_equal(vdev_fake_in(vm, CNT, 2) & 0x2000, 0);
}

static void test_reset(void **unused)
{
	vdev_fake_add(vm, &pci_type, 0);
	vdev_fake_out(vm, 0xcf9, 1, 2);
	assert_false(vm->want_reset);
	assert_int_equal(vdev_fake_in(vm, 0xcf9, 1), 2);
	vdev_fake_out(vm, 0xcf8, 4, 0x80000600); /* the address register of PCI around it */
	assert_false(vm->want_reset);
	assert_int_equal(vdev_fake_in(vm, 0xcf8, 4), 0x80000600);
	assert_int_equal(vdev_fake_in(vm, 0xcf9, 1), 2);
	vdev_fake_out(vm, 0xcf9, 1, 6);
	assert_true(vm->want_reset);
}

static void test_post_load(void **unused)
{
	u16 *s = vdev_fake_state(pm);
	u64 deadline;

	vdev_fake_out(vm, EN, 2, 1);
	vdev_fake_run(vm, VDEV_FAKE_HZ);
	deadline = pm->deadline;
	pm->deadline = VDEV_NEVER;
	assert_int_equal(pm_type.mig.post_load(pm, NULL), 0);
	assert_int_equal(pm->deadline, deadline);
	for (unsigned i = 3; i < 8; i++) {
		u16 keep = s[i];

		s[i] = 0xffff;
		assert_int_equal(pm_type.mig.post_load(pm, NULL), -E_INVAL);
		s[i] = keep;
	}
	s[6] = 0; /* SCI_EN cannot be off */
	assert_int_equal(pm_type.mig.post_load(pm, NULL), -E_INVAL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_timer_rate), T(test_timer_overflow), T(test_power_button), T(test_sleep), T(test_reset),
		T(test_post_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
