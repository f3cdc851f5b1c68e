/* SPDX-License-Identifier: MIT */
#include "boot/boot.h"

#include <stdarg.h>
#include <stdio.h>

void boot_say(const char *fmt, ...)
{
	SIMPLE_TEXT_OUTPUT_INTERFACE *out = boot_st->ConOut;
	char line[512];
	CHAR16 wide[80];
	size_t n = 0;
	va_list ap;

	if (!out)
		return; /* a server may have no console at all */
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	for (const char *p = line;; p++) {
		if (!*p || n == ARRAY_SIZE(wide) - 1) {
			wide[n] = 0;
			out->OutputString(out, wide);
			n = 0;
		}
		if (!*p)
			break;
		/* Not every console shows more than ASCII, and file names come from outside. */
		wide[n++] = *p >= 0x20 && *p < 0x7f ? *p : u'?';
	}
	out->OutputString(out, (CHAR16 *)u"\r\n");
}
