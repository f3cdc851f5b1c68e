/* SPDX-License-Identifier: MIT */
#include "hv/fake/vdev_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define HZ VDEV_FAKE_HZ
static struct vm *vm;
static struct vdev *rtc, *pic;

static u8 rd(u8 reg)
{
	vdev_fake_out(vm, 0x70, 1, reg);
	return (u8)vdev_fake_in(vm, 0x71, 1);
}

static void wr(u8 reg, u8 val)
{
	vdev_fake_out(vm, 0x70, 1, reg);
	vdev_fake_out(vm, 0x71, 1, val);
}

static u8 bcd(unsigned v) { return (u8)(v / 10 << 4 | v % 10); }

static void start_at(u64 wall)
{
	vm = vdev_fake_vm();
	vm->boot_wall_seconds = wall;
	rtc = vdev_fake_add(vm, &rtc_type, 0);
	pic = vm_vdev(vm, &pic_type, 0);
	vdev_fake_out(vm, 0xa0, 1, 0x11);
	vdev_fake_out(vm, 0xa1, 1, 0x38);
	vdev_fake_out(vm, 0xa1, 1, 2);
	vdev_fake_out(vm, 0xa1, 1, 3);
	vdev_fake_out(vm, 0xa1, 1, 0xfe);
	vdev_fake_out(vm, 0x20, 1, 0x11);
	vdev_fake_out(vm, 0x21, 1, 0x30);
	vdev_fake_out(vm, 0x21, 1, 4);
	vdev_fake_out(vm, 0x21, 1, 3);
	vdev_fake_out(vm, 0x21, 1, 0);
}

static int setup(void **unused)
{
	start_at(1795314600); /* 2026-11-22 02:30:00, a Sunday */
	return 0;
}

static int teardown(void **unused)
{
	vdev_fake_free(vm);
	return 0;
}

static bool irq(void) { return pic_intr(pic) && pic_ack(pic) == 0x38; }

static void expect_time(u64 unix_seconds)
{
	time_t t = (time_t)unix_seconds;
	struct tm tm;

	gmtime_r(&t, &tm);
	assert_int_equal(rd(0), bcd((unsigned)tm.tm_sec));
	assert_int_equal(rd(2), bcd((unsigned)tm.tm_min));
	assert_int_equal(rd(4), bcd((unsigned)tm.tm_hour));
	assert_int_equal(rd(6), tm.tm_wday + 1);
	assert_int_equal(rd(7), bcd((unsigned)tm.tm_mday));
	assert_int_equal(rd(8), bcd((unsigned)tm.tm_mon + 1));
	assert_int_equal(rd(9), bcd((unsigned)tm.tm_year % 100));
	assert_int_equal(rd(0x32), bcd((unsigned)(tm.tm_year + 1900) / 100));
}

static void test_reads_host_time(void **unused)
{
	expect_time(1795314600);
	vdev_fake_run(vm, 90000 * HZ);
	expect_time(1795314600 + 90000);
}

/* The C library's calendar agrees over 130 years, every 9 days and some hours. */
static void test_calendar(void **unused)
{
	vdev_fake_free(vm);
	start_at(0);
	for (u64 t = 0; t < 4102444800ull; t += 777 * 1013) {
		vm->paused_tsc = t * HZ;
		expect_time(t);
	}
	for (u64 day = 11015; day < 11020; day++) { /* around 2000-02-29 */
		vm->paused_tsc = day * 86400 * HZ;
		expect_time(day * 86400);
	}
}

/* Linux mc146818_avoid_UIP(): UIP is set shortly before the second changes and only then. */
static void test_uip(void **unused)
{
	unsigned set = 0;
	u8 last = rd(0);

	for (unsigned i = 0; i < 20000; i++) {
		bool uip = rd(0x0a) & 0x80;
		u8 s = rd(0);

		if (s != last)
			assert_true(set > 0 && !uip); /* warned before, over now */
		last = s;
		set = uip ? set + 1 : 0;
		assert_true(set <= 23); /* 2,228 us */
		vdev_fake_run(vm, HZ / 10000);
	}
}

static void test_set_time_as_linux(void **unused)
{
	u8 b = rd(0x0b), a;

	vdev_fake_run(vm, HZ / 3);
	wr(0x0b, b | 0x80);
	a = rd(0x0a);
	wr(0x0a, a | 0x70); /* divider reset */
	wr(9, 0x30);
	wr(8, 0x12);
	wr(7, 0x31);
	wr(4, 0x23);
	wr(2, 0x59);
	wr(0, 0x58);
	wr(0x32, 0x20);
	vdev_fake_run(vm, 5 * HZ);
	assert_int_equal(rd(0), 0x58); /* stands still */
	wr(0x0b, b);
	wr(0x0a, a);
	vdev_fake_run(vm, HZ / 2 - HZ / 1000);
	assert_int_equal(rd(0), 0x58);
	vdev_fake_run(vm, HZ / 500);
	assert_int_equal(rd(0), 0x59); /* half a second after the divider was let go */
	vdev_fake_run(vm, HZ);
	expect_time(1924992000); /* 2031-01-01 00:00:00 */
}

