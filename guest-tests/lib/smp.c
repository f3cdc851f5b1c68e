/* SPDX-License-Identifier: MIT */
/* Application processors: found in the MADT, started by INIT and start-up IPIs, given work through a mailbox each. */
#include "guest.h"

#define SMP_TRAMPOLINE 0x8000ul
#define SMP_STACK 0x4000ul
#define VEC_WAKE 0xe1

extern const u8 smp_trampoline[], smp_trampoline_end[], smp_record[];
extern volatile u32 smp_next;

u8 smp_stacks[SMP_MAX][SMP_STACK] __attribute__((aligned(16))); /* [0] is not used: the boot CPU has its own */
struct smp_cpu smp_cpu[SMP_MAX];
static u32 cpus;
volatile bool smp_doze;

u32 smp_cpus(void)
{
	const u8 *madt = acpi_find("APIC");
	u32 self = cpuid(1, 0).ebx >> 24;

	if (cpus)
		return cpus;
	smp_cpu[cpus++].apic_id = self;
	/* ACPI "Processor Local APIC Structure": type 0, flags bit 0 is enabled. */
	for (u32 i = 44; madt && i + 2 <= acpi_get32(madt, 4) && madt[i + 1]; i += madt[i + 1])
		if (madt[i] == 0 && (madt[i + 4] & 1) && madt[i + 3] != self && cpus < SMP_MAX)
			smp_cpu[cpus++].apic_id = madt[i + 3];
	return cpus;
}

u32 smp_self(void)
{
	u64 sp = (u64)__builtin_frame_address(0) - (u64)smp_stacks;

	return sp < sizeof(smp_stacks) ? sp / SMP_STACK : 0;
}

void smp_icr(u32 dest, u32 low)
{
	if (rdmsr(MSR_APIC_BASE) & APIC_BASE_EXTD) {
		wrmsr(0x800 + (APIC_ICR >> 4), (u64)dest << 32 | low);
		return;
	}
	apic_write(APIC_ICR_HIGH, dest << 24);
	apic_write(APIC_ICR, low);
	while (apic_read(APIC_ICR) & BIT(12)) /* delivery status */
		pause();
}

void smp_main(void);
void smp_main(void)
{
	u32 self = smp_self();
	struct smp_cpu *c = &smp_cpu[self];

	intr_load();
	apic_enable(c->x2apic);
	c->starts++;
	for (;;) {
		void (*job)(u32) = c->job;

		if (!job) {
			if (smp_doze)
				wait_interrupt();
			else
				pause();
			continue;
		}
		job(self);
		c->job = NULL;
	}
}

bool smp_wait(volatile u32 *what, u32 atleast, u64 us)
{
	u64 end = rdtsc() + us * tsc_khz() / 1000;

	while (*what < atleast)
		if (rdtsc() > end)
			return *what >= atleast;
		else
			pause();
	return true;
}

static void on_wake(struct regs *r)
{
	(void)r;
	apic_eoi();
}

void smp_wake(u32 i)
{
	intr_set(VEC_WAKE, on_wake);
	smp_icr(smp_cpu[i].apic_id, 0x4000 | VEC_WAKE);
}

void smp_init(u32 i)
{
	smp_cpu[i].job = NULL;
	smp_icr(smp_cpu[i].apic_id, 0x4500);
	delay_us(200);
}

bool smp_sipi(u32 i)
{
	struct smp_cpu *c = &smp_cpu[i];
	u32 before = c->starts;

	memcpy((void *)SMP_TRAMPOLINE, smp_trampoline, smp_trampoline_end - smp_trampoline);
	smp_next = i;
	c->x2apic = rdmsr(MSR_APIC_BASE) & APIC_BASE_EXTD;
	smp_icr(c->apic_id, 0x4600 | SMP_TRAMPOLINE >> 12);
	return smp_wait(&c->starts, before + 1, 3000000);
}

bool smp_boot(u32 i)
{
	smp_init(i);
	return smp_sipi(i);
}

void smp_state(u32 *cr0, u32 *cs)
{
	const u8 *r = (const u8 *)SMP_TRAMPOLINE + (smp_record - smp_trampoline);

	memcpy(cr0, r, 4);
	memcpy(cs, r + 4, 4);
}

void smp_start_job(u32 i, void (*fn)(u32))
{
	smp_cpu[i].job = fn;
	if (smp_doze)
		smp_wake(i);
}

bool smp_wait_job(u32 i, u64 us)
{
	u64 end = rdtsc() + us * tsc_khz() / 1000;

	while (smp_cpu[i].job)
		if (rdtsc() > end)
			return !smp_cpu[i].job;
		else
			pause();
	return true;
}

bool smp_all(void (*fn)(u32), u64 us)
{
	bool ok = true;

	for (u32 i = 1; i < cpus; i++)
		smp_start_job(i, fn);
	fn(0);
	for (u32 i = 1; i < cpus; i++)
		ok &= smp_wait_job(i, us);
	return ok;
}
