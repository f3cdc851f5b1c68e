/* SPDX-License-Identifier: MIT */
/* The emulator against this CPU: generated instructions run natively on a buffer, and emulated on a guest in which the same
 * addresses are MMIO (and RAM in between); registers, flags and memory must come out the same. Then what cannot be run
 * natively: 16- and 32-bit code, faults, restarts, string I/O. */
#include "hv/vm/emulate.h"
#include "hv/arch/x86.h"
#include "hv/vm/gva.h"
#include "hv/vm/test_vm.h"
#include "hv/vm/vcpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <cmocka.h>

#define ARITH_FLAGS 0x8d5ull
#define MMIO_GPA 0xd0000000ull
#define MMIO_BYTES 0x10000ull

/* --- native side --- */
struct native { u64 gpr[16], rflags; };
void native_run(struct native *r, const void *code);
extern char native_back[];

/* Loads all registers, RSP too, jumps to code, which jumps to native_back, where they are stored. */
__asm__(".bss\n"
	"native_sp: .quad 0\nnative_regs: .quad 0\nnative_code: .quad 0\nnative_rdi: .quad 0\n"
	".text\n.globl native_run, native_back\n"
	"native_run:\n"
	"push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
	"mov %rsp, native_sp(%rip)\nmov %rdi, native_regs(%rip)\nmov %rsi, native_code(%rip)\n"
	"pushq 128(%rdi)\npopfq\n"
	"mov 0(%rdi), %rax\nmov 8(%rdi), %rcx\nmov 16(%rdi), %rdx\nmov 24(%rdi), %rbx\nmov 32(%rdi), %rsp\n"
	"mov 40(%rdi), %rbp\nmov 48(%rdi), %rsi\nmov 64(%rdi), %r8\nmov 72(%rdi), %r9\nmov 80(%rdi), %r10\n"
	"mov 88(%rdi), %r11\nmov 96(%rdi), %r12\nmov 104(%rdi), %r13\nmov 112(%rdi), %r14\nmov 120(%rdi), %r15\n"
	"mov 56(%rdi), %rdi\njmp *native_code(%rip)\n"
	"native_back:\n"
	"mov %rdi, native_rdi(%rip)\nmov native_regs(%rip), %rdi\n"
	"mov %rax, 0(%rdi)\nmov %rcx, 8(%rdi)\nmov %rdx, 16(%rdi)\nmov %rbx, 24(%rdi)\nmov %rsp, 32(%rdi)\n"
	"mov %rbp, 40(%rdi)\nmov %rsi, 48(%rdi)\nmov %r8, 64(%rdi)\nmov %r9, 72(%rdi)\nmov %r10, 80(%rdi)\n"
	"mov %r11, 88(%rdi)\nmov %r12, 96(%rdi)\nmov %r13, 104(%rdi)\nmov %r14, 112(%rdi)\nmov %r15, 120(%rdi)\n"
	"mov native_rdi(%rip), %rax\nmov %rax, 56(%rdi)\n"
	"mov native_sp(%rip), %rsp\npushfq\npopq 128(%rdi)\ncld\n"
	"pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");

/* --- the guest: host addresses of code and buffer are its linear addresses --- */
/* Buffer pages: MMIO, MMIO (elsewhere), RAM, MMIO. Then a RAM page for the stack. */
#define BUF_PAGES 5
static const bool page_is_ram[BUF_PAGES] = { false, false, true, false, true };
static const u64 page_gpa[BUF_PAGES] = { MMIO_GPA, MMIO_GPA + 0x5000, 0x201000, MMIO_GPA + 0x2000, 0x205000 };
#define CODE_GPA 0x300000ull

static u8 *code, *buf; /* below 2 GiB, so that every addressing form reaches them */
static u8 mmio[MMIO_BYTES];
static struct test_vm *t;
static struct vcpu vc;
static unsigned accesses;
static u64 seed = 88172645463325252ull;

static u32 rnd(void)
{
	seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
	return seed >> 16;
}

static u64 rnd64(void)
{
	return (u64)rnd() << 32 | rnd();
}

static void device(struct vdev *dev, u64 at, unsigned size, bool write, u64 *val)
{
	u8 *p = mmio + (at - MMIO_GPA);

	accesses++;
	if (size != 1 && size != 2 && size != 4 && size != 8)
		fail_msg("access of %u bytes", size);
	if (write)
		memcpy(p, val, size);
	else
		memcpy(val, p, size); /* the rest stays all ones: not the emulator's to use */
}

static void map_page(u64 va, u64 to)
{
	static u64 next = 0x10000;
	u64 table = 0x1000, e;
	int level;

	if (va == 0) {
		next = 0x10000;
		return;
	}
	for (level = 4; level > 1; level--) {
		u64 at = table + (va >> (3 + 9 * level) & 511) * 8;

		assert_int_equal(guest_read(&t->vm, gpa(at), &e, 8), 0);
		if (!e) {
			e = next | 7;
			next += 0x1000;
			assert_int_equal(guest_write(&t->vm, gpa(at), &e, 8), 0);
		}
		table = e & ~0xfffull;
	}
	e = to ? to | 7 : 0;
	assert_int_equal(guest_write(&t->vm, gpa(table + (va >> 12 & 511) * 8), &e, 8), 0);
}