static void test_set_without_stop(void **unused)
{
	wr(2, 0x45);
	assert_int_equal(rd(2), 0x45);
	vdev_fake_run(vm, 60 * HZ);
	assert_int_equal(rd(2), 0x46);
}

static void test_formats(void **unused)
{
	wr(4, 0x13);
	wr(0x0b, 0x00); /* 12 hours, BCD */
	assert_int_equal(rd(4), 0x81);
	wr(0x0b, 0x04); /* 12 hours, binary */
	wr(4, 0x80 | 11);
	wr(0x0b, 0x06);
	assert_int_equal(rd(4), 23);
	wr(4, 0);
	wr(0x0b, 0x00);
	assert_int_equal(rd(4), 0x12); /* midnight */
}

static void test_update_interrupt(void **unused)
{
	wr(0x0b, 0x12);
	for (unsigned i = 0; i < 10; i++) {
		vdev_fake_run(vm, HZ - HZ / 100);
		assert_false(irq());
		vdev_fake_run(vm, HZ / 100);
		assert_int_equal(rd(0), bcd(i + 1));
		vdev_fake_run(vm, 2);
		assert_true(irq());
		assert_int_equal(rd(0x0c) & ~0x40, 0x90); /* PF comes whether enabled or not */
		assert_int_equal(rd(0x0c), 0);
	}
	/* Not acknowledged: no further edge. */
	vdev_fake_run(vm, HZ);
	assert_true(irq());
	vdev_fake_run(vm, 5 * HZ);
	assert_false(irq());
}

static void test_flags_without_interrupt(void **unused)
{
	assert_int_equal(rtc->deadline, VDEV_NEVER); /* nobody waits: no timer */
	vdev_fake_run(vm, 2 * HZ);
	assert_int_equal(rd(0x0c) & 0x90, 0x10);
	vdev_fake_run(vm, HZ / 2);
	assert_int_equal(rd(0x0c) & 0x10, 0);
}

static void test_alarm(void **unused)
{
	wr(1, 0x10);
	wr(3, 0x31);
	wr(5, 0x02);
	wr(0x0b, 0x22);
	vdev_fake_run(vm, 70 * HZ - 1000);
	assert_false(irq());
	vdev_fake_run(vm, 2000);
	assert_true(irq());
	assert_int_equal(rd(0x0c) & 0xa0, 0xa0);
	vdev_fake_run(vm, 86400 * HZ - 2000);
	assert_false(irq());
	vdev_fake_run(vm, 2000);
	assert_true(irq()); /* next day again */
	rd(0x0c);
	wr(1, 0xff);
	wr(3, 0xff);
	wr(5, 0xff); /* every second */
	vdev_fake_run(vm, HZ);
	assert_true(irq());
	rd(0x0c);
	wr(1, 0x7e); /* never */
	vdev_fake_run(vm, 86400 * HZ);
	assert_false(irq());
}

static void test_periodic(void **unused)
{
	unsigned n = 0;

	wr(0x0a, 0x26);
	wr(0x0b, 0x42);
	for (unsigned i = 0; i < 100000; i++) {
		vdev_fake_run(vm, HZ / 100000);
		if (irq()) {
			n++;
			assert_int_equal(rd(0x0c) & 0xc0, 0xc0);
		}
	}
	assert_in_range(n, 1023, 1024); /* 1024 Hz for a second */
}

static void test_ram_and_reset(void **unused)
{
	assert_int_equal(rd(0x0d), 0x80);
	wr(0x0d, 0);
	wr(0x0c, 0xff);
	assert_int_equal(rd(0x0d), 0x80);
	wr(0x0f, 0x5a);
	wr(0x7f, 0xa5);
	wr(2, 0x10);
	wr(0x0b, 0x72);
	rtc_type.reset(rtc);
	assert_int_equal(rd(0x0f), 0x5a);
	assert_int_equal(rd(0x7f), 0xa5);
	assert_int_equal(rd(2), 0x10);
	assert_int_equal(rd(0x0b), 0x02);
	assert_int_equal(rd(0x8f), 0x5a); /* bit 7 is the NMI mask */
}

static void test_post_load(void **unused)
{
	u64 *s = vdev_fake_state(rtc), keep[4];

	wr(0x0b, 0x12);
	vdev_fake_run(vm, HZ / 4);
	memcpy(keep, s, sizeof(keep));
	rtc->deadline = VDEV_NEVER;
	assert_int_equal(rtc_type.mig.post_load(rtc, NULL), 0);
	assert_int_equal(rtc->deadline, HZ + 1);
	for (unsigned i = 0; i < 4; i++) {
		s[i] = ~0ull >> 1;
		assert_int_equal(rtc_type.mig.post_load(rtc, NULL), -E_INVAL);
		memcpy(s, keep, sizeof(keep));
	}
	s[1] = 0; /* seen before the guest existed */
	assert_int_equal(rtc_type.mig.post_load(rtc, NULL), -E_INVAL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_reads_host_time), T(test_calendar), T(test_uip), T(test_set_time_as_linux),
		T(test_set_without_stop), T(test_formats), T(test_update_interrupt), T(test_flags_without_interrupt),
		T(test_alarm), T(test_periodic), T(test_ram_and_reset), T(test_post_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
