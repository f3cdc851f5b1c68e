/* SPDX-License-Identifier: MIT */
#include "net/forward.h"
#include "hv/mm/frame.h"
#include "hv/vdev/virtio_net.h"
#include "net/vswitch.h"

#include <string.h>

struct card { struct vport port; struct lan_forward *f; struct vnetwork *net; u16 number; };

struct lan_forward {
	lan_forward_fn give;
	void *arg;
	u64 frames;
	struct card cards[CONFIG_MAX_NICS];
};

static bool card_give(void *arg, const u8 *frame, unsigned len)
{
	struct card *c = arg;

	if (!c->f->give(c->f->arg, c->number, frame, len))
		return false;
	c->f->frames++;
	c->net->forwarded++;
	return true;
}

static bool card_deliver(struct vport *port, const u8 *frame, unsigned len, u16 vlan)
{
	return card_give(container_of(port, struct card, port), frame, len);
}

static const struct vport_ops card_ops = { .deliver = card_deliver };

struct lan_forward *lan_forward_begin(struct vm *vm, lan_forward_fn give, void *arg)
{
	const struct guest_config *g = &vm->config;
	struct lan_forward *f = g->n_nics ? heap_calloc(1, sizeof(*f)) : NULL;

	if (!f)
		return NULL;
	f->give = give;
	f->arg = arg;
	for (u32 i = 0; i < g->n_nics; i++) {
		struct vnetwork *net = vswitch_network(g->nics[i].network);
		struct card *c = &f->cards[i];

		*c = (struct card){ .f = f, .net = net, .number = (u16)i, .port = { .ops = &card_ops, .moved = true } };
		if (!net)
			continue;
		c->port.vlan = nic_vlan(&g->nics[i], net);
		memcpy(c->port.mac, g->nics[i].mac, 6);
		virtio_net_take_held(vm, i, card_give, c);
		(void)!vswitch_add(net->sw, &c->port); /* no room: then the network's own retransmissions must do */
	}
	return f;
}

u64 lan_forward_end(struct lan_forward *f)
{
	u64 frames = f ? f->frames : 0;

	for (u32 i = 0; f && i < CONFIG_MAX_NICS; i++)
		vswitch_remove(&f->cards[i].port);
	heap_free(f);
	return frames;
}
