/* SPDX-License-Identifier: MIT */
#include "net/vswitch.h"
#include "hv/lib/clock.h"
#include "hv/mm/frame.h"

#include <string.h>

#define WAYS 8u /* entries that an address may be in */
#define SWEEP_US 10000000ull
#define QUEUE_SLOT 1536u /* length, then the frame */
#define QUEUE_PAGES (VPORT_QUEUE * QUEUE_SLOT / PAGE_SIZE)
_Static_assert(VSWITCH_FRAME_MAX + sizeof(u32) <= QUEUE_SLOT && VPORT_QUEUE * QUEUE_SLOT % PAGE_SIZE == 0, "whole pages");

struct mac_entry { struct vport *port; u64 seen_us; u16 vlan; u8 mac[6]; };

struct vswitch {
	struct vswitch *next;
	struct vport *ports[VSWITCH_PORTS];
	u32 n_ports;
	u64 swept_us;
	struct mac_entry macs[VSWITCH_MACS];
};

/* Microseconds after a guest has begun to run here. The first may come before the network's own switches listen. */
static const u32 announce_at[] = { 0, 50000, 150000, 300000, 1000000, 2000000 };

struct vnetwork vnetworks[CONFIG_MAX_SWITCHES];
u32 n_vnetworks;
static struct vswitch *switches;

struct vswitch *vswitch_create(void)
{
	struct vswitch *sw = heap_calloc(1, sizeof(*sw));

	if (sw) {
		sw->next = switches;
		switches = sw;
	}
	return sw;
}

struct vnetwork *vswitch_network(const char *name)
{
	for (u32 i = 0; i < n_vnetworks; i++)
		if (!strcmp(vnetworks[i].name, name))
			return &vnetworks[i];
	return NULL;
}

int vswitch_add(struct vswitch *sw, struct vport *port)
{
	if (sw->n_ports == VSWITCH_PORTS)
		return -E_NOMEM;
	if (!port->trunk && !port->moved) {
		port->queue = frame_alloc_n(QUEUE_PAGES);
		if (!port->queue)
			return -E_NOMEM;
	}
	port->sw = sw;
	port->was_up = false;
	port->n_macs = port->queue_first = port->queue_n = 0;
	port->announce_us = 0;
	sw->ports[sw->n_ports++] = port;
	return 0;
}

/* --- addresses --- */

static void forget(struct mac_entry *m)
{
	if (m->port)
		m->port->n_macs--;
	m->port = NULL;
}

void vswitch_remove(struct vport *port)
{
	struct vswitch *sw = port->sw;

	if (!sw)
		return;
	for (u32 i = 0; i < VSWITCH_MACS; i++)
		if (sw->macs[i].port == port)
			forget(&sw->macs[i]);
	for (u32 i = 0; i < sw->n_ports; i++)
		if (sw->ports[i] == port)
			sw->ports[i] = sw->ports[--sw->n_ports];
	if (port->queue)
		frame_free_n(port->queue, QUEUE_PAGES);
	port->queue = NULL;
	port->sw = NULL;
}

static struct mac_entry *bucket(struct vswitch *sw, u16 vlan, const u8 *mac)
{
	u64 h = vlan;

	memcpy((u8 *)&h + 2, mac, 6);
	h *= 0x9e3779b97f4a7c15ull;
	return &sw->macs[(h >> 48) % (VSWITCH_MACS / WAYS) * WAYS];
}

static struct mac_entry *find(struct vswitch *sw, u16 vlan, const u8 *mac)
{
	struct mac_entry *m = bucket(sw, vlan, mac);

	for (u32 i = 0; i < WAYS; i++)
		if (m[i].port && m[i].vlan == vlan && !memcmp(m[i].mac, mac, 6))
			return &m[i];
	return NULL;
}

