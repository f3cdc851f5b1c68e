/* SPDX-License-Identifier: MIT */
/* Arithmetic of the wall clock: UTC as a function of the monotonic clock, with what time servers taught us worked in; dates. */
#pragma once
#include "hv/lib/types.h"

#define WALL_SLEW_PPM 500 /* as NTP's daemons do: no program notices */
#define WALL_RATE_MAX_PPB 500000
#define WALL_EPOCH_DAYS 719528ull /* wall_days(1970, 1, 1) */

/* Days from 0000-01-01 to a date (proleptic Gregorian): month 1...12, day 1...31. */
static inline u64 wall_days(u64 year, u64 month, u64 day)
{
	/* Counting from March puts the leap day at the end of the year; 400 years more keep January of year 0 positive. */
	u64 y = year + 400 - (month <= 2), m = (month + 9) % 12;

	return 365 * y + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 146037;
}

struct wall {
	u64 base_us;  /* microseconds since 1970 UTC at at_us */
	u64 at_us;    /* monotonic microseconds */
	s64 rate_ppb; /* how much faster than the monotonic clock it runs */
	s64 slew_us;  /* offset still to be worked in from at_us on, at WALL_SLEW_PPM */
};

/* What of the slew is worked in us microseconds after at_us. */
static inline s64 wall_slewed(const struct wall *w, u64 us)
{
	s64 most = (s64)MIN(us / (1000000 / WALL_SLEW_PPM), 1ull << 62);

	return MAX(MIN(w->slew_us, most), -most);
}

/* UTC at a monotonic time not before at_us. */
static inline u64 wall_at(const struct wall *w, u64 now)
{
	u64 us = now - w->at_us;

	return w->base_us + us + (u64)((__int128)us * w->rate_ppb / 1000000000) + (u64)wall_slewed(w, us);
}

/* From now on: steps, then slews what slew_us says (what was left of an earlier slew is dropped), at that rate. */
static inline void wall_change(struct wall *w, u64 now, s64 step_us, s64 slew_us, s64 rate_ppb)
{
	w->base_us = wall_at(w, now) + (u64)step_us;
	w->at_us = now;
	w->slew_us = slew_us;
	w->rate_ppb = MAX(MIN(rate_ppb, WALL_RATE_MAX_PPB), -WALL_RATE_MAX_PPB);
}
