/* SPDX-License-Identifier: MIT */
/* The clock as Linux computes it (pvclock_clocksource_read) from the page in its memory. */
#include "hv/vm/kvmclock.h"
#include "hv/fake/fake.h"
#include "hv/lib/clock.h"
#include "hv/vm/cpuid.h"
#include "hv/vm/guest_mem.h"
#include "hv/vm/msr.h"
#include "hv/vm/vm_clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#define MIB (1ull << 20)
#define PAGE 0x5008ull
#define WALL 0x6000ull

static struct vm *vm;
static struct vcpu *v;

struct pvti { u32 version, pad0; u64 tsc, ns; u32 mul; signed char shift; u8 flags, pad[2]; } __attribute__((packed));
struct pvwall { u32 version, sec, nsec; };

static struct pvti page(u64 at)
{
	struct pvti p;

	assert_int_equal(guest_read(vm, gpa(at), &p, sizeof(p)), 0);
	assert_int_equal(p.version & 1, 0);
	return p;
}

/* What RDTSC gives the guest on that vCPU. */
static u64 rdtsc_of(struct vcpu *cpu) { return vm_tsc(vm) + cpu->s.tsc_adjust; }

static u64 ns_of(struct vcpu *cpu, u64 at)
{
	struct pvti p = page(at);
	u64 delta = rdtsc_of(cpu) - p.tsc;

	delta = p.shift < 0 ? delta >> -p.shift : delta << p.shift;
	return p.ns + (u64)((unsigned __int128)delta * p.mul >> 32);
}

static int setup(void **state)
{
	struct guest_config c = { .name = "k", .memory_bytes = 4 * MIB, .vcpus = 2 };
	struct error e = { 0 };

	fake_memory(64 * MIB);
	fake_wall_synced = false;
	fake_wall_shift_us = 0;
	vm = vm_create(&c, &e);
	assert_non_null(vm);
	v = vm->vcpus[0];
	vm_clock_start(vm);
	return 0;
}

static int teardown(void **state)
{
	vm_destroy(vm);
	return 0;
}

static void linux_finds_it(void **state)
{
	u32 f = cpuid_guest(vm, 0x40000001, 0, 0);

	assert_true(f & BIT(3) && f & BIT(24));
	assert_false(f & BIT(0)); /* the old MSRs are not there */
	assert_int_equal(cpuid_guest(vm, 0x80000007, 0, 3), 0);
}

static void nanoseconds_follow_the_tsc(void **state)
{
	static const u64 rates[] = { 1000000, 50000000, 100000000, 999999999, 1000000000, 1000000001, 2099998765, 3000000000,
		5000000000, 99999999999 };

	for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
		u64 want, got;

		vm_clock_stop(vm);
		vm->tsc_hz = rates[i];
		vm->paused_tsc = 0;
		assert_int_equal(msr_write(v, MSR_KVM_SYSTEM_TIME_NEW, PAGE | 1), 0);
		assert_true(page(PAGE).mul >> 31);
		for (u64 t = 1; t < 1ull << 61; t = t * 5 / 2 + 7) {
			vm->paused_tsc = t;
			if ((unsigned __int128)t * 1000000000 / rates[i] >> 63 || t >> 56)
				break;
			want = (u64)((unsigned __int128)t * 1000000000 / rates[i]);
			got = ns_of(v, PAGE);
			/* The factor has 31 bits of precision; below that, a tick. */
			if (got > want + 1 || want - got > want / (1ull << 30) + 1000000000 / rates[i] + 2)
				fail_msg("%llu ticks of %llu Hz: %llu ns, not %llu", (unsigned long long)t,
					 (unsigned long long)rates[i], (unsigned long long)got, (unsigned long long)want);
		}
	}
}

static void version_goes_up_by_two(void **state)
{
	struct pvti p = { .version = 7, .flags = 0xff };
	u64 val;

	assert_int_equal(guest_write(vm, gpa(PAGE), &p, sizeof(p)), 0);
	assert_int_equal(msr_write(v, MSR_KVM_SYSTEM_TIME_NEW, PAGE | 1), 0);
	p = page(PAGE);
	assert_int_equal(p.version, 10); /* odd while it was written: 9 */
	assert_int_equal(p.flags, 1);    /* stable; what was junk is gone */
	assert_int_equal(msr_read(v, MSR_KVM_SYSTEM_TIME_NEW, &val), 0);
	assert_int_equal(val, PAGE | 1);
	assert_int_equal(msr_write(v, MSR_KVM_SYSTEM_TIME_NEW, 0), 0);
	kvmclock_was_stopped(vm);
	assert_int_equal(page(PAGE).version, 10); /* switched off: not ours any more */
}

