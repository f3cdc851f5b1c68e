/* SPDX-License-Identifier: MIT */
/*
 * The bench's self-check: an EFI application that proves, before anything is blamed on Godwit, that
 * this (emulated) machine prints on COM1, divides 64-bit signed numbers, and makes one VM exit.
 * Every line on COM1 starts with "selfcheck: "; the last one is "selfcheck: done".
 */
#include <efi.h>
#include <efilib.h>
#include <stdint.h>

#define COM1 0x3f8
#define PAGE 4096

#define MSR_IA32_FEATURE_CONTROL 0x3a
#define MSR_IA32_VMX_BASIC 0x480
#define MSR_IA32_VMX_PINBASED_CTLS 0x481
#define MSR_IA32_VMX_CR0_FIXED0 0x486
#define MSR_IA32_VMX_CR4_FIXED0 0x488
#define MSR_IA32_EFER 0xc0000080
#define CR4_VMXE (1ul << 13)
#define EXIT_REASON_CPUID 10

/* VMCS fields (SDM, "Field Encoding in VMCS"); those of the six segment registers follow ES in
 * steps of 2. */
enum vmcs_field {
	VMCS_GUEST_ES = 0x0800,
	VMCS_GUEST_LDTR = 0x080c,
	VMCS_GUEST_TR = 0x080e,
	VMCS_HOST_ES = 0x0c00,
	VMCS_HOST_TR = 0x0c0c,
	VMCS_LINK_POINTER = 0x2800,
	VMCS_GUEST_DEBUGCTL = 0x2802,
	VMCS_GUEST_EFER = 0x2806,
	VMCS_HOST_EFER = 0x2c02,
	VMCS_PIN_BASED_CTLS = 0x4000,
	VMCS_PROC_BASED_CTLS = 0x4002,
	VMCS_EXCEPTION_BITMAP = 0x4004,
	VMCS_EXIT_CTLS = 0x400c,
	VMCS_ENTRY_CTLS = 0x4012,
	VMCS_INSTRUCTION_ERROR = 0x4400,
	VMCS_EXIT_REASON = 0x4402,
	VMCS_GUEST_ES_LIMIT = 0x4800,
	VMCS_GUEST_TR_LIMIT = 0x480e,
	VMCS_GUEST_GDTR_LIMIT = 0x4810,
	VMCS_GUEST_IDTR_LIMIT = 0x4812,
	VMCS_GUEST_ES_AR = 0x4814,
	VMCS_GUEST_LDTR_AR = 0x4820,
	VMCS_GUEST_TR_AR = 0x4822,
	VMCS_GUEST_INTERRUPTIBILITY = 0x4824,
	VMCS_GUEST_ACTIVITY = 0x4826,
	VMCS_GUEST_CR0 = 0x6800,
	VMCS_GUEST_ES_BASE = 0x6806,
	VMCS_GUEST_TR_BASE = 0x6814,
	VMCS_GUEST_GDTR_BASE = 0x6816,
	VMCS_GUEST_IDTR_BASE = 0x6818,
	VMCS_GUEST_DR7 = 0x681a,
	VMCS_GUEST_RSP = 0x681c,
	VMCS_GUEST_RIP = 0x681e,
	VMCS_GUEST_RFLAGS = 0x6820,
	VMCS_HOST_CR0 = 0x6c00,
	VMCS_HOST_TR_BASE = 0x6c0a,
	VMCS_HOST_GDTR_BASE = 0x6c0c,
	VMCS_HOST_IDTR_BASE = 0x6c0e,
};

