/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into Bochs: two cures. Each looks first whether the function is as it knows it; a Bochs that has changed is left
 * alone, and the self-checks decide.
 *
 * 1. Debian's build of Bochs 3.1 divides 64-bit signed numbers wrongly (its long_idiv breaks strict aliasing and the compiler
 *    took it at its word). Only if it gives a wrong answer, a jump to a right one is put over it.
 * 2. With several CPUs, an exception that a guest takes by itself leaves "previous RIP" at the faulting instruction
 *    (main.cc's loop does not commit it after the longjmp, as cpu_loop() does for a single CPU). A VM exit that comes before
 *    the next instruction (NMI, preemption timer) then saves that RIP with the handler's CS, SS and RSP, and the guest is
 *    lost. So RIP is committed before each trace, in front of cpu_run_trace().
 */
#define _GNU_SOURCE
#include "bochs_patch.h"
#include <dlfcn.h>

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

/* The function at `fn` begins with a jump to `to` from now on. Uses RAX. */
static void put_jump(void *fn, const void *to)
{
	uint8_t jump[12] = {0x48, 0xb8, 0, 0, 0,    0,
			    0,	  0,	0, 0, 0xff, 0xe0}; /* movabs rax; jmp rax */

	memcpy(jump + 2, &to, sizeof(to));
	patch_code(fn, jump, sizeof(jump));
}

__attribute__((constructor)) static void cure_long_idiv(void)
{
	long_idiv_fn fn = (long_idiv_fn)dlsym(RTLD_DEFAULT, "_Z9long_idivP7Bit128sPlPKS_l");
	const struct bit128s thousand = {1000, 0};
	struct bit128s q = {0, 0};
	int64_t r = 0;

	if (!fn)
		return; /* another program of the wrapper */
	fn(&q, &r, &thousand, 7);
	if (q.lo != 142 || q.hi || r != 6)
		put_jump((void *)(uintptr_t)fn, (void *)(uintptr_t)long_idiv);
}

/* cpu_loop() has what we need: mov RIP(%rdx),%rax; movb $0,SPECULATIVE(%rdx); mov %rax,PREV_RIP(%rdx). */
static const uint8_t *find_commit(const uint8_t *code)
{
	for (unsigned i = 0; i < 256; i++, code++)
		if (!memcmp(code, "\x48\x8b\x82", 3) && !memcmp(code + 7, "\xc6\x82", 2) && !memcmp(code + 13, "\0\x48\x89\x82", 4))
			return code;
	return NULL;
}

__attribute__((constructor)) static void cure_cpu_run_trace(void)
{
	uint8_t *fn = dlsym(RTLD_DEFAULT, "_ZN8BX_CPU_C13cpu_run_traceEv");
	const uint8_t *loop = dlsym(RTLD_DEFAULT, "_ZN8BX_CPU_C8cpu_loopEv"), *commit = loop ? find_commit(loop) : NULL;
	uint8_t *stub, *next;

	if (!fn || !loop)
		return;
	/* endbr64; sub $n,%rsp; mov n(%rdi),%eax */
	if (!commit || memcmp(fn, "\xf3\x0f\x1e\xfa\x48\x83\xec", 7) || memcmp(fn + 8, "\x8b\x87", 2)) {
		fprintf(stderr, "bochs_cures: this Bochs is another one; guests on several CPUs may crash in it\n");
		return;
	}
	stub = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stub == MAP_FAILED) {
		perror("bochs_cures: mmap");
		_exit(1);
	}
	/* The three instructions with RDI, what the jump replaces, and back. */
	memcpy(stub, commit, 21);
	stub[2] = stub[8] = stub[16] = 0x87;
	memcpy(stub + 21, fn + 4, 10);
	memcpy(stub + 31, "\x49\xbb", 2); /* movabs r11 */
	next = fn + 14;
	memcpy(stub + 33, &next, sizeof(next));
	memcpy(stub + 41, "\x41\xff\xe3", 3); /* jmp r11 */
	if (mprotect(stub, 4096, PROT_READ | PROT_EXEC)) {
		perror("bochs_cures: mprotect");
		_exit(1);
	}
	put_jump(fn, stub);
}
