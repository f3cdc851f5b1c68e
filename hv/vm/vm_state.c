/* SPDX-License-Identifier: MIT */
/* What of a guest moves, and its descriptions that are no devices: clock, CPUID, vCPU. */
#include "hv/vm/vm.h"
#include "hv/arch/caps.h"
#include "hv/arch/x86.h"
#include "hv/vm/cpuid.h"
#include "hv/vm/kvmclock.h"
#include "hv/vm/vcpu.h"
#include "hv/vm/vm_clock.h"
#include "hv/vmx/vmx.h"

static int clock_post_load(void *owner, struct error *e)
{
	struct vm *vm = owner;

	return vm_clock_load(vm, &vm->clock_state, e);
}

static const struct mig_field clock_fields[] = {
	MIG_U64(1, struct vm_clock_state, guest_tsc, 1),
	MIG_U64(2, struct vm_clock_state, tsc_hz, 1),
	MIG_U64(3, struct vm_clock_state, boot_wall_seconds, 1),
};

static const struct mig_type clock_type = {
	.name = "clock", .version = 1, .min_version = 1, .phase = MIG_PHASE_CLOCK,
	MIG_STATE(struct vm_clock_state, clock_fields), .post_load = clock_post_load,
};
MIG_REGISTER(clock_type);

static int cpuid_post_load(void *owner, struct error *e)
{
	return cpuid_index(owner, e);
}

static const struct mig_field cpuid_fields[] = {
	MIG_U32(1, struct cpuid_table, n, 1), MIG_U32(2, struct cpuid_table, reserved, 1),
	MIG_U32S(3, struct cpuid_table, leaf, 1), MIG_U32S(4, struct cpuid_table, subleaf, 1),
	MIG_U32S(5, struct cpuid_table, eax, 1), MIG_U32S(6, struct cpuid_table, ebx, 1),
	MIG_U32S(7, struct cpuid_table, ecx, 1), MIG_U32S(8, struct cpuid_table, edx, 1),
};

static const struct mig_type cpuid_type = {
	.name = "cpuid", .version = 1, .min_version = 1, .phase = MIG_PHASE_CLOCK,
	MIG_STATE(struct cpuid_table, cpuid_fields), .post_load = cpuid_post_load,
};
MIG_REGISTER(cpuid_type);

/* As WRMSR sees it: in the width that the CPU has, whether the guest uses it or not. */
static bool canonical(u64 a)
{
	unsigned shift = 64 - MIN(MAX(host_caps()->linear_bits, 48), 57);

	return (u64)((s64)(a << shift) >> shift) == a;
}

/* What VM entry does not check by itself but would fault, or do harm, on the host side. The rest of a malformed state
 * makes VM entry fail, and the guest with it. */
static int vcpu_post_load(void *owner, struct error *e)
{
	struct vcpu *v = owner;
	struct vcpu_state *s = &v->s;

	if (!fpu_image_ok(s->xsave, s->xcr0) || (s->xcr0 & ~cpuid_xcr0_mask(v->vm)))
		return error_set(e, E_INVAL, "vcpu %u: XSAVE image or XCR0 %#llx cannot be loaded on this CPU", v->id,
				 (unsigned long long)s->xcr0);
	if (!canonical(s->lstar) || !canonical(s->cstar) || !canonical(s->kernel_gs_base))
		return error_set(e, E_INVAL, "vcpu %u: non-canonical LSTAR, CSTAR or KERNEL_GS_BASE", v->id);
	if (s->fmask >> 32 || s->tsc_aux >> 32 || s->dr6 >> 32 || s->dr7 >> 32)
		return error_set(e, E_INVAL, "vcpu %u: reserved bits set in FMASK, TSC_AUX, DR6 or DR7", v->id);
	if (s->cr4 & ~cpuid_cr4_mask(v->vm))
		return error_set(e, E_INVAL, "vcpu %u: CR4 %#llx has bits that its CPUID does not allow", v->id,
				 (unsigned long long)s->cr4);
	if ((s->activity > ACTIVITY_HLT && s->activity != ACTIVITY_WAIT_SIPI) || s->nmi_pending > 1 || s->init_pending > 1 ||
	    (s->sipi_pending && s->sipi_pending >> 8 != 1))
		return error_set(e, E_INVAL, "vcpu %u: activity state %u is not possible", v->id, s->activity);
	if (s->event_info & ~(u32)(INTR_VALID | INTR_ERROR_CODE | 0x7ff))
		return error_set(e, E_INVAL, "vcpu %u: pending event %#x is malformed", v->id, s->event_info);
	return 0;
}

