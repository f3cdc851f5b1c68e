/* SPDX-License-Identifier: MIT */
/* The error numbers, and error texts meant for people. */
#pragma once
#include "hv/lib/types.h"

/* Functions return 0 or one of these, negated. */
enum err {
	E_INVAL = 1,   /* malformed input */
	E_NOMEM,       /* no memory (frames or heap) */
	E_RANGE,       /* address or value out of range */
	E_NOENT,       /* no such thing */
	E_EXIST,       /* already there */
	E_BUSY,        /* in use, try later */
	E_IO,          /* device or link failed */
	E_PROTO,       /* peer broke the protocol */
	E_AUTH,        /* peer not who it should be, or may not */
	E_TIMEOUT,     /* nothing happened in time */
	E_UNSUPPORTED, /* hardware or version lacks it */
	E_STATE,       /* not possible in this state */
};

/* An error for a person: names the thing and the remedy. text is always NUL-terminated. */
struct error {
	int code; /* enum err, 0 = none */
	char text[300];
};

/* Fills *e (may be NULL) unless it already holds an error (the first one is the cause). Returns -code. */
int error_set(struct error *e, enum err code, const char *fmt, ...) __printf(3, 4);

/* Our own bug: print and stop this host. Never guards anything that comes from outside. */
#define BUG_ON(cond) do { if (__builtin_expect(!!(cond), 0)) bug(__FILE__, __LINE__, #cond); } while (0)
__noreturn void bug(const char *file, int line, const char *what);
/* What bug() does after reporting; NULL: __builtin_trap(). Set by hv/arch. */
extern void (*bug_stop)(void) __noreturn;
