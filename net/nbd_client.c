/* SPDX-License-Identifier: MIT */
#include "net/nbd_client.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "mbedtls/net_sockets.h"
#include "net/nbd_proto.h"

#include <stdio.h>
#include <string.h>

#define SLOTS (2 * BLK_MAX_REQUESTS + 1) /* as many that the device has forgotten, and our own flush */
#define BUF_BYTES (16u << 10)
#define TURN_BYTES (256u << 10)          /* received in one turn */
#define RETRY_MIN_US 100000ull
#define RETRY_MAX_US 5000000ull
#define HANDSHAKE_US 5000000ull          /* from connect to a usable export */
#define NEVER (~0ull)

enum slot_state { FREE, WAITING, SENDING, SENT };

struct slot {
	enum slot_state state;
	struct blk_req *req;     /* NULL: forgotten by the device, or our own flush */
	u64 seq, handle;
	u64 writes;              /* flush: writes answered when it was sent */
	u32 sent;                /* data bytes given to the transport */
	bool own_flush;
	bool flushing;           /* the write is answered, its flush is to come */
	struct nbd_wait wait;
};

enum conn { CONN_OFF, CONN_CONNECT, CONN_TLS, CONN_OPEN };

struct client {
	struct blk_backend be;
	const struct nbd_env *env;
	u32 ip;
	u16 port;
	bool tls, read_only;
	char export_name[NBD_EXPORT_MAX];
	u64 timeout_us;          /* 0: none */
	enum conn conn;
	struct nbd_link *link;
	struct nbd_proto proto;
	mbedtls_ssl_context ssl;
	bool ssl_live;
	struct slot slots[SLOTS];
	u64 next_seq;
	unsigned used, forgotten;
	struct slot *sending;
	u64 writes, flushed;     /* writes answered ever; of them durable */
	bool flush_failed;       /* ... our own; the guest has to hear of it */
	bool known;              /* info is fixed */
	bool draining, failing;  /* failing: away for longer than timeout */
	bool leaving;            /* the server says that it shuts down */
	u64 retry_us, backoff_us, deadline_us;
	u64 waits_since_us;      /* the last progress of what waits */
	u64 up_us;               /* when the connection came up */
	u64 wake_us;             /* when poll() is wanted next */
	struct error why;        /* it is not up */
	char said[160];          /* on the log */
	u8 tx[BUF_BYTES], rx[BUF_BYTES];
	u32 tx_at, tx_len;
};

static struct client *clients[NBD_MAX_DISKS];

static struct client *client_of(struct blk_backend *be) { return container_of(be, struct client, be); }

static void slot_free(struct client *c, struct slot *s)
{
	if (!s->req)
		c->forgotten--;
	memset(s, 0, sizeof(*s));
	c->used--;
}

/* --- connection --- */

static bool is_up(const struct client *c) { return c->conn == CONN_OPEN && c->proto.step == NBD_UP; }

static void link_close(struct client *c, bool abort)
{
	if (c->link)
		c->env->link->close(c->link, abort);
	c->link = NULL;
	if (c->ssl_live)
		mbedtls_ssl_free(&c->ssl);
	c->ssl_live = false;
	c->conn = CONN_OFF;
	c->tx_at = c->tx_len = 0;
	c->sending = NULL;
	c->leaving = false;
}

/* The connection is over. What was not answered waits for the next one, in its old order. */
static void conn_down(struct client *c, const struct error *e)
{
	bool was_up = is_up(c);

	link_close(c, true);
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &c->slots[i];

		if (s->state == FREE)
			continue;
		if (!s->req) {
			slot_free(c, s);
			continue;
		}
		s->state = WAITING;
		s->sent = 0;
		s->flushing = false;
	}
	c->why = *e;
	c->backoff_us = was_up || !c->backoff_us ? RETRY_MIN_US : MIN(c->backoff_us * 2, RETRY_MAX_US);
	c->retry_us = now_us() + c->backoff_us;
	c->deadline_us = NEVER;
	if (strncmp(c->said, e->text, sizeof(c->said) - 1)) {
		snprintf(c->said, sizeof(c->said), "%.159s", e->text);
		log_guest(LOG_WARN, "disk", "%s%s", e->text, c->used ? "; its guest's requests wait" : "");
	}
}

