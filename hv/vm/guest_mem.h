/* SPDX-License-Identifier: MIT */
/* Making and freeing a guest's memory; access to it is in vm.h. */
#pragma once
#include "hv/vm/vm.h"

/* RAM of bytes (multiple of 2 MiB) and the EPT over it: 0..3 GiB, the rest from 4 GiB. Undone whole on error. */
int guest_mem_create(struct vm *vm, u64 bytes, struct error *e) __must_check;
void guest_mem_destroy(struct vm *vm);
/* All zero, as after power-on. */
void guest_mem_clear(struct vm *vm);
