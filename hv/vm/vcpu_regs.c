/* SPDX-License-Identifier: MIT */
/* The registers of a vCPU: in the CPU, in the VMCS, and in struct vcpu_state. */
#include "hv/vm/vcpu.h"
#include "hv/arch/percpu.h"
#include "hv/arch/x86.h"
#include "hv/vdev/devices.h"
#include "hv/vm/cpuid.h"
#include "hv/vmx/vmcs.h"
#include "hv/vmx/vmx.h"

#include <string.h>

/* Bits of CR0 and CR4 that the host owns: VMX fixes NE and VMXE; caching is EPT's business. Without MCE a machine check
 * would not come to the host but shut the machine down. */
#define CR0_HOST (CR0_NE | CR0_CD | CR0_NW)
#define CR4_HOST (CR4_VMXE | CR4_MCE)

/* --- registers that the VMCS does not hold --- */

#define LIVE_MSRS(X) \
	X(star, MSR_IA32_STAR) X(lstar, MSR_IA32_LSTAR) X(cstar, MSR_IA32_CSTAR) X(fmask, MSR_IA32_FMASK) \
	X(kernel_gs_base, MSR_IA32_KERNEL_GS_BASE)
#define FROM_MSR(member, msr) v->s.member = rdmsr(msr);
#define TO_MSR(member, msr) wrmsr(msr, v->s.member);

static void live_save(struct vcpu *v)
{
	LIVE_MSRS(FROM_MSR)
	if (vmx_config.proc2 & PROC2_RDTSCP)
		v->s.tsc_aux = rdmsr(MSR_IA32_TSC_AUX);
	v->s.cr2 = read_cr2();
	v->s.dr[0] = read_dr0();
	v->s.dr[1] = read_dr1();
	v->s.dr[2] = read_dr2();
	v->s.dr[3] = read_dr3();
	v->s.dr6 = read_dr6();
}

static void live_load(struct vcpu *v)
{
	LIVE_MSRS(TO_MSR)
	if (vmx_config.proc2 & PROC2_RDTSCP)
		wrmsr(MSR_IA32_TSC_AUX, v->s.tsc_aux);
	write_cr2(v->s.cr2);
	write_dr0(v->s.dr[0]);
	write_dr1(v->s.dr[1]);
	write_dr2(v->s.dr[2]);
	write_dr3(v->s.dr[3]);
	write_dr6(v->s.dr6);
}

void vcpu_put(struct vcpu *v)
{
	struct cpu *c = this_cpu();

	fpu_drop(v);
	if (c->current != v)
		return;
	live_save(v);
	vmx_vmcs_clear(v->vmcs);
	v->launched = false;
	c->current = NULL;
}

void vcpu_make_current(struct vcpu *v)
{
	struct cpu *c = this_cpu();

	if (c->current == v)
		return;
	if (c->current && n_cpus > 1)
		vcpu_put(c->current); /* another CPU may want it */
	else if (c->current)
		live_save(c->current);
	c->current = v;
	vmx_vmcs_load(v->vmcs);
	if (v->cpu != c) {
		/* What this CPU has cached of it, it has cached before the vCPU ran elsewhere. */
		v->cpu = c;
		vmx_vmcs_set_cpu();
		vmx_invvpid(v->vpid);
		v->ept_generation = 0;
	}
	live_load(v);
}

void vcpu_set_rip(struct vcpu *v, u64 rip) { v->s.rip = rip; vmcs_write(VMCS_GUEST_RIP, rip); }
void vcpu_set_rsp(struct vcpu *v, u64 rsp) { v->s.gpr[VCPU_RSP] = rsp; vmcs_write(VMCS_GUEST_RSP, rsp); }
void vcpu_set_rflags(struct vcpu *v, u64 f) { v->s.rflags = f; vmcs_write(VMCS_GUEST_RFLAGS, f); }

u64 vcpu_cr0(struct vcpu *v)
{
	return (vmcs_read(VMCS_GUEST_CR0) & ~CR0_HOST) | (vmcs_read(VMCS_CR0_SHADOW) & CR0_HOST);
}

u64 vcpu_cr4(struct vcpu *v)
{
	u64 mask = vmcs_read(VMCS_CR4_MASK);

	return (vmcs_read(VMCS_GUEST_CR4) & ~mask) | (vmcs_read(VMCS_CR4_SHADOW) & mask);
}

/* --- state between VMCS and struct vcpu_state --- */

