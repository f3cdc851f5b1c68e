/* SPDX-License-Identifier: MIT */
/* Local APIC, xAPIC and x2APIC (SDM "Advanced Programmable Interrupt Controller (APIC)"), but for its timer (lapic_timer.c).
 * No directed EOI, no CMCI.
 *
 * Where the CPU virtualizes interrupt delivery, TPR, ISR and IRR of an x2APIC live in its virtual-APIC page while the guest runs
 * (`live`): lapic_push() puts them there, lapic_pull() takes them back. What others send meanwhile waits in s.irr. */
#include "hv/vdev/lapic.h"
#include "hv/lib/log.h"
#include "hv/vm/vm.h"

#define MSR_IA32_APIC_BASE 0x1b
#define MSR_IA32_TSC_DEADLINE 0x6e0
#define MSR_X2APIC_FIRST 0x800
#define MSR_X2APIC_LAST 0x8ff

#define APIC_BASE_BSP BIT(8)
#define APIC_BASE_EXTD BIT(10)
#define APIC_BASE_EN BIT(11)
#define APIC_BASE_ADDR 0x000ffffffffff000ull
#define APIC_BASE_DEFAULT 0xfee00000ull

/* Registers: xAPIC offset / 16 = x2APIC MSR - 800h */
enum {
	REG_ID = 0x02, REG_VERSION = 0x03, REG_TPR = 0x08, REG_APR = 0x09, REG_PPR = 0x0a, REG_EOI = 0x0b,
	REG_RRD = 0x0c, REG_LDR = 0x0d, REG_DFR = 0x0e, REG_SVR = 0x0f, REG_ISR = 0x10, REG_TMR = 0x18,
	REG_IRR = 0x20, REG_ESR = 0x28, REG_ICR = 0x30, REG_ICR_HI = 0x31, REG_LVT = 0x32,
	REG_TIMER_INITIAL = 0x38, REG_TIMER_CURRENT = 0x39, REG_TIMER_DIVIDE = 0x3e, REG_SELF_IPI = 0x3f,
};

#define LVT_STATUS BIT(12) /* delivery status: read-only, always idle */
#define LVT_MODE(l) (((l) >> 8) & 7)
static const u32 lvt_writable[LVT_COUNT] = { 0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff };

#define LAPIC_VERSION (0x14 | (LVT_COUNT - 1) << 16)
#define SVR_ENABLED BIT(8)
#define SVR_WRITABLE 0x3ffu

#define ESR_SEND_VECTOR BIT(5)
#define ESR_RECEIVE_VECTOR BIT(6)
#define ESR_REGISTER BIT(7)

enum { MODE_FIXED, MODE_LOWEST, MODE_SMI, MODE_RESERVED, MODE_NMI, MODE_INIT, MODE_SIPI, MODE_EXTINT };

#define ICR_LOGICAL BIT(11)
#define ICR_BUSY BIT(12)
#define ICR_ASSERT BIT(14)
#define ICR_LEVEL BIT(15)
#define ICR_RESERVED (0xfff00000ull | 0x30000ull | BIT(13))

static bool lapic_on(const struct lapic *l)
{
	return l->s.base & APIC_BASE_EN;
}

static bool lapic_x2(const struct lapic *l)
{
	return l->s.base & APIC_BASE_EXTD;
}

static void lapic_check(struct lapic *l)
{
	struct vcpu *v = vm_vcpu(l->dev.vm, l->dev.instance);

	if (v)
		vcpu_irq_check(v);
}

/* --- IRR, ISR, priorities --- */

static int lapic_highest(const u32 *bits, int stride)
{
	for (int i = 7; i >= 0; i--)
		if (bits[i * stride])
			return i * 32 + 31 - __builtin_clz(bits[i * stride]);
	return -1;
}

static u32 *lapic_page_reg(const struct lapic *l, u32 reg)
{
	return &l->page[4 * reg];
}

static u32 lapic_ppr(const struct lapic *l)
{
	int isr = l->live ? lapic_highest(lapic_page_reg(l, REG_ISR), 4) : lapic_highest(l->s.isr, 1);
	u32 tpr = l->live ? *lapic_page_reg(l, REG_TPR) : l->s.tpr, in_service = isr < 0 ? 0 : (u32)isr & 0xf0;

	return (tpr & 0xf0) >= in_service ? tpr : in_service;
}

void lapic_set_page(struct vdev *dev, void *page)
{
	lapic_of(dev)->page = page;
}