static void *low_pages(unsigned n)
{
	void *p = mmap(NULL, n * PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

static int make(void **state)
{
	unsigned i;

	code = code ?: low_pages(2);
	buf = buf ?: low_pages(BUF_PAGES);
	t = test_vm_make(16 << 20);
	t->vm.mmio[0] = (struct bus_range){ MMIO_GPA, MMIO_BYTES, 8, NULL, device };
	t->vm.n_mmio = 1;
	test_vcpu_init(&vc, &t->vm, 64, 0x1000);
	map_page(0, 0);
	for (i = 0; i < BUF_PAGES; i++)
		map_page((uintptr_t)buf + i * PAGE_SIZE, page_gpa[i]);
	map_page((uintptr_t)code, CODE_GPA);
	map_page((uintptr_t)code + PAGE_SIZE, CODE_GPA + PAGE_SIZE);
	accesses = 0;
	return 0;
}

static int unmake(void **state)
{
	test_vm_free(t);
	test_vcpu_free(&vc);
	return 0;
}

static u64 gpa_of(u64 va)
{
	return page_gpa[(va - (uintptr_t)buf) >> 12] + (va & 0xfff);
}

static u8 *guest_side(unsigned page)
{
	return page_is_ram[page] ? (u8 *)guest_page(&t->vm, page_gpa[page] >> 12) : mmio + (page_gpa[page] - MMIO_GPA);
}

static void dump(const u8 *in, unsigned len)
{
	unsigned i;

	for (i = 0; i < len; i++)
		fprintf(stderr, "%02x ", in[i]);
	fprintf(stderr, "\n");
}

/* Runs one instruction both ways, from random memory and the given registers; fault_va: an address that the CPU would have
 * reported. */
static void compare(const u8 *in, unsigned len, const struct native *r, u64 fault_va)
{
	static u8 before[BUF_PAGES * PAGE_SIZE];
	u64 back = (uintptr_t)native_back;
	struct native n = *r;
	u32 inst_len = 99;
	unsigned i;

	for (i = 0; i < sizeof(before); i += 4)
		memcpy(before + i, &(u32){ rnd() }, 4);
	if (rnd() % 4 == 0) /* make CMPXCHG match now and then */
		memcpy(before + (fault_va - (uintptr_t)buf), &n.gpr[VCPU_RAX], 8);
	memcpy(buf, before, sizeof(before));
	memcpy(code, in, len);
	memcpy(code + len, "\xff\x25\0\0\0\0", 6); /* jmp *0(%rip) */
	memcpy(code + len + 6, &back, 8);
	for (i = 0; i < BUF_PAGES; i++)
		memcpy(guest_side(i), before + i * PAGE_SIZE, PAGE_SIZE);
	assert_int_equal(guest_write(&t->vm, gpa(CODE_GPA), in, len), 0);
	memcpy(vc.s.gpr, n.gpr, sizeof(n.gpr));
	vc.s.rflags = n.rflags;
	vc.s.rip = (uintptr_t)code;
	vc.s.event_info = 0;

	native_run(&n, code);
	if (emulate_mmio(&vc, gpa(gpa_of(fault_va)), &inst_len) != EMU_OK) {
		dump(in, len);
		fail_msg("not emulated");
	}
	for (i = 0; i < BUF_PAGES; i++)
		if (memcmp(guest_side(i), buf + i * PAGE_SIZE, PAGE_SIZE)) {
			dump(in, len);
			fail_msg("memory differs in page %u (operand at %#lx, buffer at %p)", i, (unsigned long)fault_va, (void *)buf);
		}
	for (i = 0; i < 16; i++)
		if (vc.s.gpr[i] != n.gpr[i]) {
			dump(in, len);
			fail_msg("register %u: %#lx, native %#lx", i, (unsigned long)vc.s.gpr[i], (unsigned long)n.gpr[i]);
		}
	if ((vc.s.rflags ^ n.rflags) & (ARITH_FLAGS | 0x400)) {
		dump(in, len);
		fail_msg("flags %#lx, native %#lx", (unsigned long)vc.s.rflags, (unsigned long)n.rflags);
	}
	if (inst_len != len) {
		dump(in, len);
		fail_msg("length %u, is %u", inst_len, len);
	}
}

static void random_regs(struct native *r)
{
	unsigned i;

	for (i = 0; i < 16; i++)
		r->gpr[i] = rnd() % 8 ? rnd64() : (u64)(s64)(s32)(rnd() % 3 - 1);
	r->rflags = (rnd() & ARITH_FLAGS) | 2;
	/* The stack is in the last page, which is RAM. */
	r->gpr[VCPU_RSP] = (uintptr_t)buf + 4 * PAGE_SIZE + 0x800 + (rnd() & 0x1f8);
}

/* Somewhere in the first four pages such that an operand of 8 bytes stays within them and its first or last byte is MMIO. */
static u64 random_target(unsigned size)
{
	u64 off;

	do {
		off = rnd() % (4 * PAGE_SIZE - 8);
		if (rnd() % 4 == 0) /* across or up to a page boundary */
			off = (1 + rnd() % 3) * PAGE_SIZE - rnd() % (size + 1);
	} while (page_is_ram[off >> 12] && page_is_ram[(off + size - 1) >> 12]);
	return (uintptr_t)buf + off;
}

/* Appends a ModRM operand with that reg field which addresses target, and sets the registers for it. after: bytes of immediate
 * that follow (RIP-relative addresses count from the end). *rex gets R, X, B. fixed: registers (bits) that must stay. */
static unsigned put_modrm(u8 *in, unsigned at, unsigned reg, u64 target, unsigned after, struct native *r, u8 *rex, u32 fixed)
{
	unsigned form = rnd() % 8, base, index, scale = rnd() & 3, mod;
	u64 disp;

	*rex |= reg & 8 ? 4 : 0;
	reg = (reg & 7) << 3;
	if (form == 0) { /* RIP + disp32 */
		disp = target - ((uintptr_t)code + at + 5 + after);
		in[at] = reg | 5;
		memcpy(in + at + 1, &disp, 4);
		return at + 5;
	}
	if (form == 1) { /* disp32 alone */
		in[at] = reg | 4;
		in[at + 1] = 0x25;
		memcpy(in + at + 2, &target, 4);
		return at + 6;
	}
	do
		base = rnd() & 15;
	while (fixed & BIT(base) || base == VCPU_RSP);
	mod = rnd() % 3;
	if ((base & 7) == 5 && mod == 0)
		mod = 1;
	disp = mod == 0 ? 0 : mod == 1 ? (u64)(s64)(signed char)rnd() : (u64)(s64)(s32)rnd();
	*rex |= base & 8 ? 1 : 0;
	if (form < 5 && (base & 7) != 4) {
		r->gpr[base] = target - disp;
		in[at++] = mod << 6 | reg | (base & 7);
	} else {
		do
			index = rnd() & 15;
		while (index == base);
		if (index == VCPU_RSP) { /* means none */
			r->gpr[base] = target - disp;
		} else {
			if (!(fixed & BIT(index)))
				r->gpr[index] = rnd64();
			r->gpr[base] = target - disp - (r->gpr[index] << scale);
			*rex |= index & 8 ? 2 : 0;
		}
		in[at++] = mod << 6 | reg | 4;
		in[at++] = scale << 6 | (index & 7) << 3 | (base & 7);
	}
	memcpy(in + at, &disp, mod == 0 ? 0 : mod == 1 ? 1 : 4);
	return at + (mod == 0 ? 0 : mod == 1 ? 1 : 4);
}

enum { REG = 0x10, LOCKABLE = 0x20, NO66 = 0x40, ADDR_REG = 0x80 };
struct shape {
	u8 map;       /* 0x0f: two-byte opcode */
	u8 opcode;
	u8 ext;       /* REG: any register in the reg field; else its value */
	u8 size;      /* of the memory operand: 0: operand size; else bytes */
	u8 imm;       /* bytes; 9: min(operand size, 4) */
	u8 flags;
};

static const struct shape shapes[] = {
#define ALU(n) { 0, 8 * n, REG, 1, 0, n == 7 ? 0 : LOCKABLE }, { 0, 8 * n + 1, REG, 0, 0, n == 7 ? 0 : LOCKABLE }, \
	{ 0, 8 * n + 2, REG, 1, 0, 0 }, { 0, 8 * n + 3, REG, 0, 0, 0 }, { 0, 0x80, n, 1, 1, 0 }, { 0, 0x81, n, 0, 9, 0 }, \
	{ 0, 0x83, n, 0, 1, n == 7 ? 0 : LOCKABLE }
	ALU(0), ALU(1), ALU(2), ALU(3), ALU(4), ALU(5), ALU(6), ALU(7),
	{ 0, 0x84, REG, 1, 0, 0 }, { 0, 0x85, REG, 0, 0, 0 }, { 0, 0x86, REG, 1, 0, LOCKABLE }, { 0, 0x87, REG, 0, 0, LOCKABLE },
	{ 0, 0x88, REG, 1, 0, 0 }, { 0, 0x89, REG, 0, 0, 0 }, { 0, 0x8a, REG, 1, 0, 0 }, { 0, 0x8b, REG, 0, 0, 0 },
	{ 0, 0xc6, 0, 1, 1, 0 }, { 0, 0xc7, 0, 0, 9, 0 }, { 0, 0xf6, 0, 1, 1, 0 }, { 0, 0xf7, 0, 0, 9, 0 },
	{ 0, 0xf6, 2, 1, 0, LOCKABLE }, { 0, 0xf7, 2, 0, 0, LOCKABLE }, { 0, 0xf6, 3, 1, 0, LOCKABLE }, { 0, 0xf7, 3, 0, 0, 0 },
	{ 0, 0xfe, 0, 1, 0, LOCKABLE }, { 0, 0xff, 0, 0, 0, LOCKABLE }, { 0, 0xfe, 1, 1, 0, 0 }, { 0, 0xff, 1, 0, 0, LOCKABLE },
	{ 0, 0xff, 6, 8, 0, NO66 }, { 0, 0x8f, 0, 8, 0, NO66 }, { 0, 0x63, REG, 4, 0, NO66 },
	{ 0x0f, 0xb0, REG, 1, 0, LOCKABLE }, { 0x0f, 0xb1, REG, 0, 0, LOCKABLE }, { 0x0f, 0xc0, REG, 1, 0, LOCKABLE },
	{ 0x0f, 0xc1, REG, 0, 0, LOCKABLE }, { 0x0f, 0xb6, REG, 1, 0, 0 }, { 0x0f, 0xb7, REG, 2, 0, 0 }, { 0x0f, 0xbe, REG, 1, 0, 0 },
	{ 0x0f, 0xbf, REG, 2, 0, 0 }, { 0x0f, 0xc3, REG, 0, 0, NO66 },
};

static void one_operand_like_the_cpu(void **state)
{
	unsigned k, i, n, reg, op_size, size, imm, start, at;
	struct native r;
	u8 in[32], rest[32], rex;
	u64 target;

	for (k = 0; k < ARRAY_SIZE(shapes); k++)
		for (i = 0; i < 1500; i++) {
			const struct shape *s = &shapes[k];

			random_regs(&r);
			n = 0;
			rex = rnd() & 1 ? 0x40 : 0;
			op_size = 4;
			if (rnd() % 3 == 0)
				rex |= 0x48;
			if (!(s->flags & NO66) && rnd() % 3 == 0)
				in[n++] = 0x66, op_size = 2;
			if (rex & 8)
				op_size = 8;
			size = s->size ?: op_size;
			imm = s->imm == 9 ? MIN(op_size, 4u) : s->imm;
			target = random_target(size);
			if (s->flags & LOCKABLE && rnd() % 4 == 0) {
				in[n++] = 0xf0;
				target &= ~(u64)(size - 1); /* no split locks, please */
				if (page_is_ram[(target - (uintptr_t)buf) >> 12])
					target -= PAGE_SIZE;
			}
			reg = s->ext == REG ? rnd() & (rnd() & 1 ? 7 : 15) : s->ext;
			/* With REX.W the immediate of 8-byte operands stays 4 bytes. Length of REX is settled once R, X, B are. */
			start = n + 1;
			at = start + (s->map ? 2 : 1);
			r.gpr[VCPU_RSP] &= ~7ull;
			for (;;) {
				u8 rex_now = rex;
				struct native q = r;
				u64 keep = seed;

				memset(rest, 0, sizeof(rest));
				at = put_modrm(rest, start + (s->map ? 2 : 1), reg, target, imm, &q, &rex_now,
					       BIT(VCPU_RSP) | (s->opcode == 0xb0 || s->opcode == 0xb1 ? BIT(VCPU_RAX) : 0));
				if (rex_now)
					rex_now |= 0x40;
				if (!rex_now && start == n + 1) { /* no REX: one byte less; same random choices again */
					start = n;
					seed = keep;
					continue;
				}
				r = q;
				rex = rex_now;
				break;
			}
			if (rex)
				in[n++] = rex;
			if (s->map)
				in[n++] = s->map;
			in[n++] = s->opcode;
			memcpy(in + n, rest + n, at - n);
			n = at;
			for (at = 0; at < imm; at++)
				in[n++] = rnd();
			/* POP with an RSP operand, and register = base, are all fair: the CPU says what comes out. */
			compare(in, n, &r, page_is_ram[(target - (uintptr_t)buf) >> 12] ? (target + 8) & ~0xfffull : target);
		}
	assert_true(accesses > 50000);
}

static void moffs_like_the_cpu(void **state)
{
	unsigned i, n, size;
	struct native r;
	u64 target;
	u8 in[16];

	for (i = 0; i < 4000; i++) {
		u8 op = 0xa0 | (i & 3);
		bool a32 = i & 4;

		random_regs(&r);
		n = 0;
		size = op & 1 ? 4 : 1;
		if (a32)
			in[n++] = 0x67;
		if (i & 8 && op & 1)
			in[n++] = 0x66, size = 2;
		if (i & 16)
			in[n++] = 0x48, size = op & 1 ? 8 : 1;
		do
			target = random_target(size);
		while (page_is_ram[(target - (uintptr_t)buf) >> 12]);
		in[n++] = op;
		memcpy(in + n, &target, 8);
		compare(in, n + (a32 ? 4 : 8), &r, target);
	}
}

/* PUSH and POP through [rsp + disp]: which RSP counts? */
static void stack_relative_like_the_cpu(void **state)
{
	struct native r;
	unsigned i;
	u64 target;
	u8 in[8];
	s32 disp;

	for (i = 0; i < 500; i++) {
		random_regs(&r);
		target = random_target(8);
		if (page_is_ram[(target - (uintptr_t)buf) >> 12])
			continue;
		disp = target - r.gpr[VCPU_RSP];
		memcpy(in, i & 1 ? "\xff\xb4\x24" : "\x8f\x84\x24", 3);
		if (!(i & 1))
			disp -= 8;
		memcpy(in + 3, &disp, 4);
		compare(in, 7, &r, target);
	}
}

static void strings_like_the_cpu(void **state)
{
	static const u8 ops[] = { 0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad };
	unsigned i, n;
	struct native r;
	u8 in[8];

	for (i = 0; i < 20000; i++) {
		u8 op = ops[rnd() % 6];
		bool rep = rnd() & 1, a32 = rnd() % 3 == 0, from = op != 0xaa && op != 0xab, to = op < 0xac, down = rnd() & 1;
		u64 from_off, to_off;

		random_regs(&r);
		n = 0;
		if (rep)
			in[n++] = rnd() & 1 ? 0xf3 : 0xf2;
		if (a32)
			in[n++] = 0x67;
		if (op & 1 && rnd() % 3 == 0)
			in[n++] = 0x66;
		if (rnd() % 3 == 0)
			in[n++] = 0x48;
		in[n++] = op;
		if (down)
			r.rflags |= 0x400;
		r.gpr[VCPU_RCX] = rnd() % 30 + (a32 ? rnd64() << 32 : 0);
		/* One of source and target starts in MMIO; the other anywhere. */
		do {
			from_off = 256 + rnd() % (4 * PAGE_SIZE - 512);
			to_off = 256 + rnd() % (4 * PAGE_SIZE - 512);
			if (rnd() % 3 == 0)
				from_off = PAGE_SIZE * (1 + rnd() % 3) - rnd() % 9;
		} while (page_is_ram[(from && (!to || rnd() & 1) ? from_off : to_off) >> 12]);
		r.gpr[VCPU_RSI] = (uintptr_t)buf + from_off + (a32 ? rnd64() << 32 : 0);
		r.gpr[VCPU_RDI] = (uintptr_t)buf + to_off + (a32 ? rnd64() << 32 : 0);
		if (rep && !r.gpr[VCPU_RCX])
			continue;
		compare(in, n, &r, (uintptr_t)buf + (from && !page_is_ram[from_off >> 12] ? from_off : to_off));
	}
}

/* --- what cannot be compared --- */

static u64 code_put(const void *bytes, unsigned len)
{
	assert_int_equal(guest_write(&t->vm, gpa(CODE_GPA), bytes, len), 0);
	vc.s.rip = (uintptr_t)code;
	vc.s.event_info = 0;
	return vc.s.rip;
}

static void rep_is_bounded_and_restartable(void **state)
{
	u32 len = 99;
	unsigned runs = 0;

	code_put("\xf3\xaa", 2); /* rep stosb */
	vc.s.gpr[VCPU_RDI] = (uintptr_t)buf;
	vc.s.gpr[VCPU_RCX] = 1000;
	vc.s.gpr[VCPU_RAX] = 0xa7;
	memset(mmio, 0, sizeof(mmio));
	do {
		assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_OK);
		runs++;
		assert_int_equal(vc.s.gpr[VCPU_RCX], runs < 4 ? 1000 - 256 * runs : 0);
		assert_int_equal(len, runs < 4 ? 0 : 2);
	} while (len == 0);
	assert_int_equal(mmio[999], 0xa7);
	assert_int_equal(mmio[1000], 0);
	assert_int_equal(accesses, 1000);
}

static bool injected(u8 vector, u32 error)
{
	return vc.s.event_info == (0x80000b00u | vector) && vc.s.event_error == error;
}

static void faults_before_side_effects(void **state)
{
	u64 edge = (uintptr_t)buf + PAGE_SIZE;
	u32 len;

	map_page(edge, 0);
	memset(mmio, 0, sizeof(mmio));
	vc.s.gpr[VCPU_RBX] = edge - 2;
	vc.s.gpr[VCPU_RAX] = 0x1122334455667788;
	code_put("\x89\x03", 2); /* mov %eax, (%rbx) */
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA + 0xffe), &len), EMU_FAULT);
	assert_true(injected(14, PF_WRITE));
	assert_int_equal(read_cr2(), edge);
	assert_int_equal(accesses, 0);
	assert_int_equal(mmio[0xffe], 0);
	code_put("\x3b\x03", 2); /* cmp (%rbx), %eax: reads */
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA + 0xffe), &len), EMU_FAULT);
	assert_true(injected(14, 0));
	assert_int_equal(vc.s.rflags, 2);
	/* In user mode the error code says so. */
	vmcs_write(VMCS_GUEST_AR(SEG_SS), 0xc0f3);
	code_put("\x3b\x03", 2);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA + 0xffe), &len), EMU_FAULT);
	assert_true(injected(14, PF_USER));
	vmcs_write(VMCS_GUEST_AR(SEG_SS), 0xc093);

	/* PUSH reads the device only if the stack can be written; POP the other way round. */
	vc.s.gpr[VCPU_RBX] = (uintptr_t)buf;
	vc.s.gpr[VCPU_RSP] = edge + 8;
	code_put("\xff\x33", 2);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_FAULT);
	assert_true(injected(14, PF_WRITE));
	vc.s.gpr[VCPU_RSP] = edge;
	code_put("\x8f\x03", 2);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_FAULT);
	assert_true(injected(14, 0));
	assert_int_equal(vc.s.gpr[VCPU_RSP], edge);
	assert_int_equal(accesses, 0);

	/* A repeated one keeps what it has done. */
	code_put("\xf3\xab", 2);
	vc.s.gpr[VCPU_RDI] = edge - 10;
	vc.s.gpr[VCPU_RCX] = 5;
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA + 0xff6), &len), EMU_FAULT);
	assert_int_equal(vc.s.gpr[VCPU_RCX], 3);
	assert_int_equal(vc.s.gpr[VCPU_RDI], edge - 2);
	assert_int_equal(read_cr2(), edge);
	assert_int_equal(accesses, 2);

	/* Past the end of the canonical addresses. */
	vc.s.gpr[VCPU_RDI] = 0x800000000000 - 3;
	map_page(0x7ffffffff000, MMIO_GPA);
	code_put("\xab", 1);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA + 0xffd), &len), EMU_FAULT);
	assert_true(injected(13, 0));
}

