/* SPDX-License-Identifier: MIT */
/* What the fuzzers share: taking an input apart, and claims. */
#pragma once
#include "hv/lib/types.h"

#include <stdlib.h>

#define MUST(x) do { if (!(x)) abort(); } while (0)

struct input { const u8 *p, *end; };

/* The next bytes as a little-endian number; 0 behind the end. */
static inline u64 take(struct input *in, unsigned bytes)
{
	u64 v = 0;

	for (unsigned i = 0; i < bytes && in->p < in->end; i++)
		v |= (u64)*in->p++ << 8 * i;
	return v;
}
