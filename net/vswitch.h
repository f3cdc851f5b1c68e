/* SPDX-License-Identifier: MIT */
/* Virtual switches: they learn MAC addresses, keep VLANs apart and join guests' cards with each other and with a physical
 * card (the uplink). Runs on the service CPU only; frames are Ethernet without FCS. Knows neither guests nor hardware:
 * both are ports. No anti-spoofing: as behind a bridge, a guest may send from any address. */
#pragma once
#include "hv/config.h"

#define VSWITCH_FRAME_MAX 1514u /* without tag */
#define VSWITCH_TAG 4u
#define VSWITCH_PORTS 64
#define VSWITCH_MACS 1024
#define VSWITCH_MACS_PER_GUEST 64 /* so that one cannot fill the table; frames for others of its addresses are flooded */
#define VSWITCH_AGE_US 300000000ull
#define VPORT_QUEUE 32u         /* frames of one guest's card that wait for the switch */

struct vport;
struct vswitch;

struct vport_ops {
	/* A frame of len bytes for the port, without a tag; vlan: the one it belongs to. false: no room, it is lost. */
	bool (*deliver)(struct vport *port, const u8 *frame, unsigned len, u16 vlan);
	/* A guest's card: whether the guest runs here now. NULL: never. */
	bool (*up)(struct vport *port);
	/* Builds the i-th frame (VSWITCH_FRAME_MAX bytes) that tells the network where the guest is; 0: there are no more. May be NULL. */
	unsigned (*announce)(struct vport *port, unsigned i, u8 *frame);
};

/* Embedded by its owner, who fills ops, vlan, trunk and mac before vswitch_add(). */
struct vport {
	const struct vport_ops *ops;
	u16 vlan;          /* of an access port; 0: the untagged frames */
	bool trunk;        /* uplink: frames of all VLANs, tagged */
	bool moved;        /* stands in for a guest that has left this host: gets what the uplink still has for its mac, nothing else */
	u8 mac[6];         /* of an access port: learnt as soon as it is up */
	/* vswitch.c's */
	struct vswitch *sw;
	bool was_up;
	u32 n_macs, announced;
	u64 announce_us;   /* time 0 of the announcements; 0: none are due */
	u8 *queue;
	u32 queue_first, queue_n;
	/* Seen from the switch: came in, went out, found no room, were malformed or not to be forwarded. */
	u64 frames_in, frames_out, no_room, refused;
};

/* A network that guests' cards name: one VLAN of a switch. */
struct vnetwork {
	char name[NAME_MAX_LEN];
	struct vswitch *sw;
	u16 vlan;
	char uplink[48];   /* for people; empty: none */
	u64 forwarded;     /* frames sent after guests that have left */
};

/* The VLAN of a guest's card: its own, else the network's. */
static inline u16 nic_vlan(const struct nic_config *nic, const struct vnetwork *net)
{
	return nic->vlan ? nic->vlan : net->vlan;
}

extern struct vnetwork vnetworks[CONFIG_MAX_SWITCHES];
extern u32 n_vnetworks;

/* An empty switch that is kept; NULL: no memory. */
struct vswitch *vswitch_create(void);
/* NULL: there is none of that name. */
struct vnetwork *vswitch_network(const char *name);
/* -E_NOMEM: the switch is full, or there is no memory for the port's queue. */
int vswitch_add(struct vswitch *sw, struct vport *port) __must_check;
/* Forgets the port, its addresses and what waits in its queue. Harmless on one that was never added. */
void vswitch_remove(struct vport *port);
/* A frame that came in through the port; a trunk's may be tagged. The bytes are used before it returns. Not from within
 * deliver(), and not while a guest is locked. */
void vswitch_input(struct vport *port, const u8 *frame, unsigned len);
/* The same in two steps, for a caller who holds a guest's lock: room for VSWITCH_FRAME_MAX bytes (NULL: full, try again
 * after vswitch_poll()), then the length that was put there. */
u8 *vswitch_buffer(struct vport *port);
void vswitch_commit(struct vport *port, unsigned len);
/* Forwards what waits, notices guests that have begun to run here and announces them. true if there was something. */
bool vswitch_poll(void);
/* Copies a frame and puts the 802.1Q tag of vlan in (0: none). Returns its length; out has room for len + VSWITCH_TAG. */
unsigned vswitch_tag(u8 *out, const u8 *frame, unsigned len, u16 vlan);
/* Addresses known in that VLAN. */
u32 vswitch_macs(const struct vswitch *sw, u16 vlan);
/* The i-th port, NULL at the end. */
struct vport *vswitch_port(const struct vswitch *sw, u32 i);
