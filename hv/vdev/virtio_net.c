/* SPDX-License-Identifier: MIT */
#include "hv/vdev/virtio_net.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "hv/vm/vm.h"
#include "net/announce.h"
#include "net/vswitch.h"

#include <string.h>

#define RX 0
#define TX 1
#define CTRL 2
#define TX_FRAMES_PER_TURN 32u
#define CTRL_REQUESTS_PER_TURN 16u
#define RX_CHAINS 32u          /* that one frame may be spread over, */
#define RX_LINKS VIRTQ_MAX_SIZE /* with so many descriptors in all: each frame pays for them again */
#define MTU 1500

/* "Feature bits" */
#define F_MTU BIT(3)
#define F_MAC BIT(5)
#define F_MRG_RXBUF BIT(15)
#define F_STATUS BIT(16)
#define F_CTRL_VQ BIT(17)
#define F_CTRL_RX BIT(18)
#define F_GUEST_ANNOUNCE BIT(21)

/* "Device configuration layout" */
#define S_LINK_UP 1
#define S_ANNOUNCE 2
#define CONFIG_LEN 12

/* "Control Virtqueue": class and command in one number */
#define CTRL_RX_PROMISC 0x0000
#define CTRL_RX_ALLMULTI 0x0001
#define CTRL_MAC_TABLE_SET 0x0100
#define CTRL_ANNOUNCE_ACK 0x0300
#define CTRL_OK 0
#define CTRL_ERR 1

#define UNICAST_MACS 16u
#define MULTICAST_MACS 32u

/* virtio_net_hdr, as VERSION_1 has it. Without offloads all but the last is zero. */
struct net_header {
	u8 flags, gso_type;
	u16 hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};
_Static_assert(sizeof(struct net_header) == 12, "as on the ring");

struct virtio_net_state {
	struct virtio_state v;
	struct announce_state seen;
	u8 unicast[UNICAST_MACS * 6], multicast[MULTICAST_MACS * 6];
	u8 n_unicast, n_multicast;
	u8 promisc, allmulti;      /* what the driver wants */
	u8 announce;               /* the driver has been asked to announce itself and has not said that it did */
	u8 reserved[3];
};

#define HELD_SLOT 1536u
#define HELD_FRAMES 32u
#define HELD_PAGES (HELD_FRAMES * HELD_SLOT / PAGE_SIZE)
_Static_assert(VSWITCH_FRAME_MAX + sizeof(u32) <= HELD_SLOT && HELD_FRAMES * HELD_SLOT % PAGE_SIZE == 0, "whole pages");

struct virtio_net {
	struct virtio vio;
	struct virtio_net_state s;
	struct vport port;
	u8 *held;                  /* frames for a guest that is frozen in a move: length, bytes */
	u32 n_held;
	struct virtio_net_counters count;
};

static struct virtio_net *virtio_net_of(struct virtio *vio)
{
	return container_of(vio, struct virtio_net, vio);
}

static struct virtio_net *virtio_net_of_port(struct vport *port)
{
	return container_of(port, struct virtio_net, port);
}

/* --- to the guest --- */

static bool in_list(const u8 *list, u32 n, const u8 *mac)
{
	for (u32 i = 0; i < n; i++)
		if (!memcmp(list + 6 * i, mac, 6))
			return true;
	return false;
}

static bool is_wanted(const struct virtio_net *net, const u8 *to)
{
	const struct virtio_net_state *s = &net->s;

	if (s->promisc || !memcmp(to, "\xff\xff\xff\xff\xff\xff", 6))
		return true;
	if (to[0] & 1)
		return s->allmulti || in_list(s->multicast, s->n_multicast, to);
	return !memcmp(to, net->port.mac, 6) || in_list(s->unicast, s->n_unicast, to);
}

