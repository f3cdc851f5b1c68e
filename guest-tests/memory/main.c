/* SPDX-License-Identifier: MIT */
/*
 * memory: all free RAM above 2 MiB holds what was written to it. Each pass fills it with a new
 * pattern and verifies it twice. Arguments: passes=N (2; 0 is for ever), mb=N (use no more).
 */
#include "guest.h"

static struct {
	u64 pass, left, pages, bad, bad_page;
	int bad_word;
	bool verify;
} run;

static u64 key(u64 page)
{
	return mix64(run.pass << 40 ^ page);
}

static void piece(u64 start, u64 end)
{
	for (u64 p = start; p < end && run.left; p += PAGE_SIZE, run.left--) {
		int word;

		run.pages++;
		if (!run.verify) {
			pattern_write(p, key(p));
			continue;
		}
		word = pattern_check(p, key(p));
		if (word >= 0 && !run.bad++) {
			run.bad_page = p;
			run.bad_word = word;
		}
	}
}

static u64 sweep(bool verify)
{
	run.verify = verify;
	run.pages = 0;
	run.left = arg_u64("mb", 1 << 20) * 256;
	for_each_free_ram(piece);
	return run.pages;
}

int main(void)
{
	u64 passes = arg_u64("passes", 2), pages = 0;

	pattern_init();
	for (run.pass = 1; !passes || run.pass <= passes; run.pass++) {
		sweep(false);
		sweep(true);
		pages = sweep(true);
		printf("MEMORY pass=%lu mib=%lu bad=%lu tsc=%lu\n", run.pass, pages / 256, run.bad,
		       rdtsc());
		if (run.bad)
			break;
	}
	CHECK("memory.size", pages > 0, "no RAM above 2 MiB in the map");
	CHECK("memory.pattern", !run.bad, "%lu pages, first 0x%lx word %d", run.bad, run.bad_page,
	      run.bad_word);
	return 0;
}
