/* SPDX-License-Identifier: MIT */
/* Disks share lwIP's memory with operators and moves: what hangs on one side must not stop the other. */
#include "net/nbd.h"
#include "lwip/init.h"
#include "lwip/netif.h"
#include "lwip/tcp.h"
#include "lwip/timeouts.h"
#include "net/net_fake.h"
#include "net/nbd_client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
/* */
#include <cmocka.h>

#define LOCALHOST 0x7f000001
#define DISKS 20u

struct blk_backend *(*blk_nbd_open)(const struct disk_config *cfg, struct error *e);

static struct blk_backend *disks[DISKS];
static struct stream *accepted;

static void turns(unsigned n)
{
	while (n--) {
		fake_now += 1000;
		netif_poll_all();
		sys_check_timeouts();
		nbd_client_timers(fake_now);
		for (unsigned i = 0; i < DISKS; i++)
			if (disks[i])
				disks[i]->ops->poll(disks[i]);
		tls_poll();
		netif_poll_all();
	}
}

/* --- a server that takes the handshake and then nothing any more --- */

static struct server { u32 got; } servers[DISKS];
static unsigned n_servers;

static void say(struct tcp_pcb *pcb, const void *p, u16 len)
{
	assert_int_equal(tcp_write(pcb, p, len, TCP_WRITE_FLAG_COPY), ERR_OK);
	tcp_output(pcb);
}

static err_t hears(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err)
{
	static const u8 refused[20] = { 0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 8, 0x80, 0, 0, 1 };
	/* 1 GiB, flush */
	static const u8 export[] = { 0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 12,
		0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 5, 0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0 };
	struct server *s = arg;

	if (!p)
		return ERR_OK;
	if (s->got == 45) /* flags, two options */
		return ERR_MEM;
	s->got += p->tot_len;
	tcp_recved(pcb, p->tot_len);
	pbuf_free(p);
	if (s->got == 20)
		say(pcb, refused, sizeof(refused));
	if (s->got == 45)
		say(pcb, export, sizeof(export));
	return ERR_OK;
}

static err_t comes(void *arg, struct tcp_pcb *pcb, err_t err)
{
	assert_true(n_servers < DISKS);
	tcp_arg(pcb, &servers[n_servers++]);
	tcp_recv(pcb, hears);
	say(pcb, "NBDMAGICIHAVEOPT\0\1", 18);
	return ERR_OK;
}

/* --- */

static bool copy(struct blk_backend *be, struct blk_req *r, u32 at, void *buf, u32 len)
{
	memset(buf, 1, len);
	return true;
}

static void done(struct blk_backend *be, struct blk_req *r, int err) { fail_msg("nothing is answered here"); }

static const struct blk_front front = { copy, done };

static void accept_cb(struct stream *s) { accepted = s; }

static struct tls_identity *identity(const char *crt, const char *key)
{
	struct error e = { 0 };
	struct tls_files f;
	struct tls_identity *id;

	f.ca = fake_file("ca.crt", &f.ca_len);
	f.crt = fake_file(crt, &f.crt_len);
	f.key = fake_file(key, &f.key_len);
	id = tls_identity_load(&f, NULL, &e);
	assert_non_null(id);
	return id;
}

static void disks_hang_and_operators_get_through(void **state)
{
	static struct blk_req writes[DISKS][32];
	struct tls_identity *server = identity("a.crt", "a.key"), *client = identity("admin.crt", "admin.key");
	struct disk_config cfg = { .kind = DISK_NBD, .address = LOCALHOST, .port = 10809, .export_name = "x" };
	struct tcp_pcb *l = tcp_new();
	struct error e = { 0 };
	struct stream *s;
	char b[8] = "";

	assert_int_equal(tcp_bind(l, IP4_ADDR_ANY, 10809), ERR_OK);
	l = tcp_listen(l);
	tcp_accept(l, comes);
	assert_int_equal(tls_listen(server, 4000, accept_cb, &e), 0);
	nbd_init(server, &e);
	for (unsigned i = 0; i < DISKS; i++) {
		disks[i] = blk_nbd_open(&cfg, &e);
		assert_non_null(disks[i]);
		disks[i]->front = &front;
		turns(10);
		assert_int_equal(disks[i]->ops->ready(disks[i], &e), 1);
		for (unsigned k = 0; k < 32; k++) {
			writes[i][k] = (struct blk_req){ .op = BLK_WRITE, .offset = k << 20, .bytes = BLK_MAX_BYTES };
			disks[i]->ops->submit(disks[i], &writes[i][k]);
		}
	}
	turns(5000);
	s = tls_connect(client, LOCALHOST, 4000, "a", ALPN_QMP, &e);
	if (!s)
		fail_msg("%s", e.text);
	turns(1000);
	assert_non_null(accepted);
	assert_int_equal(stream_write(s, "hello", 5), 5);
	turns(1000);
	assert_int_equal(stream_read(accepted, b, sizeof(b)), 5);
	assert_string_equal(b, "hello");
	for (unsigned i = 0; i < DISKS; i++) {
		disks[i]->ops->close(disks[i]);
		disks[i] = NULL;
	}
	stream_close(s);
	stream_close(accepted);
	turns(5000);
	tcp_close(l);
	tls_identity_free(server);
	tls_identity_free(client);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(disks_hang_and_operators_get_through) };
	struct error e = { 0 };

	lwip_init();
	return tls_init(&e) || cmocka_run_group_tests(tests, NULL, NULL);
}
