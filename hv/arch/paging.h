/* SPDX-License-Identifier: MIT */
/* The hypervisor's own page tables: identity map, W^X, page 0 and guard pages absent. */
#pragma once
#include "boot/boot_info.h"

/* Builds the tables for [0, bi->phys_end) and switches to them. RAM is RW NX write-back, image sections by their kind. */
void paging_init(const struct boot_info *bi);
/* Makes [at, at + len) mapped, RW NX, uncached (PCD|PWT = PAT entry 3, UC). Rounded outward to pages. -E_NOMEM, -E_RANGE. */
int paging_map_mmio(hpa_t at, u64 len) __must_check;
/* Makes the page of RAM at `at` executable and read-only, or data again. -E_NOMEM. */
int paging_map_code(u64 at, bool code) __must_check;
/* Makes RAM with firmware's code executable and writable, or data again. -E_NOMEM, only at the first call for a range. */
int paging_map_firmware(u64 start, u64 end, bool run) __must_check;
/* Removes one 4 KiB page (guard pages). -E_NOMEM. */
int paging_unmap_page(u64 va) __must_check;
