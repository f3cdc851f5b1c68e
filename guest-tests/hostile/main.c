/* SPDX-License-Identifier: MIT */
/*
 * hostile: storms everything that its host emulates, on all its CPUs at once, by seed=N (1): device memory (also with odd
 * instructions), ports, MSRs, control registers, configuration space, virtio rings and MSI-X tables, IPIs. Faults are caught.
 * It may die of it; its host, its neighbours and moves must not. For each 2000 things that CPU 0 has done it prints
 *	HOSTILE seq=N ops=N,N faults=N irqs=N
 * Arguments: modes=MASK (all; see enum mode), power: also what resets or switches itself off.
 */
#include "guest.h"

enum mode { MMIO, PORTS, MSRS, CPU, CONFIG, VIRTIO, IPIS, DECODER, MODES };
#define CPUS 2
#define SLOTS 8
#define QUEUE 16
#define ARENA (1u << 20)
#define BAR(slot) (0xc0000000ul + ((u64)(slot) << 20)) /* where a reset puts it, and we put it back */

static struct cpu {
	u64 seed, guard_rsp;
	volatile u64 ops, faults, irqs;
	u8 *code;
} cpus[SMP_MAX];
static u8 *const arena = (u8 *)0x400000; /* free RAM: what devices may scribble on without killing us */
static u8 code[CPUS][4096] __attribute__((aligned(4096)));
static bool power, present[SLOTS];
static u32 modes;
static u64 ram_end;

static u64 rnd(struct cpu *c)
{
	c->seed ^= c->seed << 13;
	c->seed ^= c->seed >> 7;
	c->seed ^= c->seed << 17;
	return c->seed * 0x2545f4914f6cdd1dull >> 8;
}

static bool one_in(struct cpu *c, u32 n) { return rnd(c) % n == 0; }

static u64 any_value(struct cpu *c)
{
	switch (rnd(c) % 4) {
	case 0: return rnd(c) % 16;
	case 1: return 1ull << rnd(c) % 64;
	case 2: return ~0ull >> rnd(c) % 64;
	default: return rnd(c) << 8 ^ rnd(c);
	}
}

/* ---- what goes wrong leaves by guard_out: the frame of guard() is found again by its CPU ---- */

void guard(void (*fn)(struct cpu *), struct cpu *c, u64 *rsp);
extern char guard_out[];
__asm__(".globl guard, guard_out\n"
	"guard: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"mov %rsp, (%rdx)\n"
	"mov %rdi, %rax; mov %rsi, %rdi; sub $8, %rsp; call *%rax; add $8, %rsp\n"
	"guard_out: pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n");

static void on_fault(struct regs *r)
{
	struct cpu *c = &cpus[smp_self()];

	c->faults++;
	if (r->vector == 1) { /* a trap, or a breakpoint that would come again */
		__asm__ volatile("mov %0, %%dr7" : : "r"(0x400ul));
		r->rflags &= ~(u64)BIT(8);
		return;
	}
	if (r->vector == 3 || r->vector == 4)
		return;
	r->rip = (u64)guard_out;
	r->rsp = c->guard_rsp;
	r->rflags = 2;
}

static void on_interrupt(struct regs *r)
{
	struct cpu *c = &cpus[smp_self()];

	c->irqs++;
	r->rflags &= ~BIT(9); /* one at a time: a timer may be set to come faster than it can be answered */
	if (r->vector == 2 || one_in(c, 64)) /* one is forgotten */
		return;
	if (rdmsr(MSR_APIC_BASE) & APIC_BASE_EXTD)
		wrmsr(0x80b, 0);
	else
		mmio_write(APIC_MMIO + APIC_EOI, 0);
	if (r->vector < 0x30)
		pic_eoi(r->vector & 15);
}

/* ---- device memory ---- */

