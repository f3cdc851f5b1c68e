/* SPDX-License-Identifier: MIT */
/* Time, dates, checksums and diagnostics for lwIP and mbedTLS. */
#include "net/port/port.h"
#include "hv/lib/clock.h"
#include "hv/lib/err.h"
#include "hv/lib/log.h"
#include "lwip/sys.h"
#include "mbedtls/platform_time.h"
#include "mbedtls/platform_util.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

u32_t sys_now(void)
{
	return (u32_t)(now_us() / 1000);
}

void net_diag(const char *fmt, ...)
{
	char line[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	line[strcspn(line, "\n")] = 0;
	log_guest(LOG_WARN, "lwip", "%s", line);
}

u16 net_chksum(const void *data, int len)
{
	const u8 *p = data;
	u64 sum = 0, w;

	/* Sums of 64-bit words with the carry added back are sums of 16-bit words as well (RFC 1071, 2.B). */
	for (; len >= 64; len -= 64, p += 64)
		__asm__("addq (%1), %0; adcq 8(%1), %0; adcq 16(%1), %0; adcq 24(%1), %0; adcq 32(%1), %0; adcq 40(%1), %0;"
			"adcq 48(%1), %0; adcq 56(%1), %0; adcq $0, %0"
			: "+&r"(sum) : "r"(p), "m"(*(const u8 (*)[64])p) : "cc");
	while (len > 0) {
		size_t n = MIN((size_t)len, (size_t)8);

		w = 0;
		memcpy(&w, p, n);
		sum += w;
		sum += sum < w;
		p += n;
		len -= n;
	}
	sum = (sum >> 32) + (u32)sum;
	sum = (sum >> 32) + (u32)sum;
	sum = (sum >> 16) + (u16)sum;
	sum = (sum >> 16) + (u16)sum;
	return (u16)sum;
}

long long net_time(long long *out)
{
	long long t = (long long)wall_seconds();

	if (out)
		*out = t;
	return t;
}

mbedtls_ms_time_t mbedtls_ms_time(void)
{
	return (mbedtls_ms_time_t)(now_us() / 1000);
}

/* Days to civil date in the proleptic Gregorian calendar, counted in eras of 400 years that begin on 1 March. */
struct tm *mbedtls_platform_gmtime_r(const mbedtls_time_t *tt, struct tm *out)
{
	long long t = *tt, days, era, doe, yoe, doy, mp;

	if (t < 0 || t > 253402300799ll) /* year 9999 */
		return NULL;
	memset(out, 0, sizeof(*out));
	days = t / 86400 + 719468;
	t %= 86400;
	era = days / 146097;
	doe = days % 146097;
	yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	mp = (5 * doy + 2) / 153;
	out->tm_mday = (int)(doy - (153 * mp + 2) / 5 + 1);
	out->tm_mon = (int)(mp < 10 ? mp + 2 : mp - 10);
	out->tm_year = (int)(yoe + era * 400 + (out->tm_mon <= 1) - 1900);
	out->tm_wday = (int)((days - 719468 + 4) % 7);
	out->tm_hour = (int)(t / 3600);
	out->tm_min = (int)(t / 60 % 60);
	out->tm_sec = (int)(t % 60);
	return out;
}