static void code_must_be_there(void **state)
{
	char what[120];
	u32 len;

	code_put("\x8b\x03", 2);
	vc.s.gpr[VCPU_RBX] = (uintptr_t)buf;
	map_page((uintptr_t)code, 0);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_FAULT);
	assert_true(injected(14, PF_FETCH));
	assert_int_equal(read_cr2(), (uintptr_t)code);
	map_page((uintptr_t)code, MMIO_GPA);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_UNSUPPORTED);
	map_page((uintptr_t)code, CODE_GPA);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_OK);

	/* Across the page boundary, and with a second page that is missing or not needed. */
	assert_int_equal(guest_write(&t->vm, gpa(CODE_GPA + 0xffd), "\x66\x8b\x43\x00", 4), 0);
	vc.s.rip = (uintptr_t)code + 0xffd;
	memcpy(mmio, "\x34\x12", 2);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_OK);
	assert_int_equal(len, 4);
	assert_int_equal(vc.s.gpr[VCPU_RAX] & 0xffff, 0x1234);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_OK); /* from the cache */
	map_page((uintptr_t)code + PAGE_SIZE, 0); /* the byte that is missing now was a zero */
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_UNSUPPORTED);
	assert_int_equal(guest_write(&t->vm, gpa(CODE_GPA + 0xffd), "\x8b\x03", 2), 0);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_OK);

	/* Not ours: SSE, and the guest's page tables in MMIO. */
	code_put("\x0f\x10\x03", 3);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_UNSUPPORTED);
	emulate_describe(&vc, what, sizeof(what));
	assert_non_null(strstr(what, "mode=64 bytes=0f 10 03 "));
	emulate_describe(&vc, what, 12);
	assert_int_equal(strlen(what), 11);
	code_put("\x8b\x03", 2);
	vmcs_write(VMCS_EXIT_QUALIFICATION, BIT(7));
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_UNSUPPORTED);
}

