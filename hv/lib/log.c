/* SPDX-License-Identifier: MIT */
#include "hv/lib/log.h"
#include "hv/lib/clock.h"
#include "hv/lib/err.h"
#include "hv/lib/spinlock.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LINE_MAX_LEN 512
#define LIMIT_LINES 10
#define LIMIT_WINDOW_US 1000000

static char ring[LOG_RING_BYTES];
static u64 written; /* bytes ever logged */
static u64 drained; /* of these, given to the sink */
static struct spinlock lock; /* of all of it */
static bool polled; /* log_poll() is being called: no need to wait for a slow UART */

size_t (*log_sink)(const char *buf, size_t len, bool wait);
void (*log_guard_hook)(void);

void log_guard(void)
{
	if (log_guard_hook)
		log_guard_hook();
}

static void drain(bool wait)
{
	static const char mark[] = "\r\n[lost]\r\n"; /* fits a UART's FIFO */
	static bool lost;

	if (!log_sink) {
		drained = written;
		return;
	}
	if (written - drained > LOG_RING_BYTES) {
		lost = true;
		drained = written - LOG_RING_BYTES / 2;
	}
	if (lost) {
		if (!log_sink(mark, sizeof(mark) - 1, wait))
			return;
		lost = false;
	}
	while (drained < written) {
		size_t at = drained % LOG_RING_BYTES, len = MIN(written - drained, (u64)LOG_RING_BYTES - at);
		size_t took = log_sink(ring + at, len, wait);

		drained += took;
		if (took < len)
			return;
	}
}

static void put(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		ring[written++ % LOG_RING_BYTES] = s[i];
}

void log_line(enum log_level level, const char *subsys, const char *fmt, ...)
{
	char line[LINE_MAX_LEN];
	u64 us;
	int n, m;
	va_list ap;

	log_guard();
	us = now_us();
	n = snprintf(line, sizeof(line), "[%5llu.%06llu] %s: %s", (unsigned long long)(us / 1000000),
		(unsigned long long)(us % 1000000), subsys,
		level == LOG_ERR ? "error: " : level == LOG_WARN ? "warning: " : "");
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof(line) - n, fmt, ap);
	va_end(ap);
	if (m > 0)
		n = MIN(n + m, (int)sizeof(line) - 1);
	/* What comes from outside (guest names, peers' texts) must not move the reader's cursor; above ASCII there are control
	 * characters, too. */
	for (int i = 0; i < n; i++)
		if (line[i] < 0x20 || line[i] > 0x7e)
			line[i] = '?';
	spin_lock_or_not(&lock);
	put(line, n);
	put("\r\n", 2);
	drain(!polled);
	spin_unlock(&lock);
}

void log_raw(const char *buf, size_t len)
{
	spin_lock_or_not(&lock);
	put(buf, len);
	drain(!polled);
	spin_unlock(&lock);
}

void log_poll(void)
{
	polled = true;
	spin_lock_or_not(&lock);
	drain(false);
	spin_unlock(&lock);
}

bool log_pending(void)
{
	return __atomic_load_n(&drained, __ATOMIC_RELAXED) != __atomic_load_n(&written, __ATOMIC_RELAXED);
}

void log_flush(void)
{
	spin_lock_or_not(&lock);
	drain(true);
	spin_unlock(&lock);
}

bool log_limit_ok(struct log_limit *l)
{
	u64 now = now_us();

	if (!l->count || now - l->window_us >= LIMIT_WINDOW_US) {
		l->window_us = now;
		l->count = 0;
	}
	if (l->count >= LIMIT_LINES)
		return false;
	l->count++;
	return true;
}
