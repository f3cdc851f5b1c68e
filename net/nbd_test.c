/* SPDX-License-Identifier: MIT */
/* The NBD client against a server in the same process that does what a test wants: answers of every kind, connections that
 * break at every byte, and lies. */
#include "net/nbd_client.h"
#include "net/nbd_proto.h"
#include "net/net_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* */
#include <cmocka.h>

#define DISK (256u << 10)
#define QUEUE (2u << 20)

/* --- the server --- */

#define NBD_EIO 5u
#define NBD_ENOSPC 28u

enum { S_GREET, S_FLAGS, S_OPTION, S_OPTION_DATA, S_REQUEST, S_WRITE, S_END };

struct queue { u8 *buf; size_t head, len; u64 ever; };
static struct server {
	/* What it is like. */
	bool structured, no_go, refuses, tls_only, old, silent, holes, backwards, hold;
	u16 flags;
	u32 min_block, max_block;
	u64 bytes;
	u32 error;               /* answered to every request that is not a read */
	u32 read_error;
	/* Faults: the connection breaks when so many bytes have gone that way, all in all; 0: never. */
	u64 cut_in, cut_out, flip_out;
	/* Its life. */
	u8 disk[DISK];
	struct queue in, out;    /* client to server, server to client */
	bool connected, refuse_connect, dead;
	int step;
	u8 head[64 + NBD_EXPORT_MAX];
	u32 need, got;
	u32 option, option_len;
	u64 handle, offset;
	u16 cmd, cmd_flags;
	u32 length;
	u8 *payload;
	unsigned connections, requests, flushes, writes, disconnects;
	u64 log[4096]; unsigned n_log;   /* offset << 8 | type, of this connection */
	struct { u64 handle, offset; u32 length; u16 cmd; } held[256]; unsigned n_held;
} srv;

static void q_put(struct queue *q, const void *p, size_t n)
{
	assert_true(q->head + q->len + n <= QUEUE);
	if (n)
		memcpy(q->buf + q->head + q->len, p, n);
	q->len += n;
}

static size_t q_get(struct queue *q, void *p, size_t n)
{
	n = MIN(n, q->len);
	memcpy(p, q->buf + q->head, n);
	q->head += n;
	q->len -= n;
	if (!q->len)
		q->head = 0;
	return n;
}

static void be(u8 *p, u64 v, unsigned n) { while (n--) { p[n] = (u8)v; v >>= 8; } }
static u64 get(const u8 *p, unsigned n) { u64 v = 0; while (n--) v = v << 8 | *p++; return v; }

static void say(const void *p, size_t n) { q_put(&srv.out, p, n); }
static void say_be(u64 v, unsigned n) { u8 b[8]; be(b, v, n); say(b, n); }

static void await(int step, u32 need)
{
	srv.step = step;
	srv.need = need;
	srv.got = 0;
}

static void reply(u32 type, const void *data, u32 len)
{
	say_be(0x3e889045565a9ull, 8);
	say_be(srv.option, 4);
	say_be(type, 4);
	say_be(len, 4);
	say(data, len);
}

static void on_option(void)
{
	u8 info[14];

	await(S_OPTION, 16);
	if (srv.tls_only && srv.option != 5) {
		reply(0x80000005, "TLS first", 9);
	} else if (srv.option == 8 && srv.structured) {
		reply(1, NULL, 0);
	} else if (srv.option == 7 && !srv.no_go) {
		if (srv.refuses || memcmp(srv.head + 4, "root", 4)) {
			reply(0x80000006, "no such\nexport", 14);
			return;
		}
		be(info, 0, 2);
		be(info + 2, srv.bytes, 8);
		be(info + 10, srv.flags, 2);
		reply(3, info, 12);
		if (srv.max_block) {
			be(info, 3, 2);
			be(info + 2, srv.min_block, 4);
			be(info + 6, 4096, 4);
			be(info + 10, srv.max_block, 4);
			reply(3, info, 14);
		}
		be(info, 77, 2); /* an information that is not known */
		reply(3, info, 9);
		reply(1, NULL, 0);
		await(S_REQUEST, 28);
	} else {
		reply(0x80000001, NULL, 0);
	}
}

static void chunk(u16 flags, u16 type, u64 handle, u32 len)
{
	say_be(0x668e33ef, 4);
	say_be(flags, 2);
	say_be(type, 2);
	say_be(handle, 8);
	say_be(len, 4);
}

