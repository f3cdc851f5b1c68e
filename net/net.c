/* SPDX-License-Identifier: MIT */
#include "net/net.h"
#include "drivers/nic/nic.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "lwip/dhcp.h"
#include "lwip/etharp.h"
#include "lwip/init.h"
#include "lwip/netif.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/timeouts.h"
#include "mig/mig.h"
#include "net/control.h"
#include "net/lan.h"
#include "net/nbd.h"
#include "net/nbd_client.h"
#include "net/port/port.h"
#include "net/time.h"
#include "net/tls.h"
#include "netif/ethernet.h"
#include <stdio.h>
#include <string.h>

_Static_assert(TLS_MAX_INBOUND >= CONTROL_MAX_SESSIONS + TLS_MAX_HANDSHAKES, "idle clients must not keep moves out");

#define RX_FRAMES_PER_TURN 64
#define LINK_CHECK_US 100000
#define WAIT_TIME_US 3000000

static const struct boot_info *boot;
static struct nic *nic;
static unsigned nic_number;
static struct netif netif;
static struct tls_identity *identity;
static struct error identity_error; /* why there is none */
static u64 next_link_check;
static bool tx_refused, dhcp, address_said;
static char host_name[NAME_MAX_LEN];

static err_t link_output(struct netif *n, struct pbuf *p)
{
	u8 *buf;

	if (p->tot_len > NIC_FRAME_MAX)
		return ERR_BUF;
	buf = nic->ops->tx_buffer(nic);
	if (!buf) {
		tx_refused = true; /* TCP keeps the segment and is told when there is room */
		return ERR_MEM;
	}
	pbuf_copy_partial(p, buf, p->tot_len, 0);
	nic->ops->tx_commit(nic, p->tot_len);
	return ERR_OK;
}

static err_t netif_setup(struct netif *n)
{
	n->name[0] = 'e';
	n->name[1] = 'n';
	n->hostname = host_name;
	n->output = etharp_output;
	n->linkoutput = link_output;
	n->mtu = 1500;
	n->hwaddr_len = 6;
	memcpy(n->hwaddr, nic->mac, 6);
	n->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET;
	return ERR_OK;
}

static void address_log(struct netif *n)
{
	u32 a = lwip_ntohl(netif_ip4_addr(n)->addr), g = lwip_ntohl(netif_ip4_gw(n)->addr);
	unsigned bits = (unsigned)__builtin_popcount(netif_ip4_netmask(n)->addr);

	if (!a && address_said)
		log_warn("net", "this host has no address any more, the DHCP server did not renew it: operators and moves do not reach it, "
			 "and NBD disks wait. Is the server on?");
	address_said = a && netif_is_link_up(n) && netif_is_up(n);
	if (address_said)
		log_info("net", "address %u.%u.%u.%u/%u gateway %u.%u.%u.%u%s", a >> 24, a >> 16 & 255, a >> 8 & 255, a & 255, bits,
			 g >> 24, g >> 16 & 255, g >> 8 & 255, g & 255, dhcp ? " (DHCP)" : "");
}

static void link_check(void)
{
	bool up;

	if (now_us() < next_link_check)
		return;
	next_link_check = now_us() + LINK_CHECK_US;
	up = nic->ops->link_up(nic);
	if (up == !!netif_is_link_up(&netif))
		return;
	log_info("net", "%s: link %s", nic->name, up ? "up" : "down: is the cable plugged in?");
	/* Going up makes lwIP announce our address (gratuitous ARP), or restart DHCP. */
	if (up)
		netif_set_link_up(&netif);
	else
		netif_set_link_down(&netif);
	if (up && !dhcp && !address_said)
		address_log(&netif);
}

static void accepted(struct stream *s)
{
	if (!strcmp(s->alpn, ALPN_MIG))
		mig_accept(s);
	else
		control_accept(s);
}

static void identity_start(void)
{
	static const char *const names[] = { "ca.crt", "host.crt", "host.key" };
	const struct boot_file *f[ARRAY_SIZE(names)];
	struct error *e = &identity_error;
	struct tls_files files;

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		f[i] = boot_file(boot, names[i]);
		if (!f[i] || !f[i]->data) {
			error_set(e, E_NOENT, "%s%s 'godwit ca enroll %s' makes it", f[i] && f[i]->error[0] ? f[i]->error : names[i],
				  f[i] && f[i]->error[0] ? "" : " is missing from \\godwit\\ on the boot disk.", host_name);
			return;
		}
	}
	files = (struct tls_files){ f[0]->data, f[1]->data, f[2]->data, f[0]->size, f[1]->size, f[2]->size };
	if (!tls_init(e))
		identity = tls_identity_load(&files, host_name, e);
}

