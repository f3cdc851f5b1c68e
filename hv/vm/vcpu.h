/* SPDX-License-Identifier: MIT */
/* A virtual CPU and its run loop. Invariant: at the top of the loop all guest state is in the VMCS, in
 * struct vcpu_state, or in device state; a vCPU pauses only there. */
#pragma once
#include "hv/vm/emulate.h"
#include "hv/vm/vcpu_state.h"
#include "hv/vm/vm.h"

struct vmexit;

struct vcpu {
	struct vcpu_state s;      /* gprs, xsave, cr2, drs and MSRs that the VMCS does not hold are live here */
	struct vm *vm;
	unsigned id;
	struct vdev *lapic;
	void *vmcs;               /* VMCS region frame */
	void *apic_page;          /* virtual-APIC page frame; NULL: this host delivers interrupts in software only */
	bool apicv;               /* the CPU delivers them now (the guest's in x2APIC mode) */
	u32 base_ctls;            /* processor-based controls without windows */
	u8 *xsave_area;           /* 64-byte aligned frame; s.xsave is its copy after vcpu_sync_state() */
	u16 vpid;
	bool launched;            /* VMLAUNCH done since VMCLEAR */
	u32 proc_ctls;            /* as last written */
	u64 tsc_offset;           /* as last written */
	bool irq_check;           /* see vcpu_irq_check() */
	bool irq_again;           /* more is waiting behind what is being injected: irq_check after the next exit */
	bool yields;              /* it spins for something that another vCPU has: leave the run loop */
	bool in_guest;            /* about to enter, in the guest, or just out: an NMI makes it look at what is pending */
	bool on_cpu;              /* some CPU is in vcpu_run() for it, or about to be; only then its VMCS may be loaded there */
	struct cpu *cpu;          /* where it runs or ran last */
	u64 ept_generation;       /* of vm's when that CPU was last flushed for it */
	u64 exits;
	u64 spun;                 /* when it yielded last (sched.c) */
	u64 vruntime, uncharged;  /* host ticks that it ran, by weight, and what is less than one of those (sched.c) */
	struct emu_cache emu_cache;
	u64 run_tsc;              /* host ticks spent in the guest */
};

/* Makes vCPU id of vm at reset state. -E_NOMEM */
int vcpu_create(struct vm *vm, unsigned id) __must_check;
void vcpu_destroy(struct vcpu *v);
/* Power-on state as the SDM has it, "Processor State After Reset". */
void vcpu_reset(struct vcpu *v);
/* Runs the guest until host TSC deadline, or it halts, pauses, dies. true: it halted and wants to sleep until its next_deadline. */
bool vcpu_run(struct vcpu *v, u64 deadline_tsc);
/* Puts v into this CPU's hardware: its VMCS is the current one, its MSRs, CR2 and debug registers are live (vcpu_regs.c). */
void vcpu_make_current(struct vcpu *v);
/* Takes v out of this CPU's hardware (VMCLEAR and all), so that any CPU may run it next. */
void vcpu_put(struct vcpu *v);
/* Has v look at what is pending soon, wherever it is. */
void vcpu_kick(struct vcpu *v);
/* Whether it would do something if it ran now: it is not halted, something waits for it, or a timer of its devices is due. */
bool vcpu_runnable(struct vcpu *v);
/* Copies VMCS-held state into v->s / back. */
void vcpu_sync_state(struct vcpu *v);
void vcpu_load_state(struct vcpu *v);
/* The only place that moves RIP: past the exiting instruction; clears STI/MOV-SS blocking, honours TF. */
void vcpu_advance(struct vcpu *v, u32 inst_len);
/* v->s.rip, rsp (gpr[VCPU_RSP]) and rflags are valid copies while an exit is handled; these write both copies. */
void vcpu_set_rip(struct vcpu *v, u64 rip);
void vcpu_set_rsp(struct vcpu *v, u64 rsp);
void vcpu_set_rflags(struct vcpu *v, u64 rflags);
/* Forgets v's live FPU state: it is about to be replaced. */
void fpu_drop(struct vcpu *v);
/* MOV to CR0/CR4 by the guest. -E_INVAL: #GP. */
int vcpu_write_cr0(struct vcpu *v, u64 cr0) __must_check;
int vcpu_write_cr4(struct vcpu *v, u64 cr4) __must_check;
/* An interrupt or NMI window opened: no window exits until the next look at what is pending. */
void vcpu_open_window(struct vcpu *v);
/* CR4 and CR0 as the guest sees them. */
u64 vcpu_cr4(struct vcpu *v);
u64 vcpu_cr0(struct vcpu *v);
/* MMIO access to v's local APIC in xAPIC mode; false if at is not in its page or the mode is another. */
bool vcpu_apic_mmio(struct vcpu *v, u64 at, unsigned size, bool write, u64 *val);
/* Saves live guest FPU state if any, so that SSE may be used (fpu.c). */
void fpu_release(void);
/* Makes v's FPU state live. */
void fpu_acquire(struct vcpu *v);
void fpu_init(void);
/* State components guests may have (XCR0 bits), and XSETBV as the guest executes it. -E_INVAL: #GP. */
u64 fpu_guest_xcr0_mask(void);
int fpu_xsetbv(struct vcpu *v, u64 xcr0) __must_check;
/* Whether XSETBV takes that value on a CPU with the components of mask (SDM "Extended Control Registers (Including XCR0)"):
 * x87 always; AVX needs SSE; the AVX-512 three come together and need AVX. */
static inline bool fpu_xcr0_ok(u64 xcr0, u64 mask)
{
	u64 avx512 = xcr0 & 0xe0;

	return !(xcr0 & ~mask) && (xcr0 & 1) && (!(xcr0 & 4) || (xcr0 & 2)) && (!avx512 || (avx512 == 0xe0 && (xcr0 & 4)));
}
/* Whether an XSAVE image from outside is one that XRSTOR takes without fault. */
bool fpu_image_ok(const u8 *xsave, u64 xcr0);
/* Queues an exception for the next entry. */
void vcpu_inject(struct vcpu *v, u8 vector, bool has_error, u32 error);
