/* SPDX-License-Identifier: MIT */
/* Limits that host, control protocol and the godwit command share. Nothing but numbers: the command includes it, too. */
#pragma once

#define NAME_MAX_LEN 32            /* bytes of the name of a host, guest or person, with its NUL */
#define MOVE_MAX_FREEZE_MS 60000   /* freeze-budget, downtime-limit */
#define MOVE_MAX_ROUNDS 1000       /* max-rounds */
