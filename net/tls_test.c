/* SPDX-License-Identifier: MIT */
/* Both ends of TLS in one process, over lwIP's loopback. Each case says which promise of net/tls.h it holds us to. */
#define MBEDTLS_ALLOW_PRIVATE_ACCESS
#include "net/tls.h"
#include "lwip/init.h"
#include "lwip/netif.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/tcp.h"
#include "lwip/timeouts.h"
#include "mbedtls/ecp.h"
#include "mbedtls/gcm.h"
#include "mbedtls/platform_time.h"
#include "mbedtls/platform_util.h"
#include "mbedtls/ssl.h"
#include "net/net_fake.h"
#include "net/port/port.h"
#include "psa/crypto.h"
#include "mbedtls/psa_util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
/* */
#include <cmocka.h>

#define LOCALHOST 0x7f000001

static struct tls_identity *server;
static u16 port = 4000;
static struct stream *accepted[TLS_MAX_INBOUND];
static unsigned n_accepted;

static void accept_cb(struct stream *s)
{
	accepted[n_accepted++ % TLS_MAX_INBOUND] = s;
}

static void turn(void)
{
	fake_now += 1000;
	netif_poll_all();
	sys_check_timeouts();
	tls_poll();
	netif_poll_all();
}

static void turns(unsigned n)
{
	while (n--)
		turn();
}

static struct tls_identity *identity(const char *ca, const char *crt, const char *key, const char *host, struct error *e)
{
	struct tls_files f;
	char name[64];

	snprintf(name, sizeof(name), "%s.crt", ca);
	f.ca = fake_file(name, &f.ca_len);
	snprintf(name, sizeof(name), "%s.crt", crt);
	f.crt = fake_file(name, &f.crt_len);
	snprintf(name, sizeof(name), "%s.key", key);
	f.key = fake_file(name, &f.key_len);
	return tls_identity_load(&f, host, e);
}

static struct tls_identity *client_id(const char *name)
{
	struct error e = { 0 };
	struct tls_identity *id = identity("ca", name, name, NULL, &e);

	if (!id)
		fail_msg("%s", e.text);
	return id;
}

static void serve(const char *name)
{
	struct error e = { 0 };

	server = client_id(name);
	assert_int_equal(tls_listen(server, ++port, accept_cb, &e), 0);
	n_accepted = 0;
	fake_log[0] = 0;
}

static int setup(void **state)
{
	(void)state;
	fake_wall_shift = 0;
	serve("a");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fake_wall_shift = 0;
	/* Whatever a case did: all connections and all of their memory are gone within seconds. */
	turns(8000);
	assert_int_equal(tls_connections(), 0);
	tls_identity_free(server);
	server = NULL;
	turns(6000);
	assert_int_equal(net_mem_used(), 0);
	return 0;
}

static struct stream *dial(struct tls_identity *id, const char *alpn)
{
	struct error e = { 0 };
	struct stream *s = tls_connect(id, LOCALHOST, port, "a", alpn, &e);

	if (!s)
		fail_msg("%s", e.text);
	return s;
}

/* Until the handshake is over on this end, and then a little, so that the other end's verdict arrives. */
static void settle(struct stream *s)
{
	for (unsigned i = 0; i < 500 && stream_connecting(s); i++)
		turn();
	turns(50);
}

static void expect_error(struct stream *s, const char *text)
{
	char b[8];
	int r = stream_read(s, b, sizeof(b));

	if (r >= 0 || !strstr(s->error.text, text))
		fail_msg("read gave %d, error '%s', wanted '%s'", r, s->error.text, text);
}

static void expect_log(const char *text)
{
	if (!strstr(fake_log, text))
		fail_msg("log '%s' lacks '%s'", fake_log, text);
}

/* --- Primitives that are ours --- */

