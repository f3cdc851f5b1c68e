/* SPDX-License-Identifier: MIT */
/* The CPUID policy: one table of what guests may see. */
#pragma once
#include "hv/vm/vcpu.h"

/* Fills vm->cpuid from this host and the guest's baseline (config.cpu). Called when a guest is made here; a guest that arrives
 * keeps its own. -E_UNSUPPORTED with *e naming what this host lacks. */
int cpuid_build(struct vm *vm, struct error *e) __must_check;
/* Rebuilds the look-up index; -E_INVAL if the table is malformed. */
int cpuid_index(struct vm *vm, struct error *e) __must_check;
/* Executes CPUID for v: eax..edx of gpr[]. */
void cpuid_exit(struct vcpu *v);
/* One register of a table entry, 0 if there is none. reg: 0 eax 1 ebx 2 ecx 3 edx. */
u32 cpuid_guest(const struct vm *vm, u32 leaf, u32 subleaf, unsigned reg);
/* CR4 bits that this guest may set, by the features that it was shown. */
u64 cpuid_cr4_mask(const struct vm *vm);
/* XCR0 bits that this guest may set, by the features that it was shown. */
u64 cpuid_xcr0_mask(const struct vm *vm);
