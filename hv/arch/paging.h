/* SPDX-License-Identifier: MIT */
/* The hypervisor's own page tables: identity map, W^X, page 0 and guard pages absent. */
#pragma once
#include "boot/boot_info.h"

/* Builds the tables for [0, bi->phys_end) and switches to them. RAM is RW NX write-back, image sections by their kind. */
void paging_init(const struct boot_info *bi);
/* Makes [at, at + len) mapped, RW NX, uncached (PCD|PWT = PAT entry 3, UC). Rounded outward to pages. -E_NOMEM, -E_RANGE. */
int paging_map_mmio(hpa_t at, u64 len) __must_check;
/* What RAM may be: absent (guard pages); data, writable; code, executable; firmware's code while it runs, both. */
enum paging_kind { PAGING_NONE, PAGING_DATA, PAGING_CODE, PAGING_FIRMWARE };
/* Makes pages of RAM what kind says. -E_NOMEM, only at the first call for a range. */
int paging_protect(u64 start, u64 end, enum paging_kind kind) __must_check;
