/* SPDX-License-Identifier: MIT */
/* The C library is linked for its string and number functions only. Parts of it that libraries reach and that would make
 * system calls are replaced here; the link fails if a system call gets into the image (boot/rules.mk). */
#include "hv/lib/err.h"
#include "hv/mm/frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int __lockfile(FILE *f);
void __unlockfile(FILE *f);

/* snprintf()'s stream is private to the call. */
int __lockfile(FILE *f)
{
	return 0;
}

void __unlockfile(FILE *f)
{
}

/* mbedTLS asks whether it has been forked. */
pid_t getpid(void)
{
	return 1;
}

/* The allocator by the C library's names, for libraries that refer to it. */
void *malloc(size_t n) { return heap_calloc(1, n); }
void *calloc(size_t n, size_t size) { return heap_calloc(n, size); }
void free(void *p) { heap_free(p); }

/* Referred to by cJSON's default hooks, which are replaced: nothing calls it. */
void *realloc(void *p, size_t n)
{
	BUG_ON(true);
	return NULL;
}