struct gdtr {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

static uint8_t vmxon_region[PAGE] __attribute__((aligned(PAGE)));
static uint8_t vmcs_region[PAGE] __attribute__((aligned(PAGE)));
static uint8_t guest_stack[PAGE] __attribute__((aligned(16)));
static uint64_t gdt[512] __attribute__((aligned(16)));
static uint32_t tss[26];

/* Saved by the launch, read by the exit landing. */
static uint64_t host_rsp;

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (uint64_t)hi << 32 | lo;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

#define READ_REG(insn)                                                                             \
	({                                                                                         \
		uint64_t value_;                                                                   \
		__asm__ volatile(insn : "=r"(value_));                                             \
		value_;                                                                            \
	})

static void print(const char *s)
{
	for (; *s; s++) {
		while (!(inb(COM1 + 5) & 0x20))
			;
		outb(COM1, *s);
	}
}

static void print_hex(uint64_t v)
{
	char text[19] = "0x";

	for (int i = 0; i < 16; i++)
		text[2 + i] = "0123456789abcdef"[v >> (60 - 4 * i) & 15];
	print(text);
}

static void uart_init(void)
{
	/* What the firmware still has in the transmitter goes out first. */
	while (!(inb(COM1 + 5) & 0x40))
		;
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 0x80);
	outb(COM1, 1);
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 3);
	outb(COM1 + 2, 7);
	outb(COM1 + 4, 3);
}

static int64_t divide(int64_t n, int64_t d)
{
	int64_t q;

	/* The instruction itself: a compiler may divide by multiplying. */
	__asm__ volatile("cqto; idivq %2" : "=&a"(q) : "0"(n), "r"(d) : "rdx", "cc");
	return q;
}

static int check_idiv(void)
{
	return divide(1000, 7) == 142 && divide(-1000, 7) == -142 && divide(1000, -7) == -142 &&
	       divide(INT64_MAX, 10) == INT64_MAX / 10 && divide(INT64_MIN, 3) == INT64_MIN / 3;
}

static int vmx_region(int64_t *region, int load)
{
	uint8_t failed;

	if (load)
		__asm__ volatile("vmclear %1; setna %0; vmptrld %1"
				 : "=&q"(failed)
				 : "m"(*region)
				 : "cc", "memory");
	else
		__asm__ volatile("vmxon %1; setna %0"
				 : "=q"(failed)
				 : "m"(*region)
				 : "cc", "memory");
	return failed;
}

static void vmwrite(uint64_t field, uint64_t value)
{
	uint8_t failed;

	__asm__ volatile("vmwrite %2, %1; setna %0" : "=q"(failed) : "r"(field), "r"(value) : "cc");
	if (failed) {
		print("selfcheck: vmwrite failed, field ");
		print_hex(field);
		print("\r\n");
	}
}

static uint64_t vmread(uint64_t field)
{
	uint64_t value = ~0ul;

	__asm__ volatile("vmread %1, %0" : "=r"(value) : "r"(field) : "cc");
	return value;
}

/* Allowed settings: low half must be 1, high half may be 1 (SDM, "VMX Controls"). */
static uint32_t adjust(uint32_t wanted, uint32_t msr)
{
	uint64_t caps = rdmsr(msr);

	return (wanted | (uint32_t)caps) & (uint32_t)(caps >> 32);
}

__attribute__((naked, used)) static void guest_entry(void)
{
	__asm__ volatile("xorl %eax, %eax; cpuid; 1: jmp 1b");
}

/* Returns 0 after a VM exit, 1 if the launch failed. 0x6c14 and 0x6c16 are the host's RSP and RIP.
 */
__attribute__((naked, noinline)) static int vmx_launch(void)
{
	__asm__ volatile(
	    "push %%rbx; push %%rbp; push %%r12; push %%r13; push %%r14; push %%r15\n\t"
	    "mov %%rsp, %0\n\t"
	    "mov $0x6c14, %%eax; vmwrite %%rsp, %%rax\n\t"
	    "lea 1f(%%rip), %%rcx\n\t"
	    "mov $0x6c16, %%eax; vmwrite %%rcx, %%rax\n\t"
	    "vmlaunch\n\t"
	    "mov $1, %%eax; jmp 2f\n"
	    "1: xor %%eax, %%eax\n"
	    "2: mov %0, %%rsp\n\t"
	    "pop %%r15; pop %%r14; pop %%r13; pop %%r12; pop %%rbp; pop %%rbx; ret"
	    : "=m"(host_rsp));
}

