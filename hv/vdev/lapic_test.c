/* SPDX-License-Identifier: MIT */
#include "hv/fake/vdev_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define ID 0x20
#define TPR 0x80
#define PPR 0xa0
#define EOI 0xb0
#define LDR 0xd0
#define DFR 0xe0
#define SVR 0xf0
#define ISR 0x100
#define ESR 0x280
#define ICR 0x300
#define ICR_HI 0x310
#define LVT_TIMER 0x320
#define LVT_LINT0 0x350
#define LVT_ERROR 0x370
#define INITIAL 0x380
#define CURRENT 0x390
#define DIVIDE 0x3e0

static struct vm *vm;
static struct vdev *l;

static u32 rd(u32 reg) { return lapic_mmio_read(l, reg); }
static void wr(u32 reg, u32 val) { lapic_mmio_write(l, reg, val); }

static int setup(void **unused)
{
	vm = vdev_fake_vm();
	l = vcpu_lapic(vm->vcpus[0]);
	wr(SVR, 0x1ff);
	return 0;
}

static int teardown(void **unused)
{
	vdev_fake_free(vm);
	return 0;
}

static int take(void)
{
	int v = lapic_pending(l);

	if (v >= 0)
		lapic_ack(l, (u8)v);
	return v;
}

static void send(u8 vector) { lapic_deliver(vm, 0, false, 0, vector, false); }

static void x2apic(void)
{
	u64 base;

	assert_int_equal(lapic_msr_read(l, 0x1b, &base), 0);
	assert_int_equal(lapic_msr_write(l, 0x1b, base | 0x400), 0);
}

static u64 msr(u32 n)
{
	u64 v = 0;

	assert_int_equal(lapic_msr_read(l, n, &v), 0);
	return v;
}

static void wrmsr(u32 n, u64 v) { assert_int_equal(lapic_msr_write(l, n, v), 0); }
static void wrmsr_gp(u32 n, u64 v) { assert_int_equal(lapic_msr_write(l, n, v), -E_INVAL); }

static void test_identity(void **unused)
{
	assert_int_equal(rd(0x30), 0x00050014);
	assert_int_equal(rd(ID), 0);
	assert_int_equal(lapic_base(l), 0xfee00900);
	wr(ID, 0x05000000);
	assert_int_equal(rd(ID), 0); /* read-only */
	wr(LDR, 0x01234567);
	assert_int_equal(rd(LDR), 0x01000000);
	wr(DFR, 0);
	assert_int_equal(rd(DFR), 0x0fffffff);
}

static void test_priorities(void **unused)
{
	send(0x41);
	send(0x61);
	send(0x45);
	assert_true(vm->vcpus[0]->irq_check);
	assert_int_equal(take(), 0x61);
	assert_int_equal(rd(PPR), 0x60);
	send(0x6f);
	assert_int_equal(take(), -1); /* same class as in service */
	send(0x71);
	assert_int_equal(take(), 0x71);
	assert_int_equal(rd(ISR + 0x30), 1 << 1 | 1 << 17);
	wr(EOI, 0);
	assert_int_equal(take(), -1);
	wr(EOI, 0);
	assert_int_equal(take(), 0x6f);
	wr(EOI, 0);
	wr(TPR, 0x42);
	assert_int_equal(rd(PPR), 0x42);
	assert_int_equal(take(), -1);
	assert_int_equal(lapic_cr8(l), 4);
	lapic_set_cr8(l, 3);
	assert_int_equal(rd(TPR), 0x30);
	assert_int_equal(take(), 0x45);
	wr(EOI, 0);
	assert_int_equal(take(), 0x41);
	wr(EOI, 0);
	wr(EOI, 0); /* nothing in service: no effect */
	assert_int_equal(rd(PPR), 0x30);
}