/* Puts a header and the frame into as many buffers as it takes (one without MRG_RXBUF), or takes none. */
static bool receive(struct virtio_net *net, const u8 *frame, unsigned len)
{
	struct virtio *vio = &net->vio;
	bool spread = virtio_has(vio, F_MRG_RXBUF);
	struct { u16 head; u32 written; } used[RX_CHAINS];
	struct virtq_chain first, chain, *c = &first;
	struct net_header h = { 0 };
	unsigned n = 0, done = 0, links = 0;

	while (done < len || !n) {
		u32 at = n ? 0 : sizeof(h), part;

		if (n == RX_CHAINS || virtq_pop(vio, RX, c) <= 0)
			goto no_room;
		used[n++].head = c->head;
		links += c->links;
		/* "at least the size of the struct virtio_net_hdr" */
		if (links > RX_LINKS || c->in_len <= at || (!spread && c->in_len < sizeof(h) + len))
			goto no_room;
		part = (u32)MIN((u64)(len - done), c->in_len - at);
		if (virtq_write(vio, c, at, frame + done, part))
			return false;
		used[n - 1].written = at + part;
		done += part;
		c = &chain;
	}
	h.num_buffers = (u16)n;
	if (virtq_write(vio, &first, 0, &h, sizeof(h)))
		return false;
	for (unsigned i = 0; i < n; i++)
		virtq_push(vio, RX, used[i].head, used[i].written);
	virtq_interrupt(vio, RX);
	return true;
no_room:
	virtq_unpop(vio, RX, n);
	return false;
}

static void hold(struct virtio_net *net, const u8 *frame, u32 len)
{
	u8 *slot;

	if (!net->held)
		net->held = frame_alloc_n(HELD_PAGES);
	if (!net->held || net->n_held == HELD_FRAMES) {
		net->count.dropped++;
		return;
	}
	slot = net->held + net->n_held++ * HELD_SLOT;
	memcpy(slot, &len, sizeof(len));
	memcpy(slot + sizeof(len), frame, len);
	net->count.held++;
}

/* With the guest's lock. */
static bool take(struct virtio_net *net, const u8 *frame, unsigned len)
{
	struct vm *vm = net->vio.dev.vm;

	if (!is_wanted(net, frame))
		return true;
	if (vm->mig && vm->state != RS_RUNNING && vm->state != RS_INMIGRATE) {
		/* Its memory is being looked at for the last time. Either it runs on here, or the other host gets them. */
		hold(net, frame, len);
		return true;
	}
	if (vm->state == RS_RUNNING && virtio_ready(&net->vio) && receive(net, frame, len)) {
		net->count.received++;
		return true;
	}
	net->count.dropped++;
	return false;
}

static bool port_deliver(struct vport *port, const u8 *frame, unsigned len, u16 vlan)
{
	struct virtio_net *net = virtio_net_of_port(port);
	bool taken;

	vm_lock(net->vio.dev.vm);
	taken = take(net, frame, len);
	vm_unlock(net->vio.dev.vm);
	return taken;
}

static void release_held(struct virtio_net *net, bool (*give)(void *arg, const u8 *frame, unsigned len), void *arg)
{
	u32 n = net->n_held, len;

	net->n_held = 0;
	for (u32 i = 0; i < n; i++) {
		memcpy(&len, net->held + i * HELD_SLOT, sizeof(len));
		(void)give(arg, net->held + i * HELD_SLOT + sizeof(len), len);
	}
}

static bool give_to_guest(void *arg, const u8 *frame, unsigned len)
{
	return take(arg, frame, len);
}

static bool port_up(struct vport *port)
{
	struct virtio_net *net = virtio_net_of_port(port);
	struct vm *vm = net->vio.dev.vm;

	if (vm->state != RS_RUNNING || !vm->owner)
		return false;
	if (net->n_held) {
		vm_lock(vm);
		release_held(net, give_to_guest, net);
		vm_unlock(vm);
	}
	return true;
}