/* The firmware's GDT has no task state, which VMX demands of its host: copy it and add one. */
static uint16_t load_gdt_with_tss(struct gdtr *r)
{
	uint64_t base = (uint64_t)tss;
	uint16_t n;

	__asm__ volatile("sgdt %0" : "=m"(*r));
	n = (r->limit + 1) / 8;
	for (uint16_t i = 0; i < n; i++)
		gdt[i] = ((uint64_t *)r->base)[i];
	gdt[n] =
	    (sizeof(tss) - 1) | (base & 0xffffff) << 16 | 0x89ul << 40 | (base >> 24 & 0xff) << 56;
	gdt[n + 1] = base >> 32;
	r->base = (uint64_t)gdt;
	r->limit = (n + 2) * 8 - 1;
	__asm__ volatile("lgdt %0; ltr %1" : : "m"(*r), "r"((uint16_t)(n * 8)) : "memory");
	return n * 8;
}

static uint32_t access_rights(uint16_t selector)
{
	uint64_t d = gdt[selector / 8];

	return (d >> 40 & 0xff) | (d >> 52 & 0xf) << 12;
}

static void write_segments(const struct gdtr *g, uint16_t tr)
{
	uint16_t sel[6];
	struct gdtr idt;

	sel[0] = READ_REG("mov %%es, %0");
	sel[1] = READ_REG("mov %%cs, %0");
	sel[2] = READ_REG("mov %%ss, %0");
	sel[3] = READ_REG("mov %%ds, %0");
	sel[4] = READ_REG("mov %%fs, %0");
	sel[5] = READ_REG("mov %%gs, %0");
	for (int i = 0; i < 6; i++) {
		vmwrite(VMCS_GUEST_ES + 2 * i, sel[i]);
		vmwrite(VMCS_GUEST_ES_LIMIT + 2 * i, 0xffffffff);
		vmwrite(VMCS_GUEST_ES_AR + 2 * i, sel[i] ? access_rights(sel[i]) | 1 : 0x10000);
		vmwrite(VMCS_GUEST_ES_BASE + 2 * i, 0);
		vmwrite(VMCS_HOST_ES + 2 * i, sel[i] & ~7);
	}
	vmwrite(VMCS_GUEST_LDTR, 0); /* LDTR: unusable */
	vmwrite(VMCS_GUEST_LDTR_AR, 0x10000);
	vmwrite(VMCS_GUEST_TR, tr);
	vmwrite(VMCS_GUEST_TR_LIMIT, sizeof(tss) - 1);
	vmwrite(VMCS_GUEST_TR_AR, 0x8b);
	vmwrite(VMCS_GUEST_TR_BASE, (uint64_t)tss);
	vmwrite(VMCS_HOST_TR, tr);
	vmwrite(VMCS_HOST_TR_BASE, (uint64_t)tss);
	__asm__ volatile("sidt %0" : "=m"(idt));
	vmwrite(VMCS_GUEST_GDTR_LIMIT, g->limit);
	vmwrite(VMCS_GUEST_IDTR_LIMIT, idt.limit);
	vmwrite(VMCS_GUEST_GDTR_BASE, g->base);
	vmwrite(VMCS_GUEST_IDTR_BASE, idt.base);
	vmwrite(VMCS_HOST_GDTR_BASE, g->base);
	vmwrite(VMCS_HOST_IDTR_BASE, idt.base);
}

static void write_controls(void)
{
	uint32_t t = rdmsr(MSR_IA32_VMX_BASIC) >> 55 & 1 ? 0x48d : MSR_IA32_VMX_PINBASED_CTLS;

	vmwrite(VMCS_PIN_BASED_CTLS, adjust(0, t));
	vmwrite(VMCS_PROC_BASED_CTLS, adjust(0, t + 1));
	vmwrite(VMCS_EXIT_CTLS, adjust(1u << 9 | 1u << 21, t + 2)); /* host is 64-bit, load EFER */
	vmwrite(VMCS_ENTRY_CTLS,
		adjust(1u << 9 | 1u << 15, t + 3)); /* guest is 64-bit, load EFER */
	vmwrite(VMCS_EXCEPTION_BITMAP, 0);
	vmwrite(VMCS_LINK_POINTER, ~0ul);
}