static void chunk_data(u64 handle, u64 offset, u32 len, bool last)
{
	bool zero = srv.holes && len > 512;

	for (u32 i = 0; zero && i < len; i++)
		zero = !srv.disk[offset + i];
	chunk(last, zero ? 2 : 1, handle, zero ? 12 : len + 8);
	say_be(offset, 8);
	if (zero)
		say_be(len, 4);
	else
		say(srv.disk + offset, len);
}

static void answer(u64 handle, u16 cmd, u64 offset, u32 length)
{
	u32 error = cmd == NBD_CMD_READ ? srv.read_error : srv.error;

	if (!srv.structured || (cmd != NBD_CMD_READ && length % 1024)) {
		say_be(0x67446698, 4);
		say_be(error, 4);
		say_be(handle, 8);
		if (cmd == NBD_CMD_READ && !error)
			say(srv.disk + offset, length);
		return;
	}
	if (error) {
		chunk(1, 0x8001, handle, 9);
		say_be(error, 4);
		say_be(3, 2);
		say("bad", 3);
	} else if (cmd != NBD_CMD_READ) {
		chunk(1, 0, handle, 0);
	} else if (length >= 2048 && srv.backwards) {
		u32 n = length / 4;

		chunk_data(handle, offset + 3 * n, length - 3 * n, false);
		chunk_data(handle, offset + n, n, false);
		chunk_data(handle, offset, n, false);
		chunk_data(handle, offset + 2 * n, n, false);
		chunk(1, 0, handle, 0);
	} else if (length >= 2048) {
		chunk_data(handle, offset, 1024, false);
		chunk_data(handle, offset + 1024, length - 1024, true);
	} else {
		chunk_data(handle, offset, length, true);
	}
}

static void carry_out(void)
{
	srv.requests++;
	if (srv.n_log < 4096)
		srv.log[srv.n_log++] = srv.offset << 8 | srv.cmd;
	if (srv.cmd == NBD_CMD_WRITE && !srv.error) {
		memcpy(srv.disk + srv.offset, srv.payload, srv.length);
		srv.writes++;
	}
	if ((srv.cmd == NBD_CMD_TRIM || srv.cmd == NBD_CMD_WRITE_ZEROES) && !srv.error)
		memset(srv.disk + srv.offset, 0, srv.length);
	srv.flushes += srv.cmd == NBD_CMD_FLUSH;
	if (srv.hold) {
		assert_true(srv.n_held < 256);
		srv.held[srv.n_held].handle = srv.handle;
		srv.held[srv.n_held].offset = srv.offset;
		srv.held[srv.n_held].length = srv.length;
		srv.held[srv.n_held++].cmd = srv.cmd;
		return;
	}
	answer(srv.handle, srv.cmd, srv.offset, srv.length);
}

/* Answers what was held back, the last first. */
static void release(void)
{
	srv.hold = false;
	while (srv.n_held) {
		srv.n_held--;
		answer(srv.held[srv.n_held].handle, srv.held[srv.n_held].cmd, srv.held[srv.n_held].offset, srv.held[srv.n_held].length);
	}
}

static void on_head(void)
{
	switch (srv.step) {
	case S_FLAGS:
		assert_true(get(srv.head, 4) & 1);
		await(S_OPTION, 16);
		break;
	case S_OPTION:
		assert_true(get(srv.head, 8) == 0x49484156454f5054ull);
		srv.option = (u32)get(srv.head + 8, 4);
		srv.option_len = (u32)get(srv.head + 12, 4);
		assert_true(srv.option_len <= sizeof(srv.head));
		await(S_OPTION_DATA, srv.option_len);
		if (!srv.option_len)
			on_option();
		break;
	case S_OPTION_DATA:
		on_option();
		break;
	case S_REQUEST:
		assert_int_equal(get(srv.head, 4), 0x25609513);
		srv.cmd_flags = (u16)get(srv.head + 4, 2);
		srv.cmd = (u16)get(srv.head + 6, 2);
		srv.handle = get(srv.head + 8, 8);
		srv.offset = get(srv.head + 16, 8);
		srv.length = (u32)get(srv.head + 24, 4);
		await(S_REQUEST, 28);
		if (srv.cmd == NBD_CMD_DISC) {
			srv.disconnects++;
			srv.dead = true;
			break;
		}
		assert_true(srv.offset <= srv.bytes && srv.length <= srv.bytes - srv.offset);
		if (srv.cmd == NBD_CMD_WRITE)
			await(S_WRITE, srv.length);
		else
			carry_out();
		break;
	default:
		carry_out();
		await(S_REQUEST, 28);
	}
}

