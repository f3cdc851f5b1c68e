/* SPDX-License-Identifier: MIT */
/* The NBD client against a real server, over sockets: nbd_real IP PORT EXPORT SECONDS [CA CRT KEY]. Random requests for so long,
 * or until SIGTERM, but at least 100; never two at one place, checked against a model; at the end the whole disk is. Says "up"
 * each time that the disk is there. tools/bench/nbd_test.py starts and kills the servers. Exit code 0: all right, 1: not, 2: the
 * disk never came. */
#include "net/nbd_client.h"
#include "net/net_fake.h"
#include "net/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096u
#define DEPTH 24u
#define SECOND 1000000ull

static void fail(const char *what)
{
	fprintf(stderr, "nbd_real: %s\n", what);
	exit(1);
}

/* --- sockets --- */

struct nbd_link { int fd; bool open; };
static unsigned connections;

static struct nbd_link *l_connect(u32 ip, u16 port, void (*wake)(void *), void *arg, struct error *e)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(ip) };
	struct nbd_link *l = calloc(1, sizeof(*l));

	l->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (l->fd < 0 || (connect(l->fd, (struct sockaddr *)&to, sizeof(to)) && errno != EINPROGRESS)) {
		error_set(e, E_IO, "cannot connect");
		close(l->fd);
		free(l);
		return NULL;
	}
	setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	connections++;
	return l;
}

static int l_state(struct nbd_link *l, struct error *e)
{
	struct pollfd p = { l->fd, POLLOUT, 0 };
	int err = 0;
	socklen_t len = sizeof(err);

	if (l->open)
		return 1;
	poll(&p, 1, 0);
	if (!p.revents)
		return 0;
	getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (err)
		return error_set(e, E_IO, "connect: %s", strerror(err));
	l->open = true;
	return 1;
}

static int l_send(struct nbd_link *l, const void *buf, size_t len)
{
	ssize_t n = send(l->fd, buf, len, MSG_NOSIGNAL);

	return n >= 0 ? (int)n : errno == EAGAIN ? 0 : -E_IO;
}

static int l_recv(struct nbd_link *l, void *buf, size_t len)
{
	ssize_t n = recv(l->fd, buf, len, 0);

	return n > 0 ? (int)n : n < 0 && errno == EAGAIN ? 0 : -E_IO;
}

static void l_push(struct nbd_link *l) { }

