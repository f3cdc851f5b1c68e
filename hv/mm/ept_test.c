/* SPDX-License-Identifier: MIT */
#include "hv/mm/ept.h"
#include "hv/fake/fake.h"
#include "hv/mm/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <stdint.h>
#include <cmocka.h>

#define D BIT(9)
#define A BIT(8)

/* What the CPU does on a guest write: A on the way down, A and D on the leaf. */
static void touch(struct ept *e, u64 at, bool write)
{
	u64 *t = e->root;

	for (int shift = 39;; shift -= 9) {
		u64 *entry = &t[at >> shift & 511];

		assert_true(*entry & 7);
		*entry |= A;
		if (shift == 12 || (*entry & BIT(7))) {
			*entry |= write ? D : 0;
			return;
		}
		t = hpa_ptr(hpa(*entry & 0x000ffffffffff000ull));
	}
}

static u64 leaf(struct ept *e, u64 at)
{
	u64 entry = e->root[at >> 39 & 511];

	for (int shift = 30; shift >= 12 && !(entry & BIT(7)); shift -= 9)
		entry = ((u64 *)hpa_ptr(hpa(entry & 0x000ffffffffff000ull)))[at >> shift & 511];
	return entry;
}

static void map_and_lookup(void **state)
{
	struct ept e;
	struct frame_stats before = frame_stats();

	assert_int_equal(ept_init(&e), 0);
	assert_int_equal(ept_map_2m(&e, gpa(0), hpa(0x40000000)), 0);
	assert_int_equal(ept_map_2m(&e, gpa(4ull << 30), hpa(0x80000000)), 0);
	assert_int_equal(ept_map_2m(&e, gpa(0), hpa(0x40000000)), -E_EXIST);
	assert_int_equal(ept_lookup(&e, gpa(0x1234)).v, 0x40001000);
	assert_int_equal(ept_lookup(&e, gpa((4ull << 30) + 0x1ff000)).v, 0x801ff000);
	assert_int_equal(ept_lookup(&e, gpa(0x200000)).v, 0);
	assert_int_equal(leaf(&e, 0) & 0xff, 7 | 6 << 3 | BIT(6) | BIT(7)); /* write-back, whatever the guest's PAT says */
	assert_int_equal(ept_pointer(&e) & 0xfff, 6 | 3 << 3 | 1 << 6);
	assert_int_equal(ept_split_all(&e), 0);
	assert_int_equal(leaf(&e, 0x1000) & 0xff, 7 | 6 << 3 | BIT(6));
	assert_int_equal(ept_lookup(&e, gpa(0x1234)).v, 0x40001000);
	ept_join_all(&e);
	assert_int_equal(ept_lookup(&e, gpa(0x1ff000)).v, 0x401ff000);
	ept_destroy(&e);
	assert_int_equal(frame_stats().free, before.free);
}

static void harvest(void **state)
{
	struct ept e;
	u64 bitmap[2 * 8] = { 0 };

	assert_int_equal(ept_init(&e), 0);
	assert_int_equal(ept_map_2m(&e, gpa(0), hpa(0x40000000)), 0);
	assert_int_equal(ept_map_2m(&e, gpa(PAGE_2M), hpa(0x40200000)), 0);
	/* A dirty 2 MiB leaf is 512 dirty pages, before and right after the split. */
	touch(&e, 0x5000, true);
	assert_int_equal(ept_split_all(&e), 0);
	assert_int_equal(ept_harvest_dirty(&e, bitmap), 512);
	assert_int_equal(bitmap[7], ~0ull);
	assert_int_equal(bitmap[8], 0);
	assert_int_equal(ept_harvest_dirty(&e, bitmap), 0);
	/* Each write once; reads never; a second harvest is empty; a write after it is seen again. */
	memset(bitmap, 0, sizeof(bitmap));
	touch(&e, 0x7000, true);
	touch(&e, 0x8000, false);
	touch(&e, PAGE_2M + 0x1ff000, true);
	assert_int_equal(ept_harvest_dirty(&e, bitmap), 2);
	assert_int_equal(bitmap[0], BIT(7));
	assert_int_equal(bitmap[15], BIT(63));
	assert_int_equal(ept_harvest_dirty(&e, bitmap), 0);
	touch(&e, 0x7000, true);
	assert_int_equal(ept_harvest_dirty(&e, bitmap), 1);
	/* Joining keeps D: what was written between the last harvest and the join is not forgotten. */
	touch(&e, 0x9000, true);
	ept_join_all(&e);
	memset(bitmap, 0, sizeof(bitmap));
	assert_int_equal(ept_harvest_dirty(&e, bitmap), 512);
	ept_destroy(&e);
}

static void hidden_pieces_are_split_and_joined_like_others(void **state)
{
	struct frame_stats before = frame_stats(), during;
	u64 bitmap[2 * 8] = { 0 };
	struct ept e;

	assert_int_equal(ept_init(&e), 0);
	assert_int_equal(ept_map_2m(&e, gpa(0), hpa(0x40000000)), 0);
	assert_int_equal(ept_map_2m(&e, gpa(PAGE_2M), hpa(0x40200000)), 0);
	touch(&e, 0x5000, true);
	ept_hide_2m(&e, gpa(0));
	ept_hide_2m(&e, gpa(PAGE_2M));
	assert_int_equal(ept_lookup(&e, gpa(0x1234)).v, 0);
	assert_int_equal(ept_split_all(&e), 0);
	assert_int_equal(ept_lookup(&e, gpa(0x1234)).v, 0);
	assert_int_equal(ept_harvest_dirty(&e, bitmap), 0); /* what it was before it was hidden is forgotten */
	/* Shown on another CPU, which must not take memory, and while others write there: in small pages at once. */
	during = frame_stats();
	ept_show_2m(&e, gpa(0));
	assert_int_equal(frame_stats().free, during.free);
	assert_int_equal(leaf(&e, 0x1000) & 0x3ff, 7 | 6 << 3 | BIT(6));
	assert_int_equal(ept_lookup(&e, gpa(0x1234)).v, 0x40001000);
	assert_int_equal(ept_harvest_dirty(&e, bitmap), 0);
	touch(&e, 0x7000, true);
	assert_int_equal(ept_harvest_dirty(&e, bitmap), 1);
	assert_int_equal(bitmap[0], BIT(7));
	/* The other one is still hidden after it is joined. */
	ept_join_all(&e);
	assert_int_equal(ept_lookup(&e, gpa(0x1234)).v, 0x40001000);
	assert_int_equal(ept_lookup(&e, gpa(PAGE_2M)).v, 0);
	ept_show_2m(&e, gpa(PAGE_2M));
	assert_int_equal(ept_lookup(&e, gpa(PAGE_2M + 0x1234)).v, 0x40201000);
	assert_int_equal(ept_split_all(&e), 0);
	ept_destroy(&e);
	assert_int_equal(frame_stats().free, before.free);
}

static int setup(void **state)
{
	fake_memory(64ull << 20);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(map_and_lookup), cmocka_unit_test(harvest),
		cmocka_unit_test(hidden_pieces_are_split_and_joined_like_others) };

	return cmocka_run_group_tests(tests, setup, NULL);
}
