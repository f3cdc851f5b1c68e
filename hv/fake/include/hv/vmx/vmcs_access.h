/* SPDX-License-Identifier: MIT */
/* Shadow of hv/vmx/vmcs_access.h in host tests: a VMCS is an array in its frame, indexed by a hash of the encoding. */
#pragma once
#include "hv/lib/types.h"

u64 vmcs_raw_read(u32 enc);
void vmcs_raw_write(u32 enc, u64 v);
