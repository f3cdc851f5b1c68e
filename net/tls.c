/* SPDX-License-Identifier: MIT */
/* lwIP's callbacks only queue; all TLS work is done from tls_poll() and the stream's own calls, so nothing here is ever
 * entered twice. A connection gives its TCP window back only as TLS consumes bytes: a reader that does not read slows
 * the peer down and costs at most one window. */
#define MBEDTLS_ALLOW_PRIVATE_ACCESS
#include "net/tls.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/tcp.h"
#include "mbedtls/platform_util.h"
#include "mbedtls/net_sockets.h"
#include "mbedtls/ssl.h"
#include "net/identity.h"
#include "net/rx_queue.h"
#include "psa/crypto.h"
#include "ssl_misc.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define STAGE_BYTES 16384        /* small writes are gathered into full records */
#define CREDIT_BYTES (32 * 1024) /* window is given back in steps of this */
#define OUTPUT_BYTES (32 * 1024) /* TCP is told to send in steps of this, so that segments are full */
/* A control client that does not read, or asks without reading, holds no more than this each way: lwIP's memory is one
 * pool, and whoever fills it cuts the host off. Nor does a stranger. Moves get TCP_SND_BUF and TCP_WND. */
#define CONTROL_SND_BYTES (32 * 1024)
#define CONTROL_WND (64 * 1024)
#define FLUSH_US (5 * 1000000ull)
#define LINGER_US (2 * 1000000ull)

enum conn_state {
	CONN_CONNECTING, /* TCP */
	CONN_HANDSHAKE,
	CONN_OPEN,
	CONN_FAILED,     /* s.error is set; waits for its owner to close */
	CONN_FLUSH,      /* closed by its owner, still sending */
	CONN_LINGER,     /* our FIN is out; a reset now could destroy what the peer has not read yet, so it comes only after
	                  * LINGER_US without progress. lwIP alone would keep the pcb for up to 20 minutes. */
};

struct conn {
	struct stream s;
	enum conn_state state;
	bool inbound;
	struct tls_identity *id;
	struct tcp_pcb *pcb;          /* NULL once lwIP has dropped it */
	err_t tcp_error;
	struct rx_queue rx;
	bool rx_fin, sniffed;
	bool given;                   /* somebody owns the stream and will close it */
	bool steps_left;              /* the handshake can go on without hearing anything */
	u32 credit, unsent;
	u32 withheld;                 /* of the window, as long as it is not known to be a move */
	u32 snd_max;                  /* bytes that may wait in TCP */
	mbedtls_ssl_context ssl;
	u8 *stage;
	u32 staged, stage_size;
	u64 deadline;                 /* of the present state; ~0: none */
	u64 progress_us;              /* last acknowledgement or arrival */
	char want_name[32];           /* of the server, outbound */
	struct error verify;          /* what was wrong with the peer's certificate */
};

static struct conn *conns[TLS_MAX_INBOUND + TLS_MAX_OUTBOUND];
static unsigned next_handshake;
static const struct stream_ops conn_ops;

/* --- Certificates of peers --- */

static bool role_known(const char *role)
{
	return !strcmp(role, "admin") || !strcmp(role, "operator") || !strcmp(role, "viewer") || !strcmp(role, "host");
}

/* mbedTLS calls this for every certificate of the chain, the CA first, the peer's own (depth 0) last. */
static int conn_verify(void *arg, mbedtls_x509_crt *crt, int depth, uint32_t *flags)
{
	struct conn *c = arg;
	const char *alpn = mbedtls_ssl_get_alpn_protocol(&c->ssl);
	bool need_host = !c->inbound || (alpn && !strcmp(alpn, ALPN_MIG));

	cert_explain(&c->verify, depth ? "its CA certificate" : "its certificate", crt, *flags, c->want_name);
	if (depth || *flags)
		return 0;
	cert_names(crt, c->s.peer_name, c->s.peer_role);
	if (!role_known(c->s.peer_role) || c->s.peer_name[0] == '?') {
		*flags |= MBEDTLS_X509_BADCERT_OTHER;
		error_set(&c->verify, E_AUTH, "its certificate has name (CN) '%s' and role (OU) '%s'; the role must be admin, operator, "
			"viewer or host. Make it with 'godwit ca enroll NAME --role ROLE'", c->s.peer_name, c->s.peer_role);
	} else if (need_host && strcmp(c->s.peer_role, "host")) {
		*flags |= MBEDTLS_X509_BADCERT_OTHER;
		error_set(&c->verify, E_AUTH, "its certificate ('%s') has the role %s, but only a host may %s. Is the address right?",
			c->s.peer_name, c->s.peer_role, c->inbound ? "move guests here" : "answer there");
	} else if (!c->inbound && strcmp(c->s.peer_name, c->want_name)) {
		*flags |= MBEDTLS_X509_BADCERT_CN_MISMATCH;
		cert_explain(&c->verify, "its certificate", crt, *flags, c->want_name);
	}
	return 0;
}

