/* SPDX-License-Identifier: MIT */
/* The local APIC's instance, for lapic.c and its timer. Others: devices.h. */
#pragma once
#include "hv/vdev/devices.h"

enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };
#define LVT_MASKED BIT(16)

enum { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC_DEADLINE, TIMER_RESERVED };
#define TDCR_WRITABLE 0xbu

struct lapic_state {
	u64 base;           /* IA32_APIC_BASE */
	u64 tsc_deadline;   /* IA32_TSC_DEADLINE; 0: disarmed */
	u64 timer_deadline; /* next expiry in guest TSC; VDEV_NEVER: stopped */
	u64 icr;
	u32 irr[8], isr[8], tmr[8];
	u32 lvt[LVT_COUNT];
	u32 tpr, ldr, dfr, svr;
	u32 esr, esr_new;   /* what reads show; what the next write to it will show */
	u32 timer_initial, timer_divide;
};

struct lapic {
	struct vdev dev;
	struct lapic_state s;
	u32 *page;          /* the vCPU's virtual-APIC page: registers 16 bytes apart; NULL: none */
	bool live;          /* TPR and ISR are there, and the IRR but for what is in s.irr */
	bool tmr_changed;   /* since the last push */
};

static inline struct lapic *lapic_of(struct vdev *dev)
{
	return container_of(dev, struct lapic, dev);
}

/* One of the two local sources that there are, the timer and errors, signals its LVT entry. They have no delivery mode. */
void lapic_local(struct lapic *l, unsigned lvt);

/* --- lapic_timer.c --- */
static inline unsigned lapic_timer_mode(const struct lapic *l) { return l->s.lvt[LVT_TIMER] >> 17 & 3; }
/* What the guest reads as the current count. */
u32 lapic_timer_current(const struct lapic *l);
/* It writes the initial count, the divide configuration, IA32_TSC_DEADLINE. What its mode does not know is ignored. */
void lapic_timer_initial(struct lapic *l, u32 val);
void lapic_timer_divide(struct lapic *l, u32 val);
void lapic_timer_tsc_deadline(struct lapic *l, u64 at);
void lapic_timer_disarm(struct lapic *l);
/* struct vdev_type's timer() */
void lapic_timer_expire(struct vdev *dev);
/* Whether the state of the timer, from outside, can be. */
bool lapic_timer_valid(const struct lapic *l);