static void changed_code_is_seen(void **state)
{
	u32 len;

	vc.s.gpr[VCPU_RBX] = (uintptr_t)buf;
	memcpy(mmio, "\x11\x22\x33\x44\x55\x66\x77\x88", 8);
	code_put("\x8b\x03", 2);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_OK);
	assert_int_equal(vc.s.gpr[VCPU_RAX], 0x44332211);
	code_put("\x8b\x43\x04", 3);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA + 4), &len), EMU_OK);
	assert_int_equal(vc.s.gpr[VCPU_RAX], 0x88776655);
	assert_int_equal(len, 3);
	/* The same address and bytes in another mode: 40 is INC in 32-bit code, REX in 64-bit code. */
	code_put("\x40\x8a\x03", 3);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_OK);
	vmcs_write(VMCS_GUEST_AR(SEG_CS), 0xc09b);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_UNSUPPORTED);
	vmcs_write(VMCS_GUEST_AR(SEG_CS), 0xa09b);
	/* Another address space: other code at the same address. */
	code_put("\x8b\x03", 2);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_OK);
	assert_int_equal(guest_write(&t->vm, gpa(CODE_GPA + PAGE_SIZE), "\x89\x03", 2), 0);
	map_page((uintptr_t)code, CODE_GPA + PAGE_SIZE);
	vc.s.gpr[VCPU_RAX] = 0xcafe;
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_OK);
	assert_memory_equal(mmio, "\xfe\xca\0\0", 4);
}

