/* SPDX-License-Identifier: MIT */
#include "net/vswitch.h"
#include "hv/fake/fake.h"
#include "net/announce.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define US (FAKE_TSC_HZ / 1000000)

/* A port that keeps the last frame and counts. */
struct end { struct vport port; u8 frame[1600]; unsigned len, n, announcements; u16 vlan; bool full, running; };

static bool end_deliver(struct vport *port, const u8 *frame, unsigned len, u16 vlan)
{
	struct end *e = container_of(port, struct end, port);

	if (e->full)
		return false;
	assert_true(len >= 14 && len <= VSWITCH_FRAME_MAX);
	e->len = port->trunk ? vswitch_tag(e->frame, frame, len, vlan) : len;
	if (!port->trunk)
		memcpy(e->frame, frame, len);
	e->vlan = vlan;
	e->n++;
	return true;
}

static bool end_up(struct vport *port)
{
	return container_of(port, struct end, port)->running;
}

static unsigned end_announce(struct vport *port, unsigned i, u8 *frame)
{
	static const struct announce_state nothing;
	unsigned len = announce_frame(&nothing, port->mac, 0, i, frame);

	container_of(port, struct end, port)->announcements += !!len;
	return len;
}

static const struct vport_ops end_ops = { .deliver = end_deliver };
static const struct vport_ops guest_ops = { .deliver = end_deliver, .up = end_up, .announce = end_announce };

static struct vswitch *sw;
static struct end up, a, b, c;

static void end_add(struct end *e, const struct vport_ops *ops, bool trunk, u16 vlan, u8 mac)
{
	*e = (struct end){ .port = { .ops = ops, .trunk = trunk, .vlan = vlan, .mac = { 2, 0, 0, 0, 0, mac } } };
	assert_int_equal(vswitch_add(sw, &e->port), 0);
}

static int setup(void **state)
{
	fake_memory(64ul << 20);
	sw = vswitch_create();
	end_add(&up, &end_ops, true, 0, 0);
	end_add(&a, &guest_ops, false, 0, 0xa);
	end_add(&b, &guest_ops, false, 0, 0xb);
	end_add(&c, &guest_ops, false, 7, 0xc);
	return 0;
}

static int teardown(void **state)
{
	vswitch_remove(&up.port);
	vswitch_remove(&a.port);
	vswitch_remove(&b.port);
	vswitch_remove(&c.port);
	return 0;
}

/* to, from: last byte of a MAC address; 0xff as `to`: broadcast. */
static unsigned make(u8 *f, u8 to, u8 from, u16 vlan, unsigned len)
{
	static const u8 base[6] = { 2 };
	unsigned at = 12;

	memset(f, 0x55, len);
	memcpy(f, base, 6);
	memcpy(f + 6, base, 6);
	f[5] = to;
	f[11] = from;
	if (to == 0xff)
		memset(f, 0xff, 6);
	if (vlan) {
		memcpy(f + 12, (u8[4]){ 0x81, 0, (u8)(vlan >> 8), (u8)vlan }, 4);
		at = 16;
	}
	f[at] = 0x08;
	f[at + 1] = 0;
	return len;
}

static void sends(struct end *e, u8 to, u8 from, u16 vlan, unsigned len)
{
	u8 *f = malloc(len); /* of the exact size, for ASan */
	unsigned n = len >= 18 ? make(f, to, from, vlan, len) : len;

	if (len < 18)
		memset(f, 2, len);
	up.n = a.n = b.n = c.n = 0;
	fake_tsc_now += US;
	vswitch_input(&e->port, f, n);
	free(f);
}

#define REACHES(up_, a_, b_, c_) do { \
	assert_int_equal(up.n, up_); assert_int_equal(a.n, a_); assert_int_equal(b.n, b_); assert_int_equal(c.n, c_); } while (0)

