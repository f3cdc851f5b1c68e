/* SPDX-License-Identifier: MIT */
/* What net/ stands on, for tests in a host process: a clock that the test moves, heap, log, randomness. */
#pragma once
#include "hv/lib/err.h"
#include "hv/lib/wall.h"

extern u64 fake_now;            /* us */
extern s64 fake_wall_shift;     /* seconds added to the real date */
extern struct wall fake_wall;   /* the clock that wall_us() shows, in terms of fake_now; apart from wall_seconds() */
extern bool fake_wall_synced;
extern size_t fake_heap_bytes, fake_heap_blocks;
extern size_t fake_heap_limit;  /* bytes; 0: none */
extern char fake_log[16384];    /* all lines since the test cleared it */
extern int fake_entropy;        /* 0: works, 1: stuck, 2: gives nothing, 3: none there */

/* A file of the test PKI (build/tests/pki/NAME), kept for ever. Fails the test if it is not there. */
const void *fake_file(const char *name, size_t *len);