/* The instruction, not the reported address, says what is accessed. */
static void operand_wins_over_reported_address(void **state)
{
	u32 len;

	memcpy(mmio + 8, "\x78\x56\x34\x12", 4);
	vc.s.gpr[VCPU_RBX] = (uintptr_t)buf + 8;
	code_put("\x8b\x03", 2);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA + 0x123), &len), EMU_OK);
	assert_int_equal(vc.s.gpr[VCPU_RAX], 0x12345678);
}

static void cmpxchg_always_writes(void **state)
{
	u32 len;

	memset(mmio, 0, 8);
	vc.s.gpr[VCPU_RBX] = (uintptr_t)buf;
	vc.s.gpr[VCPU_RAX] = 5;
	code_put("\xf0\x0f\xb1\x0b", 4);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_OK);
	assert_int_equal(accesses, 2);
	assert_int_equal(vc.s.gpr[VCPU_RAX], 0);
}

static void fs_and_gs_in_64_bit_mode(void **state)
{
	u32 len;

	memcpy(mmio + 0x40, "\x78\x56\x34\x12", 4);
	vmcs_write(VMCS_GUEST_BASE(SEG_GS), (uintptr_t)buf + 0x20);
	vmcs_write(VMCS_GUEST_BASE(SEG_DS), 0x100); /* not used */
	vc.s.gpr[VCPU_RBX] = 0x20;
	code_put("\x65\x8b\x03", 3);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA + 0x40), &len), EMU_OK);
	assert_int_equal(vc.s.gpr[VCPU_RAX], 0x12345678);
	vc.s.gpr[VCPU_RBX] = (uintptr_t)buf + 0x40;
	vc.s.gpr[VCPU_RAX] = 0;
	code_put("\x3e\x8b\x03", 3);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA + 0x40), &len), EMU_OK);
	assert_int_equal(vc.s.gpr[VCPU_RAX], 0x12345678);
	/* lods takes its segment from the prefix, stos does not */
	vc.s.gpr[VCPU_RSI] = 0x20;
	code_put("\x65\xad", 2);
	vc.s.gpr[VCPU_RAX] = 0;
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA + 0x40), &len), EMU_OK);
	assert_int_equal(vc.s.gpr[VCPU_RAX], 0x12345678);
	vc.s.gpr[VCPU_RDI] = (uintptr_t)buf + 0x80;
	code_put("\x65\xab", 2);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA + 0x80), &len), EMU_OK);
	assert_int_equal(mmio[0x80], 0x78);
}

