/* SPDX-License-Identifier: MIT */
#include "hv/vm/load_linux.h"
#include "hv/vm/load.h"

#include <string.h>

/* Where things go below 640 KiB. */
#define GDT_AT 0x6000ull
#define ZERO_PAGE_AT 0x7000ull
#define PAGE_TABLES_AT 0x9000ull /* PML4, PDPT, 4 page directories */
#define CMDLINE_AT 0x20000ull
#define CMDLINE_ROOM 0x10000ull

/* Offsets in the file's first sectors, which are also those in the zero page (boot.rst, "The Real-Mode Kernel Header"). */
enum {
	BP_ACPI_RSDP = 0x070, BP_E820_ENTRIES = 0x1e8, BP_E820_TABLE = 0x2d0,
	HDR_START = 0x1f1, HDR_SETUP_SECTS = 0x1f1, HDR_SYSSIZE = 0x1f4, HDR_VID_MODE = 0x1fa, HDR_BOOT_FLAG = 0x1fe,
	HDR_JUMP = 0x200, HDR_MAGIC = 0x202, HDR_VERSION = 0x206, HDR_TYPE_OF_LOADER = 0x210, HDR_LOADFLAGS = 0x211,
	HDR_CODE32_START = 0x214, HDR_RAMDISK_IMAGE = 0x218, HDR_RAMDISK_SIZE = 0x21c, HDR_CMD_LINE_PTR = 0x228,
	HDR_INITRD_ADDR_MAX = 0x22c, HDR_XLOADFLAGS = 0x236, HDR_CMDLINE_SIZE = 0x238, HDR_PREF_ADDRESS = 0x258,
	HDR_INIT_SIZE = 0x260, HDR_MIN_END = 0x264, HDR_MAX_END = 0x290,
};
#define LOADED_HIGH 0x01
#define XLF_KERNEL_64 0x01
#define ENTRY_64 0x200 /* offset of startup_64 in the protected-mode kernel */

bool linux_probe(const u8 *kernel, u64 kernel_size)
{
	return kernel_size >= HDR_VERSION + 2 && load_u16(kernel + HDR_BOOT_FLAG) == 0xaa55 &&
	       !memcmp(kernel + HDR_MAGIC, "HdrS", 4);
}

static void put32(u8 *p, u32 v)
{
	memcpy(p, &v, 4);
}

static void put64(u8 *p, u64 v)
{
	memcpy(p, &v, 8);
}

static int truncated(const char *name, u64 have, u64 want, struct error *e)
{
	return error_set(e, E_INVAL, "%s is cut short: its header says %llu bytes, the file has %llu. Copy the kernel again",
			 name, (unsigned long long)want, (unsigned long long)have);
}

/* Identity map of the first 4 GiB with 2 MiB pages. */
static int write_page_tables(struct vm *vm)
{
	u64 t[512];
	unsigned i, j;
	int err;

	memset(t, 0, sizeof(t));
	t[0] = (PAGE_TABLES_AT + PAGE_SIZE) | 3; /* present, writable */
	err = guest_write(vm, gpa(PAGE_TABLES_AT), t, sizeof(t));
	for (i = 0; i < 4; i++)
		t[i] = (PAGE_TABLES_AT + (2 + i) * PAGE_SIZE) | 3;
	err = err ?: guest_write(vm, gpa(PAGE_TABLES_AT + PAGE_SIZE), t, sizeof(t));
	for (i = 0; i < 4 && !err; i++) {
		for (j = 0; j < 512; j++)
			t[j] = (i * 512 + j) * PAGE_2M | 0x83; /* present, writable, PS */
		err = guest_write(vm, gpa(PAGE_TABLES_AT + (2 + i) * PAGE_SIZE), t, sizeof(t));
	}
	return err;
}

static int write_zero_page(struct vm *vm, const u8 *kernel, u64 load_at, u64 initrd_at, u64 initrd_size)
{
	struct mem_range map[MEM_MAP_MAX];
	u8 bp[PAGE_SIZE];
	u32 hdr_end;
	unsigned i, n;

	memset(bp, 0, sizeof(bp));
	/* The header's own length is in the jump that opens it; the kernel has more than HDR_MAX_END bytes (checked). */
	hdr_end = MIN((u32)HDR_MAGIC + kernel[HDR_JUMP + 1], (u32)HDR_MAX_END);
	hdr_end = MAX(hdr_end, (u32)HDR_MIN_END);
	memcpy(bp + HDR_START, kernel + HDR_START, hdr_end - HDR_START);
	bp[HDR_TYPE_OF_LOADER] = 0xff; /* no number of our own */
	memset(bp + HDR_VID_MODE, 0xff, 2); /* "normal" */
	put32(bp + HDR_CODE32_START, load_at);
	put32(bp + HDR_RAMDISK_IMAGE, initrd_at);
	put32(bp + HDR_RAMDISK_SIZE, initrd_size);
	put32(bp + HDR_CMD_LINE_PTR, CMDLINE_AT);
	put64(bp + BP_ACPI_RSDP, BIOS_AREA);
	n = load_mem_map(vm, map);
	bp[BP_E820_ENTRIES] = n;
	for (i = 0; i < n; i++) {
		put64(bp + BP_E820_TABLE + 20 * i, map[i].base);
		put64(bp + BP_E820_TABLE + 20 * i + 8, map[i].len);
		put32(bp + BP_E820_TABLE + 20 * i + 16, map[i].type);
	}
	return guest_write(vm, gpa(ZERO_PAGE_AT), bp, sizeof(bp));
}