static void conn_fail(struct client *c, enum err code, const char *text)
{
	struct error e = { 0 };

	error_set(&e, code, "NBD server %s: %s", c->be.name, text);
	conn_down(c, &e);
}

static void link_wake(void *arg)
{
	struct client *c = arg;

	if (c->be.wake)
		c->be.wake(&c->be);
}

static void conn_begin(struct client *c, u64 now)
{
	struct error e = { 0 };

	c->deadline_us = now + HANDSHAKE_US;
	c->link = c->env->link->connect(c->ip, c->port, link_wake, c, &e);
	if (!c->link) {
		conn_fail(c, e.code, e.text);
		return;
	}
	c->conn = CONN_CONNECT;
}

/* --- TLS --- */

static int bio_send(void *arg, const unsigned char *buf, size_t len)
{
	struct client *c = arg;
	int n = c->env->link->send(c->link, buf, len);

	return n > 0 ? n : n < 0 ? MBEDTLS_ERR_NET_CONN_RESET : MBEDTLS_ERR_SSL_WANT_WRITE;
}

static int bio_recv(void *arg, unsigned char *buf, size_t len)
{
	struct client *c = arg;
	int n = c->env->link->recv(c->link, buf, len);

	return n > 0 ? n : n < 0 ? MBEDTLS_ERR_NET_CONN_RESET : MBEDTLS_ERR_SSL_WANT_READ;
}

static void ip_text(const struct client *c, char out[16])
{
	snprintf(out, 16, "%u.%u.%u.%u", c->ip >> 24, c->ip >> 16 & 255, c->ip >> 8 & 255, c->ip & 255);
}

static void tls_begin(struct client *c)
{
	struct error e = { 0 };
	const mbedtls_ssl_config *conf = c->env->tls(&e);
	char ip[16];

	if (!conf) {
		conn_fail(c, E_AUTH, e.text);
		return;
	}
	ip_text(c, ip);
	mbedtls_ssl_init(&c->ssl);
	c->ssl_live = true;
	if (mbedtls_ssl_setup(&c->ssl, conf) || mbedtls_ssl_set_hostname(&c->ssl, ip)) {
		conn_fail(c, E_NOMEM, "this host has no memory for TLS");
		return;
	}
	mbedtls_ssl_set_bio(&c->ssl, c, bio_send, bio_recv, NULL);
	c->conn = CONN_TLS;
}

static bool tls_again(int r)
{
	return r == MBEDTLS_ERR_SSL_WANT_READ || r == MBEDTLS_ERR_SSL_WANT_WRITE;
}

static void tls_fail(struct client *c, int r)
{
	u32 flags = c->conn == CONN_TLS ? mbedtls_ssl_get_verify_result(&c->ssl) : 0;
	char text[200];

	if (flags == ~0u || (!flags && r == MBEDTLS_ERR_NET_CONN_RESET)) {
		flags = 0;
		snprintf(text, sizeof(text), "the connection was lost in the TLS handshake: does the server take this host's certificate "
			 "(CA) and TLS 1.3?");
	} else if (flags & MBEDTLS_X509_BADCERT_CN_MISMATCH) {
		snprintf(text, sizeof(text), "its certificate is not for this address: it needs the address as subjectAltName IP:...");
	} else if (flags & (MBEDTLS_X509_BADCERT_EXPIRED | MBEDTLS_X509_BADCERT_FUTURE)) {
		snprintf(text, sizeof(text), "its certificate is out of date, or this host's clock is wrong: renew the certificate");
	} else if (flags) {
		snprintf(text, sizeof(text), "its certificate is not from this cluster's CA, or not for servers (flags %#x): make it with "
			 "the cluster's CA", (unsigned)flags);
	} else if (r == MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE) {
		snprintf(text, sizeof(text), "it refused this host in the TLS handshake: its CA must be the cluster's, and it must allow TLS "
			 "1.3 with AES-128-GCM and P-256");
	} else {
		snprintf(text, sizeof(text), "TLS failed (mbedTLS error -0x%04x): it must speak TLS 1.3 with AES-128-GCM and P-256",
			 (unsigned)-r);
	}
	conn_fail(c, E_AUTH, text);
}