static void test_learning(void **state)
{
	sends(&a, 0xb, 0xa, 0, 60); /* unknown: to all others of the VLAN */
	REACHES(1, 0, 1, 0);
	sends(&b, 0xa, 0xb, 0, 60); /* known */
	REACHES(0, 1, 0, 0);
	assert_int_equal(a.len, 60);
	assert_int_equal(a.frame[5], 0xa);
	sends(&a, 0xff, 0xa, 0, 60);
	REACHES(1, 0, 1, 0);
	sends(&up, 0xa, 0x99, 0, 60);
	REACHES(0, 1, 0, 0);
	sends(&b, 0x99, 0xb, 0, 60);
	REACHES(1, 0, 0, 0);
	/* It has moved to the other side of the uplink, and comes back. Nobody hears himself. */
	sends(&up, 0xff, 0xb, 0, 60);
	REACHES(0, 1, 0, 0);
	sends(&a, 0xb, 0xa, 0, 60);
	REACHES(1, 0, 0, 0);
	sends(&up, 0xb, 0x99, 0, 60); /* never back to where it came from */
	REACHES(0, 0, 0, 0);
	sends(&b, 0xff, 0xb, 0, 60);
	sends(&a, 0xb, 0xa, 0, 60);
	REACHES(0, 0, 1, 0);
	assert_int_equal(vswitch_macs(sw, 0), 3);
	assert_int_equal(vswitch_macs(sw, 7), 0);
	/* Unheard of for long: flooded again. */
	fake_tsc_now += VSWITCH_AGE_US * US;
	sends(&a, 0xb, 0xa, 0, 60);
	REACHES(1, 0, 1, 0);
	vswitch_poll();
	assert_int_equal(vswitch_macs(sw, 0), 1);
	/* Its port is gone. */
	vswitch_remove(&b.port);
	sends(&a, 0xb, 0xa, 0, 60);
	REACHES(1, 0, 0, 0);
}

static void test_vlans(void **state)
{
	u8 f[1600];

	sends(&c, 0xff, 0xc, 0, 1514);
	REACHES(1, 0, 0, 0);
	assert_int_equal(up.len, 1518);
	assert_memory_equal(up.frame + 12, "\x81\0\0\7\x08\0\x55", 7);
	assert_int_equal(up.frame[11], 0xc);
	sends(&up, 0xff, 0x99, 7, 1518);
	REACHES(0, 0, 0, 1);
	assert_int_equal(c.len, 1514);
	assert_memory_equal(c.frame + 12, "\x08\0\x55\x55", 4);
	make(f, 0xff, 0x99, 0, 1514);
	assert_memory_equal(c.frame, f, 1514);
	sends(&up, 0xff, 0x99, 8, 64); /* nobody is in that one */
	REACHES(0, 0, 0, 0);
	sends(&up, 0xc, 0x99, 0, 64); /* its address is known, but in another VLAN */
	REACHES(0, 1, 1, 0);
	sends(&a, 0xc, 0xa, 0, 64);
	REACHES(1, 0, 1, 0);
	/* The priority bits do not matter; VLAN 0 is a priority only. */
	make(f, 0xff, 0x99, 7, 64);
	f[14] |= 0xe0;
	c.n = 0;
	vswitch_input(&up.port, f, 64);
	assert_int_equal(c.n, 1);
	f[14] = 0xe0;
	f[15] = 0;
	a.n = c.n = 0;
	vswitch_input(&up.port, f, 64);
	assert_true(a.n == 1 && !c.n);
	/* No way into another VLAN by a tag of the guest's own, or by two. */
	sends(&a, 0xff, 0xa, 7, 64);
	REACHES(0, 0, 0, 0);
	assert_int_equal(a.port.refused, 1);
	make(f, 0xff, 0x99, 7, 64);
	memcpy(f + 16, f + 12, 4);
	vswitch_input(&up.port, f, 64);
	REACHES(0, 0, 0, 0);
	make(f, 0xff, 0xa, 0, 64);
	f[12] = 0x88;
	f[13] = 0xa8;
	vswitch_input(&a.port, f, 64);
	REACHES(0, 0, 0, 0);
}

