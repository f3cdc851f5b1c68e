/* SPDX-License-Identifier: MIT */
/* The firmware's variables as host tests see them: what is on stable storage, and how writing fails. */
#pragma once
#include "hv/keep.h"

struct fake_nvram {
	struct keep_slot slots[KEEP_SLOTS];
	u32 writes;                 /* that were done */
	enum err fail;              /* what every write ends with instead; 0: it is done */
};
extern struct fake_nvram fake_nvram;
/* As a host that starts: memory holds what is on stable storage. */
void fake_nvram_restart(void);