static void server_turn(void)
{
	while (!srv.dead && srv.in.len) {
		u8 *to = srv.step == S_WRITE ? srv.payload : srv.head;
		size_t n = q_get(&srv.in, to + srv.got, srv.need - srv.got);

		srv.got += (u32)n;
		if (srv.got == srv.need)
			on_head();
	}
}

/* --- the link --- */

struct nbd_link { bool used; void (*wake)(void *); void *arg; };
static struct nbd_link the_link;

static void break_link(void)
{
	srv.dead = true;
}

static struct nbd_link *l_connect(u32 ip, u16 port, void (*wake)(void *), void *arg, struct error *e)
{
	assert_int_equal(ip, 0x0a000005);
	assert_int_equal(port, 10809);
	assert_false(the_link.used);
	if (srv.refuse_connect) {
		error_set(e, E_IO, "no network");
		return NULL;
	}
	the_link = (struct nbd_link){ true, wake, arg };
	srv.in.head = srv.in.len = srv.out.head = srv.out.len = 0;
	srv.dead = false;
	srv.n_held = srv.n_log = 0;
	srv.connections++;
	await(S_FLAGS, 4);
	if (!srv.silent) {
		say("NBDMAGIC", 8);
		say_be(srv.old ? 0x420281861253ull : 0x49484156454f5054ull, 8);
		say_be(3, 2);
	}
	return &the_link;
}

static int l_state(struct nbd_link *l, struct error *e)
{
	assert_true(l->used);
	return 1;
}

static int l_send(struct nbd_link *l, const void *buf, size_t len)
{
	assert_true(l->used);
	if (srv.dead)
		return -E_IO;
	len = MIN(len, (size_t)1000);
	if (srv.cut_in && srv.in.ever + len >= srv.cut_in) {
		len = srv.cut_in - srv.in.ever;
		srv.cut_in = 0;
		q_put(&srv.in, buf, len);
		srv.in.ever += len;
		server_turn();
		break_link();
		return len ? (int)len : -E_IO;
	}
	srv.in.ever += len;
	q_put(&srv.in, buf, len);
	server_turn();
	return (int)len;
}

static int l_recv(struct nbd_link *l, void *buf, size_t len)
{
	size_t n = MIN(len, (size_t)777);

	assert_true(l->used);
	if (srv.cut_out && srv.out.ever + MIN(n, srv.out.len) >= srv.cut_out) {
		n = srv.cut_out - srv.out.ever;
		srv.cut_out = 0;
		n = q_get(&srv.out, buf, n);
		srv.out.ever += n;
		srv.out.len = srv.out.head = 0;
		break_link();
		return n ? (int)n : -E_IO;
	}
	n = q_get(&srv.out, buf, n);
	if (srv.flip_out >= srv.out.ever && srv.flip_out < srv.out.ever + n && srv.flip_out)
		((u8 *)buf)[srv.flip_out - srv.out.ever] ^= (u8)(1u << (srv.flip_out % 8));
	srv.out.ever += n;
	return n ? (int)n : srv.dead ? -E_IO : 0;
}

static void l_push(struct nbd_link *l) { assert_true(l->used); }
static void l_close(struct nbd_link *l, bool abort) { assert_true(l->used); l->used = false; }
static const struct nbd_link_ops link_ops = { l_connect, l_state, l_send, l_recv, l_push, l_close };

static const mbedtls_ssl_config *no_tls(struct error *e)
{
	error_set(e, E_AUTH, "no certificate here");
	return NULL;
}

static const struct nbd_env env = { &link_ops, no_tls };

/* --- the device --- */

struct io { struct blk_req r; u8 *data; bool pending, done; int err; unsigned order; };
static struct io ios[BLK_MAX_REQUESTS];
static unsigned completions;
static bool copy_fails;
static struct blk_backend *disk;
static u8 model[DISK];

static bool f_copy(struct blk_backend *b, struct blk_req *r, u32 at, void *buf, u32 len)
{
	struct io *io = container_of(r, struct io, r);

	assert_true(b == disk && io->pending && at + len <= r->bytes && at + len >= at);
	if (copy_fails)
		return false;
	if (r->op == BLK_WRITE)
		memcpy(buf, io->data + at, len);
	else if (buf)
		memcpy(io->data + at, buf, len);
	else
		memset(io->data + at, 0, len);
	return true;
}

static void f_done(struct blk_backend *b, struct blk_req *r, int err)
{
	struct io *io = container_of(r, struct io, r);

	assert_true(b == disk && io->pending);
	io->pending = false;
	io->done = true;
	io->err = err;
	io->order = ++completions;
}

