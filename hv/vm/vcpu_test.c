/* SPDX-License-Identifier: MIT */
/* Exits, control registers and time of one vCPU over the fake VMCS: what a guest or a peer may try. */
#include "hv/vm/vcpu.h"
#include "hv/arch/x86.h"
#include "hv/fake/fake.h"
#include "hv/vdev/devices.h"
#include "hv/vm/cpuid.h"
#include "hv/vm/exit.h"
#include "hv/vm/lifecycle.h"
#include "hv/vm/msr.h"
#include "hv/vm/vm_clock.h"
#include "hv/vmx/vmcs.h"
#include "hv/vmx/vmx.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define MIB (1ull << 20)
#define LVT_TSC_DEADLINE (2u << 17 | 0x40)

static struct vm *vm;
static struct vcpu *v;

static struct vm *make(const char *name, u32 vcpus)
{
	struct guest_config c = { .memory_bytes = 4 * MIB, .vcpus = vcpus };
	struct error e = { 0 };

	strcpy(c.name, name);
	strcpy(c.kernel, "kernel");
	return vm_create(&c, &e);
}

static int setup(void **state)
{
	fake_memory(128 * MIB);
	vm = make("g", 1);
	assert_non_null(vm);
	v = vm->vcpus[0];
	vm->owner = true;
	v->s.cr0 = CR0_PE | CR0_ET;
	vcpu_load_state(v);
	return 0;
}

static int teardown(void **state)
{
	vm_destroy(vm);
	return 0;
}

static void take_exit(u32 reason, u64 qual, u32 intr_info)
{
	vmcs_write(VMCS_EXIT_REASON, reason);
	vmcs_write(VMCS_EXIT_QUALIFICATION, qual);
	vmcs_write(VMCS_EXIT_INTR_INFO, intr_info);
	vmcs_write(VMCS_EXIT_INST_LEN, 2);
	exit_handle(v);
}

#define EXCEPTION(vector) ((u32)INTR_VALID | INTR_HW_EXCEPTION << 8 | (vector))

static void debug_exceptions_come_back_to_the_guest(void **state)
{
	fake_dr[6] = 0xffff0ff2; /* an old B1 */
	vmcs_write(VMCS_GUEST_DR7, DR7_GD | 0x400);
	vmcs_write(VMCS_GUEST_DEBUGCTL, DEBUGCTL_BTF);
	vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, (u32)BLOCK_MOV_SS);
	take_exit(0, DR6_BS | 1, EXCEPTION(VEC_DB));
	assert_int_equal(v->s.event_info, EXCEPTION(VEC_DB));
	assert_int_equal(fake_dr[6], 0xffff0ff1 | DR6_BS);
	assert_int_equal(vmcs_read(VMCS_GUEST_DR7), 0x400);
	assert_int_equal(vmcs_read(VMCS_GUEST_DEBUGCTL), 0);
	assert_int_equal(vmcs_read(VMCS_GUEST_INTERRUPTIBILITY), 0); /* entry would refuse BLOCK_MOV_SS with TF and no BS */
	assert_false(vm_is_dead(vm));
	/* INT1 is delivered as what it is: RIP moves behind it, DR6 stays. */
	v->s.event_info = 0;
	take_exit(0, 0, (u32)INTR_VALID | INTR_PRIV_SW << 8 | VEC_DB);
	assert_int_equal(v->s.event_info, (u32)INTR_VALID | INTR_PRIV_SW << 8 | VEC_DB);
	assert_int_equal(v->s.event_len, 2);
	assert_int_equal(fake_dr[6], 0xffff0ff1 | DR6_BS);
}