static void test_software_disable(void **unused)
{
	wr(LVT_TIMER, 0x50);
	wr(SVR, 0xff);
	assert_int_equal(rd(LVT_TIMER), 0x10050);
	wr(LVT_TIMER, 0x50);
	assert_int_equal(rd(LVT_TIMER), 0x10050); /* stays masked */
	send(0x55);
	assert_int_equal(take(), -1);
	lapic_deliver(vm, 0, false, 4, 0, false);
	assert_true(vm->vcpus[0]->s.nmi_pending); /* NMIs still come */
}

static void test_extint(void **unused)
{
	assert_true(lapic_accepts_extint(l)); /* virtual wire from reset on */
	wr(LVT_LINT0, 0x10700);
	assert_false(lapic_accepts_extint(l));
	wr(LVT_LINT0, 0x00030);
	assert_false(lapic_accepts_extint(l));
	wr(LVT_LINT0, 0x700);
	assert_true(lapic_accepts_extint(l));
	wr(LVT_LINT0, 0x10700);
	wrmsr(0x1b, 0xfee00100);
	assert_true(lapic_accepts_extint(l)); /* globally off */
}

static void test_one_shot(void **unused)
{
	wr(DIVIDE, 0x3); /* by 16 */
	wr(LVT_TIMER, 0xee);
	wr(INITIAL, 1000);
	assert_int_equal(rd(CURRENT), 1000);
	vdev_fake_run(vm, 8000);
	assert_int_equal(rd(CURRENT), 500);
	vdev_fake_run(vm, 7999);
	assert_int_equal(take(), -1);
	assert_int_equal(rd(CURRENT), 1);
	vdev_fake_run(vm, 1);
	assert_int_equal(take(), 0xee);
	wr(EOI, 0);
	assert_int_equal(rd(CURRENT), 0);
	vdev_fake_run(vm, 100000);
	assert_int_equal(take(), -1);
	wr(INITIAL, 100);
	wr(INITIAL, 0); /* stops */
	vdev_fake_run(vm, 100000);
	assert_int_equal(take(), -1);
}

