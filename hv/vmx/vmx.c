/* SPDX-License-Identifier: MIT */
#include "hv/vmx/vmx.h"
#include "hv/arch/cpu.h"
#include "hv/arch/x86.h"
#include "hv/mm/frame.h"
#include "hv/vmx/vmcs.h"

struct vmx_config vmx_config;
/* TSC ticks. PAUSEs that are closer together than the gap are one loop; one that lasts longer than the window, a few times what
 * the usual lock is held for, exits. */
#define PLE_GAP 128
#define PLE_WINDOW 4096

/* For all guests: the MSR policy is one table. The second page is for x2APICs that the CPU looks after. */
static u8 *msr_bitmap;

extern char vmx_exit[];

static void open_msr(u8 *map, u32 msr, bool read, bool write)
{
	u32 base = 0;

	/* SDM "MSR-Bitmap Address": read low, read high, write low, write high, 1 KiB each. */
	if (msr >= 0xc0000000 && msr <= 0xc0001fff)
		base = 1024 * 8;
	else if (msr > 0x1fff)
		return;
	u32 bit = base + (msr & 0x1fff);

	if (read)
		map[bit / 8] &= (u8)~BIT(bit % 8);
	bit += 2048 * 8;
	if (write)
		map[bit / 8] &= (u8)~BIT(bit % 8);
}

void vmx_msr_passthrough(u32 msr, bool read, bool write)
{
	open_msr(msr_bitmap, msr, read, write);
	open_msr(msr_bitmap + PAGE_SIZE, msr, read, write);
}

int vmx_init(bool apicv, struct error *e)
{
	const struct host_caps *host = host_caps();
	const struct vmx_caps *caps = &host->vmx;
	struct vmx_config *c = &vmx_config;
	const struct { u64 cap; const char *what; u64 need, want; u32 *out; } controls[] = {
		{ caps->pin, "pin-based", PIN_EXT_INT | PIN_NMI | PIN_PREEMPTION_TIMER | PIN_VIRTUAL_NMI, 0, &c->pin },
		{ caps->proc, "processor-based",
		  PROC_TSC_OFFSETTING | PROC_HLT | PROC_MWAIT | PROC_RDPMC | PROC_CR8_LOAD | PROC_CR8_STORE | PROC_UNCOND_IO |
		  PROC_MSR_BITMAP | PROC_MONITOR | PROC_SECONDARY, 0, &c->proc },
		{ caps->proc2, "secondary", PROC2_EPT | PROC2_UNRESTRICTED | PROC2_WBINVD,
		  PROC2_RDTSCP | (host->vpid ? PROC2_VPID : 0) | PROC2_INVPCID | PROC2_PAUSE_LOOP | PROC2_TSC_SCALING, &c->proc2 },
		{ caps->exit, "exit", EXIT_SAVE_DEBUG | EXIT_HOST_64 | EXIT_ACK_INT | EXIT_SAVE_PAT | EXIT_LOAD_PAT | EXIT_SAVE_EFER |
		  EXIT_LOAD_EFER, 0, &c->exit },
		{ caps->entry, "entry", ENTRY_LOAD_DEBUG | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER, 0, &c->entry },
	};

	/* SDM "VMX Capability Reporting Facility": low half of cap = bits that must be 1, high half = bits that may be 1. */
	for (unsigned i = 0; i < ARRAY_SIZE(controls); i++) {
		u64 need = controls[i].need, must = (u32)controls[i].cap, may = controls[i].cap >> 32;

		if (need & ~may)
			return error_set(e, E_UNSUPPORTED, "VMX %s controls: this CPU lacks bits %#lx that Godwit needs", controls[i].what,
					 (unsigned long)(need & ~may));
		*controls[i].out = (u32)(must | need | (controls[i].want & may));
	}
	c->revision = (u32)caps->basic & 0x7fffffff;
	c->preemption_shift = host->preemption_timer_shift;
	c->tsc_scaling = host->tsc_scaling;
	c->vpid = host->vpid;
	c->apicv = apicv && (caps->proc >> 32 & PROC_TPR_SHADOW) && (caps->proc2 >> 32 & PROC2_X2APIC) &&
		   (caps->proc2 >> 32 & PROC2_INTERRUPT_DELIVERY);

	msr_bitmap = frame_alloc_n(2);
	if (!msr_bitmap)
		return error_set(e, E_NOMEM, "no memory for VMX; give this machine more RAM");
	__builtin_memset(msr_bitmap, 0xff, 2 * PAGE_SIZE);
	/* SDM "Virtualizing MSR-Based APIC Accesses": TPR, EOI and self-IPI then need no exit. */
	open_msr(msr_bitmap + PAGE_SIZE, 0x808, true, true);
	open_msr(msr_bitmap + PAGE_SIZE, 0x80b, false, true);
	open_msr(msr_bitmap + PAGE_SIZE, 0x83f, false, true);
	return 0;
}

