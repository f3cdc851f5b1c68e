/* SPDX-License-Identifier: MIT */
/* Inside boot/ only: the parts of the firmware phase. */
#pragma once
#include <efi.h>
#include "boot/boot_info.h"
#include "hv/keep.h"

/* Set by efi_main before anything else. */
extern EFI_SYSTEM_TABLE *boot_st;

/* --- console.c --- */
/* One line on the firmware's console (ConOut; firmware copies it to serial where it is so configured). */
void boot_say(const char *fmt, ...) __printf(1, 2);

/* --- firmware.c --- */
/* The firmware's table of that GUID, or NULL. */
const void *boot_table(const EFI_GUID *guid);
/* Reads the records that earlier starts of this host have left (hv/keep.h), and notes how to write new ones. */
void boot_records_load(struct boot_info *bi);

/* --- files.c --- */
/* Reads \godwit\godwit.conf, the certificates and all images that it names from the volume that image was loaded from. */
void boot_files_load(EFI_HANDLE image, struct boot_info *bi);

/* --- memory.c --- */
/* Allocates the page-table pool; after this nothing else may be allocated but the map itself. false: out of memory. */
bool boot_memory_prepare(struct boot_info *bi);
/* Takes the final memory map and leaves boot services; firmware is gone if it returns true. */
bool boot_memory_exit(EFI_HANDLE image, struct boot_info *bi);
/* Pages that stay ours for ever (EfiLoaderData). NULL if there are none. */
void *boot_pages(struct boot_info *bi, u64 bytes);
