/* SPDX-License-Identifier: MIT */
/* VMX mechanism on one CPU: on and off, control negotiation, VMCS regions, entry. No policy. */
#pragma once
#include "hv/lib/err.h"
#include "hv/vm/vcpu_state.h"

/* Pin-, processor-based and secondary controls by SDM name ("VM-Execution Control Fields"). */
#define PIN_EXT_INT BIT(0)
#define PIN_NMI BIT(3)
#define PIN_VIRTUAL_NMI BIT(5)
#define PIN_PREEMPTION_TIMER BIT(6)
#define PROC_INTERRUPT_WINDOW BIT(2)
#define PROC_TSC_OFFSETTING BIT(3)
#define PROC_HLT BIT(7)
#define PROC_MWAIT BIT(10)
#define PROC_RDPMC BIT(11)
#define PROC_CR8_LOAD BIT(19)
#define PROC_CR8_STORE BIT(20)
#define PROC_TPR_SHADOW BIT(21)
#define PROC_NMI_WINDOW BIT(22)
#define PROC_UNCOND_IO BIT(24)
#define PROC_MSR_BITMAP BIT(28)
#define PROC_MONITOR BIT(29)
#define PROC_SECONDARY BIT(31)
#define PROC2_EPT BIT(1)
#define PROC2_RDTSCP BIT(3)
#define PROC2_X2APIC BIT(4)
#define PROC2_VPID BIT(5)
#define PROC2_WBINVD BIT(6)
#define PROC2_UNRESTRICTED BIT(7)
#define PROC2_INTERRUPT_DELIVERY BIT(9)
#define PROC2_PAUSE_LOOP BIT(10)
#define PROC2_INVPCID BIT(12)
#define PROC2_TSC_SCALING BIT(25)
#define EXIT_SAVE_DEBUG BIT(2)
#define EXIT_HOST_64 BIT(9)
#define EXIT_ACK_INT BIT(15)
#define EXIT_SAVE_PAT BIT(18)
#define EXIT_LOAD_PAT BIT(19)
#define EXIT_SAVE_EFER BIT(20)
#define EXIT_LOAD_EFER BIT(21)
#define ENTRY_LOAD_DEBUG BIT(2)
#define ENTRY_IA32E BIT(9)
#define ENTRY_LOAD_PAT BIT(14)
#define ENTRY_LOAD_EFER BIT(15)

/* Interruption-information format (SDM "VM-Entry Controls for Event Injection"). */
#define INTR_VALID BIT(31)
#define INTR_ERROR_CODE BIT(11)
#define INTR_TYPE(info) ((info) >> 8 & 7)
enum { INTR_EXT = 0, INTR_NMI = 2, INTR_HW_EXCEPTION = 3, INTR_SOFT_INT = 4, INTR_PRIV_SW = 5, INTR_SW_EXCEPTION = 6 };

/* Interruptibility-state bits. */
#define BLOCK_STI BIT(0)
#define BLOCK_MOV_SS BIT(1)
#define BLOCK_NMI BIT(3)

/* What negotiation settled on; constant after vmx_on() on the boot CPU. */
struct vmx_config {
	bool on;             /* VMXON has worked, on the boot CPU at least; else every VMX instruction is #UD */
	u32 revision, pin, proc, proc2, exit, entry;
	u8 preemption_shift; /* timer counts once per 2^shift TSC ticks */
	bool tsc_scaling, vpid;
	bool apicv;          /* an x2APIC's interrupts can be delivered by the CPU: vmx_vmcs_set_apicv() */
};
extern struct vmx_config vmx_config;

/* Negotiates controls. apicv: whether APIC virtualization may be used. -E_UNSUPPORTED with *e naming what is missing. */
int vmx_init(bool apicv, struct error *e) __must_check;
/* VMXON on this CPU, after vmx_init() on the first. -E_UNSUPPORTED, -E_NOMEM. */
int vmx_on(struct error *e) __must_check;
/* Makes vmcs (a zeroed frame) a cleared VMCS region with our revision. */
void vmx_vmcs_init(void *vmcs);
/* VMCLEAR / VMPTRLD. */
void vmx_vmcs_clear(void *vmcs);
void vmx_vmcs_load(void *vmcs);
/* Writes control and host fields of the current VMCS. eptp: ept_pointer(); vpid != 0; apic_page: virtual-APIC page, or NULL. */
void vmx_vmcs_setup(u64 eptp, u16 vpid, const void *apic_page);
/* Virtualization of x2APIC mode and virtual-interrupt delivery on or off, in the current VMCS, which has an apic_page. Returns
 * the processor-based controls that go with it, for the caller to write. */
u32 vmx_vmcs_set_apicv(bool on);
/* Writes the host fields that differ from CPU to CPU: before the current VMCS is first entered on this one. */
void vmx_vmcs_set_cpu(void);
/* INVEPT of that context. */
void vmx_invept(u64 eptp);
/* INVVPID of that VPID's linear mappings. */
void vmx_invvpid(u16 vpid);
/* Enters the guest. Loads and stores all GPRs but RSP in gpr[]. 0: exited normally; 1: VMfailInvalid, 2: VMfailValid. */
int vmx_enter(u64 *gpr, u64 launched);
/* Guest access to an MSR without exit; true: read / write. */
void vmx_msr_passthrough(u32 msr, bool read, bool write);
