/* SPDX-License-Identifier: MIT */
/* Guest memory on the move: which pages are still to go, and the hashes that prove they arrived. */
#pragma once
#include "hv/vm/vm.h"

/* Per page a mixed hash (0: never sent or received), one frame of them per 2 MiB of guest; fold is their sum. Both
 * hosts keep one; the source's says what was sent last, the target's what was read back from the memory it wrote. */
struct ram {
	struct vm *vm;
	u64 **hash;         /* [gfn >> 9] -> 512 hashes, or NULL */
	u64 chunks;
	u64 fold;
	u64 noted;          /* pages that have a hash; the fold proves something only if these are all */
	u64 *todo;          /* source: bit per gfn */
	u64 todo_words, todo_pages, cursor;
	u64 verify_gfn;
};

/* Makes the arrays for vm; todo only for the source. -E_NOMEM. */
int ram_init(struct ram *r, struct vm *vm, bool source) __must_check;
/* Also of one that was never made. */
void ram_free(struct ram *r);
/* Every page of RAM is to be sent. */
void ram_mark_all(struct ram *r);
/* Adds what the guest wrote since the last call (dirty_harvest) and goes back to the lowest page. */
void ram_harvest(struct ram *r);
/* Next page to send, taken off the set; ~0 when there is none. */
u64 ram_take(struct ram *r);
/* First 8-byte word that is not zero stops the search. */
bool ram_is_zero(const void *page);
/* Raw hash of a page: XXH3, 64 bits, seed 0. The same from both; avx2 needs a CPU and an XCR0 that have it. */
u64 ram_hash(const void *page);
u64 ram_hash_avx2(const void *page);
u64 ram_hash_of_zero(void);
/* The same over any bytes. */
u64 ram_hash_bytes(const void *p, size_t len);
/* Binds a raw hash to its page number; never 0. */
u64 ram_mix(u64 hash, u64 gfn);
/* Records the latest content of gfn. Returns whether it had one before. */
bool ram_note(struct ram *r, u64 gfn, u64 hash);
u64 ram_noted(const struct ram *r, u64 gfn);

/* Re-reads all of memory once, at most `pages` per call, and compares with what was noted. 1: done, all equal; 0: call
 * again; -E_STATE with *bad_gfn: that page is not what was noted. */
int ram_verify_step(struct ram *r, unsigned pages, u64 *bad_gfn) __must_check;
