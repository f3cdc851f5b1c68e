/* SPDX-License-Identifier: MIT */
#include "net/lan.h"
#include "drivers/nic/nic.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "net/vswitch.h"

#include <stdio.h>

#define FRAMES_PER_TURN 64u

struct uplink { struct vport port; struct nic *nic; unsigned number; };

static struct uplink *uplinks[CONFIG_MAX_SWITCHES];
static u32 n_uplinks;

static bool uplink_deliver(struct vport *port, const u8 *frame, unsigned len, u16 vlan)
{
	struct nic *nic = container_of(port, struct uplink, port)->nic;
	u8 *buffer = nic->ops->tx_buffer(nic);

	if (!buffer)
		return false;
	nic->ops->tx_commit(nic, vswitch_tag(buffer, frame, len, vlan));
	return true;
}

static const struct vport_ops uplink_ops = { .deliver = uplink_deliver };

/* The switch behind that card: one for all VLANs. */
static struct vswitch *uplink_open(const struct switch_config *s, int own_card, struct vnetwork *net, struct error *e)
{
	unsigned n = s->number;
	struct uplink *u;
	struct nic *nic;

	nic = s->uplink == UPLINK_NUMBER ? nic_open(n, e) : nic_open_at(s->bus, s->dev, s->fn, &n, e);
	if (!nic)
		return NULL;
	snprintf(net->uplink, sizeof(net->uplink), "%s", nic->name);
	for (u32 i = 0; i < n_uplinks; i++)
		if (uplinks[i]->number == n)
			return uplinks[i]->port.sw;
	if ((int)n == own_card) {
		error_set(e, E_INVAL, "card %u (%s) carries this host's own network. Name another one in uplink=", n, nic->name);
		return NULL;
	}
	net->sw = vswitch_create();
	u = heap_calloc(1, sizeof(*u));
	if (!net->sw || !u)
		goto nomem;
	*u = (struct uplink){ .nic = nic, .number = n, .port = { .ops = &uplink_ops, .trunk = true } };
	if (vswitch_add(net->sw, &u->port))
		goto nomem;
	nic->ops->promiscuous(nic);
	uplinks[n_uplinks++] = u;
	return net->sw;
nomem:
	heap_free(u);
	error_set(e, E_NOMEM, "no memory for it");
	return net->sw;
}

void lan_init(const struct config *c, int own_card)
{
	for (u32 i = 0; i < c->n_switches; i++) {
		const struct switch_config *s = &c->switches[i];
		struct vnetwork *net = &vnetworks[n_vnetworks];
		struct error e = { 0 };

		*net = (struct vnetwork){ .vlan = s->vlan };
		snprintf(net->name, sizeof(net->name), "%s", s->name);
		if (s->uplink != UPLINK_NONE)
			net->sw = uplink_open(s, own_card, net, &e);
		if (e.code) {
			net->uplink[0] = 0;
			log_err("lan", "switch %s has no uplink, it joins only the guests of this host: %s", s->name, e.text);
		}
		if (!net->sw)
			net->sw = vswitch_create();
		if (!net->sw) {
			log_err("lan", "no memory for switch %s", s->name);
			continue;
		}
		log_info("lan", "switch %s, VLAN %u, uplink: %s", net->name, net->vlan, net->uplink[0] ? net->uplink : "none");
		n_vnetworks++;
	}
}

static bool receive(struct uplink *u)
{
	struct nic *nic = u->nic;
	unsigned n;

	for (n = 0; n < FRAMES_PER_TURN; n++) {
		const u8 *data;
		unsigned len = nic->ops->rx_frame(nic, &data);

		if (!len)
			break;
		vswitch_input(&u->port, data, len);
		nic->ops->rx_done(nic);
	}
	return n != 0;
}

bool lan_poll(void)
{
	bool busy = false;

	for (u32 i = 0; i < n_uplinks; i++)
		busy |= receive(uplinks[i]);
	busy |= vswitch_poll();
	for (u32 i = 0; i < n_uplinks; i++)
		uplinks[i]->nic->ops->flush(uplinks[i]->nic);
	return busy;
}
