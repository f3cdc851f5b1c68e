/* SPDX-License-Identifier: MIT */
/* Switching the machine off. */
#include "hv/arch/acpi.h"
#include "hv/arch/cpu.h"
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
