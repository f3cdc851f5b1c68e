/* SPDX-License-Identifier: MIT */
#include "hv/vm/exit.h"
#include "hv/arch/cpu.h"
#include "hv/arch/x86.h"
#include "hv/lib/log.h"
#include "hv/vdev/devices.h"
#include "hv/vm/bus.h"
#include "hv/vm/cpuid.h"
#include "hv/vm/emulate.h"
#include "hv/vm/guest_mem.h"
#include "hv/vm/msr.h"
#include "hv/vm/sched.h"
#include "hv/vmx/event.h"
#include "hv/vmx/vmcs.h"
#include "hv/vmx/vmx.h"

/* SDM "VMX Basic Exit Reasons". */
enum {
	X_EXCEPTION_NMI = 0, X_EXT_INT = 1, X_TRIPLE_FAULT = 2, X_INIT = 3, X_SIPI = 4, X_INT_WINDOW = 7, X_NMI_WINDOW = 8,
	X_TASK_SWITCH = 9, X_CPUID = 10, X_GETSEC = 11, X_HLT = 12, X_INVD = 13, X_RDPMC = 15, X_VMCALL = 18,
	X_VMX_FIRST = 19, X_VMX_LAST = 27, X_CR = 28, X_DR = 29, X_IO = 30, X_RDMSR = 31, X_WRMSR = 32, X_ENTRY_GUEST = 33,
	X_ENTRY_MSR = 34, X_MWAIT = 36, X_MONITOR = 39, X_PAUSE = 40, X_ENTRY_MC = 41, X_EOI = 45, X_EPT_VIOLATION = 48,
	X_EPT_MISCONFIG = 49, X_INVEPT = 50, X_PREEMPTION = 52, X_INVVPID = 53, X_WBINVD = 54, X_XSETBV = 55, X_APIC_WRITE = 56,
	X_SEAMCALL = 76, X_TDCALL = 77,
};
#define X_REASON_MASK 0xffffu
#define KVM_ENOSYS 1000

/* What the exit says, and v's copies of RIP, RSP, RFLAGS; an event whose delivery was cut short is queued again. */
static void decode(struct vcpu *v, struct vmexit *x)
{
	u32 reason = vmcs_read(VMCS_EXIT_REASON), idt = vmcs_read(VMCS_IDT_INFO);

	x->reason = reason & X_REASON_MASK;
	x->inst_len = vmcs_read(VMCS_EXIT_INST_LEN);
	x->qual = vmcs_read(VMCS_EXIT_QUALIFICATION);
	x->intr_info = x->reason <= X_EXT_INT ? vmcs_read(VMCS_EXIT_INTR_INFO) : 0;
	v->s.rip = vmcs_read(VMCS_GUEST_RIP);
	v->s.gpr[VCPU_RSP] = vmcs_read(VMCS_GUEST_RSP);
	v->s.rflags = vmcs_read(VMCS_GUEST_RFLAGS);
	if (idt & INTR_VALID) {
		struct event ev = event_reinject(idt, vmcs_read(VMCS_IDT_ERROR), x->inst_len);

		v->s.event_info = ev.info;
		v->s.event_error = ev.error;
		v->s.event_len = ev.len;
		/* SDM "Checks on Guest Non-Register State": an NMI is injected only where NMIs are not blocked. */
		if (INTR_TYPE(idt) == INTR_NMI)
			vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, vmcs_read(VMCS_GUEST_INTERRUPTIBILITY) & ~(u32)BLOCK_NMI);
	}
}

static enum vmexit_ret inject_gp(struct vcpu *v)
{
	vcpu_inject(v, VEC_GP, true, 0);
	return VMEXIT_RESUME;
}

static enum vmexit_ret x_undefined(struct vcpu *v, const struct vmexit *x)
{
	vcpu_inject(v, VEC_UD, false, 0);
	return VMEXIT_RESUME;
}

static enum vmexit_ret x_gp(struct vcpu *v, const struct vmexit *x) { return inject_gp(v); }
static enum vmexit_ret x_skip(struct vcpu *v, const struct vmexit *x) { return VMEXIT_ADVANCE; }
static enum vmexit_ret x_resume(struct vcpu *v, const struct vmexit *x) { return VMEXIT_RESUME; }

