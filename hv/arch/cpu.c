/* SPDX-License-Identifier: MIT */
#include "hv/arch/cpu.h"
#include "hv/arch/paging.h"
#include "hv/arch/x86.h"

#include <string.h>

#define N_IST 7

/* Stacks grow down into a page that paging_init() unmaps. */
struct ist_stack {
	u8 guard[PAGE_SIZE];
	u8 stack[IST_STACK_SIZE];
};
static struct {
	u8 guard[PAGE_SIZE];
	u8 main[MAIN_STACK_SIZE];
	struct ist_stack ist[N_IST];
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
/* The C library's thread block: self pointer first, stack-protector canary and errno inside. */
static u64 tcb[64] __attribute__((aligned(64)));

u64 cpu_fs_base(void)
{
	tcb[0] = (uintptr_t)tcb;
	return (uintptr_t)tcb;
}

u64 cpu_gdt_base(void) { return (uintptr_t)cpu0.gdt; }
u64 cpu_idt_base(void) { return (uintptr_t)idt; }
u64 cpu_tss_base(void) { return (uintptr_t)&cpu0.tss; }
u64 cpu_gs_base(void) { return (uintptr_t)&cpu0; }
u64 cpu_main_stack_top(void) { return (uintptr_t)stacks.main + MAIN_STACK_SIZE; }

u64 cpu_guard_page(unsigned i)
{
	if (i == 0)
		return (uintptr_t)stacks.guard;
	return i <= N_IST ? (uintptr_t)stacks.ist[i - 1].guard : 0;
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

void cpu_load_tables(void)
{
	struct desc_ptr g = { sizeof(cpu0.gdt) - 1, cpu_gdt_base() }, i = { sizeof(idt) - 1, cpu_idt_base() };

	lgdt(&g);
	__asm__ volatile("pushq %0\n\tlea 1f(%%rip), %%rax\n\tpushq %%rax\n\tlretq\n1:\n\t"
		"mov %1, %%ss\n\tmov %1, %%ds\n\tmov %1, %%es\n\tmov %2, %%fs\n\tmov %2, %%gs"
		: : "i"(SEL_CODE), "r"(SEL_DATA), "r"(0) : "rax", "memory");
	wrmsr(MSR_IA32_FS_BASE, cpu_fs_base());
	wrmsr(MSR_IA32_GS_BASE, cpu_gs_base());
	lidt(&i);
	lldt(0);
	cpu0.gdt[SEL_TSS / 8] &= ~BIT(41); /* not busy: LTR wants an available TSS */
	ltr(SEL_TSS);
}

void cpu_init_tables(void)
{
	u64 tss = cpu_tss_base(), limit = sizeof(struct tss) - 1;

	cpu0.self = &cpu0;
	cpu0.stack_top = cpu_main_stack_top();
	cpu0.gdt[SEL_CODE / 8] = 0x00af9b000000ffff; /* 64-bit code, DPL 0, accessed */
	cpu0.gdt[SEL_DATA / 8] = 0x00cf93000000ffff;
	cpu0.gdt[SEL_TSS / 8] = limit | (tss & 0xffffff) << 16 | 0x89ull << 40 | (tss >> 24 & 0xff) << 56;
	cpu0.gdt[SEL_TSS / 8 + 1] = tss >> 32;
	cpu0.tss.iopb = sizeof(struct tss);
	for (unsigned i = 0; i < N_IST; i++)
		cpu0.tss.ist[i] = (uintptr_t)stacks.ist[i].stack + IST_STACK_SIZE;
	for (unsigned v = 0; v < ARRAY_SIZE(idt); v++) {
		u64 at = (uintptr_t)trap_stubs + v * 16;

		idt[v] = (struct gate){ .offset0 = at, .selector = SEL_CODE, .ist = ist_of(v), .type = 0x8e,
			.offset1 = at >> 16, .offset2 = at >> 32 };
	}
	cpu_load_tables();
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
	if (cr4 & CR4_OSXSAVE) {
		xsetbv(0, caps->xcr0);
		cpu0.host_xcr0 = caps->xcr0;
	}
	__asm__ volatile("fninit");
	cpu0.apic_id = f1.ebx >> 24;
}

u32 cpu_apic_read(u32 offset)
{
	u64 base = rdmsr(MSR_IA32_APIC_BASE);

	if (base & APIC_BASE_X2APIC)
		return rdmsr(MSR_X2APIC_BASE + (offset >> 4));
	return mmio_read32((const void *)(uintptr_t)((base & ~0xfffull & (BIT(52) - 1)) + offset));
}

void cpu_apic_write(u32 offset, u32 val)
{
	u64 base = rdmsr(MSR_IA32_APIC_BASE);

	if (base & APIC_BASE_X2APIC)
		wrmsr(MSR_X2APIC_BASE + (offset >> 4), val);
	else
		mmio_write32((void *)(uintptr_t)((base & ~0xfffull & (BIT(52) - 1)) + offset), val);
}

void cpu_machine_check(void)
{
	__asm__ volatile("int %0" : : "i"(VEC_MC) : "memory");
}

void cpu_stop(void)
{
	for (;;) {
		cpu_cli();
		cpu_hlt();
	}
}