static unsigned port_announce(struct vport *port, unsigned i, u8 *frame)
{
	struct virtio_net *net = virtio_net_of_port(port);
	struct vm *vm = net->vio.dev.vm;
	u64 now = vm_tsc(vm), keep = vm_tsc_hz(vm) * ANNOUNCE_KEEP_SECONDS;
	unsigned len = 0;

	vm_lock(vm);
	if (virtio_ready(&net->vio)) {
		/* The guest knows best which addresses it has; what we have seen of them is there at once. */
		if (!i && !port->announced && virtio_has(&net->vio, F_GUEST_ANNOUNCE) && !net->s.announce) {
			net->s.announce = 1;
			virtio_config_changed(&net->vio);
		}
		len = announce_frame(&net->s.seen, port->mac, now > keep ? now - keep : 0, i, frame);
	}
	vm_unlock(vm);
	return len;
}

static const struct vport_ops port_ops = { .deliver = port_deliver, .up = port_up, .announce = port_announce };

/* --- from the guest --- */

/* Puts the frame of a transmit request into the switch's buffer. Its length; 0: nothing that could be sent; negative: broken. */
static int read_frame(struct virtio_net *net, const struct virtq_chain *chain, u8 *frame)
{
	struct net_header h;
	u64 len = chain->out_len - sizeof(h);

	if (chain->out_len < sizeof(h) + 14 || len > VSWITCH_FRAME_MAX)
		return 0;
	if (virtq_read(&net->vio, chain, 0, &h, sizeof(h)) || virtq_read(&net->vio, chain, sizeof(h), frame, len))
		return -E_PROTO;
	return h.flags || h.gso_type ? 0 : (int)len; /* no offload has been negotiated */
}

/* true: there is more to do. */
static bool transmit(struct virtio_net *net)
{
	struct virtio *vio = &net->vio;
	struct virtq_chain chain;
	u8 unplugged[VSWITCH_FRAME_MAX];
	unsigned n;

	for (n = 0; n < TX_FRAMES_PER_TURN; n++) {
		u8 *frame = net->port.sw ? vswitch_buffer(&net->port) : unplugged;
		int len;

		if (!frame)
			break; /* the switch comes first */
		if (virtq_pop(vio, TX, &chain) <= 0) {
			virtq_interrupt(vio, TX);
			return false;
		}
		len = read_frame(net, &chain, frame);
		if (len < 0)
			return false;
		if (len && net->port.sw) {
			announce_snoop(&net->s.seen, net->port.mac, MAX(vm_tsc(vio->dev.vm), 1ull), frame, (unsigned)len);
			vswitch_commit(&net->port, (unsigned)len);
			net->count.sent++;
		} else {
			net->count.dropped++;
		}
		virtq_push(vio, TX, chain.head, 0);
	}
	virtq_interrupt(vio, TX);
	return true;
}

/* "Setting MAC Address Filtering": two tables, each a count and so many addresses. One that is too long for us is as good
 * as all. */
static int set_macs(struct virtio_net *net, const struct virtq_chain *c)
{
	struct virtio_net_state *s = &net->s;
	struct { u8 *list, *n, *all; u32 room; } table[2] = {
		{ s->unicast, &s->n_unicast, &s->promisc, UNICAST_MACS },
		{ s->multicast, &s->n_multicast, &s->allmulti, MULTICAST_MACS },
	};
	u64 at = 2;

	for (unsigned t = 0; t < 2; t++) {
		u32 n;

		*table[t].n = 0;
		if (virtq_read(&net->vio, c, at, &n, sizeof(n)))
			return -E_INVAL;
		at += sizeof(n);
		if (n > table[t].room)
			*table[t].all = 1;
		else if (virtq_read(&net->vio, c, at, table[t].list, n * 6))
			return -E_INVAL;
		else
			*table[t].n = (u8)n;
		at += n * 6ull;
	}
	return 0;
}

