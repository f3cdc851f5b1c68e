/* SPDX-License-Identifier: MIT */
/* What lwIP and mbedTLS ask of their host. */
#pragma once
#include "hv/lib/types.h"

/* 32 random bits from the hardware generator. */
u32 net_rand32(void);
/* lwIP's diagnostics, to the log. */
void net_diag(const char *fmt, ...) __printf(1, 2);
/* Internet checksum of len bytes, not inverted, in memory order (RFC 1071). */
u16 net_chksum(const void *data, int len);

/* lwIP's heap: two size classes, up to a full frame, in pages of its own; capped. NULL: more than that. */
void *net_mem_alloc(size_t size) __must_check;
void *net_mem_calloc(size_t n, size_t size) __must_check;
void net_mem_free(void *p);
/* Bytes in use now (not: bytes taken from the frame allocator). */
size_t net_mem_used(void);

/* One raw 64-bit word of the hardware generator; false: it did not deliver (port/rdrand.c; tests have their own). */
bool entropy_raw(u64 *out) __must_check;
/* Name of the source ("RDSEED", "RDRAND"), NULL if there is none. */
const char *entropy_source(void);
/* Health of the source at start and ever since. -E_UNSUPPORTED: none; -E_IO: it repeats itself. */
int entropy_check(void) __must_check;

/* Time for mbedTLS: seconds since 1970. */
long long net_time(long long *out);
