/* SPDX-License-Identifier: MIT */
/* KVM's paravirtual clock (Linux "KVM-specific MSRs"): time in nanoseconds as a function of the guest's TSC. That function
 * never changes in a guest's life, so the pages that hold it are written when the guest asks for them, and move with its
 * memory. */
#pragma once
#include "hv/vm/vcpu.h"

#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
/* CPUID 0x40000001 EAX: CLOCKSOURCE2 and CLOCKSOURCE_STABLE_BIT; and that port 80h writes as a delay are not needed. */
#define KVMCLOCK_FEATURES (BIT(3) | BIT(24))
#define KVM_FEATURE_NOP_IO_DELAY BIT(1)

/* RDMSR and WRMSR of the two. On v's own CPU. */
int kvmclock_msr(struct vcpu *v, u32 msr, bool write, u64 *val) __must_check;
/* v's IA32_TSC_ADJUST has changed, and with it its TSC, but not the time. */
void kvmclock_tsc_moved(struct vm *vm);
/* The guest's clock is set forward: tells its kernel that it was stopped, so that its watchdogs do not bark. Guest stopped. */
void kvmclock_was_stopped(struct vm *vm);
/* At reset of v: its page is no longer ours to write. */
void kvmclock_reset(struct vcpu *v);

extern const struct mig_type kvmclock_type;
