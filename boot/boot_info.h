/* SPDX-License-Identifier: MIT */
/* What the firmware phase hands to the hypervisor. The only interface between boot/ and the rest. */
#pragma once
#include "hv/config.h"

#define BOOT_MAX_FILES (3 + CONFIG_MAX_GUESTS * (2 + CONFIG_MAX_MODULES + CONFIG_MAX_DISKS)) /* all that a config can name */
#define BOOT_MAX_RANGES 128

struct boot_file {
	char name[64];      /* as the config names it, relative to \godwit\ */
	const u8 *data;     /* NULL: missing; stays valid for ever */
	u64 size;           /* bytes */
	char error[200];    /* why it is missing, for people; empty if it is there */
};

/* What firmware still does for us when boot services are gone, called at its physical address. */
struct boot_firmware {
	u64 set_variable;        /* EFI_SET_VARIABLE; 0: none, why[] says why */
	struct boot_range { u64 start, end; bool code; } ranges[32]; /* its code, and its devices above phys_end; page-aligned */
	u32 n_ranges;
	char why[120];
};

struct boot_info {
	struct { u64 start, end; } free[BOOT_MAX_RANGES]; /* usable after ExitBootServices; page-aligned */
	u32 n_free;
	u64 phys_end;            /* end of the highest RAM or MMIO that must be mapped */
	u64 table_pool, table_pages; /* 4 KiB pages for paging_init(): firmware's own tables lie in free memory */
	u64 trampoline;          /* 3 pages below 1 MiB for starting other CPUs; 0: there were none */
	u64 boot_bytes;          /* memory held by the image, its tables and the files */
	struct boot_firmware firmware;
	u64 rsdp;                /* ACPI 2.0 RSDP physical address, 0 if none */
	u64 wall_seconds;        /* firmware clock, UTC, seconds since 1970 at tsc_at_wall */
	u64 tsc_at_wall, tsc_at_entry;
	struct config config;
	bool config_missing;
	struct boot_file files[BOOT_MAX_FILES]; /* ca.crt host.crt host.key and guest images */
	u32 n_files;
};

/* The file of that name, or NULL if the firmware phase did not look for it. */
const struct boot_file *boot_file(const struct boot_info *bi, const char *name);

/* Entered by boot/ on its own stack with interrupts off, after ExitBootServices. Does not return. */
__noreturn void hv_main(struct boot_info *bi);
