/* SPDX-License-Identifier: MIT */
/* What belongs to one CPU. In host tests hv/fake/include/hv/arch/percpu.h comes first. */
#pragma once
#include "hv/lib/types.h"

#define MAX_CPUS 64

struct vcpu;

/* SDM "Task Management in 64-bit Mode". */
struct tss {
	u32 reserved0;
	u64 rsp[3];
	u64 reserved1;
	u64 ist[7];
	u64 reserved2;
	u16 reserved3, iopb;
} __packed;

/* Private to its CPU but for idle and started; GS base points here. */
struct cpu {
	struct cpu *self;       /* %gs:0 */
	u32 id;                 /* 0 = service CPU */
	u32 apic_id;
	u64 gdt[5];             /* null, code, data, TSS (two slots) */
	struct tss tss;
	u64 tcb[64] __attribute__((aligned(64))); /* the C library's thread block: self pointer first, errno inside */
	u64 stack_low, stack_top; /* main stack; top: HOST_RSP */
	bool started;
	bool idle;              /* in cpu_sleep(), or about to be: an IPI wakes it */
	void *vmxon;            /* VMXON region */
	struct vcpu *current;   /* whose VMCS, MSRs, CR2 and debug registers are in the hardware */
	struct vcpu *running;   /* in vcpu_run() */
	struct vcpu *fpu_owner; /* whose FPU state is live */
};

static inline struct cpu *this_cpu(void)
{
	struct cpu *c;
	__asm__("mov %%gs:0, %0" : "=r"(c));
	return c;
}

/* All CPUs that run; cpus[0] is the service CPU. Constant after smp_start(). */
extern struct cpu *cpus[MAX_CPUS];
extern u32 n_cpus;
