/* SPDX-License-Identifier: MIT */
/* Guest images into guest memory: picks the format by content; what the formats share. */
#pragma once
#include "boot/boot_info.h"
#include "hv/vm/vcpu_state.h"
#include "hv/vm/vm.h"

/* The guest's physical memory map, as firmware would report it. */
#define LOW_RAM_END 0x9fc00ull          /* conventional memory; the EBDA would follow */
#define BIOS_AREA 0xe0000ull            /* ACPI tables, RSDP first (hv/vm/acpi) */
#define HIGH_RAM_START 0x100000ull
#define RAM_HOLE_START (3ull << 30)     /* RAM beyond this size continues at 4 GiB */
#define RAM_HOLE_END (4ull << 30)

enum { MEM_RAM = 1, MEM_RESERVED = 2 }; /* types of both e820 and the Multiboot memory map */
struct mem_range { u64 base, len; u32 type; };
#define MEM_MAP_MAX 5

/* Fills map with the guest's memory map, ascending. Returns the number of entries. */
unsigned load_mem_map(const struct vm *vm, struct mem_range map[MEM_MAP_MAX]);
/* End of the RAM that lies below RAM_HOLE_START. */
u64 load_low_ram_end(const struct vm *vm);
/* "640M": the smallest value for memory= (multiple of 2 MiB) that gives bytes of RAM below the hole; for error texts. */
struct mem_text { char s[24]; };
struct mem_text load_mem_text(u64 bytes);

/* Writes a GDT at `at` (32 bytes: null, null, code 0x10, data 0x18) and sets entry's segments, GDTR, IDTR and RFLAGS
 * to flat ring-0 ones with everything else of the CPU mode left to the caller. -E_RANGE outside RAM. */
int load_flat_segments(struct vm *vm, struct vcpu_state *entry, gpa_t at, bool long_mode) __must_check;
/* Zeroes len bytes of guest memory. -E_RANGE outside RAM. */
int load_zero(struct vm *vm, u64 at, u64 len) __must_check;

/* Little-endian loads from file bytes of any alignment. */
static inline u16 load_u16(const u8 *p) { u16 v; __builtin_memcpy(&v, p, 2); return v; }
static inline u32 load_u32(const u8 *p) { u32 v; __builtin_memcpy(&v, p, 4); return v; }
static inline u64 load_u64(const u8 *p) { u64 v; __builtin_memcpy(&v, p, 8); return v; }

/* What hv_main() was given; the lead of hv/ supplies it. */
const struct boot_info *boot_info_get(void);

/* Loads vm->config's kernel, initrd and modules from the boot files into guest memory, and sets the CPU state (of
 * *entry, which must come in as after vcpu_reset()) in which the guest starts. Errors name the file and the remedy. */
int guest_image_load(struct vm *vm, struct vcpu_state *entry, struct error *e) __must_check;
