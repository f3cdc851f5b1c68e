/* SPDX-License-Identifier: MIT */
#include "hv/vm/vm.h"
#include "hv/mm/frame.h"

#include <string.h>

int dirty_start(struct vm *vm)
{
	u64 words = guest_gfn_end(vm) / 64;

	BUG_ON(vm->dirty);
	vm_hold(vm);
	if (ept_split_all(&vm->ept))
		goto nomem;
	vm->dirty = frame_alloc_bytes(words * 8);
	if (!vm->dirty)
		goto nomem;
	vm->dirty_words = words;
	/* Start clean: drop what was dirty before. */
	ept_harvest_dirty(&vm->ept, vm->dirty);
	memset(vm->dirty, 0, words * 8);
	vm->ept_generation++;
	vm_unhold(vm);
	return 0;
nomem:
	ept_join_all(&vm->ept);
	vm->ept_generation++;
	vm_unhold(vm);
	return -E_NOMEM;
}

void dirty_stop(struct vm *vm)
{
	if (!vm->dirty)
		return;
	vm_hold(vm);
	frame_free_bytes(vm->dirty, vm->dirty_words * 8);
	vm->dirty = NULL;
	vm->dirty_words = 0;
	ept_join_all(&vm->ept);
	vm->ept_generation++;
	vm_unhold(vm);
}

void dirty_mark(struct vm *vm, u64 gfn)
{
	if (vm->dirty && gfn / 64 < vm->dirty_words)
		__atomic_fetch_or(&vm->dirty[gfn / 64], BIT(gfn % 64), __ATOMIC_RELAXED); /* from any CPU */
}

u64 dirty_harvest(struct vm *vm, u64 *bitmap)
{
	u64 added = 0;

	vm_hold(vm);
	/* Guest writes join our own in the log; then the log moves. The INVEPT before the next entry makes the CPU
	 * set D again (SDM "Accessed and Dirty Flags for EPT": a cached translation with D set is not written back). */
	ept_harvest_dirty(&vm->ept, vm->dirty);
	vm->ept_generation++;
	for (u64 w = 0; w < vm->dirty_words; w++) {
		u64 fresh = vm->dirty[w] & ~bitmap[w];

		if (!vm->dirty[w])
			continue;
		added += (u64)__builtin_popcountll(fresh);
		bitmap[w] |= vm->dirty[w];
		vm->dirty[w] = 0;
	}
	vm_unhold(vm);
	return added;
}