static u64 any_mmio(struct cpu *c)
{
	static const u64 holes[] = { 0xfed00000, 0xfee01000, 0xfec01000, 0xff000000, 0xfffffff0, 0xb0000000, 0x80000000, 0xfe000000,
				     0x100000000ul, 0x100001000ul, 0x1000000000ul };

	switch (rnd(c) % 8) {
	case 0: case 1: return APIC_MMIO + (rnd(c) % 64) * 16 + (one_in(c, 8) ? rnd(c) % 16 : 0);
	case 2: return IOAPIC_MMIO + (one_in(c, 2) ? 0x10 : 0) + (one_in(c, 8) ? rnd(c) % 64 : 0);
	case 3: case 4: case 5: return BAR(rnd(c) % SLOTS) + rnd(c) % 8 * 0x1000 + (one_in(c, 4) ? rnd(c) % 0x1000 : rnd(c) % 64);
	case 6: return 0xc0000000ul + rnd(c) % 0x3e000000;
	default: return holes[rnd(c) % ARRAY_SIZE(holes)] + rnd(c) % 64;
	}
}

static void do_mmio(struct cpu *c)
{
	u64 at = any_mmio(c), val = any_value(c);

	/* An end of ours that ICR writes would be: those are do_ipis()'s. */
	if ((at & ~0xful) == APIC_MMIO + APIC_ICR && !power)
		return;
	switch (rnd(c) % 8) {
	case 0: *(volatile u8 *)at = (u8)val; break;
	case 1: *(volatile u16 *)at = (u16)val; break;
	case 2: case 3: *(volatile u32 *)at = (u32)val; break;
	case 4: *(volatile u64 *)at = val; break;
	case 5: (void)*(volatile u8 *)at; break;
	case 6: (void)*(volatile u32 *)at; break;
	default: (void)*(volatile u64 *)at;
	}
}

