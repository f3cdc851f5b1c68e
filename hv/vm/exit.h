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

/* Reads the exit information and refreshes v's copies of RIP, RSP, RFLAGS; re-queues an event whose delivery was cut short. */
void exit_decode(struct vcpu *v, struct vmexit *x);
void exit_handle(struct vcpu *v, const struct vmexit *x);
/* Name of a basic exit reason, for logs and statistics. */
const char *exit_name(u32 reason);
