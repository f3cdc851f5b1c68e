/* SPDX-License-Identifier: MIT */
#include "hv/lib/err.h"
#include "hv/lib/log.h"

void (*bug_stop)(void) __noreturn;

void bug(const char *file, int line, const char *what)
{
	log_err("bug", "BUG at %s:%d: %s (called from %p); this host stops", file, line, what, __builtin_return_address(0));
	log_flush();
	if (bug_stop)
		bug_stop();
	__builtin_trap();
}