static const struct blk_front front = { f_copy, f_done };
static unsigned wakes;
static void f_wake(struct blk_backend *b) { wakes++; }

static struct io *submit(enum blk_op op, u64 offset, u32 bytes, u8 fill)
{
	struct io *io = ios;

	while (io->pending)
		io++;
	assert_true(io < ios + BLK_MAX_REQUESTS);
	free(io->data);
	*io = (struct io){ .r = { .op = op, .offset = offset, .bytes = bytes }, .pending = true, .data = malloc(bytes + 1) };
	memset(io->data, fill, bytes);
	disk->ops->submit(disk, &io->r);
	return io;
}

static void turns(unsigned n)
{
	while (n--) {
		fake_now += 1000;
		nbd_client_timers(fake_now);
		if (disk)
			disk->ops->poll(disk);
		server_turn();
	}
}

static unsigned pending(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < BLK_MAX_REQUESTS; i++)
		n += ios[i].pending;
	return n;
}

static void finish_all(void)
{
	for (unsigned i = 0; i < 30000 && pending(); i++)
		turns(1);
	assert_int_equal(pending(), 0);
}

static struct disk_config cfg = { .kind = DISK_NBD, .address = 0x0a000005, .port = 10809, .export_name = "root" };

static void open_disk(void)
{
	struct error e = { 0 };

	disk = nbd_client_open(&env, &cfg, &e);
	assert_non_null(disk);
	disk->front = &front;
	disk->wake = f_wake;
}

static void open_up(void)
{
	struct error e = { 0 };

	open_disk();
	turns(20);
	if (disk->ops->ready(disk, &e) != 1)
		fail_msg("not ready: %s", e.text);
}

static int setup(void **state)
{
	u8 *in = srv.in.buf, *out = srv.out.buf, *payload = srv.payload;

	memset(&srv, 0, sizeof(srv));
	srv.in.buf = in ? in : malloc(QUEUE);
	srv.out.buf = out ? out : malloc(QUEUE);
	srv.payload = payload ? payload : malloc(BLK_MAX_BYTES);
	srv.structured = true;
	srv.bytes = DISK;
	srv.flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES;
	memset(model, 0, sizeof(model));
	cfg.timeout_ms = 0;
	cfg.tls = cfg.read_only = false;
	copy_fails = false;
	completions = 0;
	fake_log[0] = 0;
	srand(1);
	return 0;
}

static int teardown(void **state)
{
	if (disk)
		disk->ops->close(disk);
	disk = NULL;
	assert_false(the_link.used);
	for (unsigned i = 0; i < BLK_MAX_REQUESTS; i++) {
		free(ios[i].data);
		ios[i] = (struct io){ 0 };
	}
	assert_int_equal(fake_heap_blocks, 0);
	return 0;
}

/* Random requests that do not touch what another one under way touches; checked against the model. */
static void random_io(unsigned n)
{
	struct { struct io *io; u32 at, len; u8 fill; } live[8];
	unsigned count = 0;

	while (n || count) {
		while (n && count < 8) {
			u32 len = 512u << (unsigned)(rand() % 6), at = (u32)rand() % ((DISK - len) / 512) * 512;
			enum blk_op op = (enum blk_op)(rand() % 5);
			u8 fill = (u8)rand();
			bool clash = false;

			n--;
			for (unsigned i = 0; i < count; i++)
				clash |= at < live[i].at + live[i].len && live[i].at < at + len;
			if (clash)
				continue;
			if (op == BLK_FLUSH)
				at = len = 0;
			live[count].io = submit(op, at, len, fill);
			live[count].at = at;
			live[count].len = len;
			live[count++].fill = fill;
		}
		turns(1);
		for (unsigned i = 0; i < count; i++) {
			struct io *io = live[i].io;

			if (io->pending)
				continue;
			assert_int_equal(io->err, 0);
			if (io->r.op == BLK_READ)
				assert_memory_equal(io->data, model + live[i].at, live[i].len);
			else if (io->r.op == BLK_WRITE)
				memset(model + live[i].at, live[i].fill, live[i].len);
			else if (io->r.op != BLK_FLUSH)
				memset(model + live[i].at, 0, live[i].len);
			live[i--] = live[--count];
		}
	}
	assert_memory_equal(srv.disk, model, DISK);
}

/* --- cases --- */