static void alignment_checks_come_back_to_the_guest(void **state)
{
	take_exit(0, 0, EXCEPTION(VEC_AC) | (u32)(INTR_ERROR_CODE | BIT(12)));
	assert_int_equal(v->s.event_info, EXCEPTION(VEC_AC) | (u32)INTR_ERROR_CODE);
	assert_int_equal(v->s.event_error, 0);
	assert_int_equal(vmcs_read(VMCS_GUEST_INTERRUPTIBILITY), (u32)BLOCK_NMI); /* the IRET did not happen */
	/* While #AC was delivered: again, and again; each time through us. */
	v->s.event_info = 0;
	vmcs_write(VMCS_IDT_INFO, EXCEPTION(VEC_AC) | (u32)INTR_ERROR_CODE);
	take_exit(0, 0, EXCEPTION(VEC_AC) | (u32)INTR_ERROR_CODE);
	assert_int_equal(v->s.event_info, EXCEPTION(VEC_AC) | (u32)INTR_ERROR_CODE);
	assert_false(vm_is_dead(vm));
}

static void machine_checks_are_the_hosts(void **state)
{
	u64 before = fake_machine_checks;

	assert_true(vmcs_read(VMCS_CR4_MASK) & CR4_MCE);
	take_exit(0, 0, EXCEPTION(VEC_MC));
	assert_int_equal(fake_machine_checks, before + 1);
	assert_true(vm_is_dead(vm));
	take_exit(41, 0, 0);
	assert_int_equal(fake_machine_checks, before + 2);
}

static void interrupted_nmi_is_injected_again(void **state)
{
	vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, (u32)BLOCK_NMI);
	vmcs_write(VMCS_IDT_INFO, (u32)INTR_VALID | INTR_NMI << 8 | VEC_NMI);
	take_exit(52, 0, 0);
	assert_int_equal(v->s.event_info, (u32)INTR_VALID | INTR_NMI << 8 | VEC_NMI);
	assert_int_equal(vmcs_read(VMCS_GUEST_INTERRUPTIBILITY), 0); /* else the entry fails */
}

static void tdx_instructions_are_undefined(void **state)
{
	take_exit(76, 0, 0);
	assert_int_equal(v->s.event_info, EXCEPTION(VEC_UD));
	v->s.event_info = 0;
	take_exit(77, 0, 0);
	assert_int_equal(v->s.event_info, EXCEPTION(VEC_UD));
	assert_false(vm_is_dead(vm));
}

static void single_step_ends_hlt(void **state)
{
	take_exit(12, 0, 0);
	assert_int_equal(v->s.activity, 1);
	v->s.activity = 0;
	vmcs_write(VMCS_GUEST_RFLAGS, RFLAGS_TF | 2);
	take_exit(12, 0, 0);
	assert_int_equal(v->s.activity, 0);
	assert_true(vmcs_read(VMCS_GUEST_PENDING_DBG) & DR6_BS);
}

static void spinning_yields_if_others_wait(void **state)
{
	struct error e = { 0 };
	u64 rip = vmcs_read(VMCS_GUEST_RIP);

	take_exit(40, 0, 0);
	assert_false(v->yields);
	assert_int_equal(vmcs_read(VMCS_GUEST_RIP), rip + 2); /* behind the PAUSE */
	fake_others_wait = true;
	take_exit(40, 0, 0);
	assert_true(v->yields);
	fake_others_wait = false;
	assert_int_equal(vm_resume(vm, &e), 0);
	vcpu_run(v, ~0ull);
	assert_false(vm->want_kill); /* it left at once: the fake's VM entry fails */
	v->yields = false;
	vcpu_run(v, ~0ull);
	assert_true(vm->want_kill);
}

/* As far as the entry, which fails. */
static void run_to_entry(void)
{
	vcpu_run(v, ~0ull);
	vm->want_kill = vm->attention = false;
}

static void x2apic(bool on)
{
	u64 base;

	assert_int_equal(msr_read(v, MSR_IA32_APIC_BASE, &base), 0);
	assert_int_equal(msr_write(v, MSR_IA32_APIC_BASE, on ? base | APIC_BASE_X2APIC : base & ~(APIC_BASE_X2APIC | APIC_BASE_ENABLE)), 0);
}

