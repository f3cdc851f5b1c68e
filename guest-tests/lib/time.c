/* SPDX-License-Identifier: MIT */
/* Time: the PM timer is the reference, the TSC is what it calibrates. */
#include "guest.h"

#define VEC_SLEEP 0xe0

u32 pm_timer_read(void)
{
	static u16 port;

	if (!port)
		port = acpi_pm_timer_port();
	return inl(port);
}

/*
 * The rate over `ticks` of the PM timer. An interrupted pair of readings (an emulator's thread that
 * lost its CPU) would spoil it, so each end takes the closest of several pairs.
 */
static u64 measure(u32 ticks)
{
	u64 tsc[2], best;
	u32 pm[2];

	for (int end = 0; end < 2; end++) {
		if (end)
			while (((pm_timer_read() - pm[0]) & 0xffffff) < ticks)
				pause();
		best = ~0ull;
		for (int i = 0; i < 8; i++) {
			u64 before = rdtsc();
			u32 now = pm_timer_read();
			u64 after = rdtsc();

			if (after - before < best) {
				best = after - before;
				tsc[end] = before + best / 2;
				pm[end] = now;
			}
		}
	}
	return (tsc[1] - tsc[0]) * PM_TIMER_HZ / ((pm[1] - pm[0]) & 0xffffff) / 1000;
}

u64 tsc_khz(void)
{
	static u64 khz;

	if (!khz)
		khz = measure(PM_TIMER_HZ / 20);
	return khz;
}

u64 tsc_us(u64 ticks)
{
	return ticks * 1000 / tsc_khz();
}

void delay_us(u64 us)
{
	u64 end = rdtsc() + us * tsc_khz() / 1000;

	while (rdtsc() < end)
		pause();
}

u64 apic_timer_khz(void)
{
	static u64 khz;
	u64 best = 0;

	/* Exits, and absences of this CPU between two readings, make it too little: the largest is nearest. */
	for (u32 i = 0; !khz && i < 3; i++) {
		u64 start, counts, now;

		apic_write(APIC_LVT_TIMER, APIC_MASKED | VEC_SLEEP);
		apic_write(APIC_TIMER_DIVIDE, 0xb);
		start = rdtsc();
		apic_write(APIC_TIMER_INITIAL, ~0u);
		delay_us(10000);
		counts = ~0u - apic_read(APIC_TIMER_CURRENT);
		now = counts * tsc_khz() / (rdtsc() - start);
		apic_write(APIC_TIMER_INITIAL, 0);
		if (now > best)
			best = now;
	}
	if (!khz)
		khz = best;
	return khz;
}

static volatile bool slept[SMP_MAX];

static void on_sleep(struct regs *r)
{
	(void)r;
	slept[smp_self()] = true;
	apic_eoi();
}

void sleep_us(u64 us)
{
	u64 now = rdtsc(), end = now + us * tsc_khz() / 1000;
	u32 self = smp_self();

	apic_timer_khz();
	intr_set(VEC_SLEEP, on_sleep);
	apic_write(APIC_TIMER_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, VEC_SLEEP);
	for (; now < end; now = rdtsc()) {
		slept[self] = false;
		apic_write(APIC_TIMER_INITIAL, (end - now) * apic_timer_khz() / tsc_khz() + 1);
		while (!slept[self])
			wait_interrupt();
	}
	apic_write(APIC_LVT_TIMER, APIC_MASKED);
}

void pit_start(u8 mode, u32 counter)
{
	outb(0x43, 0x30 | mode << 1);
	outb(0x40, counter);
	outb(0x40, counter >> 8);
}
