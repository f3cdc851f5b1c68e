/* SPDX-License-Identifier: MIT */
#include "hv/arch/tsc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

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
		cmocka_unit_test(adjust_explains_what_it_can),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
