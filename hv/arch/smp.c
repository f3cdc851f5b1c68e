/* SPDX-License-Identifier: MIT */
/* The other CPUs: one after the other, from the reset of INIT through a page below 1 MiB (ap_start.S) to entry(). */
#include "hv/arch/acpi.h"
#include "hv/arch/cpu.h"
#include "hv/arch/paging.h"
#include "hv/arch/tsc.h"
#include "hv/arch/x86.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"

#include <string.h>

/* The trampoline's pages: ap_start.S; a copy of the top-level page table, because CR3 takes only 32 bits before long mode;
 * this (offsets as in ap_start.S). */
struct handover {
	u32 cr4, cr3;
	u64 real_cr3, stack, cpu, entry;
};

extern const u8 ap_start[], ap_start_end[];
static void (*cpu_entry)(void);

static void wait_us(u64 us)
{
	u64 until = host_tsc() + muldiv64(us, host_tsc_hz(), 1000000);

	while (host_tsc() < until)
		cpu_pause();
}

/* --- Is its TSC ours? Guests' clocks are one for all CPUs. --- */

#define TSC_EXCHANGES 1000

/* What the boot CPU asks one that starts: `asked` grows by one with each question, `answered` follows. */
enum question { ASK_TSC, ASK_ADJUST, ASK_SET_ADJUST, ASK_GO };
static struct { bool here; u32 asked, answered; enum question what; u64 value; } talk;

static void talk_answer(void)
{
	u32 seen = 0;

	__atomic_store_n(&talk.here, true, __ATOMIC_RELEASE);
	for (;;) {
		while (__atomic_load_n(&talk.asked, __ATOMIC_ACQUIRE) == seen)
			cpu_pause();
		seen++;
		switch (talk.what) {
		case ASK_TSC: talk.value = rdtsc_ordered(); break;
		case ASK_ADJUST: talk.value = rdmsr(MSR_IA32_TSC_ADJUST); break;
		case ASK_SET_ADJUST: wrmsr(MSR_IA32_TSC_ADJUST, talk.value); break;
		case ASK_GO: return;
		}
		__atomic_store_n(&talk.answered, seen, __ATOMIC_RELEASE);
	}
}

static u64 talk_ask(enum question what, u64 value)
{
	talk.what = what;
	talk.value = value;
	__atomic_store_n(&talk.asked, talk.asked + 1, __ATOMIC_RELEASE);
	while (what != ASK_GO && __atomic_load_n(&talk.answered, __ATOMIC_ACQUIRE) != talk.asked)
		cpu_pause();
	return talk.value;
}

static struct tsc_gap tsc_measure(void)
{
	struct tsc_gap g = TSC_GAP_UNKNOWN;

	for (u32 i = 0; i < TSC_EXCHANGES; i++) {
		u64 sent = rdtsc_ordered(), there = talk_ask(ASK_TSC, 0);

		tsc_gap_narrow(&g, sent, there, rdtsc_ordered());
	}
	return g;
}

/* Makes it so, if firmware has only set them differently. */
static bool tsc_same(struct cpu *c)
{
	struct tsc_gap g = tsc_measure();
	u64 ours, theirs;

	if (!tsc_gap_none(&g) && cpuid(0, 0).eax >= 7 && cpuid(7, 0).ebx & BIT(1)) {
		ours = rdmsr(MSR_IA32_TSC_ADJUST);
		theirs = talk_ask(ASK_ADJUST, 0);
		if (tsc_gap_adjusts(&g, ours, theirs)) {
			talk_ask(ASK_SET_ADJUST, ours);
			log_info("cpu", "CPU %u: firmware had set its TSC %lld ticks off; set right", c->id, (long long)(theirs - ours));
			g = tsc_measure();
		}
	}
	if (tsc_gap_none(&g))
		return true;
	log_warn("cpu", "the CPU with APIC id %u is not used: its TSC is %lld ticks %s the boot CPU's. Switch the power off and on;"
		 " if it stays so, update the firmware", c->apic_id, (long long)(g.least > 0 ? g.least : -g.most),
		 g.least > 0 ? "ahead of" : "behind");
	return false;
}

/* First C code on another CPU, on its own stack. */
static __noreturn void ap_entry(struct cpu *c)
{
	cpu_load(c);
	wrmsr(MSR_IA32_PAT, PAT_RESET);
	cpu_init_state(host_caps());
	cpu_apic_init();
	talk_answer();
	cpu_entry();
	cpu_stop();
}

