/* SPDX-License-Identifier: MIT */
#include "hv/vm/msr.h"
#include "hv/arch/x86.h"
#include "hv/lib/log.h"
#include "hv/vdev/devices.h"
#include "hv/vm/kvmclock.h"
#include "hv/vmx/vmcs.h"
#include "hv/vmx/vmx.h"

#define MTRRCAP 0x508 /* 8 variable ranges, fixed ranges, write-combining */
#define MISC_ENABLE_RESET (BIT(0) | BIT(11) | BIT(12)) /* fast strings; no BTS, no PEBS */
#define MISC_ENABLE_WRITABLE BIT(0)
#define DEBUGCTL_LBR BIT(0)
#define MTRR_FIXED_COUNT 11

typedef int (*msr_fn)(struct vcpu *v, u32 msr, bool write, u64 *val);

static int lapic_fn(struct vcpu *v, u32 msr, bool write, u64 *val)
{
	return write ? lapic_msr_write(v->lapic, msr, *val) : lapic_msr_read(v->lapic, msr, val);
}

/* The guest's TSC is the VM's clock plus IA32_TSC_ADJUST; the APIC's deadline is in terms of the former. */
static int deadline_fn(struct vcpu *v, u32 msr, bool write, u64 *val)
{
	u64 now = vm_tsc(v->vm), tsc = now + v->s.tsc_adjust, at = 0;
	int rc;

	if (write) {
		/* What has passed by the guest's TSC is due at once, whatever the adjustment makes of the number. */
		if (*val && __builtin_add_overflow(now, *val > tsc ? *val - tsc : 0, &at))
			at = ~0ull;
		return lapic_msr_write(v->lapic, msr, *val ? MAX(at, 1ull) : 0);
	}
	rc = lapic_msr_read(v->lapic, msr, val);
	if (!rc && *val)
		*val += v->s.tsc_adjust;
	return rc;
}

/* A deadline that is armed stays where it is on the guest's TSC. */
static void set_tsc_adjust(struct vcpu *v, u64 adjust)
{
	u64 deadline = 0;
	int rc = deadline_fn(v, MSR_IA32_TSC_DEADLINE, false, &deadline);

	v->s.tsc_adjust = adjust;
	if (!rc && deadline)
		(void)!deadline_fn(v, MSR_IA32_TSC_DEADLINE, true, &deadline);
	kvmclock_tsc_moved(v->vm);
}

static int tsc_fn(struct vcpu *v, u32 msr, bool write, u64 *val)
{
	u64 now = vm_tsc(v->vm) + v->s.tsc_adjust;

	if (write)
		set_tsc_adjust(v, v->s.tsc_adjust + *val - now);
	else
		*val = now;
	return 0;
}

static int tsc_adjust_fn(struct vcpu *v, u32 msr, bool write, u64 *val)
{
	if (write)
		set_tsc_adjust(v, *val);
	else
		*val = v->s.tsc_adjust;
	return 0;
}

static int misc_enable_fn(struct vcpu *v, u32 msr, bool write, u64 *val)
{
	if (write)
		v->s.misc_enable = (v->s.misc_enable & ~MISC_ENABLE_WRITABLE) | (*val & MISC_ENABLE_WRITABLE);
	else
		*val = v->s.misc_enable;
	return 0;
}

static int zero_fn(struct vcpu *v, u32 msr, bool write, u64 *val)
{
	if (!write)
		*val = 0;
	return 0;
}

/* Read-only. */
static int constant_fn(struct vcpu *v, u32 msr, bool write, u64 *val)
{
	if (write)
		return -E_INVAL;
	*val = msr == MSR_IA32_MTRRCAP ? MTRRCAP : FEATURE_CONTROL_LOCK;
	return 0;
}

/* EPT alone decides the memory type (RAM is write-back), so the MTRRs are plain registers. */
static u64 *mtrr_slot(struct vcpu *v, u32 msr)
{
	if (msr >= 0x200 && msr < 0x210)
		return &v->s.mtrr_var[msr - 0x200];
	switch (msr) {
	case MSR_IA32_MTRR_DEF_TYPE: return &v->s.mtrr_def_type;
	case 0x250: return &v->s.mtrr_fixed[0];
	case 0x258: case 0x259: return &v->s.mtrr_fixed[1 + msr - 0x258];
	}
	return &v->s.mtrr_fixed[3 + msr - 0x268];
}

static int mtrr_fn(struct vcpu *v, u32 msr, bool write, u64 *val)
{
	u64 *slot = mtrr_slot(v, msr);

	if (write)
		*slot = *val;
	else
		*val = *slot;
	return 0;
}