/* --- Life of a connection --- */

static void rx_drop(struct conn *c)
{
	c->credit += rx_queue_take(&c->rx, NULL, SIZE_MAX);
	/* All of it: lwIP closes with a reset if any of the window is missing. */
	c->credit += c->withheld;
	c->withheld = 0;
}

static void credit_return(struct conn *c)
{
	while (c->credit && c->pcb) {
		u16 n = (u16)MIN(c->credit, 0xffffu);

		c->credit -= n;
		tcp_recved(c->pcb, n);
	}
	c->credit = 0;
}

/* The pcb belongs to lwIP alone from now on. */
static void pcb_detach(struct conn *c)
{
	tcp_arg(c->pcb, NULL);
	tcp_recv(c->pcb, NULL);
	tcp_sent(c->pcb, NULL);
	tcp_err(c->pcb, NULL);
	c->pcb = NULL;
}

static void pcb_abort(struct conn *c)
{
	struct tcp_pcb *pcb = c->pcb;

	if (!pcb)
		return;
	pcb_detach(c);
	tcp_abort(pcb);
}

/* Gives the memory of TLS back; the pcb may live on to deliver what is queued. */
static void conn_strip(struct conn *c)
{
	rx_drop(c);
	mbedtls_ssl_free(&c->ssl); /* does no harm a second time */
	if (c->stage) {
		mbedtls_platform_zeroize(c->stage, STAGE_BYTES);
		heap_free(c->stage);
	}
	c->stage = NULL;
}

static void conn_free(struct conn *c)
{
	BUG_ON(c->pcb);
	conn_strip(c);
	for (unsigned i = 0; i < ARRAY_SIZE(conns); i++)
		if (conns[i] == c)
			conns[i] = NULL;
	mbedtls_platform_zeroize(c, sizeof(*c));
	heap_free(c);
}

/* Sends FIN, then waits a little for the peer's, throwing away what still comes. */
static void conn_linger(struct conn *c)
{
	struct tcp_pcb *pcb = c->pcb;
	bool early = c->state == CONN_CONNECTING;

	conn_strip(c);
	credit_return(c);
	if (!pcb || early) {
		pcb_abort(c);
		conn_free(c);
		return;
	}
	c->state = CONN_LINGER;
	c->deadline = now_us() + LINGER_US;
	if (c->rx_fin) {
		pcb_detach(c);
		if (tcp_close(pcb) != ERR_OK)
			tcp_abort(pcb);
		conn_free(c);
		return;
	}
	if (tcp_shutdown(pcb, 0, 1) != ERR_OK) {
		pcb_abort(c);
		conn_free(c);
	}
}

static int __printf(3, 4) conn_fail(struct conn *c, enum err code, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (c->inbound)
		error_set(&c->s.error, code, "%s", text);
	else
		error_set(&c->s.error, code, "host '%s' at %s: %s", c->want_name, c->s.peer_addr, text);
	c->state = CONN_FAILED;
	c->deadline = ~0ull;
	return -c->s.error.code;
}

