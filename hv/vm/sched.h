/* SPDX-License-Identifier: MIT */
/* The one CPU's turn-taking between services and guests. */
#pragma once
#include "hv/config.h"

/* Never returns, except that it powers the machine off when [debug] quit-when-idle says so and all guests are dead. */
__noreturn void sched_run(const struct config *c);
