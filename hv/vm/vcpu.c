/* SPDX-License-Identifier: MIT */
#include "hv/vm/vcpu.h"
#include "hv/arch/cpu.h"
#include "hv/arch/x86.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "hv/vdev/devices.h"
#include "hv/vm/board.h"
#include "hv/vm/cpuid.h"
#include "hv/vm/exit.h"
#include "hv/vm/msr.h"
#include "hv/vm/sched.h"
#include "hv/vm/vm_clock.h"
#include "hv/vmx/event.h"
#include "hv/vmx/vmcs.h"
#include "hv/vmx/vmx.h"

#include <string.h>

#define VPIDS (VM_MAX * VM_MAX_VCPUS + 1)
static u64 vpids_used[VPIDS / 64 + 1] = { 1 }; /* bit per VPID; 0 is the host's */

unsigned vcpu_id(const struct vcpu *v) { return v->id; }
struct vdev *vcpu_lapic(struct vcpu *v) { return v->lapic; }

/* The order matters: first what it is to see, then the look at whether it needs to be told. */
void vcpu_kick(struct vcpu *v)
{
	if (v == this_cpu()->running)
		return;
	if (__atomic_load_n(&v->in_guest, __ATOMIC_SEQ_CST))
		cpu_send_ipi(v->cpu->apic_id, ICR_NMI);
	else if (!__atomic_load_n(&v->on_cpu, __ATOMIC_SEQ_CST))
		sched_wake();
}

void vcpu_irq_check(struct vcpu *v)
{
	__atomic_store_n(&v->irq_check, true, __ATOMIC_SEQ_CST);
	vcpu_kick(v);
}

void vcpu_nmi(struct vcpu *v)
{
	v->s.nmi_pending = 1;
	vcpu_irq_check(v);
}

/* --- life --- */

int vcpu_create(struct vm *vm, unsigned id)
{
	struct vcpu *v = heap_calloc(1, sizeof(*v));
	u16 vpid = 1;

	if (!v)
		return -E_NOMEM;
	while (vpid < VPIDS && (vpids_used[vpid / 64] & BIT(vpid % 64)))
		vpid++;
	BUG_ON(vpid == VPIDS); /* there are as many as vCPUs */
	v->vm = vm;
	v->id = id;
	v->vpid = vpid;
	v->vmcs = frame_alloc();
	v->xsave_area = frame_alloc();
	if (vmx_config.apicv)
		v->apic_page = frame_alloc();
	if (!v->vmcs || !v->xsave_area || (vmx_config.apicv && !v->apic_page)) {
		frame_free(v->vmcs);
		frame_free(v->xsave_area);
		frame_free(v->apic_page);
		heap_free(v);
		return -E_NOMEM;
	}
	vpids_used[vpid / 64] |= BIT(vpid % 64);
	v->lapic = vm_vdev(vm, &lapic_type, id);
	lapic_set_page(v->lapic, v->apic_page);
	vm->vcpus[id] = v;
	vm->n_vcpus = MAX(vm->n_vcpus, id + 1);
	vmx_vmcs_init(v->vmcs);
	vcpu_make_current(v);
	vmx_vmcs_setup(ept_pointer(&vm->ept), vpid, v->apic_page);
	v->base_ctls = v->proc_ctls = vmx_config.proc;
	vcpu_reset(v);
	vcpu_put(v); /* v->s may be replaced from now on, without what the CPU holds coming on top of it */
	return 0;
}

void vcpu_destroy(struct vcpu *v)
{
	struct cpu *c = this_cpu();

	fpu_drop(v);
	vmx_vmcs_clear(v->vmcs);
	if (c->current == v)
		c->current = NULL;
	v->vm->exits_before += v->exits;
	vpids_used[v->vpid / 64] &= ~BIT(v->vpid % 64);
	v->vm->vcpus[v->id] = NULL;
	frame_free(v->vmcs);
	frame_free(v->xsave_area);
	frame_free(v->apic_page);
	heap_free(v);
}

