/* SPDX-License-Identifier: MIT */
/* libFuzzer: any bytes as an NBD server's. Byte 0: bit 0 TLS is asked for; the rest: the server, in pieces. Requests are
 * always under way: a read and a write, made anew when they are answered. */
#include "net/nbd_proto.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define MUST(x) do { if (!(x)) abort(); } while (0)
#define READ_BYTES 2048u

static struct nbd_wait waits[2];
static u8 seen[READ_BYTES];
static u32 got;

static void ask(unsigned i)
{
	waits[i] = (struct nbd_wait){ .type = i ? NBD_CMD_WRITE : NBD_CMD_READ, .offset = 4096, .length = READ_BYTES };
	if (!i) {
		memset(seen, 0, sizeof(seen));
		got = 0;
	}
}

static struct nbd_wait *find(void *arg, u64 handle)
{
	return handle < 2 ? &waits[handle] : NULL;
}

static void on_data(void *arg, struct nbd_wait *w, u32 at, const u8 *bytes, u32 len)
{
	MUST(w == &waits[0] && len && at < READ_BYTES && len <= READ_BYTES - at);
	for (u32 i = 0; i < len; i++) {
		MUST(!seen[at + i]);
		seen[at + i] = 1;
		if (bytes && bytes[i] == 77)
			got ^= 1; /* they can be read */
		else
			got += 2;
	}
}

static void on_done(void *arg, struct nbd_wait *w, u32 error)
{
	if (w == &waits[0] && !error)
		for (u32 i = 0; i < READ_BYTES; i++)
			MUST(seen[i]);
	ask((unsigned)(w - waits));
}

static const struct nbd_sink sink = { find, on_data, on_done };

/* How far a well-behaved handshake goes, for inputs that want to be answers (bit 1 of byte 0). */
static const u8 hello[] =
	"NBDMAGICIHAVEOPT\0\3"
	"\0\3\xe8\x89\x04\x55\x65\xa9\0\0\0\10\0\0\0\1\0\0\0\0"
	"\0\3\xe8\x89\x04\x55\x65\xa9\0\0\0\7\0\0\0\3\0\0\0\14\0\0\0\0\0\0\0\20\0\0\1\1"
	"\0\3\xe8\x89\x04\x55\x65\xa9\0\0\0\7\0\0\0\1\0\0\0\0";

static int feed(struct nbd_proto *p, const u8 *data, size_t len)
{
	struct error e = { 0 };
	size_t used = 0;
	int rc = nbd_proto_feed(p, data, len, &used, &e);

	MUST(used <= len && p->out_len <= NBD_OUT_MAX);
	p->out_len = 0;
	if (rc) {
		MUST(e.code == -rc && e.text[0]);
		return rc;
	}
	if (p->step == NBD_TLS) {
		nbd_proto_tls_done(p);
		return feed(p, data + used, len - used);
	}
	MUST(used == len);
	return 0;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	struct nbd_proto p;

	if (!len)
		return 0;
	ask(0);
	ask(1);
	nbd_proto_init(&p, "root", data[0] & 1, &sink, NULL);
	if (data[0] & 2 && !(data[0] & 1)) {
		MUST(!feed(&p, hello, sizeof(hello) - 1));
		MUST(p.step == NBD_UP && p.structured && p.export.bytes == 1u << 20);
	}
	for (size_t at = 1, n; at < len; at += n) {
		n = MIN(len - at, (size_t)(data[0] >> 2) + 1);
		if (feed(&p, data + at, n))
			break;
	}
	return 0;
}