static void test_kinds_of_answers(void **state)
{
	for (int kind = 0; kind < 4; kind++) {
		setup(NULL);
		srv.structured = kind > 0;
		srv.holes = kind > 1;
		srv.backwards = kind > 2;
		srv.min_block = 1;
		srv.max_block = kind & 1 ? 32u << 20 : 0;
		open_up();
		assert_int_equal(disk->info.bytes, DISK);
		assert_int_equal(disk->info.block, 512);
		assert_int_equal(disk->info.features, BLK_CAN_FLUSH | BLK_CAN_FUA | BLK_CAN_DISCARD | BLK_CAN_WRITE_ZEROES);
		assert_string_equal(disk->name, "nbd://10.0.0.5:10809/root");
		random_io(400);
		teardown(NULL);
		assert_int_equal(srv.disconnects, 1);
	}
}

static void test_errors(void **state)
{
	for (int structured = 0; structured < 2; structured++) {
		struct io *r, *w;

		setup(NULL);
		srv.structured = structured;
		open_up();
		srv.read_error = NBD_EIO;
		r = submit(BLK_READ, 0, 4096, 0);
		w = submit(BLK_WRITE, 4096, 1024, 7);
		finish_all();
		assert_int_equal(r->err, -E_IO);
		assert_int_equal(w->err, 0);
		srv.error = NBD_ENOSPC;
		srv.read_error = 0;
		w = submit(BLK_WRITE, 4096, 1024, 9);
		r = submit(BLK_READ, 4096, 1024, 0);
		finish_all();
		assert_int_equal(w->err, -E_IO);
		assert_int_equal(r->err, 0);
		assert_int_equal(r->data[0], 7);
		assert_non_null(strstr(fake_log, "error 28 for a write at 4096, 1024 bytes"));
		teardown(NULL);
	}
}

/* What the server must not do in the handshake, and how the error says it. */
static void expect_not_ready(const char *text)
{
	struct error e = { 0 };

	open_disk();
	turns(20);
	assert_int_equal(disk->ops->ready(disk, &e), 0);
	if (!strstr(e.text, text) || !strstr(e.text, "nbd"))
		fail_msg("wanted '%s', got '%s'", text, e.text);
	teardown(NULL);
	setup(NULL);
}

static void test_handshake_errors(void **state)
{
	struct error e = { 0 };

	srv.refuses = true;
	expect_not_ready("it has no export 'root': no such?export");
	srv.tls_only = true;
	expect_not_ready("it demands TLS: TLS first. Write nbds://");
	cfg.tls = true;
	expect_not_ready("it does not offer TLS");
	srv.old = true;
	expect_not_ready("fixed newstyle");
	srv.no_go = true;
	expect_not_ready("it refuses export 'root'");
	srv.bytes = 0;
	expect_not_ready("has 0 bytes");
	srv.bytes = 1ull << 61;
	expect_not_ready("which no disk can have");
	srv.min_block = 8192;
	srv.max_block = 32u << 20;
	expect_not_ready("blocks of at most 4096");
	srv.min_block = 1;
	srv.max_block = 65536;
	expect_not_ready("requests of 1 MiB");
	srv.min_block = 3;
	srv.max_block = 1u << 20;
	expect_not_ready("makes no sense");
	srv.refuse_connect = true;
	expect_not_ready("no network");
	srv.silent = true;
	open_disk();
	turns(5100);
	assert_int_equal(disk->ops->ready(disk, &e), 0);
	assert_non_null(strstr(e.text, "says nothing"));
}

static void test_read_only(void **state)
{
	cfg.read_only = true;
	open_up();
	assert_true(disk->info.features & BLK_READ_ONLY);
	teardown(NULL);
	setup(NULL);
	srv.flags |= NBD_FLAG_READ_ONLY;
	open_up();
	assert_true(disk->info.features & BLK_READ_ONLY);
}

/* The connection breaks after every single byte, either way: all is done, once, and right. */
static void test_cut_everywhere(void **state)
{
	u64 in, out;

	for (int kind = 0; kind < 2; kind++) {
		setup(NULL);
		open_up();
		random_io(12);
		in = srv.in.ever;
		out = srv.out.ever;
		teardown(NULL);
		for (int way = 0; way < 2; way++)
			for (u64 at = 1; at < (way ? out : in); at += 1 + (at > 1500 ? (u64)rand() % 97 : 0)) {
				setup(NULL);
				srv.structured = srv.backwards = kind;
				srand(1);
				*(way ? &srv.cut_out : &srv.cut_in) = at;
				open_disk();
				random_io(12);
				assert_in_range(srv.connections, 1, 2);
				teardown(NULL);
			}
	}
}

