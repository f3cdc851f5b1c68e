/* SPDX-License-Identifier: MIT */
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Writes n bytes over code of this process; ends it if that is not possible. */
static inline void patch_code(void *at, const void *bytes, size_t n)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)at & ~(page - 1);
	uintptr_t end = ((uintptr_t)at + n + page - 1) & ~(page - 1);

	if (mprotect((void *)start, end - start, PROT_READ | PROT_WRITE | PROT_EXEC)) {
		perror("bench: mprotect");
		_exit(1);
	}
	memcpy(at, bytes, n);
	if (mprotect((void *)start, end - start, PROT_READ | PROT_EXEC)) {
		perror("bench: mprotect");
		_exit(1);
	}
}