static struct cpu *ap_make(u32 id, u32 apic_id)
{
	struct cpu *c = frame_alloc_n((sizeof(*c) + PAGE_SIZE - 1) / PAGE_SIZE);
	u8 *stacks = frame_alloc_n(AP_STACKS_BYTES / PAGE_SIZE);
	u64 low = (uintptr_t)stacks + PAGE_SIZE, first_ist = low + AP_STACK_SIZE;
	int err;

	if (!c || !stacks)
		return NULL;
	cpu_make(c, id, low, first_ist, first_ist);
	c->apic_id = apic_id;
	/* Guard pages: below the main stack and below each exception stack. */
	err = paging_protect((uintptr_t)stacks, low, PAGING_NONE);
	for (u64 at = first_ist; at < (uintptr_t)stacks + AP_STACKS_BYTES; at += PAGE_SIZE + IST_STACK_SIZE)
		err = err ?: paging_protect(at, at + PAGE_SIZE, PAGING_NONE);
	return err ? NULL : c;
}

/* Waits up to 50 ms. */
static bool ap_says(const bool *flag)
{
	for (int ms = 0; ms < 50; ms++) {
		if (__atomic_load_n(flag, __ATOMIC_ACQUIRE))
			return true;
		wait_us(1000);
	}
	return false;
}

static bool ap_run(struct cpu *c, u64 trampoline)
{
	struct handover *h = (struct handover *)(trampoline + 2 * PAGE_SIZE);
	bool same = true;

	*h = (struct handover){ .cr4 = (u32)(CR4_PAE | (read_cr4() & CR4_LA57)), .cr3 = (u32)(trampoline + PAGE_SIZE),
		.real_cr3 = read_cr3(), .stack = c->stack_top, .cpu = (uintptr_t)c, .entry = (uintptr_t)ap_entry };
	talk.asked = talk.answered = talk.here = 0;
	/* SDM "Typical AP Initialization Sequence"; a second start-up IPI to a CPU that runs is ignored. */
	cpu_send_ipi(c->apic_id, ICR_INIT);
	wait_us(10000);
	for (int i = 0; i < 2 && !talk.here; i++) {
		cpu_send_ipi(c->apic_id, ICR_STARTUP | (u32)(trampoline >> 12));
		if (!ap_says(&talk.here))
			continue;
		same = tsc_same(c);
		if (!same)
			break;
		talk_ask(ASK_GO, 0);
		if (ap_says(&c->started))
			return true;
	}
	cpu_send_ipi(c->apic_id, ICR_INIT); /* it must not come up late, on a stack that is somebody else's */
	if (same)
		log_warn("cpu", "the CPU with APIC id %u does not start", c->apic_id);
	return false;
}

void smp_start(u64 trampoline, void (*entry)(void))
{
	const struct acpi_facts *a = acpi_facts();

	cpu_entry = entry;
	if (a->n_cpus < 2)
		return;
	if (trampoline)
		memcpy((void *)trampoline, ap_start, ap_start_end - ap_start);
	if (!trampoline || paging_protect(trampoline, trampoline + PAGE_SIZE, PAGING_CODE)) {
		log_warn("cpu", "no free memory below 1 MiB: only 1 of %u CPUs is used", a->n_cpus);
		return;
	}
	memcpy((void *)(trampoline + PAGE_SIZE), (void *)(read_cr3() & ~0xfffull), PAGE_SIZE);
	for (u32 i = 0; i < MIN(a->n_cpus, (u32)ACPI_MAX_CPUS) && n_cpus < MAX_CPUS; i++) {
		struct cpu *c;

		if (a->apic_id[i] == this_cpu()->apic_id)
			continue;
		if (a->apic_id[i] > 254 && !(rdmsr(MSR_IA32_APIC_BASE) & APIC_BASE_X2APIC)) {
			/* Its IPIs would go to the CPU with the same lower 8 bits, which may be this one. */
			log_warn("cpu", "the CPU with APIC id %u is not used: firmware has left the APICs in xAPIC mode. Enable x2APIC in"
				 " firmware set-up", a->apic_id[i]);
			continue;
		}
		c = ap_make(n_cpus, a->apic_id[i]);
		if (!c) {
			log_warn("cpu", "no memory for CPU %u", n_cpus);
			break;
		}
		if (ap_run(c, trampoline))
			cpus[n_cpus++] = c;
	}
	(void)!paging_protect(trampoline, trampoline + PAGE_SIZE, PAGING_DATA);
	log_info("cpu", "%u of %u CPUs run", n_cpus, a->n_cpus);
}