static void unclaimed_reads_all_ones(void **state)
{
	u32 len;

	t->vm.n_mmio = 0;
	vc.s.gpr[VCPU_RBX] = (uintptr_t)buf;
	vc.s.gpr[VCPU_RAX] = 0;
	code_put("\x0f\xb6\x03", 3);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_OK);
	assert_int_equal(vc.s.gpr[VCPU_RAX], 0xff);
	code_put("\x48\x8b\x03", 3);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_OK);
	assert_int_equal(vc.s.gpr[VCPU_RAX], ~0ull);
	code_put("\x89\x03", 2);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA), &len), EMU_OK);
}

/* Reads MMIO_GPA + off with these bytes in 16- or 32-bit code at 0x300000 (CS base for 16 bits). */
static void reads(unsigned mode, const char *bytes, unsigned n, u64 at, unsigned reg, u64 want)
{
	u32 len;

	assert_int_equal(guest_write(&t->vm, gpa(CODE_GPA), bytes, n), 0);
	vmcs_write(VMCS_GUEST_BASE(SEG_CS), mode == 16 ? CODE_GPA : 0);
	vc.s.rip = mode == 16 ? 0 : CODE_GPA;
	assert_int_equal(emulate_mmio(&vc, gpa(at), &len), EMU_OK);
	assert_int_equal(len, n);
	assert_int_equal(vc.s.gpr[reg], want);
}