/* SDM "Processor State After Reset". */
void vcpu_reset(struct vcpu *v)
{
	struct vcpu_state *s = &v->s;

	memset(s, 0, sizeof(*s));
	s->rip = 0xfff0;
	s->rflags = RFLAGS_FIXED;
	s->cr0 = CR0_ET | CR0_NW | CR0_CD;
	s->gpr[VCPU_RDX] = 0x600;
	s->dr6 = 0xffff0ff0;
	s->dr7 = 0x400;
	s->xcr0 = XCR0_X87;
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		s->seg_limit[i] = 0xffff;
		s->seg_ar[i] = i == SEG_CS ? 0x9b : i == SEG_LDTR ? 0x82 : i == SEG_TR ? 0x8b : 0x93;
	}
	s->seg_sel[SEG_CS] = 0xf000;
	s->seg_base[SEG_CS] = 0xffff0000;
	s->gdtr_limit = s->idtr_limit = 0xffff;
	s->xsave[0] = 0x40; /* FCW 0x0040 at reset; FNINIT makes it 0x37f */
	s->xsave[24] = 0x80;
	s->xsave[25] = 0x1f;
	s->xsave[512] = 3; /* x87 and SSE are valid */
	msr_reset(v);
	if (v->id)
		s->activity = ACTIVITY_WAIT_SIPI; /* an application processor (SDM "MP Initialization") */
	vcpu_load_state(v);
}

/* SDM "Processor State After Reset", column INIT: what it leaves alone. */
#define KEPT_BY_INIT(X) \
	X(xcr0) X(star) X(lstar) X(cstar) X(fmask) X(kernel_gs_base) X(pat) X(tsc_aux) X(tsc_adjust) X(misc_enable) \
	X(mtrr_def_type) X(mtrr_fixed) X(mtrr_var) X(xsave) X(sipi_pending)
#define KEEP(member) memcpy(&v->s.member, &old.member, sizeof(old.member));

static void vcpu_init_reset(struct vcpu *v)
{
	struct vcpu_state old;

	vcpu_sync_state(v);
	old = v->s;
	vcpu_reset(v);
	KEPT_BY_INIT(KEEP)
	v->s.cr0 = CR0_ET | (old.cr0 & (CR0_CD | CR0_NW));
	v->s.activity = ACTIVITY_WAIT_SIPI;
	lapic_init_reset(v->lapic);
	vcpu_load_state(v);
}

void vcpu_init(struct vcpu *v)
{
	v->s.init_pending = 1;
	v->s.sipi_pending = 0;
	vcpu_irq_check(v);
}

void vcpu_sipi(struct vcpu *v, u8 vector)
{
	if (!v->s.init_pending && v->s.activity != ACTIVITY_WAIT_SIPI)
		return;
	v->s.sipi_pending = 0x100 | vector;
	vcpu_irq_check(v);
}

/* INIT and start-up IPI, in this order. */
static void deliver_init(struct vcpu *v)
{
	if (v->s.init_pending) {
		if (!v->id) {
			/* The boot processor would start at the firmware that is not there. */
			vm_request_reset(v->vm, "INIT of the boot processor");
			v->s.init_pending = 0;
			return;
		}
		vcpu_init_reset(v);
	}
	if (v->s.sipi_pending && v->s.activity == ACTIVITY_WAIT_SIPI) {
		u32 vector = v->s.sipi_pending & 0xff;

		vmcs_write(VMCS_GUEST_SEL(SEG_CS), vector << 8);
		vmcs_write(VMCS_GUEST_BASE(SEG_CS), vector << 12);
		vcpu_set_rip(v, 0);
		v->s.sipi_pending = 0;
		v->s.activity = ACTIVITY_ACTIVE;
	}
}

/* --- events --- */

void vcpu_inject(struct vcpu *v, u8 vector, bool has_error, u32 error)
{
	struct event pending = { v->s.event_info, v->s.event_error, v->s.event_len };
	bool triple;
	struct event ev = event_exception(pending, vector, has_error, error, &triple);

	if (triple) {
		vm_kill(v->vm, "triple fault at rip %#llx", (unsigned long long)v->s.rip);
		return;
	}
	v->s.event_info = ev.info;
	v->s.event_error = ev.error;
	v->s.event_len = ev.len;
	/* Real-mode exceptions push no error code (SDM "VM-Entry Controls for Event Injection"). */
	if (!(vmcs_read(VMCS_GUEST_CR0) & CR0_PE))
		v->s.event_info &= ~(u32)INTR_ERROR_CODE;
}

static void set_window(struct vcpu *v, u32 windows)
{
	u32 ctls = v->base_ctls | windows;

	if (ctls != v->proc_ctls) {
		vmcs_write(VMCS_PROC_CTLS, ctls);
		v->proc_ctls = ctls;
	}
}

