/* SPDX-License-Identifier: MIT */
#include "hv/vm/load.h"
#include "hv/lib/log.h"
#include "hv/vm/load_linux.h"
#include "hv/vm/load_multiboot.h"

#include <stdio.h>
#include <string.h>

unsigned load_mem_map(const struct vm *vm, struct mem_range map[MEM_MAP_MAX])
{
	u64 low_end = load_low_ram_end(vm);
	unsigned n = 0;

	map[n++] = (struct mem_range){ 0, LOW_RAM_END, MEM_RAM };
	map[n++] = (struct mem_range){ LOW_RAM_END, 0xa0000 - LOW_RAM_END, MEM_RESERVED };
	map[n++] = (struct mem_range){ BIOS_AREA, HIGH_RAM_START - BIOS_AREA, MEM_RESERVED };
	if (low_end > HIGH_RAM_START)
		map[n++] = (struct mem_range){ HIGH_RAM_START, low_end - HIGH_RAM_START, MEM_RAM };
	if (vm->ram_bytes > RAM_HOLE_START)
		map[n++] = (struct mem_range){ RAM_HOLE_END, vm->ram_bytes - RAM_HOLE_START, MEM_RAM };
	return n;
}

u64 load_low_ram_end(const struct vm *vm)
{
	return MIN(vm->ram_bytes, RAM_HOLE_START);
}

struct mem_text load_mem_text(u64 bytes)
{
	struct mem_text t;

	log_guard(); /* a guest's SSE registers may be live */
	snprintf(t.s, sizeof(t.s), "%lluM", (unsigned long long)(ALIGN_UP(bytes, PAGE_2M) >> 20));
	return t;
}

int load_flat_segments(struct vm *vm, struct vcpu_state *entry, gpa_t at, bool long_mode)
{
	/* SDM "Segment Descriptors": base 0, limit 4 GiB, accessed, ring 0. */
	const u64 gdt[4] = { 0, 0, long_mode ? 0x00af9b000000ffff : 0x00cf9b000000ffff, 0x00cf93000000ffff };
	int i, err;

	err = guest_write(vm, at, gdt, sizeof(gdt));
	if (err)
		return err;
	for (i = SEG_ES; i <= SEG_GS; i++) {
		entry->seg_sel[i] = 0x18;
		entry->seg_base[i] = 0;
		entry->seg_limit[i] = 0xffffffff;
		entry->seg_ar[i] = 0xc093; /* VMCS form: SDM "Guest Register State" */
	}
	entry->seg_sel[SEG_CS] = 0x10;
	entry->seg_ar[SEG_CS] = long_mode ? 0xa09b : 0xc09b;
	entry->seg_sel[SEG_LDTR] = entry->seg_sel[SEG_TR] = 0;
	entry->seg_base[SEG_LDTR] = entry->seg_base[SEG_TR] = 0;
	entry->seg_limit[SEG_LDTR] = entry->seg_limit[SEG_TR] = 0xffff;
	entry->seg_ar[SEG_LDTR] = 0x10000; /* unusable */
	entry->seg_ar[SEG_TR] = 0x8b;      /* VM entry demands a busy TSS */
	entry->gdtr_base = at.v;
	entry->gdtr_limit = sizeof(gdt) - 1;
	entry->idtr_base = 0;
	entry->idtr_limit = 0; /* nothing to take a fault with: it is a triple fault, not a jump to 0 */
	entry->rflags = 2;
	return 0;
}

int load_zero(struct vm *vm, u64 at, u64 len)
{
	static const u8 zeroes[PAGE_SIZE];
	int err;

	while (len) {
		u64 n = MIN(len, PAGE_SIZE - (at & (PAGE_SIZE - 1)));

		err = guest_write(vm, gpa(at), zeroes, n);
		if (err)
			return err;
		at += n;
		len -= n;
	}
	return 0;
}

/* The boot file of that name, if it is there. key: which line of the guest's section named it. */
static const struct boot_file *file_get(const struct vm *vm, const char *name, const char *key, struct error *e)
{
	const struct boot_info *bi = boot_info_get();
	const struct boot_file *f = bi ? boot_file(bi, name) : NULL;

	if (f && f->data)
		return f;
	if (f && f->error[0])
		error_set(e, E_NOENT, "%s= of [guest %s]: %s", key, vm->config.name, f->error);
	else
		error_set(e, E_NOENT, "%s: no such file. Put it into \\godwit\\ on the EFI system partition, or correct %s= in "
			  "[guest %s]", name, key, vm->config.name);
	return NULL;
}

/* Says what the file is instead of a kernel, as far as that is easy to see. */
static int not_a_kernel(const struct vm *vm, const struct boot_file *k, struct error *e)
{
	const char *name = vm->config.kernel;

	if (k->size == 0)
		return error_set(e, E_INVAL, "%s is empty. Copy the kernel again", name);
	if (k->size >= 4 && !memcmp(k->data, "\x7f" "ELF", 4))
		return error_set(e, E_INVAL, "%s is an ELF file without a Multiboot 1 header in its first 8 KiB. For Linux use "
				 "the bzImage (vmlinuz), not vmlinux; Multiboot 2 kernels must be built for Multiboot 1", name);
	if (k->size >= 2 && k->data[0] == 0x1f && k->data[1] == 0x8b)
		return error_set(e, E_INVAL, "%s is compressed with gzip. Unpack it (gunzip) and copy it again", name);
	return error_set(e, E_INVAL, "%s is neither a Linux bzImage nor a Multiboot 1 ELF kernel. Name one of these in "
			 "kernel= of [guest %s]", name, vm->config.name);
}

int guest_image_load(struct vm *vm, struct vcpu_state *entry, struct error *e)
{
	const struct guest_config *c = &vm->config;
	struct mb_module mods[CONFIG_MAX_MODULES];
	const struct boot_file *k, *f;
	unsigned i;

	k = file_get(vm, c->kernel, "kernel", e);
	if (!k)
		return -E_NOENT;
	if (linux_probe(k->data, k->size)) {
		if (c->n_modules)
			return error_set(e, E_INVAL, "%s is a Linux kernel, which takes no modules. Use initrd= instead of "
					 "module= in [guest %s]", c->kernel, c->name);
		f = NULL;
		if (c->initrd[0]) {
			f = file_get(vm, c->initrd, "initrd", e);
			if (!f)
				return -E_NOENT;
		}
		return linux_load(vm, k->data, k->size, f ? f->data : NULL, f ? f->size : 0, c->cmdline, entry, e);
	}
	if (!multiboot_probe(k->data, k->size))
		return not_a_kernel(vm, k, e);
	if (c->initrd[0])
		return error_set(e, E_INVAL, "%s is a Multiboot kernel, which takes no initrd. Use module= instead of initrd= "
				 "in [guest %s]", c->kernel, c->name);
	for (i = 0; i < c->n_modules && i < CONFIG_MAX_MODULES; i++) {
		char name[sizeof(c->modules[0])];
		size_t n = strcspn(c->modules[i], " \t");

		memcpy(name, c->modules[i], n);
		name[n] = 0;
		f = file_get(vm, name, "module", e);
		if (!f)
			return -E_NOENT;
		mods[i] = (struct mb_module){ f->data, f->size, c->modules[i] };
	}
	return multiboot_load(vm, k->data, k->size, mods, i, c->cmdline, entry, e);
}
