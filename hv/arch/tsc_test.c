/* SPDX-License-Identifier: MIT */
#include "hv/arch/x86.h"

/* A machine whose TSC runs at 1 GHz, with a PM timer of 24 bits. One in so many reads of it ends in an SMI of 200 us. */
static u64 machine_tsc;
static unsigned machine_seed, machine_smi_every;
static bool machine_timer_stands;

static u32 machine_inl(u16 port)
{
	u32 count;

	machine_tsc += 500;
	count = machine_timer_stands ? 77 : machine_tsc * 3579545 / 1000000000 & 0xffffff;
	machine_tsc += 500;
	machine_seed = machine_seed * 1103515245 + 12345;
	if (machine_smi_every && (machine_seed >> 8) % machine_smi_every == 0)
		machine_tsc += 200000;
	return count;
}

static struct cpuid_regs machine_cpuid(u32 leaf, u32 sub) { return (struct cpuid_regs){ 0 }; }
static u8 machine_inb(u16 port) { return 0x20; }
static void machine_outb(u16 port, u8 v) { }
#define rdtsc_ordered() machine_tsc
#define inl machine_inl
#define inb machine_inb
#define outb machine_outb
#define cpuid machine_cpuid
#include "hv/arch/tsc.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

const struct acpi_facts *acpi_facts(void)
{
	static const struct acpi_facts facts = { .pm_timer_port = 0x608 };

	return &facts;
}

static void smis_do_not_spoil_the_calibration(void **state)
{
	/* 20 ms of a timer that counts every 279 ns: 28 ppm. */
	for (machine_smi_every = 0; machine_smi_every < 100; machine_smi_every += 10)
		for (int i = 0; i < 20; i++)
			assert_in_range(tsc_calibrate(), 999970000, 1000030000);
}

static void a_machine_without_timers_boots(void **state)
{
	machine_timer_stands = true;
	assert_int_equal(tsc_calibrate(), 2000000000); /* as the log says: a guess */
	machine_timer_stands = false;
}

/* Exchanges with a CPU that is `ahead` ticks ahead; a message takes 100 to 900 ticks, more one way than the other. */
static struct tsc_gap measure(s64 ahead, u64 start)
{
	struct tsc_gap g = TSC_GAP_UNKNOWN;
	u64 now = start;

	for (u64 i = 0; i < 50; i++) {
		u64 there = 100 + i * 37 % 800, back = 100 + i * 11 % 300;

		tsc_gap_narrow(&g, now, now + there + (u64)ahead, now + there + back);
		now += 5000;
	}
	return g;
}

static void equal_ones_are_equal(void **state)
{
	struct tsc_gap g = measure(0, 1000);

	assert_true(tsc_gap_none(&g));
	assert_in_range(g.most - g.least, 200, 1200);
	g = measure(0, ~0ull - 60000); /* across the end of the number range */
	assert_true(tsc_gap_none(&g));
	g = TSC_GAP_UNKNOWN;
	assert_true(tsc_gap_none(&g));
}

static void a_difference_is_bounded(void **state)
{
	static const s64 cases[] = { 5000, -5000, 1000, -1000, 1ll << 40, -(1ll << 40), 1ll << 61, -(1ll << 61) };

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct tsc_gap g = measure(cases[i], 123456789);

		assert_false(tsc_gap_none(&g));
		assert_true(g.least <= cases[i] && g.most >= cases[i]);
		assert_true(g.most - g.least <= 1200);
	}
}

static void adjust_explains_what_it_can(void **state)
{
	struct tsc_gap g = measure(70000, 1);

	assert_true(tsc_gap_adjusts(&g, 500, 70500));
	assert_true(tsc_gap_adjusts(&g, (u64)-70000ll, 0));
	assert_false(tsc_gap_adjusts(&g, 500, 500));
	assert_false(tsc_gap_adjusts(&g, 70500, 500)); /* the wrong way round */
	assert_false(tsc_gap_adjusts(&g, 0, 90000));
	g = measure(-70000, 1);
	assert_true(tsc_gap_adjusts(&g, 0, (u64)-70000ll));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_ones_are_equal), cmocka_unit_test(a_difference_is_bounded),
		cmocka_unit_test(adjust_explains_what_it_can), cmocka_unit_test(smis_do_not_spoil_the_calibration),
		cmocka_unit_test(a_machine_without_timers_boots),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
