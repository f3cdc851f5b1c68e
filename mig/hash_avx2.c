/* SPDX-License-Identifier: MIT */
/* The page hash with 256-bit registers: half the instructions of the 128-bit one. */
#include "mig/ram.h"

#ifndef __clang__
#pragma GCC optimize ("O3")
#pragma GCC target ("avx2")
#define XXH_INLINE_ALL
#include <xxhash.h>
_Static_assert(XXH_VECTOR == XXH_AVX2, "xxhash takes AVX2");

u64 ram_hash_avx2(const void *page)
{
	return XXH3_64bits(page, PAGE_SIZE);
}
#endif