/* IRET had just unblocked NMIs when it faulted; it will run again. */
static void block_nmi_again(struct vcpu *v, u64 unblocking)
{
	if (unblocking && !(v->s.event_info & INTR_VALID))
		vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, vmcs_read(VMCS_GUEST_INTERRUPTIBILITY) | (u32)BLOCK_NMI);
}

/* The guest's own #DB: what its delivery changes is left to us (SDM "Architectural State Before a VM Exit"). */
static void debug_exception(struct vcpu *v, const struct vmexit *x)
{
	vmcs_write(VMCS_GUEST_DR7, vmcs_read(VMCS_GUEST_DR7) & ~DR7_GD);
	vmcs_write(VMCS_GUEST_DEBUGCTL, vmcs_read(VMCS_GUEST_DEBUGCTL) & ~DEBUGCTL_BTF);
	vmcs_write(VMCS_GUEST_INTERRUPTIBILITY,
		   vmcs_read(VMCS_GUEST_INTERRUPTIBILITY) & ~(u32)(BLOCK_STI | BLOCK_MOV_SS));
	if (INTR_TYPE(x->intr_info) == INTR_HW_EXCEPTION) {
		write_dr6((read_dr6() & ~DR6_B) | (x->qual & (DR6_B | DR6_BD | DR6_BS)));
		vcpu_inject(v, VEC_DB, false, 0);
	} else { /* INT1 */
		v->s.event_info = (u32)INTR_VALID | INTR_PRIV_SW << 8 | VEC_DB;
		v->s.event_error = 0;
		v->s.event_len = x->inst_len;
	}
}

/* A host NMI (a kick, or the machine's own), or an exception of the bitmap (vmx_vmcs_setup()). */
static enum vmexit_ret x_exception(struct vcpu *v, const struct vmexit *x)
{
	if (INTR_TYPE(x->intr_info) == INTR_NMI) {
		cpu_nmi(); /* through the IDT: its IRET opens the way for the next one */
		return VMEXIT_RESUME;
	}
	switch (x->intr_info & 0xff) {
	case VEC_DB:
		debug_exception(v, x);
		return VMEXIT_RESUME;
	case VEC_AC:
		block_nmi_again(v, x->intr_info & BIT(12));
		vcpu_inject(v, VEC_AC, true, 0);
		return VMEXIT_RESUME;
	case VEC_MC:
		cpu_machine_check();
	}
	vm_kill(v->vm, "unexpected exception exit %#x", x->intr_info);
	return VMEXIT_KILL;
}

/* No device of the host interrupts; whatever does is acknowledged (the exit did that) and ended. */
static enum vmexit_ret x_ext_int(struct vcpu *v, const struct vmexit *x)
{
	cpu_apic_eoi();
	return VMEXIT_RESUME;
}

static enum vmexit_ret x_triple_fault(struct vcpu *v, const struct vmexit *x)
{
	vm_kill(v->vm, "triple fault at rip %#llx: the guest crashed", (unsigned long long)v->s.rip);
	return VMEXIT_KILL;
}

static enum vmexit_ret x_window(struct vcpu *v, const struct vmexit *x)
{
	vcpu_open_window(v);
	return VMEXIT_RESUME;
}

static enum vmexit_ret x_cpuid(struct vcpu *v, const struct vmexit *x)
{
	cpuid_exit(v);
	return VMEXIT_ADVANCE;
}

static enum vmexit_ret x_hlt(struct vcpu *v, const struct vmexit *x)
{
	if (!(v->s.rflags & RFLAGS_TF)) /* else the single-step trap that follows would end it at once */
		v->s.activity = ACTIVITY_HLT;
	v->irq_check = true; /* what waited for a window is deliverable now */
	return VMEXIT_ADVANCE;
}

/* It spins (SDM "Pause-Loop Exiting"). Who it waits for may be waiting for a CPU. */
static enum vmexit_ret x_pause(struct vcpu *v, const struct vmexit *x)
{
	v->yields = sched_others_wait(v);
	return VMEXIT_ADVANCE;
}

