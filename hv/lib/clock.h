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
/* Seconds since 1970 UTC (firmware clock at boot plus TSC). */
u64 wall_seconds(void);
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