static void the_cpu_delivers_to_an_x2apic(void **state)
{
	struct error e = { 0 };
	u64 tpr;

	vm_destroy(vm);
	vmx_config.apicv = true;
	vm = make("g", 1);
	v = vm->vcpus[0];
	vm->owner = true;
	v->s.activity = 0;
	assert_int_equal(vm_resume(vm, &e), 0);
	lapic_mmio_write(v->lapic, 0xf0, 0x1ff);
	lapic_deliver(vm, 0, false, 0, 0x41, false);
	vmcs_write(VMCS_GUEST_RFLAGS, 2);
	run_to_entry();
	assert_false(v->apicv);
	assert_true(vmcs_read(VMCS_PROC_CTLS) & PROC_INTERRUPT_WINDOW); /* ours to inject, when it may be */
	x2apic(true);
	run_to_entry();
	assert_true(v->apicv);
	assert_int_equal(vmcs_read(VMCS_PROC_CTLS), (u32)PROC_TPR_SHADOW); /* and no window */
	assert_int_equal(vmcs_read(VMCS_GUEST_INTR_STATUS), 0x41);
	vmcs_write(VMCS_GUEST_RFLAGS, 2 | RFLAGS_IF);
	lapic_deliver(vm, 0, false, 0, 0x61, true);
	run_to_entry();
	assert_int_equal(v->s.event_info, 0);
	assert_int_equal(vmcs_read(VMCS_GUEST_INTR_STATUS), 0x61);
	assert_true(vmcs_read(VMCS_EOI_EXIT(1)) == BIT(0x61 - 64) && !vmcs_read(VMCS_EOI_EXIT(0)));
	take_exit(45, 0x61, 0);
	assert_false(vm_is_dead(vm));
	/* It wakes from HLT for what its priority lets in. */
	v->s.activity = 1;
	v->irq_check = true;
	run_to_entry();
	assert_int_equal(v->s.activity, 0);
	((u32 *)v->apic_page)[0x80 / 4] = 0x60;
	v->s.activity = 1;
	v->irq_check = true;
	assert_true(vcpu_run(v, ~0ull));
	assert_int_equal(v->s.activity, 1);
	/* To move, all of it is in the device; then it goes back. */
	vmcs_write(VMCS_GUEST_INTR_STATUS, 0);
	vcpu_sync_state(v);
	memset(v->apic_page, 0xff, PAGE_SIZE);
	vcpu_load_state(v);
	assert_true(vcpu_run(v, ~0ull));
	assert_int_equal(vmcs_read(VMCS_GUEST_INTR_STATUS), 0x61);
	assert_int_equal(msr_read(v, 0x808, &tpr), 0);
	assert_int_equal(tpr, 0x60);
	x2apic(false);
	v->s.activity = 0;
	run_to_entry();
	assert_false(v->apicv);
	assert_int_equal(vmcs_read(VMCS_PROC_CTLS), 0);
	vmx_config.apicv = false;
}

/* Real CPUs may open the NMI window although STI blocks: waiting there would exit for ever. */
static void nmi_waits_for_the_end_of_sti(void **state)
{
	struct error e = { 0 };

	v->s.activity = 0;
	assert_int_equal(vm_resume(vm, &e), 0);
	vcpu_nmi(v);
	vmcs_write(VMCS_GUEST_RFLAGS, 2 | RFLAGS_IF);
	vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, (u32)BLOCK_STI);
	run_to_entry();
	assert_int_equal(vmcs_read(VMCS_PROC_CTLS), (u32)PROC_INTERRUPT_WINDOW);
	vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, (u32)BLOCK_NMI);
	vcpu_open_window(v);
	run_to_entry();
	assert_int_equal(vmcs_read(VMCS_PROC_CTLS), (u32)PROC_NMI_WINDOW);
	vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, 0);
	vcpu_open_window(v);
	run_to_entry();
	assert_int_equal(vmcs_read(VMCS_ENTRY_INTR_INFO), (u32)(INTR_VALID | INTR_NMI << 8) | VEC_NMI);
	assert_int_equal(vmcs_read(VMCS_PROC_CTLS), 0);
}

