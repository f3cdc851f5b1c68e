/* SPDX-License-Identifier: MIT */
/*
 * exits: what one VM exit of each kind costs, there and back, in TSC ticks. Prints
 * "BENCH exit.KIND.ticks=N": the best of many batches, the loop itself taken off.
 * Argument: batches=N (20).
 */
#include "guest.h"

#define BATCH 50

static u64 best_of(void (*one)(void), u64 batches)
{
	u64 best = ~0ull;

	while (batches--) {
		u64 start = rdtsc(), ticks;

		for (int i = 0; i < BATCH; i++)
			one();
		ticks = rdtsc() - start;
		if (ticks < best)
			best = ticks;
	}
	return best;
}

static void do_nothing(void) { __asm__ volatile("" : : : "memory"); }
static void do_cpuid(void) { cpuid(0, 0); }
static void do_pmtimer(void) { pm_timer_read(); }
/* The timer's current count: with virtualized APIC registers, most others do not exit. */
static void do_mmio(void) { mmio_read(APIC_MMIO + APIC_TIMER_CURRENT); }
static void do_eoi(void) { wrmsr(0x80b, 0); }
static volatile u32 taken;
/* Sent, taken, ended. */
static void do_self_ipi(void)
{
	wrmsr(0x83f, 0x50);
}

static void on_self_ipi(struct regs *r)
{
	(void)r;
	taken++;
	apic_eoi();
}

static void do_rdmsr(void) { rdmsr(MSR_APIC_BASE); }

static u64 vmcall_result;
static void do_vmcall(void)
{
	u64 rax = 0xbad0ca11;

	__asm__ volatile("vmcall" : "+a"(rax) : : "memory");
	vmcall_result = rax;
}

static void bench(const char *kind, void (*one)(void), u64 batches, u64 overhead)
{
	u64 ticks = best_of(one, batches);

	ticks = ticks > overhead ? (ticks - overhead) / BATCH : 0;
	printf("BENCH exit.%s.ticks=%lu\n", kind, ticks);
	CHECK(kind, ticks > 0, "the exit took no time");
}

int main(void)
{
	u64 batches = arg_u64("batches", 20), overhead;

	apic_enable(false);
	pm_timer_read();
	best_of(do_nothing, 2);
	overhead = best_of(do_nothing, batches);
	bench("cpuid", do_cpuid, batches, overhead);
	bench("pmtimer", do_pmtimer, batches, overhead);
	bench("mmio", do_mmio, batches, overhead);
	bench("rdmsr", do_rdmsr, batches, overhead);
	if (apic_has_x2apic()) { /* whose interrupts the CPU may deliver by itself: then these do not exit */
		apic_enable(true);
		bench("x2eoi", do_eoi, batches, overhead);
		intr_set(0x50, on_self_ipi);
		taken = 0;
		sti();
		bench("x2selfipi", do_self_ipi, batches, overhead);
		cli();
		CHECK("x2selfipi.taken", taken == BATCH * batches, "%u of %lu", taken, BATCH * batches);
	}
	if (TRY("vmcall", , ARGS("a"(0xbad0ca11ull)), "rbx") != VEC_NONE) {
		guest_skip("vmcall", "it faults: not a VT-x guest");
		return 0;
	}
	bench("vmcall", do_vmcall, batches, overhead);
	/* As KVM: an unknown hypercall returns -KVM_ENOSYS. */
	CHECK("vmcall.unknown", vmcall_result == -1000ull, "rax 0x%lx", vmcall_result);
	return 0;
}
