/* SPDX-License-Identifier: MIT */
#include "net/ntp.h"
#include "hv/lib/be.h"

#include <stdio.h>
#include <string.h>

#define UNIX_EPOCH 2208988800ull /* 1970 in seconds since 1900 */
#define OLDEST 3913056000ull     /* 2024: seconds below it belong to the next era, which begins in 2036 */
#define MODE_CLIENT 3
#define MODE_SERVER 4
#define LEAP_UNKNOWN 3
#define MAX_ROOT_US 1500000ull   /* RFC 5905 MAXDIST */
#define MAX_DELAY_US 2000000ull

static u64 to_unix_us(u64 ntp)
{
	u64 seconds = ntp >> 32;

	if (seconds < OLDEST)
		seconds += 1ull << 32;
	return (seconds - UNIX_EPOCH) * 1000000 + ((ntp & 0xffffffff) * 1000000 >> 32);
}

/* NTP short format: 16.16 seconds. */
static u64 short_us(u32 v) { return (u64)v * 1000000 >> 16; }

void ntp_request(u8 packet[NTP_BYTES], u64 nonce)
{
	memset(packet, 0, NTP_BYTES);
	packet[0] = 4 << 3 | MODE_CLIENT;
	put_be64(packet + 40, nonce);
}

static void refid_text(const u8 *p, u8 stratum, char *out, size_t cap)
{
	size_t n = 0;

	if (stratum > 1) {
		snprintf(out, cap, "%u.%u.%u.%u", p[12], p[13], p[14], p[15]);
		return;
	}
	while (n < 4 && p[12 + n] > ' ' && p[12 + n] <= '~' && p[12 + n] != '"' && p[12 + n] != '\\') {
		out[n] = (char)p[12 + n];
		n++;
	}
	out[n] = 0;
}

static int kiss(const u8 *p, struct error *e)
{
	char code[16];

	refid_text(p, 0, code, sizeof(code));
	if (!strcmp(code, "RATE"))
		return error_set(e, E_BUSY, "it asks us to ask less often (RATE)");
	if (!strcmp(code, "DENY") || !strcmp(code, "RSTR"))
		return error_set(e, E_AUTH, "it refuses us (%s)", code);
	return error_set(e, E_STATE, "it has no time to give (%s)", code[0] ? code : "stratum 0");
}

int ntp_reply(const u8 *p, size_t len, u64 nonce, u64 t1, u64 t4, struct ntp_sample *s, struct error *e)
{
	u64 t2, t3, root;
	s64 there, here;

	if (len < NTP_BYTES || (p[0] & 7) != MODE_SERVER || (p[0] >> 3 & 7) < 3 || (p[0] >> 3 & 7) > 4)
		return error_set(e, E_PROTO, "its reply is not one of NTP");
	/* First of all: nobody who has not seen the request can say anything, not even a kiss-o'-death. */
	if (be64(p + 24) != nonce)
		return error_set(e, E_PROTO, "its reply is to another request");
	if (p[1] == 0)
		return kiss(p, e);
	if (p[0] >> 6 == LEAP_UNKNOWN || p[1] > 15)
		return error_set(e, E_STATE, "its own clock is not synchronized");
	if (!be64(p + 32) || !be64(p + 40))
		return error_set(e, E_PROTO, "its reply has no time");
	t2 = to_unix_us(be64(p + 32));
	t3 = to_unix_us(be64(p + 40));
	root = short_us(be32(p + 4)) / 2 + short_us(be32(p + 8));
	if (root > MAX_ROOT_US)
		return error_set(e, E_STATE, "its own clock may be %llu ms off", (unsigned long long)root / 1000);
	there = (s64)(t3 - t2);
	here = (s64)(t4 - t1);
	if (there < 0 || here < 0 || here > (s64)MAX_DELAY_US || there > here + 1000)
		return error_set(e, E_PROTO, "its times cannot be: %lld us there, %lld us here", (long long)there, (long long)here);
	*s = (struct ntp_sample){ .stratum = p[1], .root_us = root };
	s->delay_us = (u64)MAX(here - there, 0);
	s->offset_us = ((s64)(t2 - t1) + (s64)(t3 - t4)) / 2;
	refid_text(p, p[1], s->refid, sizeof(s->refid));
	return 0;
}

static bool agree(const struct ntp_opinion *a, const struct ntp_opinion *b)
{
	s64 d = a->offset_us - b->offset_us;

	return (u64)(d < 0 ? -d : d) <= a->error_us + b->error_us;
}

int ntp_select(const struct ntp_opinion *o, unsigned n, int prefer, bool *good)
{
	int best = -1;

	for (unsigned i = 0; i < n; i++) {
		unsigned votes = 0;

		for (unsigned j = 0; j < n; j++)
			votes += agree(&o[i], &o[j]);
		good[i] = votes * 2 > n;
	}
	for (unsigned i = 0; i < n; i++) {
		if (!good[i])
			continue;
		if ((int)i == prefer)
			return prefer;
		if (best < 0 || o[i].stratum < o[best].stratum ||
		    (o[i].stratum == o[best].stratum && o[i].error_us < o[best].error_us))
			best = (int)i;
	}
	return best;
}
