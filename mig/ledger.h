/* SPDX-License-Identifier: MIT */
/* The target's: the outcome of every move that came close enough to matter (docs/PROTOCOL.md, "One owner"). It is in memory: a
 * host that restarts has a new boot id and says so instead of guessing. What a restarted host may start by itself is on
 * stable storage (hv/keep.h). */
#pragma once
#include "hv/config.h"

#define LEDGER_ENTRIES 256u

enum ledger_outcome {
	LEDGER_NONE,
	LEDGER_PREPARED,   /* holds all of the guest, may not run it */
	LEDGER_COMMITTED,  /* took over */
	LEDGER_ABORTED,    /* will never take over by this move */
};

/* One attempt to move: id is the source's number for it, unique for ever. epoch is the new owner's. */
struct ledger_key { char source[NAME_MAX_LEN], guest[NAME_MAX_LEN]; u64 epoch, id; };

struct ledger {
	struct { struct ledger_key key; enum ledger_outcome outcome; } entries[LEDGER_ENTRIES];
	u32 next;          /* ring */
	bool forgot;       /* an entry has been overwritten: "never heard of it" proves nothing any more */
};

enum ledger_outcome ledger_get(const struct ledger *l, const struct ledger_key *k);
void ledger_set(struct ledger *l, const struct ledger_key *k, enum ledger_outcome o);
