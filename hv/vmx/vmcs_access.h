/* SPDX-License-Identifier: MIT */
/* VMREAD and VMWRITE; hv/fake shadows this file with an array. */
#pragma once
#include "hv/lib/types.h"

static inline u64 vmcs_raw_read(u32 enc)
{
	u64 v;
	__asm__ volatile("vmread %1, %0" : "=r"(v) : "r"((u64)enc) : "cc");
	return v;
}

static inline void vmcs_raw_write(u32 enc, u64 v)
{
	__asm__ volatile("vmwrite %1, %0" : : "r"((u64)enc), "rm"(v) : "cc");
}
