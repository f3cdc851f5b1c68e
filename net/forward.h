/* SPDX-License-Identifier: MIT */
/* Frames for a guest that has just moved away: those that its cards held while it was frozen, and those that the network,
 * which has not learnt the new place yet, still sends here. */
#pragma once
#include "hv/vm/vm.h"

struct lan_forward;
/* Takes a frame for the guest's card of that number; false: no room, it is lost. */
typedef bool (*lan_forward_fn)(void *arg, u16 card, const u8 *frame, unsigned len);

/* To be called before the guest's devices go. NULL: it has no cards, or there is no memory. Ended by lan_forward_end(). */
struct lan_forward *lan_forward_begin(struct vm *vm, lan_forward_fn give, void *arg);
/* How many frames were given. NULL: 0. */
u64 lan_forward_end(struct lan_forward *f);