/* One step of the handshake, because public-key operations are long. True: the next one need not wait for the server. */
static bool tls_turn(struct client *c)
{
	int r = mbedtls_ssl_handshake_step(&c->ssl);

	c->env->link->push(c->link);
	if (!r && mbedtls_ssl_is_handshake_over(&c->ssl)) {
		c->conn = CONN_OPEN;
		nbd_proto_tls_done(&c->proto);
	} else if (r && !tls_again(r)) {
		tls_fail(c, r);
	}
	return !r;
}

/* Bytes moved; 0: none now; negative: the connection is over. */
static int bytes_send(struct client *c, const u8 *buf, u32 len)
{
	int r;

	if (!c->ssl_live)
		return c->env->link->send(c->link, buf, len);
	r = mbedtls_ssl_write(&c->ssl, buf, len);
	return r >= 0 ? r : tls_again(r) ? 0 : -E_IO;
}

static int bytes_recv(struct client *c, u8 *buf, u32 len)
{
	int r;

	if (!c->ssl_live)
		return c->env->link->recv(c->link, buf, len);
	r = mbedtls_ssl_read(&c->ssl, buf, len);
	return r > 0 ? r : r < 0 && tls_again(r) ? 0 : -E_IO;
}

/* --- answers --- */

static struct nbd_wait *sink_find(void *arg, u64 handle)
{
	struct client *c = arg;
	struct slot *s = (handle & 0xff) < SLOTS ? &c->slots[handle & 0xff] : NULL;

	return s && s->state == SENT && s->handle == handle ? &s->wait : NULL;
}

static void sink_data(void *arg, struct nbd_wait *w, u32 at, const u8 *bytes, u32 len)
{
	struct client *c = arg;
	struct slot *s = container_of(w, struct slot, wait);

	if (s->req)
		c->be.front->copy(&c->be, s->req, at, (void *)bytes, len);
}

static void sink_done(void *arg, struct nbd_wait *w, u32 error)
{
	struct client *c = arg;
	struct slot *s = container_of(w, struct slot, wait);
	struct blk_req *req = s->req;
	bool wrote = !error && (w->type == NBD_CMD_WRITE || w->type == NBD_CMD_TRIM || w->type == NBD_CMD_WRITE_ZEROES);

	/* A server that shuts down answers so: the next one will do it. */
	if (error == NBD_ESHUTDOWN) {
		s->state = WAITING;
		c->leaving = true;
		return;
	}
	c->writes += wrote;
	/* To be durable, of a server that can only flush. */
	if (wrote && req && req->fua && (c->be.info.features & (BLK_CAN_FLUSH | BLK_CAN_FUA)) == BLK_CAN_FLUSH) {
		s->state = WAITING;
		s->flushing = true;
		return;
	}
	if (w->type == NBD_CMD_FLUSH && !error)
		c->flushed = MAX(c->flushed, s->writes);
	if (s->own_flush && error) {
		c->flush_failed = true;
		c->flushed = c->writes;
	}
	slot_free(c, s);
	if (req && error)
		log_guest(LOG_WARN, "disk", "NBD server %s: error %u for %s at %llu, %u bytes", c->be.name, (unsigned)error,
			  req->op == BLK_READ ? "a read" : "a write", (unsigned long long)req->offset, req->bytes);
	if (req)
		c->be.front->done(&c->be, req, error ? -E_IO : 0);
}

static const struct nbd_sink sink = { sink_find, sink_data, sink_done };

/* --- the export --- */

