/* SPDX-License-Identifier: MIT */
#include "boot/boot.h"

#include <string.h>

static u8 *map_buf;
static UINTN map_bytes; /* size of map_buf */

void *boot_pages(struct boot_info *bi, u64 bytes)
{
	u64 pages = (bytes + PAGE_SIZE - 1) / PAGE_SIZE;
	EFI_PHYSICAL_ADDRESS at = 0;

	if (bytes >> 52) /* a file system that is damaged may claim anything */
		return NULL;
	if (EFI_ERROR(boot_st->BootServices->AllocatePages(AllocateAnyPages, EfiLoaderData, pages, &at)))
		return NULL;
	bi->boot_bytes += pages * PAGE_SIZE;
	return (void *)(uintptr_t)at;
}

/* Types that are RAM for anybody: they decide how far the identity map must reach. */
static bool is_ram(u32 type)
{
	switch (type) {
	case EfiLoaderCode: case EfiLoaderData: case EfiBootServicesCode: case EfiBootServicesData:
	case EfiRuntimeServicesCode: case EfiRuntimeServicesData: case EfiConventionalMemory:
	case EfiACPIReclaimMemory: case EfiACPIMemoryNVS:
		return true;
	}
	return false;
}

/* Ours once boot services are gone. Loader memory holds our image, files and tables. */
static bool is_free(const EFI_MEMORY_DESCRIPTOR *d)
{
	return (d->Type == EfiConventionalMemory || d->Type == EfiBootServicesCode || d->Type == EfiBootServicesData) &&
		d->Attribute & EFI_MEMORY_WB;
}

static EFI_STATUS get_map(UINTN *key, UINTN *bytes, UINTN *desc_size)
{
	UINT32 version;

	*bytes = map_bytes;
	return boot_st->BootServices->GetMemoryMap(bytes, (EFI_MEMORY_DESCRIPTOR *)map_buf, key, desc_size, &version);
}

#define FOR_EACH_DESC(d, bytes, desc_size) \
	for (const EFI_MEMORY_DESCRIPTOR *d = (void *)map_buf; (u8 *)d + (desc_size) <= map_buf + (bytes); \
	     d = (const void *)((const u8 *)d + (desc_size)))

static u64 ram_end(UINTN bytes, UINTN desc_size)
{
	u64 end = 4ull << 30; /* firmware tables and devices below 4 GiB are always mapped */

	FOR_EACH_DESC(d, bytes, desc_size)
		if (is_ram(d->Type))
			end = MAX(end, d->PhysicalStart + d->NumberOfPages * PAGE_SIZE);
	return ALIGN_UP(end, 1ull << 30);
}

bool boot_memory_prepare(struct boot_info *bi)
{
	UINTN key, bytes = 0, desc_size = 0;
	UINT32 version;
	EFI_PHYSICAL_ADDRESS low = 0x9ffff;

	if (!EFI_ERROR(boot_st->BootServices->AllocatePages(AllocateMaxAddress, EfiLoaderData, 3, &low)) && low)
		bi->trampoline = low;

	/* Room for what the allocations below and late firmware events add. */
	boot_st->BootServices->GetMemoryMap(&bytes, NULL, &key, &desc_size, &version);
	map_bytes = bytes + 64 * MAX(desc_size, sizeof(EFI_MEMORY_DESCRIPTOR));
	map_buf = boot_pages(bi, map_bytes);
	if (!map_buf || EFI_ERROR(get_map(&key, &bytes, &desc_size)))
		return false;
	bi->phys_end = ram_end(bytes, desc_size);
	/* One page directory per GiB where the CPU has no 1 GiB pages, and some to split around image, stacks and devices. */
	bi->table_pages = (bi->phys_end >> 30) + (bi->phys_end >> 39) + 64;
	bi->table_pool = (uintptr_t)boot_pages(bi, bi->table_pages * PAGE_SIZE);
	return bi->table_pool != 0;
}

/* Adds a free range, joined with its neighbours; if there are too many, the smallest is given up. */
static void add_free(struct boot_info *bi, u64 start, u64 end)
{
	u32 small = 0;

	start = MAX(start, 1ull << 20); /* the first MiB is left to firmware leftovers and real mode */
	if (start >= end)
		return;
	for (u32 i = 0; i < bi->n_free;) {
		if (bi->free[i].start <= end && start <= bi->free[i].end) {
			start = MIN(start, bi->free[i].start);
			end = MAX(end, bi->free[i].end);
			bi->free[i] = bi->free[--bi->n_free];
			i = 0; /* the larger range may touch one seen before */
		} else {
			i++;
		}
	}
	if (bi->n_free < BOOT_MAX_RANGES) {
		bi->free[bi->n_free].start = start;
		bi->free[bi->n_free++].end = end;
		return;
	}
	for (u32 i = 1; i < bi->n_free; i++)
		if (bi->free[i].end - bi->free[i].start < bi->free[small].end - bi->free[small].start)
			small = i;
	if (end - start > bi->free[small].end - bi->free[small].start) {
		bi->free[small].start = start;
		bi->free[small].end = end;
	}
}

/* What must be mapped besides RAM, and executable, for firmware to be called. */
static void note_firmware(struct boot_info *bi, const EFI_MEMORY_DESCRIPTOR *d)
{
	u64 start = d->PhysicalStart, end = start + d->NumberOfPages * PAGE_SIZE;
	bool code = d->Type == EfiRuntimeServicesCode;
	struct boot_range *last = bi->firmware.n_ranges ? &bi->firmware.ranges[bi->firmware.n_ranges - 1] : NULL;

	if (!(d->Attribute & EFI_MEMORY_RUNTIME) || (!code && end <= bi->phys_end))
		return;
	if (last && last->end == start && last->code == code) {
		last->end = end;
	} else if (bi->firmware.n_ranges < ARRAY_SIZE(bi->firmware.ranges)) {
		bi->firmware.ranges[bi->firmware.n_ranges++] = (struct boot_range){ start, end, code };
	} else {
		bi->firmware.set_variable = 0;
		strcpy(bi->firmware.why, "its code is in too many places");
	}
}

bool boot_memory_exit(EFI_HANDLE image, struct boot_info *bi)
{
	UINTN key, bytes, desc_size;
	EFI_STATUS st = EFI_LOAD_ERROR;

	/* A timer event may change the map between the two calls (UEFI, "EFI_BOOT_SERVICES.ExitBootServices()"); after a
	 * failed try only these two may be called. */
	for (int i = 0; i < 8 && EFI_ERROR(st); i++) {
		if (EFI_ERROR(get_map(&key, &bytes, &desc_size)))
			return false;
		st = boot_st->BootServices->ExitBootServices(image, key);
	}
	if (EFI_ERROR(st))
		return false;
	bi->n_free = 0;
	FOR_EACH_DESC(d, bytes, desc_size) {
		if (is_free(d))
			add_free(bi, d->PhysicalStart, d->PhysicalStart + d->NumberOfPages * PAGE_SIZE);
		note_firmware(bi, d);
	}
	return true;
}
