/* SPDX-License-Identifier: MIT */
/* godwit.conf: parsing and checking. Pure; the same code runs in the firmware phase and in host tests. */
#pragma once
#include "hv/lib/err.h"

#define CONFIG_MAX_GUESTS 16
#define CONFIG_MAX_ERRORS 8
#define NAME_MAX_LEN 32
#define CONFIG_MAX_MODULES 4

struct guest_config {
	char name[NAME_MAX_LEN];
	u64 memory_bytes;         /* multiple of 2 MiB, 4 MiB..1 TiB */
	u32 vcpus;                /* 1 for now */
	char kernel[64];          /* file in \godwit\ */
	char initrd[64];          /* empty: none */
	char cmdline[512];
	char modules[CONFIG_MAX_MODULES][128]; /* "FILE ARGS", multiboot only */
	u32 n_modules;
	char os_type[16];         /* shown by status only */
	bool autostart, debug_exit, console_serial;
};

struct config {
	char host_name[NAME_MAX_LEN];
	bool dhcp;
	u32 address, netmask, gateway; /* IPv4, host byte order */
	u16 port;                      /* control and migration, default 4789 */
	u32 freeze_budget_ms;          /* default 300 */
	u32 max_rounds;                /* default 30 */
	bool verify_full;
	u64 self_migrate_exits;        /* 0: off */
	bool quit_when_idle;
	struct guest_config guests[CONFIG_MAX_GUESTS];
	u32 n_guests;
	struct error errors[CONFIG_MAX_ERRORS]; /* each names line and key; the rest of the file is used */
	u32 n_errors;
};

/* Parses text (len bytes, not NUL-terminated) into *c. Never fails: what is wrong is in c->errors
 * (a guest with an error is left out), what is missing has its default. */
void config_parse(struct config *c, const char *text, size_t len);
