/* SPDX-License-Identifier: MIT */
/*
 * timer: every clock and timer that a guest has, against the PM timer.
 * Arguments: slack-us=N (20000): how late an interrupt may come; percent=N (2): how far rates may
 * be apart; no-rtc leaves out the wait for the seconds of the RTC. turns=N or loop: over and over (loop.c), on every CPU,
 * with a timer armed at any moment: CPU 0 short ones and the PIT, the others ones of half a second.
 */
#include "guest.h"

#define VEC 0x50

static volatile u64 hits, last_hit;
static u64 slack_us, percent;
static u64 apic_khz; /* of the APIC timer at divide-by-1 */

static void apic_irq(struct regs *r)
{
	(void)r;
	hits++;
	last_hit = rdtsc();
	apic_eoi();
}

static void pic_irq(struct regs *r)
{
	(void)r;
	hits++;
	last_hit = rdtsc();
	pic_eoi(0);
}

/*
 * Waits until `n` interrupts came or the time is up. With `hlt` the CPU sleeps, so that only a
 * source that was seen to work may be waited for. Returns how many came.
 */
static u64 wait_hits(u64 n, u64 timeout_us, bool hlt)
{
	u64 end = rdtsc() + timeout_us * tsc_khz() / 1000;

	while (hits < n && rdtsc() < end) {
		if (hlt) {
			wait_interrupt();
		} else {
			/* STI holds interrupts back for one instruction. */
			__asm__ volatile("sti; nop; nop; pause; cli" : : : "memory");
		}
	}
	return hits;
}

static bool near(u64 got, u64 want, u64 pct)
{
	return got * 100 >= want * (100 - pct) && got * 100 <= want * (100 + pct);
}

static void check_reference(void)
{
	u64 khz = tsc_khz(), start, took;

	printf("timer: tsc %lu kHz\n", khz);
	CHECK("pm-timer.counts", khz > 1000 && khz < 100000000, "%lu kHz", khz);

	/* PIT channel 2, gated by port 61h, polled: 50 ms. */
	outb(0x61, (inb(0x61) & ~2) | 1);
	outb(0x43, 0xb0);
	outb(0x42, 59659 & 0xff);
	outb(0x42, 59659 >> 8);
	start = rdtsc();
	while (!(inb(0x61) & 0x20) && rdtsc() - start < khz * 500)
		pause();
	took = tsc_us(rdtsc() - start);
	CHECK("pit.channel2", took * 100 >= 50000 * (100 - percent) && took <= 50000 + slack_us,
	      "50 ms took %lu us", took);
}

/* One-shot in `us`; checks the moment. */
static void one_shot(const char *name, u64 us, bool hlt)
{
	u64 start, took, n;

	hits = 0;
	apic_write(APIC_LVT_TIMER, VEC);
	start = rdtsc();
	apic_write(APIC_TIMER_INITIAL, us * apic_khz / 1000);
	n = wait_hits(1, us + slack_us, hlt);
	took = tsc_us(last_hit - start);
	if (!CHECK(name, n == 1 && took + 1 >= us * (100 - percent) / 100 && took <= us + slack_us,
		   "%lu interrupts, %lu us instead of %lu", n, took, us))
		return;
	wait_hits(2, 2 * us, false);
	CHECK(name, hits == 1 && !apic_read(APIC_TIMER_CURRENT), "came again, or count %u is not 0",
	      apic_read(APIC_TIMER_CURRENT));
}

