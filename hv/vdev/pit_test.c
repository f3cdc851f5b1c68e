/* SPDX-License-Identifier: MIT */
#include "hv/fake/vdev_fake.h"
#include "hv/lib/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define PIT_HZ 1193182ull
static struct vm *vm;
static struct vdev *pit, *pic;

static int setup(void **unused)
{
	vm = vdev_fake_vm();
	pit = vdev_fake_add(vm, &pit_type, 0);
	pic = vm_vdev(vm, &pic_type, 0);
	vdev_fake_out(vm, 0x20, 1, 0x13); /* PIC with automatic EOI: each IRQ 0 can be taken and counted */
	vdev_fake_out(vm, 0x21, 1, 0x30);
	vdev_fake_out(vm, 0x21, 1, 0x03);
	vdev_fake_out(vm, 0x21, 1, 0xfe);
	return 0;
}

static int teardown(void **unused)
{
	vdev_fake_free(vm);
	return 0;
}

static bool irq(void)
{
	return pic_intr(pic) && pic_ack(pic) == 0x30;
}

static void set(unsigned port, u8 control, u16 count)
{
	vdev_fake_out(vm, 0x43, 1, control);
	vdev_fake_out(vm, (u16)port, 1, count & 0xff);
	vdev_fake_out(vm, (u16)port, 1, count >> 8);
	irq(); /* the output rises with most mode settings */
}

/* To the first TSC at which the PIT is at tick n. */
static void run_to_tick(u64 n)
{
	vdev_fake_run(vm, muldiv64(n, VDEV_FAKE_HZ, PIT_HZ) + 1 - vm->paused_tsc);
}

/* Linux pit_calibrate_tsc(): channel 2, mode 0, gate open, waits for OUT2 in port 61h. */
static void test_linux_calibration_out2(void **unused)
{
	u32 latch = PIT_HZ / 100; /* 10 ms */
	u64 start;

	vdev_fake_out(vm, 0x61, 1, (vdev_fake_in(vm, 0x61, 1) & ~2u) | 1);
	set(0x42, 0xb0, (u16)latch);
	start = vm->paused_tsc;
	while (!(vdev_fake_in(vm, 0x61, 1) & 0x20))
		vdev_fake_run(vm, 1000);
	assert_in_range(vm->paused_tsc - start, VDEV_FAKE_HZ / 100 - 3000, VDEV_FAKE_HZ / 100 + 3000);
}

/* Linux quick_pit_calibrate(): reads the counting MSB without a latch. */
static void test_linux_quick_calibration(void **unused)
{
	u64 start, last = 0;

	vdev_fake_out(vm, 0x61, 1, 1);
	set(0x42, 0xb0, 0xffff);
	vdev_fake_in(vm, 0x42, 1);
	assert_int_equal(vdev_fake_in(vm, 0x42, 1), 0xff);
	start = vm->paused_tsc;
	for (u32 msb = 0xfe; msb > 0xf0; msb--) {
		unsigned spins = 0;

		for (;;) {
			vdev_fake_in(vm, 0x42, 1);
			if (vdev_fake_in(vm, 0x42, 1) == msb)
				break;
			vdev_fake_run(vm, 2000);
			assert_true(++spins < 1000);
		}
		if (last) /* 256 PIT ticks are 214,553 ns */
			assert_in_range(vm->paused_tsc - last, 212000, 217000);
		last = vm->paused_tsc;
	}
	assert_in_range(last - start, 14 * 214553 - 220000, 14 * 214553 + 220000);
}

static void test_periodic_without_drift(void **unused)
{
	u64 n = PIT_HZ / 250;

	set(0x40, 0x34, (u16)n);
	assert_false(irq());
	for (u64 i = 1; i <= 5000; i++) { /* 20 s */
		run_to_tick(i * n - 1);
		assert_false(irq());
		run_to_tick(i * n);
		assert_true(irq());
	}
	/* Missed ticks merge into one; the phase stays. */
	vdev_fake_jump(vm, 10 * n * VDEV_FAKE_HZ / PIT_HZ);
	assert_true(irq());
	assert_false(irq());
	run_to_tick(5011 * n - 1);
	irq();
	run_to_tick(5011 * n + n);
	assert_true(irq());
}

static void test_one_shot(void **unused)
{
	set(0x40, 0x38, 1000); /* mode 4, as Linux's pit_set_oneshot() */
	run_to_tick(1000);
	assert_false(irq());
	run_to_tick(1001);
	assert_true(irq());
	run_to_tick(200000);
	assert_false(irq());
	set(0x40, 0x30, 1000); /* mode 0 */
	run_to_tick(200999);
	assert_false(irq());
	run_to_tick(201001);
	assert_true(irq());
	run_to_tick(400000);
	assert_false(irq());
	set(0x40, 0x30, 1000);
	vdev_fake_out(vm, 0x40, 1, 0); /* first byte of a new count stops it */
	run_to_tick(500000);
	assert_false(irq());
}

