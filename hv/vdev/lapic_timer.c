/* SPDX-License-Identifier: MIT */
/* The local APIC's timer. It counts at the rate of the TSC (CPUID 15h says crystal = TSC). */
#include "hv/vdev/lapic.h"

/* TSC ticks in n counts. */
static u64 lapic_timer_counts(const struct lapic *l, u32 n)
{
	u32 d = l->s.timer_divide;

	return (u64)n << (((d & 3) + (d >> 1 & 4) + 1) & 7);
}

static void lapic_timer_set(struct lapic *l, u64 deadline)
{
	l->s.timer_deadline = deadline;
	vdev_arm(&l->dev, deadline);
}

u32 lapic_timer_current(const struct lapic *l)
{
	u64 now = vm_tsc(l->dev.vm), left, period, unit = lapic_timer_counts(l, 1);

	if (l->s.timer_deadline == VDEV_NEVER || lapic_timer_mode(l) == TIMER_TSC_DEADLINE)
		return 0;
	period = lapic_timer_counts(l, l->s.timer_initial);
	if (l->s.timer_deadline > now) {
		left = l->s.timer_deadline - now;
		if (lapic_timer_mode(l) == TIMER_PERIODIC) /* expiries of a very fast timer are skipped */
			left = (left - 1) % period + 1;
	} else if (lapic_timer_mode(l) == TIMER_PERIODIC) { /* due, but timer() has not run yet */
		left = period - (now - l->s.timer_deadline) % period;
	} else {
		left = 0;
	}
	return (u32)MIN((left + unit - 1) / unit, (u64)l->s.timer_initial);
}

void lapic_timer_disarm(struct lapic *l)
{
	l->s.tsc_deadline = 0;
	l->s.timer_initial = 0;
	lapic_timer_set(l, VDEV_NEVER);
}

void lapic_timer_tsc_deadline(struct lapic *l, u64 at)
{
	if (lapic_timer_mode(l) != TIMER_TSC_DEADLINE)
		return;
	l->s.tsc_deadline = at;
	lapic_timer_set(l, at ? MIN(at, VDEV_NEVER - 1) : VDEV_NEVER);
}

void lapic_timer_initial(struct lapic *l, u32 val)
{
	if (lapic_timer_mode(l) == TIMER_TSC_DEADLINE)
		return; /* ignored by the hardware, too */
	l->s.timer_initial = val;
	lapic_timer_set(l, val ? vm_tsc(l->dev.vm) + lapic_timer_counts(l, val) : VDEV_NEVER);
}

void lapic_timer_divide(struct lapic *l, u32 val)
{
	u32 left = lapic_timer_current(l);
	bool running = l->s.timer_deadline != VDEV_NEVER && lapic_timer_mode(l) != TIMER_TSC_DEADLINE;

	l->s.timer_divide = val & TDCR_WRITABLE;
	if (running)
		lapic_timer_set(l, vm_tsc(l->dev.vm) + lapic_timer_counts(l, left));
}

/* Least time between periodic interrupts: 50 us. */
static u64 lapic_timer_gap(const struct lapic *l)
{
	return vm_tsc_hz(l->dev.vm) / 20000;
}

void lapic_timer_expire(struct vdev *dev)
{
	struct lapic *l = lapic_of(dev);
	u64 now = vm_tsc(dev->vm), at = l->s.timer_deadline, period, from;

	if (at > now) { /* the clock was not quite there */
		vdev_arm(dev, at);
		return;
	}
	if (lapic_timer_mode(l) == TIMER_PERIODIC) {
		/* Next from the last one, so nothing drifts; what was missed has merged in the IRR anyway. A period of
		 * a few ticks must not keep this host busy: the expiries of the next 50 us are skipped. */
		period = lapic_timer_counts(l, l->s.timer_initial);
		from = period < lapic_timer_gap(l) ? now + lapic_timer_gap(l) : now;
		lapic_timer_set(l, at + ((from - at) / period + 1) * period);
	} else {
		l->s.timer_deadline = VDEV_NEVER;
		l->s.tsc_deadline = 0;
	}
	lapic_local(l, LVT_TIMER);
}

bool lapic_timer_valid(const struct lapic *l)
{
	u64 at = l->s.timer_deadline;
	bool armed = at != VDEV_NEVER;

	if (lapic_timer_mode(l) == TIMER_TSC_DEADLINE)
		return armed == (l->s.tsc_deadline != 0) && l->s.timer_initial == 0;
	if (l->s.tsc_deadline)
		return false;
	/* Bounded, so that no later sum overflows. */
	return !armed || (l->s.timer_initial &&
			  at <= vm_tsc(l->dev.vm) + lapic_timer_counts(l, l->s.timer_initial) + lapic_timer_gap(l));
}
