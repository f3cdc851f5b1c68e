/* SPDX-License-Identifier: MIT */
#include "hv/lib/err.h"
#include "hv/lib/log.h"

#include <stdarg.h>
#include <stdio.h>

int error_set(struct error *e, enum err code, const char *fmt, ...)
{
	va_list ap;

	if (!e || e->code)
		return -(int)code;
	log_guard();
	e->code = code;
	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	return -(int)code;
}