/* LBR is taken and dropped, as by a CPU that has none: the registers that it fills are not the guest's. */
static int debugctl_fn(struct vcpu *v, u32 msr, bool write, u64 *val)
{
	if (write) {
		if (*val & ~(DEBUGCTL_LBR | DEBUGCTL_BTF))
			return -E_INVAL;
		vmcs_write(VMCS_GUEST_DEBUGCTL, *val & DEBUGCTL_BTF);
	} else {
		*val = vmcs_read(VMCS_GUEST_DEBUGCTL);
	}
	return 0;
}

static const struct msr_policy {
	u32 first, last;
	msr_fn fn;                /* NULL: no exit, the guest has the register itself */
	bool direct_read, direct_write;
} policy[] = {
	{ MSR_IA32_TSC_DEADLINE, MSR_IA32_TSC_DEADLINE, deadline_fn },
	{ 0x800, 0x8ff, lapic_fn },
	{ MSR_IA32_TIME_STAMP_COUNTER, MSR_IA32_TIME_STAMP_COUNTER, tsc_fn, true, false },
	{ MSR_IA32_PLATFORM_ID, MSR_IA32_PLATFORM_ID, zero_fn },
	{ MSR_IA32_APIC_BASE, MSR_IA32_APIC_BASE, lapic_fn },
	{ MSR_IA32_FEATURE_CONTROL, MSR_IA32_FEATURE_CONTROL, constant_fn },
	{ MSR_IA32_TSC_ADJUST, MSR_IA32_TSC_ADJUST, tsc_adjust_fn },
	{ MSR_IA32_BIOS_SIGN_ID, MSR_IA32_BIOS_SIGN_ID, zero_fn },
	{ MSR_IA32_MTRRCAP, MSR_IA32_MTRRCAP, constant_fn },
	{ MSR_IA32_SYSENTER_CS, MSR_IA32_SYSENTER_EIP, NULL, true, true },
	{ MSR_IA32_MCG_CAP, MSR_IA32_MCG_STATUS, zero_fn },
	{ MSR_IA32_MISC_ENABLE, MSR_IA32_MISC_ENABLE, misc_enable_fn },
	{ MSR_IA32_DEBUGCTL, MSR_IA32_DEBUGCTL, debugctl_fn },
	{ 0x200, 0x20f, mtrr_fn }, { 0x250, 0x250, mtrr_fn }, { 0x258, 0x259, mtrr_fn }, { 0x268, 0x26f, mtrr_fn },
	{ MSR_IA32_PAT, MSR_IA32_PAT, NULL, true, true },
	{ MSR_IA32_MTRR_DEF_TYPE, MSR_IA32_MTRR_DEF_TYPE, mtrr_fn },
	{ MSR_IA32_EFER, MSR_IA32_FMASK, NULL, true, true },
	{ MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW, kvmclock_msr },
	{ MSR_IA32_FS_BASE, MSR_IA32_TSC_AUX, NULL, true, true },
};

void msr_init(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(policy); i++)
		for (u32 msr = policy[i].first; msr <= policy[i].last; msr++)
			vmx_msr_passthrough(msr, policy[i].direct_read, policy[i].direct_write);
}

static int access(struct vcpu *v, u32 msr, bool write, u64 *val)
{
	for (unsigned i = 0; i < ARRAY_SIZE(policy); i++)
		if (msr >= policy[i].first && msr <= policy[i].last && policy[i].fn)
			return policy[i].fn(v, msr, write, val);
	log_guest(LOG_INFO, v->vm->config.name, "%s of unknown MSR %#x: #GP", write ? "write" : "read", msr);
	return -E_INVAL;
}

int msr_read(struct vcpu *v, u32 msr, u64 *val)
{
	return access(v, msr, false, val);
}

int msr_write(struct vcpu *v, u32 msr, u64 val)
{
	return access(v, msr, true, &val);
}

void msr_reset(struct vcpu *v)
{
	kvmclock_reset(v);
	v->s.pat = PAT_RESET;
	v->s.misc_enable = MISC_ENABLE_RESET;
	/* As firmware leaves it: MTRRs on, everything write-back; stock kernels complain when they are off. */
	v->s.mtrr_def_type = BIT(11) | BIT(10) | 6;
	for (unsigned i = 0; i < MTRR_FIXED_COUNT; i++)
		v->s.mtrr_fixed[i] = 0x0606060606060606ull;
}
