/* SPDX-License-Identifier: MIT */
/* How fast the TSC runs, and whether two CPUs' agree. */
#pragma once
#include "hv/lib/types.h"

/* TSC frequency in Hz, from the ACPI PM timer and CPUID leaf 15H; takes about 20 ms. Needs acpi_init(). */
u64 tsc_calibrate(void);

/* By how many ticks another CPU's TSC is ahead of this one's: bounds of that. */
struct tsc_gap { s64 least, most; };
#define TSC_GAP_UNKNOWN ((struct tsc_gap){ -0x7fffffffffffffffll, 0x7fffffffffffffffll })

/* Learns from one exchange: the other CPU read its TSC after this one had read `sent` and before it read `back`. */
static inline void tsc_gap_narrow(struct tsc_gap *g, u64 sent, u64 there, u64 back)
{
	g->least = MAX(g->least, (s64)(there - back));
	g->most = MIN(g->most, (s64)(there - sent));
}

/* Whether nobody who passes messages between the two can see a difference: no message ever comes before it was sent. */
static inline bool tsc_gap_none(const struct tsc_gap *g)
{
	return g->least <= 0 && g->most >= 0;
}

/* Whether giving the other CPU this one's IA32_TSC_ADJUST closes the gap. */
static inline bool tsc_gap_adjusts(const struct tsc_gap *g, u64 ours, u64 theirs)
{
	s64 by = (s64)(theirs - ours);

	return by && by >= g->least && by <= g->most;
}