static void old_modes(void **state)
{
	u32 len;

	memcpy(mmio, "\x11\x22\x33\x44\x55\x66\x77\x88", 8);
	test_vcpu_free(&vc);
	test_vcpu_init(&vc, &t->vm, 32, 0);
	reads(32, "\xa1\x00\x00\x00\xd0", 5, MMIO_GPA, VCPU_RAX, 0x44332211);
	vc.s.gpr[VCPU_RBX] = 0xffffffffd0000000 - 0x11111111; /* upper half is ignored */
	reads(32, "\x8b\x8b\x11\x11\x11\x11", 6, MMIO_GPA, VCPU_RCX, 0x44332211);
	vmcs_write(VMCS_GUEST_BASE(SEG_DS), 0xe0000000); /* wraps at 4 GiB */
	vc.s.gpr[VCPU_RBX] = 0xf0000000;
	reads(32, "\x66\x8b\x0b", 3, MMIO_GPA, VCPU_RCX, 0x44332211);
	vc.s.gpr[VCPU_RDX] = 0xaaaa;
	reads(32, "\x8a\x33", 2, MMIO_GPA, VCPU_RDX, 0x11aa);
	vmcs_write(VMCS_GUEST_BASE(SEG_DS), 0);
	vc.s.gpr[VCPU_RBX] = MMIO_GPA;
	/* push and pop on a 32-bit stack */
	vc.s.gpr[VCPU_RSP] = 0x800;
	reads(32, "\xff\x33", 2, MMIO_GPA, VCPU_RSP, 0x7fc);
	reads(32, "\x66\xff\x33", 3, MMIO_GPA, VCPU_RSP, 0x7fa);
	reads(32, "\x8f\x43\x04", 3, MMIO_GPA + 4, VCPU_RSP, 0x7fe);
	assert_memory_equal(mmio + 4, "\x11\x22\x11\x22", 4);

	test_vcpu_free(&vc);
	test_vcpu_init(&vc, &t->vm, 16, 0);
	vmcs_write(VMCS_GUEST_BASE(SEG_DS), MMIO_GPA - 0x10);
	vmcs_write(VMCS_GUEST_BASE(SEG_SS), MMIO_GPA);
	vmcs_write(VMCS_GUEST_BASE(SEG_ES), MMIO_GPA + 0x100);
	vc.s.gpr[VCPU_RBX] = 0xfff0, vc.s.gpr[VCPU_RSI] = 0x1e;
	reads(16, "\x8a\x40\x02", 3, MMIO_GPA, VCPU_RAX, 0x11); /* [bx+si+2] wraps at 64 KiB */
	vc.s.gpr[VCPU_RBP] = 1;
	reads(16, "\x8b\x46\x00", 3, MMIO_GPA + 1, VCPU_RAX, 0x3322); /* [bp] is in SS */
	reads(16, "\x66\xa1\x12\x00", 4, MMIO_GPA + 2, VCPU_RAX, 0x22114433);
	vc.s.gpr[VCPU_RDI] = 0x1fffe, vc.s.gpr[VCPU_RCX] = 0x10002;
	vmcs_write(VMCS_GUEST_BASE(SEG_ES), MMIO_GPA - 0xf000);
	assert_int_equal(guest_write(&t->vm, gpa(CODE_GPA), "\xf3\xaa", 2), 0);
	assert_int_equal(emulate_mmio(&vc, gpa(MMIO_GPA + 0xffe), &len), EMU_OK);
	assert_int_equal(vc.s.gpr[VCPU_RDI], 0x10000); /* DI wrapped, the upper half stayed */
	assert_int_equal(vc.s.gpr[VCPU_RCX], 0x10000);
	assert_memory_equal(mmio + 0xffe, "\x33\x33", 2);
	/* 16-bit stack */
	vc.s.gpr[VCPU_RSP] = 0x50002;
	vmcs_write(VMCS_GUEST_BASE(SEG_SS), 0x2000);
	vmcs_write(VMCS_GUEST_BASE(SEG_DS), MMIO_GPA);
	vc.s.gpr[VCPU_RBX] = 0;
	reads(16, "\xff\x37", 2, MMIO_GPA, VCPU_RSP, 0x50000);
	reads(16, "\xff\x37", 2, MMIO_GPA, VCPU_RSP, 0x5fffe);
	assert_int_equal(((u8 *)guest_page(&t->vm, 2))[0], 0x11);
	assert_int_equal(((u8 *)guest_page(&t->vm, 0x11))[0xffe], 0x11);
}

/* --- string I/O --- */
static u8 port_bytes[4096];
static unsigned port_at;

static void port(struct vdev *dev, u64 at, unsigned size, bool write, u64 *val)
{
	assert_int_equal(at, 0x3f8);
	assert_true(port_at + size <= sizeof(port_bytes));
	memcpy(write ? port_bytes + port_at : (u8 *)val, write ? (u8 *)val : port_bytes + port_at, size);
	port_at += size;
}

#define IO_QUAL(size, in, rep) ((u64)0x3f8 << 16 | BIT(4) | ((size) - 1) | ((in) ? BIT(3) : 0) | ((rep) ? BIT(5) : 0))
#define IO_INFO(addr, seg) ((addr) << 7 | (seg) << 15)