static void write_state(void)
{
	uint64_t cr0 = READ_REG("mov %%cr0, %0"), cr3 = READ_REG("mov %%cr3, %0"),
		 cr4 = READ_REG("mov %%cr4, %0");
	uint64_t efer = rdmsr(MSR_IA32_EFER);

	for (int host = 0; host < 2; host++) {
		uint64_t base = host ? VMCS_HOST_CR0 : VMCS_GUEST_CR0;

		vmwrite(base, cr0);
		vmwrite(base + 2, cr3);
		vmwrite(base + 4, cr4);
	}
	vmwrite(VMCS_GUEST_EFER, efer);
	vmwrite(VMCS_HOST_EFER, efer);
	vmwrite(VMCS_GUEST_DEBUGCTL, 0);
	vmwrite(VMCS_GUEST_DR7, 0x400); /* DR7 */
	vmwrite(VMCS_GUEST_RSP, (uint64_t)guest_stack + sizeof(guest_stack));
	vmwrite(VMCS_GUEST_RIP, (uint64_t)guest_entry);
	vmwrite(VMCS_GUEST_RFLAGS, 2);
	vmwrite(VMCS_GUEST_ACTIVITY, 0);
	vmwrite(VMCS_GUEST_INTERRUPTIBILITY, 0);
}

/* NULL if a CPUID instruction in VMX non-root operation came back as the exit it must be. */
static const char *check_vmexit(void)
{
	int64_t on = (int64_t)(uint64_t)vmxon_region, vmcs = (int64_t)(uint64_t)vmcs_region;
	uint32_t a = 1, b, c = 0, d;
	uint64_t control;
	struct gdtr g;
	uint16_t tr;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	if (!(c >> 5 & 1))
		return "this CPU model has no VMX";
	control = rdmsr(MSR_IA32_FEATURE_CONTROL);
	if (!(control & 1))
		wrmsr(MSR_IA32_FEATURE_CONTROL, control | 5);
	else if (!(control & 4))
		return "VMX is locked off in IA32_FEATURE_CONTROL";
	__asm__ volatile("cli");
	__asm__ volatile("mov %0, %%cr0"
			 :
			 : "r"(READ_REG("mov %%cr0, %0") | rdmsr(MSR_IA32_VMX_CR0_FIXED0)));
	__asm__ volatile(
	    "mov %0, %%cr4"
	    :
	    : "r"(READ_REG("mov %%cr4, %0") | rdmsr(MSR_IA32_VMX_CR4_FIXED0) | CR4_VMXE));
	tr = load_gdt_with_tss(&g);
	*(uint32_t *)vmxon_region = *(uint32_t *)vmcs_region = (uint32_t)rdmsr(MSR_IA32_VMX_BASIC);
	if (vmx_region(&on, 0))
		return "VMXON failed";
	if (vmx_region(&vmcs, 1))
		return "VMCLEAR failed";
	write_controls();
	write_segments(&g, tr);
	write_state();
	if (vmx_launch()) {
		print("selfcheck: VM-instruction error ");
		print_hex(vmread(VMCS_INSTRUCTION_ERROR));
		print("\r\n");
		return "VMLAUNCH failed";
	}
	if ((vmread(VMCS_EXIT_REASON) & 0x8000ffff) != EXIT_REASON_CPUID) {
		print("selfcheck: exit reason ");
		print_hex(vmread(VMCS_EXIT_REASON));
		print("\r\n");
		return "CPUID did not exit as CPUID";
	}
	return NULL;
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *system)
{
	const char *why;

	(void)image;
	uart_init();
	print("selfcheck: alive\r\n");
	print(check_idiv() ? "selfcheck: idiv ok\r\n"
			   : "selfcheck: idiv BROKEN: 64-bit signed division is wrong\r\n");
	why = check_vmexit();
	print(why ? "selfcheck: vmexit BROKEN: " : "selfcheck: vmexit ok");
	print(why ? why : "");
	print("\r\nselfcheck: done\r\n");
	uefi_call_wrapper(system->RuntimeServices->ResetSystem, 4, EfiResetShutdown, EFI_SUCCESS, 0,
			  NULL);
	for (;;)
		__asm__ volatile("hlt");
}
