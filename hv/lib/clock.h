/* SPDX-License-Identifier: MIT */
/* Host time. */
#pragma once
#include "hv/lib/types.h"

/* Microseconds since the hypervisor started; monotonic. */
u64 now_us(void);
/* Host TSC now. */
u64 host_tsc(void);
/* Host TSC frequency in Hz; constant after start. */
u64 host_tsc_hz(void);
/* UTC since 1970: the firmware's clock at boot plus TSC, set right by time servers (net/time.c) if there are any. */
u64 wall_us(void);
u64 wall_seconds(void);
/* Whether time servers vouch for it, or have until lately. */
bool wall_synced(void);
void wall_set_synced(bool yes);
/* Corrects it: a step, then a slew at no more than WALL_SLEW_PPM (replaces an earlier one), at a rate that differs from the
 * TSC's by rate_ppb. On the service CPU. */
void wall_discipline(s64 step_us, s64 slew_us, s64 rate_ppb);
/* Once, at start: TSC frequency in Hz, TSC value that is time 0, wall-clock seconds at TSC tsc_at_wall. */
void clock_init(u64 tsc_hz, u64 tsc_at_start, u64 wall, u64 tsc_at_wall);
/* a * b / c without overflow of the product; c != 0 and the quotient must fit 64 bits. */
static inline u64 muldiv64(u64 a, u64 b, u64 c)
{
	u64 q, hi, lo;
	__asm__("mulq %3" : "=a"(lo), "=d"(hi) : "a"(a), "rm"(b) : "cc");
	__asm__("divq %4" : "=a"(q), "=d"(hi) : "a"(lo), "d"(hi), "rm"(c) : "cc");
	return q;
}