/* IA32_TSC_ADJUST moves the guest's TSC, but not the time; and the kernel must not trust that all TSCs are equal. */
static void time_stands_while_the_tsc_moves(void **state)
{
	u64 before;

	assert_int_equal(msr_write(v, MSR_KVM_SYSTEM_TIME_NEW, PAGE | 1), 0);
	assert_int_equal(msr_write(vm->vcpus[1], MSR_KVM_SYSTEM_TIME_NEW, (PAGE + 64) | 1), 0);
	before = ns_of(v, PAGE);
	assert_int_equal(msr_write(v, 0x3b, (u64)-5000), 0);
	assert_int_equal(ns_of(v, PAGE), before);
	assert_int_equal(ns_of(vm->vcpus[1], PAGE + 64), before);
	assert_int_equal(page(PAGE).flags, 0);
	assert_int_equal(page(PAGE + 64).flags, 0);
	assert_int_equal(msr_write(v, 0x10, 1ull << 40), 0);
	assert_int_equal(ns_of(v, PAGE), before);
	assert_int_equal(msr_write(v, 0x3b, 0), 0);
	assert_int_equal(page(PAGE).flags, 1);
	assert_int_equal(page(PAGE + 64).flags, 1);
}

static void wall_clock_is_the_hosts(void **state)
{
	struct pvwall w = { .version = 4 };
	u64 now;

	assert_int_equal(guest_write(vm, gpa(WALL), &w, sizeof(w)), 0);
	fake_tsc_now += 12345678900;
	fake_wall_shift_us = 123456;
	assert_int_equal(msr_write(v, MSR_KVM_SYSTEM_TIME_NEW, PAGE | 1), 0);
	assert_int_equal(msr_write(v, MSR_KVM_WALL_CLOCK_NEW, WALL), 0);
	assert_int_equal(guest_read(vm, gpa(WALL), &w, sizeof(w)), 0);
	assert_int_equal(w.version, 6);
	now = w.sec * 1000000000ull + w.nsec + ns_of(v, PAGE);
	assert_true(wall_us() * 1000 - now + 1000 < 2000);
}

static void bad_addresses_do_no_harm(void **state)
{
	static const u64 bad[] = { ~0ull, ~0ull & ~31ull, 4 * MIB | 1, (4 * MIB - 16) | 1, 1ull << 52 | 1, 0xfee00000 | 1 };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(msr_write(v, MSR_KVM_SYSTEM_TIME_NEW, bad[i]), 0);
		assert_int_equal(msr_write(v, MSR_KVM_WALL_CLOCK_NEW, bad[i]), 0);
		kvmclock_was_stopped(vm);
		kvmclock_tsc_moved(vm);
	}
}

static void reset_forgets_it(void **state)
{
	assert_int_equal(msr_write(v, MSR_KVM_SYSTEM_TIME_NEW, PAGE | 1), 0);
	assert_int_equal(msr_write(v, MSR_KVM_WALL_CLOCK_NEW, WALL), 0);
	vcpu_reset(v);
	assert_int_equal(vm->kvmclock.system_time[0] | vm->kvmclock.wall_clock, 0);
}

#define DAY_US (86400 * 1000000ull)

/* A move, as far as the clock goes: stopped there, loaded and set forward here. */
static u64 move(u64 frozen_us, s64 other_clock_us)
{
	struct vm_clock_state s;
	struct error e = { 0 };
	u64 done;

	vm_clock_stop(vm);
	vm_clock_save(vm, &s);
	fake_tsc_now += frozen_us * (FAKE_TSC_HZ / 1000000);
	assert_int_equal(vm_clock_load(vm, &s, &e), 0);
	fake_wall_shift_us += other_clock_us;
	done = vm_clock_catch_up(vm, vm->stopped_wall_us);
	vm_clock_start(vm);
	return done;
}

static void a_freeze_is_made_up_for(void **state)
{
	u64 before, ns;

	assert_int_equal(msr_write(v, MSR_KVM_SYSTEM_TIME_NEW, PAGE | 1), 0);
	before = rdtsc_of(v);
	ns = ns_of(v, PAGE);
	/* Nobody vouches for the clocks: it stands still in the freeze. */
	assert_int_equal(move(40000, 0), 0);
	assert_int_equal(rdtsc_of(v), before);
	assert_int_equal(page(PAGE).flags, 1);
	fake_wall_synced = true;
	assert_int_equal(move(40000, 25), 40025);
	assert_int_equal(ns_of(v, PAGE), ns + 40025000);
	assert_int_equal(rdtsc_of(v), before + 40025000);
	assert_int_equal(page(PAGE).flags, 3); /* and the kernel is told */
	/* Believable or not: a target behind by more than the freeze, and an absurd one. */
	assert_int_equal(move(40000, -50000), 0);
	assert_int_equal(move(9999000, 0), 9999000);
	assert_int_equal(move(3 * DAY_US, 0), 3 * DAY_US); /* nobody was there on the weekend to tell how its move ended */
	assert_int_equal(move(31 * DAY_US, 0), 0);
	assert_int_equal(move(40000, -3600000000ll), 0);
	assert_true(rdtsc_of(v) >= before);
	/* The source did not know. */
	vm_clock_stop(vm);
	assert_int_equal(vm_clock_catch_up(vm, 0), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(linux_finds_it), TEST(nanoseconds_follow_the_tsc), TEST(version_goes_up_by_two),
		TEST(time_stands_while_the_tsc_moves), TEST(wall_clock_is_the_hosts), TEST(bad_addresses_do_no_harm),
		TEST(reset_forgets_it), TEST(a_freeze_is_made_up_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