static void init_leaves_caching_alone(void **state)
{
	struct error e = { 0 };

	vm_destroy(vm);
	vm = make("g", 2);
	vm->owner = true;
	v = vm->vcpus[1];
	assert_int_equal(vcpu_cr0(v), CR0_ET | CR0_CD | CR0_NW);
	assert_int_equal(vcpu_write_cr0(v, CR0_PE | CR0_ET), 0);
	vcpu_init(v);
	assert_int_equal(vm_resume(vm, &e), 0);
	assert_true(vcpu_run(v, ~0ull)); /* it waits for its SIPI */
	assert_int_equal(v->s.activity, 3);
	assert_int_equal(vcpu_cr0(v), CR0_ET);
}

static void emulated_instruction_ends_rf(void **state)
{
	vmcs_write(VMCS_GUEST_RFLAGS, RFLAGS_RF | 2);
	take_exit(18, 0, 0);
	assert_int_equal(vmcs_read(VMCS_GUEST_RFLAGS), 2);
	assert_int_equal(vmcs_read(VMCS_GUEST_PENDING_DBG), 0);
}

static void control_registers_are_checked(void **state)
{
	u64 pdpte[4] = { 0x1001, 0x2001, 0, 0 };

	/* What the guest writes is what it sees; hardware keeps MCE. */
	assert_int_equal(vcpu_write_cr4(v, CR4_PAE | CR4_MCE), 0);
	assert_int_equal(vcpu_cr4(v), CR4_PAE | CR4_MCE);
	assert_int_equal(vcpu_write_cr4(v, CR4_PAE), 0);
	assert_int_equal(vcpu_cr4(v), CR4_PAE);
	assert_int_equal(vmcs_read(VMCS_GUEST_CR4), CR4_PAE | CR4_VMXE | CR4_MCE);
	/* PAE paging: PDPTEs are loaded, and reserved bits in them are a #GP, not a failed entry. */
	vmcs_write(VMCS_GUEST_CR3, 0x3000);
	assert_int_equal(guest_write(vm, gpa(0x3000), pdpte, sizeof(pdpte)), 0);
	assert_int_equal(vcpu_write_cr0(v, CR0_PG | CR0_PE), 0);
	assert_int_equal(vmcs_read(VMCS_GUEST_PDPTE(1)), 0x2001);
	pdpte[1] = 0x4001;
	assert_int_equal(guest_write(vm, gpa(0x3000), pdpte, sizeof(pdpte)), 0);
	assert_int_equal(vcpu_write_cr0(v, CR0_PG | CR0_PE | CR0_CD), 0);
	assert_int_equal(vmcs_read(VMCS_GUEST_PDPTE(1)), 0x4001);
	pdpte[1] = 0x4003;
	assert_int_equal(guest_write(vm, gpa(0x3000), pdpte, sizeof(pdpte)), 0);
	assert_int_equal(vcpu_write_cr4(v, CR4_PAE | CR4_PGE), -E_INVAL);
	assert_int_equal(vmcs_read(VMCS_GUEST_PDPTE(1)), 0x4001);
	assert_int_equal(vcpu_write_cr0(v, CR0_PE), 0);
	/* Long mode: in by 32-bit code only, out the same way, and not with PCIDs on. */
	vmcs_write(VMCS_GUEST_EFER, EFER_LME);
	vmcs_write(VMCS_GUEST_AR(SEG_CS), 0xa09b);
	assert_int_equal(vcpu_write_cr0(v, CR0_PG | CR0_PE), -E_INVAL);
	vmcs_write(VMCS_GUEST_AR(SEG_CS), 0xc09b);
	assert_int_equal(vcpu_write_cr0(v, CR0_PG | CR0_PE), 0);
	assert_true(vmcs_read(VMCS_GUEST_EFER) & EFER_LMA);
	if (cpuid_cr4_mask(vm) & CR4_PCIDE) {
		vmcs_write(VMCS_GUEST_CR3, 0x3001);
		assert_int_equal(vcpu_write_cr4(v, CR4_PAE | CR4_PCIDE), -E_INVAL);
		vmcs_write(VMCS_GUEST_CR3, 0x3000);
		assert_int_equal(vcpu_write_cr4(v, CR4_PAE | CR4_PCIDE), 0);
		assert_int_equal(vcpu_write_cr0(v, CR0_PE), -E_INVAL);
		assert_int_equal(vcpu_write_cr4(v, CR4_PAE), 0);
	}
	vmcs_write(VMCS_GUEST_AR(SEG_CS), 0xa09b);
	assert_int_equal(vcpu_write_cr0(v, CR0_PE), -E_INVAL);
	vmcs_write(VMCS_GUEST_AR(SEG_CS), 0xc09b);
	assert_int_equal(vcpu_write_cr0(v, CR0_PE), 0);
	assert_false(vmcs_read(VMCS_GUEST_EFER) & EFER_LMA);
}