/* In the NMI handler: whatever VMCS is current, its next entry ends at once. Without one this fails, which does no harm. */
static void expire_preemption_timer(void)
{
	__asm__ volatile("vmwrite %1, %0" : : "r"((u64)VMCS_PREEMPTION_TIMER.enc), "r"(0ull) : "cc");
}

int vmx_on(struct error *e)
{
	struct cpu *c = this_cpu();
	u64 pa, control = rdmsr(MSR_IA32_FEATURE_CONTROL), want = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX_OUTSIDE_SMX;
	u8 fail;

	/* Firmware sets it on every CPU or on none; where it left it open, cpu_check() did the boot CPU's. */
	if (!(control & FEATURE_CONTROL_LOCK))
		wrmsr(MSR_IA32_FEATURE_CONTROL, control | want);
	else if (!(control & FEATURE_CONTROL_VMX_OUTSIDE_SMX))
		return error_set(e, E_UNSUPPORTED, "CPU %u: firmware has locked VMX off; update the firmware", c->id);
	c->vmxon = frame_alloc();
	if (!c->vmxon)
		return error_set(e, E_NOMEM, "no memory for VMXON; give this machine more RAM");
	/* SDM "Restrictions on VMX Operation": CR0 and CR4 fixed bits. */
	write_cr0((read_cr0() | rdmsr(MSR_IA32_VMX_CR0_FIXED0)) & rdmsr(MSR_IA32_VMX_CR0_FIXED1));
	write_cr4((read_cr4() | rdmsr(MSR_IA32_VMX_CR4_FIXED0)) & rdmsr(MSR_IA32_VMX_CR4_FIXED1));
	*(u32 *)c->vmxon = vmx_config.revision;
	pa = ptr_hpa(c->vmxon).v;
	__asm__ volatile("vmxon %1; setna %0" : "=qm"(fail) : "m"(pa) : "cc", "memory");
	if (fail)
		return error_set(e, E_UNSUPPORTED,
				 "VMXON failed although the CPU reports VMX; another hypervisor may hold it, or the firmware "
				 "locked it off: switch on Intel Virtualization Technology (VT-x) in the firmware set-up");
	cpu_kick_hook = expire_preemption_timer;
	vmx_config.on = true;
	return 0;
}

void vmx_vmcs_clear(void *vmcs)
{
	u64 pa = ptr_hpa(vmcs).v;

	__asm__ volatile("vmclear %0" : : "m"(pa) : "cc", "memory");
}

void vmx_vmcs_load(void *vmcs)
{
	u64 pa = ptr_hpa(vmcs).v;

	__asm__ volatile("vmptrld %0" : : "m"(pa) : "cc", "memory");
}

void vmx_vmcs_init(void *vmcs)
{
	*(u32 *)vmcs = vmx_config.revision;
	vmx_vmcs_clear(vmcs);
}