/* No hypercalls yet; the answer is KVM's "no such call". */
static enum vmexit_ret x_vmcall(struct vcpu *v, const struct vmexit *x)
{
	v->s.gpr[VCPU_RAX] = (u64)-KVM_ENOSYS;
	return VMEXIT_ADVANCE;
}

/* SDM "Exit Qualification for Control-Register Accesses". CLTS and LMSW do not exit: the bits that they write are the guest's. */
static enum vmexit_ret x_cr(struct vcpu *v, const struct vmexit *x)
{
	unsigned cr = x->qual & 15, type = x->qual >> 4 & 3, reg = x->qual >> 8 & 15;

	switch (type) {
	case 0: { /* MOV to CR */
		u64 val = v->s.gpr[reg];

		if (!(vmcs_read(VMCS_GUEST_EFER) & EFER_LMA))
			val = (u32)val;
		if (cr == 0)
			return vcpu_write_cr0(v, val) ? inject_gp(v) : VMEXIT_ADVANCE;
		if (cr == 4)
			return vcpu_write_cr4(v, val) ? inject_gp(v) : VMEXIT_ADVANCE;
		if (cr == 8) {
			if (val >> 4)
				return inject_gp(v);
			lapic_set_cr8(v->lapic, (u8)val);
			return VMEXIT_ADVANCE;
		}
		break;
	}
	case 1: /* MOV from CR: only CR8 exits */
		if (cr == 8) {
			if (reg == VCPU_RSP)
				vcpu_set_rsp(v, lapic_cr8(v->lapic));
			else
				v->s.gpr[reg] = lapic_cr8(v->lapic);
			return VMEXIT_ADVANCE;
		}
		break;
	}
	vm_kill(v->vm, "unexpected access to CR%u (qualification %#llx)", cr, (unsigned long long)x->qual);
	return VMEXIT_KILL;
}

static enum vmexit_ret emulated(struct vcpu *v, enum emu_result r, u32 len)
{
	char what[120];

	switch (r) {
	case EMU_OK:
		if (len) /* 0: a repeated string instruction goes on */
			vcpu_advance(v, len);
		return VMEXIT_RESUME;
	case EMU_FAULT:
		return VMEXIT_RESUME;
	case EMU_UNSUPPORTED:
		break;
	}
	log_guard();
	emulate_describe(v, what, sizeof(what));
	vm_kill(v->vm, "device access by an instruction that Godwit does not emulate: %s", what);
	return VMEXIT_KILL;
}

/* SDM "Exit Qualification for I/O Instructions". */
static enum vmexit_ret x_io(struct vcpu *v, const struct vmexit *x)
{
	unsigned size = (x->qual & 7) + 1;
	bool in = x->qual & BIT(3);
	u64 val, *rax = &v->s.gpr[VCPU_RAX];

	if (x->qual & BIT(4)) {
		u32 len = x->inst_len;

		return emulated(v, emulate_string_io(v, x->qual, vmcs_read(VMCS_EXIT_INST_INFO), &len), len);
	}
	if (in) {
		bus_pio(v->vm, (u16)(x->qual >> 16), size, false, &val);
		if (size == 4)
			*rax = (u32)val;
		else
			__builtin_memcpy(rax, &val, size);
	} else {
		val = size == 4 ? (u32)*rax : *rax & (BIT(8 * size) - 1);
		bus_pio(v->vm, (u16)(x->qual >> 16), size, true, &val);
	}
	return VMEXIT_ADVANCE;
}

static enum vmexit_ret x_rdmsr(struct vcpu *v, const struct vmexit *x)
{
	u64 val;

	if (msr_read(v, (u32)v->s.gpr[VCPU_RCX], &val))
		return inject_gp(v);
	v->s.gpr[VCPU_RAX] = (u32)val;
	v->s.gpr[VCPU_RDX] = val >> 32;
	return VMEXIT_ADVANCE;
}