static void test_gcm(void **state)
{
	/* The library's own NIST vectors run against our GCM; then every length against itself, split and whole. */
	mbedtls_gcm_context a, b;
	u8 key[16], iv[12] = { 1 }, in[700], x[700], y[700], tag[16], tag2[16];
	size_t n, done;

	(void)state;
	assert_int_equal(mbedtls_gcm_self_test(0), 0);
	for (unsigned i = 0; i < sizeof(in); i++)
		in[i] = (u8)(i * 7);
	memset(key, 0x42, sizeof(key));
	mbedtls_gcm_init(&a);
	mbedtls_gcm_init(&b);
	assert_int_equal(mbedtls_gcm_setkey(&a, MBEDTLS_CIPHER_ID_AES, key, 128), 0);
	assert_int_equal(mbedtls_gcm_setkey(&b, MBEDTLS_CIPHER_ID_AES, key, 128), 0);
	b.fast = 0; /* the portable path must agree */
	for (unsigned len = 0; len <= sizeof(in); len++) {
		assert_int_equal(mbedtls_gcm_crypt_and_tag(&a, MBEDTLS_GCM_ENCRYPT, len, iv, 12, in, len % 40, in, x, 16, tag), 0);
		mbedtls_gcm_starts(&b, MBEDTLS_GCM_ENCRYPT, iv, 12);
		mbedtls_gcm_update_ad(&b, in, len % 40 / 2);
		mbedtls_gcm_update_ad(&b, in + len % 40 / 2, len % 40 - len % 40 / 2);
		for (done = 0; done < len; done += n)
			assert_int_equal(mbedtls_gcm_update(&b, in + done, MIN(len - done, (size_t)(1 + done % 150)), y + done,
				sizeof(y) - done, &n), 0);
		mbedtls_gcm_finish(&b, NULL, 0, &n, tag2, 16);
		assert_memory_equal(x, y, len);
		assert_memory_equal(tag, tag2, 16);
		assert_int_equal(mbedtls_gcm_auth_decrypt(&a, len, iv, 12, in, len % 40, tag, 16, x, x), 0);
		assert_memory_equal(x, in, len);
		tag[len % 16] ^= 1;
		assert_int_equal(mbedtls_gcm_auth_decrypt(&a, len, iv, 12, in, len % 40, tag, 16, x, x), MBEDTLS_ERR_GCM_AUTH_FAILED);
	}
	mbedtls_gcm_free(&a);
	mbedtls_gcm_free(&b);
}

static void test_checksum(void **state)
{
	u8 b[300];

	(void)state;
	for (unsigned i = 0; i < sizeof(b); i++)
		b[i] = (u8)(i * 37 + (i < 70 ? 255 : 0));
	memset(b, 0xff, 64);
	for (int off = 0; off < 9; off++)
		for (int len = 0; len < 280; len++) {
			u32 sum = 0;

			for (int i = 0; i < len; i++)
				sum += i & 1 ? (u32)b[off + i] << 8 : b[off + i];
			while (sum >> 16)
				sum = (sum & 0xffff) + (sum >> 16);
			assert_int_equal(net_chksum(b + off, len), sum);
		}
}

static void test_dates(void **state)
{
	(void)state;
	for (long long t = 0; t < 8000000000ll; t += 12345677) {
		struct tm a, b;
		time_t tt = t;
		mbedtls_time_t mt = t;

		assert_non_null(mbedtls_platform_gmtime_r(&mt, &a));
		gmtime_r(&tt, &b);
		assert_int_equal(a.tm_year, b.tm_year);
		assert_int_equal(a.tm_mon, b.tm_mon);
		assert_int_equal(a.tm_mday, b.tm_mday);
		assert_int_equal(a.tm_hour, b.tm_hour);
		assert_int_equal(a.tm_min, b.tm_min);
		assert_int_equal(a.tm_sec, b.tm_sec);
		assert_int_equal(a.tm_wday, b.tm_wday);
	}
}

/* --- Streams --- */

