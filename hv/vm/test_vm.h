/* SPDX-License-Identifier: MIT */
/* For tests and fuzzers of hv/vm: a guest that is nothing but RAM and (optional) MMIO ranges. The weak functions stand
 * in for parts of the hypervisor that a fuzzer does not link. */
#pragma once
#include "boot/boot_info.h"
#include "hv/lib/log.h"
#include "hv/vm/bus.h"
#include "hv/vm/vm.h"

#include <stdlib.h>
#include <string.h>

struct test_vm {
	struct vm vm;
	hpa_t frames[2048 + 512]; /* up to 5 GiB with the hole */
};

/* A guest with that much zeroed RAM (multiple of 2 MiB, at most 3 GiB). Freed with test_vm_free(). */
static inline struct test_vm *test_vm_make(u64 bytes)
{
	struct test_vm *t = calloc(1, sizeof(*t));
	u64 i;

	strcpy(t->vm.config.name, "g1");
	strcpy(t->vm.config.kernel, "vmlinuz");
	strcpy(t->vm.config.initrd, "initrd.gz");
	t->vm.ram_bytes = bytes;
	t->vm.ram_2m = t->frames;
	t->vm.ram_2m_count = bytes / PAGE_2M;
	for (i = 0; i < t->vm.ram_2m_count; i++) {
		t->frames[i] = ptr_hpa(aligned_alloc(PAGE_2M, PAGE_2M));
		memset(hpa_ptr(t->frames[i]), 0, PAGE_2M);
	}
	return t;
}

static inline void test_vm_free(struct test_vm *t)
{
	u64 i;

	for (i = 0; i < t->vm.ram_2m_count; i++)
		free(hpa_ptr(t->frames[i]));
	free(t);
}

static inline int test_vm_copy(struct vm *vm, u64 at, u8 *buf, size_t len, bool write)
{
	while (len) {
		size_t n = MIN(len, PAGE_2M - (at & (PAGE_2M - 1)));
		u8 *p;

		if (at >> 21 >= vm->ram_2m_count || !vm->ram_2m[at >> 21].v)
			return -E_RANGE;
		p = (u8 *)hpa_ptr(vm->ram_2m[at >> 21]) + (at & (PAGE_2M - 1));
		memcpy(write ? p : buf, write ? buf : p, n);
		at += n, buf += n, len -= n;
	}
	return 0;
}

__attribute__((weak)) int guest_read(struct vm *vm, gpa_t at, void *buf, size_t len)
{
	return test_vm_copy(vm, at.v, buf, len, false);
}

__attribute__((weak)) int guest_write(struct vm *vm, gpa_t at, const void *buf, size_t len)
{
	return test_vm_copy(vm, at.v, (u8 *)buf, len, true);
}

__attribute__((weak)) const void *guest_page(const struct vm *vm, u64 gfn)
{
	if (gfn >> 9 >= vm->ram_2m_count || !vm->ram_2m[gfn >> 9].v)
		return NULL;
	return (u8 *)hpa_ptr(vm->ram_2m[gfn >> 9]) + (gfn & 511) * PAGE_SIZE;
}

__attribute__((weak)) bool bus_mmio(struct vm *vm, u64 at, unsigned size, bool write, u64 *val)
{
	unsigned i;

	if (!write)
		*val = ~0ull;
	for (i = 0; i < vm->n_mmio; i++) {
		const struct bus_range *r = &vm->mmio[i];

		if (at >= r->base && at + size <= r->base + r->len) {
			r->fn(r->dev, at, size, write, val);
			return true;
		}
	}
	return false;
}

__attribute__((weak)) void log_guard(void)
{
}

static struct boot_info test_boot_info;

__attribute__((weak)) const struct boot_info *boot_info_get(void)
{
	return &test_boot_info;
}

__attribute__((weak)) const struct boot_file *boot_file(const struct boot_info *bi, const char *name)
{
	u32 i;

	for (i = 0; i < bi->n_files; i++)
		if (!strcmp(bi->files[i].name, name))
			return &bi->files[i];
	return NULL;
}
