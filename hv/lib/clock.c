/* SPDX-License-Identifier: MIT */
#include "hv/lib/clock.h"
#include "hv/arch/x86.h"
#include "hv/lib/err.h"

static u64 hz, start, us_per_tick_64; /* microseconds per tick, 64 fraction bits */
static u64 wall_at, wall_tsc;

void clock_init(u64 tsc_hz, u64 tsc_at_start, u64 wall, u64 tsc_at_wall)
{
	BUG_ON(tsc_hz <= 1000000);
	hz = tsc_hz;
	start = tsc_at_start;
	us_per_tick_64 = ((unsigned __int128)1000000 << 64) / tsc_hz;
	wall_at = wall;
	wall_tsc = tsc_at_wall;
}

u64 host_tsc(void) { return rdtsc(); }
u64 host_tsc_hz(void) { return hz; }

u64 now_us(void)
{
	/* Before clock_init() the factor is 0, and so is the time. */
	return (unsigned __int128)(rdtsc() - start) * us_per_tick_64 >> 64;
}

u64 wall_seconds(void)
{
	return hz ? wall_at + (rdtsc() - wall_tsc) / hz : wall_at;
}