static void test_square_wave(void **unused)
{
	set(0x42, 0xb6, 1000);
	vdev_fake_out(vm, 0x61, 1, 1); /* gate opens: starts over */
	assert_true(vdev_fake_in(vm, 0x61, 1) & 0x20);
	run_to_tick(510);
	assert_false(vdev_fake_in(vm, 0x61, 1) & 0x20);
	run_to_tick(1010);
	assert_true(vdev_fake_in(vm, 0x61, 1) & 0x20);
	vdev_fake_out(vm, 0x61, 1, 0);
	run_to_tick(1510);
	assert_true(vdev_fake_in(vm, 0x61, 1) & 0x20); /* gate closed: high */
}

static void test_latch(void **unused)
{
	u32 v;

	set(0x40, 0x34, 50000);
	run_to_tick(10000);
	vdev_fake_out(vm, 0x43, 1, 0x00);
	run_to_tick(20000);
	v = vdev_fake_in(vm, 0x40, 1);
	v |= vdev_fake_in(vm, 0x40, 1) << 8;
	assert_int_equal(v, 40000); /* as it was when latched */
	v = vdev_fake_in(vm, 0x40, 1);
	v |= vdev_fake_in(vm, 0x40, 1) << 8;
	assert_int_equal(v, 30000);
	vdev_fake_out(vm, 0x43, 1, 0xc2); /* read-back: status and count of channel 0 */
	assert_int_equal(vdev_fake_in(vm, 0x40, 1), 0xb4);
	v = vdev_fake_in(vm, 0x40, 1);
	v |= vdev_fake_in(vm, 0x40, 1) << 8;
	assert_int_equal(v, 30000);
	vdev_fake_out(vm, 0x43, 1, 0xb0);
	vdev_fake_out(vm, 0x43, 1, 0xe8); /* status of channel 2: no count yet, output low */
	assert_int_equal(vdev_fake_in(vm, 0x42, 1), 0x70);
}

static void test_bcd(void **unused)
{
	set(0x40, 0x35, 0x1000); /* 1000 decimal */
	run_to_tick(1);
	vdev_fake_out(vm, 0x43, 1, 0x00);
	assert_int_equal(vdev_fake_in(vm, 0x40, 1), 0x99);
	assert_int_equal(vdev_fake_in(vm, 0x40, 1), 0x09);
	run_to_tick(1000);
	assert_true(irq());
}

static void test_refresh_toggles(void **unused)
{
	unsigned changes = 0;
	u32 last = vdev_fake_in(vm, 0x61, 1) & 0x10;

	for (unsigned i = 0; i < 1000; i++) {
		vdev_fake_run(vm, 1000);
		changes += (vdev_fake_in(vm, 0x61, 1) & 0x10) != last;
		last = vdev_fake_in(vm, 0x61, 1) & 0x10;
	}
	assert_in_range(changes, 64, 68); /* 1 ms / 15 us */
}

static void test_post_load(void **unused)
{
	u64 *s = vdev_fake_state(pit), deadline;
	u8 *b = vdev_fake_state(pit);
	unsigned refused = 0;

	vdev_fake_run(vm, 1000000);
	set(0x40, 0x34, 1000);
	deadline = pit->deadline;
	pit->deadline = VDEV_NEVER;
	assert_int_equal(pit_type.mig.post_load(pit, NULL), 0);
	assert_int_equal(pit->deadline, deadline);
	for (unsigned i = 0; i < pit_type.mig.n_fields; i++) {
		const struct mig_field *f = &pit_type.mig.fields[i];
		u8 keep = b[f->offset + f->width - 1];

		b[f->offset + f->width - 1] = 0xfe;
		refused += pit_type.mig.post_load(pit, NULL) == -E_INVAL;
		b[f->offset + f->width - 1] = keep;
	}
	assert_int_equal(refused, pit_type.mig.n_fields - 3); /* latch, low and status may hold anything */
	deadline = s[6];
	s[6] = VDEV_NEVER;
	memset(b + 56, 0, 4); /* count 0 would divide by zero */
	assert_int_equal(pit_type.mig.post_load(pit, NULL), -E_INVAL);
	s[6] = deadline;
	b[56] = 100;
	assert_int_equal(pit_type.mig.post_load(pit, NULL), -E_INVAL); /* next interrupt beyond one period */
	b[57] = 4;
	assert_int_equal(pit_type.mig.post_load(pit, NULL), 0);
	s[6] = 1u << 30; /* next interrupt beyond one period */
	assert_int_equal(pit_type.mig.post_load(pit, NULL), -E_INVAL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_linux_calibration_out2), T(test_linux_quick_calibration), T(test_periodic_without_drift),
		T(test_one_shot), T(test_square_wave), T(test_latch), T(test_bcd), T(test_refresh_toggles),
		T(test_post_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
