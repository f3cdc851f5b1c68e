/* SPDX-License-Identifier: MIT */
/* What this machine's CPU can do, and what it lacks for Godwit. */
#pragma once
#include "hv/lib/types.h"

#define CAPS_MAX_MISSING 20

/* Capability words as read; of all but basic the low half says which bits must be 1, the high one which may be. */
struct vmx_caps {
	u64 basic;           /* IA32_VMX_BASIC */
	u64 pin, proc, proc2, exit, entry; /* TRUE_* where bit 55 of basic says so */
};

struct host_caps {
	bool usable;                    /* guests can run */
	const char *missing[CAPS_MAX_MISSING]; /* static strings: what Godwit needs and the CPU or firmware does not give */
	u32 n_missing;
	char remedy[400];               /* what a person can do about it; empty if usable */
	char cpu_name[52];              /* CPUID brand string, trimmed */
	struct vmx_caps vmx;            /* valid if CPUID shows VMX and feature control allows it; else zero */
	/* Optional features that are used if present. */
	bool tsc_scaling, tsc_deadline, page_1g, vpid, invept_single, invvpid_single;
	u8 preemption_timer_shift;      /* VMX_MISC bits 4:0: timer counts TSC >> shift */
	u8 phys_bits, linear_bits;      /* CPUID 80000008H */
	u64 xcr0;                       /* state components that the CPU has and Godwit enables (x87, SSE, AVX, AVX-512) */
	u32 n_cpus;                     /* enabled in the MADT */
};

/* Reads the CPU. Also enables VMX in IA32_FEATURE_CONTROL if it is unlocked. May run in the firmware phase. */
void cpu_check(struct host_caps *caps);
/* Whether pages can be made no-execute, without which even a host without guests cannot be. */
bool cpu_has_nx(void);
/* The result of cpu_check() at start. */
const struct host_caps *host_caps(void);
