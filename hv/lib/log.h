/* SPDX-License-Identifier: MIT */
/* Log lines: always compiled, always format-checked. Output goes to COM1 and a ring. */
#pragma once
#include "hv/lib/types.h"

enum log_level { LOG_ERR, LOG_WARN, LOG_INFO };

/* One line, without newline; printed as "[seconds.us] subsys: text". Saves live guest FPU state first. */
void log_line(enum log_level level, const char *subsys, const char *fmt, ...) __printf(3, 4);

/* Called before anything that may use SSE registers while a guest's are live; fake: no-op. */
void log_guard(void);

#define LOG_RING_BYTES (64u << 10)
/* Where lines go besides the ring: returns bytes taken; wait: take all. NULL: nowhere. Set by hv/arch. */
extern size_t (*log_sink)(const char *buf, size_t len, bool wait);
/* What log_guard() calls if set (hv/vm: save the guest's FPU registers). */
extern void (*log_guard_hook)(void);
/* Bytes as they are, for the copy of a guest's console. */
void log_raw(const char *buf, size_t len);
/* Gives the sink what it takes at once. From its first call on, log_line() no longer waits for the sink. */
void log_poll(void);
/* Whether there is something left that the sink has not taken yet. */
bool log_pending(void);
/* Gives the sink everything, waiting for it. */
void log_flush(void);

#define log_err(subsys, ...) log_line(LOG_ERR, subsys, __VA_ARGS__)
#define log_warn(subsys, ...) log_line(LOG_WARN, subsys, __VA_ARGS__)
#define log_info(subsys, ...) log_line(LOG_INFO, subsys, __VA_ARGS__)

/* For what a guest can trigger: at most 10 lines a second per call site. now_us() is the clock. */
struct log_limit { u64 window_us; u32 count; };
bool log_limit_ok(struct log_limit *l);
#define log_guest(level, subsys, ...) do { \
	static struct log_limit limit_; \
	if (log_limit_ok(&limit_)) log_line(level, subsys, __VA_ARGS__); } while (0)
