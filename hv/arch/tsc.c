/* SPDX-License-Identifier: MIT */
#include "hv/arch/tsc.h"
#include "hv/arch/acpi.h"
#include "hv/arch/x86.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"

#define PM_TIMER_HZ 3579545ull /* ACPI "Power Management Timer" */
#define PM_TIMER_READS 5
#define PIT_HZ 1193182ull
#define WINDOW_MS 20

/* SDM "Determining the Processor Base Frequency": 0 if CPUID does not say. */
static u64 cpuid_hz(void)
{
	struct cpuid_regs r;

	if (cpuid(0, 0).eax < 0x15)
		return 0;
	r = cpuid(0x15, 0);
	if (!r.eax || !r.ebx || !r.ecx)
		return 0;
	return muldiv64(r.ecx, r.ebx, r.eax);
}

/* The PM timer, and the TSC when it was read: of a few reads the quickest, since an SMI in one would spoil the measurement. */
static u32 pm_timer_read(u64 *tsc)
{
	u64 least = ~0ull;
	u32 count = 0;

	for (int i = 0; i < PM_TIMER_READS; i++) {
		u64 before = rdtsc_ordered(), took;
		u32 now = inl(acpi_facts()->pm_timer_port);

		took = rdtsc_ordered() - before;
		if (took < least) {
			least = took;
			count = now;
			*tsc = before + took / 2;
		}
	}
	return count;
}

static u64 pm_timer_hz(void)
{
	const struct acpi_facts *a = acpi_facts();
	const u32 mask = a->pm_timer_32bit ? 0xffffffff : 0xffffff;
	const u32 want = PM_TIMER_HZ * WINDOW_MS / 1000;
	u32 start, passed = 0;
	u64 began, ended;

	if (!a->pm_timer_port)
		return 0;
	start = pm_timer_read(&began);
	/* A timer that stands still must not hold up the boot. */
	for (u32 i = 0; i < 10000000 && passed < want && (passed || i <= 100000); i++)
		passed = (inl(a->pm_timer_port) - start) & mask;
	if (passed < want)
		return 0;
	passed = (pm_timer_read(&ended) - start) & mask;
	return muldiv64(ended - began, PM_TIMER_HZ, passed);
}

/* Channel 2 in mode 0, gate and output at port 61H. */
static u64 pit_hz(void)
{
	const u32 count = PIT_HZ * WINDOW_MS / 1000;
	u64 tsc;

	outb(0x61, (inb(0x61) & ~2) | 1);
	outb(0x43, 0xb0);
	outb(0x42, (u8)count);
	outb(0x42, (u8)(count >> 8));
	tsc = rdtsc_ordered();
	for (u32 i = 0; i < 10000000; i++)
		if (inb(0x61) & 0x20)
			return i ? muldiv64(rdtsc_ordered() - tsc, PIT_HZ, count) : 0;
	return 0;
}

u64 tsc_calibrate(void)
{
	u64 said = cpuid_hz(), measured = pm_timer_hz(), hz;
	const char *by = "PM timer";

	if (!measured) {
		measured = pit_hz();
		by = "PIT";
	}
	hz = measured;
	if (said >= 10000000 && (!measured || (said > measured ? said - measured : measured - said) <= measured / 100)) {
		hz = said; /* exact, where the measurement has an error of some ppm */
		by = "CPUID";
	} else if (said && measured) {
		log_warn("clock", "CPUID says the TSC runs at %llu Hz, the %s says %llu; the %s is believed",
			(unsigned long long)said, by, (unsigned long long)measured, by);
	}
	if (hz < 10000000) {
		hz = 2000000000;
		by = "guess (no timer found)";
	}
	log_info("clock", "TSC %llu.%03llu MHz by %s", (unsigned long long)hz / 1000000,
		(unsigned long long)hz / 1000 % 1000, by);
	return hz;
}