static u32 features_of(const struct client *c)
{
	const struct nbd_export *x = &c->proto.export;
	u32 f = x->flags & NBD_FLAG_READ_ONLY || c->read_only ? BLK_READ_ONLY : 0;

	f |= x->flags & NBD_FLAG_SEND_FLUSH ? BLK_CAN_FLUSH : 0;
	f |= x->flags & NBD_FLAG_SEND_FUA ? BLK_CAN_FUA : 0;
	f |= x->flags & NBD_FLAG_SEND_TRIM ? BLK_CAN_DISCARD : 0;
	f |= x->flags & NBD_FLAG_SEND_WRITE_ZEROES ? BLK_CAN_WRITE_ZEROES : 0;
	return f;
}

/* The handshake is over: is this the disk that the guest knows? */
static void on_up(struct client *c)
{
	const struct nbd_export *x = &c->proto.export;
	struct blk_info info = { .bytes = ALIGN_DOWN(x->bytes, 512ull), .block = MAX(x->min_block, 512u), .features = features_of(c) };
	struct error e = { 0 };

	if (!info.bytes || info.block > 4096 || x->max_block < BLK_MAX_BYTES)
		error_set(&e, E_UNSUPPORTED, "NBD server %s: export of %llu bytes, blocks of %u, requests up to %u bytes: at least 512 bytes, "
			  "blocks of at most 4096 and requests of 1 MiB are needed", c->be.name, (unsigned long long)x->bytes,
			  x->min_block, x->max_block);
	else if (c->known && !blk_info_fits(&c->be.info, &info))
		error_set(&e, E_STATE, "NBD server %s: this is not the disk it was (%llu bytes%s, not %llu bytes%s, or it can do less): "
			  "serve the same export again, then the guest goes on", c->be.name, (unsigned long long)info.bytes,
			  info.features & BLK_READ_ONLY ? ", read-only" : "", (unsigned long long)c->be.info.bytes,
			  c->be.info.features & BLK_READ_ONLY ? ", read-only" : "");
	if (e.code) {
		c->proto.step = NBD_GO; /* it was never up */
		conn_down(c, &e);
		return;
	}
	if (!c->known)
		c->be.info = info;
	if (!c->known || c->said[0])
		log_info("disk", "%s: %s, %llu MiB%s%s", c->be.name, c->known ? "connected again" : "connected",
			 (unsigned long long)info.bytes >> 20, info.features & BLK_READ_ONLY ? ", read-only" : "",
			 c->ssl_live ? ", TLS" : "");
	c->known = true;
	c->failing = false;
	c->said[0] = 0;
	c->why.code = 0;
	c->backoff_us = 0;
	c->deadline_us = NEVER;
	c->up_us = now_us();
}

static bool receive(struct client *c)
{
	u32 total = 0;

	while (total < TURN_BYTES) {
		struct error e = { 0 };
		size_t used = 0;
		int n = bytes_recv(c, c->rx, sizeof(c->rx)), rc;
		bool was_up = is_up(c);

		if (!n)
			break;
		if (n < 0) {
			conn_fail(c, E_IO, is_up(c) ? "the connection was lost" : "it closed the connection in the handshake: does it serve "
				  "that export to this host?");
			return true;
		}
		total += (u32)n;
		if (was_up) /* a greeting answers nobody's request */
			c->waits_since_us = now_us();
		rc = nbd_proto_feed(&c->proto, c->rx, (size_t)n, &used, &e);
		if (rc) {
			conn_fail(c, (enum err)-rc, e.text);
			return true;
		}
		if (c->proto.step == NBD_TLS && !c->ssl_live) {
			/* Bytes behind the answer would come from somebody in between, unless they are TLS already; a server has nothing to
			 * say there before this end does. */
			if (used != (size_t)n)
				conn_fail(c, E_PROTO, "it sent more than its answer before TLS");
			else
				tls_begin(c);
			return true;
		}
		if (!was_up && is_up(c)) {
			on_up(c);
			if (!is_up(c))
				return true;
		}
	}
	return total >= TURN_BYTES;
}

