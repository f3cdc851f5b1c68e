/* SPDX-License-Identifier: MIT */
/* NTP packets as a client sees them (RFC 5905, RFC 4330): pure, replies are hostile. Times are microseconds. */
#pragma once
#include "hv/lib/err.h"

#define NTP_PORT 123
#define NTP_BYTES 48
#define NTP_PHI_PPM 15 /* what a clock's rate is off, unless known better */

struct ntp_sample {
	s64 offset_us;      /* server's clock minus ours at t4 */
	u64 delay_us;       /* round trip without the server's own time */
	u64 root_us;        /* the server's root dispersion and half its root delay */
	u8 stratum;
	char refid[16];     /* the server's own source, as text */
};

/* A request whose transmit timestamp is the nonce: our clock is nobody's business, and a reply must repeat it. */
void ntp_request(u8 packet[NTP_BYTES], u64 nonce);
/* Judges a reply to the request with that nonce, sent at t1 and received at t4 by our wall clock. 0 with *s filled, or -E_PROTO
 * (malformed, not ours), -E_STATE (the server's clock is not right), -E_BUSY (kiss-o'-death RATE), -E_AUTH (DENY, RSTR). */
int ntp_reply(const u8 *packet, size_t len, u64 nonce, u64 t1, u64 t4, struct ntp_sample *s, struct error *e) __must_check;

/* One server's opinion: offset with the bound of its error. */
struct ntp_opinion { s64 offset_us; u64 error_us; u8 stratum; };
/* Whom to follow: the servers that a majority agrees with (their intervals overlap) are good; of these prefer if it is one
 * (-1: none), else the lowest stratum, then the least error. good[i] tells who is. -1: there is no majority. */
int ntp_select(const struct ntp_opinion *o, unsigned n, int prefer, bool *good);
