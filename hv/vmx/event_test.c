/* SPDX-License-Identifier: MIT */
#include "hv/vmx/event.h"
#include "hv/vmx/vmx.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#define EXC(v) ((u32)INTR_VALID | INTR_HW_EXCEPTION << 8 | (v))
#define ERR ((u32)INTR_ERROR_CODE)

static void reinject(void **state)
{
	struct event ev = event_reinject(0x300 | 14, 5, 3);

	assert_int_equal(ev.info, 0); /* not valid: nothing was being delivered */
	ev = event_reinject(EXC(14) | ERR | (u32)BIT(12), 5, 3);
	assert_int_equal(ev.info, EXC(14) | ERR); /* bit 12 is undefined there and reserved here */
	assert_int_equal(ev.error, 5);
	assert_int_equal(ev.len, 0);
	ev = event_reinject((u32)INTR_VALID | INTR_SOFT_INT << 8 | 0x80, 99, 2);
	assert_int_equal(ev.len, 2);
	assert_int_equal(ev.error, 0);
	ev = event_reinject((u32)INTR_VALID | INTR_SW_EXCEPTION << 8 | 3, 0, 1);
	assert_int_equal(ev.len, 1);
	ev = event_reinject((u32)INTR_VALID | 0x41, 0, 7);
	assert_int_equal(ev.info, (u32)INTR_VALID | 0x41);
	assert_int_equal(ev.len, 0);
}

static void double_faults(void **state)
{
	/* SDM table "Conditions for Generating a Double Fault". */
	static const struct { u8 first, second; enum { BOTH, DF, TRIPLE } want; } cases[] = {
		{ 3, 13, BOTH }, { 13, 3, BOTH }, { 13, 14, BOTH }, { 13, 13, DF }, { 0, 11, DF }, { 10, 12, DF },
		{ 14, 14, DF }, { 14, 13, DF }, { 14, 6, BOTH }, { 8, 13, TRIPLE }, { 8, 14, TRIPLE }, { 6, 14, BOTH },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		bool triple;
		struct event first = { EXC(cases[i].first) | ERR, 0, 0 };
		struct event ev = event_exception(first, cases[i].second, true, 77, &triple);

		assert_int_equal(triple, cases[i].want == TRIPLE);
		if (cases[i].want == DF) {
			assert_int_equal(ev.info, EXC(8) | ERR);
			assert_int_equal(ev.error, 0);
		} else if (cases[i].want == BOTH) {
			assert_int_equal(ev.info, EXC(cases[i].second) | ERR);
			assert_int_equal(ev.error, 77);
		}
	}
	bool triple;
	struct event irq = { (u32)INTR_VALID | 0x30, 0, 0 };

	assert_int_equal(event_exception(irq, 13, true, 1, &triple).info, EXC(13) | ERR);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(reinject), cmocka_unit_test(double_faults) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
