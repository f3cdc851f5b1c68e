/* SPDX-License-Identifier: MIT */
/* The few facts that are taken from ACPI tables: PM timer, power-off, interrupt controllers, CPUs. */
#pragma once
#include "hv/lib/err.h"

#define ACPI_MAX_IOAPICS 8
#define ACPI_MAX_CPUS 64

struct acpi_facts {
	u16 pm_timer_port;       /* 0: none */
	bool pm_timer_32bit;
	u16 pm1a_cnt, pm1b_cnt;  /* ports; 0: none */
	u16 smi_cmd;
	u8 acpi_enable;
	bool have_s5;
	u8 s5_typ_a, s5_typ_b;   /* SLP_TYP values of \_S5 */
	u32 n_cpus;              /* enabled local APICs in the MADT, at least 1 */
	u32 apic_id[ACPI_MAX_CPUS]; /* of the first of these */
	u32 n_ioapics;
	u32 ioapic[ACPI_MAX_IOAPICS]; /* physical addresses */
};

/* Reads the tables at rsdp (physical, 0: none), all of which must lie below mapped_end. Bad checksums and lengths make a table count as absent. */
void acpi_init(u64 rsdp, u64 mapped_end);
const struct acpi_facts *acpi_facts(void);
