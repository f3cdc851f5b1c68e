/* SPDX-License-Identifier: MIT */
#include "hv/arch/cpu.h"
#include "hv/arch/paging.h"
#include "hv/arch/x86.h"

#include <string.h>

/* Stacks grow down into a page that paging_init() unmaps. */
struct ist_stack {
	u8 guard[PAGE_SIZE];
	u8 stack[IST_STACK_SIZE];
};
static struct {
	u8 guard[PAGE_SIZE];
	u8 main[MAIN_STACK_SIZE];
	struct ist_stack ist[CPU_N_IST];
} stacks __attribute__((aligned(PAGE_SIZE)));

/* SDM "64-Bit Mode IDT". */
struct gate {
	u16 offset0, selector;
	u8 ist, type;
	u16 offset1;
	u32 offset2, reserved;
};
static struct gate idt[256] __attribute__((aligned(16)));
extern const u8 trap_stubs[];

static struct cpu cpu0 __attribute__((aligned(64)));
struct cpu *cpus[MAX_CPUS] = { &cpu0 };
u32 n_cpus = 1;

u64 cpu_boot_fs_base(void)
{
	cpu0.tcb[0] = (uintptr_t)cpu0.tcb;
	return cpu0.tcb[0];
}

u64 cpu_gdt_base(void) { return (uintptr_t)this_cpu()->gdt; }
u64 cpu_idt_base(void) { return (uintptr_t)idt; }
u64 cpu_tss_base(void) { return (uintptr_t)&this_cpu()->tss; }
u64 cpu_main_stack_top(void) { return (uintptr_t)stacks.main + MAIN_STACK_SIZE; }

u64 cpu_guard_page(unsigned i)
{
	if (i == 0)
		return (uintptr_t)stacks.guard;
	return i <= CPU_N_IST ? (uintptr_t)stacks.ist[i - 1].guard : 0;
}

static unsigned ist_of(unsigned vector)
{
	switch (vector) {
	case VEC_DF: return 1;
	case VEC_NMI: return 2;
	case VEC_MC: return 3;
	case VEC_PF: return 4;
	case VEC_GP: return 5;
	case VEC_TS: case VEC_NP: case VEC_SS: return 6;
	default: return 7;
	}
}

void cpu_load(struct cpu *c)
{
	struct desc_ptr g = { sizeof(c->gdt) - 1, (uintptr_t)c->gdt }, i = { sizeof(idt) - 1, cpu_idt_base() };

	lgdt(&g);
	__asm__ volatile("pushq %0\n\tlea 1f(%%rip), %%rax\n\tpushq %%rax\n\tlretq\n1:\n\t"
		"mov %1, %%ss\n\tmov %1, %%ds\n\tmov %1, %%es\n\tmov %2, %%fs\n\tmov %2, %%gs"
		: : "i"(SEL_CODE), "r"(SEL_DATA), "r"(0) : "rax", "memory");
	wrmsr(MSR_IA32_FS_BASE, (uintptr_t)c->tcb);
	wrmsr(MSR_IA32_GS_BASE, (uintptr_t)c);
	lidt(&i);
	lldt(0);
	c->gdt[SEL_TSS / 8] &= ~BIT(41); /* not busy: LTR wants an available TSS */
	ltr(SEL_TSS);
}

void cpu_make(struct cpu *c, u32 id, u64 stack_low, u64 stack_top, u64 first_ist)
{
	u64 tss = (uintptr_t)&c->tss, limit = sizeof(struct tss) - 1;

	c->self = c;
	c->id = id;
	c->stack_low = stack_low;
	c->stack_top = stack_top;
	c->tcb[0] = (uintptr_t)c->tcb;
	c->gdt[SEL_CODE / 8] = 0x00af9b000000ffff; /* 64-bit code, DPL 0, accessed */
	c->gdt[SEL_DATA / 8] = 0x00cf93000000ffff;
	c->gdt[SEL_TSS / 8] = limit | (tss & 0xffffff) << 16 | 0x89ull << 40 | (tss >> 24 & 0xff) << 56;
	c->gdt[SEL_TSS / 8 + 1] = tss >> 32;
	c->tss.iopb = sizeof(struct tss);
	for (unsigned i = 0; i < CPU_N_IST; i++)
		c->tss.ist[i] = first_ist + i * sizeof(struct ist_stack) + sizeof(struct ist_stack);
}

void cpu_init_tables(void)
{
	cpu_make(&cpu0, 0, (uintptr_t)stacks.main, cpu_main_stack_top(), (uintptr_t)stacks.ist);
	for (unsigned v = 0; v < ARRAY_SIZE(idt); v++) {
		u64 at = (uintptr_t)trap_stubs + v * 16;

		idt[v] = (struct gate){ .offset0 = at, .selector = SEL_CODE, .ist = ist_of(v), .type = 0x8e,
			.offset1 = at >> 16, .offset2 = at >> 32 };
	}
	cpu_load(&cpu0);
}

void cpu_init_state(const struct host_caps *caps)
{
	struct cpuid_regs f1 = cpuid(1, 0), f7 = { 0 };
	u64 cr4 = read_cr4();

	if (cpuid(0, 0).eax >= 7)
		f7 = cpuid(7, 0);
	write_cr0((read_cr0() | CR0_MP | CR0_NE | CR0_WP) & ~(CR0_EM | CR0_TS | CR0_AM | CR0_CD | CR0_NW));
	/* Firmware may leave CET on; our code has no ENDBR and no shadow stack. */
	cr4 &= ~(CR4_CET | CR4_TSD | CR4_PCE | CR4_VME | CR4_PVI | CR4_PKE);
	cr4 |= CR4_DE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	if (f1.edx & BIT(7))
		cr4 |= CR4_MCE;
	if (f1.ecx & BIT(26))
		cr4 |= CR4_OSXSAVE;
	if (f7.ebx & BIT(7))
		cr4 |= CR4_SMEP;
	if (f7.ebx & BIT(20))
		cr4 |= CR4_SMAP;
	if (f7.ecx & BIT(2))
		cr4 |= CR4_UMIP;
	write_cr4(cr4);
	if (cr4 & CR4_OSXSAVE)
		xsetbv(0, caps->xcr0);
	__asm__ volatile("fninit");
}

