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

/* For a log that must be written even if the CPU that holds the lock has stopped for good: waits a second or so at most. */
static inline void spin_lock_or_not(struct spinlock *l)
{
	u32 mine = __atomic_fetch_add(&l->next, 1, __ATOMIC_RELAXED);

	for (u32 i = 0; i < 20000000 && __atomic_load_n(&l->serving, __ATOMIC_ACQUIRE) != mine; i++)
		__builtin_ia32_pause();
}

/* Whether anybody holds it, this CPU or another. */
static inline bool spin_is_locked(const struct spinlock *l)
{
	return __atomic_load_n(&l->serving, __ATOMIC_RELAXED) != __atomic_load_n(&l->next, __ATOMIC_RELAXED);
}

static inline void spin_unlock(struct spinlock *l)
{
	__atomic_store_n(&l->serving, l->serving + 1, __ATOMIC_RELEASE);
}
