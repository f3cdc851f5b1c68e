/* SPDX-License-Identifier: MIT */
/* VM exits: decoded once, then handled by table. */
#pragma once
#include "hv/vm/vcpu.h"

struct vmexit {
	u32 reason;    /* basic exit reason (SDM "Basic Exit Reasons") */
	u32 inst_len;
	u32 intr_info; /* for reason 0 and 1 */
	u64 qual;      /* exit qualification */
};

enum vmexit_ret {
	VMEXIT_ADVANCE, /* done: move past the instruction */
	VMEXIT_RESUME,  /* re-enter as it is */
	VMEXIT_KILL,    /* this guest cannot go on; the handler has said why or the loop does */
};

/* Reads what the exit says, refreshes v's copies of RIP, RSP and RFLAGS, queues an event whose delivery was cut short again,
 * and does what the exit is for. */
void exit_handle(struct vcpu *v);
/* Name of a basic exit reason, for logs and statistics. */
const char *exit_name(u32 reason);