static void check_count(void)
{
	static const u8 divide[] = { 0xb, 0, 1, 2, 3, 8, 9, 0xa }; /* by 1, 2, 4 .. 128 */

	for (u32 i = 0; i < ARRAY_SIZE(divide); i++) {
		u64 khz = 0;

		/* Readings that an absence of this CPU pulled apart are taken again. */
		for (int tries = 0; tries < 5; tries++) {
			u64 count, start, end;

			apic_write(APIC_LVT_TIMER, APIC_MASKED | VEC);
			apic_write(APIC_TIMER_DIVIDE, divide[i]);
			start = rdtsc();
			apic_write(APIC_TIMER_INITIAL, ~0u);
			delay_us(5000);
			end = rdtsc();
			count = ~0u - apic_read(APIC_TIMER_CURRENT);
			if (tsc_us(rdtsc() - end) > 200)
				continue;
			khz = (count << i) * tsc_khz() / (end - start);
			if (!i || near(khz, apic_khz, percent))
				break;
		}
		if (!i) {
			apic_khz = khz;
			printf("timer: apic timer %lu kHz\n", khz);
		}
		CHECK("apic.divide", near(khz, apic_khz, percent), "by %u: %lu kHz, not %lu", 1 << i,
		      khz, apic_khz);
		CHECK("apic.initial", apic_read(APIC_TIMER_INITIAL) == ~0u, "0x%x",
		      apic_read(APIC_TIMER_INITIAL));
	}
	apic_write(APIC_TIMER_INITIAL, 0);
	CHECK("apic.stop", !apic_read(APIC_TIMER_CURRENT), "still counts");
	apic_write(APIC_TIMER_DIVIDE, 0xb);
}

static void periodic(u64 us, u32 n)
{
	u64 start, took, got;

	hits = 0;
	apic_write(APIC_LVT_TIMER, VEC | APIC_PERIODIC);
	start = rdtsc();
	apic_write(APIC_TIMER_INITIAL, us * apic_khz / 1000);
	got = wait_hits(n, n * us + slack_us, true);
	took = tsc_us(last_hit - start);
	apic_write(APIC_LVT_TIMER, APIC_MASKED | VEC | APIC_PERIODIC);
	/* Not faster than the rate, and the last no later than its slack. */
	CHECK("apic.periodic", got >= n && took + us >= n * us * (100 - percent) / 100 &&
	      took <= n * us + slack_us, "%lu of %u in %lu us instead of %lu", got, n, took, n * us);
	/* Masked, the count goes on but nothing arrives. */
	wait_hits(~0ull, us, false); /* what was pending */
	hits = 0;
	wait_hits(1, 3 * us, false);
	CHECK("apic.masked", !hits, "%lu interrupts", hits);
	apic_write(APIC_TIMER_INITIAL, 0);
}

static void deadline(u64 us)
{
	u64 at, n;

	hits = 0;
	apic_write(APIC_LVT_TIMER, VEC | APIC_TSC_DEADLINE);
	__asm__ volatile("mfence" : : : "memory"); /* SDM "TSC-Deadline Mode": orders MMIO and WRMSR */
	at = rdtsc() + us * tsc_khz() / 1000;
	wrmsr(MSR_TSC_DEADLINE, at);
	n = rdmsr(MSR_TSC_DEADLINE);
	CHECK("deadline.read", n == at || rdtsc() >= at, "0x%lx, not 0x%lx", n, at);
	n = wait_hits(1, us + slack_us, true);
	CHECK("deadline.fires", n == 1 && last_hit >= at && tsc_us(last_hit - at) <= slack_us,
	      "%lu interrupts, %ld ticks late", n, (s64)(last_hit - at));
	CHECK("deadline.clears", !rdmsr(MSR_TSC_DEADLINE), "0x%lx", rdmsr(MSR_TSC_DEADLINE));

	hits = 0;
	wrmsr(MSR_TSC_DEADLINE, 1); /* long past */
	CHECK("deadline.past", wait_hits(1, slack_us, false) == 1, "%lu interrupts", hits);

	/* Where this CPU was absent for so long that it was due before it was disarmed, it is tried again. */
	for (int tries = 0; tries < 5; tries++) {
		hits = 0;
		at = rdtsc() + us * tsc_khz() / 1000;
		wrmsr(MSR_TSC_DEADLINE, at);
		wrmsr(MSR_TSC_DEADLINE, 0);
		n = rdtsc();
		wait_hits(1, 2 * us, false);
		if (n < at)
			break;
		printf("timer: disarmed %lu us too late\n", tsc_us(n - at));
	}
	CHECK("deadline.disarm", n < at && !hits, "%lu interrupts, %ld us after it was due; disarmed %ld us before", hits,
	      (s64)(last_hit - at) * 1000 / (s64)tsc_khz(), (s64)(at - n) * 1000 / (s64)tsc_khz());

	/* In this mode the initial count is not to be heard of. */
	apic_write(APIC_TIMER_INITIAL, 1000);
	CHECK("deadline.no-count", !apic_read(APIC_TIMER_CURRENT), "counts");
	apic_write(APIC_LVT_TIMER, APIC_MASKED | VEC);
	apic_write(APIC_TIMER_INITIAL, 0);
}