bool lapic_uses_page(struct vdev *dev)
{
	struct lapic *l = lapic_of(dev);

	return l->page && lapic_x2(l);
}

bool lapic_push(struct vdev *dev, u32 *status, const u32 **tmr)
{
	struct lapic *l = lapic_of(dev);
	int rvi, svi;

	*tmr = l->live && !l->tmr_changed ? NULL : l->s.tmr;
	l->tmr_changed = false;
	for (u32 i = 0; i < 8; i++) {
		if (!l->live) {
			*lapic_page_reg(l, REG_ISR + i) = l->s.isr[i];
			*lapic_page_reg(l, REG_IRR + i) = 0;
		}
		*lapic_page_reg(l, REG_IRR + i) |= l->s.irr[i];
		l->s.irr[i] = 0;
	}
	if (!l->live)
		*lapic_page_reg(l, REG_TPR) = l->s.tpr;
	l->live = true;
	rvi = lapic_highest(lapic_page_reg(l, REG_IRR), 4);
	svi = lapic_highest(lapic_page_reg(l, REG_ISR), 4);
	*status = (u32)(svi < 0 ? 0 : svi) << 8 | (u32)(rvi < 0 ? 0 : rvi);
	return (*status & 0xf0) > (lapic_ppr(l) & 0xf0);
}

void lapic_pull(struct vdev *dev)
{
	struct lapic *l = lapic_of(dev);

	if (!l->live)
		return;
	for (u32 i = 0; i < 8; i++) {
		l->s.isr[i] = *lapic_page_reg(l, REG_ISR + i);
		l->s.irr[i] |= *lapic_page_reg(l, REG_IRR + i);
	}
	l->s.tpr = *lapic_page_reg(l, REG_TPR);
	l->live = false;
	lapic_check(l); /* back with it, before the guest runs on */
}

int lapic_pending(struct vdev *dev)
{
	struct lapic *l = lapic_of(dev);
	int v;

	if (!lapic_on(l))
		return -1;
	v = lapic_highest(l->s.irr, 1);
	return v >= 0 && ((u32)v & 0xf0) > (lapic_ppr(l) & 0xf0) ? v : -1;
}

void lapic_ack(struct vdev *dev, u8 vector)
{
	struct lapic *l = lapic_of(dev);

	l->s.irr[vector / 32] &= ~(1u << (vector % 32));
	l->s.isr[vector / 32] |= 1u << (vector % 32);
}

static void lapic_error(struct lapic *l, u32 bit)
{
	if (l->s.esr_new & bit)
		return; /* also ends the recursion when the error LVT's own vector is illegal */
	l->s.esr_new |= bit;
	lapic_local(l, LVT_ERROR);
}

/* Takes a fixed interrupt. */
static void lapic_accept(struct lapic *l, u8 vector, bool level)
{
	u32 bit = 1u << (vector % 32);

	if (!lapic_on(l) || !(l->s.svr & SVR_ENABLED))
		return;
	if (vector < 16) {
		lapic_error(l, ESR_RECEIVE_VECTOR);
		return;
	}
	l->s.irr[vector / 32] |= bit;
	l->tmr_changed |= !(l->s.tmr[vector / 32] & bit) == level;
	if (level)
		l->s.tmr[vector / 32] |= bit;
	else
		l->s.tmr[vector / 32] &= ~bit;
	lapic_check(l);
}

void lapic_local(struct lapic *l, unsigned lvt)
{
	if (!(l->s.lvt[lvt] & LVT_MASKED))
		lapic_accept(l, (u8)l->s.lvt[lvt], false);
}

static void lapic_eoi(struct lapic *l)
{
	int v = lapic_highest(l->s.isr, 1);

	if (v < 0)
		return;
	l->s.isr[v / 32] &= ~(1u << (v % 32));
	if (l->s.tmr[v / 32] & 1u << (v % 32))
		ioapic_eoi(l->dev.vm, (u8)v);
	lapic_check(l);
}

bool lapic_accepts_extint(struct vdev *dev)
{
	struct lapic *l = lapic_of(dev);
	u32 e = l->s.lvt[LVT_LINT0];

	return !lapic_on(l) || (!(e & LVT_MASKED) && LVT_MODE(e) == MODE_EXTINT);
}

u8 lapic_cr8(struct vdev *dev)
{
	return (u8)(lapic_of(dev)->s.tpr >> 4);
}

