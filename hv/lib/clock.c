/* SPDX-License-Identifier: MIT */
#include "hv/lib/clock.h"
#include "hv/arch/x86.h"
#include "hv/lib/err.h"
#include "hv/lib/spinlock.h"
#include "hv/lib/wall.h"

static u64 hz, start, us_per_tick_64; /* microseconds per tick, 64 fraction bits */
static struct spinlock wall_lock; /* wall, synced: set by the service CPU, read by all */
static struct wall wall;
static bool synced;

void clock_init(u64 tsc_hz, u64 tsc_at_start, u64 wall_at_start, u64 tsc_at_wall)
{
	BUG_ON(tsc_hz <= 1000000);
	hz = tsc_hz;
	start = tsc_at_start;
	us_per_tick_64 = ((unsigned __int128)1000000 << 64) / tsc_hz;
	wall.base_us = wall_at_start * 1000000;
	wall.at_us = (unsigned __int128)(tsc_at_wall - start) * us_per_tick_64 >> 64;
}

u64 host_tsc(void) { return rdtsc(); }
u64 host_tsc_hz(void) { return hz; }

u64 now_us(void)
{
	/* Before clock_init() the factor is 0, and so is the time. */
	return (unsigned __int128)(rdtsc() - start) * us_per_tick_64 >> 64;
}

u64 wall_us(void)
{
	u64 us;

	spin_lock(&wall_lock);
	us = wall_at(&wall, now_us());
	spin_unlock(&wall_lock);
	return us;
}

u64 wall_seconds(void)
{
	return wall_us() / 1000000;
}

bool wall_synced(void)
{
	return __atomic_load_n(&synced, __ATOMIC_RELAXED);
}

void wall_discipline(s64 step_us, s64 slew_us, s64 rate_ppb)
{
	spin_lock(&wall_lock);
	wall_change(&wall, now_us(), step_us, slew_us, rate_ppb);
	spin_unlock(&wall_lock);
}

void wall_set_synced(bool yes)
{
	__atomic_store_n(&synced, yes, __ATOMIC_RELAXED);
}