static void check_priority(void)
{
	/* A class of the TPR at or above the vector's holds it back; lowering it lets it in. */
	hits = 0;
	write_cr8(VEC >> 4);
	CHECK("apic.cr8", apic_read(APIC_TPR) == (VEC & 0xf0), "TPR 0x%x", apic_read(APIC_TPR));
	apic_write(APIC_LVT_TIMER, VEC);
	apic_write(APIC_TIMER_INITIAL, apic_khz / 10);
	wait_hits(1, 2000, false);
	CHECK("apic.tpr-holds", !hits, "%lu interrupts", hits);
	CHECK("apic.irr", apic_read(APIC_IRR + (VEC / 32) * 16) & BIT(VEC % 32), "not pending");
	write_cr8(0);
	wait_hits(1, slack_us, false);
	CHECK("apic.tpr-lets", hits == 1, "%lu interrupts", hits);

	/* A self-IPI, the plainest interrupt there is. */
	hits = 0;
	apic_write(APIC_ICR, VEC | BIT(18) | BIT(14));
	CHECK("apic.self-ipi", wait_hits(1, slack_us, false) == 1, "%lu interrupts", hits);
}

static void check_apic(bool x2apic)
{
	apic_enable(x2apic);
	printf("timer: %s mode\n", x2apic ? "x2APIC" : "xAPIC");
	CHECK("apic.version", (apic_read(APIC_VERSION) & 0xff) >= 0x10, "0x%x",
	      apic_read(APIC_VERSION));
	intr_set(VEC, apic_irq);
	check_count();
	one_shot("apic.one-shot", 2000, false);
	one_shot("apic.one-shot-hlt", 5000, true);
	one_shot("apic.one-shot-long", 60000, true);
	periodic(3000, 10);
	check_priority();
	if (apic_has_tsc_deadline())
		deadline(3000);
	else
		guest_skip("deadline", "no TSC-deadline timer in CPUID");
}

/* 20 ticks of 5 ms of the PIT, by whichever road the caller has opened. */
static void check_pit(const char *name)
{
	u64 start, took, got;

	hits = 0;
	start = rdtsc();
	pit_start(2, 5966);
	got = wait_hits(4, 20000 + slack_us, false);
	if (CHECK(name, got >= 4, "%lu of 4 interrupts", got)) {
		got = wait_hits(20, 100000 + slack_us, true);
		took = tsc_us(last_hit - start);
		CHECK(name, got == 20 && took + 6000 >= 100000 && took <= 100000 + slack_us,
		      "%lu of 20 in %lu us", got, took);
	}
	pit_start(0, 65535);
	wait_hits(~0ull, 1000, false); /* what was pending */
	hits = 0;
	pit_start(0, 11932); /* once, 10 ms */
	wait_hits(2, 30000, false);
	CHECK(name, hits == 1, "mode 0: %lu interrupts, not 1", hits);
}

static void check_pit_roads(void)
{
	u32 pin = acpi_isa_pin(0);

	apic_enable(false);
	pit_start(0, 1); /* quiet: an edge that nobody sees */
	delay_us(1000);
	apic_write(APIC_LVT_LINT0, 0x700); /* ExtINT: the PIC's road to the CPU */
	intr_set(0x20, pic_irq);
	pic_init();
	pic_mask(0, false);
	sti();
	delay_us(100);
	cli();
	check_pit("pit.pic");
	pic_mask(0, true);
	hits = 0;
	pit_start(2, 5966);
	wait_hits(1, 15000, false);
	CHECK("pic.masked", !hits, "%lu interrupts", hits);

	intr_set(0x20, NULL);
	apic_write(APIC_LVT_LINT0, APIC_MASKED);
	intr_set(VEC, apic_irq);
	printf("timer: IRQ0 is pin %u of %u\n", pin, ioapic_pins());
	CHECK("ioapic.pins", ioapic_pins() >= 16 && ioapic_pins() <= 240, "%u", ioapic_pins());
	ioapic_route(pin, VEC, false);
	CHECK("ioapic.entry", (ioapic_read(0x10 + 2 * pin) & 0x1afff) == VEC, "0x%x",
	      ioapic_read(0x10 + 2 * pin));
	check_pit("pit.ioapic");
	ioapic_route(pin, VEC, true);
	hits = 0;
	pit_start(2, 5966);
	wait_hits(1, 15000, false);
	CHECK("ioapic.masked", !hits, "%lu interrupts", hits);
	pit_start(0, 1);
}