/* A byte of the server's is wrong, at every place: an error or other data, never a crash or a hang. */
static void test_flip_everywhere(void **state)
{
	for (int kind = 0; kind < 2; kind++)
		for (u64 at = 1; at < 3000; at++) {
			setup(NULL);
			srv.structured = kind;
			srv.flip_out = at;
			cfg.timeout_ms = 1000;
			open_disk();
			turns(10);
			submit(BLK_WRITE, 512, 1024, 1);
			submit(BLK_READ, 512, 1024, 1);
			submit(BLK_FLUSH, 0, 0, 1);
			submit(BLK_READ, 0, 512, 1);
			finish_all();
			teardown(NULL);
		}
}

/* After a reconnection: first what was not answered, in its order, then the new. */
static void test_order_after_reconnect(void **state)
{
	static const u64 want[] = { 0 << 8 | 1, 1024 << 8 | 1, 0 << 8 | 3, 2048 << 8 | 1, 4096 << 8 | 1 };

	open_up();
	srv.hold = true;
	submit(BLK_WRITE, 0, 1024, 1);
	submit(BLK_WRITE, 1024, 1024, 2);
	submit(BLK_FLUSH, 0, 0, 0);
	submit(BLK_WRITE, 2048, 1024, 3);
	turns(5);
	assert_int_equal(srv.n_held, 4);
	break_link();
	srv.refuse_connect = true;
	turns(50);
	submit(BLK_WRITE, 4096, 1024, 4);
	turns(3000);
	assert_int_equal(pending(), 5);
	assert_non_null(strstr(fake_log, "its guest's requests wait"));
	srv.refuse_connect = srv.hold = false;
	finish_all();
	assert_int_equal(srv.n_log, 5);
	assert_memory_equal(srv.log, want, sizeof(want));
	assert_non_null(strstr(fake_log, "connected again"));
}

/* A request that is to be durable, and a server that can only flush: it is answered after a flush, and one that is lost with
 * its connection begins with the write again. */
static void test_durable_without_fua(void **state)
{
	static const u64 want[] = { 1024 << 8 | 1, 3 };
	struct io *io;

	srv.flags &= (u16)~NBD_FLAG_SEND_FUA;
	open_up();
	srv.hold = true;
	io = submit(BLK_WRITE, 1024, 1024, 1);
	io->r.fua = true;
	turns(3);
	assert_int_equal(srv.n_held, 1);
	srv.n_held = 0;
	answer(srv.held[0].handle, NBD_CMD_WRITE, 1024, 1024);
	turns(3);
	assert_true(io->pending);
	assert_int_equal(srv.n_held, 1);
	assert_int_equal(srv.held[0].cmd, NBD_CMD_FLUSH);
	break_link();
	srv.hold = false;
	finish_all();
	assert_int_equal(io->err, 0);
	assert_int_equal(srv.n_log, 2);
	assert_memory_equal(srv.log, want, sizeof(want));
	/* The flush fails: it is not durable. */
	srv.hold = true;
	io = submit(BLK_WRITE, 1024, 1024, 1);
	io->r.fua = true;
	turns(3);
	srv.n_held = 0;
	answer(srv.held[0].handle, NBD_CMD_WRITE, 1024, 1024);
	srv.error = NBD_EIO;
	srv.hold = false;
	finish_all();
	assert_int_equal(io->err, -E_IO);
}

static void test_another_disk(void **state)
{
	struct error e = { 0 };
	struct io *io;

	open_up();
	srv.bytes = DISK / 2;
	break_link();
	io = submit(BLK_WRITE, DISK - 512, 512, 1);
	turns(2000);
	assert_true(io->pending);
	assert_int_equal(srv.requests, 0);
	assert_int_equal(disk->ops->ready(disk, &e), 0);
	assert_non_null(strstr(e.text, "this is not the disk it was"));
	srv.bytes = DISK;
	srv.flags |= NBD_FLAG_READ_ONLY;
	turns(6000);
	assert_true(io->pending);
	srv.flags &= (u16)~NBD_FLAG_READ_ONLY;
	finish_all();
	assert_int_equal(io->err, 0);
	assert_int_equal(srv.disk[DISK - 1], 1);
}

