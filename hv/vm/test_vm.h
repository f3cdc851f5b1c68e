/* SPDX-License-Identifier: MIT */
/* For tests and fuzzers of hv/vm: a guest that is nothing but RAM and (optional) MMIO ranges. The weak functions stand
 * in for parts of the hypervisor that a fuzzer does not link. */
#pragma once
#include "boot/boot_info.h"
#include "hv/lib/log.h"
#include "hv/vm/bus.h"
#include "hv/vm/vcpu.h"
#include "hv/vmx/vmcs.h"
#include "hv/vmx/vmx.h"

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

__attribute__((weak)) bool vcpu_apic_mmio(struct vcpu *v, u64 at, unsigned size, bool write, u64 *val)
{
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

/* --- one vCPU, whose VMCS is the fake one (hv/fake) --- */
__attribute__((weak)) void vcpu_set_rsp(struct vcpu *v, u64 rsp)
{
	v->s.gpr[VCPU_RSP] = rsp;
}

__attribute__((weak)) void vcpu_set_rflags(struct vcpu *v, u64 rflags)
{
	v->s.rflags = rflags;
}

__attribute__((weak)) void vcpu_inject(struct vcpu *v, u8 vector, bool has_error, u32 error)
{
	v->s.event_info = (u32)INTR_VALID | INTR_HW_EXCEPTION << 8 | vector | (has_error ? (u32)INTR_ERROR_CODE : 0);
	v->s.event_error = error;
}

/* The APIC, where it is linked: zeroed, so its MMIO page is off. */
extern const struct vdev_type lapic_type __attribute__((weak));

/* Makes v a flat vCPU of vm in 16-, 32- or 64-bit mode, paging on with tables at cr3 (0: off), and its VMCS the current one. */
static inline void test_vcpu_init(struct vcpu *v, struct vm *vm, unsigned mode, u64 cr3)
{
	unsigned i;

	memset(v, 0, sizeof(*v));
	v->vm = vm;
	v->vmcs = aligned_alloc(4096, 4096);
	memset(v->vmcs, 0, 4096);
	if (&lapic_type)
		v->lapic = calloc(1, lapic_type.size);
	vmx_vmcs_load(v->vmcs);
	vmcs_write(VMCS_GUEST_CR0, (cr3 ? BIT(31) : 0) | BIT(16) | (mode == 16 ? 0 : 1));
	vmcs_write(VMCS_GUEST_CR3, cr3);
	vmcs_write(VMCS_GUEST_CR4, mode == 64 ? 0x20 : 0);
	vmcs_write(VMCS_GUEST_EFER, mode == 64 ? 0xd00 : 0);
	for (i = SEG_ES; i <= SEG_GS; i++) {
		vmcs_write(VMCS_GUEST_BASE(i), 0);
		vmcs_write(VMCS_GUEST_LIMIT(i), mode == 16 ? 0xffff : 0xffffffff);
		vmcs_write(VMCS_GUEST_AR(i), mode == 16 ? 0x93 : 0xc093);
	}
	vmcs_write(VMCS_GUEST_AR(SEG_CS), mode == 64 ? 0xa09b : mode == 32 ? 0xc09b : 0x9b);
	vmcs_write(VMCS_EXIT_QUALIFICATION, BIT(7) | BIT(8));
	v->s.rflags = 2;
}

static inline void test_vcpu_free(struct vcpu *v)
{
	free(v->vmcs);
	free(v->lapic);
}