static u8 rtc(u8 reg)
{
	outb(0x70, reg);
	return inb(0x71);
}

static bool bcd_in(u8 v, u8 lo, u8 hi)
{
	if (!(rtc(0xb) & 4))
		v = (v & 15) + (v >> 4) * 10;
	return v >= lo && v <= hi;
}

static void check_rtc(void)
{
	u64 at[2], end = rdtsc() + 3000 * tsc_khz();
	u8 last;

	while (rtc(0xa) & 0x80 && rdtsc() < end)
		pause();
	printf("timer: rtc %02x-%02x-%02x %02x:%02x:%02x regs b 0x%02x d 0x%02x\n", rtc(9), rtc(8),
	       rtc(7), rtc(4), rtc(2), rtc(0), rtc(0xb), rtc(0xd));
	CHECK("rtc.valid", rtc(0xd) & 0x80, "register D 0x%x", rtc(0xd));
	CHECK("rtc.ranges", bcd_in(rtc(0), 0, 59) && bcd_in(rtc(2), 0, 59) && bcd_in(rtc(7), 1, 31) &&
	      bcd_in(rtc(8), 1, 12) && bcd_in(rtc(9), 0, 99), "a field is out of range");
	if (arg_is("no-rtc", NULL))
		return;
	last = rtc(0);
	for (int i = 0; i < 2; i++) {
		while (rtc(0) == last && rdtsc() < end)
			delay_us(200);
		at[i] = rdtsc();
		last = rtc(0);
	}
	CHECK("rtc.second", near(tsc_us(at[1] - at[0]), 1000000, percent), "%lu us",
	      tsc_us(at[1] - at[0]));
}

/* ---- over and over ---- */

#define VEC_PIT 0x51
#define PIT_RELOAD 11932u /* 100 Hz */
enum { ONE_SHOT, PERIODIC, DEADLINE, KINDS };
static const char *const kind_names[] = { "one-shot", "periodic", "deadline" };
static struct lap {
	volatile u64 hits, last, start, period; /* period: 0 if it comes once */
	volatile u64 early, early_by, early_nth;
	u32 kind, early_kind;
	u64 min[KINDS], max[KINDS];                    /* how late, in TSC ticks */
	volatile u64 lost, twice, laps;
} lap_of[SMP_MAX];
static volatile u64 pit_hits;
static volatile bool stop;

static void came_early(struct lap *l, u64 by)
{
	if (l->early++)
		return;
	l->early_by = by;
	l->early_nth = l->hits;
	l->early_kind = l->kind;
}

static void lap_irq(struct regs *r)
{
	struct lap *l = &lap_of[smp_self()];

	(void)r;
	l->last = rdtsc();
	l->hits++;
	/* The nth is not there before n periods are over, by the rate that was measured; those that are late may merge. */
	if (l->period && l->last + l->hits * l->period * percent / 100 < l->start + l->hits * l->period)
		came_early(l, l->start + l->hits * l->period - l->last);
	apic_eoi();
}

static void pit_irq(struct regs *r)
{
	(void)r;
	pit_hits++;
	apic_eoi();
}