static void test_malformed(void **state)
{
	static const unsigned bad[] = { 0, 1, 13, 1515, 1518, 1519, 1600 };
	u8 f[64];

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		sends(&a, 0xff, 0xa, 0, bad[i]);
		REACHES(0, 0, 0, 0);
		sends(&up, 0xff, 0x99, 0, bad[i]);
		REACHES(0, 0, 0, 0);
	}
	assert_int_equal(a.port.refused, ARRAY_SIZE(bad));
	/* Tagged, with nothing in it; the shortest that is something. */
	make(f, 0xff, 0x99, 7, 64);
	vswitch_input(&up.port, f, 17);
	REACHES(0, 0, 0, 0);
	vswitch_input(&up.port, f, 18);
	assert_int_equal(c.n, 1);
	assert_int_equal(c.len, 14);
	/* Nobody's address, a group's address, and a bridge's own business. */
	make(f, 0xff, 0xa, 0, 64);
	memset(f + 6, 0, 6);
	vswitch_input(&a.port, f, 64);
	f[6] = 1;
	vswitch_input(&a.port, f, 64);
	make(f, 0xff, 0xa, 0, 64);
	memcpy(f, "\x01\x80\xc2\0\0\x0e", 6);
	vswitch_input(&a.port, f, 64);
	assert_true(!up.n && !b.n);
	f[5] = 0x10;
	vswitch_input(&a.port, f, 64);
	assert_true(up.n == 1 && b.n == 1);
}

static void test_table_is_bounded(void **state)
{
	u8 f[64];

	for (u32 i = 0; i < 3 * VSWITCH_MACS; i++) {
		make(f, 0xff, 0xa, 0, 64);
		memcpy(f + 7, &i, 4);
		vswitch_input(&a.port, f, 64);
		f[6] = 6;
		vswitch_input(&up.port, f, 64);
	}
	assert_int_equal(a.port.n_macs <= VSWITCH_MACS_PER_GUEST, 1);
	assert_true(vswitch_macs(sw, 0) <= VSWITCH_MACS && vswitch_macs(sw, 0) > VSWITCH_MACS / 2);
	assert_int_equal(a.port.n_macs + up.port.n_macs, vswitch_macs(sw, 0));
	/* Those beyond are reached all the same. */
	sends(&b, 0x77, 0xb, 0, 64);
	REACHES(1, 1, 0, 0);
	/* And a new one still finds its place. */
	sends(&b, 0xff, 0xb, 0, 64);
	sends(&a, 0xb, 0xa, 0, 64);
	REACHES(0, 0, 1, 0);
}

static void test_no_room(void **state)
{
	b.full = true;
	sends(&a, 0xff, 0xa, 0, 64);
	REACHES(1, 0, 0, 0);
	assert_int_equal(b.port.no_room, 1);
	assert_int_equal(b.port.frames_out, 0);
	assert_int_equal(a.port.frames_in, 1);
	assert_int_equal(up.port.frames_out, 1);
}

static void test_queue(void **state)
{
	assert_null(vswitch_buffer(&up.port));
	for (unsigned round = 0; round < 3; round++) {
		up.n = 0;
		for (unsigned i = 0; i < VPORT_QUEUE; i++) {
			u8 *f = vswitch_buffer(&a.port);

			assert_non_null(f);
			vswitch_commit(&a.port, make(f, 0xff, 0xa, 0, i ? 60 + i : VSWITCH_FRAME_MAX));
		}
		assert_null(vswitch_buffer(&a.port));
		assert_true(vswitch_poll());
		assert_int_equal(up.n, VPORT_QUEUE);
		assert_int_equal(up.len, 60 + VPORT_QUEUE - 1);
		assert_false(vswitch_poll());
		/* The ring's seam is somewhere else every time. */
		vswitch_commit(&a.port, make(vswitch_buffer(&a.port), 0xff, 0xa, 0, 64));
		vswitch_poll();
	}
	/* What a guest has left behind is gone with it. */
	vswitch_commit(&a.port, make(vswitch_buffer(&a.port), 0xff, 0xa, 0, 64));
	vswitch_remove(&a.port);
	up.n = 0;
	assert_false(vswitch_poll());
	assert_int_equal(up.n, 0);
}