static void test_roundtrip(void **state)
{
	struct tls_identity *id = client_id("admin");
	struct stream *s = dial(id, ALPN_QMP);
	char b[32] = { 0 };

	(void)state;
	assert_true(stream_connecting(s));
	assert_int_equal(stream_write(s, "x", 1), 0);
	settle(s);
	assert_int_equal(n_accepted, 1);
	assert_string_equal(accepted[0]->peer_name, "ann");
	assert_string_equal(accepted[0]->peer_role, "admin");
	assert_string_equal(accepted[0]->alpn, ALPN_QMP);
	assert_string_equal(s->peer_name, "a");
	assert_string_equal(s->peer_role, "host");
	assert_int_equal(stream_read(s, b, sizeof(b)), 0);
	assert_int_equal(stream_write(s, "hello", 5), 5);
	turns(5);
	assert_int_equal(stream_read(accepted[0], b, sizeof(b)), 5);
	assert_string_equal(b, "hello");
	turns(600);
	assert_true(s->wire_out > 5 && accepted[0]->wire_in == s->wire_out);
	/* What was written before close still arrives, and then the end. */
	assert_int_equal(stream_write(accepted[0], "bye", 3), 3);
	stream_close(accepted[0]);
	turns(5);
	assert_int_equal(stream_read(s, b, sizeof(b)), 3);
	expect_error(s, "closed the connection");
	stream_close(s);
	turns(3000);
	tls_identity_free(id);
}

/* 8 MiB each way at once; order and content kept, memory bounded by the windows. */
static void test_bulk(void **state)
{
	struct tls_identity *id = client_id("b");
	struct stream *s = dial(id, ALPN_MIG), *p;
	static u8 out[50000], in[70000];
	u64 sent[2] = { 0 }, got[2] = { 0 }, total = 8 << 20;
	size_t peak = 0;

	(void)state;
	settle(s);
	assert_int_equal(n_accepted, 1);
	p = accepted[0];
	assert_string_equal(p->alpn, ALPN_MIG);
	for (unsigned i = 0; i < 100000 && (got[0] < total || got[1] < total); i++) {
		struct stream *end[2] = { s, p };

		for (int k = 0; k < 2; k++) {
			size_t n = MIN((u64)(1 + (i * 7919) % sizeof(out)), total - sent[k]);
			int r;

			for (size_t j = 0; j < n; j++)
				out[j] = (u8)((sent[k] + j) * 31 >> 3);
			r = stream_write(end[k], out, n);
			assert_true(r >= 0);
			sent[k] += (u64)r;
			r = stream_read(end[!k], in, 1 + (i * 104729) % sizeof(in));
			assert_true(r >= 0);
			for (int j = 0; j < r; j++)
				if (in[j] != (u8)((got[k] + (u64)j) * 31 >> 3))
					fail_msg("byte %llu differs", (unsigned long long)(got[k] + (u64)j));
			got[k] += (u64)r;
		}
		turn();
		peak = MAX(peak, net_mem_used());
	}
	assert_int_equal(got[0], total);
	assert_int_equal(got[1], total);
	/* Records were full: overhead of TLS below 1 %. */
	assert_true(s->wire_out < total + total / 100);
	assert_true(peak < 2500000);
	stream_close(s);
	stream_close(p);
	turns(3000);
	tls_identity_free(id);
}

/* A reader that does not read: the writer is stopped after a bounded number of bytes, and nothing is lost. */
static void test_backpressure(void **state)
{
	struct tls_identity *id = client_id("admin");
	struct stream *s = dial(id, ALPN_QMP);
	static u8 b[16384];
	u64 sent = 0, got = 0;
	int r;

	(void)state;
	settle(s);
	for (unsigned i = 0; i < 3000; i++) {
		r = stream_write(s, b, sizeof(b));
		assert_true(r >= 0);
		sent += (u64)r;
		turn();
	}
	assert_true(sent > 96 * 1024 && sent < 200 * 1024);
	for (unsigned i = 0; i < 3000 && got < sent; i++) {
		r = stream_read(accepted[0], b, sizeof(b));
		assert_true(r >= 0);
		got += (u64)r;
		turn();
	}
	assert_int_equal(got, sent);
	/* And if it never reads again, the writer hears of it. */
	for (unsigned i = 0; i < 3000; i++) {
		assert_true(stream_write(s, b, sizeof(b)) >= 0);
		turn();
	}
	for (unsigned i = 0; i < 70000; i++)
		turn();
	expect_error(s, "takes no data any more");
	stream_close(s);
	stream_close(accepted[0]);
	turns(3000);
	tls_identity_free(id);
}