/* What is the same in both. */
#define VMCS_HELD(X) \
	X(rip, VMCS_GUEST_RIP) X(gpr[VCPU_RSP], VMCS_GUEST_RSP) X(rflags, VMCS_GUEST_RFLAGS) X(cr3, VMCS_GUEST_CR3) \
	X(dr7, VMCS_GUEST_DR7) X(gdtr_base, VMCS_GUEST_GDTR_BASE) X(gdtr_limit, VMCS_GUEST_GDTR_LIMIT) \
	X(idtr_base, VMCS_GUEST_IDTR_BASE) X(idtr_limit, VMCS_GUEST_IDTR_LIMIT) X(pat, VMCS_GUEST_PAT) \
	X(sysenter_cs, VMCS_GUEST_SYSENTER_CS) X(sysenter_esp, VMCS_GUEST_SYSENTER_ESP) \
	X(sysenter_eip, VMCS_GUEST_SYSENTER_EIP) X(pending_dbg, VMCS_GUEST_PENDING_DBG) \
	X(interruptibility, VMCS_GUEST_INTERRUPTIBILITY) X(pdpte[0], VMCS_GUEST_PDPTE(0)) X(pdpte[1], VMCS_GUEST_PDPTE(1)) \
	X(pdpte[2], VMCS_GUEST_PDPTE(2)) X(pdpte[3], VMCS_GUEST_PDPTE(3))
#define FROM_VMCS(member, field) s->member = vmcs_read(field);
#define TO_VMCS(member, field) vmcs_write(field, s->member);

void vcpu_sync_state(struct vcpu *v)
{
	struct vcpu_state *s = &v->s;

	vcpu_make_current(v);
	live_save(v);
	lapic_pull(v->lapic);
	fpu_release();
	memcpy(s->xsave, v->xsave_area, VCPU_XSAVE_BYTES);
	VMCS_HELD(FROM_VMCS)
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		s->seg_sel[i] = vmcs_read(VMCS_GUEST_SEL(i));
		s->seg_base[i] = vmcs_read(VMCS_GUEST_BASE(i));
		s->seg_limit[i] = vmcs_read(VMCS_GUEST_LIMIT(i));
		s->seg_ar[i] = vmcs_read(VMCS_GUEST_AR(i));
	}
	s->cr0 = vcpu_cr0(v);
	s->cr4 = vcpu_cr4(v);
	s->efer = vmcs_read(VMCS_GUEST_EFER);
	s->debugctl = vmcs_read(VMCS_GUEST_DEBUGCTL);
}

/* The guest's CR4 as hardware has it: with VMXE and MCE on, and the bits that it was not shown owned by the host. */
static void load_cr4(struct vcpu *v, u64 cr4)
{
	vmcs_write(VMCS_CR4_MASK, ~cpuid_cr4_mask(v->vm) | CR4_HOST);
	vmcs_write(VMCS_CR4_SHADOW, cr4);
	vmcs_write(VMCS_GUEST_CR4, cr4 | CR4_HOST);
}

static void load_cr0(struct vcpu *v, u64 cr0)
{
	vmcs_write(VMCS_CR0_MASK, CR0_HOST);
	vmcs_write(VMCS_CR0_SHADOW, cr0);
	vmcs_write(VMCS_GUEST_CR0, (cr0 & ~(CR0_CD | CR0_NW)) | CR0_NE);
}

static void load_efer(u64 efer)
{
	vmcs_write(VMCS_GUEST_EFER, efer);
	vmcs_write(VMCS_ENTRY_CTLS, vmx_config.entry | (efer & EFER_LMA ? (u32)ENTRY_IA32E : 0));
}

void vcpu_load_state(struct vcpu *v)
{
	struct vcpu_state *s = &v->s;

	vcpu_make_current(v);
	live_load(v);
	fpu_drop(v);
	memcpy(v->xsave_area, s->xsave, VCPU_XSAVE_BYTES);
	VMCS_HELD(TO_VMCS)
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		vmcs_write(VMCS_GUEST_SEL(i), s->seg_sel[i]);
		vmcs_write(VMCS_GUEST_BASE(i), s->seg_base[i]);
		vmcs_write(VMCS_GUEST_LIMIT(i), s->seg_limit[i]);
		vmcs_write(VMCS_GUEST_AR(i), s->seg_ar[i]);
	}
	load_cr0(v, s->cr0);
	load_cr4(v, s->cr4);
	load_efer(s->efer);
	vmcs_write(VMCS_GUEST_DEBUGCTL, s->debugctl & DEBUGCTL_BTF); /* as msr.c: whatever a stream says */
	vmcs_write(VMCS_GUEST_ACTIVITY, ACTIVITY_ACTIVE); /* halted vCPUs are not entered: s->activity is ours */
	vmcs_write(VMCS_ENTRY_INTR_INFO, 0);
	vmx_invvpid(v->vpid);
	v->ept_generation = 0;
	v->irq_check = true;
}