void lapic_set_cr8(struct vdev *dev, u8 cr8)
{
	struct lapic *l = lapic_of(dev);

	l->s.tpr = (u32)(cr8 & 15) << 4;
	lapic_check(l);
}

/* --- Messages --- */

static u32 lapic_id(const struct lapic *l)
{
	return l->dev.instance;
}

static u32 lapic_ldr(const struct lapic *l)
{
	u32 id = lapic_id(l);

	return lapic_x2(l) ? (id >> 4) << 16 | 1u << (id & 15) : l->s.ldr;
}

/* dest has its full width; 32 ones are broadcast, as are 8 in an xAPIC. */
static bool lapic_matches(const struct lapic *l, u32 dest, bool logical)
{
	u32 ldr = lapic_ldr(l);

	if (dest == ~0u || (!lapic_x2(l) && dest == 0xff))
		return true;
	if (!logical)
		return dest == lapic_id(l);
	if (lapic_x2(l))
		return dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff);
	if (l->s.dfr >> 28 == 0xf)
		return dest & (ldr >> 24);
	return (dest & 0xf0) == (ldr >> 24 & 0xf0) && (dest & (ldr >> 24) & 0x0f);
}

static void lapic_receive(struct lapic *l, u8 mode, u8 vector, bool level)
{
	struct vcpu *v = vm_vcpu(l->dev.vm, l->dev.instance);

	switch (mode) {
	case MODE_FIXED: case MODE_LOWEST: lapic_accept(l, vector, level); break;
	case MODE_NMI: vcpu_nmi(v); break;
	case MODE_EXTINT: vcpu_irq_check(v); break; /* the PIC's request is asked for at the next entry */
	case MODE_INIT: vcpu_init(v); break;
	case MODE_SIPI: vcpu_sipi(v, vector); break;
	default: /* SMI: no SMM here */
		log_guest(LOG_WARN, "guest", "%s: vCPU %u: interrupt message with delivery mode %u ignored",
			  l->dev.vm->config.name, lapic_id(l), mode);
	}
}

/* NULL: there is no such vCPU yet. */
static struct lapic *lapic_nth(struct vm *vm, unsigned i)
{
	struct vcpu *v = vm_vcpu(vm, i);

	return v ? lapic_of(vcpu_lapic(v)) : NULL;
}

void lapic_deliver(struct vm *vm, u32 dest, bool logical, u8 mode, u8 vector, bool level)
{
	struct lapic *lowest = NULL;

	for (unsigned i = 0; i < vm_vcpu_count(vm); i++) {
		struct lapic *l = lapic_nth(vm, i);

		if (!l || !lapic_on(l) || !lapic_matches(l, dest, logical))
			continue;
		if (mode != MODE_LOWEST)
			lapic_receive(l, mode, vector, level);
		else if ((l->s.svr & SVR_ENABLED) && (!lowest || lapic_ppr(l) < lapic_ppr(lowest)))
			lowest = l;
	}
	if (lowest)
		lapic_accept(lowest, vector, level);
}

static void lapic_send(struct lapic *l)
{
	u64 icr = l->s.icr;
	u8 mode = (u8)(icr >> 8) & 7, vector = (u8)icr;
	unsigned shorthand = (unsigned)(icr >> 18) & 3;
	struct vm *vm = l->dev.vm;

	if (mode == MODE_RESERVED || mode == MODE_EXTINT)
		return;
	if (mode == MODE_INIT && (icr & ICR_LEVEL) && !(icr & ICR_ASSERT))
		return; /* INIT level de-assert: nothing on anything newer than a Pentium */
	if (mode <= MODE_LOWEST && vector < 16) {
		lapic_error(l, ESR_SEND_VECTOR);
		return;
	}
	if (shorthand == 0) {
		lapic_deliver(vm, lapic_x2(l) ? (u32)(icr >> 32) : (u32)(icr >> 56), icr & ICR_LOGICAL, mode, vector,
			      false);
		return;
	}
	for (unsigned i = 0; i < vm_vcpu_count(vm); i++) {
		struct lapic *to = lapic_nth(vm, i);

		if (to && lapic_on(to) && (shorthand == 2 || (shorthand == 1) == (to == l)))
			lapic_receive(to, mode, vector, false);
	}
}

/* --- Registers --- */

static void lapic_write_svr(struct lapic *l, u32 val)
{
	l->s.svr = val & SVR_WRITABLE;
	if (!(val & SVR_ENABLED))
		for (unsigned i = 0; i < LVT_COUNT; i++)
			l->s.lvt[i] |= LVT_MASKED;
}