static void test_timeout(void **state)
{
	struct io *io;
	u64 start;

	cfg.timeout_ms = 3000;
	open_up();
	/* Idle is not away. */
	turns(10000);
	srv.refuse_connect = true;
	break_link();
	io = submit(BLK_WRITE, 0, 512, 1);
	start = fake_now;
	while (io->pending)
		turns(1);
	assert_int_equal(io->err, -E_TIMEOUT);
	assert_in_range(fake_now - start, 3000000, 3100000);
	/* From now on at once, until it is back. */
	io = submit(BLK_READ, 0, 512, 1);
	assert_int_equal(io->err, -E_TIMEOUT);
	srv.refuse_connect = false;
	turns(6000);
	random_io(20);
	/* A server that takes requests and never answers is away as well. */
	srv.hold = true;
	io = submit(BLK_READ, 0, 512, 1);
	turns(3200);
	assert_false(io->pending);
	assert_int_equal(io->err, -E_TIMEOUT);
	srv.hold = false;
	turns(6000);
	random_io(20);
}

/* A server that is there, but does not get as far as an answer, is away as well. */
static void test_timeout_of_useless_server(void **state)
{
	struct io *io;
	u64 start;

	cfg.timeout_ms = 3000;
	open_up();
	/* Greets, and has lost the export. */
	srv.refuses = true;
	break_link();
	io = submit(BLK_WRITE, 0, 512, 1);
	for (start = fake_now; io->pending && fake_now - start < 10000000;)
		turns(1);
	assert_false(io->pending);
	assert_int_equal(io->err, -E_TIMEOUT);
	srv.refuses = false;
	turns(6000);
	random_io(20);
	/* Breaks down at every request. */
	srv.hold = true;
	io = submit(BLK_READ, 0, 512, 1);
	for (start = fake_now; io->pending && fake_now - start < 10000000;) {
		if (srv.n_held)
			break_link();
		turns(1);
	}
	assert_false(io->pending);
	assert_int_equal(io->err, -E_TIMEOUT);
	srv.hold = false;
	turns(6000);
	random_io(20);
	/* Back in the last moment: what is sent again then has time to be answered. */
	srv.refuse_connect = true;
	break_link();
	io = submit(BLK_WRITE, 0, 512, 1);
	turns(1300);
	srv.refuse_connect = false;
	srv.hold = true;
	for (start = fake_now; !srv.n_held && fake_now - start < 10000000;)
		turns(1);
	turns(2000);
	release();
	turns(5);
	assert_false(io->pending);
	assert_int_equal(io->err, 0);
}

/* Without one they wait for ever. */
static void test_no_timeout(void **state)
{
	open_up();
	srv.refuse_connect = true;
	break_link();
	submit(BLK_WRITE, 0, 512, 1);
	for (int i = 0; i < 1000; i++) {
		fake_now += 1000000;
		turns(2);
	}
	assert_int_equal(pending(), 1);
	srv.refuse_connect = false;
	finish_all();
}

static void test_drain(void **state)
{
	unsigned sent;

	open_up();
	srv.hold = true;
	submit(BLK_WRITE, 0, 4096, 1);
	turns(3);
	assert_false(disk->ops->drain(disk));
	submit(BLK_WRITE, 8192, 4096, 2); /* too late: stays here */
	turns(3);
	assert_false(disk->ops->drain(disk));
	release();
	turns(3);
	/* What was written is flushed before it says yes. */
	assert_false(disk->ops->drain(disk));
	turns(3);
	assert_int_equal(srv.flushes, 1);
	assert_true(disk->ops->drain(disk));
	sent = (unsigned)srv.in.ever;
	turns(9000);
	assert_true(disk->ops->drain(disk));
	assert_int_equal(srv.in.ever, sent);
	/* Its connection breaks: nothing is made anew. */
	break_link();
	turns(9000);
	assert_int_equal(srv.connections, 1);
	assert_int_equal(pending(), 1);
	disk->ops->undrain(disk);
	finish_all();
	assert_int_equal(srv.connections, 2);
	assert_int_equal(srv.disk[8192], 2);
	/* Again, with nothing written since the last flush. */
	submit(BLK_FLUSH, 0, 0, 0);
	finish_all();
	assert_true(disk->ops->drain(disk));
	disk->ops->undrain(disk);
	/* A dead connection drains at once. */
	srv.hold = true;
	submit(BLK_WRITE, 0, 512, 3);
	turns(3);
	assert_false(disk->ops->drain(disk));
	break_link();
	turns(3);
	assert_true(disk->ops->drain(disk));
	assert_int_equal(pending(), 1);
	disk->ops->forget(disk);
	ios[0].pending = ios[1].pending = false;
}