static enum vmexit_ret x_wrmsr(struct vcpu *v, const struct vmexit *x)
{
	u64 val = v->s.gpr[VCPU_RDX] << 32 | (u32)v->s.gpr[VCPU_RAX];

	return msr_write(v, (u32)v->s.gpr[VCPU_RCX], val) ? inject_gp(v) : VMEXIT_ADVANCE;
}

static enum vmexit_ret x_xsetbv(struct vcpu *v, const struct vmexit *x)
{
	u64 val = v->s.gpr[VCPU_RDX] << 32 | (u32)v->s.gpr[VCPU_RAX];

	if ((u32)v->s.gpr[VCPU_RCX] || (val & ~cpuid_xcr0_mask(v->vm)) || fpu_xsetbv(v, val))
		return inject_gp(v);
	return VMEXIT_ADVANCE;
}

static enum vmexit_ret x_ept_violation(struct vcpu *v, const struct vmexit *x)
{
	gpa_t at = gpa(vmcs_read(VMCS_GUEST_PA));

	block_nmi_again(v, x->qual & BIT(12)); /* SDM "Exit Qualification for EPT Violations" */
	if (guest_mem_touch(v->vm, at))
		return VMEXIT_RESUME;
	if (v->s.event_info & INTR_VALID) {
		vm_kill(v->vm, "an interrupt or exception could not be delivered: its stack or table is at %#llx, which is no RAM",
			(unsigned long long)at.v);
		return VMEXIT_KILL;
	}
	u32 len;
	enum emu_result r;

	/* SDM "Exit Qualification for EPT Violations": bit 2, a fetch; bit 8 clear, a walk of the guest's own page tables. */
	if (x->qual & BIT(2) || !(x->qual & BIT(8))) {
		vm_kill(v->vm, "%s at guest-physical %#llx, which is no RAM (rip %#llx)",
			x->qual & BIT(2) ? "instructions are fetched" : "page tables are", (unsigned long long)at.v,
			(unsigned long long)v->s.rip);
		return VMEXIT_KILL;
	}
	r = emulate_mmio(v, at, &len);

	return emulated(v, r, len);
}

/* Both after the instruction. The first only for level-triggered interrupts (SDM "EOI Virtualization"). */
static enum vmexit_ret x_eoi(struct vcpu *v, const struct vmexit *x)
{
	ioapic_eoi(v->vm, (u8)x->qual);
	return VMEXIT_RESUME;
}

static enum vmexit_ret x_apic_write(struct vcpu *v, const struct vmexit *x)
{
	lapic_written(v->lapic, x->qual & 0xff0);
	return VMEXIT_RESUME;
}

static enum vmexit_ret x_machine_check(struct vcpu *v, const struct vmexit *x)
{
	cpu_machine_check();
	return VMEXIT_KILL;
}

static enum vmexit_ret x_broken(struct vcpu *v, const struct vmexit *x)
{
	vm_kill(v->vm, "%s (qualification %#llx): this state cannot run", exit_name(x->reason), (unsigned long long)x->qual);
	return VMEXIT_KILL;
}