static void test_divide(void **unused)
{
	static const struct { u32 reg; unsigned div; } d[] = {
		{ 0, 2 }, { 1, 4 }, { 2, 8 }, { 3, 16 }, { 8, 32 }, { 9, 64 }, { 10, 128 }, { 11, 1 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(d); i++) {
		wr(DIVIDE, d[i].reg);
		wr(LVT_TIMER, 0x30);
		wr(INITIAL, 1000);
		vdev_fake_run(vm, 1000ull * d[i].div - 1);
		assert_int_equal(take(), -1);
		vdev_fake_run(vm, 1);
		assert_int_equal(take(), 0x30);
		wr(EOI, 0);
	}
}

static void test_periodic(void **unused)
{
	u64 period = 100003; /* ticks, divide by 1 */

	wr(DIVIDE, 0xb);
	wr(LVT_TIMER, 0x20030);
	wr(INITIAL, (u32)period);
	for (unsigned i = 1; i <= 1000; i++) {
		vdev_fake_run(vm, period * i - vm->paused_tsc - 1);
		assert_int_equal(take(), -1); /* never early, never drifting */
		vdev_fake_run(vm, 1);
		assert_int_equal(take(), 0x30);
		wr(EOI, 0);
	}
	/* Far behind: one interrupt, and the phase is kept. */
	vdev_fake_jump(vm, period * 50 + 7);
	assert_int_equal(take(), 0x30);
	wr(EOI, 0);
	assert_int_equal(rd(CURRENT), period - 7);
	vdev_fake_run(vm, period - 8);
	assert_int_equal(take(), -1);
	vdev_fake_run(vm, 1);
	assert_int_equal(take(), 0x30);
}

static void test_periodic_flood(void **unused)
{
	unsigned n = 0;

	wr(DIVIDE, 0xb);
	wr(LVT_TIMER, 0x20030);
	wr(INITIAL, 1);
	while (vm->paused_tsc < VDEV_FAKE_HZ / 100) { /* 10 ms */
		u64 at = l->deadline;

		vm->paused_tsc = MAX(vm->paused_tsc, at);
		vdev_fake_jump(vm, 0);
		n++;
	}
	assert_true(n <= 202);
	assert_int_equal(take(), 0x30);
}

static void test_masked_timer(void **unused)
{
	wr(DIVIDE, 0xb);
	wr(LVT_TIMER, 0x10030);
	wr(INITIAL, 1000);
	vdev_fake_run(vm, 2000);
	assert_int_equal(rd(CURRENT), 0);
	wr(LVT_TIMER, 0x30);
	assert_int_equal(take(), -1);
}

static void test_tsc_deadline(void **unused)
{
	vdev_fake_run(vm, 5000);
	wrmsr(0x6e0, 9000);
	assert_int_equal(msr(0x6e0), 0); /* not in that mode: ignored */
	wr(LVT_TIMER, 0x400ec);
	wr(INITIAL, 1000);
	assert_int_equal(rd(INITIAL), 0);
	wrmsr(0x6e0, 9000);
	assert_int_equal(msr(0x6e0), 9000);
	assert_int_equal(rd(CURRENT), 0);
	vdev_fake_run(vm, 3999);
	assert_int_equal(take(), -1);
	vdev_fake_run(vm, 1);
	assert_int_equal(take(), 0xec);
	assert_int_equal(msr(0x6e0), 0); /* disarmed by expiry */
	wr(EOI, 0);
	wrmsr(0x6e0, 100); /* past: at once */
	vdev_fake_run(vm, 0);
	assert_int_equal(take(), 0xec);
	wr(EOI, 0);
	wrmsr(0x6e0, 20000);
	wrmsr(0x6e0, 0);
	vdev_fake_run(vm, 50000);
	assert_int_equal(take(), -1);
	wrmsr(0x6e0, 90000);
	wr(LVT_TIMER, 0xec); /* change of mode disarms */
	vdev_fake_run(vm, 100000);
	assert_int_equal(take(), -1);
	wr(LVT_TIMER, 0x400ec);
	wrmsr(0x6e0, ~0ull);
	vdev_fake_run(vm, 1000);
	assert_int_equal(take(), -1);
}

static void test_self_ipi_and_shorthand(void **unused)
{
	wr(ICR, 0x40000 | 0x77); /* self */
	assert_int_equal(take(), 0x77);
	wr(EOI, 0);
	wr(ICR, 0x80000 | 0x78); /* all */
	assert_int_equal(take(), 0x78);
	wr(EOI, 0);
	wr(ICR, 0xc0000 | 0x79); /* all but self */
	assert_int_equal(take(), -1);
	wr(ICR_HI, 0);
	wr(ICR, 0x7a);
	assert_int_equal(take(), 0x7a);
	wr(EOI, 0);
	assert_int_equal(rd(ICR), 0x7a); /* never busy */
	wr(ICR_HI, 0x01000000);
	wr(ICR, 0x7b);
	assert_int_equal(take(), -1); /* nobody has ID 1 */
	wr(ICR_HI, 0xff000000);
	wr(ICR, 0x7c);
	assert_int_equal(take(), 0x7c); /* broadcast */
	wr(EOI, 0);
	wr(ICR_HI, 0);
	wr(ICR, 0x4500); /* INIT and SIPI to the only CPU: nothing here */
	wr(ICR, 0x4600 | 0x9a);
	assert_int_equal(take(), -1);
}

static void test_logical(void **unused)
{
	wr(DFR, 0xffffffff);
	wr(LDR, 0x04000000);
	lapic_deliver(vm, 0x05, true, 0, 0x51, false);
	assert_int_equal(take(), 0x51);
	wr(EOI, 0);
	lapic_deliver(vm, 0x03, true, 0, 0x51, false);
	assert_int_equal(take(), -1);
	wr(DFR, 0x0fffffff); /* cluster */
	wr(LDR, 0x24000000);
	lapic_deliver(vm, 0x26, true, 1, 0x52, false);
	assert_int_equal(take(), 0x52);
	wr(EOI, 0);
	lapic_deliver(vm, 0x16, true, 1, 0x52, false);
	lapic_deliver(vm, 0x21, true, 1, 0x52, false);
	assert_int_equal(take(), -1);
}

static void test_errors(void **unused)
{
	wr(LVT_ERROR, 0xfe);
	wr(ICR, 0x40000 | 0x0f); /* illegal vector */
	assert_int_equal(rd(ESR), 0); /* shown after a write only */
	wr(ESR, 0);
	assert_int_equal(rd(ESR), 0x20);
	assert_int_equal(take(), 0xfe);
	wr(EOI, 0);
	wr(ESR, 0);
	assert_int_equal(rd(ESR), 0);
	send(0x0e);
	wr(ESR, 0);
	assert_int_equal(rd(ESR), 0x40);
	rd(0x3a0); /* no such register */
	wr(ESR, 0);
	assert_int_equal(rd(ESR), 0x80);
	rd(0x2f0); /* CMCI is not there either */
	wr(LVT_ERROR, 5); /* an error vector that is an error itself */
	wr(ICR, 0x40000 | 0x0f);
	wr(ESR, 0);
	assert_int_equal(rd(ESR), 0xe0);
}

static void test_base_transitions(void **unused)
{
	u64 v;

	wrmsr_gp(0x1b, 0xfee00d01); /* reserved bit */
	wrmsr_gp(0x1b, 1ull << 52 | 0xfee00900);
	wrmsr_gp(0x1b, 0xfee00500); /* EXTD without EN */
	assert_int_equal(lapic_msr_read(l, 0x802, &v), -E_INVAL); /* not in x2APIC mode */
	wrmsr_gp(0x80f, 0x1ff);
	x2apic();
	assert_int_equal(msr(0x1b), 0xfee00d00);
	wrmsr_gp(0x1b, 0xfee00900); /* x2APIC -> xAPIC */
	wrmsr(0x80f, 0x1f0);
	wrmsr(0x1b, 0xfee00100);
	wrmsr_gp(0x1b, 0xfee00d00); /* off -> x2APIC */
	wrmsr(0x1b, 0xfee00900);
	assert_int_equal(rd(SVR), 0xff); /* power-up state */
	send(0x55);
	assert_int_equal(take(), -1);
}

static void test_x2apic(void **unused)
{
	u64 v;

	x2apic();
	assert_int_equal(msr(0x802), 0);
	assert_int_equal(msr(0x803), 0x50014);
	assert_int_equal(msr(0x80d), 1);
	wrmsr_gp(0x802, 0);
	wrmsr_gp(0x80d, 1);
	wrmsr_gp(0x80e, 0);
	assert_int_equal(lapic_msr_read(l, 0x80e, &v), -E_INVAL);
	assert_int_equal(lapic_msr_read(l, 0x831, &v), -E_INVAL);
	assert_int_equal(lapic_msr_read(l, 0x80b, &v), -E_INVAL); /* EOI is write-only */
	assert_int_equal(lapic_msr_read(l, 0x83f, &v), -E_INVAL);
	assert_int_equal(lapic_msr_read(l, 0x8ff, &v), -E_INVAL);
	wrmsr_gp(0x808, 0x100);
	wrmsr(0x808, 0x20);
	assert_int_equal(lapic_cr8(l), 2);
	wrmsr_gp(0x80b, 1);
	wrmsr_gp(0x828, 1);
	wrmsr_gp(0x80f, 0x1000);
	wrmsr_gp(0x832, 0x80000);
	wrmsr_gp(0x83e, 4);
	wrmsr_gp(0x838, 1ull << 32);
	wrmsr_gp(0x830, 0x2000);
	wrmsr_gp(0x830, 0x100000);
	wrmsr(0x83f, 0x81);
	assert_int_equal(take(), 0x81);
	wrmsr(0x80b, 0);
	wrmsr(0x830, 0x82); /* physical destination 0 */
	assert_int_equal(take(), 0x82);
	wrmsr(0x80b, 0);
	assert_int_equal(msr(0x830), 0x82);
	wrmsr(0x830, 0xffffffffull << 32 | 0x83);
	assert_int_equal(take(), 0x83);
	wrmsr(0x80b, 0);
	wrmsr(0x830, 1ull << 32 | 0x800 | 0x84); /* logical, cluster 0, member 0 */
	assert_int_equal(take(), 0x84);
	wrmsr(0x80b, 0);
	wrmsr(0x830, 0x10001ull << 32 | 0x800 | 0x85); /* cluster 1 */
	assert_int_equal(take(), -1);
	wrmsr(0x832, 0x400ec);
	wrmsr(0x6e0, vm->paused_tsc + 10);
	vdev_fake_run(vm, 10);
	assert_int_equal(take(), 0xec);
	wr(EOI, 0);
}

static void test_post_load(void **unused)
{
	u32 *w = vdev_fake_state(l), keep;
	unsigned refused = 0, words = lapic_type.mig.state_size / 4;

	wr(LVT_TIMER, 0x20030);
	wr(INITIAL, 1000);
	assert_int_equal(lapic_type.mig.post_load(l, NULL), 0);
	assert_int_equal(l->deadline, 2000); /* armed again; divide by 2 */
	for (unsigned i = 0; i < words; i++) {
		keep = w[i];
		w[i] = 0xffffffff;
		refused += lapic_type.mig.post_load(l, NULL) != 0;
		w[i] = keep;
	}
	/* All but the upper IRR, ISR, TMR words, LDR/DFR halves and the like have bits that cannot be. */
	assert_true(refused >= words - 3 * 7 - 6);
	w[2] = 5; /* TSC deadline armed in another mode */
	assert_int_equal(lapic_type.mig.post_load(l, NULL), -E_INVAL);
	w[2] = 0;
	assert_int_equal(lapic_type.mig.post_load(l, NULL), 0);
}

/* --- with the CPU's virtual-APIC page: the test is the CPU --- */

static u32 page[1024];
static u32 status;
static const u32 *tmr;

static u32 *cpu(u32 reg) { return &page[reg / 4]; }
static bool push(void) { return lapic_push(l, &status, &tmr); }

/* SDM "Virtual-Interrupt Delivery" */
static void cpu_delivers(u8 vector)
{
	assert_true(*cpu(0x200 + vector / 32 * 16) & 1u << vector % 32);
	*cpu(0x200 + vector / 32 * 16) &= ~(1u << vector % 32);
	*cpu(ISR + vector / 32 * 16) |= 1u << vector % 32;
}

static void use_page(void)
{
	memset(page, 0xff, sizeof(page));
	assert_false(lapic_uses_page(l));
	lapic_set_page(l, page);
	assert_false(lapic_uses_page(l)); /* an xAPIC is ours in any case */
	x2apic();
	assert_true(lapic_uses_page(l));
}

static void test_page(void **unused)
{
	send(0x31);
	use_page();
	wrmsr(0x808, 0x20);
	send(0x41);
	assert_true(push());
	assert_int_equal(status, 0x41);
	assert_int_equal(*cpu(TPR), 0x20);
	cpu_delivers(0x41);
	send(0x45);
	assert_false(push()); /* same class as in service */
	assert_int_equal(status, 0x4145);
	send(0x61);
	assert_true(push());
	*cpu(TPR) = 0x70; /* the guest, without an exit */
	vm->vcpus[0]->irq_check = false;
	assert_false(push());
	/* What the guest reads by exits is whole, and goes back. */
	assert_int_equal(msr(0x80a), 0x70);
	assert_true(vm->vcpus[0]->irq_check);
	assert_int_equal(msr(0x812), 1 << 1);
	assert_int_equal(msr(0x822), 1 << 5);
	assert_int_equal(msr(0x823), 1 << 1);
	assert_int_equal(msr(0x821), 1 << 17);
	memset(page, 0xff, sizeof(page)); /* nothing that is there counts now */
	assert_false(push());
	assert_int_equal(status, 0x4161);
	*cpu(TPR) = 0;
	assert_true(push());
	wrmsr(0x80b, 0); /* an EOI that did exit */
	assert_true(push());
	assert_int_equal(status, 0x0061);
	/* Back in software, and then off. */
	lapic_pull(l);
	assert_int_equal(take(), 0x61);
	assert_true(!push() && status == 0x6145);
	lapic_init_reset(l);
	assert_true(lapic_uses_page(l));
	assert_true(!push() && status == 0);
	send(0x41);
	push();
	wrmsr(0x1b, 0);
	assert_false(lapic_uses_page(l));
	wrmsr(0x1b, 0xfee00900);
	assert_int_equal(take(), -1);
}

static void test_page_levels(void **unused)
{
	use_page();
	push();
	assert_non_null(tmr);
	push();
	assert_null(tmr);
	lapic_deliver(vm, 0, false, 0, 0x51, true);
	push();
	assert_true(tmr && tmr[2] == 1 << 17);
	assert_int_equal(msr(0x81a), 1 << 17);
	push();
	cpu_delivers(0x51);
	lapic_deliver(vm, 0, false, 0, 0x51, true);
	push();
	assert_null(tmr);
	send(0x51);
	push();
	assert_true(tmr && !tmr[2]);
	assert_int_equal(status, 0x5151);
}

static void test_page_writes(void **unused)
{
	use_page();
	push();
	*cpu(0x3f0) = 0x0f; /* a self-IPI that the CPU does not send */
	lapic_written(l, 0x3f0);
	wrmsr(0x828, 0);
	assert_int_equal(msr(0x828), 0x20);
	*cpu(0x3f0) = 0x77;
	lapic_written(l, 0x3f0);
	assert_true(push());
	assert_int_equal(status, 0x77);
}

/* --- the same guest twice: with a local APIC in software, and with one that the CPU looks after --- */

static u64 seed;

static u32 rnd(u32 n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (u32)(seed >> 20) % n;
}

struct twin { struct vm *vm; struct vdev *l; bool by_cpu; u32 eoi_exits[8]; };

/* As deliver_events() in vcpu.c: what has come goes to the CPU, if somebody has said that there is something. */
static void enter(struct twin *t)
{
	if (!t->vm->vcpus[0]->irq_check)
		return;
	t->vm->vcpus[0]->irq_check = false;
	if (!t->by_cpu)
		return;
	lapic_push(t->l, &status, &tmr);
	if (tmr)
		memcpy(t->eoi_exits, tmr, sizeof(t->eoi_exits));
}

static int highest(u32 reg)
{
	for (int v = 255; v >= 0; v--)
		if (*cpu(reg + (u32)v / 32 * 16) & 1u << v % 32)
			return v;
	return -1;
}

/* Takes the next interrupt; -1: none that the priority lets through. */
static int takes(struct twin *t)
{
	int v, busy;

	enter(t);
	if (!t->by_cpu) {
		v = lapic_pending(t->l);
		if (v >= 0)
			lapic_ack(t->l, (u8)v);
		return v;
	}
	v = highest(0x200);
	busy = highest(ISR);
	if (v < 0 || v >> 4 <= MAX((int)*cpu(TPR), busy) >> 4)
		return -1;
	cpu_delivers((u8)v);
	return v;
}

static void ends(struct twin *t)
{
	int v;

	enter(t);
	if (!t->by_cpu) {
		assert_int_equal(lapic_msr_write(t->l, 0x80b, 0), 0);
		return;
	}
	v = highest(ISR); /* SDM "EOI Virtualization" */
	if (v < 0)
		return;
	*cpu(ISR + (u32)v / 32 * 16) &= ~(1u << v % 32);
	if (t->eoi_exits[v / 32] & 1u << v % 32)
		ioapic_eoi(t->vm, (u8)v);
}

static void writes(struct twin *t, u32 msr, u32 val)
{
	enter(t);
	if (!t->by_cpu)
		assert_int_equal(lapic_msr_write(t->l, msr, val), 0);
	else if (msr == 0x808)
		*cpu(TPR) = val;
	else /* SDM "Self-IPI Virtualization" */
		*cpu(0x200 + val / 32 * 16) |= 1u << val % 32;
}

/* Edges are 0x30 to 0x6f, levels 0x71, 0x82, 0x93, 0xa4, IPIs to itself 0xb0 to 0xef: a vector is of one kind. */
static u64 step(struct twin *t, u32 op, u32 a, u32 b)
{
	u64 v = 0;

	switch (op) {
	case 0: case 1: return (u64)takes(t);
	case 2: case 3: ends(t); break;
	case 4: writes(t, 0x808, a % 16 << 4); break;
	case 5: case 6: lapic_deliver(t->vm, 0, false, 0, (u8)(0x30 + a % 64), false); break;
	case 7: ioapic_line(vm_vdev(t->vm, &ioapic_type, 0), a % 4, b & 1); break;
	case 8: writes(t, 0x83f, 0xb0 + a % 64); break;
	case 9: /* PPR, or a word of ISR, TMR, IRR */
		assert_int_equal(lapic_msr_read(t->l, a % 9 ? 0x810 + b % 24 : 0x80a, &v), 0);
		break;
	case 10: lapic_pull(t->l); break; /* its state is saved */
	case 11:
		if (a % 16)
			break;
		lapic_init_reset(t->l);
		assert_int_equal(lapic_msr_write(t->l, 0x80f, 0x1ff), 0);
		t->vm->vcpus[0]->irq_check = true; /* as vcpu_load_state() says */
	}
	return v;
}

static void test_page_twin(void **unused)
{
	unsigned taken = 0;

	for (unsigned round = 0; round < 100; round++) {
		struct twin t[2] = { { .by_cpu = false }, { .by_cpu = true } };

		seed = 0x9e3779b97f4a7c15ull + round;
		for (unsigned i = 0; i < 2; i++) {
			vm = t[i].vm = vdev_fake_vm();
			l = t[i].l = vcpu_lapic(vm->vcpus[0]);
			wr(SVR, 0x1ff);
			if (t[i].by_cpu)
				use_page();
			else
				x2apic();
			for (u32 p = 0; p < 4; p++) {
				vdev_fake_mmio_write(vm, 0xfec00000, 0x10 + 2 * p);
				vdev_fake_mmio_write(vm, 0xfec00010, 0x8000 | (0x71 + 0x11 * p));
			}
		}
		for (unsigned i = 0; i < 2000; i++) {
			u32 op = rnd(12), a = rnd(1000), b = rnd(1000);
			u64 x = step(&t[0], op, a, b), y = step(&t[1], op, a, b);

			if (x != y)
				fail_msg("round %u step %u: operation %u (%u, %u): %#llx, by the CPU %#llx", round, i, op, a, b,
					 (unsigned long long)x, (unsigned long long)y);
			taken += op < 2 && x != ~0ull;
		}
		lapic_pull(t[1].l);
		assert_memory_equal(vdev_fake_state(t[0].l), vdev_fake_state(t[1].l), lapic_type.mig.state_size);
		for (unsigned i = 0; i < 2; i++)
			vdev_fake_free(t[i].vm);
	}
	assert_true(taken > 5000);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_identity), T(test_priorities), T(test_software_disable), T(test_extint), T(test_one_shot),
		T(test_divide), T(test_periodic), T(test_periodic_flood), T(test_masked_timer), T(test_tsc_deadline),
		T(test_self_ipi_and_shorthand), T(test_logical), T(test_errors), T(test_base_transitions),
		T(test_x2apic), T(test_post_load), T(test_page), T(test_page_levels), T(test_page_writes),
		cmocka_unit_test(test_page_twin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