/* A control client that neither reads nor lets us read holds little of lwIP's memory; a move may have its windows. */
static void test_shares(void **state)
{
	static u8 b[16384];

	(void)state;
	for (int mig = 0; mig < 2; mig++) {
		struct tls_identity *id = client_id(mig ? "b" : "admin");
		struct stream *s, *p;

		n_accepted = 0;
		s = dial(id, mig ? ALPN_MIG : ALPN_QMP);
		settle(s);
		assert_int_equal(n_accepted, 1);
		p = accepted[0];
		for (unsigned i = 0; i < 2000; i++) {
			assert_true(stream_write(s, b, sizeof(b)) >= 0);
			assert_true(stream_write(p, b, sizeof(b)) >= 0);
			turn();
		}
		assert_true(mig ? p->wire_in > 200000 : p->wire_in < 72000);
		assert_true(mig ? p->wire_out - s->wire_in > 200000 : p->wire_out - s->wire_in <= 32768);
		if (!mig)
			assert_true(!tls_poll()); /* it does not keep the host from idling */
		stream_close(s);
		stream_close(p);
		turns(9000);
		tls_identity_free(id);
	}
}

/* --- Certificates that the server must refuse; both ends learn why --- */

struct bad { const char *crt, *log, *client; s64 shift; const char *alpn; };

static void bad_client(const struct bad *t)
{
	struct tls_identity *id;
	struct stream *s;

	id = client_id(t->crt);
	fake_wall_shift = t->shift;
	s = dial(id, t->alpn ? t->alpn : ALPN_QMP);
	settle(s);
	assert_int_equal(n_accepted, 0);
	expect_log(t->log);
	expect_error(s, t->client);
	assert_non_null(strstr(s->error.text, "host 'a' at 127.0.0.1:"));
	stream_close(s);
	fake_wall_shift = 0;
	turns(3000);
	tls_identity_free(id);
}

static void test_bad_clients(void **state)
{
	static const struct bad bad[] = {
		{ "short", "expired on", "certificate_expired", 2 * 86400, NULL },
		{ "stranger", "is not from this host's CA", "unknown_ca", 0, NULL },
		{ "king", "role (OU) 'king'", "access_denied", 0, NULL },
		{ "no-role", "role (OU) '?'", "access_denied", 0, NULL },
		{ "two-roles", "role (OU) '?'", "access_denied", 0, NULL },
		{ "server-only", "not acceptable", "unsupported_certificate", 0, NULL },
		{ "admin", "only a host may move guests here", "access_denied", 0, ALPN_MIG },
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		fake_log[0] = 0;
		bad_client(&bad[i]);
	}
}

static void test_bad_servers(void **state)
{
	static const struct bad bad[] = {
		{ "short-host", "", "expired on", 2 * 86400, NULL },
		{ "a", "", "is not valid before", -2 * 86400, NULL },
		{ "stranger-host", "", "is not from this host's CA", 0, NULL },
		{ "b", "", "is for 'b', not for 'a'", 0, NULL },
		{ "admin-server", "", "only a host may answer there", 0, NULL },
	};
	struct tls_identity *id = client_id("admin");

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct stream *s;

		turns(3000);
		tls_identity_free(server);
		serve(bad[i].crt);
		fake_wall_shift = bad[i].shift;
		s = dial(id, ALPN_QMP);
		settle(s);
		assert_int_equal(n_accepted, 0);
		expect_error(s, bad[i].client);
		expect_log("refused this end with TLS alert");
		stream_close(s);
		fake_wall_shift = 0;
	}
	turns(3000);
	tls_identity_free(id);
}

