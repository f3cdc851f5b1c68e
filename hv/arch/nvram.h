/* SPDX-License-Identifier: MIT */
/* The firmware's variables that are ours: small records, one per slot. */
#pragma once
#include "hv/lib/err.h"

struct boot_info;

/* Godwit's vendor GUID, as an initializer of EFI_GUID. */
#define NVRAM_GUID { 0x6f3b1c52, 0x8d0e, 0x4c9a, { 0x9e, 0x27, 0x51, 0xd8, 0x3a, 0xb4, 0x70, 0xc6 } }
#define NVRAM_NAME_CHARS 9

/* The name of slot i (0..99): "Record00". */
static inline void nvram_name(u32 i, u16 name[NVRAM_NAME_CHARS])
{
	for (u32 k = 0; k < NVRAM_NAME_CHARS; k++)
		name[k] = (u8)"Record00"[k];
	name[6] += (u16)(i / 10);
	name[7] += (u16)(i % 10);
}

/* Maps what firmware needs to be called. Without it, or if it fails (the log says so), nvram_write() says why not. */
void nvram_init(const struct boot_info *bi);
/* Writes slot i, or removes it (len 0). On return it is on stable storage, or as it was: -E_UNSUPPORTED (firmware does not),
 * -E_RANGE (its store is full), -E_IO. Takes milliseconds, and on some machines stops all CPUs for them. CPU 0 only. */
int nvram_write(u32 i, const void *buf, size_t len, struct error *e) __must_check;
