/* SPDX-License-Identifier: MIT */
/* The other CPUs: one after the other, from the reset of INIT through a page below 1 MiB (ap_start.S) to entry(). */
#include "hv/arch/acpi.h"
#include "hv/arch/cpu.h"
#include "hv/arch/paging.h"
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

/* First C code on another CPU, on its own stack. */
static __noreturn void ap_entry(struct cpu *c)
{
	cpu_load(c);
	wrmsr(MSR_IA32_PAT, 0x0007040600070406ull);
	cpu_init_state(host_caps());
	cpu_apic_init();
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
	err = paging_unmap_page((uintptr_t)stacks);
	for (unsigned i = 0; i < CPU_N_IST; i++)
		err = err ?: paging_unmap_page(first_ist + i * (PAGE_SIZE + IST_STACK_SIZE));
	return err ? NULL : c;
}

static bool ap_run(struct cpu *c, u64 trampoline)
{
	struct handover *h = (struct handover *)(trampoline + 2 * PAGE_SIZE);

	*h = (struct handover){ .cr4 = (u32)(CR4_PAE | (read_cr4() & CR4_LA57)), .cr3 = (u32)(trampoline + PAGE_SIZE),
		.real_cr3 = read_cr3(), .stack = c->stack_top, .cpu = (uintptr_t)c, .entry = (uintptr_t)ap_entry };
	/* SDM "Typical AP Initialization Sequence"; a second start-up IPI to a CPU that runs is ignored. */
	cpu_send_ipi(c->apic_id, ICR_INIT);
	wait_us(10000);
	for (int i = 0; i < 2; i++) {
		cpu_send_ipi(c->apic_id, ICR_STARTUP | (u32)(trampoline >> 12));
		for (int ms = 0; ms < 50; ms++) {
			if (__atomic_load_n(&c->started, __ATOMIC_ACQUIRE))
				return true;
			wait_us(1000);
		}
	}
	cpu_send_ipi(c->apic_id, ICR_INIT); /* it must not come up late, on a stack that is somebody else's */
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
	if (!trampoline || paging_map_code(trampoline, true)) {
		log_warn("cpu", "no free memory below 1 MiB: only 1 of %u CPUs is used", a->n_cpus);
		return;
	}
	memcpy((void *)(trampoline + PAGE_SIZE), (void *)(read_cr3() & ~0xfffull), PAGE_SIZE);
	for (u32 i = 0; i < MIN(a->n_cpus, (u32)ACPI_MAX_CPUS) && n_cpus < MAX_CPUS; i++) {
		struct cpu *c;

		if (a->apic_id[i] == this_cpu()->apic_id)
			continue;
		c = ap_make(n_cpus, a->apic_id[i]);
		if (!c) {
			log_warn("cpu", "no memory for CPU %u", n_cpus);
			break;
		}
		if (ap_run(c, trampoline))
			cpus[n_cpus++] = c;
		else
			log_warn("cpu", "the CPU with APIC id %u does not start", a->apic_id[i]);
	}
	(void)!paging_map_code(trampoline, false);
	log_info("cpu", "%u of %u CPUs run", n_cpus, a->n_cpus);
}
