/* SPDX-License-Identifier: MIT */
#include "net/net_fake.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "net/port/port.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

u64 fake_now = 1000000;
s64 fake_wall_shift;
struct wall fake_wall = { .base_us = 1800000000000000 };
bool fake_wall_synced;
size_t fake_heap_bytes, fake_heap_blocks, fake_heap_limit;
char fake_log[16384];
int fake_entropy;

u64 now_us(void) { return fake_now; }
u64 host_tsc_hz(void) { return 1000000000; }
u64 host_tsc(void) { return fake_now * 1000; }
u64 wall_seconds(void) { return (u64)(time(NULL) + fake_wall_shift); }
u64 wall_us(void) { return wall_at(&fake_wall, fake_now); }
bool wall_synced(void) { return fake_wall_synced; }
void wall_set_synced(bool yes) { fake_wall_synced = yes; }
void wall_discipline(s64 step_us, s64 slew_us, s64 rate_ppb)
{
	wall_change(&fake_wall, fake_now, step_us, slew_us, rate_ppb);
}

void *heap_calloc(size_t n, size_t size)
{
	size_t *p;

	if (size && n > (SIZE_MAX - 16) / size)
		return NULL;
	if (fake_heap_limit && fake_heap_bytes + n * size > fake_heap_limit)
		return NULL;
	p = calloc(1, n * size + 16);
	if (!p)
		return NULL;
	p[0] = n * size;
	fake_heap_bytes += n * size;
	fake_heap_blocks++;
	return p + 2;
}

void heap_free(void *q)
{
	size_t *p = q;

	if (!p)
		return;
	fake_heap_bytes -= p[-2];
	fake_heap_blocks--;
	free(p - 2);
}

void *frame_alloc_n(unsigned n)
{
	void *p = aligned_alloc(PAGE_SIZE, n * PAGE_SIZE);

	if (p)
		memset(p, 0, n * PAGE_SIZE);
	return p;
}

void frame_free_n(void *p, unsigned n)
{
	(void)n;
	free(p);
}

struct frame_stats frame_stats(void)
{
	return (struct frame_stats){ 1u << 30, 1u << 29, 20u << 20 };
}

void log_line(enum log_level level, const char *subsys, const char *fmt, ...)
{
	size_t at = strlen(fake_log);
	va_list ap;

	(void)level;
	at += (size_t)snprintf(fake_log + at, sizeof(fake_log) - at, "%s: ", subsys);
	if (at >= sizeof(fake_log) - 400) {
		fake_log[0] = 0;
		at = 0;
	}
	va_start(ap, fmt);
	at += (size_t)vsnprintf(fake_log + at, sizeof(fake_log) - at - 1, fmt, ap);
	va_end(ap);
	strcat(fake_log, "\n");
	if (getenv("LOG"))
		fputs(strrchr(fake_log, 0) - 1 > fake_log ? fake_log : "", stderr), fputs("--\n", stderr);
}

bool log_limit_ok(struct log_limit *l)
{
	(void)l;
	return true;
}

void log_guard(void) {}

void bug(const char *file, int line, const char *what)
{
	fprintf(stderr, "BUG %s:%d: %s\n", file, line, what);
	abort();
}

const char *entropy_source(void)
{
	return fake_entropy == 3 ? NULL : "TEST";
}

bool entropy_raw(u64 *out)
{
	*out = 0x1122334455667788;
	if (fake_entropy == 2)
		return false;
	return fake_entropy == 1 || getrandom(out, sizeof(*out), 0) == sizeof(*out);
}

const void *fake_file(const char *name, size_t *len)
{
	static struct { char name[40], data[8192]; size_t len; } files[64];
	char path[256], *buf;
	FILE *f;
	unsigned i = 0;

	while (files[i].name[0] && strcmp(files[i].name, name))
		i++;
	buf = files[i].data;
	*len = files[i].len;
	if (files[i].name[0])
		return buf;
	snprintf(files[i].name, sizeof(files[i].name), "%s", name);

	snprintf(path, sizeof(path), "%s/%s", getenv("TEST_PKI") ? getenv("TEST_PKI") : "build/tests/pki", name);
	f = fopen(path, "rb");
	if (!f) {
		fprintf(stderr, "%s: missing; 'make build/tests/pki/done' makes it\n", path);
		abort();
	}
	*len = files[i].len = fread(buf, 1, sizeof(files[i].data), f);
	fclose(f);
	return buf;
}