/* Files of the host itself. */
static void test_identity(void **state)
{
	static const struct { const char *ca, *crt, *key, *host, *text; s64 shift; } bad[] = {
		{ "ca", "a", "b", "a", "does not belong to", 0 },
		{ "ca", "a", "a", "b", "is for 'a', but godwit.conf calls this host 'b'", 0 },
		{ "other-ca", "a", "a", "a", "is not from this host's CA", 0 },
		{ "ca", "short-host", "short-host", "a", "expired on", 2 * 86400 },
		{ "ca", "a", "a", "a", "is not valid before", -2 * 86400 },
		{ "ca", "admin", "admin", "ann", "has the role (OU) 'admin'", 0 },
		{ "ca", "rsa", "a", "a", "not a PEM certificate", 0 },
	};
	struct tls_files f = { 0 };
	struct error e = { 0 };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		memset(&e, 0, sizeof(e));
		fake_wall_shift = bad[i].shift;
		assert_null(identity(bad[i].ca, bad[i].crt, bad[i].key, bad[i].host, &e));
		if (!strstr(e.text, bad[i].text))
			fail_msg("'%s' lacks '%s'", e.text, bad[i].text);
	}
	fake_wall_shift = 0;
	memset(&e, 0, sizeof(e));
	assert_null(tls_identity_load(&f, "a", &e));
	assert_non_null(strstr(e.text, "ca.crt"));
	f.ca = "garbage";
	f.ca_len = 7;
	memset(&e, 0, sizeof(e));
	assert_null(tls_identity_load(&f, "a", &e));
	memset(&e, 0, sizeof(e));
	struct tls_identity *id = identity("ca", "a", "a", "a", &e);
	assert_non_null(id);
	tls_identity_free(id);
}

/* --- Peers that are no TLS peers --- */

struct raw { struct tcp_pcb *pcb; bool connected, fin; err_t err; u8 got[4096]; unsigned n; };

static err_t raw_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err)
{
	struct raw *r = arg;

	(void)err;
	if (!p) {
		r->fin = true;
		return ERR_OK;
	}
	r->n += pbuf_copy_partial(p, r->got + r->n, (u16)MIN(p->tot_len, sizeof(r->got) - r->n), 0);
	tcp_recved(pcb, p->tot_len);
	pbuf_free(p);
	return ERR_OK;
}

static void raw_err(void *arg, err_t err)
{
	((struct raw *)arg)->pcb = NULL;
	((struct raw *)arg)->err = err;
}

static err_t raw_connected(void *arg, struct tcp_pcb *pcb, err_t err)
{
	(void)pcb;
	(void)err;
	((struct raw *)arg)->connected = true;
	return ERR_OK;
}

static void raw_open(struct raw *r)
{
	ip_addr_t addr = IPADDR4_INIT(lwip_htonl(LOCALHOST));

	memset(r, 0, sizeof(*r));
	r->pcb = tcp_new();
	assert_non_null(r->pcb);
	tcp_arg(r->pcb, r);
	tcp_recv(r->pcb, raw_recv);
	tcp_err(r->pcb, raw_err);
	assert_int_equal(tcp_connect(r->pcb, &addr, port, raw_connected), ERR_OK);
	turns(5);
}

static void raw_close(struct raw *r)
{
	if (!r->pcb)
		return;
	tcp_arg(r->pcb, NULL);
	tcp_err(r->pcb, NULL);
	tcp_abort(r->pcb);
}

static void test_silent_client(void **state)
{
	struct raw r;

	(void)state;
	raw_open(&r);
	assert_int_equal(tls_connections(), 1);
	turns(9000);
	assert_int_equal(tls_connections(), 1);
	turns(1100);
	expect_log("no TLS handshake within 10 s");
	assert_true(r.fin);
	raw_close(&r);
}

