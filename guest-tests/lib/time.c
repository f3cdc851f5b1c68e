/* SPDX-License-Identifier: MIT */
/* Time: the PM timer is the reference, the TSC is what it calibrates. */
#include "guest.h"

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

void pit_start(u8 mode, u32 counter)
{
	outb(0x43, 0x30 | mode << 1);
	outb(0x40, counter);
	outb(0x40, counter >> 8);
}