void vmx_vmcs_setup(u64 eptp, u16 vpid, const void *apic_page)
{
	const struct vmx_config *c = &vmx_config;

	vmcs_write(VMCS_PIN_CTLS, c->pin);
	vmcs_write(VMCS_PROC_CTLS, c->proc);
	vmcs_write(VMCS_PROC2_CTLS, c->proc2);
	vmcs_write(VMCS_EXIT_CTLS, c->exit);
	vmcs_write(VMCS_ENTRY_CTLS, c->entry);
	/* #DB and #AC: a guest can make their delivery raise them again without end, which nothing else interrupts. #MC is
	 * the host's. */
	vmcs_write(VMCS_EXCEPTION_BITMAP, (u32)(BIT(VEC_DB) | BIT(VEC_AC) | BIT(VEC_MC)));
	vmcs_write(VMCS_PF_MASK, 0);
	vmcs_write(VMCS_PF_MATCH, 0);
	vmcs_write(VMCS_CR3_TARGETS, 0);
	vmcs_write(VMCS_EXIT_MSR_STORE_COUNT, 0);
	vmcs_write(VMCS_EXIT_MSR_LOAD_COUNT, 0);
	vmcs_write(VMCS_ENTRY_MSR_LOAD_COUNT, 0);
	vmcs_write(VMCS_MSR_BITMAP, ptr_hpa(msr_bitmap).v);
	vmcs_write(VMCS_EPTP, eptp);
	if (apic_page) {
		vmcs_write(VMCS_VIRTUAL_APIC, ptr_hpa((void *)(uintptr_t)apic_page).v);
		vmcs_write(VMCS_TPR_THRESHOLD, 0);
	}
	if (c->vpid)
		vmcs_write(VMCS_VPID, vpid);
	if (c->proc2 & PROC2_PAUSE_LOOP) {
		vmcs_write(VMCS_PLE_GAP, PLE_GAP);
		vmcs_write(VMCS_PLE_WINDOW, PLE_WINDOW);
	}
	vmcs_write(VMCS_LINK_POINTER, ~0ull);

	vmcs_write(VMCS_HOST_CR0, read_cr0());
	vmcs_write(VMCS_HOST_CR3, read_cr3());
	vmcs_write(VMCS_HOST_CR4, read_cr4());
	vmcs_write(VMCS_HOST_ES_SEL, 0);
	vmcs_write(VMCS_HOST_DS_SEL, 0);
	vmcs_write(VMCS_HOST_SS_SEL, read_ss() & ~7);
	vmcs_write(VMCS_HOST_CS_SEL, read_cs() & ~7);
	vmcs_write(VMCS_HOST_FS_SEL, 0);
	vmcs_write(VMCS_HOST_GS_SEL, 0);
	vmcs_write(VMCS_HOST_TR_SEL, SEL_TSS);
	vmcs_write(VMCS_HOST_IDTR_BASE, cpu_idt_base());
	vmcs_write(VMCS_HOST_SYSENTER_CS, 0);
	vmcs_write(VMCS_HOST_SYSENTER_ESP, 0);
	vmcs_write(VMCS_HOST_SYSENTER_EIP, 0);
	vmcs_write(VMCS_HOST_PAT, rdmsr(MSR_IA32_PAT));
	vmcs_write(VMCS_HOST_EFER, rdmsr(MSR_IA32_EFER));
	vmcs_write(VMCS_HOST_RIP, (u64)vmx_exit);
}

u32 vmx_vmcs_set_apicv(bool on)
{
	const struct vmx_config *c = &vmx_config;

	vmcs_write(VMCS_PROC2_CTLS, on ? c->proc2 | (u32)(PROC2_X2APIC | PROC2_INTERRUPT_DELIVERY) : c->proc2);
	vmcs_write(VMCS_MSR_BITMAP, ptr_hpa(msr_bitmap + (on ? PAGE_SIZE : 0)).v);
	return on ? (c->proc | (u32)PROC_TPR_SHADOW) & ~(u32)(PROC_CR8_LOAD | PROC_CR8_STORE) : c->proc;
}

void vmx_vmcs_set_cpu(void)
{
	vmcs_write(VMCS_HOST_FS_BASE, rdmsr(MSR_IA32_FS_BASE));
	vmcs_write(VMCS_HOST_GS_BASE, rdmsr(MSR_IA32_GS_BASE));
	vmcs_write(VMCS_HOST_TR_BASE, cpu_tss_base());
	vmcs_write(VMCS_HOST_GDTR_BASE, cpu_gdt_base());
}

void vmx_invept(u64 eptp)
{
	struct { u64 eptp, zero; } desc = { eptp, 0 };

	/* Type 1: one context, 2: all (SDM "INVEPT"). */
	__asm__ volatile("invept %0, %1" : : "m"(desc), "r"(host_caps()->invept_single ? 1ull : 2ull) : "cc", "memory");
}

void vmx_invvpid(u16 vpid)
{
	struct { u64 vpid, la; } desc = { vpid, 0 };

	if (vmx_config.vpid)
		__asm__ volatile("invvpid %0, %1" : : "m"(desc), "r"(host_caps()->invvpid_single ? 1ull : 2ull) : "cc", "memory");
}
