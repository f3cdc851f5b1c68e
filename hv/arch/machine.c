/* SPDX-License-Identifier: MIT */
/* Switching the machine off and restarting it. */
#include "hv/arch/acpi.h"
#include "hv/arch/cpu.h"
#include "hv/arch/paging.h"
#include "hv/arch/x86.h"
#include "hv/lib/log.h"

#define PM1_SCI_EN BIT(0)
#define PM1_SLP_EN BIT(13)

/* Port reads take about a microsecond everywhere; time may have stopped, so no clock. */
static void wait_ms(u32 ms)
{
	for (u32 i = 0; i < ms * 1000; i++)
		inb(0x80);
}

void machine_poweroff(void)
{
	const struct acpi_facts *a = acpi_facts();

	log_info("cpu", "power off");
	log_flush();
	if (a->have_s5 && a->pm1a_cnt) {
		if (!(inw(a->pm1a_cnt) & PM1_SCI_EN) && a->smi_cmd && a->acpi_enable) {
			outb(a->smi_cmd, a->acpi_enable);
			for (u32 i = 0; i < 300 && !(inw(a->pm1a_cnt) & PM1_SCI_EN); i++)
				wait_ms(1);
		}
		/* ACPI "PM1 Control Registers": all but the sleep type stays as it is, SCI_EN with it. */
		outw(a->pm1a_cnt, (inw(a->pm1a_cnt) & 0x3ff) | (u16)(a->s5_typ_a & 7) << 10 | PM1_SLP_EN);
		if (a->pm1b_cnt)
			outw(a->pm1b_cnt, (u16)(a->s5_typ_b & 7) << 10 | PM1_SLP_EN);
		wait_ms(100);
	}
	/* Bochs and QEMU (-device isa-debug-exit,iobase=0xf4) without ACPI. */
	for (const char *p = "Shutdown"; *p; p++)
		outb(0x8900, *p);
	outb(0xf4, 0);
	wait_ms(10);
	log_err("cpu", "the machine does not switch off; it is safe to do so by hand");
	log_flush();
	cpu_stop();
}

void machine_reset(void)
{
	static const struct desc_ptr none;
	const struct acpi_facts *a = acpi_facts();

	log_info("cpu", "reset");
	log_flush();
	if (a->have_reset && a->reset_space == 1) {
		outb(a->reset_address, a->reset_value);
		wait_ms(50);
	} else if (a->have_reset && a->reset_space == 0 && !paging_map_mmio(hpa(a->reset_address), 1)) {
		mmio_write8((void *)(uintptr_t)a->reset_address, a->reset_value);
		wait_ms(50);
	}
	outb(0xcf9, 0x02);
	outb(0xcf9, 0x06);
	wait_ms(50);
	for (u32 i = 0; i < 100 && inb(0x64) & 2; i++)
		wait_ms(1);
	outb(0x64, 0xfe);
	wait_ms(50);
	lidt(&none); /* triple fault */
	__asm__ volatile("ud2");
	cpu_stop();
}