static void lapic_write_lvt(struct lapic *l, unsigned i, u32 val)
{
	unsigned before = lapic_timer_mode(l);

	val &= lvt_writable[i];
	if (!(l->s.svr & SVR_ENABLED))
		val |= LVT_MASKED;
	l->s.lvt[i] = val;
	if (i == LVT_LINT0) {
		lapic_check(l); /* may open the way for the PIC */
	} else if (i == LVT_TIMER && (before == TIMER_TSC_DEADLINE) != (lapic_timer_mode(l) == TIMER_TSC_DEADLINE)) {
		lapic_timer_disarm(l); /* SDM "TSC-Deadline Mode" */
	}
}

static bool lapic_reg_read(struct lapic *l, u32 reg, u32 *val)
{
	switch (reg) {
	case REG_ID: *val = lapic_x2(l) ? lapic_id(l) : lapic_id(l) << 24; break;
	case REG_VERSION: *val = LAPIC_VERSION; break;
	case REG_TPR: *val = l->s.tpr; break;
	case REG_PPR: *val = lapic_ppr(l); break;
	case REG_LDR: *val = lapic_ldr(l); break;
	case REG_SVR: *val = l->s.svr; break;
	case REG_ISR ... REG_ISR + 7: *val = l->s.isr[reg - REG_ISR]; break;
	case REG_TMR ... REG_TMR + 7: *val = l->s.tmr[reg - REG_TMR]; break;
	case REG_IRR ... REG_IRR + 7: *val = l->s.irr[reg - REG_IRR]; break;
	case REG_ESR: *val = l->s.esr; break;
	case REG_ICR: *val = (u32)l->s.icr; break;
	case REG_LVT ... REG_LVT + LVT_COUNT - 1: *val = l->s.lvt[reg - REG_LVT]; break;
	case REG_TIMER_INITIAL: *val = l->s.timer_initial; break;
	case REG_TIMER_CURRENT: *val = lapic_timer_current(l); break;
	case REG_TIMER_DIVIDE: *val = l->s.timer_divide; break;
	default: return false;
	}
	return true;
}

/* Writes that mean the same in both modes. False: no such register, or not writable. */
static bool lapic_reg_write(struct lapic *l, u32 reg, u32 val)
{
	switch (reg) {
	case REG_TPR:
		l->s.tpr = val & 0xff;
		lapic_check(l);
		break;
	case REG_EOI: lapic_eoi(l); break;
	case REG_SVR: lapic_write_svr(l, val); break;
	case REG_ESR:
		l->s.esr = l->s.esr_new;
		l->s.esr_new = 0;
		break;
	case REG_LVT ... REG_LVT + LVT_COUNT - 1: lapic_write_lvt(l, reg - REG_LVT, val); break;
	case REG_TIMER_INITIAL: lapic_timer_initial(l, val); break;
	case REG_TIMER_DIVIDE: lapic_timer_divide(l, val); break;
	default: return false;
	}
	return true;
}

u32 lapic_mmio_read(struct vdev *dev, u32 offset)
{
	struct lapic *l = lapic_of(dev);
	u32 reg = offset >> 4, val = 0;

	if (offset & 15)
		return 0; /* only the first 4 bytes of 16 are a register */
	switch (reg) {
	case REG_APR: case REG_RRD: case REG_EOI: break;
	case REG_DFR: val = l->s.dfr; break;
	case REG_ICR_HI: val = (u32)(l->s.icr >> 32); break;
	default:
		if (!lapic_reg_read(l, reg, &val))
			lapic_error(l, ESR_REGISTER);
	}
	return val;
}

void lapic_mmio_write(struct vdev *dev, u32 offset, u32 val)
{
	struct lapic *l = lapic_of(dev);
	u32 reg = offset >> 4, dummy;

	if (offset & 15)
		return;
	switch (reg) {
	case REG_LDR: l->s.ldr = val & 0xff000000; break;
	case REG_DFR: l->s.dfr = val | 0x0fffffff; break;
	case REG_ICR:
		l->s.icr = (l->s.icr & ~0xffffffffull) | (val & ~(u32)(ICR_RESERVED | ICR_BUSY));
		lapic_send(l);
		break;
	case REG_ICR_HI: l->s.icr = (u32)l->s.icr | (u64)(val & 0xff000000) << 32; break;
	case REG_APR: case REG_RRD: break;
	default: /* writes to read-only registers are ignored */
		if (!lapic_reg_write(l, reg, val) && !lapic_reg_read(l, reg, &dummy))
			lapic_error(l, ESR_REGISTER);
	}
}