/* A fatal alert is the peer's word on what it did not like about us. */
static int conn_fail_alert(struct conn *c, u8 alert)
{
	static const struct { u8 code; const char *text; } alerts[] = {
		{ 10, "unexpected_message: the two versions do not understand each other" },
		{ 40, "handshake_failure: no common TLS parameters; are both ends the same version of Godwit?" },
		{ 41, "no_certificate: it got no certificate from here" },
		{ 42, "bad_certificate: it does not take this host's certificate; is the name in it right?" },
		{ 43, "unsupported_certificate: this host's certificate is of the wrong kind; make it with 'godwit ca enroll'" },
		{ 44, "certificate_revoked: this host's certificate was withdrawn" },
		{ 45, "certificate_expired: its clock says that this host's certificate is out of date; renew it with 'godwit ca enroll "
		      "--force', or set the clocks" },
		{ 46, "certificate_unknown: it does not accept this host's certificate; are both clocks right?" },
		{ 48, "unknown_ca: this host's certificate is not from its CA; enrol both with one CA" },
		{ 49, "access_denied: the role in this host's certificate does not allow this" },
		{ 70, "protocol_version: it does not speak TLS 1.3" },
		{ 80, "internal_error: it has a problem of its own; its log says which" },
		{ 116, "certificate_required: it got no certificate from here" },
		{ 120, "no_application_protocol: it is not a Godwit of this version" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(alerts); i++)
		if (alerts[i].code == alert)
			return conn_fail(c, E_AUTH, "refused this end with TLS alert %s", alerts[i].text);
	return conn_fail(c, E_AUTH, "refused this end with TLS alert %u", alert);
}

static int conn_fail_tls(struct conn *c, int r)
{
	bool handshake = c->state == CONN_HANDSHAKE;

	if (c->state == CONN_FAILED)
		return -c->s.error.code;
	if (c->verify.code)
		return conn_fail(c, c->verify.code, "%s", c->verify.text);
	switch (r) {
	case MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE:
		return conn_fail_alert(c, c->ssl.in_msg[1]);
	case MBEDTLS_ERR_X509_CERT_VERIFY_FAILED:
	case MBEDTLS_ERR_SSL_BAD_CERTIFICATE:
		return conn_fail(c, E_AUTH, "its certificate is not acceptable (flags %x). Is it made by 'godwit ca enroll' for this use?",
			(unsigned)mbedtls_ssl_get_verify_result(&c->ssl));
	case MBEDTLS_ERR_SSL_NO_CLIENT_CERTIFICATE:
		return conn_fail(c, E_AUTH, "it showed no certificate. Make one with 'godwit ca enroll NAME --role ROLE' and use it");
	case MBEDTLS_ERR_SSL_NO_APPLICATION_PROTOCOL:
		return conn_fail(c, E_PROTO, "it offers no protocol (ALPN) that is known here; known: " ALPN_QMP ", " ALPN_MIG);
	case MBEDTLS_ERR_SSL_BAD_PROTOCOL_VERSION:
		return conn_fail(c, E_PROTO, "it does not speak TLS 1.3. Use a newer client");
	case MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY:
	case MBEDTLS_ERR_SSL_CONN_EOF:
		if (handshake && c->inbound)
			return conn_fail(c, E_IO, "closed the connection before the TLS handshake was done");
		if (handshake)
			return conn_fail(c, E_IO, "closed the connection during the TLS handshake. Is it a Godwit, and are both ends "
				"enrolled with the same CA?");
		return conn_fail(c, E_IO, "closed the connection");
	case MBEDTLS_ERR_NET_CONN_RESET:
		if (handshake && !c->inbound)
			return conn_fail(c, E_IO, "dropped the connection during the TLS handshake: it may have too many connections, or "
				"have been restarted. Try again");
		return conn_fail(c, E_IO, "the connection was lost (%s)", c->tcp_error == ERR_ABRT ? "timeout" : "reset");
	case MBEDTLS_ERR_SSL_ALLOC_FAILED:
	case MBEDTLS_ERR_MPI_ALLOC_FAILED:
	case PSA_ERROR_INSUFFICIENT_MEMORY:
		return conn_fail(c, E_NOMEM, "this host has no memory for another TLS connection");
	case MBEDTLS_ERR_SSL_INVALID_MAC:
		return conn_fail(c, E_PROTO, "sent a TLS record that was changed on the way");
	}
	return conn_fail(c, E_PROTO, "%s (mbedTLS error -0x%04x)", handshake ? "the TLS handshake failed" : "broke the TLS protocol",
		(unsigned)-r);
}

/* --- TCP below --- */

static size_t tx_room(const struct conn *c)
{
	size_t queued = TCP_SND_BUF - c->pcb->snd_buf; /* tcp_sndbuf() says at most 64 KiB */

	return queued < c->snd_max ? c->snd_max - queued : 0;
}

static int bio_send(void *arg, const unsigned char *buf, size_t len)
{
	struct conn *c = arg;
	size_t room, n;

	if (!c->pcb)
		return MBEDTLS_ERR_NET_CONN_RESET;
	room = tx_room(c);
	n = MIN(MIN(len, room), (size_t)0xffff);
	/* Little room is no use: it would make little segments. */
	if (n < len && n < TCP_MSS)
		return MBEDTLS_ERR_SSL_WANT_WRITE;
	switch (tcp_write(c->pcb, buf, (u16)n, TCP_WRITE_FLAG_COPY)) {
	case ERR_OK:
		break;
	case ERR_MEM:
		return MBEDTLS_ERR_SSL_WANT_WRITE;
	default:
		return MBEDTLS_ERR_NET_CONN_RESET;
	}
	c->s.wire_out += n;
	c->unsent += n;
	if (c->unsent >= OUTPUT_BYTES) {
		c->unsent = 0;
		tcp_output(c->pcb);
	}
	return (int)n;
}

static int bio_recv(void *arg, unsigned char *buf, size_t len)
{
	struct conn *c = arg;
	size_t n = rx_queue_take(&c->rx, buf, len);

	if (!n && c->rx_fin)
		return 0;
	if (!n)
		return c->pcb ? MBEDTLS_ERR_SSL_WANT_READ : MBEDTLS_ERR_NET_CONN_RESET;
	c->credit += n;
	if (c->credit >= CREDIT_BYTES)
		credit_return(c);
	return (int)n;
}

static err_t on_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err)
{
	struct conn *c = arg;

	c->progress_us = now_us();
	if (c->state == CONN_LINGER) {
		if (p) {
			tcp_recved(pcb, p->tot_len);
			pbuf_free(p);
		} else {
			/* Both have closed: the pcb may vanish any time now, lwIP finishes it alone. */
			c->rx_fin = true;
			pcb_detach(c);
		}
		return ERR_OK;
	}
	if (!p) {
		c->rx_fin = true;
		return ERR_OK;
	}
	if (!rx_queue_put(&c->rx, p))
		return ERR_MEM;
	c->s.wire_in += p->tot_len;
	return ERR_OK;
}