static bool irq_waiting(struct vcpu *v, int *vector)
{
	*vector = v->apicv ? -1 : lapic_pending(v->lapic);
	if (*vector >= 0)
		return true;
	return lapic_accepts_extint(v->lapic) && pic_intr(vm_vdev(v->vm, &pic_type, 0));
}

/* What has come for an APIC that the CPU looks after goes to it. True if the CPU takes one as soon as the guest's flags allow. */
static bool hand_over(struct vcpu *v)
{
	const u32 *tmr;
	u32 status;
	bool on = lapic_uses_page(v->lapic), takes;

	if (on != v->apicv) {
		v->base_ctls = vmx_vmcs_set_apicv(on);
		v->apicv = on;
	}
	if (!on)
		return false;
	takes = lapic_push(v->lapic, &status, &tmr);
	vmcs_write(VMCS_GUEST_INTR_STATUS, (u16)status);
	for (unsigned i = 0; tmr && i < 4; i++)
		vmcs_write(VMCS_EOI_EXIT(i), (u64)tmr[2 * i + 1] << 32 | tmr[2 * i]);
	return takes;
}

/* Decides what the next entry injects; what must wait gets its window. */
static void deliver_events(struct vcpu *v)
{
	u32 block, windows = 0;
	int vector;
	bool open;

	__atomic_store_n(&v->irq_check, false, __ATOMIC_SEQ_CST);
	if (v->s.init_pending || v->s.sipi_pending)
		deliver_init(v);
	if (v->s.activity == ACTIVITY_WAIT_SIPI)
		return; /* deaf to everything else */
	block = vmcs_read(VMCS_GUEST_INTERRUPTIBILITY);
	if (v->s.nmi_pending) {
		if (!(v->s.event_info & INTR_VALID) && !(block & (BLOCK_STI | BLOCK_MOV_SS | BLOCK_NMI))) {
			v->s.nmi_pending = 0;
			v->s.event_info = (u32)(INTR_VALID | INTR_NMI << 8) | VEC_NMI;
			v->s.activity = ACTIVITY_ACTIVE;
		} else {
			/* Where STI blocks, the NMI window may open all the same (SDM "Other Causes of VM Exits"): again and again, and
			 * the guest would stand still. IF is on there, so the interrupt window comes, and not before STI's end. */
			windows |= block & BLOCK_STI ? PROC_INTERRUPT_WINDOW : PROC_NMI_WINDOW;
		}
	}
	open = (vmcs_read(VMCS_GUEST_RFLAGS) & RFLAGS_IF) && !(block & (BLOCK_STI | BLOCK_MOV_SS));
	if (hand_over(v) && open)
		v->s.activity = ACTIVITY_ACTIVE;
	if (irq_waiting(v, &vector)) {
		if (open && !(v->s.event_info & INTR_VALID)) {
			if (vector >= 0)
				lapic_ack(v->lapic, (u8)vector);
			else
				vector = pic_ack(vm_vdev(v->vm, &pic_type, 0));
			v->s.event_info = (u32)(INTR_VALID | INTR_EXT << 8) | (u32)vector;
			v->s.activity = ACTIVITY_ACTIVE;
			v->irq_again = irq_waiting(v, &vector); /* one more behind it: look again after this entry */
			if (v->irq_again)
				windows |= PROC_INTERRUPT_WINDOW;
		} else {
			windows |= PROC_INTERRUPT_WINDOW;
		}
	}
	set_window(v, windows);
}

void vcpu_open_window(struct vcpu *v)
{
	set_window(v, 0);
	v->irq_check = true;
}

bool vcpu_apic_mmio(struct vcpu *v, u64 at, unsigned size, bool write, u64 *val)
{
	u64 base = lapic_base(v->lapic);
	u32 offset = at & (PAGE_SIZE - 1);

	if ((at ^ base) >> PAGE_SHIFT || (base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) != APIC_BASE_ENABLE)
		return false;
	/* SDM "Local APIC Register Address Map": registers are accessed with 32-bit loads and stores; parts of one can be
	 * read, other accesses are undefined: writes are dropped. */
	if (size == 4 && !(offset & 3)) {
		if (write)
			lapic_mmio_write(v->lapic, offset, (u32)*val);
		else
			*val = lapic_mmio_read(v->lapic, offset);
	} else if (!write) {
		*val = (u64)lapic_mmio_read(v->lapic, offset & ~3u) >> 8 * (offset & 3);
	}
	return true;
}

