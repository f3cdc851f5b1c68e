/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into Bochs. Debian's build of Bochs 3.1 divides 64-bit signed numbers wrongly (its
 * long_idiv breaks strict aliasing and the compiler took it at its word). At start this tries the
 * function, and only if it gives a wrong answer puts a jump to a right one over it. A fixed Bochs
 * is left alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct bit128s {
	uint64_t lo;
	int64_t hi;
};

typedef void (*long_idiv_fn)(struct bit128s *quotient, int64_t *remainder,
			     const struct bit128s *dividend, int64_t divisor);

static void long_idiv(struct bit128s *quotient, int64_t *remainder, const struct bit128s *dividend,
		      int64_t divisor)
{
	unsigned __int128 n = (unsigned __int128)(uint64_t)dividend->hi << 64 | dividend->lo;
	unsigned __int128 un = dividend->hi < 0 ? -n : n;
	uint64_t ud = divisor < 0 ? -(uint64_t)divisor : (uint64_t)divisor;
	unsigned __int128 q = un / ud;
	uint64_t r = (uint64_t)(un % ud);

	/* Unsigned throughout: the most negative dividend and divisor have no positive twin. */
	if ((dividend->hi < 0) != (divisor < 0))
		q = -q;
	quotient->lo = (uint64_t)q;
	quotient->hi = (int64_t)(q >> 64);
	*remainder = (int64_t)(dividend->hi < 0 ? -r : r);
}

__attribute__((constructor)) static void cure_long_idiv(void)
{
	long_idiv_fn fn = (long_idiv_fn)dlsym(RTLD_DEFAULT, "_Z9long_idivP7Bit128sPlPKS_l");
	const struct bit128s thousand = {1000, 0};
	struct bit128s q = {0, 0};
	int64_t r = 0;
	uint8_t jump[12] = {0x48, 0xb8, 0, 0, 0,    0,
			    0,	  0,	0, 0, 0xff, 0xe0}; /* movabs rax; jmp rax */
	uint64_t to = (uint64_t)(uintptr_t)long_idiv;
	long page = sysconf(_SC_PAGESIZE);
	uintptr_t start, end;

	/* No such symbol: another program of the wrapper, or a Bochs that has changed. The
	 * self-check decides. */
	if (!fn)
		return;
	fn(&q, &r, &thousand, 7);
	if (q.lo == 142 && q.hi == 0 && r == 6)
		return;
	memcpy(jump + 2, &to, sizeof(to));
	start = (uintptr_t)fn & ~((uintptr_t)page - 1);
	end = ((uintptr_t)fn + sizeof(jump) + (uintptr_t)page - 1) & ~((uintptr_t)page - 1);
	if (mprotect((void *)start, end - start, PROT_READ | PROT_WRITE | PROT_EXEC)) {
		perror("idiv_cure: mprotect");
		_exit(1);
	}
	memcpy((void *)(uintptr_t)fn, jump, sizeof(jump));
	if (mprotect((void *)start, end - start, PROT_READ | PROT_EXEC)) {
		perror("idiv_cure: mprotect");
		_exit(1);
	}
}