static err_t on_sent(void *arg, struct tcp_pcb *pcb, u16_t len)
{
	struct conn *c = arg;

	c->progress_us = now_us();
	if (c->state == CONN_LINGER)
		c->deadline = c->progress_us + LINGER_US;
	return ERR_OK;
}

static void on_err(void *arg, err_t err)
{
	struct conn *c = arg;

	c->pcb = NULL; /* lwIP has freed it */
	c->tcp_error = err;
}

static err_t on_connected(void *arg, struct tcp_pcb *pcb, err_t err)
{
	struct conn *c = arg;

	if (c->state == CONN_CONNECTING) /* not if it has just been given up */
		c->state = CONN_HANDSHAKE;
	return ERR_OK;
}

static void addr_text(char out[48], const ip_addr_t *ip, u16 port)
{
	u32 a = lwip_ntohl(ip4_addr_get_u32(ip_2_ip4(ip)));

	snprintf(out, 48, "%u.%u.%u.%u:%u", a >> 24, a >> 16 & 255, a >> 8 & 255, a & 255, port);
}

/* Takes over pcb; NULL (pcb untouched) if there is no memory or no slot. */
static struct conn *conn_new(struct tls_identity *id, struct tcp_pcb *pcb, bool inbound, mbedtls_ssl_config *conf)
{
	struct conn **slot = NULL, *c;