/* --- the run loop --- */

static void load_tsc_offset(struct vcpu *v)
{
	u64 offset = v->vm->tsc_offset + v->s.tsc_adjust;

	if (offset == v->tsc_offset && v->launched)
		return;
	vmcs_write(VMCS_TSC_OFFSET, offset);
	if (vmx_config.tsc_scaling)
		vmcs_write(VMCS_TSC_MULTIPLIER, v->vm->tsc_mult);
	v->tsc_offset = offset;
}

static __attribute__((noinline)) void entry_failed(struct vcpu *v, int rc)
{
	vm_kill(v->vm, "VM entry failed (%s, instruction error %u): a bug in Godwit, please report it with the log",
		rc == 1 ? "VMfailInvalid" : "VMfailValid", rc == 1 ? 0 : vmcs_read(VMCS_INST_ERROR));
}

bool vcpu_runnable(struct vcpu *v)
{
	return v->s.activity == ACTIVITY_ACTIVE || __atomic_load_n(&v->irq_check, __ATOMIC_RELAXED) ||
	       vm_tsc(v->vm) >= v->vm->next_deadline[v->id];
}

bool vcpu_run(struct vcpu *v, u64 deadline_tsc)
{
	struct vm *vm = v->vm;
	struct cpu *c = this_cpu();
	const u64 *next_deadline = &vm->next_deadline[v->id];
	bool halted = false;

	vcpu_make_current(v);
	c->running = v;
	while (vm->state == RS_RUNNING && !__atomic_load_n(&vm->attention, __ATOMIC_RELAXED) &&
	       !__atomic_load_n(&vm->hold, __ATOMIC_RELAXED)) {
		u64 now = host_tsc(), guest_now = vm_tsc_at(vm, now), left;

		if (guest_now >= *next_deadline) {
			vm_lock(vm);
			board_run_timers(vm, v->id, guest_now);
			vm_unlock(vm);
		}
		if (now >= deadline_tsc || v->yields)
			break;
		if (v->irq_check) {
			vm_lock(vm);
			deliver_events(v);
			vm_unlock(vm);
		}
		if (v->s.activity != ACTIVITY_ACTIVE) {
			halted = true;
			break;
		}
		if (v->exits >= vm->next_self_migration && !v->id) {
			vm->want_self_migration = true; /* later: nothing of the guest may be on this stack */
			__atomic_store_n(&vm->attention, true, __ATOMIC_SEQ_CST);
			sched_wake_service();
			break;
		}
		/* Always armed: nothing else is sure to end a guest that spins with interrupts off. */
		left = *next_deadline > guest_now ? *next_deadline - guest_now : 0;
		left = MIN(deadline_tsc - now, vm_clock_host_ticks(vm, left));
		vmcs_write(VMCS_PREEMPTION_TIMER, (u32)MIN((left >> vmx_config.preemption_shift) + 1, 0xffffffffull));
		/* From here on a kick is an NMI, which sets that timer to 0 if it comes before the entry. */
		__atomic_store_n(&v->in_guest, true, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&v->irq_check, __ATOMIC_SEQ_CST) || __atomic_load_n(&vm->hold, __ATOMIC_SEQ_CST)) {
			v->in_guest = false;
			continue;
		}
		if (v->s.event_info) {
			vmcs_write(VMCS_ENTRY_INTR_INFO, v->s.event_info);
			vmcs_write(VMCS_ENTRY_ERROR, v->s.event_error);
			vmcs_write(VMCS_ENTRY_INST_LEN, v->s.event_len);
			v->s.event_info = 0;
		}
		if (v->ept_generation != vm->ept_generation) {
			vmx_invept(ept_pointer(&vm->ept));
			v->ept_generation = vm->ept_generation;
		}
		load_tsc_offset(v);
		fpu_acquire(v);
		int rc = vmx_enter(v->s.gpr, v->launched);

		v->in_guest = false;
		if (v->irq_again) {
			v->irq_again = false;
			v->irq_check = true;
		}
		if (rc) {
			entry_failed(v, rc);
			break;
		}
		v->launched = true;
		exit_handle(v);
	}
	c->running = NULL;
	return halted;
}