static const struct mig_field vcpu_fields[] = {
	MIG_U64S(1, struct vcpu_state, gpr, 1), MIG_U64(2, struct vcpu_state, rip, 1), MIG_U64(3, struct vcpu_state, rflags, 1),
	MIG_U64(4, struct vcpu_state, cr0, 1), MIG_U64(5, struct vcpu_state, cr2, 1), MIG_U64(6, struct vcpu_state, cr3, 1),
	MIG_U64(7, struct vcpu_state, cr4, 1), MIG_U64(8, struct vcpu_state, xcr0, 1), MIG_U64S(9, struct vcpu_state, dr, 1),
	MIG_U64(10, struct vcpu_state, dr6, 1), MIG_U64(11, struct vcpu_state, dr7, 1),
	MIG_U64S(12, struct vcpu_state, seg_base, 1), MIG_U64(13, struct vcpu_state, gdtr_base, 1),
	MIG_U64(14, struct vcpu_state, idtr_base, 1), MIG_U64(15, struct vcpu_state, efer, 1),
	MIG_U64(16, struct vcpu_state, star, 1), MIG_U64(17, struct vcpu_state, lstar, 1), MIG_U64(18, struct vcpu_state, cstar, 1),
	MIG_U64(19, struct vcpu_state, fmask, 1), MIG_U64(20, struct vcpu_state, kernel_gs_base, 1),
	MIG_U64(21, struct vcpu_state, sysenter_cs, 1), MIG_U64(22, struct vcpu_state, sysenter_esp, 1),
	MIG_U64(23, struct vcpu_state, sysenter_eip, 1), MIG_U64(24, struct vcpu_state, pat, 1),
	MIG_U64(25, struct vcpu_state, tsc_aux, 1), MIG_U64(26, struct vcpu_state, tsc_adjust, 1),
	MIG_U64(27, struct vcpu_state, misc_enable, 1), MIG_U64(28, struct vcpu_state, mtrr_def_type, 1),
	MIG_U64S(29, struct vcpu_state, mtrr_fixed, 1), MIG_U64S(30, struct vcpu_state, mtrr_var, 1),
	MIG_U64(31, struct vcpu_state, debugctl, 1), MIG_U64(32, struct vcpu_state, spec_ctrl, 1),
	MIG_U64S(33, struct vcpu_state, pdpte, 1), MIG_U64(34, struct vcpu_state, pending_dbg, 1),
	MIG_U32S(35, struct vcpu_state, seg_limit, 1), MIG_U32S(36, struct vcpu_state, seg_ar, 1),
	MIG_U16S(37, struct vcpu_state, seg_sel, 1), MIG_U32(38, struct vcpu_state, gdtr_limit, 1),
	MIG_U32(39, struct vcpu_state, idtr_limit, 1), MIG_U32(40, struct vcpu_state, interruptibility, 1),
	MIG_U32(41, struct vcpu_state, activity, 1), MIG_U32(42, struct vcpu_state, event_info, 1),
	MIG_U32(43, struct vcpu_state, event_error, 1), MIG_U32(44, struct vcpu_state, event_len, 1),
	MIG_U32(45, struct vcpu_state, nmi_pending, 1), MIG_U8S(46, struct vcpu_state, xsave, 1),
	MIG_U32(47, struct vcpu_state, init_pending, 2), MIG_U32(48, struct vcpu_state, sipi_pending, 2),
};

static const struct mig_type vcpu_type = {
	.name = "vcpu", .version = 2, .min_version = 1, .phase = MIG_PHASE_VCPU,
	MIG_STATE(struct vcpu_state, vcpu_fields), .post_load = vcpu_post_load,
};
MIG_REGISTER(vcpu_type);

bool vm_mig_instance(struct vm *vm, unsigned i, struct mig_instance *out)
{
	if (i == 0) {
		*out = (struct mig_instance){ &clock_type, 0, &vm->clock_state, vm };
		return true;
	}
	if (i == 1) {
		*out = (struct mig_instance){ &cpuid_type, 0, &vm->cpuid, vm };
		return true;
	}
	if (i == 2) {
		*out = (struct mig_instance){ &kvmclock_type, 0, &vm->kvmclock, vm };
		return true;
	}
	i -= 3;
	/* By phase: interrupt chips before what raises lines into them. Few devices, so a scan per phase will do. */
	for (u16 phase = MIG_PHASE_CLOCK; phase <= MIG_PHASE_DEVICE; phase++)
		for (unsigned d = 0; d < vm->n_vdevs; d++) {
			struct vdev *dev = vm->vdevs[d];

			if (dev->type->mig.n_fields && dev->type->mig.phase == phase && i-- == 0) {
				*out = (struct mig_instance){ &dev->type->mig, dev->instance,
							      (u8 *)dev + dev->type->state_offset, dev };
				return true;
			}
		}
	if (i >= vm->n_vcpus)
		return false;
	*out = (struct mig_instance){ &vcpu_type, (u16)i, &vm->vcpus[i]->s, vm->vcpus[i] };
	return true;
}

void vm_state_sync(struct vm *vm)
{
	vm_clock_save(vm, &vm->clock_state);
	for (unsigned i = 0; i < vm->n_vcpus; i++) {
		vcpu_sync_state(vm->vcpus[i]);
		vcpu_put(vm->vcpus[i]); /* a load may replace the state: the CPU's registers must not be saved over it later */
	}
}

void vm_state_loaded(struct vm *vm)
{
	for (unsigned i = 0; i < vm->n_vcpus; i++)
		vcpu_load_state(vm->vcpus[i]);
}