static int lapic_x2_read(struct lapic *l, u32 reg, u64 *val)
{
	u32 v;

	if (reg < REG_ESR)
		lapic_pull(&l->dev);
	if (reg == REG_ICR) {
		*val = l->s.icr;
		return 0;
	}
	if (!lapic_reg_read(l, reg, &v))
		return -E_INVAL;
	*val = v;
	return 0;
}

/* Bits that may be written as ones in x2APIC mode; -1: register not writable. */
static s64 lapic_x2_writable(u32 reg)
{
	switch (reg) {
	case REG_TPR: case REG_SELF_IPI: return 0xff;
	case REG_EOI: case REG_ESR: return 0;
	case REG_SVR: return SVR_WRITABLE;
	case REG_LVT ... REG_LVT + LVT_COUNT - 1: return lvt_writable[reg - REG_LVT] | LVT_STATUS |
		(reg == REG_LVT + LVT_LINT0 || reg == REG_LVT + LVT_LINT1 ? BIT(14) : 0); /* remote IRR: read-only, not reserved */
	case REG_TIMER_INITIAL: return 0xffffffff;
	case REG_TIMER_DIVIDE: return TDCR_WRITABLE;
	default: return -1;
	}
}

static int lapic_x2_write(struct lapic *l, u32 reg, u64 val)
{
	s64 writable = lapic_x2_writable(reg);

	if (reg == REG_TPR || reg == REG_EOI)
		lapic_pull(&l->dev);
	if (reg == REG_ICR) {
		if (val & ICR_RESERVED)
			return -E_INVAL;
		l->s.icr = val & ~ICR_BUSY;
		lapic_send(l);
		return 0;
	}
	if (writable < 0 || (val & ~(u64)writable))
		return -E_INVAL;
	if (reg != REG_SELF_IPI)
		lapic_reg_write(l, reg, (u32)val);
	else if (val < 16)
		lapic_error(l, ESR_SEND_VECTOR);
	else
		lapic_accept(l, (u8)val, false);
	return 0;
}

/* All but IA32_APIC_BASE. */
static void lapic_power_up(struct lapic *l)
{
	l->s = (struct lapic_state){ .base = l->s.base, .timer_deadline = VDEV_NEVER, .dfr = ~0u, .svr = 0xff };
	for (unsigned i = 0; i < LVT_COUNT; i++)
		l->s.lvt[i] = LVT_MASKED;
	l->live = false;
	vdev_arm(&l->dev, VDEV_NEVER);
}

static int lapic_write_base(struct lapic *l, u64 val)
{
	u64 was = l->s.base & (APIC_BASE_EN | APIC_BASE_EXTD), is = val & (APIC_BASE_EN | APIC_BASE_EXTD);

	if (val & ~(APIC_BASE_ADDR | APIC_BASE_EN | APIC_BASE_EXTD | APIC_BASE_BSP))
		return -E_INVAL;
	/* SDM "x2APIC State Transitions": off -> xAPIC -> x2APIC -> off, and xAPIC -> off. */
	if (is == APIC_BASE_EXTD || (is == (APIC_BASE_EN | APIC_BASE_EXTD) && !was) ||
	    (is == APIC_BASE_EN && (was & APIC_BASE_EXTD)))
		return -E_INVAL;
	lapic_pull(&l->dev);
	l->s.base = val;
	if (was != is && (is & APIC_BASE_EXTD))
		l->s.icr &= 0xffffffff; /* the destination field gets another layout */
	else if (was && !is)
		lapic_power_up(l);
	lapic_check(l);
	return 0;
}

void lapic_written(struct vdev *dev, u32 offset)
{
	struct lapic *l = lapic_of(dev);

	if (l->live && lapic_x2(l))
		(void)!lapic_x2_write(l, offset >> 4, *lapic_page_reg(l, offset >> 4));
}

u64 lapic_base(struct vdev *dev)
{
	return lapic_of(dev)->s.base;
}

int lapic_msr_read(struct vdev *dev, u32 msr, u64 *val)
{
	struct lapic *l = lapic_of(dev);

	if (msr == MSR_IA32_APIC_BASE)
		*val = l->s.base;
	else if (msr == MSR_IA32_TSC_DEADLINE)
		*val = l->s.tsc_deadline;
	else if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST && lapic_x2(l))
		return lapic_x2_read(l, msr - MSR_X2APIC_FIRST, val);
	else
		return -E_INVAL;
	return 0;
}

