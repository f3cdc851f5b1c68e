/* SPDX-License-Identifier: MIT */
#include "net/announce.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const u8 mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
static const u8 other[6] = { 0x52, 0x54, 0, 9, 9, 9 };
static const u8 link_local[16] = { 0xfe, 0x80, [8] = 0x50, 0x54, 0, 0xff, 0xfe, 1, 2, 3 };
static struct announce_state s;

static int setup(void **state)
{
	memset(&s, 0, sizeof(s));
	return 0;
}

static void snoop(u64 now, const u8 *frame, unsigned len)
{
	u8 *copy = malloc(len); /* of the exact size, for ASan */

	memcpy(copy, frame, len);
	announce_snoop(&s, mac, now, copy, len);
	free(copy);
}

static void arp(u64 now, const u8 *from, const u8 *sender, u8 op, u32 ip, unsigned len)
{
	u8 f[60] = { [12] = 8, 6, 0, 1, 8, 0, 6, 4, 0, op };

	memset(f, 0xff, 6);
	memcpy(f + 6, from, 6);
	memcpy(f + 22, sender, 6);
	for (unsigned i = 0; i < 4; i++)
		f[28 + i] = (u8)(ip >> (24 - 8 * i));
	snoop(now, f, len);
}

static void nd(u64 now, u8 type, const u8 *source, u8 flags, const u8 *target, u8 hops, unsigned len)
{
	u8 f[86] = { 0x33, 0x33, 0, 0, 0, 1, [12] = 0x86, 0xdd, 0x60, [20] = 58, hops, [54] = type, [58] = flags };

	memcpy(f + 6, mac, 6);
	memcpy(f + 22, source, 16);
	memcpy(f + 62, target, 16);
	snoop(now, f, len);
}

static unsigned frames(u64 oldest)
{
	u8 f[128];
	unsigned n = 0;

	while (announce_frame(&s, mac, oldest, n, f))
		n++;
	return n;
}

static void test_rarp(void **state)
{
	u8 f[128];

	assert_int_equal(frames(0), 1);
	assert_int_equal(announce_frame(&s, mac, 0, 0, f), 60);
	assert_memory_equal(f, "\xff\xff\xff\xff\xff\xff\x52\x54\0\1\2\3\x80\x35\0\1\x08\0\6\4\0\3\x52\x54\0\1\2\3\0\0\0\0"
			    "\x52\x54\0\1\2\3\0\0\0\0\0\0", 44);
}

static void test_arp(void **state)
{
	u8 f[128];

	arp(5, mac, mac, 1, 0x0a000102, 60);
	assert_int_equal(frames(0), 2);
	assert_int_equal(announce_frame(&s, mac, 0, 1, f), 60);
	assert_memory_equal(f, "\xff\xff\xff\xff\xff\xff\x52\x54\0\1\2\3\x08\6\0\1\x08\0\6\4\0\1\x52\x54\0\1\2\3\x0a\0\1\2"
			    "\0\0\0\0\0\0\x0a\0\1\2\0\0", 44);
	/* Only its own, only whole, only usable ones. */
	arp(5, other, mac, 1, 0x0a000103, 60);
	arp(5, mac, other, 1, 0x0a000103, 60);
	arp(5, mac, mac, 3, 0x0a000103, 60);
	arp(5, mac, mac, 1, 0x0a000103, 41);
	arp(5, mac, mac, 1, 0, 60);
	arp(5, mac, mac, 2, 0xe0000001, 60);
	arp(5, mac, mac, 2, 0xffffffff, 60);
	arp(5, mac, mac, 2, 0x7f000001, 60);
	assert_int_equal(frames(0), 2);
	arp(6, mac, mac, 2, 0x0a000103, 42);
	assert_int_equal(frames(0), 3);
	/* Too long ago: may be another's by now. */
	assert_int_equal(frames(6), 2);
	assert_int_equal(frames(7), 1);
	arp(7, mac, mac, 2, 0x0a000102, 60);
	assert_int_equal(frames(7), 2);
	/* More than there is room for: the one not seen for the longest time goes. */
	for (u32 i = 0; i < ANNOUNCE_IPV4 - 1; i++)
		arp(8, mac, mac, 2, 0x0a000200 + i, 60);
	assert_int_equal(frames(0), 1 + ANNOUNCE_IPV4);
	assert_int_equal(frames(7), 1 + ANNOUNCE_IPV4);
	assert_int_equal(frames(8), ANNOUNCE_IPV4);
}