	for (unsigned i = 0; i < ARRAY_SIZE(conns) && !slot; i++)
		if (!conns[i])
			slot = &conns[i];
	c = slot ? heap_calloc(1, sizeof(*c)) : NULL;
	if (!c)
		return NULL;
	mbedtls_ssl_init(&c->ssl);
	if (mbedtls_ssl_setup(&c->ssl, conf)) {
		mbedtls_ssl_free(&c->ssl);
		heap_free(c);
		return NULL;
	}
	mbedtls_ssl_set_bio(&c->ssl, c, bio_send, bio_recv, NULL);
	mbedtls_ssl_set_verify(&c->ssl, conn_verify, c);
	c->s.ops = &conn_ops;
	c->id = id;
	c->inbound = inbound;
	c->snd_max = TCP_SND_BUF;
	c->given = !inbound;
	c->state = inbound ? CONN_HANDSHAKE : CONN_CONNECTING;
	c->progress_us = now_us();
	c->deadline = c->progress_us + TLS_HANDSHAKE_US;
	c->pcb = pcb;
	tcp_arg(pcb, c);
	tcp_recv(pcb, on_recv);
	tcp_sent(pcb, on_sent);
	tcp_err(pcb, on_err);
	tcp_nagle_disable(pcb);
	ip_set_option(pcb, SOF_KEEPALIVE);
	pcb->keep_idle = 30000;
	pcb->keep_intvl = 10000;
	pcb->keep_cnt = 3;
	*slot = c;
	return c;
}

static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t err)
{
	struct tls_identity *id = arg;
	unsigned inbound = 0, strangers = 0;
	struct conn *c, *oldest = NULL;

	if (err != ERR_OK || !pcb)
		return ERR_VAL;
	for (unsigned i = 0; i < ARRAY_SIZE(conns); i++) {
		if (!conns[i] || !conns[i]->inbound)
			continue;
		inbound++;
		if (conns[i]->given)
			continue;
		strangers++;
		if (!oldest || conns[i]->deadline < oldest->deadline)
			oldest = conns[i];
	}
	/* Strangers who say nothing, or have been refused and do not hang up, must not keep friends out. */
	if (oldest && (strangers >= TLS_MAX_HANDSHAKES || inbound >= TLS_MAX_INBOUND)) {
		if (oldest->state == CONN_HANDSHAKE)
			log_guest(LOG_WARN, "net", "%s: dropped in its handshake, too many others are waiting", oldest->s.peer_addr);
		pcb_abort(oldest);
		conn_free(oldest);
		inbound--;
	}
	c = inbound < TLS_MAX_INBOUND ? conn_new(id, pcb, true, &id->conf[TLS_SERVER]) : NULL;
	if (!c) {
		log_guest(LOG_WARN, "net", "a connection was refused: %s", inbound < TLS_MAX_INBOUND ? "no memory" :
			"all are in use; close some clients");
		tcp_abort(pcb);
		return ERR_ABRT;
	}
	addr_text(c->s.peer_addr, &pcb->remote_ip, pcb->remote_port);
	/* Only the SYN has announced a window yet, and that is never scaled: at most 64 KiB. */
	if (pcb->rcv_wnd > CONTROL_WND) {
		c->withheld = pcb->rcv_wnd - CONTROL_WND;
		pcb->rcv_wnd = pcb->rcv_ann_wnd = CONTROL_WND;
		pcb->rcv_ann_right_edge = pcb->rcv_nxt + CONTROL_WND;
	}
	return ERR_OK;
}

int tls_listen(struct tls_identity *id, u16 port, void (*accept)(struct stream *), struct error *e)
{
	struct tcp_pcb *pcb = tcp_new_ip_type(IPADDR_TYPE_V4), *listener;

	if (!pcb || tcp_bind(pcb, IP4_ADDR_ANY, port) != ERR_OK) {
		if (pcb)
			tcp_abort(pcb);
		return error_set(e, E_BUSY, "TCP port %u cannot be listened on", port);
	}
	listener = tcp_listen_with_backlog(pcb, TCP_DEFAULT_LISTEN_BACKLOG);
	if (!listener) {
		tcp_abort(pcb);
		return error_set(e, E_NOMEM, "no memory to listen on TCP port %u", port);
	}
	id->listener = listener;
	id->accept = accept;
	tcp_arg(listener, id);
	tcp_accept(listener, on_accept);
	return 0;
}

