/* SPDX-License-Identifier: MIT */
/* Ticket lock. Interrupts are off for ever, so nothing on the same CPU comes in between; not recursive. */
#pragma once
#include "hv/lib/types.h"

struct spinlock { u32 next, serving; };

static inline void spin_lock(struct spinlock *l)
{
	u32 mine = __atomic_fetch_add(&l->next, 1, __ATOMIC_RELAXED);

	while (__atomic_load_n(&l->serving, __ATOMIC_ACQUIRE) != mine)
		__builtin_ia32_pause();
}

static inline void spin_unlock(struct spinlock *l)
{
	__atomic_store_n(&l->serving, l->serving + 1, __ATOMIC_RELEASE);
}
