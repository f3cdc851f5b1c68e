/* SPDX-License-Identifier: MIT */
/* Telling a network that a guest is somewhere else now: RARP (switches learn its MAC address), ARP announcements and
 * unsolicited neighbour advertisements for the addresses that it was seen to use. */
#pragma once
#include "hv/lib/err.h"

#define ANNOUNCE_IPV4 4
#define ANNOUNCE_IPV6 8
#define ANNOUNCE_KEEP_SECONDS 3600 /* an address not seen for so long may be somebody else's by now */

/* What is known of one card's guest; moves with it. Slots in no order, seen 0: free. No padding. */
struct announce_state {
	u64 seen4[ANNOUNCE_IPV4], seen6[ANNOUNCE_IPV6]; /* any clock that moves with the guest */
	u8 ipv4[ANNOUNCE_IPV4 * 4], ipv6[ANNOUNCE_IPV6 * 16];
	u8 router; /* sends router advertisements: says so in its neighbour advertisements, too */
	u8 reserved[7];
};

/* Looks at a frame (14.. bytes, no tag) that the guest with that MAC address sends at time now (not 0). Takes addresses
 * from ARP and from IPv6 neighbour discovery only: what it forwards for others is not its own. */
void announce_snoop(struct announce_state *a, const u8 mac[6], u64 now, const u8 *frame, unsigned len);
/* The i-th frame (0 is the RARP) into frame (at least 128 bytes), of addresses seen at or after `oldest`. Its length; 0:
 * there are no more. */
unsigned announce_frame(const struct announce_state *a, const u8 mac[6], u64 oldest, unsigned i, u8 *frame);