struct stream *tls_connect(struct tls_identity *id, u32 ip, u16 port, const char *host, const char *alpn, struct error *e)
{
	ip_addr_t addr = IPADDR4_INIT(lwip_htonl(ip));
	struct tcp_pcb *pcb;
	unsigned outbound = 0;
	struct conn *c;
	err_t err;

	for (unsigned i = 0; i < ARRAY_SIZE(conns); i++)
		outbound += conns[i] && !conns[i]->inbound;
	if (outbound >= TLS_MAX_OUTBOUND) {
		error_set(e, E_BUSY, "this host already has %u connections to other hosts; wait for one to end", outbound);
		return NULL;
	}
	if (strlen(host) >= sizeof(c->want_name) || !host[0]) {
		error_set(e, E_INVAL, "'%s' is not a host name (1 to 31 characters)", host);
		return NULL;
	}
	pcb = tcp_new_ip_type(IPADDR_TYPE_V4);
	c = pcb ? conn_new(id, pcb, false, &id->conf[strcmp(alpn, ALPN_MIG) ? TLS_CLIENT_QMP : TLS_CLIENT_MIG]) : NULL;
	if (!c) {
		if (pcb)
			tcp_abort(pcb);
		error_set(e, E_NOMEM, "this host has no memory for another connection");
		return NULL;
	}
	strcpy(c->want_name, host);
	addr_text(c->s.peer_addr, &addr, port);
	err = mbedtls_ssl_set_hostname(&c->ssl, host) ? ERR_MEM : tcp_connect(pcb, &addr, port, on_connected);
	if (err != ERR_OK) {
		error_set(e, E_IO, "host '%s' at %s: %s", host, c->s.peer_addr, err == ERR_RTE ?
			"no network leads there; see [network] in godwit.conf" : "the connection could not be started (no memory)");
		pcb_abort(c);
		conn_free(c);
		return NULL;
	}
	return &c->s;
}

/* --- Handshake --- */

static void conn_opened(struct conn *c)
{
	const char *alpn = mbedtls_ssl_get_alpn_protocol(&c->ssl);
	int max = mbedtls_ssl_get_max_out_record_payload(&c->ssl);

	if (mbedtls_ssl_get_verify_result(&c->ssl) || !c->s.peer_name[0]) {
		conn_fail(c, E_AUTH, "its certificate was not verified");
		return;
	}
	if (!alpn) {
		conn_fail(c, E_PROTO, "it named no protocol (ALPN); known: " ALPN_QMP ", " ALPN_MIG);
		return;
	}
	snprintf(c->s.alpn, sizeof(c->s.alpn), "%s", alpn);
	c->stage = heap_calloc(1, STAGE_BYTES);
	if (!c->stage || max <= 0) {
		conn_fail(c, E_NOMEM, "this host has no memory for another TLS connection");
		return;
	}
	c->stage_size = MIN((u32)max, (u32)STAGE_BYTES);
	if (strcmp(alpn, ALPN_MIG)) {
		c->snd_max = CONTROL_SND_BYTES;
	} else {
		c->credit += c->withheld;
		c->withheld = 0;
		credit_return(c);
	}
	c->state = CONN_OPEN;
	c->deadline = ~0ull;
}

/* The first byte tells TLS from everything else: record type handshake or alert. */
static bool conn_sniff(struct conn *c)
{
	u8 type;

	if (c->sniffed || rx_queue_empty(&c->rx))
		return true;
	c->sniffed = true;
	type = rx_queue_first(&c->rx);
	return type == 22 || type == 21;
}

