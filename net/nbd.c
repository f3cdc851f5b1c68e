/* SPDX-License-Identifier: MIT */
/* lwIP's callbacks only queue and wake the disk; everything else is done in the disk's own turn. */
#include "net/nbd.h"
#include "hv/lib/clock.h"
#include "hv/mm/frame.h"
#include "lwip/tcp.h"
#include "net/nbd_client.h"
#include "net/rx_queue.h"

#include <stdio.h>
#include <string.h>

#define STALL_US (30 * 1000000ull)    /* sent data that nobody acknowledges */
/* One storage that hangs may stop all disks at once: what they have then given to TCP must leave room for everybody else. */
#define SND_BYTES (64u * 1024)

_Static_assert(MEMP_NUM_TCP_PCB >= NBD_MAX_DISKS + TLS_MAX_INBOUND + TLS_MAX_OUTBOUND, "connections of all kinds at a time");
_Static_assert(MEMP_NUM_TCP_SEG >= 2 * NBD_MAX_DISKS * SND_BYTES / TCP_MSS, "disks that hang leave half of the segments");

struct nbd_link {
	struct tcp_pcb *pcb;          /* NULL once lwIP has dropped it */
	err_t error;
	bool open, fin;
	struct rx_queue rx;
	u64 progress_us;              /* the last time that something was acknowledged, or nothing was to be */
	void (*wake)(void *);
	void *arg;
};

static struct tls_identity *identity;
static struct error identity_error;

static err_t on_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err)
{
	struct nbd_link *l = arg;

	if (!p)
		l->fin = true;
	else if (!rx_queue_put(&l->rx, p))
		return ERR_MEM;
	l->wake(l->arg);
	return ERR_OK;
}

static err_t on_sent(void *arg, struct tcp_pcb *pcb, u16_t len)
{
	struct nbd_link *l = arg;

	l->progress_us = now_us();
	l->wake(l->arg);
	return ERR_OK;
}

static err_t on_connected(void *arg, struct tcp_pcb *pcb, err_t err)
{
	struct nbd_link *l = arg;

	l->open = true;
	l->progress_us = now_us();
	l->wake(l->arg);
	return ERR_OK;
}

static void on_err(void *arg, err_t err)
{
	struct nbd_link *l = arg;

	l->pcb = NULL; /* lwIP has freed it */
	l->error = err;
	l->wake(l->arg);
}

/* Tells the disk of dead servers even if nothing is heard: lwIP calls this every two seconds. */
static err_t on_poll(void *arg, struct tcp_pcb *pcb)
{
	struct nbd_link *l = arg;

	l->wake(l->arg);
	return ERR_OK;
}

static struct nbd_link *link_connect(u32 ip, u16 port, void (*wake)(void *), void *arg, struct error *e)
{
	ip_addr_t addr = IPADDR4_INIT(lwip_htonl(ip));
	struct nbd_link *l = heap_calloc(1, sizeof(*l));
	err_t err;

	if (l)
		l->pcb = tcp_new_ip_type(IPADDR_TYPE_V4);
	if (!l || !l->pcb) {
		heap_free(l);
		error_set(e, E_NOMEM, "this host has no memory for another connection");
		return NULL;
	}
	l->wake = wake;
	l->arg = arg;
	tcp_arg(l->pcb, l);
	tcp_recv(l->pcb, on_recv);
	tcp_sent(l->pcb, on_sent);
	tcp_err(l->pcb, on_err);
	tcp_poll(l->pcb, on_poll, 4);
	tcp_nagle_disable(l->pcb);
	ip_set_option(l->pcb, SOF_KEEPALIVE);
	l->pcb->keep_idle = 10000;
	l->pcb->keep_intvl = 5000;
	l->pcb->keep_cnt = 3;
	err = tcp_connect(l->pcb, &addr, port, on_connected);
	if (err == ERR_OK)
		return l;
	error_set(e, E_IO, err == ERR_RTE ? "no network leads there; see [network] in godwit.conf" :
		  "the connection could not be started (no memory)");
	tcp_arg(l->pcb, NULL);
	tcp_err(l->pcb, NULL);
	tcp_abort(l->pcb);
	heap_free(l);
	return NULL;
}

static int link_state(struct nbd_link *l, struct error *e)
{
	u64 now = now_us();

	if (!l->pcb) {
		if (l->open && !rx_queue_empty(&l->rx))
			return 1; /* first what came before */
		return error_set(e, E_IO, l->open ? "the connection was lost" : l->error == ERR_RST ?
				 "nothing listens there (connection refused): is the server running, is the port right?" :
				 "no answer: is it on, is the address right?");
	}
	if (!l->open || !tcp_sndqueuelen(l->pcb))
		l->progress_us = now;
	else if (now - l->progress_us > STALL_US)
		return error_set(e, E_TIMEOUT, "it takes no data any more (for %llu s): is it overloaded, or the network cut?",
				 STALL_US / 1000000);
	return l->open;
}

static int link_send(struct nbd_link *l, const void *buf, size_t len)
{
	size_t queued, n;

	if (!l->pcb)
		return -E_IO;
	queued = TCP_SND_BUF - l->pcb->snd_buf; /* tcp_sndbuf() says at most 64 KiB */
	n = MIN(len, queued < SND_BYTES ? SND_BYTES - queued : 0);
	/* Little room is no use: it would make little segments. */
	if (!n || (n < len && n < TCP_MSS))
		return 0;
	n = MIN(n, (size_t)0xffff);
	switch (tcp_write(l->pcb, buf, (u16)n, TCP_WRITE_FLAG_COPY)) {
	case ERR_OK:
		return (int)n;
	case ERR_MEM:
		return 0;
	default:
		return -E_IO;
	}
}

static int link_recv(struct nbd_link *l, void *buf, size_t len)
{
	size_t n = rx_queue_take(&l->rx, buf, MIN(len, (size_t)0xffff)); /* what tcp_recved() can count */

	if (n && l->pcb)
		tcp_recved(l->pcb, (u16)n);
	return n ? (int)n : !l->pcb || l->fin ? -E_IO : 0;
}

static void link_push(struct nbd_link *l)
{
	if (l->pcb)
		tcp_output(l->pcb);
}

static void link_close(struct nbd_link *l, bool abort)
{
	struct tcp_pcb *pcb = l->pcb;

	(void)rx_queue_take(&l->rx, NULL, SIZE_MAX);
	if (pcb) {
		tcp_arg(pcb, NULL);
		tcp_recv(pcb, NULL);
		tcp_sent(pcb, NULL);
		tcp_err(pcb, NULL);
		tcp_poll(pcb, NULL, 0);
		/* A reset, so that the server does not go on with the half of a request that it has. */
		if (abort || !l->open || tcp_close(pcb) != ERR_OK)
			tcp_abort(pcb);
	}
	heap_free(l);
}

static const struct nbd_link_ops link_ops = {
	.connect = link_connect, .state = link_state, .send = link_send, .recv = link_recv, .push = link_push, .close = link_close,
};

static const mbedtls_ssl_config *client_tls(struct error *e)
{
	if (!identity)
		error_set(e, E_AUTH, "this host has no TLS identity: %s", identity_error.text);
	return identity ? tls_client_config(identity) : NULL;
}

static const struct nbd_env env = { &link_ops, client_tls };

static struct blk_backend *nbd_open(const struct disk_config *cfg, struct error *e)
{
	return nbd_client_open(&env, cfg, e);
}

void nbd_init(struct tls_identity *id, const struct error *why)
{
	identity = id;
	identity_error = *why;
	blk_nbd_open = nbd_open;
}
