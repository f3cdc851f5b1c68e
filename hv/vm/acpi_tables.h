/* SPDX-License-Identifier: MIT */
/* The guest's ACPI tables: the board's fixed hardware, interrupt wiring and legacy devices. */
#pragma once
#include "hv/vm/vm.h"

#define ACPI_TABLES_BASE 0xe0000ull /* the RSDP; the rest follows */
#define ACPI_TABLES_END 0xe4000ull

/* Writes RSDP, RSDT, XSDT, FADT, FACS, MADT and DSDT to [ACPI_TABLES_BASE, ACPI_TABLES_END), which must be RAM.
 * Called before the kernel is loaded. -E_RANGE with *e set: the guest has no memory there. */
int acpi_tables_write(struct vm *vm, struct error *e) __must_check;