/* locked: it touches devices. The others touch nothing but their vCPU. */
static const struct { const char *name; enum vmexit_ret (*fn)(struct vcpu *, const struct vmexit *); bool locked; } table[] = {
	[X_EXCEPTION_NMI] = { "exception or NMI", x_exception },
	[X_EXT_INT] = { "external interrupt", x_ext_int },
	[X_TRIPLE_FAULT] = { "triple fault", x_triple_fault },
	[X_INT_WINDOW] = { "interrupt window", x_window },
	[X_NMI_WINDOW] = { "NMI window", x_window },
	[X_TASK_SWITCH] = { "task switch", x_broken },
	[X_CPUID] = { "CPUID", x_cpuid },
	[X_GETSEC] = { "GETSEC", x_undefined },
	[X_HLT] = { "HLT", x_hlt },
	[X_INVD] = { "INVD", x_skip }, /* as WBINVD: dropping dirty lines would lose host data */
	[X_RDPMC] = { "RDPMC", x_gp },
	[X_VMCALL] = { "VMCALL", x_vmcall },
	[X_VMX_FIRST ... X_VMX_LAST] = { "VMX instruction", x_undefined },
	[X_CR] = { "control register", x_cr, true },
	[X_IO] = { "I/O", x_io, true },
	[X_RDMSR] = { "RDMSR", x_rdmsr, true },
	[X_WRMSR] = { "WRMSR", x_wrmsr, true },
	[X_ENTRY_GUEST] = { "VM entry: invalid guest state", x_broken },
	[X_ENTRY_MSR] = { "VM entry: MSR loading", x_broken },
	[X_MWAIT] = { "MWAIT", x_undefined }, /* not shown by CPUID */
	[X_MONITOR] = { "MONITOR", x_undefined },
	[X_PAUSE] = { "PAUSE", x_pause },
	[X_ENTRY_MC] = { "VM entry: machine check", x_machine_check },
	[X_EOI] = { "EOI", x_eoi, true },
	[X_APIC_WRITE] = { "APIC write", x_apic_write, true },
	[X_EPT_VIOLATION] = { "EPT violation", x_ept_violation, true },
	[X_EPT_MISCONFIG] = { "EPT misconfiguration", x_broken },
	[X_INVEPT] = { "INVEPT", x_undefined },
	[X_PREEMPTION] = { "preemption timer", x_resume },
	[X_INVVPID] = { "INVVPID", x_undefined },
	[X_WBINVD] = { "WBINVD", x_skip }, /* all of the guest's memory is coherent write-back RAM */
	[X_XSETBV] = { "XSETBV", x_xsetbv },
	/* CPUs with TDX: these exit from any guest, even from its user mode. */
	[X_SEAMCALL] = { "SEAMCALL", x_undefined },
	[X_TDCALL] = { "TDCALL", x_undefined },
};

const char *exit_name(u32 reason)
{
	return reason < ARRAY_SIZE(table) && table[reason].name ? table[reason].name : "unknown exit";
}

static __attribute__((noinline, cold)) void dump(struct vcpu *v, const struct vmexit *x)
{
	const char *who = v->vm->config.name;
	const u64 *r = v->s.gpr;

	if (!vm_is_dead(v->vm) && !v->vm->want_kill)
		vm_kill(v->vm, "exit %u (%s) is not handled", x->reason, exit_name(x->reason));
	log_err(who, "exit %u (%s) qualification %#llx length %u", x->reason, exit_name(x->reason),
		(unsigned long long)x->qual, x->inst_len);
	log_err(who, "rip %016llx rsp %016llx rflags %08llx cs %04x", (unsigned long long)v->s.rip, (unsigned long long)r[VCPU_RSP],
		(unsigned long long)v->s.rflags, vmcs_read(VMCS_GUEST_SEL(SEG_CS)));
	for (unsigned i = 0; i < VCPU_NGPR; i += 4)
		log_err(who, "r%-2u %016llx %016llx %016llx %016llx", i, (unsigned long long)r[i], (unsigned long long)r[i + 1],
			(unsigned long long)r[i + 2], (unsigned long long)r[i + 3]);
	log_err(who, "cr0 %llx cr2 %llx cr3 %llx cr4 %llx efer %llx", (unsigned long long)vcpu_cr0(v), (unsigned long long)read_cr2(),
		(unsigned long long)vmcs_read(VMCS_GUEST_CR3), (unsigned long long)vcpu_cr4(v),
		(unsigned long long)vmcs_read(VMCS_GUEST_EFER));
}

void exit_handle(struct vcpu *v)
{
	struct vmexit x;

	v->exits++;
	decode(v, &x);
	if (x.reason < ARRAY_SIZE(table) && table[x.reason].fn) {
		bool locked = table[x.reason].locked;
		enum vmexit_ret ret;

		if (locked)
			vm_lock(v->vm);
		ret = table[x.reason].fn(v, &x);
		if (locked)
			vm_unlock(v->vm);
		switch (ret) {
		case VMEXIT_ADVANCE:
			vcpu_advance(v, x.inst_len);
			return;
		case VMEXIT_RESUME:
			return;
		case VMEXIT_KILL:
			break;
		}
	}
	dump(v, &x);
}