static void conn_handshake(struct conn *c)
{
	int r;

	if (!conn_sniff(c)) {
		conn_fail(c, E_PROTO, c->inbound ? "it does not speak TLS. Use 'godwit', or another TLS 1.3 client with a certificate" :
			"something answers there, but it does not speak TLS. Is the port right?");
		return;
	}
	r = mbedtls_ssl_handshake_step(&c->ssl);
	/* RFC 8446, Appendix A: a client sends under handshake keys from the ServerHello on, a server under application keys
	 * once its Finished is out. mbedTLS switches later, so the peer could not decrypt the alert that says why it was
	 * refused. */
	if (!r && c->inbound && c->ssl.state == MBEDTLS_SSL_CLIENT_CERTIFICATE)
		mbedtls_ssl_set_outbound_transform(&c->ssl, c->ssl.transform_application);
	else if (!r && !c->inbound && c->ssl.state == MBEDTLS_SSL_ENCRYPTED_EXTENSIONS)
		mbedtls_ssl_set_outbound_transform(&c->ssl, c->ssl.handshake->transform_handshake);
	credit_return(c);
	c->steps_left = !r && !mbedtls_ssl_is_handshake_over(&c->ssl);
	if (!r && !c->steps_left)
		conn_opened(c);
	else if (r && r != MBEDTLS_ERR_SSL_WANT_READ && r != MBEDTLS_ERR_SSL_WANT_WRITE)
		conn_fail_tls(c, r);
}

/* --- Stream calls --- */

/* Hands staged data to TCP. 1: all gone, 0: TCP is full, negative: failed. */
static int conn_push(struct conn *c)
{
	int r = mbedtls_ssl_flush_output(&c->ssl);

	if (!r && c->staged) {
		r = mbedtls_ssl_write(&c->ssl, c->stage, c->staged);
		/* WANT_WRITE: the record is made, part of it waits in mbedTLS's own buffer. */
		if (r > 0 || r == MBEDTLS_ERR_SSL_WANT_WRITE)
			c->staged = 0;
	}
	if (r >= 0)
		return 1;
	if (r == MBEDTLS_ERR_SSL_WANT_WRITE)
		return 0;
	/* An alert that came before the reset tells more. */
	if (r == MBEDTLS_ERR_NET_CONN_RESET && !rx_queue_empty(&c->rx)) {
		int k = mbedtls_ssl_read(&c->ssl, c->stage, 0);

		if (k == MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE)
			r = k;
	}
	return conn_fail_tls(c, r);
}

static int stream_op_write(struct stream *s, const void *buf, size_t len)
{
	struct conn *c = container_of(s, struct conn, s);
	const u8 *p = buf;
	size_t left = MIN(len, (size_t)1 << 30);
	int taken = 0;

	if (c->state == CONN_FAILED)
		return -s->error.code;
	if (c->state != CONN_OPEN)
		return 0;
	while (left) {
		size_t n = MIN(left, (size_t)(c->stage_size - c->staged));

		if (!n) {
			int r = conn_push(c);

			if (r < 0)
				return r;
			if (!r && c->staged)
				break;
			continue;
		}
		memcpy(c->stage + c->staged, p, n);
		c->staged += n;
		p += n;
		left -= n;
		taken += (int)n;
	}
	return taken;
}

static int stream_op_read(struct stream *s, void *buf, size_t len)
{
	struct conn *c = container_of(s, struct conn, s);
	int n = 0, r;

	if (c->state == CONN_FAILED)
		return -s->error.code;
	if (c->state != CONN_OPEN || !len)
		return 0;
	len = MIN(len, (size_t)1 << 30);
	while ((size_t)n < len) {
		r = mbedtls_ssl_read(&c->ssl, (u8 *)buf + n, len - n);
		if (r > 0) {
			n += r;
			continue;
		}
		if (r == MBEDTLS_ERR_SSL_WANT_READ || r == MBEDTLS_ERR_SSL_WANT_WRITE || n)
			break;
		return conn_fail_tls(c, r ? r : MBEDTLS_ERR_SSL_CONN_EOF);
	}
	credit_return(c);
	return n;
}

static bool stream_op_connecting(struct stream *s)
{
	struct conn *c = container_of(s, struct conn, s);

	return c->state == CONN_CONNECTING || c->state == CONN_HANDSHAKE;
}

static void stream_op_close(struct stream *s)
{
	struct conn *c = container_of(s, struct conn, s);

	if (c->state == CONN_OPEN) {
		c->state = CONN_FLUSH;
		c->deadline = now_us() + FLUSH_US;
		return;
	}
	conn_linger(c);
}

static const struct stream_ops conn_ops = {
	.write = stream_op_write, .read = stream_op_read, .connecting = stream_op_connecting, .close = stream_op_close,
};

/* --- Turn --- */