static void port_open(void)
{
	u16 port = boot->config.port;

	nbd_init(identity, &identity_error);
	if (identity && !tls_listen(identity, port, accepted, &identity_error))
		log_info("net", "control port %u open, host '%s'", port, host_name);
	else
		log_err("net", "control port %u stays closed (there is no plaintext mode): %s", port, identity_error.text);
}

/* What was wrong with this host's certificate may have been the firmware's clock, and time servers have set that since. */
static void identity_again(void)
{
	static bool done;

	if (done || !wall_synced())
		return;
	done = true;
	if (identity || identity_error.code != E_AUTH)
		return;
	identity_error.code = 0;
	identity_start();
	port_open();
}

void net_name_host(struct boot_info *bi)
{
	const struct boot_file *f = boot_file(bi, "host.crt");
	char name[32];

	_Static_assert(sizeof(name) == sizeof(bi->config.host_name), "both are host names");
	if (bi->config_missing && f && f->data && tls_certificate_name(f->data, f->size, name))
		memcpy(bi->config.host_name, name, sizeof(name));
}

void net_init(const struct boot_info *bi)
{
	const struct config *c = &bi->config;
	ip4_addr_t ip, mask, gw;
	struct error e = { 0 };

	boot = bi;
	snprintf(host_name, sizeof(host_name), "%s", c->host_name);
	control_init(bi);
	identity_start();
	nic = nic_find(&nic_number, &e);
	lan_init(c, nic ? (int)nic_number : -1);
	if (!nic) {
		log_err("net", "no network: %s", e.text);
		return;
	}
	lwip_init();
	dhcp = c->dhcp;
	ip.addr = dhcp ? 0 : lwip_htonl(c->address);
	mask.addr = dhcp ? 0 : lwip_htonl(c->netmask);
	gw.addr = dhcp ? 0 : lwip_htonl(c->gateway);
	if (!netif_add(&netif, &ip, &mask, &gw, NULL, netif_setup, ethernet_input)) {
		log_err("net", "no network: lwIP has no memory for its interface");
		return;
	}
	netif_set_default(&netif);
	netif_set_status_callback(&netif, address_log);
	netif_set_up(&netif);
	link_check();
	if (dhcp && dhcp_start(&netif) != ERR_OK)
		log_err("net", "DHCP could not be started (no memory); set address= in godwit.conf");
	else if (!dhcp && !c->address)
		log_err("net", "no address: set [network] address= in godwit.conf, or mode=dhcp");
	time_init(&c->time);
	port_open();
	nic->ops->flush(nic);
}

static bool receive(void)
{
	unsigned n;

	for (n = 0; n < RX_FRAMES_PER_TURN; n++) {
		const u8 *data;
		unsigned len = nic->ops->rx_frame(nic, &data);
		struct pbuf *p;

		if (!len)
			break;
		p = pbuf_alloc(PBUF_RAW, (u16)len, PBUF_RAM);
		if (p) {
			pbuf_take(p, data, (u16)len);
			if (netif.input(p, &netif) != ERR_OK)
				pbuf_free(p);
		} /* else dropped; TCP sends it again when there is memory */
		nic->ops->rx_done(nic);
	}
	return n != 0;
}

bool net_poll(void)
{
	bool busy;

	if (!nic)
		return lan_poll();
	busy = receive();
	busy |= lan_poll();
	link_check();
	sys_check_timeouts();
	nbd_client_timers(now_us());
	time_poll();
	identity_again();
	busy |= tls_poll();
	busy |= control_poll();
	/* Answers of this turn leave in this turn. */
	if (busy)
		tls_push();
	nic->ops->flush(nic);
	if (tx_refused) {
		tx_refused = false;
		tcp_txnow();
		nic->ops->flush(nic);
	}
	return busy;
}

void net_wait_time(void)
{
	u64 until = now_us() + WAIT_TIME_US;

	if (!nic)
		return;
	while (!time_settled() && now_us() < until)
		net_poll();
	if (!time_settled())
		log_warn("time", "no time server has answered yet: guests start by the firmware's clock");
}

bool net_waits(void)
{
	return (nic && tcp_active_pcbs) || time_waiting();
}

struct stream *net_connect(u32 ip, u16 port, const char *host, const char *alpn, struct error *e)
{
	if (!nic) {
		error_set(e, E_IO, "this host has no network; its console says why");
		return NULL;
	}
	if (!identity) {
		error_set(e, E_AUTH, "this host has no TLS identity: %s", identity_error.text);
		return NULL;
	}
	return tls_connect(identity, ip, port, host, alpn, e);
}