static u64 deadline(void)
{
	u64 at;

	assert_int_equal(msr_read(v, MSR_IA32_TSC_DEADLINE, &at), 0);
	return at;
}

static void deadlines_follow_the_guests_tsc(void **state)
{
	vm_clock_start(vm);
	fake_tsc_now += 1000;
	lapic_mmio_write(v->lapic, 0x320, LVT_TSC_DEADLINE);
	/* The guest sets its TSC far ahead; a deadline behind that is due now, not in 580 years. */
	assert_int_equal(msr_write(v, MSR_IA32_TIME_STAMP_COUNTER, 1ull << 50), 0);
	assert_int_equal(msr_write(v, MSR_IA32_TSC_DEADLINE, 500), 0);
	assert_true(v->lapic->deadline <= vm_tsc(vm));
	assert_int_equal(msr_write(v, MSR_IA32_TSC_DEADLINE, v->s.tsc_adjust), 0); /* that is 0 on our clock */
	assert_true(v->lapic->deadline <= vm_tsc(vm));
	assert_int_equal(msr_write(v, MSR_IA32_TSC_DEADLINE, (1ull << 50) + 700), 0);
	assert_int_equal(v->lapic->deadline, vm_tsc(vm) + 700);
	assert_int_equal(deadline(), (1ull << 50) + 700);
	/* Armed, it stays where it is when the guest moves its TSC. */
	assert_int_equal(msr_write(v, MSR_IA32_TSC_ADJUST, v->s.tsc_adjust - 300), 0);
	assert_int_equal(v->lapic->deadline, vm_tsc(vm) + 1000);
	assert_int_equal(deadline(), (1ull << 50) + 700);
	/* Near the end of the number range nothing wraps. */
	assert_int_equal(msr_write(v, MSR_IA32_TSC_ADJUST, 0), 0);
	assert_int_equal(msr_write(v, MSR_IA32_TSC_DEADLINE, ~0ull), 0);
	assert_true(v->lapic->deadline > BIT(63));
	assert_int_equal(msr_write(v, MSR_IA32_TSC_DEADLINE, 0), 0);
	assert_int_equal(v->lapic->deadline, VDEV_NEVER);
}

/* The preemption timer counts host ticks. */
static void timer_is_armed_in_host_ticks(void **state)
{
	struct error e = { 0 };

	v->s.activity = 0;
	assert_int_equal(vm_resume(vm, &e), 0);
	vm->next_deadline[0] = vm_tsc(vm) + 1000;
	vcpu_run(v, fake_tsc_now + 1000000); /* the fake's VM entry fails */
	assert_int_equal(vmcs_read(VMCS_PREEMPTION_TIMER), 1001);
	vm->want_kill = vm->attention = false;
	vm->state = RS_PAUSED;
	vm->tsc_mult = BIT(49); /* the guest's second has twice as many ticks as ours */
	assert_int_equal(vm_resume(vm, &e), 0);
	vm->next_deadline[0] = vm_tsc(vm) + 1000;
	vcpu_run(v, fake_tsc_now + 1000000);
	assert_int_equal(vmcs_read(VMCS_PREEMPTION_TIMER), 501);
}