static u8 command(struct virtio_net *net, const struct virtq_chain *c)
{
	struct virtio_net_state *s = &net->s;
	u8 head[2], on;

	if (virtq_read(&net->vio, c, 0, head, 2))
		return CTRL_ERR;
	switch (head[0] << 8 | head[1]) {
	case CTRL_RX_PROMISC:
	case CTRL_RX_ALLMULTI:
		if (virtq_read(&net->vio, c, 2, &on, 1))
			return CTRL_ERR;
		*(head[1] ? &s->allmulti : &s->promisc) = !!on;
		return CTRL_OK;
	case CTRL_MAC_TABLE_SET:
		return set_macs(net, c) ? CTRL_ERR : CTRL_OK;
	case CTRL_ANNOUNCE_ACK:
		s->announce = 0;
		return CTRL_OK;
	default:
		return CTRL_ERR;
	}
}

static bool control(struct virtio_net *net)
{
	struct virtio *vio = &net->vio;
	struct virtq_chain chain;
	unsigned n;

	for (n = 0; n < CTRL_REQUESTS_PER_TURN && virtq_pop(vio, CTRL, &chain) > 0; n++) {
		u8 ack = command(net, &chain);
		u32 written = !virtq_write(vio, &chain, 0, &ack, 1);

		virtq_push(vio, CTRL, chain.head, written);
	}
	virtq_interrupt(vio, CTRL);
	return n == CTRL_REQUESTS_PER_TURN;
}

static bool virtio_net_service(struct vdev *dev)
{
	struct virtio_net *net = virtio_net_of(virtio_of(dev));
	bool more;

	if (!virtio_ready(&net->vio))
		return false;
	more = control(net);
	more |= transmit(net);
	return more && virtio_ready(&net->vio);
}

/* --- configuration, life --- */

static void virtio_net_config_read(struct virtio *vio, u8 *config)
{
	struct virtio_net *net = virtio_net_of(vio);
	u16 fields[3] = { (u16)((net->port.sw ? S_LINK_UP : 0) | (net->s.announce ? S_ANNOUNCE : 0)), 1, MTU };

	memcpy(config, net->port.mac, 6);
	memcpy(config + 6, fields, sizeof(fields));
}

static void virtio_net_device_reset(struct virtio *vio)
{
	struct virtio_net_state *s = &virtio_net_of(vio)->s;

	/* Everything, until a driver that negotiates CTRL_RX says what it wants. */
	memset((u8 *)s + sizeof(s->v), 0, sizeof(*s) - sizeof(s->v));
	s->promisc = 1;
}

static int virtio_net_init(struct vdev *dev)
{
	struct virtio_net *net = virtio_net_of(virtio_of(dev));
	const struct guest_config *g = &dev->vm->config;
	const struct nic_config *nic = dev->instance < g->n_nics ? &g->nics[dev->instance] : NULL;
	const struct vnetwork *network = nic ? vswitch_network(nic->network) : NULL;

	net->port.ops = &port_ops;
	if (nic)
		memcpy(net->port.mac, nic->mac, 6);
	else
		config_default_mac(g->name, dev->instance, net->port.mac);
	if (network) {
		net->port.vlan = nic_vlan(nic, network);
		if (vswitch_add(network->sw, &net->port))
			return -E_NOMEM;
	} else if (nic) {
		log_warn("guest", "%s: there is no switch %s on this host, the link of network card %u is down", g->name,
			 nic->network, dev->instance);
	}
	return virtio_init(dev);
}

static void virtio_net_destroy(struct vdev *dev)
{
	struct virtio_net *net = virtio_net_of(virtio_of(dev));

	vswitch_remove(&net->port);
	if (net->held)
		frame_free_n(net->held, HELD_PAGES);
	virtio_destroy(dev);
}

static int virtio_net_post_load(void *owner, struct error *e)
{
	struct virtio_net_state *s = &virtio_net_of(virtio_of(owner))->s;

	if (s->n_unicast > UNICAST_MACS || s->n_multicast > MULTICAST_MACS || (s->promisc | s->allmulti | s->announce) > 1 ||
	    s->seen.router > 1)
		return -E_INVAL;
	return virtio_post_load(owner, e);
}

struct virtio_net_counters virtio_net_counters(struct vdev *dev)
{
	return virtio_net_of(virtio_of(dev))->count;
}

