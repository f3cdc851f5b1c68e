/* SPDX-License-Identifier: MIT */
/*
 * dirty: rewrites mb=N MiB (8) of RAM round and round, each page checked against what was last
 * written before it is written again, and prints
 *	DIRTY seq=N sweeps=N tsc=N chk=OK
 * every period-ms=N (100). rate=N limits it to N MiB/s, halting in between (0: as fast as it can).
 * A constant area of const-mb=N (4) is checked round and round as well. seqs=N ends it (0: never).
 * Also checked: the TSC and the PM timer never go back.
 */
#include "guest.h"

#define MAX_PAGES (64 * 256)

static u64 page_at[MAX_PAGES];
static u32 generation[MAX_PAGES];
static u32 found, want;
static u64 bad, bad_page;

static void collect(u64 start, u64 end)
{
	for (u64 p = start; p < end && found < want; p += PAGE_SIZE)
		page_at[found++] = p;
}

static u64 key(u32 i)
{
	return mix64((u64)generation[i] << 32 ^ page_at[i]);
}

static void verify(u32 i)
{
	int word = pattern_check(page_at[i], key(i));

	if (word >= 0 && !bad++) {
		bad_page = page_at[i];
		printf("DIRTY BAD page 0x%lx word %d\n", bad_page, word);
	}
}

static void timer_irq(struct regs *r)
{
	(void)r;
	apic_eoi();
}

/* The PM timer may have 24 bits: a step of more than half its range is a step back. */
static bool went_back(u64 tsc, u64 last_tsc, u32 pm, u32 last_pm)
{
	return tsc < last_tsc || ((pm - last_pm) & 0xffffff) > 0x800000;
}

int main(void)
{
	u64 rate = arg_u64("rate", 0), period = arg_u64("period-ms", 100) * tsc_khz();
	u64 seqs = arg_u64("seqs", 0), seq = 0, sweeps = 0, done = 0, backs = 0;
	u64 begin, next, last = rdtsc();
	u32 set, last_pm = pm_timer_read(), i = 0, c;
	bool hlt = rate;

	pattern_init();
	set = arg_u64("mb", 8) * 256;
	want = set + arg_u64("const-mb", 4) * 256;
	if (want > MAX_PAGES)
		want = MAX_PAGES;
	for_each_free_ram(collect);
	if (!CHECK("dirty.room", found == want && set && set <= want, "%u pages free", found))
		return 0;
	for (u32 k = 0; k < found; k++)
		pattern_write(page_at[k], key(k));
	printf("DIRTY start mib=%u const-mib=%u rate=%lu tsc-khz=%lu\n", set / 256,
	       (found - set) / 256, rate, tsc_khz());
	if (hlt) {
		/* A tick about every millisecond, so that HLT ends. */
		u32 ticks;

		apic_enable(false);
		intr_set(0x40, timer_irq);
		apic_write(APIC_TIMER_DIVIDE, 0xb);
		apic_write(APIC_TIMER_INITIAL, ~0u);
		delay_us(1000);
		ticks = ~0u - apic_read(APIC_TIMER_CURRENT);
		apic_write(APIC_LVT_TIMER, 0x40 | APIC_PERIODIC);
		apic_write(APIC_TIMER_INITIAL, ticks);
	}
	begin = last = rdtsc();
	next = begin + period;
	c = set;
	while (!seqs || seq < seqs) {
		u64 now = rdtsc();
		u32 pm;

		if (!rate || done * 1000 * tsc_khz() < (now - begin) * rate * 256) {
			verify(i);
			generation[i]++;
			pattern_write(page_at[i], key(i));
			done++;
			if (++i == set) {
				i = 0;
				sweeps++;
			}
			if (found > set && done % 4 == 0) {
				verify(c);
				c = c + 1 < found ? c + 1 : set;
			}
		} else {
			wait_interrupt();
		}
		if (now < next && now >= last) {
			last = now;
			continue;
		}
		pm = pm_timer_read();
		if (now < last || went_back(now, last, pm, last_pm)) {
			backs++;
			printf("DIRTY BAD time tsc %lu after %lu, pm %u after %u\n", now, last, pm,
			       last_pm);
		}
		last = now;
		last_pm = pm;
		next += period;
		if (next < now)
			next = now + period;
		printf("DIRTY seq=%lu sweeps=%lu tsc=%lu chk=%s\n", ++seq, sweeps, now,
		       bad || backs ? "BAD" : "OK");
	}
	CHECK("dirty.pattern", !bad, "%lu pages, first 0x%lx", bad, bad_page);
	CHECK("dirty.time", !backs, "%lu times", backs);
	return 0;
}
