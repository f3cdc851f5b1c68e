/* SPDX-License-Identifier: MIT */
/*
 * traps: debug exceptions and alignment checks, which a hypervisor must intercept (their delivery can be
 * made to raise them again without end) and hand back as if it had not. Argument: how=loop does make
 * such a loop, from which neither this guest nor the CPU comes out: only its host can go on.
 */
#include "guest.h"

#define RFLAGS_TF BIT(8)
#define RFLAGS_AC BIT(18)
#define CR0_AM BIT(18)
#define CR4_MCE BIT(6)
#define DR6_BD BIT(13)
#define DR6_BS BIT(14)
#define DR7_GD BIT(13)
#define MSR_DEBUGCTL 0x1d9
#define DEBUGCTL_BTF BIT(1)
#define VEC_DB 1
#define VEC_AC 17
#define USER_CS 0x1b
#define USER_DS 0x23
#define TSS_SEL 0x28

extern u64 pml4[512];

#define DEFINE_DR(n)                                                                             \
	static inline u64 read_dr##n(void)                                                       \
	{                                                                                        \
		u64 v;                                                                           \
		__asm__ volatile("mov %%dr" #n ", %0" : "=r"(v) : : "memory");                   \
		return v;                                                                        \
	}                                                                                        \
	static inline void write_dr##n(u64 v)                                                    \
	{                                                                                        \
		__asm__ volatile("mov %0, %%dr" #n : : "r"(v) : "memory");                       \
	}
DEFINE_DR(0)
DEFINE_DR(6)
DEFINE_DR(7)
#undef DEFINE_DR

static volatile u64 traps, trap_dr6, trap_rip[8], watched;

static void on_debug(struct regs *r)
{
	trap_dr6 = read_dr6();
	trap_rip[traps & 7] = r->rip;
	traps++;
	write_dr6(0xffff0ff0);
	if (traps == 4)
		r->rflags &= ~RFLAGS_TF;
}

static void begin(void)
{
	traps = 0;
	write_dr6(0xffff0ff0);
}

static void check_debug(void)
{
	u64 step[4], after;

	intr_set(VEC_DB, on_debug);
	/* One trap behind each instruction, also behind one that exits and one that the host emulates. */
	begin();
	__asm__ volatile("pushfq; orq %5, (%%rsp); popfq\n\tnop\n1:\txor %%ecx, %%ecx\n2:\tcpuid\n3:\toutb %%al, $0x80\n4:\tnop\n\t"
			 "lea 1b(%%rip), %0; lea 2b(%%rip), %1; lea 3b(%%rip), %2; lea 4b(%%rip), %3"
			 : "=&r"(step[0]), "=&r"(step[1]), "=&r"(step[2]), "=&r"(step[3]) : "a"(0), "i"(RFLAGS_TF)
			 : "rbx", "rcx", "rdx", "memory", "cc");
	CHECK("step.count", traps == 4, "%lu traps", traps);
	for (u32 i = 0; i < 4; i++)
		CHECK("step.rip", trap_rip[i] == step[i], "trap %u at 0x%lx, not 0x%lx", i, trap_rip[i], step[i]);
	CHECK("step.dr6", trap_dr6 == (0xffff0ff0 | DR6_BS), "DR6 0x%lx", trap_dr6);

	begin();
	write_dr0((u64)&watched);
	write_dr7(0x400 | 1 | 0xdull << 16); /* 4 bytes, writes */
	watched = 1;
	after = traps;
	write_dr7(0x400);
	CHECK("watch", after == 1 && trap_dr6 == 0xffff0ff1, "%lu traps, DR6 0x%lx", after, trap_dr6);

	begin();
	__asm__ volatile(".byte 0xf1\n5:\tlea 5b(%%rip), %0" : "=r"(after) : : "memory");
	CHECK("int1", traps == 1 && trap_rip[0] == after && !(trap_dr6 & 0xf), "%lu traps, rip 0x%lx, not 0x%lx, DR6 0x%lx", traps,
	      trap_rip[0], after, trap_dr6);

	begin();
	write_dr7(0x400 | DR7_GD);
	after = read_dr0();
	CHECK("general-detect", traps == 1 && trap_dr6 == (0xffff0ff0 | DR6_BD) && !(read_dr7() & DR7_GD) && after == (u64)&watched,
	      "%lu traps, DR6 0x%lx, DR7 0x%lx", traps, trap_dr6, read_dr7());

	/* The exception switches BTF off, so that its handler is not stepped by branches. */
	begin();
	wrmsr(MSR_DEBUGCTL, DEBUGCTL_BTF);
	__asm__ volatile(".byte 0xf1" : : : "memory");
	CHECK("btf", !(rdmsr(MSR_DEBUGCTL) & DEBUGCTL_BTF), "0x%lx", rdmsr(MSR_DEBUGCTL));
	intr_set(VEC_DB, NULL);
}

/* --- CPL 3, for the alignment check --- */

static struct {
	u32 reserved;
	u64 rsp[3], reserved1, ist[7], reserved2;
	u16 reserved3, iopb;
} __attribute__((packed)) tss;
static u64 gdt[7] = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff };
static u8 user_stack[4096] __attribute__((aligned(16))), trap_stack[4096] __attribute__((aligned(16)));
static volatile u64 ac_count, ac_error, kernel_rsp;

static void load_gdt(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) gdtr = { sizeof(gdt) - 1, (u64)gdt };
	u64 base = (u64)&tss;

	gdt[5] = (sizeof(tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	gdt[6] = base >> 32;
	tss.iopb = sizeof(tss);
	tss.rsp[0] = tss.ist[0] = (u64)trap_stack + sizeof(trap_stack);
	__asm__ volatile("lgdt %0; ltr %w1" : : "m"(gdtr), "r"(TSS_SEL) : "memory");
}

/* Every page of the boot map becomes the user's. */
static void open_pages(void)
{
	u64 *pdpt = (u64 *)(pml4[0] & ~0xfffull);

	pml4[0] |= 4;
	for (u32 i = 0; i < 4; i++) {
		u64 *pd = (u64 *)(pdpt[i] & ~0xfffull);

		pdpt[i] |= 4;
		for (u32 j = 0; j < 512; j++)
			pd[j] |= 4;
	}
	write_cr3(read_cr3());
}

/* Back to the kernel's stack and code, behind the IRETQ below. */
extern char back_from_user[];
static void on_alignment(struct regs *r)
{
	ac_count++;
	ac_error = r->error;
	r->rip = (u64)back_from_user;
	r->cs = 8;
	r->ss = 0x10;
	r->rsp = kernel_rsp;
	r->rflags = 2;
}

static void check_alignment(void)
{
	load_gdt();
	open_pages();
	intr_set(VEC_AC, on_alignment);
	write_cr0(read_cr0() | CR0_AM);
	__asm__ volatile("push %%rbp; push %%rbx; mov %%rsp, %0\n\t"
			 "pushq %1; pushq %2; pushq %3; pushq %4; lea 1f(%%rip), %%rax; pushq %%rax; iretq\n"
			 "1:\tmovl 1(%%rsp), %%eax\n\tud2\n"
			 "	.globl back_from_user\nback_from_user:\tpop %%rbx; pop %%rbp"
			 : "=m"(kernel_rsp)
			 : "i"(USER_DS), "r"((u64)user_stack + sizeof(user_stack) - 64), "r"(2 | RFLAGS_AC), "i"(USER_CS)
			 : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
	CHECK("alignment", ac_count == 1 && ac_error == 0, "%lu faults, error 0x%lx", ac_count, ac_error);
	write_cr0(read_cr0() & ~CR0_AM);
	intr_set(VEC_AC, NULL);
}

/* The #DB's own stack frame is watched: its delivery is the next one's cause, for ever. */
static void loop(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) idtr;

	load_gdt();
	__asm__ volatile("sidt %0" : "=m"(idtr));
	((u8 *)idtr.base)[16 * VEC_DB + 4] = 1; /* IST 1: the same frame each time */
	write_dr0(tss.ist[0] - 8);
	write_dr7(0x400 | 1 | 0x9ull << 16); /* 8 bytes, writes */
	printf("TRAPS loop\n");
	__asm__ volatile(".byte 0xf1" : : : "memory");
	for (;;) /* a CPU that does not watch its own pushes */
		pause();
}

int main(void)
{
	u64 cr4 = read_cr4();

	if (arg_is("how", "loop"))
		loop();
	/* Machine checks are the host's; the bit is the guest's to see. */
	write_cr4(cr4 ^ CR4_MCE);
	CHECK("cr4.mce", read_cr4() == (cr4 ^ CR4_MCE), "0x%lx", read_cr4());
	write_cr4(cr4);
	CHECK("cr4.mce-back", read_cr4() == cr4, "0x%lx", read_cr4());
	check_debug();
	check_alignment();
	return 0;
}
