/* SPDX-License-Identifier: MIT */
/*
 * decoder: memory-mapped registers work with every form of access that a compiler or an old driver
 * may use. The scratch register is the APIC timer's initial count, which keeps all 32 bits while its
 * interrupt is masked. Arguments, each adds a group that a host may refuse by stopping the guest:
 * forms=rare (bit tests, shifts, IMUL, CMOV), forms=undefined (what the SDM leaves undefined for the
 * APIC, parts of a register written and 64 bits: it has to work on afterwards), forms=vector (SSE,
 * MOVBE).
 */
#include "guest.h"

#define SCRATCH (APIC_MMIO + APIC_TIMER_INITIAL)

extern char apic_alias[]; /* guest.ld: 1 GiB, mapped here to the APIC's page */

static volatile u32 *const reg = (u32 *)SCRATCH;

static void set(u32 v) { mmio_write(SCRATCH, v); }
static u32 get(void) { return mmio_read(SCRATCH); }

/* A form that writes: from `start`, the register ends up as `want`. */
#define STORE(name, start, want, code, ...)                                                      \
	do {                                                                                     \
		set(start);                                                                      \
		__asm__ volatile(code : : "D"(reg), ##__VA_ARGS__ : "memory", "cc", "r11");      \
		CHECK(name, get() == (u32)(want), "register is 0x%x, not 0x%x", get(),           \
		      (u32)(want));                                                              \
	} while (0)

/* A form that reads: with the register at `start`, RAX goes from `before` to `want`. */
#define LOAD(name, start, before, want, code)                                                    \
	do {                                                                                     \
		u64 rax_ = (before);                                                             \
		set(start);                                                                      \
		__asm__ volatile(code : "+a"(rax_) : "D"(reg) : "memory", "cc", "r11");          \
		CHECK(name, rax_ == (u64)(want), "rax 0x%lx, not 0x%lx", rax_, (u64)(want));     \
		CHECK(name, get() == (u32)(start), "register changed to 0x%x", get());           \
	} while (0)

enum { CF = 1, ZF = 1 << 6, SF = 1 << 7, OF = 1 << 11, FLAGS = CF | ZF | SF | OF };

/* A form that sets flags. */
#define FLAG(name, start, rax, want, code)                                                       \
	do {                                                                                     \
		u64 f_;                                                                          \
		set(start);                                                                      \
		__asm__ volatile(code "; pushfq; popq %0"                                        \
				 : "=r"(f_) : "D"(reg), "a"((u64)(rax)) : "memory", "cc");       \
		CHECK(name, (f_ & FLAGS) == (want), "flags 0x%lx, not 0x%x", f_ & FLAGS, want);  \
	} while (0)

static void basic(void)
{
	const u64 ones = ~0ull;

	STORE("mov m32, r32", 0, 0x12345678, "movl %%eax, (%%rdi)", "a"(0x12345678));
	STORE("mov m32, r15d", 0, 0x9abcdef0,
	      "mov %%r15, %%r11; mov %%eax, %%r15d; movl %%r15d, (%%rdi); mov %%r11, %%r15",
	      "a"(0x9abcdef0));
	STORE("mov m32, imm32", 0, 0x87654321, "movl $0x87654321, (%%rdi)");
	STORE("mov moffs, eax", 0, 0x31415926, "movabsl %%eax, 0xfee00380", "a"(0x31415926));
	STORE("mov [rdi+rcx*4+disp8]", 0, 0x2, "movl $2, 64(%%rdi, %%rcx, 4)", "c"(-16l));
	STORE("mov [rsi+disp32]", 0, 0x3, "movl $3, 0x10000(%%rsi)", "S"(SCRATCH - 0x10000));
	STORE("mov fs:[disp]", 0, 0x4, "movl $4, %%fs:0x380");
	STORE("mov rip-relative, imm", 0, 0x55667788, "movl $0x55667788, apic_alias + 0x380(%%rip)");
	STORE("stosd", 0, 0x5a5a5a5a, "mov %%rdi, %%r11; stosl; mov %%r11, %%rdi", "a"(0x5a5a5a5a));
	LOAD("mov r32, m32", 0xfedcba98, ones, 0xfedcba98, "movl (%%rdi), %%eax");
	LOAD("mov eax, moffs", 0xfedcba98, ones, 0xfedcba98, "movabsl 0xfee00380, %%eax");
	LOAD("mov r32, addr32", 0xfedcba98, ones, 0xfedcba98, "movl (%%edi), %%eax");
	LOAD("mov r32, rip-relative", 0xfedcba98, 0, 0xfedcba98,
	     "movl apic_alias + 0x380(%%rip), %%eax");
	LOAD("mov r13d, m32", 0xfedcba98, 0, 0xfedcba98,
	     "mov %%r13, %%r11; movl (%%rdi), %%r13d; mov %%r13, %%rax; mov %%r11, %%r13");
	LOAD("mov r16, m16", 0xfedcba98, ones, 0xffffffffffffba98, "movw (%%rdi), %%ax");
	LOAD("mov r8, m8", 0xfedcba98, ones, 0xffffffffffffff98, "movb (%%rdi), %%al");
	LOAD("mov ah, m8", 0xfedcba98, ones, 0xffffffffffff98ff, "movb (%%rdi), %%ah");
	LOAD("mov sil, m8", 0xfedcba98, 0, 0x98,
	     "mov %%rsi, %%r11; xor %%esi, %%esi; movb (%%rdi), %%sil; mov %%rsi, %%rax;"
	     "mov %%r11, %%rsi");
	LOAD("movzx r32, m8", 0xfedcba98, ones, 0x98, "movzbl (%%rdi), %%eax");
	LOAD("movzx r32, m16", 0xfedcba98, ones, 0xba98, "movzwl (%%rdi), %%eax");
	LOAD("movzx r64, m8", 0xfedcba98, ones, 0x98, "movzbq (%%rdi), %%rax");
	LOAD("movsx r32, m8", 0xfedcba98, ones, 0xffffff98, "movsbl (%%rdi), %%eax");
	LOAD("movsx r64, m16", 0xfedcba98, 0, 0xffffffffffffba98, "movswq (%%rdi), %%rax");
	LOAD("movsxd r64, m32", 0xfedcba98, 0, 0xfffffffffedcba98, "movslq (%%rdi), %%rax");
	LOAD("lodsd", 0xfedcba98, ones, 0xfedcba98,
	     "mov %%rsi, %%r11; mov %%rdi, %%rsi; lodsl; mov %%r11, %%rsi");
}

static void strings(void)
{
	static u32 ram[2];
	const u32 *s;
	u32 *d;
	u64 n;

	set(0);
	ram[0] = 0x600df00d;
	s = ram;
	d = (u32 *)SCRATCH;
	__asm__ volatile("movsl" : "+S"(s), "+D"(d) : : "memory");
	CHECK("movsd mmio, ram", get() == 0x600df00d && s == ram + 1 && d == (u32 *)SCRATCH + 1,
	      "0x%x", get());
	s = (u32 *)SCRATCH;
	d = ram + 1;
	ram[1] = 0;
	n = 1;
	__asm__ volatile("rep movsl" : "+S"(s), "+D"(d), "+c"(n) : : "memory");
	CHECK("rep movsd ram, mmio", ram[1] == 0x600df00d && !n && d == ram + 2, "0x%x rcx %lu",
	      ram[1], n);
	d = (u32 *)SCRATCH;
	n = 1;
	__asm__ volatile("rep stosl" : "+D"(d), "+c"(n) : "a"(77) : "memory");
	CHECK("rep stosd", get() == 77 && !n, "0x%x rcx %lu", get(), n);
	d = (u32 *)SCRATCH;
	n = 0;
	__asm__ volatile("rep stosl" : "+D"(d), "+c"(n) : "a"(78) : "memory");
	CHECK("rep stosd, none", get() == 77 && d == (u32 *)SCRATCH, "0x%x", get());
	d = (u32 *)SCRATCH;
	__asm__ volatile("std; stosl; cld" : "+D"(d) : "a"(79) : "memory");
	CHECK("stosd, down", get() == 79 && d == (u32 *)SCRATCH - 1, "0x%x", get());
}

static void modify(void)
{
	STORE("add m, r", 0x10, 0x15, "addl %%eax, (%%rdi)", "a"(5));
	STORE("or m, imm8", 0x10, 0xfffffff1, "orl $-15, (%%rdi)");
	STORE("or m, imm32", 0x10, 0x12345678 | 0x10, "orl $0x12345678, (%%rdi)");
	STORE("or m8, imm8 of 0", 0x12345678, 0x12345678, "orl $0, (%%rdi)");
	STORE("or rip-relative, imm8", 0x100, 0x104, "orl $4, apic_alias + 0x380(%%rip)");
	STORE("adc m, r", 0x10, 0x16, "stc; adcl %%eax, (%%rdi)", "a"(5));
	STORE("sbb m, imm8", 0x10, 0x0e, "stc; sbbl $1, (%%rdi)");
	STORE("and m, imm8", 0x12345678, 0x12345670, "andl $-16, (%%rdi)");
	STORE("and m, r", 0x12345678, 0x00340000, "andl %%eax, (%%rdi)", "a"(0x00ff0000));
	STORE("sub m, r", 0x10, 0xfffffffe, "subl %%eax, (%%rdi)", "a"(0x12));
	STORE("xor m, imm32", 0xffffffff, 0xedcba987, "xorl $0x12345678, (%%rdi)");
	STORE("lock or", 0x1, 0x81, "lock orl $0x80, (%%rdi)");
	STORE("inc m", 0x7fffffff, 0x80000000, "incl (%%rdi)");
	STORE("dec m", 0x1000, 0xfff, "decl (%%rdi)");
	STORE("not m", 0x12345678, ~0x12345678u, "notl (%%rdi)");
	STORE("neg m", 5, -5, "negl (%%rdi)");
	LOAD("add r, m", 0x12, 0xffffffff00000001, 0x13, "addl (%%rdi), %%eax");
	LOAD("or r, m", 0x12, 1, 0x13, "orl (%%rdi), %%eax");
	LOAD("and r, m", 0x12, 0xf2, 0x12, "andl (%%rdi), %%eax");
	LOAD("sub r, m", 0x12, 0x22, 0x10, "subl (%%rdi), %%eax");
	LOAD("xor r, m", 0x12, 0x22, 0x30, "xorl (%%rdi), %%eax");
	FLAG("test m, imm", 0x80000000, 0, SF, "testl $0xf0000000, (%%rdi)");
	FLAG("test m, r", 0x80000000, 1, ZF, "testl %%eax, (%%rdi)");
	FLAG("test m8, imm8", 0x12345680, 0, SF, "testb $0x80, (%%rdi)");
	FLAG("cmp m, imm8, equal", 5, 0, ZF, "cmpl $5, (%%rdi)");
	FLAG("cmp m, r, below", 5, 6, CF | SF, "cmpl %%eax, (%%rdi)");
	FLAG("cmp r, m", 5, 6, 0, "cmpl (%%rdi), %%eax");
	FLAG("cmp r16, m16", 0x12340005, 5, ZF, "cmpw (%%rdi), %%ax");
	FLAG("cmp m8, imm8", 0x123456ff, 0, ZF, "cmpb $0xff, (%%rdi)");
	FLAG("add m, overflow", 0x7fffffff, 1, SF | OF, "addl %%eax, (%%rdi)");
	FLAG("inc keeps carry", 0xffffffff, 0, ZF | CF, "stc; incl (%%rdi)");
}

/* Seen with real device registers hardly ever. */
static void rare(void)
{
	STORE("bts m, imm", 0x1, 0x101, "btsl $8, (%%rdi)");
	STORE("btr m, imm", 0x101, 0x1, "btrl $8, (%%rdi)");
	STORE("btc m, imm", 0x101, 0x181, "btcl $7, (%%rdi)");
	STORE("shl m, 1", 0x81, 0x102, "shll (%%rdi)");
	STORE("shr m, imm", 0x8100, 0x81, "shrl $8, (%%rdi)");
	LOAD("imul r, m", 7, 6, 42, "imull (%%rdi), %%eax");
	LOAD("cmovz, taken", 0x1234, 5, 0x1234, "cmp %%eax, %%eax; cmovzl (%%rdi), %%eax");
	LOAD("cmovnz, not taken", 0x1234, 0xffffffff00000005, 5,
	     "cmp %%eax, %%eax; cmovnzl (%%rdi), %%eax");
	FLAG("bt m, imm", 0x100, 0, CF, "xor %%ecx, %%ecx; inc %%ecx; btl $8, (%%rdi)");
}

static void exchange(void)
{
	u32 v = 0x1111;
	u8 equal;

	set(0x2222);
	__asm__ volatile("xchgl %0, (%1)" : "+r"(v) : "r"(reg) : "memory");
	CHECK("xchg", v == 0x2222 && get() == 0x1111, "0x%x, register 0x%x", v, get());
	__asm__ volatile("lock xaddl %0, (%1)" : "+r"(v) : "r"(reg) : "memory", "cc");
	CHECK("xadd", v == 0x1111 && get() == 0x3333, "0x%x, register 0x%x", v, get());
	v = 0x3333;
	__asm__ volatile("lock cmpxchgl %3, (%2); sete %1"
			 : "+a"(v), "=q"(equal) : "r"(reg), "r"(0x4444) : "memory", "cc");
	CHECK("cmpxchg, equal", equal && get() == 0x4444, "register 0x%x", get());
	__asm__ volatile("lock cmpxchgl %3, (%2); sete %1"
			 : "+a"(v), "=q"(equal) : "r"(reg), "r"(0x5555) : "memory", "cc");
	CHECK("cmpxchg, other", !equal && get() == 0x4444 && v == 0x4444, "eax 0x%x", v);
}

/* The host walks the guest's page tables and fetches the instruction itself. */
static void paging(void)
{
	static u8 code[3 * PAGE_SIZE] __attribute__((aligned(4096)));
	/* mov eax, [rdi]; ret: straddles two pages that are neighbours only in linear space. */
	static const u8 text[] = { 0x8b, 0x87, 0, 0, 0, 0, 0xc3 };
	const u64 va = 0x50000000, window = 0x60003000;

	map_4k(va, (u64)code + 2 * PAGE_SIZE, 0);
	map_4k(va + PAGE_SIZE, (u64)code, 0);
	for (u32 split = 1; split < 6; split++) {
		u64 at = va + PAGE_SIZE - split;
		u64 eax;

		set(0xabcd0000 + split);
		memcpy((void *)at, text, sizeof(text));
		__asm__ volatile("call *%1" : "=a"(eax) : "r"(at), "D"(reg) : "memory");
		CHECK("fetch across pages", eax == 0xabcd0000 + split, "split %u: 0x%lx", split, eax);
	}
	map_4k(window, APIC_MMIO, PTE_PCD);
	set(0x77);
	CHECK("4 KiB mapping", mmio_read(window + APIC_TIMER_INITIAL) == 0x77, "0x%x",
	      mmio_read(window + APIC_TIMER_INITIAL));
	mmio_write(window + APIC_TIMER_INITIAL, 0x78);
	CHECK("4 KiB mapping", get() == 0x78, "0x%x", get());
}

static void ioapic(void)
{
	u32 v;

	__asm__ volatile("movl $1, (%1); movl 0x10(%1), %0" : "=r"(v) : "r"(IOAPIC_MMIO) : "memory");
	CHECK("ioapic version", (v & 0xff) >= 0x10 && (v >> 16 & 0xff) >= 15, "0x%x", v);
	ioapic_write(0x10 + 2 * 5, BIT(16) | 0x55);
	__asm__ volatile("movb $0x1a, (%0); orl $0x8000, 0x10(%0)" : : "r"(IOAPIC_MMIO) : "memory");
	CHECK("ioapic or", (ioapic_read(0x10 + 2 * 5) & 0x1ffff) == 0x18055, "0x%x",
	      ioapic_read(0x10 + 2 * 5));
}

/* Undefined for the APIC: nothing is claimed but to be alive, and in working order, afterwards. */
static void undefined(void)
{
	u64 q = 0;

	set(0x11223344);
	__asm__ volatile("movb $0x55, (%0)" : : "r"(reg) : "memory");
	printf("decoder: mov m8: 0x%x\n", get());
	__asm__ volatile("movw $0x6677, (%0)" : : "r"(reg) : "memory");
	printf("decoder: mov m16: 0x%x\n", get());
	__asm__ volatile("movl %1, 1(%0)" : : "r"(reg), "r"(0x8899aabb) : "memory");
	printf("decoder: mov unaligned: 0x%x\n", get());
	__asm__ volatile("movq (%1), %0" : "=r"(q) : "r"(reg) : "memory");
	printf("decoder: mov r64: 0x%lx\n", q);
	__asm__ volatile("movq %1, (%0)" : : "r"(reg), "r"(0x1122334455667788) : "memory");
	printf("decoder: mov m64: 0x%x\n", get());
	__asm__ volatile("pushq (%1); popq %0" : "=r"(q) : "r"(reg) : "memory");
	printf("decoder: push m64: 0x%lx\n", q);
	__asm__ volatile("pushq %1; popq (%0)" : : "r"(reg), "r"(0x99ul) : "memory");
	printf("decoder: pop m64: 0x%x\n", get());
	set(0x1234);
	CHECK("undefined forms", get() == 0x1234, "0x%x", get());
}

static void vector(void)
{
	set(0x11223344);
	__asm__ volatile("movd (%0), %%xmm0; movd %%xmm0, (%0)" : : "r"(reg) : "memory");
	printf("decoder: movd: 0x%x\n", get());
	__asm__ volatile("movups (%0), %%xmm0" : : "r"(reg) : "memory");
	printf("decoder: movups: 0x%x\n", get());
	if (cpuid(1, 0).ecx & BIT(22)) {
		u32 v;

		__asm__ volatile("movbe (%1), %0" : "=r"(v) : "r"(reg) : "memory");
		printf("decoder: movbe: 0x%x\n", v);
	}
	CHECK("vector forms", true, "-");
}

int main(void)
{
	apic_enable(false);
	apic_write(APIC_LVT_TIMER, APIC_MASKED);
	apic_write(APIC_TIMER_DIVIDE, 0xa); /* slowest */
	map_2m((u64)apic_alias, APIC_MMIO, PTE_PCD | PTE_PWT);
	wrmsr(0xc0000100, APIC_MMIO);
	basic();
	strings();
	modify();
	exchange();
	paging();
	ioapic();
	if (arg_is("forms", "rare"))
		rare();
	if (arg_is("forms", "undefined"))
		undefined();
	if (arg_is("forms", "vector"))
		vector();
	apic_write(APIC_TIMER_INITIAL, 0);
	return 0;
}
