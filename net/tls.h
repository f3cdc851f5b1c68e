/* SPDX-License-Identifier: MIT */
/* TLS 1.3 streams over lwIP. Both ends show a certificate of the cluster's CA; there is no other mode. */
#pragma once
#include "net/stream.h"

#define TLS_MAX_INBOUND 24   /* connections from outside, handshakes included: more than control sessions, for moves */
#define TLS_MAX_HANDSHAKES 8 /* of them not authenticated (yet); more push out the oldest */
#define TLS_MAX_OUTBOUND 4
#define TLS_HANDSHAKE_US (10 * 1000000ull) /* TCP connect and handshake together */
#define TLS_STALL_US (60 * 1000000ull)     /* unacknowledged data without progress */
#define ALPN_QMP "godwit-qmp/1"
#define ALPN_MIG "godwit-mig/1"

/* Who this host is: CA, own certificate and key. */
struct tls_identity;

/* PEM texts as read from files, not NUL-terminated. */
struct tls_files {
	const void *ca, *crt, *key;
	size_t ca_len, crt_len, key_len;
};

/* Starts mbedTLS; once, before anything else here. -E_UNSUPPORTED, -E_IO: no sound random numbers. */
int tls_init(struct error *e) __must_check;
/* Checks the files against each other, the clock and (unless NULL) the host's name and role `host`. NULL: *e tells why. */
struct tls_identity *tls_identity_load(const struct tls_files *files, const char *host, struct error *e) __must_check;
/* The name (CN) in a host's certificate (PEM), unchecked. false: it is none, or has none. */
bool tls_certificate_name(const void *crt, size_t len, char name[32]);
/* For clients of other servers than Godwit's (NBD): this host's certificate, the cluster's CA, no ALPN, no role asked for. The
 * caller sets the name or address that must be in the server's certificate. Valid as long as id. */
struct mbedtls_ssl_config;
const struct mbedtls_ssl_config *tls_client_config(const struct tls_identity *id);
/* No connection may use it any more. */
void tls_identity_free(struct tls_identity *id);

/* Listens on all addresses. accept() gets every peer that proved who it is (role one of the four; host for ALPN_MIG) and owns
 * the stream. */
int tls_listen(struct tls_identity *id, u16 port, void (*accept)(struct stream *), struct error *e) __must_check;
/* Opens a stream to the host of that name (role host). ip in host byte order. Handshake goes on in tls_poll(); a failure
 * shows in read/write and s->error. NULL: *e tells why. */
struct stream *tls_connect(struct tls_identity *id, u32 ip, u16 port, const char *host, const char *alpn, struct error *e)
	__must_check;
/* One turn: at most one handshake step of one connection, sends what is buffered, timeouts. true if it did something. */
bool tls_poll(void);
/* The same without handshakes, for what has been written since. */
bool tls_push(void);
/* Connections alive, also those that are being closed. */
unsigned tls_connections(void);
