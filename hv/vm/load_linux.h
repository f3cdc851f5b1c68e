/* SPDX-License-Identifier: MIT */
/* Linux x86 64-bit boot protocol (Linux, Documentation/arch/x86/boot.rst, "64-bit BOOT PROTOCOL"). */
#pragma once
#include "hv/vm/vcpu_state.h"
#include "hv/vm/vm.h"

/* Whether the file carries a Linux boot header (of any version). */
bool linux_probe(const u8 *kernel, u64 kernel_size);

/* Puts kernel, initrd (NULL, 0: none), command line, zero page, page tables and GDT into guest memory and sets in
 * *entry the registers with which the kernel is entered; the rest of *entry stays. The files are hostile. On error
 * *e names the file (vm->config.kernel or .initrd) and the remedy; guest memory may then be half-written. */
int linux_load(struct vm *vm, const u8 *kernel, u64 kernel_size, const u8 *initrd, u64 initrd_size, const char *cmdline,
	       struct vcpu_state *entry, struct error *e) __must_check;
