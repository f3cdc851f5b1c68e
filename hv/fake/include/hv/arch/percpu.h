/* SPDX-License-Identifier: MIT */
/* The one CPU of host tests. */
#pragma once
#include "hv/lib/types.h"

#define MAX_CPUS 64

struct vcpu;

struct cpu {
	struct cpu *self;
	u32 id, apic_id;
	u64 stack_low, stack_top;
	bool started, idle;
	void *vmxon;
	struct vcpu *current, *running, *fpu_owner;
};

extern struct cpu fake_cpu;
extern struct cpu *cpus[MAX_CPUS];
extern u32 n_cpus;
static inline struct cpu *this_cpu(void) { return &fake_cpu; }
