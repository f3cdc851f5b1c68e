/* SPDX-License-Identifier: MIT */
#include "mig/wire.h"
#include "hv/mm/frame.h"

#include <string.h>

#define OUT_FRAMES ((WIRE_HEADER + WIRE_MAX_PAYLOAD + WIRE_OUT_RESERVE + 4095u) / 4096u)
#define IN_FRAMES (WIRE_MAX_PAYLOAD / 4096u)

const char *wire_type_name(u32 type)
{
	static const char *const names[WIRE_TYPE_END] = {
		[WIRE_HELLO] = "HELLO", [WIRE_CONFIG] = "CONFIG", [WIRE_READY] = "READY", [WIRE_REFUSED] = "REFUSED",
		[WIRE_PAGES] = "PAGES", [WIRE_ZERO] = "ZERO", [WIRE_CONSOLE] = "CONSOLE", [WIRE_ROUND_END] = "ROUND_END",
		[WIRE_STATE] = "STATE", [WIRE_FINAL] = "FINAL", [WIRE_PREPARED] = "PREPARED", [WIRE_COMMIT] = "COMMIT",
		[WIRE_COMMITTED] = "COMMITTED", [WIRE_ABORT] = "ABORT", [WIRE_ERROR] = "ERROR",
		[WIRE_KEEPALIVE] = "KEEPALIVE", [WIRE_RESOLVE] = "RESOLVE", [WIRE_UNKNOWN] = "UNKNOWN", [WIRE_LAN] = "LAN",
	};
	return type < WIRE_TYPE_END && names[type] ? names[type] : "?";
}

struct wire_reader wire_reader(const void *buf, size_t len)
{
	return (struct wire_reader){ .p = buf, .end = (const u8 *)buf + len };
}

const u8 *wire_bytes(struct wire_reader *r, size_t len)
{
	const u8 *p = r->p;

	if (r->bad || len > (size_t)(r->end - r->p)) {
		r->bad = true;
		return NULL;
	}
	r->p += len;
	return p;
}

/* x86 is little-endian, as the wire is. */
#define READER(name, type) \
type name(struct wire_reader *r) \
{ \
	const u8 *p = wire_bytes(r, sizeof(type)); \
	type v = 0; \
	if (p) \
		__builtin_memcpy(&v, p, sizeof(v)); \
	return v; \
}
READER(wire_u8, u8)
READER(wire_u16, u16)
READER(wire_u32, u32)
READER(wire_u64, u64)

static bool printable(u8 c)
{
	return c >= 0x20 && c < 0x7f;
}

void wire_str(struct wire_reader *r, char *out, size_t cap)
{
	size_t len = wire_u16(r);
	const u8 *p;

	out[0] = 0;
	if (len >= cap)
		r->bad = true;
	p = wire_bytes(r, len);
	if (!p)
		return;
	for (size_t i = 0; i < len; i++)
		if (!printable(p[i])) {
			r->bad = true;
			return;
		}
	memcpy(out, p, len);
	out[len] = 0;
}

void wire_text(struct wire_reader *r, char *out, size_t cap)
{
	size_t len = wire_u16(r);
	const u8 *p = wire_bytes(r, len);

	out[0] = 0;
	if (!p)
		return;
	len = MIN(len, cap - 1);
	for (size_t i = 0; i < len; i++)
		out[i] = printable(p[i]) ? (char)p[i] : '?';
	out[len] = 0;
}

bool wire_done(const struct wire_reader *r)
{
	return !r->bad && r->p == r->end;
}

struct wire_writer wire_writer(void *buf, size_t cap)
{
	return (struct wire_writer){ .buf = buf, .cap = cap };
}

void wire_put_bytes(struct wire_writer *w, const void *p, size_t len)
{
	if (w->bad || len > w->cap - w->len) {
		w->bad = true;
		return;
	}
	if (len)
		memcpy(w->buf + w->len, p, len);
	w->len += len;
}