static void l_close(struct nbd_link *l, bool abort)
{
	struct linger reset = { 1, 0 };

	if (abort)
		setsockopt(l->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(l->fd);
	free(l);
}

static const struct nbd_link_ops link_ops = { l_connect, l_state, l_send, l_recv, l_push, l_close };

static struct tls_identity *identity;

static const mbedtls_ssl_config *tls(struct error *e)
{
	return tls_client_config(identity);
}

static const struct nbd_env env = { &link_ops, tls };

static void *file(const char *path, size_t *len)
{
	FILE *f = fopen(path, "rb");
	char *buf = malloc(16384);

	if (!f)
		fail(path);
	*len = fread(buf, 1, 16384, f);
	fclose(f);
	return buf;
}

/* --- the device --- */

struct io { struct blk_req r; u8 *data; bool pending, bad; };
static struct io ios[DEPTH];
static struct blk_backend *disk;
static u8 *model;
static u64 requests, flushes, whole;

static bool f_copy(struct blk_backend *b, struct blk_req *r, u32 at, void *buf, u32 len)
{
	struct io *io = container_of(r, struct io, r);

	if (!io->pending || at > r->bytes || len > r->bytes - at)
		fail("copy of what is not there");
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

	if (!io->pending || err)
		fail(err ? "a request failed" : "answered twice");
	io->pending = false;
	if (r->op == BLK_READ && memcmp(io->data, model + r->offset, r->bytes))
		fail("read something else than was written");
	if (r->op == BLK_WRITE)
		memcpy(model + r->offset, io->data, r->bytes);
	if (r->op == BLK_WRITE_ZEROES)
		memset(model + r->offset, 0, r->bytes);
	requests++;
	flushes += r->op == BLK_FLUSH;
}

static const struct blk_front front = { f_copy, f_done };

static void f_wake(struct blk_backend *b) { }

static volatile sig_atomic_t enough;
static bool up;

static void on_term(int number) { enough = 1; }

static void turn(void)
{
	struct timespec now, nap = { 0, 20000 };
	struct error e = { 0 };
	bool was_up = up;

	clock_gettime(CLOCK_MONOTONIC, &now);
	fake_now = (u64)now.tv_sec * SECOND + (u64)now.tv_nsec / 1000;
	if (!disk->ops->poll(disk))
		nanosleep(&nap, NULL);
	up = disk->ops->ready(disk, &e) == 1;
	if (up && !was_up) {
		printf("up %llu bytes features %#x\n", (unsigned long long)disk->info.bytes, disk->info.features);
		fflush(stdout);
	}
}

static bool clash(u64 at, u32 len)
{
	for (unsigned i = 0; i < DEPTH; i++)
		if (ios[i].pending && at < ios[i].r.offset + ios[i].r.bytes && ios[i].r.offset < at + len)
			return true;
	return false;
}

static void submit(struct io *io)
{
	static const enum blk_op ops[] = { BLK_READ, BLK_READ, BLK_WRITE, BLK_WRITE, BLK_WRITE, BLK_FLUSH, BLK_WRITE_ZEROES,
					   BLK_DISCARD };
	u32 len = (1 + (u32)rand() % (rand() % 8 ? 16 : 200)) * BLOCK;
	u64 at = (u64)rand() % ((whole - len) / BLOCK) * BLOCK;
	enum blk_op op = ops[rand() % 8];

	if ((op == BLK_WRITE_ZEROES && !(disk->info.features & BLK_CAN_WRITE_ZEROES)) ||
	    (op == BLK_DISCARD && !(disk->info.features & BLK_CAN_DISCARD)))
		op = BLK_WRITE;
	/* What a discarded block reads as is the server's affair: only there, at the end of the disk, which nobody reads. */
	if (op == BLK_DISCARD) {
		at = whole;
		len = BLOCK;
	}
	if (op == BLK_FLUSH)
		at = len = 0;
	if (clash(at, len))
		return;
	io->r = (struct blk_req){ .op = op, .offset = at, .bytes = len, .fua = rand() % 16 == 0, .unmap = rand() & 1 };
	for (u32 i = 0; op == BLK_WRITE && i < len; i += 4)
		memcpy(io->data + i, &(u32){ (u32)rand() }, 4);
	io->pending = true;
	disk->ops->submit(disk, &io->r);
}

static bool any_pending(void)
{
	for (unsigned i = 0; i < DEPTH; i++)
		if (ios[i].pending)
			return true;
	return false;
}

int main(int argc, char **argv)
{
	struct disk_config cfg = { .kind = DISK_NBD, .tls = argc > 5 };
	struct error e = { 0 };
	struct in_addr ip;
	u64 end;

	if (argc != 5 && argc != 8)
		fail("usage: nbd_real IP PORT EXPORT SECONDS [CA CRT KEY]");
	inet_aton(argv[1], &ip);
	cfg.address = ntohl(ip.s_addr);
	cfg.port = (u16)atoi(argv[2]);
	snprintf(cfg.export_name, sizeof(cfg.export_name), "%s", argv[3]);
	if (cfg.tls) {
		struct tls_files f;

		f.ca = file(argv[5], &f.ca_len);
		f.crt = file(argv[6], &f.crt_len);
		f.key = file(argv[7], &f.key_len);
		if (tls_init(&e) || !(identity = tls_identity_load(&f, NULL, &e)))
			fail(e.text);
	}
	disk = nbd_client_open(&env, &cfg, &e);
	disk->front = &front;
	disk->wake = f_wake;
	signal(SIGTERM, on_term);
	turn();
	for (end = fake_now + 20 * SECOND; disk->ops->ready(disk, &e) != 1; turn()) {
		if (fake_now >= end || (e.code != E_IO && e.code != E_BUSY && e.code != E_TIMEOUT)) {
			fprintf(stderr, "nbd_real: not up: %s\n", e.text);
			return 2;
		}
		e.code = 0;
	}
	whole = disk->info.bytes - BLOCK; /* see submit() */
	model = calloc(1, whole);
	srand((unsigned)getpid());
	for (unsigned i = 0; i < DEPTH; i++)
		ios[i].data = malloc(BLK_MAX_BYTES);
	for (end = fake_now + (u64)atoi(argv[4]) * SECOND; requests < 100 || (fake_now < end && !enough); turn())
		for (unsigned i = 0; i < DEPTH; i++)
			if (!ios[i].pending)
				submit(&ios[i]);
	for (end = fake_now + 20 * SECOND; any_pending(); turn())
		if (fake_now > end)
			fail("requests are not answered");
	for (u64 at = 0; at < whole; at += MIN(whole - at, (u64)BLK_MAX_BYTES)) {
		ios[0].r = (struct blk_req){ .op = BLK_READ, .offset = at, .bytes = (u32)MIN(whole - at, (u64)BLK_MAX_BYTES) };
		ios[0].pending = true;
		disk->ops->submit(disk, &ios[0].r);
		for (end = fake_now + 20 * SECOND; any_pending(); turn())
			if (fake_now > end)
				fail("requests are not answered");
	}
	/* As before a move. */
	for (end = fake_now + 20 * SECOND; !disk->ops->drain(disk); turn())
		if (fake_now > end)
			fail("it does not drain");
	printf("ok %llu requests, %llu flushes, %u connections\n", (unsigned long long)requests, (unsigned long long)flushes,
	       connections);
	disk->ops->close(disk);
	for (unsigned i = 0; i < DEPTH; i++)
		free(ios[i].data);
	return 0;
}
