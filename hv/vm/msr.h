/* SPDX-License-Identifier: MIT */
/* The MSR policy: one table decides what a guest reads and writes directly, what is emulated, and that all else takes #GP. */
#pragma once
#include "hv/vm/vcpu.h"

/* Opens the MSRs that guests access without exit in the MSR bitmap. Once, after vmx_init(). */
void msr_init(void);
/* RDMSR / WRMSR by the guest. -E_INVAL: the access takes #GP. */
int msr_read(struct vcpu *v, u32 msr, u64 *val) __must_check;
int msr_write(struct vcpu *v, u32 msr, u64 val) __must_check;
/* Values at reset. */
void msr_reset(struct vcpu *v);