static void test_not_tls_client(void **state)
{
	static const char *talk[] = { "GET / HTTP/1.0\r\n\r\n", "{\"execute\":\"qmp_capabilities\"}\n", "SSH-2.0-x\r\n" };
	struct raw r;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(talk); i++) {
		fake_log[0] = 0;
		raw_open(&r);
		tcp_write(r.pcb, talk[i], (u16)strlen(talk[i]), TCP_WRITE_FLAG_COPY);
		tcp_output(r.pcb);
		turns(20);
		expect_log("does not speak TLS");
		assert_true(r.fin);
		raw_close(&r);
	}
}

/* TCP may cut a client's first record anywhere, even behind its first byte. */
static void test_first_record_in_pieces(void **state)
{
	static const u8 hello[] = { 22, 3, 1, 0, 4, 1, 0, 0, 0 };
	struct raw r;

	(void)state;
	raw_open(&r);
	tcp_nagle_disable(r.pcb);
	for (unsigned i = 0; i < 2; i++) {
		tcp_write(r.pcb, hello + i, i ? sizeof(hello) - 1 : 1, TCP_WRITE_FLAG_COPY);
		tcp_output(r.pcb);
		turns(20);
	}
	expect_log("refused: the TLS handshake failed");
	raw_close(&r);
}

/* Random bytes that begin like TLS, cut and flipped client hellos: an error, never a crash, never an accepted stream. */
static void test_garbage(void **state)
{
	struct raw r;
	u8 b[600];

	(void)state;
	srand(7);
	for (unsigned i = 0; i < 300; i++) {
		raw_open(&r);
		for (unsigned k = 0; k < sizeof(b); k++)
			b[k] = (u8)rand();
		b[0] = 22;
		b[1] = 3;
		b[2] = 1;
		b[3] = 0;
		b[4] = i % 3 ? 200 : (u8)rand();
		if (i % 2) {
			b[5] = 1;
			b[6] = b[7] = 0;
			b[8] = 196;
			b[9] = 3;
			b[10] = 3;
			b[43] = i % 4 ? 0 : 32;
		}
		tcp_write(r.pcb, b, (u16)(1 + (unsigned)rand() % sizeof(b)), TCP_WRITE_FLAG_COPY);
		tcp_output(r.pcb);
		turns(3);
		raw_close(&r);
		turns(2);
	}
	assert_int_equal(n_accepted, 0);
}

static err_t mute_accept(void *arg, struct tcp_pcb *pcb, err_t err)
{
	struct raw *r = arg;

	(void)err;
	r->pcb = pcb;
	tcp_arg(pcb, r);
	tcp_recv(pcb, raw_recv);
	tcp_err(pcb, raw_err);
	return ERR_OK;
}

/* What a client of ours says about servers that are none. */
static void test_odd_servers(void **state)
{
	struct tls_identity *id = client_id("a");
	struct tcp_pcb *l = tcp_new();
	struct raw r = { 0 };
	struct stream *s;
	struct error e = { 0 };

	(void)state;
	s = tls_connect(id, LOCALHOST, 9, "a", ALPN_MIG, &e);
	settle(s);
	expect_error(s, "connection refused");
	stream_close(s);

	tcp_bind(l, IP4_ADDR_ANY, 3999);
	l = tcp_listen(l);
	tcp_arg(l, &r);
	tcp_accept(l, mute_accept);
	s = tls_connect(id, LOCALHOST, 3999, "a", ALPN_MIG, &e);
	turns(9900);
	assert_true(stream_connecting(s));
	turns(200);
	expect_error(s, "silent");
	stream_close(s);
	turns(2500);
	raw_close(&r);

	s = tls_connect(id, LOCALHOST, 3999, "a", ALPN_MIG, &e);
	turns(20);
	tcp_write(r.pcb, "220 mail ready\r\n", 16, TCP_WRITE_FLAG_COPY);
	tcp_output(r.pcb);
	turns(20);
	expect_error(s, "does not speak TLS");
	stream_close(s);
	turns(20);
	raw_close(&r);

	s = tls_connect(id, LOCALHOST, 3999, "a", ALPN_MIG, &e);
	turns(20);
	tcp_close(r.pcb);
	turns(20);
	expect_error(s, "the connection during the TLS handshake");
	stream_close(s);

	s = tls_connect(id, 0x0a090807, 3999, "a", ALPN_MIG, &e); /* no route but the loopback */
	if (s) {
		turns(10100);
		expect_error(s, "no answer within");
		stream_close(s);
	} else {
		assert_non_null(strstr(e.text, "no network leads there"));
	}
	tcp_close(l);
	turns(3000);
	tls_identity_free(id);
}

