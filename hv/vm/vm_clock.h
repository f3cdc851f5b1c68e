/* SPDX-License-Identifier: MIT */
/* The guest's clock is its TSC: it stands still while the guest is paused and never runs backwards. KVM's clock, the timers
 * and the RTC all follow it. A move costs the freeze, or nothing where vm_clock_catch_up() can work. */
#pragma once
#include "hv/lib/clock.h"
#include "hv/vm/vm.h"

#define TSC_MULT_ONE BIT(48)

/* (tsc * mult) >> 48, as the CPU's TSC multiplier does (SDM "Time-Stamp Counter Offsetting and Scaling"). */
static inline u64 vm_clock_scale(u64 tsc, u64 mult)
{
	return mult == TSC_MULT_ONE ? tsc : (u64)((unsigned __int128)tsc * mult >> 48);
}

/* Guest TSC of a running guest at a given host TSC: vm_tsc() without reading the TSC again. */
static inline u64 vm_tsc_at(const struct vm *vm, u64 host)
{
	return vm_clock_scale(host, vm->tsc_mult) + vm->tsc_offset;
}
/* Host TSC ticks after which the guest's TSC has gone on by that many, or fewer: where the host's are shorter than the guest's
 * it looks early, which does no harm. */
static inline u64 vm_clock_host_ticks(const struct vm *vm, u64 guest_ticks)
{
	return vm->tsc_mult > TSC_MULT_ONE ? muldiv64(guest_ticks, TSC_MULT_ONE, vm->tsc_mult) : guest_ticks;
}
/* Stopped at 0, host rate. */
void vm_clock_init(struct vm *vm);
void vm_clock_start(struct vm *vm);
void vm_clock_stop(struct vm *vm);
/* For a guest that was frozen for a move, and for nothing else: sets its stopped clock forward by the time since its clock was
 * stopped, at stopped_wall_us (vm->stopped_wall_us, of this or another host), so that its wall clock is right again. Only if
 * both hosts' clocks are vouched for by time servers and the difference is believable. Returns microseconds set forward. */
u64 vm_clock_catch_up(struct vm *vm, u64 stopped_wall_us);
void vm_clock_save(struct vm *vm, struct vm_clock_state *s);
/* Checks (rate, scaling) and takes over; the clock stays stopped. */
int vm_clock_load(struct vm *vm, const struct vm_clock_state *s, struct error *e) __must_check;
/* Whether a guest of that TSC rate (Hz) can run here. -E_INVAL, -E_UNSUPPORTED. */
int vm_clock_rate_check(u64 hz, struct error *e) __must_check;