void virtio_net_inject(struct vm *vm, u32 card, const u8 *frame, size_t len)
{
	struct vdev *dev = vm_vdev(vm, &virtio_net_type.vdev, card);

	if (dev && len >= 14 && len <= VSWITCH_FRAME_MAX)
		(void)port_deliver(&virtio_net_of(virtio_of(dev))->port, frame, (unsigned)len, 0);
}

void virtio_net_take_held(struct vm *vm, u32 card, bool (*give)(void *arg, const u8 *frame, unsigned len), void *arg)
{
	struct vdev *dev = vm_vdev(vm, &virtio_net_type.vdev, card);

	if (!dev)
		return;
	vm_lock(vm);
	release_held(virtio_net_of(virtio_of(dev)), give, arg);
	vm_unlock(vm);
}

static const struct vm *mac_owner(const u8 mac[6])
{
	for (u32 i = 0; i < VM_MAX; i++)
		for (u32 n = 0; vms[i] && vm_is_populated(vms[i]) && n < vms[i]->config.n_nics; n++)
			if (!memcmp(vms[i]->config.nics[n].mac, mac, 6))
				return vms[i];
	return NULL;
}

int virtio_net_check(const struct guest_config *g, struct error *e)
{
	for (u32 i = 0; i < g->n_nics; i++) {
		const u8 *m = g->nics[i].mac;
		const struct vm *other = mac_owner(m);

		if (!vswitch_network(g->nics[i].network))
			return error_set(e, E_NOENT, "network card %u of guest %s belongs to switch %s, which this host does not have. Add "
					 "[switch %s] to its godwit.conf and restart it", i, g->name, g->nics[i].network,
					 g->nics[i].network);
		if (other && strcmp(other->config.name, g->name))
			return error_set(e, E_EXIST, "guest %s of this host has the MAC address %02x:%02x:%02x:%02x:%02x:%02x of network "
					 "card %u of guest %s. Give one of them another mac=", other->config.name, m[0], m[1], m[2],
					 m[3], m[4], m[5], i, g->name);
	}
	return 0;
}

#define ST struct virtio_net_state
static const struct mig_field virtio_net_fields[] = {
	VIRTIO_FIELDS(ST, 1),
	MIG_U64S(100, ST, seen.seen4, 1), MIG_U64S(101, ST, seen.seen6, 1), MIG_U8S(102, ST, seen.ipv4, 1),
	MIG_U8S(103, ST, seen.ipv6, 1), MIG_U8(104, ST, seen.router, 1), MIG_U8S(105, ST, seen.reserved, 1),
	MIG_U8S(106, ST, unicast, 1), MIG_U8S(107, ST, multicast, 1), MIG_U8(108, ST, n_unicast, 1),
	MIG_U8(109, ST, n_multicast, 1), MIG_U8(110, ST, promisc, 1), MIG_U8(111, ST, allmulti, 1), MIG_U8(112, ST, announce, 1),
	MIG_U8S(113, ST, reserved, 1),
};

const struct virtio_type virtio_net_type = {
	.vdev = {
		.mig = {
			.name = "virtio-net", .version = 1, .min_version = 1, .phase = MIG_PHASE_DEVICE,
			MIG_STATE(ST, virtio_net_fields), .post_load = virtio_net_post_load,
		},
		.size = sizeof(struct virtio_net), .state_offset = offsetof(struct virtio_net, s),
		.init = virtio_net_init, .reset = virtio_reset, .destroy = virtio_net_destroy, .service = virtio_net_service,
	},
	.device_id = 1, .slot = VIRTIO_SLOT_NET, .class_code = 0x020000, .n_queues = 3, .queue_size = 256, .config_len = CONFIG_LEN,
	.features = F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_CTRL_RX | F_GUEST_ANNOUNCE,
	.config_read = virtio_net_config_read, .device_reset = virtio_net_device_reset,
};
VIRTIO_REGISTER(virtio_net_type);
