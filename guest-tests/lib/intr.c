/* SPDX-License-Identifier: MIT */
/* Faults and interrupts: the IDT, the 8259 pair, the local APIC and the IO-APIC. */
#include "guest.h"

struct gate {
	u16 offset_low, selector;
	u8 ist, type;
	u16 offset_mid;
	u32 offset_high, reserved;
};

extern char intr_stubs[];

static struct gate idt[256] __attribute__((aligned(16)));
static void (*handlers[256])(struct regs *);
static bool x2apic_on;

volatile u64 fault_fixup;
volatile int fault_vector;
volatile u64 fault_error;

/* A line that went away before it was acknowledged; no EOI is due. */
static void spurious(struct regs *r)
{
	(void)r;
}

void intr_load(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) idtr = { sizeof(idt) - 1, (u64)idt };

	__asm__ volatile("lidt %0" : : "m"(idtr));
}

void intr_init(void)
{
	for (u32 i = 0; i < 256; i++) {
		u64 stub = (u64)intr_stubs + 16 * i;

		idt[i] = (struct gate){ stub, 8, 0, 0x8e, stub >> 16, stub >> 32, 0 };
	}
	handlers[0x27] = handlers[0x2f] = handlers[0xff] = spurious;
	intr_load();
}

void intr_set(u8 vector, void (*fn)(struct regs *))
{
	handlers[vector] = fn;
}

void intr_dispatch(struct regs *r);
void intr_dispatch(struct regs *r)
{
	if (handlers[r->vector]) {
		handlers[r->vector](r);
		return;
	}
	if (r->vector < 32 && fault_fixup) {
		fault_vector = r->vector;
		fault_error = r->error;
		r->rip = fault_fixup;
		return;
	}
	guest_check(false, r->vector < 32 ? "exception" : "interrupt", __FILE__, __LINE__,
		    "vector %lu error 0x%lx rip 0x%lx cr2 0x%lx rflags 0x%lx rsp 0x%lx", r->vector,
		    r->error, r->rip, read_cr2(), r->rflags, r->rsp);
	guest_end();
}

int try_rdmsr(u32 msr, u64 *v)
{
	u32 lo, hi;
	int vec = TRY("rdmsr", ARGS("=a"(lo), "=d"(hi)), "c"(msr));

	if (vec == VEC_NONE)
		*v = (u64)hi << 32 | lo;
	return vec;
}

int try_wrmsr(u32 msr, u64 v)
{
	return TRY("wrmsr", , ARGS("c"(msr), "a"((u32)v), "d"((u32)(v >> 32))));
}

/* ---- local APIC: SDM "Advanced Programmable Interrupt Controller (APIC)" ---- */

bool apic_has_x2apic(void)
{
	return cpuid(1, 0).ecx & BIT(21);
}

bool apic_has_tsc_deadline(void)
{
	return cpuid(1, 0).ecx & BIT(24);
}

u32 apic_read(enum apic_reg reg)
{
	return x2apic_on ? (u32)rdmsr(0x800 + (reg >> 4)) : mmio_read(APIC_MMIO + reg);
}

void apic_write(enum apic_reg reg, u32 v)
{
	if (x2apic_on)
		wrmsr(0x800 + (reg >> 4), v);
	else
		mmio_write(APIC_MMIO + reg, v);
}

void apic_enable(bool x2apic)
{
	u64 base = rdmsr(MSR_APIC_BASE) & ~(u64)(APIC_BASE_EXTD | APIC_BASE_EN);

	/* x2APIC mode can only be left through the disabled state. */
	if (!x2apic && rdmsr(MSR_APIC_BASE) & APIC_BASE_EXTD)
		wrmsr(MSR_APIC_BASE, base);
	/* An INIT leaves the mode as it was (SDM "x2APIC States After INIT"), and there is no way back to xAPIC from here. */
	if (!(rdmsr(MSR_APIC_BASE) & APIC_BASE_EXTD))
		wrmsr(MSR_APIC_BASE, base | APIC_BASE_EN);
	if (x2apic)
		wrmsr(MSR_APIC_BASE, base | APIC_BASE_EN | APIC_BASE_EXTD);
	x2apic_on = x2apic;
	apic_write(APIC_SVR, 0x1ff);
	apic_write(APIC_TPR, 0);
	apic_write(APIC_LVT_TIMER, APIC_MASKED);
	apic_write(APIC_LVT_LINT0, APIC_MASKED);
	apic_write(APIC_LVT_LINT1, APIC_MASKED);
	apic_write(APIC_LVT_ERROR, APIC_MASKED);
	apic_write(APIC_TIMER_INITIAL, 0);
}

/* ---- 8259A ---- */

void pic_init(void)
{
	outb(0x20, 0x11);
	outb(0xa0, 0x11);
	outb(0x21, 0x20);
	outb(0xa1, 0x28);
	outb(0x21, 4);
	outb(0xa1, 2);
	outb(0x21, 1);
	outb(0xa1, 1);
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}

void pic_mask(u32 irq, bool masked)
{
	u16 port = irq < 8 ? 0x21 : 0xa1;
	u8 bit = 1 << (irq & 7);

	outb(port, masked ? inb(port) | bit : inb(port) & ~bit);
}

void pic_eoi(u32 irq)
{
	if (irq >= 8)
		outb(0xa0, 0x20);
	outb(0x20, 0x20);
}

/* ---- IO-APIC (82093AA) ---- */

u32 ioapic_read(u8 reg)
{
	mmio_write(IOAPIC_MMIO, reg);
	return mmio_read(IOAPIC_MMIO + 0x10);
}

void ioapic_write(u8 reg, u32 v)
{
	mmio_write(IOAPIC_MMIO, reg);
	mmio_write(IOAPIC_MMIO + 0x10, v);
}

u32 ioapic_pins(void)
{
	return (ioapic_read(1) >> 16 & 0xff) + 1;
}

void ioapic_route(u32 pin, u8 vector, bool masked)
{
	u32 id = apic_read(APIC_ID);

	ioapic_write(0x11 + 2 * pin, x2apic_on ? id << 24 : id & 0xff000000);
	ioapic_write(0x10 + 2 * pin, vector | (masked ? BIT(16) : 0));
}
