/* SPDX-License-Identifier: MIT */
/* Self-migration: finds state that is not described, without a network. */
#include "mig/state.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "hv/vm/vm_clock.h"
#include "mig/mig.h"

#include <string.h>

static int reload(struct vm *vm, u8 *before, size_t *len, u8 *after, size_t *len2, struct error *e)
{
	struct mig_instance inst;
	int rc;

	vm_state_sync(vm);
	rc = state_save(vm, before, STATE_MAX_BYTES, len, e);
	if (rc)
		return rc;
	for (unsigned i = 0; vm_mig_instance(vm, i, &inst); i++)
		memset(inst.state, 0, inst.type->state_size);
	rc = state_load(vm, before, *len, e);
	if (rc)
		return rc;
	vm_state_loaded(vm);
	vm_state_sync(vm);
	return state_save(vm, after, STATE_MAX_BYTES, len2, e);
}

static size_t first_difference(const u8 *a, const u8 *b, size_t len)
{
	size_t i = 0;

	while (i < len && a[i] == b[i])
		i++;
	return i;
}

void mig_self(struct vm *vm)
{
	u8 *before = frame_alloc_n(STATE_PAGES), *after = frame_alloc_n(STATE_PAGES);
	struct error e = { 0 };
	size_t len = 0, len2 = 0, at;
	char where[80];
	bool running = vm->clock_running;

	/* What is under way outside is no state. Its devices rest until the next time, which it then is. */
	if (!vm_drain(vm))
		goto out;
	if (!before || !after) {
		log_warn("mig", "no memory for the self-migration of guest %s", vm->config.name);
		vm_undrain(vm);
		goto out;
	}
	if (reload(vm, before, &len, after, &len2, &e)) {
		vm_kill(vm, "self-migration: %s", e.text);
		vm_undrain(vm);
		goto out;
	}
	at = first_difference(before, after, MIN(len, len2));
	if (at < MAX(len, len2)) {
		state_locate(vm, at, where, sizeof(where));
		vm_kill(vm, "self-migration: %s is not the same after save, wipe and load (byte %#x became %#x)", where,
			at < len ? before[at] : 0, at < len2 ? after[at] : 0);
	}
	/* Loading stops the clock, as on a target. */
	if (running && !vm_is_dead(vm))
		vm_clock_start(vm);
	vm_undrain(vm);
out:
	if (before)
		frame_free_n(before, STATE_PAGES);
	if (after)
		frame_free_n(after, STATE_PAGES);
}
