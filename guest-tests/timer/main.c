/* SPDX-License-Identifier: MIT */
/*
 * timer: every clock and timer that a guest has, against the PM timer.
 * Arguments: slack-us=N (20000): how late an interrupt may come; percent=N (2): how far rates may
 * be apart; no-rtc leaves out the wait for the seconds of the RTC.
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

	hits = 0;
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + us * tsc_khz() / 1000);
	wrmsr(MSR_TSC_DEADLINE, 0);
	wait_hits(1, 2 * us, false);
	CHECK("deadline.disarm", !hits, "%lu interrupts", hits);

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

int main(void)
{
	slack_us = arg_u64("slack-us", 20000);
	percent = arg_u64("percent", 2);
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