/* --- requests --- */

/* The oldest that has not been sent. */
static struct slot *next_waiting(struct client *c)
{
	struct slot *best = NULL;

	/* A forgotten one may be carried out late: nothing overtakes it. */
	if (c->draining || c->forgotten)
		return NULL;
	for (unsigned i = 0; i < SLOTS; i++)
		if (c->slots[i].state == WAITING && (!best || c->slots[i].seq < best->seq))
			best = &c->slots[i];
	return best;
}

static void send_head(struct client *c, struct slot *s)
{
	static const u16 commands[] = { [BLK_READ] = NBD_CMD_READ, [BLK_WRITE] = NBD_CMD_WRITE, [BLK_FLUSH] = NBD_CMD_FLUSH,
					[BLK_DISCARD] = NBD_CMD_TRIM, [BLK_WRITE_ZEROES] = NBD_CMD_WRITE_ZEROES };
	const struct blk_req *r = s->flushing ? NULL : s->req;
	u16 flags = 0, cmd = r ? commands[r->op] : NBD_CMD_FLUSH;

	if (r && r->fua && r->op != BLK_READ && r->op != BLK_FLUSH && c->be.info.features & BLK_CAN_FUA)
		flags |= NBD_CMD_FLAG_FUA;
	if (r && r->op == BLK_WRITE_ZEROES && !r->unmap)
		flags |= NBD_CMD_FLAG_NO_HOLE;
	s->handle = ++c->next_seq << 8 | (u64)(s - c->slots);
	memset(&s->wait, 0, sizeof(s->wait));
	s->wait.type = cmd;
	if (r && cmd != NBD_CMD_FLUSH) {
		s->wait.offset = r->offset;
		s->wait.length = r->bytes;
	}
	s->writes = c->writes;
	s->sent = 0;
	s->state = SENT;
	nbd_request(c->tx + c->tx_len, flags, cmd, s->handle, s->wait.offset, s->wait.length);
	c->tx_len += NBD_REQUEST_BYTES;
	if (cmd == NBD_CMD_WRITE) {
		s->state = SENDING;
		c->sending = s;
	}
}

/* Fills the empty buffer with what is to be sent next. False: the guest's memory failed. */
static bool fill(struct client *c)
{
	struct slot *s;

	c->tx_at = c->tx_len = 0;
	if (c->proto.out_len) {
		memcpy(c->tx, c->proto.out, c->proto.out_len);
		c->tx_len = c->proto.out_len;
		c->proto.out_len = 0;
	}
	if (!is_up(c))
		return true;
	for (;;) {
		s = c->sending;
		if (s) {
			u32 n = MIN(s->wait.length - s->sent, BUF_BYTES - c->tx_len);

			if (!s->req || !c->be.front->copy(&c->be, s->req, s->sent, c->tx + c->tx_len, n))
				return false;
			s->sent += n;
			c->tx_len += n;
			if (s->sent < s->wait.length)
				return true;
			s->state = SENT;
			c->sending = NULL;
		}
		if (BUF_BYTES - c->tx_len < 512 || !(s = next_waiting(c)))
			return true;
		send_head(c, s);
	}
}

static void transmit(struct client *c)
{
	bool sent = false;
	int n;

	for (;;) {
		if (c->tx_at == c->tx_len && !fill(c)) {
			conn_fail(c, E_IO, "a write was broken off, because its guest's memory is not there");
			return;
		}
		if (c->tx_at == c->tx_len)
			break;
		n = bytes_send(c, c->tx + c->tx_at, c->tx_len - c->tx_at);
		if (n < 0) {
			conn_fail(c, E_IO, "the connection was lost");
			return;
		}
		if (!n)
			break;
		c->tx_at += (u32)n;
		sent = true;
	}
	if (sent || c->ssl_live)
		c->env->link->push(c->link);
}

