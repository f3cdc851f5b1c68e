/* SPDX-License-Identifier: MIT */
/* Extended page tables (SDM "The Extended Page Table Mechanism (EPT)"): 4 levels, WB, A/D bits on. */
#pragma once
#include "hv/lib/err.h"

struct ept {
	u64 *root;       /* PML4 frame */
	u64 table_pages; /* frames used by tables */
	bool split;      /* every 2 MiB leaf is split to 4 KiB */
};

/* One empty table. -E_NOMEM. */
int ept_init(struct ept *e) __must_check;
/* Frees all tables (not the RAM they map). */
void ept_destroy(struct ept *e);
/* Maps 2 MiB RWX write-back; both aligned; not while all are split. -E_NOMEM, -E_EXIST. */
int ept_map_2m(struct ept *e, gpa_t at, hpa_t frame) __must_check;
/* Takes the access to what ept_map_2m() mapped; not while all are split. The caller must INVEPT as below. */
void ept_hide_2m(struct ept *e, gpa_t at);
/* Gives it back: on any CPU, while the guest runs, and split if all are: whatever it writes there gets into the log. */
void ept_show_2m(struct ept *e, gpa_t at);
/* Splits all 2 MiB leaves, also hidden ones; the 4 KiB leaves inherit A and D. On -E_NOMEM what was split stays valid. */
int ept_split_all(struct ept *e) __must_check;
/* Joins all back to 2 MiB leaves and frees the tables; D is the OR of the leaves. */
void ept_join_all(struct ept *e);
/* Clears every leaf's D bit, setting bit (gpa >> 12) in bitmap for each that was set (all 512 for a 2 MiB leaf).
 * Returns the number of pages found dirty. The caller must INVEPT before the guest runs again (and kick others). */
u64 ept_harvest_dirty(struct ept *e, u64 *bitmap);
/* EPTP value for the VMCS. */
u64 ept_pointer(const struct ept *e);