/* --- Limits --- */

static void test_limits(void **state)
{
	struct tls_identity *id = client_id("admin");
	struct stream *s[TLS_MAX_OUTBOUND + 1];
	struct raw r[24];
	struct error e = { 0 };
	size_t heap = fake_heap_bytes;

	(void)state;
	/* Strangers fill the handshake places; a friend still gets in, the oldest stranger goes. */
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++)
		raw_open(&r[i]);
	assert_int_equal(tls_connections(), TLS_MAX_HANDSHAKES);
	s[0] = dial(id, ALPN_QMP);
	settle(s[0]);
	assert_int_equal(n_accepted, 1);
	assert_int_equal(s[0]->error.code, 0);
	for (unsigned i = 1; i < TLS_MAX_OUTBOUND; i++) {
		s[i] = dial(id, ALPN_QMP);
		settle(s[i]);
	}
	assert_int_equal(n_accepted, TLS_MAX_OUTBOUND);
	assert_null(tls_connect(id, LOCALHOST, port, "a", ALPN_QMP, &e));
	assert_non_null(strstr(e.text, "already has 4 connections"));
	for (unsigned i = 0; i < TLS_MAX_OUTBOUND; i++)
		stream_close(s[i]);
	for (unsigned i = 0; i < n_accepted; i++)
		stream_close(accepted[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++)
		raw_close(&r[i]);
	turns(3000);
	assert_int_equal(tls_connections(), 0);
	assert_int_equal(fake_heap_bytes, heap);
	tls_identity_free(id);
}

int __real_mbedtls_ssl_handshake_step(mbedtls_ssl_context *ssl);
int __wrap_mbedtls_ssl_handshake_step(mbedtls_ssl_context *ssl);
static unsigned steps;

int __wrap_mbedtls_ssl_handshake_step(mbedtls_ssl_context *ssl)
{
	steps++;
	return __real_mbedtls_ssl_handshake_step(ssl);
}

/* Guests of a host with one CPU stand still for a turn, so a turn has one step, whoever else is in a handshake. */
static void test_a_step_a_turn(void **state)
{
	struct tls_identity *id = client_id("admin");
	struct stream *s[TLS_MAX_OUTBOUND];
	unsigned most = 0, total = 0;

	(void)state;
	for (unsigned i = 0; i < TLS_MAX_OUTBOUND; i++)
		s[i] = dial(id, ALPN_QMP);
	for (unsigned i = 0; i < 600 && n_accepted < TLS_MAX_OUTBOUND; i++) {
		steps = 0;
		turn();
		most = MAX(most, steps);
		total += steps;
		steps = 0;
		tls_push();
		assert_int_equal(steps, 0);
	}
	assert_int_equal(n_accepted, TLS_MAX_OUTBOUND);
	assert_int_equal(most, 1);
	assert_true(total > 8 * TLS_MAX_OUTBOUND);
	for (unsigned i = 0; i < TLS_MAX_OUTBOUND; i++) {
		assert_false(stream_connecting(s[i]));
		stream_close(s[i]);
		stream_close(accepted[i]);
	}
	turns(3000);
	tls_identity_free(id);
}

static unsigned server_pcbs(void)
{
	unsigned n = 0;

	for (const struct tcp_pcb *p = tcp_active_pcbs; p; p = p->next)
		n += p->local_port == port;
	return n;
}