/* One timer of that kind in `us`, or so many of a fifth of that. */
static void lap(u32 self, u32 kind, u64 us)
{
	static const u32 mode[KINDS] = { 0, APIC_PERIODIC, APIC_TSC_DEADLINE };
	struct lap *l = &lap_of[self];
	u64 ticks = us * tsc_khz() / 1000, n = kind == PERIODIC ? 5 : 1, due, limit, late;

	apic_write(APIC_TIMER_INITIAL, 0);
	apic_write(APIC_TIMER_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, VEC | mode[kind]);
	__asm__ volatile("sti; nop; nop; cli; mfence" : : : "memory"); /* what the last one left pending */
	l->hits = 0;
	l->kind = kind;
	l->period = n > 1 ? ticks / n : 0;
	l->start = rdtsc();
	due = l->start + ticks;
	limit = due + ticks + 50 * slack_us * tsc_khz() / 1000;
	if (kind == DEADLINE)
		wrmsr(MSR_TSC_DEADLINE, due);
	else
		apic_write(APIC_TIMER_INITIAL, us / n * apic_timer_khz() / 1000);
	/* One that never comes would not end the HLT of a CPU without the PIT: CPU 0 looks whether the others go on. */
	while ((n > 1 ? l->last < due - l->period / 2 : !l->hits) && rdtsc() < limit)
		wait_interrupt();
	if (!l->hits) {
		l->lost++;
		return;
	}
	if (kind == PERIODIC)
		late = (l->last - l->start) % l->period;
	else if (l->last >= due)
		late = l->last - due;
	else
		late = 0;
	/* Deadlines are exact; counts are as exact as the rate that was measured. lap_irq() looks at periodic ones. */
	if (kind == DEADLINE ? l->last < due : kind == ONE_SHOT && l->last + ticks * percent / 100 < due)
		came_early(l, due - l->last);
	if (late < l->min[kind])
		l->min[kind] = late;
	if (late > l->max[kind])
		l->max[kind] = late;
	apic_write(APIC_LVT_TIMER, APIC_MASKED | VEC);
	l->twice += n == 1 && l->hits != 1;
	l->laps++;
}

static void forget_lateness(struct lap *l)
{
	for (u32 k = 0; k < KINDS; k++) {
		l->min[k] = ~0ull;
		l->max[k] = 0;
	}
}

static void long_laps(u32 self)
{
	for (u32 i = 0; !stop; i++)
		lap(self, i & 1 && apic_has_tsc_deadline() ? DEADLINE : ONE_SHOT, 500000);
}

static void check_laps(u32 cpu)
{
	struct lap *l = &lap_of[cpu];

	CHECK("loop.lost", !l->lost && (!cpu || rdtsc() - l->start < 3000 * tsc_khz()), "CPU %u: %lu never came, one since %lu us", cpu,
	      l->lost, tsc_us(rdtsc() - l->start));
	CHECK("loop.early", !l->early, "CPU %u: %lu came early, the first by %lu ticks (%s, number %lu)", cpu, l->early, l->early_by,
	      kind_names[l->early_kind], l->early_nth);
	CHECK("loop.once", !l->twice, "CPU %u: %lu came twice", cpu, l->twice);
	for (u32 k = 0; k < KINDS; k++)
		CHECK("loop.late", k == PERIODIC || tsc_us(l->max[k]) <= slack_us, "CPU %u: %s %lu us late", cpu, kind_names[k],
		      tsc_us(l->max[k]));
}

/* Readings of all clocks at about the same moment. */
struct moment { u64 tsc, pm, pit; };

static struct moment now(struct moment *last)
{
	struct moment best = { 0 };
	u64 shortest = ~0ull;

	for (u32 i = 0; i < 6; i++) {
		u64 before = rdtsc(), took;
		u32 pm, count;

		outb(0x43, 0); /* latch channel 0 */
		pm = pm_timer_read();
		took = rdtsc() - before;
		count = inb(0x40);
		count |= (u32)inb(0x40) << 8;
		if (took >= shortest)
			continue;
		shortest = took;
		best = (struct moment){ before + took / 2, pm, PIT_RELOAD - count };
	}
	/* The PM timer goes round in 4.7 s at least. */
	best.pm = last ? last->pm + ((best.pm - last->pm) & 0xffffff) : best.pm;
	return best;
}

