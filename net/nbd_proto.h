/* SPDX-License-Identifier: MIT */
/* The NBD protocol as a client speaks it (fixed newstyle), without a transport: bytes of the server go in, what they mean
 * comes out. The server is hostile: everything it says is checked. Source: the NBD project's "doc/proto.md". */
#pragma once
#include "hv/lib/err.h"

#define NBD_EXPORT_MAX 64        /* of an export's name, NUL included */
#define NBD_OUT_MAX 160          /* handshake bytes that may wait */
#define NBD_RANGES 16            /* pieces of a read answered out of order */
#define NBD_REQUEST_BYTES 28

enum nbd_cmd { NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_DISC, NBD_CMD_FLUSH, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES = 6 };
#define NBD_CMD_FLAG_FUA BIT(0)
#define NBD_CMD_FLAG_NO_HOLE BIT(1)
enum nbd_flag { /* transmission flags of an export */
	NBD_FLAG_HAS_FLAGS = BIT(0), NBD_FLAG_READ_ONLY = BIT(1), NBD_FLAG_SEND_FLUSH = BIT(2), NBD_FLAG_SEND_FUA = BIT(3),
	NBD_FLAG_SEND_TRIM = BIT(5), NBD_FLAG_SEND_WRITE_ZEROES = BIT(6),
};
#define NBD_ESHUTDOWN 108u

enum nbd_step {
	NBD_GREETING, NBD_STARTTLS,   /* waits for that answer */
	NBD_TLS,                      /* the caller makes TLS, then nbd_proto_tls_done(); nothing is read until then */
	NBD_STRUCTURED, NBD_GO,
	NBD_UP,                       /* requests may be sent */
};

/* What the export is; valid from NBD_UP on. */
struct nbd_export {
	u64 bytes;
	u16 flags;                    /* enum nbd_flag */
	u32 min_block, max_block;     /* bytes; 1 and 32 MiB where the server does not say */
};

/* A request as far as its answer is concerned. The caller fills type, offset and length and clears the rest. */
struct nbd_wait {
	u16 type;                     /* enum nbd_cmd */
	u64 offset;
	u32 length;
	u32 error;                    /* NBD error number of the answer so far */
	u32 n_ranges;                 /* what has come of a read, sorted, relative to offset */
	struct { u32 at, end; } range[NBD_RANGES];
};

struct nbd_sink {
	/* The request sent with that handle and not answered yet, or NULL. */
	struct nbd_wait *(*find)(void *arg, u64 handle);
	/* Part of a read: len bytes that belong at `at` of it; NULL: zeroes. */
	void (*data)(void *arg, struct nbd_wait *w, u32 at, const u8 *bytes, u32 len);
	/* The answer is complete; error: NBD's number, 0 success. */
	void (*done)(void *arg, struct nbd_wait *w, u32 error);
};

struct nbd_proto {
	const struct nbd_sink *sink;
	void *arg;
	enum nbd_step step;
	bool tls, structured, have_export;
	char name[NBD_EXPORT_MAX];
	struct nbd_export export;
	u8 out[NBD_OUT_MAX];          /* to be sent by the caller, who then sets out_len to 0 */
	u32 out_len;
	/* Reading. */
	u32 state;                    /* enum in nbd_proto.c */
	u8 head[64];
	u32 got, need;
	u32 left;                     /* payload bytes that are to come after the head */
	u32 option, reply, infos;
	char text[120];               /* what the server said, printable */
	u32 text_len;
	struct nbd_wait *wait;
	u32 data_at;
	bool last_chunk;
};

/* export_name: at most NBD_EXPORT_MAX - 1 characters. */
void nbd_proto_init(struct nbd_proto *p, const char *export_name, bool tls, const struct nbd_sink *sink, void *arg);
/* Takes bytes of the server, all of them unless the step becomes NBD_TLS; *used: how many. 0, or what is wrong with the server
 * in *e (without its name): then the connection is to be closed. */
int nbd_proto_feed(struct nbd_proto *p, const u8 *buf, size_t len, size_t *used, struct error *e) __must_check;
/* TLS is up: goes on with the handshake inside. */
void nbd_proto_tls_done(struct nbd_proto *p);
/* The bytes of a request that go before its data. */
void nbd_request(u8 out[NBD_REQUEST_BYTES], u16 flags, u16 type, u64 handle, u64 offset, u32 length);