static void conn_timeout(struct conn *c)
{
	switch (c->state) {
	case CONN_CONNECTING:
		conn_fail(c, E_TIMEOUT, "no answer within %llu s. Is it on, is the address right, does a firewall stand between?",
			TLS_HANDSHAKE_US / 1000000);
		break;
	case CONN_HANDSHAKE:
		conn_fail(c, E_TIMEOUT, "connected, but silent: no TLS handshake within %llu s. Is the port right?",
			TLS_HANDSHAKE_US / 1000000);
		break;
	case CONN_FLUSH:
	case CONN_LINGER:
		pcb_abort(c);
		conn_free(c);
		break;
	default:
		break;
	}
}

/* One connection's turn, handshakes aside. */
static bool conn_turn(struct conn *c, u64 now)
{
	bool busy = false, flushing, waiting;

	if (c->state == CONN_LINGER && !c->pcb) {
		conn_free(c);
		return true;
	}
	if (c->state == CONN_CONNECTING && !c->pcb)
		conn_fail(c, E_IO, c->tcp_error == ERR_RST ?
			"nothing listens there (connection refused). Is Godwit running there, and is the port the one in its godwit.conf?" :
			"no answer. Is it on, is the address right, does a firewall stand between?");
	if ((c->state == CONN_OPEN || c->state == CONN_FLUSH) && (c->staged || c->ssl.out_left)) {
		busy = c->pcb && tx_room(c) >= TCP_MSS;
		flushing = c->state == CONN_FLUSH;
		if (conn_push(c) < 0 && flushing) {
			conn_linger(c);
			return true;
		}
	}
	if (c->pcb && c->unsent) {
		c->unsent = 0;
		tcp_output(c->pcb);
	}
	if (c->state == CONN_FLUSH && (!c->pcb || (!c->staged && !c->ssl.out_left))) {
		mbedtls_ssl_close_notify(&c->ssl);
		if (c->pcb)
			tcp_output(c->pcb);
		conn_linger(c);
		return true;
	}
	if (c->pcb && c->pcb->refused_data)
		tcp_process_refused_data(c->pcb);
	waiting = c->state == CONN_OPEN && c->pcb && tcp_sndqueuelen(c->pcb);
	if (!waiting)
		c->progress_us = now;
	else if (now - c->progress_us > TLS_STALL_US)
		conn_fail(c, E_TIMEOUT, "takes no data any more (for %llu s). Is it overloaded, or the network cut?",
			TLS_STALL_US / 1000000);
	if (now >= c->deadline) {
		conn_timeout(c);
		return true;
	}
	return busy;
}

/* Public-key operations are long: one step of one connection. true: it did one. */
static bool handshake_turn(void)
{
	for (unsigned k = 0; k < ARRAY_SIZE(conns); k++) {
		unsigned i = (next_handshake + k) % ARRAY_SIZE(conns);
		struct conn *c = conns[i];

		if (!c || c->state != CONN_HANDSHAKE || !(c->steps_left || !rx_queue_empty(&c->rx) || c->rx_fin || !c->pcb ||
		    c->ssl.state == MBEDTLS_SSL_HELLO_REQUEST || c->ssl.out_left))
			continue;
		next_handshake = i + 1;
		conn_handshake(c);
		if (c->state == CONN_OPEN && c->inbound) {
			c->given = true;
			c->id->accept(&c->s);
		}
		return true;
	}
	return false;
}

bool tls_push(void)
{
	u64 now = now_us();
	bool busy = false;

	for (unsigned i = 0; i < ARRAY_SIZE(conns); i++) {
		struct conn *c = conns[i];

		if (c && c->state == CONN_FAILED && !c->given) { /* nobody will close it */
			log_guest(LOG_WARN, "net", "%s: connection refused: %s", c->s.peer_addr, c->s.error.text);
			conn_linger(c);
			busy = true;
		} else if (c) {
			busy |= conn_turn(c, now);
		}
	}
	return busy;
}

bool tls_poll(void)
{
	bool stepped = handshake_turn();

	return tls_push() || stepped;
}

unsigned tls_connections(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(conns); i++)
		n += !!conns[i];
	return n;
}