static void learn(struct vport *port, u16 vlan, const u8 *mac)
{
	struct mac_entry *m = find(port->sw, vlan, mac), *b;

	if (!m) {
		if (!port->trunk && port->n_macs >= VSWITCH_MACS_PER_GUEST)
			return;
		m = b = bucket(port->sw, vlan, mac);
		for (u32 i = 0; i < WAYS && m->port; i++)
			if (!b[i].port || b[i].seen_us < m->seen_us)
				m = &b[i];
	}
	if (m->port != port) {
		forget(m);
		m->port = port;
		port->n_macs++;
	}
	m->vlan = vlan;
	memcpy(m->mac, mac, 6);
	m->seen_us = now_us();
}

static void sweep(struct vswitch *sw)
{
	u64 now = now_us();

	if (now - sw->swept_us < SWEEP_US)
		return;
	sw->swept_us = now;
	for (u32 i = 0; i < VSWITCH_MACS; i++)
		if (sw->macs[i].port && now - sw->macs[i].seen_us >= VSWITCH_AGE_US)
			forget(&sw->macs[i]);
}

/* --- frames --- */

unsigned vswitch_tag(u8 *out, const u8 *frame, unsigned len, u16 vlan)
{
	if (!vlan) {
		memcpy(out, frame, len);
		return len;
	}
	memcpy(out, frame, 12);
	memcpy(out + 12, (u8[4]){ 0x81, 0x00, (u8)(vlan >> 8), (u8)vlan }, 4);
	memcpy(out + 16, frame + 12, len - 12);
	return len + VSWITCH_TAG;
}

static bool is_tagged(const u8 *frame)
{
	return (frame[12] == 0x81 && frame[13] == 0x00) || (frame[12] == 0x88 && frame[13] == 0xa8);
}

static void deliver(struct vport *to, const u8 *frame, unsigned len, u16 vlan)
{
	/* Its own: a guest that is frozen for a move here announces itself over there already, and would take what comes of that
	 * for another machine with its addresses. */
	if (!to->trunk && !memcmp(to->mac, frame + 6, 6))
		return;
	if (to->ops->deliver(to, frame, len, vlan))
		to->frames_out++;
	else
		to->no_room++;
}

/* Even if the table knows better already, because the guest has announced itself: this frame was on its way before. But not
 * once the guest is back. */
static bool to_moved(struct vswitch *sw, const u8 *frame, unsigned len, u16 vlan)
{
	const struct mac_entry *m = find(sw, vlan, frame);

	if (m && !m->port->trunk)
		return false;
	for (u32 i = 0; i < sw->n_ports; i++) {
		struct vport *to = sw->ports[i];

		if (to->moved && to->vlan == vlan && !memcmp(to->mac, frame, 6)) {
			deliver(to, frame, len, vlan);
			return true;
		}
	}
	return false;
}

/* len bytes without a tag. */
static void forward(struct vport *from, const u8 *frame, unsigned len, u16 vlan)
{
	/* IEEE 802.1D: these addresses end at a bridge. */
	static const u8 link_local[5] = { 0x01, 0x80, 0xc2, 0, 0 };
	struct vswitch *sw = from->sw;
	const u8 *source = frame + 6;
	struct mac_entry *m = NULL;

	if (!config_mac_ok(source) || (!memcmp(frame, link_local, 5) && frame[5] < 16)) {
		from->refused++;
		return;
	}
	learn(from, vlan, source);
	if (from->trunk && to_moved(sw, frame, len, vlan))
		return;
	if (!(frame[0] & 1))
		m = find(sw, vlan, frame);
	if (m && now_us() - m->seen_us < VSWITCH_AGE_US) {
		/* To where it came from: who shares that side has got it already. */
		if (m->port != from)
			deliver(m->port, frame, len, vlan);
		return;
	}
	for (u32 i = 0; i < sw->n_ports; i++) {
		struct vport *to = sw->ports[i];

		if (to != from && !to->moved && (to->trunk || to->vlan == vlan))
			deliver(to, frame, len, vlan);
	}
}