/* SDM "PDPTE Registers": what a MOV to CR0 or CR4 under PAE paging loads. -E_INVAL: reserved bits, #GP. */
static int load_pdptes(struct vcpu *v)
{
	u64 pdpte[4], reserved = ~(BIT(cpuid_guest(v->vm, 0x80000008, 0, 0) & 63) - 1) | 0x1e6;

	if (guest_read(v->vm, gpa(vmcs_read(VMCS_GUEST_CR3) & 0xffffffe0), pdpte, sizeof(pdpte)))
		return -E_INVAL;
	for (unsigned i = 0; i < 4; i++)
		if ((pdpte[i] & 1) && (pdpte[i] & reserved))
			return -E_INVAL;
	for (unsigned i = 0; i < 4; i++)
		vmcs_write(VMCS_GUEST_PDPTE(i), pdpte[i]);
	return 0;
}

/* The exit was for a bit that the host owns; what hardware checks and does for the others is done here, too. */
int vcpu_write_cr4(struct vcpu *v, u64 cr4)
{
	u64 flips = vcpu_cr4(v) ^ cr4;
	bool lma = vmcs_read(VMCS_GUEST_EFER) & EFER_LMA;

	if ((cr4 & ~cpuid_cr4_mask(v->vm)) || (lma && (flips & CR4_PAE)) ||
	    ((flips & cr4 & CR4_PCIDE) && (!lma || (vmcs_read(VMCS_GUEST_CR3) & 0xfff))))
		return -E_INVAL;
	if ((vmcs_read(VMCS_GUEST_CR0) & CR0_PG) && !lma && (cr4 & CR4_PAE) &&
	    (flips & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) && load_pdptes(v))
		return -E_INVAL;
	load_cr4(v, cr4);
	vmx_invvpid(v->vpid);
	return 0;
}

int vcpu_write_cr0(struct vcpu *v, u64 cr0)
{
	u64 flips = vcpu_cr0(v) ^ cr0, efer = vmcs_read(VMCS_GUEST_EFER), cr4 = vcpu_cr4(v);
	bool code64 = vmcs_read(VMCS_GUEST_AR(SEG_CS)) & BIT(13);

	cr0 |= CR0_ET;
	/* SDM "Control Registers": reserved high bits, PG without PE, NW without CD take #GP. */
	if (cr0 >> 32 || ((cr0 & CR0_PG) && !(cr0 & CR0_PE)) || ((cr0 & CR0_NW) && !(cr0 & CR0_CD)))
		return -E_INVAL;
	if ((flips & CR0_PG) && (efer & EFER_LME)) {
		/* SDM "Initializing IA-32e Mode": not from or to 64-bit code, and only with PAE; PCIDs need the mode. */
		if (code64 || (cr0 & CR0_PG ? !(cr4 & CR4_PAE) : cr4 & CR4_PCIDE))
			return -E_INVAL;
		load_efer(cr0 & CR0_PG ? efer | EFER_LMA : efer & ~EFER_LMA);
	} else if ((cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA) && (flips & (CR0_CD | CR0_NW | CR0_PG)) &&
		   load_pdptes(v)) {
		return -E_INVAL;
	}
	load_cr0(v, cr0);
	vmx_invvpid(v->vpid);
	return 0;
}

void vcpu_advance(struct vcpu *v, u32 inst_len)
{
	u64 rip = v->s.rip + inst_len;
	u32 block = vmcs_read(VMCS_GUEST_INTERRUPTIBILITY);

	/* Only 64-bit code may cross 4 GiB. */
	if ((rip ^ v->s.rip) >> 32 && !(vmcs_read(VMCS_GUEST_AR(SEG_CS)) & BIT(13)))
		rip = (u32)rip;
	vcpu_set_rip(v, rip);
	if (block & (BLOCK_STI | BLOCK_MOV_SS))
		vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, block & ~(u32)(BLOCK_STI | BLOCK_MOV_SS));
	if (!(v->s.rflags & (RFLAGS_TF | RFLAGS_RF)))
		return;
	/* SDM "Pending Debug Exceptions": BS, because the instruction that we completed was single-stepped. */
	if ((v->s.rflags & RFLAGS_TF) && !(vmcs_read(VMCS_GUEST_DEBUGCTL) & DEBUGCTL_BTF))
		vmcs_write(VMCS_GUEST_PENDING_DBG, vmcs_read(VMCS_GUEST_PENDING_DBG) | DR6_BS);
	/* RF lasts for one instruction; EPT violations save it set (SDM "Saving RIP, RSP, RFLAGS, and SSP"). */
	if (v->s.rflags & RFLAGS_RF)
		vcpu_set_rflags(v, v->s.rflags & ~RFLAGS_RF);
}