/* An instruction with its memory operand at RDI (RSI for the string ones), by opcode: those that drivers use, now and then any. */
static void do_decoder(struct cpu *c)
{
	static const u8 one_byte[] = { 0x00, 0x01, 0x02, 0x03, 0x09, 0x0b, 0x11, 0x13, 0x19, 0x1b, 0x21, 0x23, 0x29, 0x2b, 0x31, 0x33, 0x39, 0x3b,
				       0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0xf6, 0xf7, 0xfe, 0xff, 0x63, 0x80, 0x81, 0x83, 0xc6, 0xc7 };
	static const u8 two_byte[] = { 0xb0, 0xb1, 0xb6, 0xb7, 0xbe, 0xbf, 0xc0, 0xc1, 0xba };
	static const u8 strings[] = { 0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad };
	u8 *p = c->code;
	u64 at = any_mmio(c), rsi = one_in(c, 2) ? (u64)arena : any_mmio(c), rcx = rnd(c) % 300;
	u32 reg = rnd(c) % 8, other = reg == 4 ? 0 : reg; /* our stack stays */

	if ((at & ~0xffful) == APIC_MMIO || (rsi & ~0xffful) == APIC_MMIO)
		at = rsi = BAR(1 + rnd(c) % (SLOTS - 1)); /* no accidental INIT */
	if (one_in(c, 4))
		*p++ = 0x66;
	if (one_in(c, 4))
		*p++ = 0xf0;
	if (one_in(c, 3))
		*p++ = 0x48 | (one_in(c, 4) ? 4 : 0);
	switch (rnd(c) % 4) {
	case 0:
		p = c->code;
		if (one_in(c, 2))
			*p++ = 0xf3;
		if (one_in(c, 3))
			*p++ = 0x48;
		*p++ = strings[rnd(c) % ARRAY_SIZE(strings)];
		break;
	case 1:
		*p++ = 0x0f;
		*p++ = two_byte[rnd(c) % ARRAY_SIZE(two_byte)];
		if (p[-1] == 0xba)
			other = reg | 4;
		*p++ = (u8)(other << 3 | 7);
		*p++ = 0x90; /* an immediate, or nothing */
		break;
	default:
		*p++ = one_byte[rnd(c) % ARRAY_SIZE(one_byte)];
		if (p[-1] == 0xff || p[-1] == 0xfe)
			other &= 1; /* no calls or jumps there */
		else if (p[-1] == 0xf6 || p[-1] == 0xf7)
			other = one_in(c, 2) ? 0 : 2 | (reg & 1);
		else if (p[-1] == 0x80 || p[-1] == 0x81 || p[-1] == 0x83)
			other = reg;
		else if (p[-1] == 0xc6 || p[-1] == 0xc7)
			other = 0;
		*p++ = (u8)(other << 3 | 7);
		for (u32 i = 0; i < 4; i++)
			*p++ = 0x90;
	}
	if (one_in(c, 2000)) /* most of those end us */
		for (u32 i = 0; i < 8; i++)
			c->code[i] = (u8)rnd(c);
	*p++ = 0xc3;
	__asm__ volatile("push %%rbp; call *%4; cld; pop %%rbp"
			 : "+D"(at), "+S"(rsi), "+c"(rcx) : "a"(rnd(c)), "r"(c->code)
			 : "rbx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
}

/* ---- ports, MSRs, the CPU itself ---- */

/* Writes there may end us. */
static bool fatal_port(u32 port)
{
	return port == 0x64 || port == 0x92 || port == 0xcf9 || port == 0x505 || (port >= 0x5fc && port < 0x610) || port == DEBUG_EXIT_PORT;
}

static void do_ports(struct cpu *c)
{
	static const u16 known[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x40, 0x41, 0x42, 0x43, 0x61, 0x60, 0x64, 0x70, 0x71, 0x80, 0x92, 0x505,
				     0x600, 0x602, 0x604, 0x608, 0xcf8, 0xcf9, 0xcfc, 0xcfe, 0x3f8 };
	u16 port = one_in(c, 2) ? known[rnd(c) % ARRAY_SIZE(known)] : (u16)rnd(c);
	u32 val = (u32)any_value(c);
	u64 count = rnd(c) % (one_in(c, 8) ? 2000 : 20), at = (u64)arena + rnd(c) % (ARENA / 2);

	if (port >= COM1 && port < COM1 + 8 && !one_in(c, 50))
		return; /* some of what we print should be readable */
	switch (rnd(c) % 16) {
	case 0: case 1: case 2: inb(port); return;
	case 3: inw(port); return;
	case 4: inl(port); return;
	case 5: __asm__ volatile("rep insb" : "+D"(at), "+c"(count) : "d"(port) : "memory"); return;
	case 6: __asm__ volatile("rep insl" : "+D"(at), "+c"(count) : "d"(port) : "memory"); return;
	}
	for (u32 i = 0; i < 4; i++)
		if (fatal_port(port + i) && !power)
			return;
	switch (rnd(c) % 8) {
	case 0: case 1: case 2: outb(port, (u8)val); break;
	case 3: outw(port, (u16)val); break;
	case 4: case 5: outl(port, val); break;
	case 6: __asm__ volatile("rep outsb" : "+S"(at), "+c"(count) : "d"(port) : "memory"); break;
	default: __asm__ volatile("rep outsw" : "+S"(at), "+c"(count) : "d"(port) : "memory");
	}
}

static void do_msrs(struct cpu *c)
{
	static const u32 known[] = { 0x10, 0x1b, 0x3a, 0x3b, 0x17, 0x8b, 0xfe, 0x174, 0x175, 0x176, 0x179, 0x1a0, 0x1d9, 0x200, 0x201, 0x20f,
				     0x250, 0x258, 0x268, 0x26f, 0x277, 0x2ff, 0x6e0, 0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083,
				     0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0x4b564d00, 0x4b564d01, 0xda0, 0x48, 0x49 };
	u32 msr = one_in(c, 3) ? 0x800 + rnd(c) % 0x100 : one_in(c, 8) ? (u32)any_value(c) : known[rnd(c) % ARRAY_SIZE(known)];
	u64 val = any_value(c);

	if (one_in(c, 2)) {
		rdmsr(msr);
		return;
	}
	if (msr == 0x830)
		return; /* that is do_ipis()'s */
	if (msr == MSR_APIC_BASE) { /* moved, or in its other mode; the second CPU's is never off, or no INIT would reach it */
		val = one_in(c, 2) ? val : any_mmio(c) & ~0xffful;
		val |= one_in(c, 8) ? APIC_BASE_EN | APIC_BASE_EXTD : c == &cpus[1] || one_in(c, 2) ? APIC_BASE_EN : 0;
	}
	if (msr == 0x4b564d00 || msr == 0x4b564d01) /* KVM's clock: a page of the host's writing */
		val = one_in(c, 4) ? val : ((u64)arena + rnd(c) % ARENA) | 1;
	wrmsr(msr, val);
}

static void do_cpu(struct cpu *c)
{
	u64 val = any_value(c);

	switch (rnd(c) % 16) {
	case 0: case 1: case 2: cpuid(one_in(c, 2) ? rnd(c) % 32 : (u32)val, rnd(c) % 8); break;
	case 3: cpuid(0x40000000 + rnd(c) % 4, 0); break;
	case 4: __asm__ volatile("vmcall" : "+a"(val) : "b"(rnd(c)), "c"(rnd(c)) : "memory"); break;
	case 5: write_cr8(rnd(c) % 18); break;
	case 6: write_cr0(read_cr0() ^ (1ull << rnd(c) % 32 & ~0x80000001ull)); break;
	case 7: write_cr4(read_cr4() ^ (1ull << rnd(c) % 24 & ~(u64)BIT(5))); break;
	case 8: __asm__ volatile("xsetbv" : : "a"((u32)val), "d"(0), "c"(0)); break;
	case 9:
		__asm__ volatile("mov %0, %%dr0" : : "r"((u64)arena + rnd(c) % ARENA));
		__asm__ volatile("mov %0, %%dr7" : : "r"((u64)(u32)val & ~(u64)BIT(13)));
		break;
	case 10: __asm__ volatile("wbinvd"); break;
	case 11: __asm__ volatile("rdpmc" : : "c"(0) : "eax", "edx"); break;
	case 12: __asm__ volatile("monitor" : : "a"(arena), "c"(0), "d"(0)); break;
	case 13: __asm__ volatile("vmxoff"); break;
	case 14:
		if (c != &cpus[0]) /* the others are woken by CPU 0 */
			__asm__ volatile("sti; hlt; cli");
		break;
	default: __asm__ volatile("invd; int $0x40; int3; .byte 0xf1; pushfq; orq $0x100, (%rsp); popfq; cpuid; nop");
	}
}

/* ---- PCI and virtio ---- */

static void do_config(struct cpu *c)
{
	static const u32 places[] = { 0x100000, 0xfee00000, 0xfec00000, 0xc0100000, 0xc0200000, 0xc0108000, 0, 0xfffff000, 0xfdff8000 };
	u32 slot = one_in(c, 4) ? rnd(c) % 32 : rnd(c) % SLOTS, reg = rnd(c) % 64 * 4;

	switch (rnd(c) % 8) {
	case 0: pci_write(slot, 0x10, places[rnd(c) % ARRAY_SIZE(places)]); break;
	case 1: pci_write(slot, 0x04, rnd(c) % 2048); break;
	case 2: pci_write(slot, 0x40, (u32)any_value(c)); break;
	case 3: /* the window of virtio's PCI access capability */
		pci_write(slot, 0x9c, rnd(c) % 0x8000);
		pci_write(slot, 0xa0, 1u << rnd(c) % 4);
		pci_write(slot, 0xa4, (u32)any_value(c));
		break;
	case 4: outl(0xcf8, (u32)rnd(c) | 0x80000000); inl(0xcfc); break;
	case 5: outl(0xcf8, 0x80000000 | slot << 11 | reg); outb(0xcfc + rnd(c) % 4, (u8)rnd(c)); break;
	case 6: outl(0xcf8, 0x80000000 | slot << 11 | reg); inw(0xcfc + rnd(c) % 3); break;
	default: pci_write(slot, reg, (u32)any_value(c));
	}
}

/* Somewhere for a buffer or a ring: ours, beside RAM, wrapping, or, seldom, anywhere in RAM. */
static u64 any_buffer(struct cpu *c)
{
	switch (rnd(c) % 16) {
	case 0: return any_mmio(c);
	case 1: return one_in(c, 2) ? ~0ull - rnd(c) % 0x2000 : ram_end - rnd(c) % 0x2000;
	case 2: return one_in(c, 200) ? rnd(c) % ram_end : rnd(c) << 8;
	default: return (u64)arena + rnd(c) % (ARENA - 0x10000);
	}
}

/* Where queue q of a slot has its rings: descriptors, available (+ 0x400), used (+ 0x800). */
static u64 rings(u32 slot, u32 q) { return (u64)arena + ARENA - 0x10000 + slot * 0x2000 + q * 0x1000; }

static void start_virtio(struct cpu *c, u32 slot)
{
	u64 common = BAR(slot);
	u64 features = one_in(c, 2) ? BIT(32) | (rnd(c) & (BIT(28) | BIT(29))) : BIT(32) | rnd(c);

	pci_write(slot, 0x10, (u32)BAR(slot));
	pci_write(slot, 0x04, 6);
	REG(u8, common + 20) = 0;
	REG(u8, common + 20) = 3;
	for (u32 i = 0; i < 2; i++) {
		REG(u32, common) = i;
		REG(u32, common + 8) = i;
		REG(u32, common + 12) = (u32)(features >> 32 * i) & (one_in(c, 16) ? ~0u : REG(u32, common + 4));
	}
	REG(u8, common + 20) = 11;
	for (u32 q = 0; q < 2; q++) {
		bool bad = one_in(c, 16);

		REG(u16, common + 22) = q;
		REG(u16, common + 24) = bad ? rnd(c) : QUEUE;
		REG(u16, common + 26) = rnd(c) % 4;
		REG(u64, common + 32) = bad ? any_buffer(c) : rings(slot, q);
		REG(u64, common + 40) = bad ? any_buffer(c) : rings(slot, q) + 0x400;
		REG(u64, common + 48) = bad ? any_buffer(c) : rings(slot, q) + 0x800;
		memset((void *)rings(slot, q), 0, 0x1000);
		REG(u16, common + 28) = 1;
	}
	REG(u8, common + 20) = 15;
}

static void fill_rings(struct cpu *c, u32 slot, u32 q)
{
	u64 ring = rings(slot, q);
	u32 n = 1 + rnd(c) % 4;

	for (u32 i = 0; i < n; i++) {
		u64 d = ring + 16 * (rnd(c) % QUEUE);

		REG(u64, d) = any_buffer(c);
		REG(u32, d + 8) = one_in(c, 8) ? (u32)any_value(c) : rnd(c) % 0x2000;
		REG(u16, d + 12) = one_in(c, 16) ? (u16)rnd(c) : rnd(c) % (one_in(c, 4) ? 8 : 4);
		REG(u16, d + 14) = one_in(c, 32) ? (u16)rnd(c) : rnd(c) % QUEUE;
		REG(u16, ring + 0x404 + 2 * ((REG(u16, ring + 0x402) + i) % QUEUE)) = one_in(c, 64) ? (u16)rnd(c) : rnd(c) % QUEUE;
	}
	/* A request that a disk understands, sometimes. */
	if (one_in(c, 2)) {
		u64 head = (u64)arena + 0x100 * (rnd(c) % 16), d = ring + 16 * (rnd(c) % QUEUE);

		REG(u32, head) = rnd(c) % 16;
		REG(u64, head + 8) = one_in(c, 8) ? any_value(c) : rnd(c) % 8192;
		REG(u64, d) = head;
		REG(u32, d + 8) = 16;
		REG(u16, d + 12) = 1;
	}
	REG(u16, ring + 0x402) = one_in(c, 200) ? (u16)rnd(c) : (u16)(REG(u16, ring + 0x402) + n);
	REG(u16, ring + 0x400) = rnd(c) % 2;
}

static void do_virtio(struct cpu *c)
{
	u32 slot = rnd(c) % SLOTS, q = rnd(c) % 2;
	u64 entry = BAR(slot) + 0x4000 + 16 * (rnd(c) % 10);

	if (!present[slot])
		return;
	if (one_in(c, 30))
		start_virtio(c, slot);
	switch (rnd(c) % 8) {
	case 0: /* MSI-X */
		REG(u32, entry) = one_in(c, 2) ? 0xfee00000u | (u32)rnd(c) % 0x100000 : (u32)any_value(c);
		REG(u32, entry + 4) = one_in(c, 4) ? (u32)rnd(c) : 0;
		REG(u32, entry + 8) = one_in(c, 2) || !power ? 0x30 + rnd(c) % 0xc0 : (u32)any_value(c);
		REG(u32, entry + 12) = rnd(c) % 2;
		break;
	case 1: REG(u32, BAR(slot) + rnd(c) % 16 * 4) = (u32)any_value(c); break;
	default:
		fill_rings(c, slot, q);
		REG(u16, BAR(slot) + 0x3000 + 4 * q) = q;
	}
}

/* ---- IPIs ---- */

static void do_ipis(struct cpu *c)
{
	u32 low = (u32)rnd(c) & 0xfffff, mode = low >> 8 & 7, dest = one_in(c, 4) ? (u32)any_value(c) : rnd(c) % CPUS;

	/* INIT and start-up: to the second CPU only, or CPU 0 begins anew; the second one is started again by restart(). */
	if ((mode == 5 || mode == 6) && !power) {
		if (!one_in(c, 200) || c != &cpus[0])
			return;
		low = (low & 0x77ff) | (mode == 6 ? 8 : 0);
		dest = smp_cpu[1].apic_id;
	}
	if (rdmsr(MSR_APIC_BASE) & APIC_BASE_EXTD) {
		wrmsr(0x830, (u64)dest << 32 | low);
	} else {
		mmio_write(APIC_MMIO + APIC_ICR_HIGH, dest << 24);
		mmio_write(APIC_MMIO + APIC_ICR, low);
	}
}

/* ---- the storm ---- */

static void one_thing(struct cpu *c)
{
	static void (*const things[MODES])(struct cpu *) = {
		[MMIO] = do_mmio, [PORTS] = do_ports, [MSRS] = do_msrs, [CPU] = do_cpu, [CONFIG] = do_config, [VIRTIO] = do_virtio,
		[IPIS] = do_ipis, [DECODER] = do_decoder,
	};
	u32 mode = rnd(c) % MODES;

	if (one_in(c, 2))
		mode = VIRTIO;
	if (!(modes & BIT(mode)))
		return;
	things[mode](c);
	if (one_in(c, 16)) {
		sti();
		pause();
		cli();
	}
}

static void storm(u32 self);

/* The second CPU sleeps for good, or somebody has made it. Our own APIC may be anywhere. */
static void restart(void)
{
	bool x2 = rdmsr(MSR_APIC_BASE) & APIC_BASE_EXTD;

	wrmsr(MSR_APIC_BASE, APIC_MMIO | BIT(8));
	apic_enable(x2);
	if (smp_boot(1))
		smp_start_job(1, storm);
}

static void storm(u32 self)
{
	struct cpu *c = &cpus[self];
	u64 said = 0, seq = 0, other = 0;

	for (;;) {
		guard(one_thing, c, &c->guard_rsp);
		c->ops++;
		if (self || c->ops - said < 2000)
			continue;
		said = c->ops;
		serial_init();
		printf("HOSTILE seq=%lu ops=%lu,%lu faults=%lu irqs=%lu\n", ++seq, c->ops, cpus[1].ops, c->faults + cpus[1].faults,
		       c->irqs + cpus[1].irqs);
		if (smp_cpus() > 1 && cpus[1].ops == other)
			restart();
		other = cpus[1].ops;
	}
}

int main(void)
{
	u64 seed = arg_u64("seed", 1);
	u32 found = 0;

	power = arg_is("power", NULL);
	modes = (u32)arg_u64("modes", BIT(MODES) - 1);
	ram_end = (u64)(boot.mem_upper_kb + 1024) << 10;
	tsc_khz();
	for (u32 i = 0; i < CPUS; i++)
		cpus[i] = (struct cpu){ .seed = mix64(seed * CPUS + i + 1) | 1, .code = code[i] };
	for (u32 slot = 1; slot < SLOTS; slot++) {
		present[slot] = (u16)pci_read(slot, 0) == 0x1af4;
		found += present[slot];
	}
	for (u32 v = 0; v < 256; v++)
		intr_set((u8)v, v < 32 && v != 2 ? on_fault : on_interrupt);
	map_2m(0x100000000ul, 0x100000000ul, PTE_PCD);
	map_2m(0x1000000000ul, 0x1000000000ul, PTE_PCD);
	write_cr4(read_cr4() | (cpuid(1, 0).ecx & BIT(26) ? BIT(18) : 0)); /* OSXSAVE, for XSETBV */
	apic_enable(seed & 1 && apic_has_x2apic());
	printf("HOSTILE seed=%lu cpus=%u devices=%u modes=0x%x%s\n", seed, smp_cpus(), found, modes, power ? " power" : "");
	if (smp_cpus() > 1 && smp_boot(1))
		smp_start_job(1, storm);
	storm(0);
	return 0;
}