int linux_load(struct vm *vm, const u8 *kernel, u64 kernel_size, const u8 *initrd, u64 initrd_size, const char *cmdline,
	       struct vcpu_state *entry, struct error *e)
{
	const char *name = vm->config.kernel, *guest = vm->config.name;
	u64 setup_size, payload, load_at, run_end, initrd_at = 0, initrd_top, need, low_end = load_low_ram_end(vm);
	size_t cmdline_len = strlen(cmdline);
	u16 version;
	int err;

	if (!linux_probe(kernel, kernel_size))
		return error_set(e, E_INVAL, "%s is not a Linux bzImage. Use the kernel package's vmlinuz", name);
	version = load_u16(kernel + HDR_VERSION);
	if (version < 0x20c)
		return error_set(e, E_UNSUPPORTED, "%s speaks boot protocol %u.%02u, 2.12 is needed. Use Linux 3.8 or newer",
				 name, version >> 8, version & 0xff);
	if (kernel_size < HDR_MAX_END)
		return truncated(name, kernel_size, HDR_MAX_END, e);
	if (!(kernel[HDR_LOADFLAGS] & LOADED_HIGH))
		return error_set(e, E_UNSUPPORTED, "%s is a zImage. Use a bzImage (make bzImage)", name);
	if (!(load_u16(kernel + HDR_XLOADFLAGS) & XLF_KERNEL_64))
		return error_set(e, E_UNSUPPORTED, "%s is a 32-bit kernel. Use a 64-bit (x86-64) one", name);

	setup_size = ((kernel[HDR_SETUP_SECTS] ?: 4) + 1) * 512ull;
	payload = load_u32(kernel + HDR_SYSSIZE) * 16ull;
	if (kernel_size < setup_size + payload)
		return truncated(name, kernel_size, setup_size + payload, e);
	if (payload <= ENTRY_64)
		return error_set(e, E_INVAL, "%s has no kernel behind its boot header. Copy the kernel again", name);

	/* init_size: what the kernel uses, from its load address, before it reads the memory map. */
	load_at = load_u64(kernel + HDR_PREF_ADDRESS);
	if (load_at < HIGH_RAM_START || load_at >= RAM_HOLE_START)
		return error_set(e, E_INVAL, "%s wants to be loaded at 0x%llx, outside 1 MiB..3 GiB. Copy the kernel again, or set "
				 "CONFIG_PHYSICAL_START in between", name, (unsigned long long)load_at);
	run_end = load_at + MAX(payload, (u64)load_u32(kernel + HDR_INIT_SIZE));
	if (initrd_size > RAM_HOLE_START)
		return error_set(e, E_RANGE, "%s is too large (%llu bytes). Use an initrd below 3 GiB", vm->config.initrd,
				 (unsigned long long)initrd_size);
	need = ALIGN_UP(run_end, PAGE_SIZE) + ALIGN_UP(initrd_size, PAGE_SIZE);
	initrd_top = MIN(RAM_HOLE_START, load_u32(kernel + HDR_INITRD_ADDR_MAX) + 1ull);
	if (run_end > RAM_HOLE_START || (initrd_size && need > initrd_top))
		return error_set(e, E_RANGE, "%s%s%s cannot fit below 0x%llx, which boot demands. Use a smaller %s", name,
				 initrd_size ? " and " : "", initrd_size ? vm->config.initrd : "",
				 (unsigned long long)(initrd_size ? initrd_top : RAM_HOLE_START), initrd_size ? "initrd" : "kernel");
	if (need > low_end)
		return error_set(e, E_RANGE, "%s%s%s %s at least %s of guest memory, %s has %s. Set memory=%s or more in [guest %s]",
				 name, initrd_size ? " and " : "", initrd_size ? vm->config.initrd : "",
				 initrd_size ? "need" : "needs", load_mem_text(need).s,
				 guest, load_mem_text(vm->ram_bytes).s, load_mem_text(need).s, guest);
	if (cmdline_len >= CMDLINE_ROOM || cmdline_len > load_u32(kernel + HDR_CMDLINE_SIZE))
		return error_set(e, E_RANGE, "the command line has %zu characters, %s takes %u. Shorten cmdline= in [guest %s]",
				 cmdline_len, name, load_u32(kernel + HDR_CMDLINE_SIZE), guest);
	if (initrd_size)
		initrd_at = ALIGN_DOWN(MIN(initrd_top, low_end) - initrd_size, PAGE_SIZE);

	err = guest_write(vm, gpa(load_at), kernel + setup_size, payload);
	if (initrd_size)
		err = err ?: guest_write(vm, gpa(initrd_at), initrd, initrd_size);
	err = err ?: guest_write(vm, gpa(CMDLINE_AT), cmdline, cmdline_len + 1);
	err = err ?: write_zero_page(vm, kernel, load_at, initrd_at, initrd_size);
	err = err ?: write_page_tables(vm);
	err = err ?: load_flat_segments(vm, entry, gpa(GDT_AT), true);
	if (err)
		return error_set(e, -err, "%s cannot be written into the memory of %s. Set a larger memory= in [guest %s]", name,
				 guest, guest);

	memset(entry->gpr, 0, sizeof(entry->gpr));
	entry->gpr[VCPU_RSI] = ZERO_PAGE_AT;
	entry->rip = load_at + ENTRY_64;
	entry->cr0 = 0x80000033; /* PG, NE, ET, MP, PE */
	entry->cr2 = 0;
	entry->cr3 = PAGE_TABLES_AT;
	entry->cr4 = 0x20;   /* PAE */
	entry->efer = 0x500; /* LMA, LME */
	return 0;
}
