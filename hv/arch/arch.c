/* SPDX-License-Identifier: MIT */
/* From firmware's machine to ours, in the one order that works. */
#include "drivers/uart/uart.h"
#include "hv/arch/acpi.h"
#include "hv/arch/cpu.h"
#include "hv/arch/paging.h"
#include "hv/arch/tsc.h"
#include "hv/arch/x86.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"

#define ICR_INIT_ALL_BUT_SELF 0x000c4500 /* INIT, assert, edge, shorthand "all excluding self" */

static struct host_caps caps;

const struct host_caps *host_caps(void)
{
	return &caps;
}

static void mask_ioapic(u64 at)
{
	volatile u32 *reg = (volatile u32 *)(uintptr_t)at, *win = reg + 4;
	u32 pins;

	if (paging_map_mmio(hpa(at), PAGE_SIZE))
		return;
	*reg = 1;
	pins = (*win >> 16 & 0xff) + 1;
	for (u32 i = 0; i < pins; i++) {
		*reg = 0x10 + 2 * i;
		*win = APIC_LVT_MASKED;
	}
}

/* The hypervisor polls: no interrupt source that firmware set up may fire any more. NMIs stay. */
static void quiet_interrupts(void)
{
	const struct acpi_facts *a = acpi_facts();
	u64 apic_base = rdmsr(MSR_IA32_APIC_BASE);

	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	for (u32 i = 0; i < a->n_ioapics; i++)
		mask_ioapic(a->ioapic[i]);
	if (!(apic_base & APIC_BASE_X2APIC) && paging_map_mmio(hpa(apic_base & (BIT(52) - PAGE_SIZE)), PAGE_SIZE)) {
		log_err("cpu", "no memory to map the local APIC");
		return;
	}
	cpu_apic_init();
}

/* Parks the other CPUs in wait-for-SIPI: firmware leaves them in loops that read memory which is ours now. */
static void park_others(void)
{
	if (acpi_facts()->n_cpus < 2)
		return;
	cpu_send_ipi(0, ICR_INIT_ALL_BUT_SELF);
}

static void report(const struct boot_info *bi)
{
	struct frame_stats m = frame_stats();

	log_info("cpu", "%s, %u CPU(s)", caps.cpu_name, caps.n_cpus);
	if (caps.usable) /* what is missing otherwise is told by hv_main(), where it matters */
		log_info("cpu", "VT-x usable%s%s", caps.vpid ? ", VPID" : "", caps.tsc_scaling ? ", TSC scaling" : "");
	log_info("mm", "memory %llu MiB, free %llu MiB, hypervisor %llu KiB", (unsigned long long)m.total >> 20,
		(unsigned long long)m.free >> 20, (unsigned long long)m.hypervisor >> 10);
	for (u32 i = 0; i < bi->config.n_errors; i++)
		log_err("config", "%s", bi->config.errors[i].text);
	for (u32 i = 0; i < bi->n_files; i++)
		if (!bi->files[i].data)
			log_err("boot", "%s", bi->files[i].error);
}

static __noreturn void stop_host(void)
{
	cpu_stop_others();
	cpu_stop();
}

void arch_init(struct boot_info *bi)
{
	uart_init();
	log_sink = uart_write;
	bug_stop = stop_host;
	cpu_check(&caps);
	cpu_init_tables();
	cpu_init_state(&caps);
	paging_init(bi);
	acpi_init(bi->rsdp, bi->phys_end);
	caps.n_cpus = acpi_facts()->n_cpus;
	clock_init(tsc_calibrate(), bi->tsc_at_entry, bi->wall_seconds, bi->tsc_at_wall);
	quiet_interrupts();
	park_others();
	/* Only now: firmware's tables, and what the other CPUs were running, lay in what becomes free memory here. */
	frame_account(bi->boot_bytes);
	for (u32 i = 0; i < bi->n_free; i++)
		frame_add(hpa(bi->free[i].start), hpa(bi->free[i].end));
	log_info("boot", "Godwit, host %s, %u guest(s) configured", bi->config.host_name, bi->config.n_guests);
	report(bi);
}