static int load_vcpu(void)
{
	struct mig_instance inst;
	struct error e = { 0 };

	for (unsigned i = 0; vm_mig_instance(vm, i, &inst); i++)
		if (inst.owner == v)
			return inst.type->post_load(v, &e);
	return -E_NOENT;
}

static void loaded_state_cannot_stop_the_host(void **state)
{
	static const u64 bad[] = { 0, 2, 5, 0x27, 0xe3, 0x67, 1ull << 9 | 7 };

	assert_int_equal(load_vcpu(), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) { /* XSETBV would take #GP */
		v->s.xcr0 = bad[i];
		assert_int_equal(load_vcpu(), -E_INVAL);
	}
	v->s.xcr0 = 0xe7;
	assert_int_equal(load_vcpu(), 0);
	/* Branch traces would be written through the host's IA32_DS_AREA. */
	v->s.debugctl = ~0ull;
	vcpu_load_state(v);
	assert_int_equal(vmcs_read(VMCS_GUEST_DEBUGCTL), DEBUGCTL_BTF);
	assert_int_equal(msr_write(v, MSR_IA32_DEBUGCTL, 0x40), -E_INVAL);
	assert_int_equal(msr_write(v, MSR_IA32_DEBUGCTL, 3), 0);
	assert_int_equal(vmcs_read(VMCS_GUEST_DEBUGCTL), DEBUGCTL_BTF);
}

static void cpuid_hides_what_has_no_control(void **state)
{
	u32 all = vmx_config.proc2;

	vmx_config.proc2 = 0;
	assert_int_equal(cpuid_build(vm, NULL), 0);
	vmx_config.proc2 = all;
	assert_false(cpuid_guest(vm, 7, 0, 1) & BIT(10));          /* INVPCID */
	assert_false(cpuid_guest(vm, 7, 0, 2) & BIT(22));          /* RDPID */
	assert_false(cpuid_guest(vm, 0x80000001, 0, 3) & BIT(27)); /* RDTSCP */
}

static void cpuid_does_not_cut_the_tsc_rate(void **state)
{
	fake_tsc_hz = 4300000000ull;
	assert_int_equal(cpuid_build(vm, NULL), 0);
	fake_tsc_hz = FAKE_TSC_HZ;
	assert_int_equal(cpuid_guest(vm, 0x15, 0, 2), 0);
	assert_int_equal(cpuid_guest(vm, 0x16, 0, 0), 4300);
	assert_int_equal(cpuid_build(vm, NULL), 0);
	assert_int_equal(cpuid_guest(vm, 0x15, 0, 2), FAKE_TSC_HZ);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(debug_exceptions_come_back_to_the_guest), TEST(alignment_checks_come_back_to_the_guest),
		TEST(machine_checks_are_the_hosts), TEST(interrupted_nmi_is_injected_again),
		TEST(tdx_instructions_are_undefined), TEST(single_step_ends_hlt), TEST(spinning_yields_if_others_wait),
		TEST(the_cpu_delivers_to_an_x2apic), TEST(nmi_waits_for_the_end_of_sti),
		TEST(init_leaves_caching_alone), TEST(emulated_instruction_ends_rf),
		TEST(control_registers_are_checked),
		TEST(deadlines_follow_the_guests_tsc), TEST(timer_is_armed_in_host_ticks),
		TEST(loaded_state_cannot_stop_the_host),
		TEST(cpuid_hides_what_has_no_control), TEST(cpuid_does_not_cut_the_tsc_rate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