/* When the guest has waited for long enough. A server that is back may answer what it has just been sent again. */
static u64 patience_ends(const struct client *c)
{
	if (!c->timeout_us || !c->used || c->draining)
		return NEVER;
	return MAX(c->waits_since_us + c->timeout_us, is_up(c) ? c->up_us + HANDSHAKE_US : 0);
}

/* Away for longer than the guest is to wait. */
static void give_up(struct client *c)
{
	struct error e = { 0 };

	error_set(&e, E_TIMEOUT, "NBD server %s: no answer for %llu s (timeout=)%s%.120s: its guest gets I/O errors until it is back",
		  c->be.name, (unsigned long long)c->timeout_us / 1000000, c->why.code ? ", " : "", c->why.code ? c->why.text : "");
	if (c->conn != CONN_OFF)
		conn_down(c, &e);
	else
		log_guest(LOG_WARN, "disk", "%s", e.text);
	c->failing = true;
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &c->slots[i];
		struct blk_req *req = s->req;

		if (s->state == FREE)
			continue;
		slot_free(c, s);
		if (req)
			c->be.front->done(&c->be, req, -E_TIMEOUT);
	}
}

static bool client_poll(struct blk_backend *be)
{
	struct client *c = client_of(be);
	u64 now = now_us();
	struct error e = { 0 };
	bool more = false;
	int rc;

	if (c->conn == CONN_OFF && !c->draining && now >= c->retry_us)
		conn_begin(c, now);
	if (c->conn != CONN_OFF) {
		rc = c->env->link->state(c->link, &e);
		if (rc < 0)
			conn_fail(c, E_IO, e.text);
		else if (rc && c->conn == CONN_CONNECT) {
			nbd_proto_init(&c->proto, c->export_name, c->tls, &sink, c);
			c->conn = CONN_OPEN;
		}
	}
	if (c->conn == CONN_OPEN)
		more = receive(c);
	if (c->leaving && c->conn == CONN_OPEN)
		conn_fail(c, E_IO, "it is shutting down");
	if (c->conn == CONN_TLS)
		more = tls_turn(c);
	if (c->conn == CONN_OPEN)
		transmit(c);
	if (c->conn != CONN_OFF && now >= c->deadline_us)
		conn_fail(c, E_TIMEOUT, c->conn == CONN_CONNECT ?
			  "no answer: is it on, is the address right?" : "it accepts the connection and then says nothing: is it an NBD server, "
			  "and may it serve another client (qemu-nbd --shared=0)?");
	if (!c->used || c->draining)
		c->waits_since_us = now;
	else if (now >= patience_ends(c))
		give_up(c);
	c->wake_us = c->conn == CONN_OFF ? c->draining ? NEVER : c->retry_us : c->deadline_us;
	c->wake_us = MIN(c->wake_us, patience_ends(c));
	return more;
}

static struct slot *slot_take(struct client *c)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (c->slots[i].state == FREE) {
			c->used++;
			c->slots[i].state = WAITING;
			c->slots[i].seq = ++c->next_seq;
			return &c->slots[i];
		}
	return NULL;
}

static void client_submit(struct blk_backend *be, struct blk_req *req)
{
	struct client *c = client_of(be);
	struct slot *s;

	if (c->failing && !is_up(c)) {
		be->front->done(be, req, -E_TIMEOUT);
		return;
	}
	if (req->op == BLK_FLUSH && c->flush_failed) {
		c->flush_failed = false;
		be->front->done(be, req, -E_IO);
		return;
	}
	/* Forgotten ones hold slots; the device has no more than BLK_MAX_REQUESTS, but together they may. */
	s = slot_take(c);
	if (!s) {
		be->front->done(be, req, -E_BUSY);
		return;
	}
	if (c->used == 1)
		c->waits_since_us = now_us();
	s->req = req;
	if (be->wake)
		be->wake(be);
}