static void string_io(void **state)
{
	u8 *ram = guest_side(2), *next = guest_side(3);
	u32 len = 2, i;

	t->vm.pio[0] = (struct bus_range){ 0x3f8, 8, 4, NULL, port };
	t->vm.n_pio = 1;
	port_at = 0;
	for (i = 0; i < sizeof(port_bytes); i++)
		port_bytes[i] = i * 3 + 1;
	/* insw to RAM, all of the address in 64 bits */
	vc.s.gpr[VCPU_RDI] = (uintptr_t)buf + 2 * PAGE_SIZE + 16;
	assert_int_equal(emulate_string_io(&vc, IO_QUAL(2, true, false), IO_INFO(2, 0), &len), EMU_OK);
	assert_int_equal(len, 2);
	assert_memory_equal(ram + 16, port_bytes, 2);
	assert_int_equal(vc.s.gpr[VCPU_RDI], (uintptr_t)buf + 2 * PAGE_SIZE + 18);
	/* rep insl, 300 elements: two exits; the buffer ends in MMIO */
	port_at = 0;
	vc.s.gpr[VCPU_RDI] = (uintptr_t)buf + 3 * PAGE_SIZE - 1024;
	vc.s.gpr[VCPU_RCX] = 300;
	assert_int_equal(emulate_string_io(&vc, IO_QUAL(4, true, true), IO_INFO(2, 0), &len), EMU_OK);
	assert_int_equal(len, 0);
	assert_int_equal(vc.s.gpr[VCPU_RCX], 44);
	len = 3;
	assert_int_equal(emulate_string_io(&vc, IO_QUAL(4, true, true), IO_INFO(2, 0), &len), EMU_OK);
	assert_int_equal(len, 3);
	assert_int_equal(vc.s.gpr[VCPU_RCX], 0);
	assert_memory_equal(ram + PAGE_SIZE - 1024, port_bytes, 1024);
	assert_memory_equal(next, port_bytes + 1024, 176);
	/* rep outsb downwards with a 32-bit address and GS */
	port_at = 0;
	vmcs_write(VMCS_GUEST_BASE(SEG_GS), 0x10);
	vc.s.rflags |= 0x400;
	vc.s.gpr[VCPU_RSI] = 0xabcd00000000 | ((uintptr_t)buf + 2 * PAGE_SIZE + 17 - 0x10);
	vc.s.gpr[VCPU_RCX] = 0x500000002;
	assert_int_equal(emulate_string_io(&vc, IO_QUAL(1, false, true), IO_INFO(1, SEG_GS), &len), EMU_OK);
	assert_int_equal(port_bytes[0], ram[17]);
	assert_int_equal(port_bytes[1], ram[16]);
	assert_int_equal(port_at, 2);
	assert_int_equal(vc.s.gpr[VCPU_RCX], 0);
	assert_int_equal(vc.s.gpr[VCPU_RSI], (uintptr_t)buf + 2 * PAGE_SIZE + 15 - 0x10);
	/* count 0 does nothing */
	assert_int_equal(emulate_string_io(&vc, IO_QUAL(1, false, true), IO_INFO(2, SEG_DS), &len), EMU_OK);
	assert_int_equal(port_at, 2);
	/* no port access if the buffer is not there, or not writable */
	map_page((uintptr_t)buf + 2 * PAGE_SIZE, 0);
	vc.s.gpr[VCPU_RDI] = (uintptr_t)buf + 2 * PAGE_SIZE + 4;
	vc.s.event_info = 0;
	assert_int_equal(emulate_string_io(&vc, IO_QUAL(4, true, false), IO_INFO(2, 0), &len), EMU_FAULT);
	assert_true(injected(14, PF_WRITE));
	assert_int_equal(read_cr2(), vc.s.gpr[VCPU_RDI]);
	assert_int_equal(port_at, 2);
	/* limits count in 16- and 32-bit code */
	test_vcpu_free(&vc);
	test_vcpu_init(&vc, &t->vm, 32, 0);
	vmcs_write(VMCS_GUEST_LIMIT(SEG_ES), 0xfff);
	vc.s.gpr[VCPU_RDI] = 0xffd;
	assert_int_equal(emulate_string_io(&vc, IO_QUAL(4, true, false), IO_INFO(1, 0), &len), EMU_FAULT);
	assert_true(injected(13, 0));
	vc.s.gpr[VCPU_RDI] = 0xffc;
	vc.s.event_info = 0;
	assert_int_equal(emulate_string_io(&vc, IO_QUAL(4, true, false), IO_INFO(1, 0), &len), EMU_OK);
	vmcs_write(VMCS_GUEST_AR(SEG_SS), 0x10000);
	assert_int_equal(emulate_string_io(&vc, IO_QUAL(4, false, false), IO_INFO(1, SEG_SS), &len), EMU_FAULT);
	assert_true(injected(12, 0));
	/* what no CPU reports */
	assert_int_equal(emulate_string_io(&vc, IO_QUAL(4, true, false), IO_INFO(3, 0), &len), EMU_UNSUPPORTED);
	assert_int_equal(emulate_string_io(&vc, IO_QUAL(4, false, false), IO_INFO(1, 7), &len), EMU_UNSUPPORTED);
	assert_int_equal(emulate_string_io(&vc, IO_QUAL(3, false, false), IO_INFO(1, 0), &len), EMU_UNSUPPORTED);
}

/* Any 15 bytes, anywhere, in any mode: some answer, no crash (ASan and UBSan look on). */
static void survives_random_bytes(void **state)
{
	static const unsigned modes[] = { 16, 32, 64 };
	unsigned i, k, ok = 0;
	u8 in[16];
	u32 len;

	for (i = 0; i < 60000; i++) {
		unsigned mode = modes[i % 3];

		for (k = 0; k < 16; k++) {
			in[k] = rnd();
			vc.s.gpr[k] = rnd() % 3 ? rnd64() : (uintptr_t)buf + rnd() % (4 * PAGE_SIZE);
		}
		if (rnd() & 1)
			memcpy(in, (u8[]){ rnd() & 1 ? 0x48 : 0x66, 0x80 + rnd() % 0x20 }, 2);
		vmcs_write(VMCS_GUEST_AR(SEG_CS), mode == 64 ? 0xa09b : mode == 32 ? 0xc09b : 0x9b);
		k = i % 5 ? 0 : PAGE_SIZE - rnd() % 16;
		assert_int_equal(guest_write(&t->vm, gpa(CODE_GPA + k), in, sizeof(in)), 0);
		vc.s.rip = (uintptr_t)code + k;
		vc.s.event_info = 0;
		ok += emulate_mmio(&vc, gpa(MMIO_GPA + rnd() % PAGE_SIZE), &len) == EMU_OK && len <= 15;
	}
	assert_true(ok > 500);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, make, unmake)
	const struct CMUnitTest tests[] = {
		T(one_operand_like_the_cpu), T(moffs_like_the_cpu), T(stack_relative_like_the_cpu), T(strings_like_the_cpu),
		T(rep_is_bounded_and_restartable), T(faults_before_side_effects), T(code_must_be_there), T(changed_code_is_seen),
		T(operand_wins_over_reported_address),
		T(cmpxchg_always_writes), T(fs_and_gs_in_64_bit_mode), T(unclaimed_reads_all_ones), T(old_modes), T(string_io), T(survives_random_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
