/* SPDX-License-Identifier: MIT */
/* A disk on an NBD server: requests, connection, TLS, reconnection. Over any transport (net/nbd.c: lwIP).
 * A server that goes away stalls the requests. After the reconnection all that were not answered are sent again, in the
 * order of their submission, before any new one. Writes that were answered are not sent again: whether they survive the
 * server's death is up to its storage, as with every NBD client; flush is what makes them durable (docs/OPERATING.md). */
#pragma once
#include "hv/vm/blk.h"
#include "mbedtls/ssl.h"

#define NBD_MAX_DISKS 64 /* of all guests of a host */

/* A TCP connection. */
struct nbd_link;
struct nbd_link_ops {
	/* Begins to connect; wake(arg) is called when there may be something to do. NULL: *e tells why not. */
	struct nbd_link *(*connect)(u32 ip, u16 port, void (*wake)(void *), void *arg, struct error *e);
	/* 1: open; 0: still connecting; negative: it is dead, *e tells why. */
	int (*state)(struct nbd_link *l, struct error *e);
	/* Bytes taken, received; 0: none now; negative: dead, or closed by the server. */
	int (*send)(struct nbd_link *l, const void *buf, size_t len);
	int (*recv)(struct nbd_link *l, void *buf, size_t len);
	/* Begins to send what send() took. */
	void (*push)(struct nbd_link *l);
	/* abort: what was not sent yet is dropped, and the server told so. */
	void (*close)(struct nbd_link *l, bool abort);
};

/* What disks need of this host. */
struct nbd_env {
	const struct nbd_link_ops *link;
	/* TLS client configuration: own certificate, the cluster's CA, no ALPN; the name is set here. NULL: *e tells why. */
	const mbedtls_ssl_config *(*tls)(struct error *e);
};

struct blk_backend *nbd_client_open(const struct nbd_env *env, const struct disk_config *cfg, struct error *e) __must_check;
/* wake() of every disk whose time has come: once a turn of the network. */
void nbd_client_timers(u64 now);