static u16 checksum(const u8 *ip)
{
	u32 sum = 58 + 32;

	for (unsigned i = 8; i < 72; i += 2)
		sum += (u32)(ip[i] << 8 | ip[i + 1]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (u16)sum;
}

static void test_neighbours(void **state)
{
	static const u8 none[16], global[16] = { 0x20, 1, 0xd, 0xb8, [15] = 7 }, loopback[16] = { [15] = 1 },
		group[16] = { 0xff, 2, [15] = 1 }, forwarded[16] = { 0x20, 1, [15] = 9 };
	u8 f[128];

	nd(1, 135, link_local, 0, global, 255, 86); /* asks for somebody else */
	assert_int_equal(frames(0), 2);
	assert_int_equal(announce_frame(&s, mac, 0, 1, f), 86);
	assert_memory_equal(f, "\x33\x33\0\0\0\1\x52\x54\0\1\2\3\x86\xdd\x60\0\0\0\0\x20\x3a\xff", 22);
	assert_memory_equal(f + 22, link_local, 16);
	assert_memory_equal(f + 38, group, 16);
	assert_int_equal(f[54], 136);
	assert_int_equal(f[58], 0x20);
	assert_memory_equal(f + 62, link_local, 16);
	assert_memory_equal(f + 78, "\2\1\x52\x54\0\1\2\3", 8);
	assert_int_equal(checksum(f + 14), 0xffff);
	nd(1, 136, link_local, 0, global, 255, 86);
	assert_int_equal(frames(0), 3);
	announce_frame(&s, mac, 0, 2, f);
	assert_memory_equal(f + 22, global, 16);
	assert_int_equal(f[58], 0x20);
	/* Routers keep on being routers. */
	nd(1, 136, link_local, 0xe0, global, 255, 86);
	announce_frame(&s, mac, 0, 2, f);
	assert_int_equal(f[58], 0xa0);
	assert_int_equal(checksum(f + 14), 0xffff);
	nd(1, 136, link_local, 0x60, global, 255, 86);
	announce_frame(&s, mac, 0, 2, f);
	assert_int_equal(f[58], 0x20);
	nd(1, 134, link_local, 0, global, 255, 86);
	announce_frame(&s, mac, 0, 2, f);
	assert_int_equal(f[58], 0xa0);
	/* Not usable, not neighbour discovery, cut. */
	nd(1, 135, none, 0, group, 255, 86);
	nd(1, 136, loopback, 0, group, 255, 86);
	nd(1, 135, forwarded, 0, group, 64, 86);
	nd(1, 128, group, 0, group, 255, 86);
	nd(1, 136, link_local, 0, forwarded, 255, 77);
	nd(1, 136, global, 0, global, 255, 61);
	assert_int_equal(frames(0), 3);
	for (u8 i = 0; i < 20; i++) {
		u8 ip[16] = { 0xfd, [15] = i };

		nd(2 + i, 135, ip, 0, none, 255, 86);
	}
	assert_int_equal(frames(0), 1 + ANNOUNCE_IPV6);
	assert_int_equal(frames(14), 1 + ANNOUNCE_IPV6);
}

/* Whatever a guest sends: no read beyond the frame, and frames of a sane size come out. */
static void test_random(void **state)
{
	srand(1);
	for (unsigned round = 0; round < 20000; round++) {
		unsigned len = 14 + (unsigned)rand() % 100;
		u8 f[128], out[128];

		for (unsigned i = 0; i < len; i++)
			f[i] = (u8)rand();
		memcpy(f + 6, mac, 6);
		f[12] = rand() % 2 ? 8 : 0x86;
		f[13] = f[12] == 8 ? 6 : 0xdd;
		if (f[12] == 0x86) {
			f[14] = 0x60;
			f[20] = 58;
			f[21] = 255;
			f[54 < len ? 54 : 14] = (u8)(133 + rand() % 4);
		}
		snoop(round + 1, f, len);
		for (unsigned i = 0; i < 14; i++) {
			len = announce_frame(&s, mac, 0, i, out);
			assert_true(len == 60 || len == 86 || (len == 0 && i));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_rarp, setup), cmocka_unit_test_setup(test_arp, setup),
		cmocka_unit_test_setup(test_neighbours, setup), cmocka_unit_test_setup(test_random, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
