/* SPDX-License-Identifier: MIT */
/* An authenticated byte stream, non-blocking. net/tls.c makes real ones, tests make pipes. */
#pragma once
#include "hv/lib/err.h"

struct stream {
	const struct stream_ops *ops;
	char peer_name[32];  /* CN of the peer's certificate */
	char peer_role[16];  /* OU: admin, operator, viewer, host */
	char peer_addr[48];  /* "10.0.2.2:4789" for messages */
	char alpn[16];
	struct error error;  /* why it failed, for people */
	u64 wire_in, wire_out; /* TCP payload bytes, TLS overhead included */
};

struct stream_ops {
	/* Takes up to len bytes for sending; returns bytes taken (0: full now), or -E_IO/-E_AUTH.. once failed. */
	int (*write)(struct stream *, const void *buf, size_t len);
	/* Returns bytes read, 0 if there are none now, -E_IO with error set when closed or failed. */
	int (*read)(struct stream *, void *buf, size_t len);
	/* Still handshaking? (writes are refused until it is over) */
	bool (*connecting)(struct stream *);
	/* Sends what is buffered if possible, then frees; the pointer is dead afterwards. */
	void (*close)(struct stream *);
};

static inline int stream_write(struct stream *s, const void *b, size_t n) { return s->ops->write(s, b, n); }
static inline int stream_read(struct stream *s, void *b, size_t n) { return s->ops->read(s, b, n); }
static inline bool stream_connecting(struct stream *s) { return s->ops->connecting(s); }
static inline void stream_close(struct stream *s) { s->ops->close(s); }
