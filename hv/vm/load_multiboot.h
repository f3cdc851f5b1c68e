/* SPDX-License-Identifier: MIT */
/* Multiboot 1 (GNU "Multiboot Specification version 0.6.96"): ELF32, ELF64 and a.out-kludge kernels. */
#pragma once
#include "hv/vm/vcpu_state.h"
#include "hv/vm/vm.h"

struct mb_module {
	const u8 *data;
	u64 size;         /* bytes */
	const char *text; /* handed to the kernel: "FILE ARGS" */
};

/* Whether the file's first 8 KiB hold a Multiboot 1 header with a good checksum. */
bool multiboot_probe(const u8 *kernel, u64 kernel_size);

/* Puts kernel, modules (page-aligned, behind the kernel), information structure and GDT into guest memory and sets in
 * *entry the registers with which the kernel is entered (32-bit protected mode, also for ELF64); the rest of *entry
 * stays. The kernel's command line is "FILE CMDLINE", as boot loaders give it. The files are hostile. On error *e
 * names the file and the remedy; guest memory may then be half-written. */
int multiboot_load(struct vm *vm, const u8 *kernel, u64 kernel_size, const struct mb_module *mods, unsigned n_mods,
		   const char *cmdline, struct vcpu_state *entry, struct error *e) __must_check;