void wire_put_u8(struct wire_writer *w, u8 v) { wire_put_bytes(w, &v, sizeof(v)); }
void wire_put_u16(struct wire_writer *w, u16 v) { wire_put_bytes(w, &v, sizeof(v)); }
void wire_put_u32(struct wire_writer *w, u32 v) { wire_put_bytes(w, &v, sizeof(v)); }
void wire_put_u64(struct wire_writer *w, u64 v) { wire_put_bytes(w, &v, sizeof(v)); }

void wire_put_str(struct wire_writer *w, const char *s)
{
	size_t len = MIN(strlen(s), (size_t)0xffff);

	wire_put_u16(w, (u16)len);
	wire_put_bytes(w, s, len);
}

int wire_out_init(struct wire_out *o)
{
	*o = (struct wire_out){ .buf = frame_alloc_n(OUT_FRAMES), .cap = OUT_FRAMES * 4096u };
	return o->buf ? 0 : -E_NOMEM;
}

void wire_out_free(struct wire_out *o)
{
	if (o->buf)
		frame_free_n(o->buf, OUT_FRAMES);
	o->buf = NULL;
	o->len = o->sent = 0;
}

struct wire_writer *wire_begin(struct wire_out *o, enum wire_type type)
{
	if (o->sent == o->len)
		o->sent = o->len = 0;
	o->w = wire_writer(o->buf + o->len, o->cap - o->len);
	wire_put_u32(&o->w, type);
	wire_put_u32(&o->w, 0);
	return &o->w;
}

int wire_end(struct wire_out *o)
{
	u32 length;

	if (o->w.bad || o->w.len > WIRE_HEADER + WIRE_MAX_PAYLOAD)
		return -E_RANGE;
	length = (u32)(o->w.len - WIRE_HEADER);
	memcpy(o->buf + o->len + 4, &length, sizeof(length));
	o->len += o->w.len;
	return 0;
}

bool wire_out_empty(const struct wire_out *o)
{
	return o->sent == o->len;
}

int wire_flush(struct wire_out *o, struct stream *s)
{
	int taken = 0;

	while (o->sent < o->len) {
		int n = stream_write(s, o->buf + o->sent, o->len - o->sent);

		if (n < 0)
			return n;
		if (n == 0)
			break;
		o->sent += (size_t)n;
		taken += n;
	}
	return taken;
}

int wire_in_init(struct wire_in *in)
{
	*in = (struct wire_in){ .buf = frame_alloc_n(IN_FRAMES) };
	return in->buf ? 0 : -E_NOMEM;
}

void wire_in_free(struct wire_in *in)
{
	if (in->buf)
		frame_free_n(in->buf, IN_FRAMES);
	in->buf = NULL;
}

static int recv_header(struct wire_in *in, struct error *e)
{
	memcpy(&in->type, in->header, 4);
	memcpy(&in->length, in->header + 4, 4);
	if (in->type == 0 || in->type >= WIRE_TYPE_END)
		return error_set(e, E_PROTO, "the peer sent a frame of unknown type %u: is it a Godwit of this version?",
				 in->type);
	if (in->length > WIRE_MAX_PAYLOAD)
		return error_set(e, E_PROTO, "the peer sent a %s frame of %u bytes, at most %u are allowed",
				 wire_type_name(in->type), in->length, WIRE_MAX_PAYLOAD);
	return 0;
}

int wire_recv(struct wire_in *in, struct stream *s, struct wire_reader *r, size_t *read, struct error *e)
{
	for (;;) {
		bool head = in->got < WIRE_HEADER;
		size_t have = head ? in->got : in->got - WIRE_HEADER;
		size_t want = (head ? WIRE_HEADER : in->length) - have;
		int n = 0;

		if (want) {
			n = stream_read(s, (head ? in->header : in->buf) + have, want);
			if (n < 0)
				return error_set(e, (enum err)-n, "%s",
						 s->error.code ? s->error.text : "the connection was closed");
			if (n == 0)
				return 0;
			in->got += (size_t)n;
			*read += (size_t)n;
		}
		if (head && in->got == WIRE_HEADER) {
			int rc = recv_header(in, e);

			if (rc)
				return rc;
		}
		if (in->got >= WIRE_HEADER && in->got - WIRE_HEADER == in->length) {
			*r = wire_reader(in->buf, in->length);
			in->got = 0;
			return 1;
		}
	}
}
