/* SPDX-License-Identifier: MIT */
#include "hv/vm/load_multiboot.h"
#include "hv/vm/load.h"

#include <elf.h>
#include <string.h>

#define HEADER_MAGIC 0x1badb002u
#define LOADER_MAGIC 0x2badb002u
#define HEADER_SEARCH 8192ull
#define HEADER_BYTES 12u
#define FLAGS_KNOWN 0x7u      /* page-aligned modules, memory information, video mode (which we have none of) */
#define FLAGS_REQUIRED 0xffffu
#define FLAG_AOUT BIT(16)

/* Everything of ours lies in one block at the top of conventional memory; kernels may not. */
#define OURS_AT 0x90000ull
#define GDT_AT OURS_AT
#define INFO_AT (OURS_AT + 0x40)
#define MMAP_AT (OURS_AT + 0xc0)
#define MODS_AT (OURS_AT + 0x180)
#define TEXT_AT (OURS_AT + 0x200)
#define OURS_END (OURS_AT + 0x2000)

/* "Boot information format" */
struct mb_info {
	u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
	u32 drives_length, drives_addr, config_table, boot_loader_name, apm_table;
};
enum { INFO_MEMORY = 1, INFO_CMDLINE = 4, INFO_MODS = 8, INFO_MMAP = 0x40, INFO_LOADER_NAME = 0x200 };
struct mb_mmap { u32 size; u64 base, len; u32 type; } __packed;
struct mb_mod { u32 start, end, text, zero; };

struct image { /* of the kernel, while it is loaded */
	struct vm *vm;
	const u8 *data;
	u64 size;
	struct error *e;
	u64 end;   /* end of what is loaded so far */
	u64 entry;
};

/* Offset of the header, or -1. */
static s64 header_find(const u8 *k, u64 size)
{
	u64 at;

	for (at = 0; at + HEADER_BYTES <= MIN(size, HEADER_SEARCH); at += 4)
		if (load_u32(k + at) == HEADER_MAGIC && load_u32(k + at) + load_u32(k + at + 4) + load_u32(k + at + 8) == 0)
			return at;
	return -1;
}

bool multiboot_probe(const u8 *kernel, u64 kernel_size)
{
	return header_find(kernel, kernel_size) >= 0;
}

static int malformed(struct image *m, const char *what)
{
	return error_set(m->e, E_INVAL, "%s is not a valid kernel file: %s. Build or copy it again", m->vm->config.kernel, what);
}

static bool overlaps(u64 a, u64 a_end, u64 b, u64 b_end)
{
	return a < b_end && b < a_end;
}

/* Loads file bytes [off, off + file_len) to `to` and zeroes up to mem_len. All values are the file's: hostile. */
static int put_segment(struct image *m, u64 to, u64 off, u64 file_len, u64 mem_len)
{
	const char *name = m->vm->config.kernel, *guest = m->vm->config.name;
	u64 low_end = load_low_ram_end(m->vm);

	if (file_len > mem_len)
		return malformed(m, "a segment is larger in the file than in memory");
	if (off > m->size || file_len > m->size - off)
		return malformed(m, "it is cut short (a segment ends behind the end of the file)");
	if (mem_len == 0)
		return 0;
	if (to >= RAM_HOLE_START || mem_len > RAM_HOLE_START - to)
		return malformed(m, "a segment lies beyond 3 GiB");
	if (to + mem_len > low_end)
		return error_set(m->e, E_RANGE, "%s needs at least %s of guest memory, %s has %s. Set memory=%s or more in [guest %s]",
				 name, load_mem_text(to + mem_len).s, guest, load_mem_text(m->vm->ram_bytes).s,
				 load_mem_text(to + mem_len).s, guest);
	if (overlaps(to, to + mem_len, OURS_AT, OURS_END) || overlaps(to, to + mem_len, LOW_RAM_END, HIGH_RAM_START))
		return error_set(m->e, E_RANGE, "%s has a segment at 0x%llx-0x%llx, which overlaps the boot information (0x%llx-0x%llx) or "
				 "the BIOS area (0x%llx-0x%llx). Link the kernel elsewhere, for example at 1 MiB", name,
				 (unsigned long long)to, (unsigned long long)(to + mem_len), OURS_AT, OURS_END, LOW_RAM_END,
				 HIGH_RAM_START);
	m->end = MAX(m->end, to + mem_len);
	if (guest_write(m->vm, gpa(to), m->data + off, file_len) || load_zero(m->vm, to + file_len, mem_len - file_len))
		return error_set(m->e, E_RANGE, "%s cannot be written into the memory of %s", name, guest);
	return 0;
}