#define APIC_ID 0x20
#define APIC_TPR 0x80
#define APIC_EOI 0xb0
#define APIC_SVR 0xf0
#define APIC_ISR 0x100
#define APIC_ICR 0x300
#define APIC_ICR_HIGH 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_TIMER_TSC_DEADLINE (2u << 17)
#define ICR_PENDING BIT(12)

u32 cpu_apic_read(u32 offset)
{
	u64 base = rdmsr(MSR_IA32_APIC_BASE);

	if (base & APIC_BASE_X2APIC)
		return rdmsr(MSR_X2APIC_BASE + (offset >> 4));
	return mmio_read32((const void *)(uintptr_t)((base & ~0xfffull & (BIT(52) - 1)) + offset));
}

static void apic_write(u32 offset, u32 val)
{
	u64 base = rdmsr(MSR_IA32_APIC_BASE);

	if (base & APIC_BASE_X2APIC)
		wrmsr(MSR_X2APIC_BASE + (offset >> 4), val);
	else
		mmio_write32((void *)(uintptr_t)((base & ~0xfffull & (BIT(52) - 1)) + offset), val);
}

void cpu_apic_eoi(void)
{
	apic_write(APIC_EOI, 0);
}

void cpu_send_ipi(u32 apic_id, u32 icr)
{
	if (rdmsr(MSR_IA32_APIC_BASE) & APIC_BASE_X2APIC) {
		/* Unlike the MMIO register, this write does not wait for earlier stores (SDM "MSR Access in x2APIC Mode"). */
		__asm__ volatile("mfence; lfence" : : : "memory");
		wrmsr(MSR_X2APIC_BASE + (APIC_ICR >> 4), (u64)apic_id << 32 | icr);
		return;
	}
	apic_write(APIC_ICR_HIGH, apic_id << 24);
	apic_write(APIC_ICR, icr);
	for (u32 i = 0; i < 100000 && cpu_apic_read(APIC_ICR) & ICR_PENDING; i++)
		cpu_pause();
}

void cpu_apic_init(void)
{
	u64 base = rdmsr(MSR_IA32_APIC_BASE);

	if (!(base & APIC_BASE_ENABLE))
		wrmsr(MSR_IA32_APIC_BASE, base | APIC_BASE_ENABLE);
	apic_write(APIC_SVR, 0x100 | VEC_SPURIOUS); /* enabled */
	apic_write(APIC_TPR, 0);
	apic_write(APIC_LVT_TIMER, host_caps()->tsc_deadline ? APIC_TIMER_TSC_DEADLINE | VEC_TIMER : APIC_LVT_MASKED | 0xff);
	/* What was in service when interrupts went off would block others for ever. */
	for (u32 i = 0; i < 8; i++)
		while (cpu_apic_read(APIC_ISR + 16 * i))
			cpu_apic_eoi();
	base = cpu_apic_read(APIC_ID);
	this_cpu()->apic_id = rdmsr(MSR_IA32_APIC_BASE) & APIC_BASE_X2APIC ? base : base >> 24;
}

__attribute__((noinline, noclone)) void cpu_sleep(u64 deadline_tsc)
{
	if (!host_caps()->tsc_deadline) {
		cpu_pause();
	} else {
		/* SDM "TSC-Deadline Mode": in xAPIC mode the LVT write is to be ordered before; it was long ago. */
		wrmsr(MSR_IA32_TSC_DEADLINE, deadline_tsc);
		/* Nothing gets between STI and HLT, says the SDM. Bochs lets interrupts in there at times: trap_handle() then
		 * skips the HLT, which nothing would end. */
		__asm__ volatile("sti\n\t.globl cpu_sleep_hlt\n\t.hidden cpu_sleep_hlt\ncpu_sleep_hlt:\thlt\n\tcli" : : : "memory");
		wrmsr(MSR_IA32_TSC_DEADLINE, 0);
	}
	__atomic_store_n(&this_cpu()->idle, false, __ATOMIC_SEQ_CST);
}

bool cpu_wake(struct cpu *c)
{
	if (!__atomic_exchange_n(&c->idle, false, __ATOMIC_SEQ_CST))
		return false;
	if (c != this_cpu())
		cpu_send_ipi(c->apic_id, ICR_WAKE);
	return true;
}

bool cpu_stopping;

void cpu_stop_others(void)
{
	__atomic_store_n(&cpu_stopping, true, __ATOMIC_SEQ_CST);
	for (u32 i = 0; i < n_cpus; i++)
		if (cpus[i] != this_cpu())
			cpu_send_ipi(cpus[i]->apic_id, ICR_NMI);
}

void cpu_machine_check(void)
{
	__asm__ volatile("int %0" : : "i"(VEC_MC) : "memory");
}

void cpu_nmi(void)
{
	__asm__ volatile("int %0" : : "i"(VEC_NMI) : "memory");
}

void cpu_stop(void)
{
	for (;;) {
		cpu_cli();
		cpu_hlt();
	}
}