void vswitch_input(struct vport *port, const u8 *frame, unsigned len)
{
	u8 bare[VSWITCH_FRAME_MAX];
	u16 vlan = port->vlan;

	port->frames_in++;
	if (len < 14 || len > VSWITCH_FRAME_MAX + VSWITCH_TAG)
		goto refuse;
	if (port->trunk)
		vlan = 0;
	if (port->trunk && len >= 14 + VSWITCH_TAG && frame[12] == 0x81 && frame[13] == 0x00) {
		vlan = (u16)((frame[14] & 0xf) << 8 | frame[15]); /* 0: only a priority */
		memcpy(bare, frame, 12);
		memcpy(bare + 12, frame + 16, len - 16);
		frame = bare;
		len -= VSWITCH_TAG;
	}
	/* A tag that is left would cross into a VLAN that this port is not in. */
	if (len > VSWITCH_FRAME_MAX || is_tagged(frame))
		goto refuse;
	forward(port, frame, len, vlan);
	return;
refuse:
	port->refused++;
}

u8 *vswitch_buffer(struct vport *port)
{
	if (!port->queue || port->queue_n == VPORT_QUEUE)
		return NULL;
	return port->queue + (port->queue_first + port->queue_n) % VPORT_QUEUE * QUEUE_SLOT + sizeof(u32);
}

void vswitch_commit(struct vport *port, unsigned len)
{
	u8 *frame = vswitch_buffer(port);
	u32 n = len;

	BUG_ON(!frame || len > VSWITCH_FRAME_MAX);
	memcpy(frame - sizeof(n), &n, sizeof(n));
	port->queue_n++;
}

/* --- turns --- */

static bool drain_queue(struct vport *port)
{
	bool any = port->queue_n;

	while (port->queue_n) {
		const u8 *slot = port->queue + port->queue_first * QUEUE_SLOT;
		u32 len;

		memcpy(&len, slot, sizeof(len));
		vswitch_input(port, slot + sizeof(len), len);
		port->queue_first = (port->queue_first + 1) % VPORT_QUEUE;
		port->queue_n--;
	}
	return any;
}

static void announce(struct vport *port)
{
	u8 frame[VSWITCH_FRAME_MAX];
	unsigned len;

	if (!port->announce_us || now_us() < port->announce_us + announce_at[port->announced])
		return;
	for (unsigned i = 0; (len = port->ops->announce(port, i, frame)); i++)
		vswitch_input(port, frame, len);
	if (++port->announced == ARRAY_SIZE(announce_at))
		port->announce_us = 0;
}

static void watch(struct vport *port)
{
	bool up = port->ops->up && port->ops->up(port);

	if (up && !port->was_up) {
		/* Whatever was known of this address: it is here now. */
		learn(port, port->vlan, port->mac);
		port->announced = 0;
		port->announce_us = port->ops->announce ? now_us() : 0;
	} else if (!up) {
		port->announce_us = 0;
	}
	port->was_up = up;
	announce(port);
}

bool vswitch_poll(void)
{
	bool busy = false;

	for (struct vswitch *sw = switches; sw; sw = sw->next) {
		sweep(sw);
		for (u32 i = 0; i < sw->n_ports; i++) {
			if (sw->ports[i]->trunk)
				continue;
			watch(sw->ports[i]);
			busy |= drain_queue(sw->ports[i]);
		}
	}
	return busy;
}

u32 vswitch_macs(const struct vswitch *sw, u16 vlan)
{
	u32 n = 0;

	for (u32 i = 0; i < VSWITCH_MACS; i++)
		n += sw->macs[i].port && sw->macs[i].vlan == vlan;
	return n;
}

struct vport *vswitch_port(const struct vswitch *sw, u32 i)
{
	return i < sw->n_ports ? sw->ports[i] : NULL;
}