/* "The address fields of Multiboot header": used instead of the ELF headers if flag 16 says so. */
static int put_aout(struct image *m, u64 at)
{
	u32 header_addr, load_addr, load_end, bss_end, header_off = at;
	const u8 *h = m->data + at;

	if (at + 32 > m->size)
		return malformed(m, "its Multiboot header is cut short");
	header_addr = load_u32(h + 12);
	load_addr = load_u32(h + 16);
	load_end = load_u32(h + 20);
	bss_end = load_u32(h + 24);
	m->entry = load_u32(h + 28);
	if (load_addr > header_addr || header_addr - load_addr > header_off)
		return malformed(m, "the load address in its Multiboot header is not in the file");
	header_off -= header_addr - load_addr;
	if (load_end == 0) { /* all of the file */
		if (m->size - header_off > RAM_HOLE_START - MIN((u64)load_addr, RAM_HOLE_START))
			return malformed(m, "it ends beyond 3 GiB");
		load_end = load_addr + (m->size - header_off);
	}
	if (bss_end == 0)
		bss_end = load_end;
	if (load_end < load_addr || bss_end < load_end)
		return malformed(m, "the addresses in its Multiboot header are out of order");
	if (m->entry < load_addr || m->entry >= bss_end)
		return malformed(m, "its entry point is outside of what is loaded");
	return put_segment(m, load_addr, header_off, load_end - load_addr, bss_end - load_addr);
}

static int put_elf(struct image *m)
{
	const u8 *k = m->data;
	u64 phoff, phentsize, entry, i, n, want;
	bool is64, entry_ok = false;

	if (m->size < sizeof(Elf32_Ehdr) || memcmp(k, ELFMAG, SELFMAG))
		return malformed(m, "it has a Multiboot header without load addresses and is not an ELF file");
	is64 = k[EI_CLASS] == ELFCLASS64;
	if ((!is64 && k[EI_CLASS] != ELFCLASS32) || k[EI_DATA] != ELFDATA2LSB)
		return malformed(m, "it is not a 32- or 64-bit little-endian ELF file");
	if (is64) {
		Elf64_Ehdr h;

		if (m->size < sizeof(h))
			return malformed(m, "its ELF header is cut short");
		memcpy(&h, k, sizeof(h));
		if (h.e_machine != EM_X86_64 && h.e_machine != EM_386)
			return malformed(m, "it is not for x86");
		phoff = h.e_phoff, phentsize = h.e_phentsize, n = h.e_phnum, entry = h.e_entry;
		want = sizeof(Elf64_Phdr);
	} else {
		Elf32_Ehdr h;

		memcpy(&h, k, sizeof(h));
		if (h.e_machine != EM_386 && h.e_machine != EM_X86_64)
			return malformed(m, "it is not for x86");
		phoff = h.e_phoff, phentsize = h.e_phentsize, n = h.e_phnum, entry = h.e_entry;
		want = sizeof(Elf32_Phdr);
	}
	if (phentsize < want || n == 0 || phoff > m->size || n * phentsize > m->size - phoff)
		return malformed(m, "its ELF program headers are missing or outside of the file");
	m->entry = entry;
	for (i = 0; i < n; i++) {
		const u8 *at = k + phoff + i * phentsize;
		Elf64_Phdr p;
		int err;

		if (is64) {
			memcpy(&p, at, sizeof(p));
		} else {
			Elf32_Phdr q;

			memcpy(&q, at, sizeof(q));
			p = (Elf64_Phdr){ .p_type = q.p_type, .p_offset = q.p_offset, .p_vaddr = q.p_vaddr, .p_paddr = q.p_paddr,
					  .p_filesz = q.p_filesz, .p_memsz = q.p_memsz };
		}
		if (p.p_type != PT_LOAD)
			continue;
		err = put_segment(m, p.p_paddr, p.p_offset, p.p_filesz, p.p_memsz);
		if (err)
			return err;
		/* Kernels linked high give e_entry as virtual address, those linked low as what both are. */
		if (!entry_ok && entry >= p.p_vaddr && entry - p.p_vaddr < p.p_memsz) {
			entry_ok = true;
			m->entry = entry - p.p_vaddr + p.p_paddr;
		} else if (!entry_ok && entry >= p.p_paddr && entry - p.p_paddr < p.p_memsz) {
			entry_ok = true;
		}
	}
	if (!entry_ok)
		return malformed(m, "its entry point is outside of what is loaded");
	return 0;
}

/* Copies parts, with a space in between if both are there, to the text area at *at, which it moves on. */
static int put_text(struct image *m, u64 *at, const char *a, const char *b, u32 *where)
{
	size_t na = strlen(a), nb = strlen(b);
	int err;

	if (na > OURS_END - *at || nb > OURS_END - *at || na + nb + 2 > OURS_END - *at)
		return error_set(m->e, E_RANGE, "the command lines of %s and its modules are longer than %u bytes in all. Shorten them",
				 m->vm->config.kernel, (u32)(OURS_END - TEXT_AT));
	*where = *at;
	err = guest_write(m->vm, gpa(*at), a, na);
	*at += na;
	if (nb) {
		err = err ?: guest_write(m->vm, gpa(*at), " ", 1);
		err = err ?: guest_write(m->vm, gpa(*at + 1), b, nb);
		*at += 1 + nb;
	}
	err = err ?: guest_write(m->vm, gpa(*at), "", 1);
	*at += 1;
	if (err)
		return error_set(m->e, -err, "the boot information of %s cannot be written", m->vm->config.kernel);
	return 0;
}