static void poll_for(u64 us)
{
	for (u64 end = fake_tsc_now + us * US; fake_tsc_now < end; fake_tsc_now += 10000 * US)
		vswitch_poll();
}

static void test_arrival(void **state)
{
	/* The guest is on its way here: what is for it goes to where it is. */
	sends(&up, 0xff, 0xa, 0, 60);
	sends(&b, 0xa, 0xb, 0, 60);
	REACHES(1, 0, 0, 0);
	poll_for(1000000);
	assert_int_equal(a.announcements, 0);
	/* It runs here: at once, and from then on it is the port that counts. */
	up.n = 0;
	a.running = true;
	vswitch_poll();
	assert_int_equal(a.announcements, 1);
	assert_int_equal(up.n, 1);
	assert_memory_equal(up.frame + 12, "\x80\x35", 2);
	assert_int_equal(up.frame[11], 0xa);
	sends(&b, 0xa, 0xb, 0, 60);
	REACHES(0, 1, 0, 0);
	poll_for(40000);
	assert_int_equal(a.announcements, 1);
	poll_for(300000);
	assert_int_equal(a.announcements, 4);
	poll_for(5000000);
	assert_int_equal(a.announcements, 6);
	/* Frozen for a move that fails, then on again: it says so again. Nothing while it stands. */
	a.running = false;
	poll_for(100000);
	a.running = true;
	poll_for(10000);
	a.running = false;
	poll_for(1000000);
	assert_int_equal(a.announcements, 7);
}

/* The guest of port a has moved to behind the uplink. */
static void test_moved(void **state)
{
	static struct end gone;

	vswitch_remove(&a.port);
	gone = (struct end){ .port = { .ops = &end_ops, .moved = true, .mac = { 2, 0, 0, 0, 0, 0xa } } };
	assert_int_equal(vswitch_add(sw, &gone.port), 0);
	assert_null(gone.port.queue);
	sends(&up, 0xa, 0x99, 0, 60);
	REACHES(0, 0, 0, 0);
	assert_int_equal(gone.n, 1);
	/* Its new host gets these by itself: broadcasts, other addresses and VLANs, and what guests here send. */
	sends(&up, 0xff, 0x99, 0, 60);
	sends(&up, 0x98, 0x99, 0, 60);
	sends(&up, 0xa, 0x99, 7, 60);
	sends(&b, 0xa, 0xb, 0, 60);
	REACHES(1, 0, 0, 0);
	assert_int_equal(gone.n, 1);
	/* It has announced itself; a frame that was sent before that. */
	sends(&up, 0xff, 0xa, 0, 60);
	sends(&up, 0xa, 0x99, 0, 60);
	assert_int_equal(gone.n, 2);
	sends(&up, 0xa, 0xa, 0, 60); /* not what comes from itself */
	assert_int_equal(gone.n, 2);
	assert_false(vswitch_poll());
	/* It comes back: on its way it is still there, then it is here. */
	end_add(&a, &guest_ops, false, 0, 0xa);
	sends(&up, 0xa, 0x99, 0, 60);
	assert_int_equal(gone.n, 3);
	a.running = true;
	vswitch_poll();
	sends(&up, 0xa, 0x99, 0, 60);
	REACHES(0, 1, 0, 0);
	assert_int_equal(gone.n, 3);
	vswitch_remove(&gone.port);
}

static void test_port_limit(void **state)
{
	static struct end many[VSWITCH_PORTS];
	unsigned n;

	for (n = 0; n < VSWITCH_PORTS; n++) {
		many[n].port = (struct vport){ .ops = &end_ops, .trunk = true };
		if (vswitch_add(sw, &many[n].port))
			break;
	}
	assert_int_equal(n, VSWITCH_PORTS - 4);
	while (n)
		vswitch_remove(&many[--n].port);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_learning), T(test_vlans), T(test_malformed), T(test_table_is_bounded), T(test_no_room), T(test_queue),
		T(test_arrival), T(test_port_limit),
		T(test_moved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
