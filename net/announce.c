/* SPDX-License-Identifier: MIT */
#include "net/announce.h"
#include "hv/lib/be.h"

#include <string.h>

#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_RARP 0x8035
#define ETHERTYPE_IPV6 0x86dd
/* RFC 4861, "Message Formats" */
#define ICMPV6 58
#define ROUTER_SOLICITATION 133
#define ROUTER_ADVERTISEMENT 134
#define NEIGHBOR_SOLICITATION 135
#define NEIGHBOR_ADVERTISEMENT 136
#define NA_ROUTER 0x80
#define NA_OVERRIDE 0x20
#define MIN_FRAME 60u

/* Notes an address of `size` bytes: in its slot, else in place of the one not seen for the longest time. */
static void note(u64 *seen, u8 *slots, u32 n, u32 size, const u8 *address, u64 now)
{
	u32 best = 0;

	for (u32 i = 0; i < n; i++) {
		if (seen[i] && !memcmp(slots + i * size, address, size)) {
			seen[i] = now;
			return;
		}
		if (seen[i] < seen[best])
			best = i;
	}
	memcpy(slots + best * size, address, size);
	seen[best] = now;
}

static void note4(struct announce_state *a, const u8 *ip, u64 now)
{
	/* Not "this network", loopback, multicast, broadcast. */
	if (ip[0] && ip[0] != 127 && ip[0] < 224)
		note(a->seen4, a->ipv4, ANNOUNCE_IPV4, 4, ip, now);
}

static void note6(struct announce_state *a, const u8 *ip, u64 now)
{
	static const u8 none[15];

	/* Not unspecified, loopback, multicast. */
	if (memcmp(ip, none, 15) && ip[0] != 0xff)
		note(a->seen6, a->ipv6, ANNOUNCE_IPV6, 16, ip, now);
}

void announce_snoop(struct announce_state *a, const u8 mac[6], u64 now, const u8 *frame, unsigned len)
{
	const u8 *p = frame + 14;

	if (len < 14 + 28 || memcmp(frame + 6, mac, 6))
		return;
	if (be16(frame + 12) == ETHERTYPE_ARP) {
		/* Ethernet and IPv4, request or reply, of its own hardware address */
		if (!memcmp(p, "\0\1\x08\0\6\4\0", 7) && (p[7] == 1 || p[7] == 2) && !memcmp(p + 8, mac, 6))
			note4(a, p + 14, now);
		return;
	}
	/* Neighbour discovery has hop limit 255 and no extension headers. */
	if (be16(frame + 12) != ETHERTYPE_IPV6 || len < 14 + 40 + 8 || p[0] >> 4 != 6 || p[6] != ICMPV6 || p[7] != 255 ||
	    p[40] < ROUTER_SOLICITATION || p[40] > NEIGHBOR_ADVERTISEMENT)
		return;
	note6(a, p + 8, now);
	if (p[40] == ROUTER_ADVERTISEMENT)
		a->router = 1;
	if (p[40] == NEIGHBOR_ADVERTISEMENT && len >= 14 + 40 + 24) {
		a->router = !!(p[44] & NA_ROUTER);
		note6(a, p + 48, now);
	}
}

static u8 *header(u8 *frame, const u8 *to, const u8 *mac, u16 type)
{
	memset(frame, 0, MIN_FRAME);
	memcpy(frame, to, 6);
	memcpy(frame + 6, mac, 6);
	put_be16(frame + 12, type);
	return frame + 14;
}

/* RFC 826, RFC 903, RFC 5227 "Announcing an Address": sender and target are the same. */
static unsigned arp(u8 *frame, u16 type, u8 op, const u8 *mac, const u8 *ip)
{
	static const u8 broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	u8 *p = header(frame, broadcast, mac, type);

	memcpy(p, "\0\1\x08\0\6\4\0", 7);
	p[7] = op;
	memcpy(p + 8, mac, 6);
	memcpy(p + 14, ip, 4);
	if (type == ETHERTYPE_RARP)
		memcpy(p + 18, mac, 6);
	memcpy(p + 24, ip, 4);
	return MIN_FRAME;
}

/* RFC 4861, "Sending Unsolicited Neighbor Advertisements": to all nodes, with the target link-layer address. */
static unsigned advertisement(u8 *frame, const u8 *mac, const u8 *ip, bool router)
{
	static const u8 all_nodes_mac[6] = { 0x33, 0x33, 0, 0, 0, 1 };
	static const u8 all_nodes[16] = { 0xff, 0x02, [15] = 1 };
	u8 *p = header(frame, all_nodes_mac, mac, ETHERTYPE_IPV6), *icmp = p + 40;
	u32 sum = ICMPV6 + 32;

	p[0] = 0x60;
	put_be16(p + 4, 32);
	p[6] = ICMPV6;
	p[7] = 255;
	memcpy(p + 8, ip, 16);
	memcpy(p + 24, all_nodes, 16);
	memset(icmp, 0, 32);
	icmp[0] = NEIGHBOR_ADVERTISEMENT;
	icmp[4] = NA_OVERRIDE | (router ? NA_ROUTER : 0);
	memcpy(icmp + 8, ip, 16);
	icmp[24] = 2; /* option: target link-layer address, 8 bytes */
	icmp[25] = 1;
	memcpy(icmp + 26, mac, 6);
	/* Over the pseudo-header (both addresses, length, next header) and the message, which lie one behind the other. */
	for (unsigned i = 8; i < 72; i += 2)
		sum += be16(p + i);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	put_be16(icmp + 2, (u16)~sum);
	return 14 + 72;
}

unsigned announce_frame(const struct announce_state *a, const u8 mac[6], u64 oldest, unsigned i, u8 *frame)
{
	static const u8 no_ip[4];

	if (i-- == 0)
		return arp(frame, ETHERTYPE_RARP, 3, mac, no_ip);
	for (u32 n = 0; n < ANNOUNCE_IPV4; n++)
		if (a->seen4[n] && a->seen4[n] >= oldest && i-- == 0)
			return arp(frame, ETHERTYPE_ARP, 1, mac, a->ipv4 + 4 * n);
	for (u32 n = 0; n < ANNOUNCE_IPV6; n++)
		if (a->seen6[n] && a->seen6[n] >= oldest && i-- == 0)
			return advertisement(frame, mac, a->ipv6 + 16 * n, a->router);
	return 0;
}
