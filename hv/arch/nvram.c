/* SPDX-License-Identifier: MIT */
/* UEFI, "Runtime Services": firmware is called in physical mode, which is what our identity map is to it. Its code is
 * executable (and, because its data may lie beside it, writable) only while it runs. */
#include "hv/arch/nvram.h"
#include "boot/boot_info.h"
#include "hv/arch/paging.h"
#include "hv/lib/log.h"

#include <stdio.h>

#define NON_VOLATILE_BOOT_RUNTIME 7u
#define EFI_ERROR_BIT BIT(63)
#define EFI_UNSUPPORTED 3u
#define EFI_OUT_OF_RESOURCES 9u
#define EFI_NOT_FOUND 14u

struct guid { u32 a; u16 b, c; u8 d[8]; };
typedef u64 __attribute__((ms_abi)) (*set_variable_fn)(const u16 *name, const struct guid *vendor, u32 attributes, u64 size,
						       const void *data);

static struct boot_firmware firmware;

static int map(enum paging_kind kind)
{
	int err = 0;

	for (u32 i = 0; i < firmware.n_ranges; i++) {
		const struct boot_range *r = &firmware.ranges[i];

		if (r->code)
			err = err ?: paging_protect(r->start, r->end, kind);
	}
	return err;
}

void nvram_init(const struct boot_info *bi)
{
	int err = 0;

	firmware = bi->firmware;
	for (u32 i = 0; firmware.set_variable && i < firmware.n_ranges; i++) {
		const struct boot_range *r = &firmware.ranges[i];

		if (!r->code)
			err = err ?: paging_map_mmio(hpa(r->start), r->end - r->start);
	}
	if (firmware.set_variable && (err || map(PAGING_DATA))) {
		firmware.set_variable = 0;
		snprintf(firmware.why, sizeof(firmware.why), "it cannot be mapped");
	}
	if (!firmware.set_variable)
		log_warn("nvram", "firmware keeps no records for this host (%s): guests that were defined, changed, deleted or moved away "
			 "are as godwit.conf has them after a restart. Use autostart=no for guests that move", firmware.why);
}

int nvram_write(u32 i, const void *buf, size_t len, struct error *e)
{
	static const struct guid vendor = NVRAM_GUID;
	u16 name[NVRAM_NAME_CHARS];
	u64 st;

	if (!firmware.set_variable)
		return error_set(e, E_UNSUPPORTED, "firmware keeps no records (%s)", firmware.why);
	log_guard(); /* firmware may use vector registers */
	nvram_name(i, name);
	if (map(PAGING_FIRMWARE))
		return error_set(e, E_NOMEM, "firmware cannot be mapped");
	st = ((set_variable_fn)firmware.set_variable)(name, &vendor, NON_VOLATILE_BOOT_RUNTIME, len, buf);
	BUG_ON(map(PAGING_DATA)); /* needs no memory: nvram_init() has split the pages */
	if (!(st & EFI_ERROR_BIT) || (!len && st == (EFI_ERROR_BIT | EFI_NOT_FOUND)))
		return 0;
	st &= ~EFI_ERROR_BIT;
	if (st == EFI_OUT_OF_RESOURCES)
		return error_set(e, E_RANGE, "firmware's store is full: most firmware makes room only when the machine restarts");
	return error_set(e, st == EFI_UNSUPPORTED ? E_UNSUPPORTED : E_IO, "firmware refuses to write a variable (EFI status %llu)",
			 (unsigned long long)st);
}
