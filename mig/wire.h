/* SPDX-License-Identifier: MIT */
/* The migration wire: little-endian frames over an authenticated stream. docs/PROTOCOL.md has the layouts. */
#pragma once
#include "hv/lib/err.h"
#include "net/stream.h"

#define WIRE_MAGIC 0x47494d5457444f47ull /* "GODWTMIG" */
#define WIRE_VERSION 2u
#define WIRE_ALPN "godwit-mig/1"
#define WIRE_MAX_PAGES 16u               /* pages in one PAGES frame */
#define WIRE_MAX_ZERO_RUNS 256u
#define WIRE_MAX_ZERO_PAGES 16384u        /* in all runs of one ZERO frame: bounds what the receiver does at a time */
#define WIRE_MAX_PAYLOAD (WIRE_MAX_PAGES * 4096u + 4096u)
#define WIRE_HEADER 8u
#define WIRE_MAX_TEXT 300u

enum wire_type {
	WIRE_HELLO = 1, WIRE_CONFIG, WIRE_READY, WIRE_REFUSED, WIRE_PAGES, WIRE_ZERO, WIRE_CONSOLE, WIRE_ROUND_END,
	WIRE_STATE, WIRE_FINAL, WIRE_PREPARED, WIRE_COMMIT, WIRE_COMMITTED, WIRE_ABORT, WIRE_ERROR, WIRE_KEEPALIVE,
	WIRE_RESOLVE, WIRE_UNKNOWN, WIRE_LAN, WIRE_TYPE_END
};
const char *wire_type_name(u32 type);

/* Bounded reader. The first read past the end sets bad; everything read after that is zero. */
struct wire_reader { const u8 *p, *end; bool bad; };
struct wire_reader wire_reader(const void *buf, size_t len);
u8 wire_u8(struct wire_reader *r);
u16 wire_u16(struct wire_reader *r);
u32 wire_u32(struct wire_reader *r);
u64 wire_u64(struct wire_reader *r);
/* len bytes in place, or NULL (and bad). */
const u8 *wire_bytes(struct wire_reader *r, size_t len);
/* u16 length and bytes into out (cap bytes, always terminated). Bad: too long for out, or not printable ASCII. */
void wire_str(struct wire_reader *r, char *out, size_t cap);
/* As wire_str, for texts shown to people: cuts what is too long, replaces what is not printable. */
void wire_text(struct wire_reader *r, char *out, size_t cap);
/* true when everything was read and nothing was bad. */
bool wire_done(const struct wire_reader *r);

/* Bounded writer. The first write that does not fit sets bad and nothing more is written. */
struct wire_writer { u8 *buf; size_t len, cap; bool bad; };
struct wire_writer wire_writer(void *buf, size_t cap);
void wire_put_u8(struct wire_writer *w, u8 v);
void wire_put_u16(struct wire_writer *w, u16 v);
void wire_put_u32(struct wire_writer *w, u32 v);
void wire_put_u64(struct wire_writer *w, u64 v);
void wire_put_bytes(struct wire_writer *w, const void *p, size_t len);
void wire_put_str(struct wire_writer *w, const char *s); /* cut at 65535 */

/* Frames going out: a linear buffer of one big frame and a reserve for small ones behind it. */
#define WIRE_OUT_RESERVE 4096u
struct wire_out { u8 *buf; size_t len, sent, cap; struct wire_writer w; };
int wire_out_init(struct wire_out *o) __must_check; /* -E_NOMEM */
void wire_out_free(struct wire_out *o);
/* Starts a frame; the payload goes to the writer returned (valid until wire_end). */
struct wire_writer *wire_begin(struct wire_out *o, enum wire_type type);
/* Ends it. -E_RANGE if it did not fit: the frame is dropped and what was queued before stays. */
int wire_end(struct wire_out *o) __must_check;
bool wire_out_empty(const struct wire_out *o);
/* Writes what the stream takes. Returns bytes taken now, or the stream's error. */
int wire_flush(struct wire_out *o, struct stream *s) __must_check;

/* One frame coming in. Reads exactly one header, then exactly its payload: nothing is moved around. */
struct wire_in { u8 *buf; u8 header[WIRE_HEADER]; u32 type, length; size_t got; };
int wire_in_init(struct wire_in *in) __must_check; /* -E_NOMEM */
void wire_in_free(struct wire_in *in);
/* 1: a whole frame is there (in->type, *r over its payload, valid until the next call); 0: not yet;
 * negative: the stream's error, or -E_PROTO for a type or length that cannot be. *read counts bytes read. */
int wire_recv(struct wire_in *in, struct stream *s, struct wire_reader *r, size_t *read, struct error *e) __must_check;