static void prove_timers(void)
{
	struct moment first, last, m;
	u32 n = smp_cpus();

	smp_doze = true;
	apic_enable(false);
	apic_khz = apic_timer_khz();
	intr_set(VEC, lap_irq);
	intr_set(VEC_PIT, pit_irq);
	for (u32 i = 0; i < n; i++) {
		forget_lateness(&lap_of[i]);
		lap_of[i].start = rdtsc();
		if (i && CHECK("loop.cpus", smp_boot(i), "CPU %u does not come up", i))
			smp_start_job(i, long_laps);
	}
	ioapic_route(acpi_isa_pin(0), VEC_PIT, false);
	pit_start(2, PIT_RELOAD);
	delay_us(100);
	first = last = now(NULL);
	for (u32 turn = 0; loop_turn(); turn++) {
		u32 kind = turn % 3 == DEADLINE && !apic_has_tsc_deadline() ? ONE_SHOT : turn % 3;
		s64 tsc_in_pm, pit;
		u64 periods;

		lap(0, kind, 5000 + turn % 7 * 500);
		for (u32 i = 0; i < n; i++)
			check_laps(i);
		/* Between two turns, and all in all: no clock runs away from another. */
		m = now(&last);
		tsc_in_pm = (s64)((m.tsc - last.tsc) * PM_TIMER_HZ / 1000 / tsc_khz() - (m.pm - last.pm));
		CHECK("loop.step", tsc_in_pm < 2000 && tsc_in_pm > -2000, "the TSC is %ld PM ticks ahead in one turn", tsc_in_pm);
		tsc_in_pm = (s64)((m.tsc - first.tsc) * PM_TIMER_HZ / 1000 / tsc_khz() - (m.pm - first.pm));
		CHECK("loop.rate", near((u64)((s64)(m.pm - first.pm) + tsc_in_pm), m.pm - first.pm, percent),
		      "the TSC is %ld PM ticks ahead", tsc_in_pm);
		/* The PIT counts every third tick of the PM timer. */
		pit = (s64)((m.pm - first.pm) / 3 + first.pit) % PIT_RELOAD - (s64)m.pit;
		pit = (pit + PIT_RELOAD / 2 + PIT_RELOAD) % PIT_RELOAD - PIT_RELOAD / 2;
		CHECK("loop.pit", pit < 600 && pit > -600, "the PIT is %ld ticks behind", pit);
		periods = (m.pm - first.pm) / 3 / PIT_RELOAD;
		CHECK("loop.pit-interrupts", pit_hits <= periods + 2 && pit_hits * 2 + 4 >= periods, "%lu in %lu periods", pit_hits,
		      periods);
		last = m;
		/* Somewhere among so many each kind is on time to the millisecond. */
		if (turn % 60 != 59)
			continue;
		for (u32 k = 0; k < KINDS; k++)
			CHECK("loop.on-time", lap_of[0].min[k] == ~0ull || tsc_us(lap_of[0].min[k]) < 1000, "%s: %lu us late at best",
			      kind_names[k], tsc_us(lap_of[0].min[k]));
		forget_lateness(&lap_of[0]);
	}
	stop = true;
	for (u32 i = 1; i < n; i++) {
		CHECK("loop.jobs", smp_wait_job(i, 3000000), "CPU %u does not end", i);
		check_laps(i);
		CHECK("loop.laps", lap_of[i].laps, "CPU %u did nothing", i);
		printf("timer: CPU %u: %lu laps, latest %lu us\n", i, lap_of[i].laps, tsc_us(lap_of[i].max[0]));
	}
	pit_start(0, 1);
}

int main(void)
{
	slack_us = arg_u64("slack-us", 20000);
	percent = arg_u64("percent", 2);
	if (loop_asked()) {
		prove_timers();
		return 0;
	}
	check_reference();
	check_apic(false);
	check_pit_roads();
	if (apic_has_x2apic()) {
		check_apic(true);
		/* What Linux writes when it shuts down: read-only bits of the LVT are not reserved ones. */
		CHECK("x2apic.lvt-read-only", try_wrmsr(0x835, 0x15700) == VEC_NONE, "vector %d",
		      fault_vector);
		CHECK("x2apic.reserved", try_wrmsr(0x835, BIT(31) | APIC_MASKED) == VEC_GP, "vector %d",
		      fault_vector);
		CHECK("x2apic.no-register", try_wrmsr(0x80e, 0) == VEC_GP, "vector %d", fault_vector);
		apic_enable(false);
		CHECK("x2apic.leave", apic_read(APIC_SVR) == 0x1ff, "SVR 0x%x", apic_read(APIC_SVR));
	} else {
		guest_skip("x2apic", "not in CPUID");
	}
	check_rtc();
	return 0;
}