/* A flush before a move fails: the guest hears of it here. */
static void test_drain_flush_fails(void **state)
{
	struct io *io;

	open_up();
	submit(BLK_WRITE, 0, 4096, 1);
	finish_all();
	srv.error = NBD_EIO;
	for (int i = 0; i < 10; i++) {
		assert_false(disk->ops->drain(disk));
		turns(2);
	}
	srv.error = 0;
	disk->ops->undrain(disk);
	io = submit(BLK_FLUSH, 0, 0, 0);
	assert_int_equal(io->err, -E_IO);
	io = submit(BLK_FLUSH, 0, 0, 0);
	finish_all();
	assert_int_equal(io->err, 0);
	assert_true(disk->ops->drain(disk));
	disk->ops->undrain(disk);
	/* Even if the server is gone by then. */
	submit(BLK_WRITE, 0, 4096, 1);
	finish_all();
	srv.error = NBD_EIO;
	assert_false(disk->ops->drain(disk));
	turns(2);
	break_link();
	turns(2);
	assert_false(disk->ops->drain(disk));
	srv.error = 0;
	disk->ops->undrain(disk);
	io = submit(BLK_FLUSH, 0, 0, 0);
	assert_int_equal(io->err, -E_IO);
	/* A server that shuts down has not failed; it is a dead connection. */
	submit(BLK_WRITE, 0, 4096, 1);
	finish_all();
	srv.error = NBD_ESHUTDOWN;
	assert_false(disk->ops->drain(disk));
	turns(2);
	assert_true(disk->ops->drain(disk));
	srv.error = 0;
	disk->ops->undrain(disk);
	io = submit(BLK_FLUSH, 0, 0, 0);
	finish_all();
	assert_int_equal(io->err, 0);
}

/* The guest resets its disk: nothing of the past touches its memory, and nothing new overtakes it. */
static void test_forget(void **state)
{
	open_up();
	srv.hold = true;
	submit(BLK_READ, 0, 4096, 1);
	submit(BLK_WRITE, 8192, 4096, 2);
	turns(3);
	submit(BLK_READ, 0, 512, 3); /* not sent yet */
	disk->ops->forget(disk);
	for (unsigned i = 0; i < BLK_MAX_REQUESTS; i++)
		ios[i].pending = false; /* the front fails on any call about them */
	assert_int_equal(srv.n_held, 2);
	submit(BLK_WRITE, 8192, 4096, 4);
	turns(10);
	assert_int_equal(srv.n_held, 2);
	release();
	finish_all();
	assert_int_equal(srv.disk[8192], 4);
	/* In the middle of a write: the connection goes. */
	for (int i = 0; i < 20 && pending() < 3; i++)
		submit(BLK_WRITE, 0, 65536, 5);
	srv.cut_in = srv.in.ever + 30000;
	disk->ops->poll(disk);
	disk->ops->forget(disk);
	for (unsigned i = 0; i < BLK_MAX_REQUESTS; i++)
		ios[i].pending = false;
	srv.cut_in = 0;
	memcpy(model, srv.disk, DISK);
	random_io(30);
}

static void test_shutdown_answer(void **state)
{
	struct io *io;

	open_up();
	srv.error = NBD_ESHUTDOWN;
	io = submit(BLK_WRITE, 0, 512, 1);
	turns(50);
	assert_true(io->pending);
	srv.error = 0;
	finish_all();
	assert_int_equal(io->err, 0);
	assert_int_equal(srv.connections, 2);
}

static void test_memory_gone(void **state)
{
	open_up();
	submit(BLK_WRITE, 0, 512, 1);
	copy_fails = true;
	turns(3);
	copy_fails = false;
	assert_int_equal(srv.writes, 0);
	finish_all();
	assert_int_equal(srv.writes, 1);
}

static void test_full(void **state)
{
	open_up();
	for (int round = 0; round < 3; round++) {
		for (unsigned i = 0; i < BLK_MAX_REQUESTS; i++)
			submit(i & 1 ? BLK_READ : BLK_WRITE, i * 2048, 2048, (u8)i);
		finish_all();
		for (unsigned i = 0; i < BLK_MAX_REQUESTS; i++)
			assert_int_equal(ios[i].err, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_kinds_of_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_handshake_errors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_only, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cut_everywhere, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flip_everywhere, setup, teardown),
		cmocka_unit_test_setup_teardown(test_order_after_reconnect, setup, teardown),
		cmocka_unit_test_setup_teardown(test_durable_without_fua, setup, teardown),
		cmocka_unit_test_setup_teardown(test_another_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timeout, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timeout_of_useless_server, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_timeout, setup, teardown),
		cmocka_unit_test_setup_teardown(test_drain, setup, teardown),
		cmocka_unit_test_setup_teardown(test_drain_flush_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forget, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shutdown_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory_gone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
