/* SPDX-License-Identifier: MIT */
/* What the programs in Linux guests share: lines on the console, numbers, the clock. */
#pragma once
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long u64; /* so that %llu needs no casts */

#define NS 1000000000ull

/* All n bytes, or as many as go before an error. */
static inline void write_all(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t w = write(fd, p, n);

		if (w < 0 && errno != EINTR)
			return;
		if (w > 0)
			p += w, n -= w;
	}
}

/* A line on standard output in one write(), whoever else writes: nothing gets in between. Cut at 600 bytes. */
__attribute__((format(printf, 1, 2))) static inline void say(const char *fmt, ...)
{
	static pthread_mutex_t say_lock = PTHREAD_MUTEX_INITIALIZER;
	char line[600];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	pthread_mutex_lock(&say_lock);
	write_all(1, line, n);
	pthread_mutex_unlock(&say_lock);
}

static inline u64 mix(u64 x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static inline u64 clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return ts.tv_sec * NS + ts.tv_nsec;
}