/* Strangers who are refused and then do not hang up: no friend is kept out, and no TCP connection outlives its stranger's
 * few seconds, because disks, moves and operators share them. */
static void test_refused_strangers_stay(void **state)
{
	struct tls_identity *id = client_id("admin");
	struct raw r[TLS_MAX_INBOUND + 2];
	struct stream *s;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++) {
		raw_open(&r[i]);
		if (!r[i].pcb)
			continue;
		tcp_write(r[i].pcb, "GET / HTTP/1.0\r\n\r\n", 18, TCP_WRITE_FLAG_COPY);
		tcp_output(r[i].pcb);
		turns(3);
	}
	s = dial(id, ALPN_QMP);
	settle(s);
	assert_int_equal(s->error.code, 0);
	assert_int_equal(n_accepted, 1);
	turns(2500);
	assert_int_equal(tls_connections(), 2);
	assert_int_equal(server_pcbs(), 1);
	stream_close(s);
	stream_close(accepted[0]);
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++)
		raw_close(&r[i]);
	turns(3000);
	tls_identity_free(id);
}

/* Memory runs out at every point of a handshake: an error, no crash, and it all comes back. */
static void test_no_memory(void **state)
{
	struct tls_identity *id = client_id("admin");
	size_t base = fake_heap_bytes;
	bool worked = false;

	(void)state;
	for (size_t extra = 0; extra < 260000 && !worked; extra += extra < 120000 ? 3000 : 700) {
		struct error e = { 0 };
		struct stream *s;

		fake_heap_limit = base + extra;
		n_accepted = 0;
		s = tls_connect(id, LOCALHOST, port, "a", ALPN_QMP, &e);
		if (s) {
			settle(s);
			worked = !s->error.code && n_accepted && stream_write(s, "x", 1) == 1;
			stream_close(s);
			if (n_accepted)
				stream_close(accepted[0]);
		} else {
			assert_non_null(strstr(e.text, "no memory"));
		}
		fake_heap_limit = 0;
		turns(5000);
		turns(5000);
		turns(3000);
		assert_int_equal(tls_connections(), 0);
		assert_int_equal(fake_heap_bytes, base);
	}
	assert_true(worked);
	fake_heap_limit = 0;
	tls_identity_free(id);
}

static void test_entropy(void **state)
{
	struct error e = { 0 };
	static u64 words[4];

	(void)state;
	(void)words;
	assert_int_equal(entropy_check(), 0);
	fake_entropy = 3;
	assert_int_equal(tls_init(&e), -E_UNSUPPORTED);
	assert_non_null(strstr(e.text, "neither RDSEED nor RDRAND"));
	fake_entropy = 2;
	assert_int_equal(entropy_check(), -E_IO);
	fake_entropy = 0;
	assert_int_equal(entropy_check(), 0);
	fake_entropy = 1;
	memset(&e, 0, sizeof(e));
	assert_int_equal(tls_init(&e), -E_IO);
	/* A stuck generator is never trusted again. */
	fake_entropy = 0;
	assert_int_equal(entropy_check(), -E_IO);
}

int main(void)
{
	struct error e = { 0 };
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gcm),
		cmocka_unit_test(test_checksum),
		cmocka_unit_test(test_dates),
		cmocka_unit_test_setup_teardown(test_roundtrip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bulk, setup, teardown),
		cmocka_unit_test_setup_teardown(test_backpressure, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shares, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_clients, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_servers, setup, teardown),
		cmocka_unit_test(test_identity),
		cmocka_unit_test_setup_teardown(test_silent_client, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_tls_client, setup, teardown),
		cmocka_unit_test_setup_teardown(test_first_record_in_pieces, setup, teardown),
		cmocka_unit_test_setup_teardown(test_garbage, setup, teardown),
		cmocka_unit_test_setup_teardown(test_odd_servers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_step_a_turn, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused_strangers_stay, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_memory, setup, teardown),
		cmocka_unit_test(test_entropy),
	};

	lwip_init();
	if (tls_init(&e)) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
