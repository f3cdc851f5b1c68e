/* SPDX-License-Identifier: MIT */
/* A guest's device and vCPU state as tagged records (docs/PROTOCOL.md, "State stream"). */
#pragma once
#include "hv/vm/vm.h"

#define STATE_FORMAT 1u
#define STATE_MAX_BYTES (256u << 10)  /* of a whole stream */
#define STATE_PAGES (STATE_MAX_BYTES / PAGE_SIZE)
#define STATE_MAX_INSTANCES 64u

/* Writes every instance of vm into buf. vm_state_sync() comes first; nothing of the guest is changed.
 * Returns 0 and *len, or -E_RANGE with *e when buf is too small. */
int state_save(struct vm *vm, void *buf, size_t cap, size_t *len, struct error *e) __must_check;
/* Loads a stream into vm's instances (fresh ones, in reset state), runs every post_load. vm_state_loaded() comes after.
 * On error (-E_PROTO malformed, -E_UNSUPPORTED version, -E_INVAL value) *e names section and field, and the guest is
 * half loaded: the caller throws it away. */
int state_load(struct vm *vm, const void *buf, size_t len, struct error *e) __must_check;
/* Where byte offset `at` of what state_save() writes lies: "section.instance.field" into out. */
void state_locate(struct vm *vm, size_t at, char *out, size_t cap);