static void client_forget(struct blk_backend *be)
{
	struct client *c = client_of(be);

	if (c->sending && c->sending->req) {
		c->sending->req = NULL;
		c->forgotten++;
		conn_fail(c, E_IO, "a write was broken off, because the guest reset its disk");
	}
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &c->slots[i];

		if (s->state == FREE || !s->req)
			continue;
		s->req = NULL;
		c->forgotten++;
		if (s->state == WAITING)
			slot_free(c, s);
	}
}

static int client_ready(struct blk_backend *be, struct error *e)
{
	struct client *c = client_of(be);

	if (is_up(c))
		return 1;
	if (c->why.code)
		error_set(e, (enum err)c->why.code, "%s", c->why.text);
	else
		error_set(e, E_BUSY, "NBD server %s: not connected yet", be->name);
	return 0;
}

static bool client_drain(struct blk_backend *be)
{
	struct client *c = client_of(be);
	bool waits = false;
	struct slot *s;

	c->draining = true;
	if (c->flush_failed)
		return false; /* the guest must hear of it from this host */
	if (!is_up(c)) {
		link_close(c, true);
		return true;
	}
	for (unsigned i = 0; i < SLOTS; i++)
		waits |= c->slots[i].state == SENDING || c->slots[i].state == SENT;
	if (waits || c->tx_at < c->tx_len)
		return false;
	if (c->flushed == c->writes || !(be->info.features & BLK_CAN_FLUSH))
		return true;
	/* What was answered must not depend on this connection any more. */
	s = slot_take(c);
	if (!s)
		return false;
	s->own_flush = true;
	c->forgotten++;
	c->tx_at = c->tx_len = 0;
	send_head(c, s);
	if (be->wake)
		be->wake(be);
	return false;
}

static void client_undrain(struct blk_backend *be)
{
	struct client *c = client_of(be);

	c->draining = false;
	c->waits_since_us = now_us();
	if (be->wake)
		be->wake(be);
}

static void client_close(struct blk_backend *be)
{
	struct client *c = client_of(be);

	if (is_up(c) && !c->sending && c->tx_at == c->tx_len) {
		nbd_request(c->tx, 0, NBD_CMD_DISC, 0, 0, 0);
		(void)bytes_send(c, c->tx, NBD_REQUEST_BYTES);
		c->env->link->push(c->link);
		link_close(c, false);
	}
	link_close(c, true);
	for (unsigned i = 0; i < NBD_MAX_DISKS; i++)
		if (clients[i] == c)
			clients[i] = NULL;
	heap_free(c);
}

static const struct blk_ops client_ops = {
	.submit = client_submit, .forget = client_forget, .poll = client_poll, .ready = client_ready, .drain = client_drain,
	.undrain = client_undrain, .close = client_close,
};

struct blk_backend *nbd_client_open(const struct nbd_env *env, const struct disk_config *cfg, struct error *e)
{
	struct client **slot = NULL, *c;
	char ip[16];

	for (unsigned i = 0; i < NBD_MAX_DISKS && !slot; i++)
		if (!clients[i])
			slot = &clients[i];
	c = slot ? heap_calloc(1, sizeof(*c)) : NULL;
	if (!c) {
		error_set(e, E_NOMEM, "this host has no memory for another NBD disk");
		return NULL;
	}
	*slot = c;
	c->env = env;
	c->ip = cfg->address;
	c->port = cfg->port;
	c->tls = cfg->tls;
	c->read_only = cfg->read_only;
	c->timeout_us = cfg->timeout_ms * 1000ull;
	c->deadline_us = NEVER;
	snprintf(c->export_name, sizeof(c->export_name), "%s", cfg->export_name);
	ip_text(c, ip);
	snprintf(c->be.name, sizeof(c->be.name), "nbd%s://%s:%u/%s", c->tls ? "s" : "", ip, c->port, c->export_name);
	c->be.ops = &client_ops;
	return &c->be;
}

void nbd_client_timers(u64 now)
{
	for (unsigned i = 0; i < NBD_MAX_DISKS; i++) {
		struct client *c = clients[i];

		if (c && now >= c->wake_us)
			link_wake(c);
	}
}