static int put_modules(struct image *m, const struct mb_module *mods, unsigned n, u64 *text)
{
	const char *guest = m->vm->config.name;
	u64 at = ALIGN_UP(MAX(m->end, HIGH_RAM_START), PAGE_SIZE), low_end = load_low_ram_end(m->vm);
	struct mb_mod mod = { 0 };
	unsigned i;
	int err;

	for (i = 0; i < n; i++) {
		if (mods[i].size > RAM_HOLE_START || at + mods[i].size > low_end)
			return error_set(m->e, E_RANGE, "module %s does not fit: %s needs at least %s of guest memory. Set memory= in "
					 "[guest %s] accordingly (less than 3G)", mods[i].text, guest,
					 load_mem_text(at + MIN(mods[i].size, RAM_HOLE_START)).s, guest);
		mod.start = at;
		mod.end = at + mods[i].size;
		err = put_text(m, text, mods[i].text, "", &mod.text);
		if (err)
			return err;
		if (guest_write(m->vm, gpa(at), mods[i].data, mods[i].size) ||
		    guest_write(m->vm, gpa(MODS_AT + i * sizeof(mod)), &mod, sizeof(mod)))
			return error_set(m->e, E_RANGE, "module %s cannot be written into the memory of %s", mods[i].text, guest);
		at = ALIGN_UP(at + mods[i].size, PAGE_SIZE);
	}
	return 0;
}

static int put_info(struct image *m, const struct mb_module *mods, unsigned n_mods, const char *cmdline)
{
	struct mem_range map[MEM_MAP_MAX];
	struct mb_mmap mm[MEM_MAP_MAX];
	struct mb_info info = {
		.flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER_NAME,
		.mem_lower = LOW_RAM_END / 1024, .mem_upper = (load_low_ram_end(m->vm) - HIGH_RAM_START) / 1024,
		.mods_count = n_mods, .mods_addr = MODS_AT, .mmap_addr = MMAP_AT,
	};
	u64 text = TEXT_AT;
	unsigned i, n;
	int err;

	_Static_assert(INFO_AT + sizeof(info) <= MMAP_AT && MMAP_AT + sizeof(mm) <= MODS_AT &&
		       MODS_AT + CONFIG_MAX_MODULES * sizeof(struct mb_mod) <= TEXT_AT, "our block is laid out without overlaps");
	n = load_mem_map(m->vm, map);
	for (i = 0; i < n; i++)
		mm[i] = (struct mb_mmap){ sizeof(mm[i]) - 4, map[i].base, map[i].len, map[i].type };
	info.mmap_length = n * sizeof(mm[0]);
	err = put_text(m, &text, m->vm->config.kernel, cmdline, &info.cmdline);
	err = err ?: put_text(m, &text, "Godwit", "", &info.boot_loader_name);
	err = err ?: put_modules(m, mods, n_mods, &text);
	if (err)
		return err;
	if (guest_write(m->vm, gpa(MMAP_AT), mm, info.mmap_length) || guest_write(m->vm, gpa(INFO_AT), &info, sizeof(info)))
		return error_set(m->e, E_RANGE, "the boot information of %s cannot be written", m->vm->config.kernel);
	return 0;
}

int multiboot_load(struct vm *vm, const u8 *kernel, u64 kernel_size, const struct mb_module *mods, unsigned n_mods,
		   const char *cmdline, struct vcpu_state *entry, struct error *e)
{
	struct image m = { .vm = vm, .data = kernel, .size = kernel_size, .e = e };
	s64 at = header_find(kernel, kernel_size);
	u32 flags;
	int err;

	if (at < 0)
		return malformed(&m, "it has no Multiboot 1 header in its first 8 KiB");
	if (n_mods > CONFIG_MAX_MODULES)
		return error_set(e, E_RANGE, "%s has more than %d modules", vm->config.name, CONFIG_MAX_MODULES);
	flags = load_u32(kernel + at + 4);
	if (flags & FLAGS_REQUIRED & ~FLAGS_KNOWN)
		return error_set(e, E_UNSUPPORTED, "%s demands boot loader features that there are not (Multiboot flags 0x%x). Clear "
				 "bits 3-15 of its header's flags", vm->config.kernel, flags);
	err = flags & FLAG_AOUT ? put_aout(&m, at) : put_elf(&m);
	err = err ?: put_info(&m, mods, n_mods, cmdline);
	if (err)
		return err;
	if (load_flat_segments(vm, entry, gpa(GDT_AT), false))
		return error_set(e, E_RANGE, "the GDT of %s cannot be written", vm->config.name);

	/* "Machine state" */
	memset(entry->gpr, 0, sizeof(entry->gpr));
	entry->gpr[VCPU_RAX] = LOADER_MAGIC;
	entry->gpr[VCPU_RBX] = INFO_AT;
	entry->rip = m.entry;
	entry->cr0 = 0x31; /* NE, ET, PE */
	entry->cr2 = entry->cr3 = entry->cr4 = entry->efer = 0;
	return 0;
}
