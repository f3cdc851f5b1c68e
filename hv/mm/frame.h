/* SPDX-License-Identifier: MIT */
/* Host-physical memory: 4 KiB frames for the hypervisor itself, 2 MiB frames for guests. */
#pragma once
#include "hv/lib/types.h"

/* Gives [start,end) to the allocator (called at boot for free firmware memory, aligned inward). */
void frame_add(hpa_t start, hpa_t end);
/* Counts bytes that the hypervisor holds outside of what frame_add() gave (image, boot files). */
void frame_account(u64 bytes);
/* A zeroed 4 KiB frame, or NULL. Owned by the caller until frame_free(). */
void *frame_alloc(void) __must_check;
void frame_free(void *p);
/* A 2 MiB-aligned frame for guest RAM, with whatever was in it: frame_zero_2m() before a guest can see it. {0} if none is left. */
hpa_t frame_alloc_2m(void) __must_check;
void frame_zero_2m(hpa_t a);
void frame_free_2m(hpa_t a);
/* n contiguous zeroed 4 KiB frames (n <= 512) that are kept; NULL if none. Freed with frame_free_n(). */
void *frame_alloc_n(unsigned n) __must_check;
void frame_free_n(void *p, unsigned n);
/* For tables that grow with a guest: zeroed and contiguous, of any size. Freed with the same size. NULL: none left in one piece. */
void *frame_alloc_bytes(u64 bytes) __must_check;
void frame_free_bytes(void *p, u64 bytes);
/* Bytes: all memory given, free now, and used by the hypervisor itself (not guests). */
struct frame_stats { u64 total, free, hypervisor; };
struct frame_stats frame_stats(void);
/* General heap (allocates 2 MiB arenas on demand up to a limit): mbedTLS, cJSON, lwIP, and small objects. */
void *heap_calloc(size_t n, size_t size) __must_check;
void heap_free(void *p);
