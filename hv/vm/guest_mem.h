/* SPDX-License-Identifier: MIT */
/* Making and freeing a guest's memory; access to it is in vm.h. */
#pragma once
#include "hv/vm/vm.h"

/* RAM of bytes (multiple of 2 MiB) and the EPT over it: 0..3 GiB, the rest from 4 GiB; above it, and above 4 GiB, the pages of
 * RAM disks, which the guest has no mapping of. Undone whole on error. */
int guest_mem_create(struct vm *vm, u64 bytes, struct error *e) __must_check;
void guest_mem_destroy(struct vm *vm);
/* RAM is all zero, as after power-on; RAM disks keep their contents. */
void guest_mem_clear(struct vm *vm);
/* An EPT violation at a guest-physical address: whether it is RAM, which the guest can use now (SDM "EPT Violations"). */
bool guest_mem_touch(struct vm *vm, gpa_t at);