int lapic_msr_write(struct vdev *dev, u32 msr, u64 val)
{
	struct lapic *l = lapic_of(dev);

	if (msr == MSR_IA32_APIC_BASE)
		return lapic_write_base(l, val);
	if (msr == MSR_IA32_TSC_DEADLINE) {
		lapic_timer_tsc_deadline(l, val);
		return 0;
	}
	if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST && lapic_x2(l))
		return lapic_x2_write(l, msr - MSR_X2APIC_FIRST, val);
	return -E_INVAL;
}

/* --- Frame --- */

/* The BSP as firmware leaves it: enabled, virtual wire mode (LINT0 ExtINT, LINT1 NMI). */
static void lapic_reset(struct vdev *dev)
{
	struct lapic *l = lapic_of(dev);

	l->s.base = APIC_BASE_DEFAULT | APIC_BASE_EN;
	lapic_power_up(l);
	if (dev->instance == 0) {
		l->s.base |= APIC_BASE_BSP;
		l->s.svr |= SVR_ENABLED;
		l->s.lvt[LVT_LINT0] = MODE_EXTINT << 8;
		l->s.lvt[LVT_LINT1] = MODE_NMI << 8;
	}
}

void lapic_init_reset(struct vdev *dev)
{
	lapic_power_up(lapic_of(dev));
}

static int lapic_post_load(void *owner, struct error *e)
{
	struct lapic *l = lapic_of(owner);
	const struct lapic_state *s = &l->s;
	bool bad;

	bad = (s->base & ~(APIC_BASE_ADDR | APIC_BASE_EN | APIC_BASE_EXTD | APIC_BASE_BSP)) ||
	      (s->base & (APIC_BASE_EN | APIC_BASE_EXTD)) == APIC_BASE_EXTD ||
	      s->tpr > 0xff || (s->ldr & 0xffffff) || (s->dfr | 0xf0000000) != ~0u ||
	      (s->svr & ~SVR_WRITABLE) || ((s->esr | s->esr_new) & ~0xe0u) || (s->timer_divide & ~TDCR_WRITABLE) ||
	      (s->icr & (ICR_RESERVED | ICR_BUSY)) || (!lapic_x2(l) && (s->icr >> 32 & 0xffffff)) ||
	      ((s->irr[0] | s->isr[0] | s->tmr[0]) & 0xffff);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		bad |= (s->lvt[i] & ~lvt_writable[i]) || (!(s->svr & SVR_ENABLED) && !(s->lvt[i] & LVT_MASKED));
	if (bad || !lapic_timer_valid(l))
		return -E_INVAL;
	vdev_arm(&l->dev, s->timer_deadline);
	return 0;
}

static const struct mig_field lapic_fields[] = {
	MIG_U64(1, struct lapic_state, base, 1),
	MIG_U64(2, struct lapic_state, tsc_deadline, 1),
	MIG_U64(3, struct lapic_state, timer_deadline, 1),
	MIG_U64(4, struct lapic_state, icr, 1),
	MIG_U32S(5, struct lapic_state, irr, 1),
	MIG_U32S(6, struct lapic_state, isr, 1),
	MIG_U32S(7, struct lapic_state, tmr, 1),
	MIG_U32S(8, struct lapic_state, lvt, 1),
	MIG_U32(9, struct lapic_state, tpr, 1),
	MIG_U32(10, struct lapic_state, ldr, 1),
	MIG_U32(11, struct lapic_state, dfr, 1),
	MIG_U32(12, struct lapic_state, svr, 1),
	MIG_U32(13, struct lapic_state, esr, 1),
	MIG_U32(14, struct lapic_state, esr_new, 1),
	MIG_U32(15, struct lapic_state, timer_initial, 1),
	MIG_U32(16, struct lapic_state, timer_divide, 1),
};

const struct vdev_type lapic_type = {
	.mig = {
		.name = "lapic", .version = 1, .min_version = 1, .phase = MIG_PHASE_IRQCHIP,
		MIG_STATE(struct lapic_state, lapic_fields), .post_load = lapic_post_load,
	},
	/* No init: its page moves with IA32_APIC_BASE, so vcpu_apic_mmio() finds it and not the bus. */
	.size = sizeof(struct lapic), .state_offset = offsetof(struct lapic, s),
	.reset = lapic_reset, .timer = lapic_timer_expire,
};
VDEV_REGISTER(lapic_type);
