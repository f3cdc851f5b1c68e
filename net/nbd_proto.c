/* SPDX-License-Identifier: MIT */
#include "net/nbd_proto.h"
#include "hv/lib/be.h"

#include <string.h>

#define MAGIC_GREETING 0x4e42444d41474943ull /* "NBDMAGIC" */
#define MAGIC_OPTIONS 0x49484156454f5054ull  /* "IHAVEOPT" */
#define MAGIC_OLDSTYLE 0x00420281861253ull
#define MAGIC_OPTION_REPLY 0x0003e889045565a9ull
#define MAGIC_REQUEST 0x25609513u
#define MAGIC_SIMPLE 0x67446698u
#define MAGIC_CHUNK 0x668e33efu

#define HS_FIXED_NEWSTYLE BIT(0)
#define HS_NO_ZEROES BIT(1)
enum { OPT_STARTTLS = 5, OPT_GO = 7, OPT_STRUCTURED_REPLY = 8 };
enum { REP_ACK = 1, REP_INFO = 3 };
#define REP_ERROR BIT(31)
enum { ERR_UNSUP = 1, ERR_POLICY, ERR_INVALID, ERR_PLATFORM, ERR_TLS_REQD, ERR_UNKNOWN, ERR_SHUTDOWN, ERR_BLOCK_SIZE_REQD };
enum { INFO_EXPORT = 0, INFO_BLOCK_SIZE = 3 };
enum { CHUNK_NONE = 0, CHUNK_OFFSET_DATA = 1, CHUNK_OFFSET_HOLE = 2, CHUNK_ERROR_BIT = 1 << 15 };
#define CHUNK_DONE BIT(0)

#define MAX_INFOS 64u          /* a server that sends more never comes to the point */
#define MAX_REPLY_BYTES 8192u

enum state {
	R_GREETING, R_OPTION, R_INFO, R_REPLY_TEXT, R_REPLY_REST,
	R_MAGIC, R_SIMPLE, R_CHUNK, R_CHUNK_AT, R_CHUNK_HOLE, R_CHUNK_ERROR, R_DATA, R_SKIP,
};

static void expect(struct nbd_proto *p, enum state state, u32 need)
{
	p->state = state;
	p->got = 0;
	p->need = need;
}

void nbd_proto_init(struct nbd_proto *p, const char *export_name, bool tls, const struct nbd_sink *sink, void *arg)
{
	memset(p, 0, sizeof(*p));
	p->sink = sink;
	p->arg = arg;
	p->tls = tls;
	p->export.min_block = 1;
	p->export.max_block = 32u << 20;
	strncpy(p->name, export_name, sizeof(p->name) - 1);
	expect(p, R_GREETING, 18);
}

void nbd_request(u8 out[NBD_REQUEST_BYTES], u16 flags, u16 type, u64 handle, u64 offset, u32 length)
{
	put_be32(put_be64(put_be64(put_be16(put_be16(put_be32(out, MAGIC_REQUEST), flags), type), handle), offset), length);
}

/* --- handshake --- */

static u8 *put_option(struct nbd_proto *p, u32 option, u32 len)
{
	u8 *at = p->out + p->out_len;

	BUG_ON(p->out_len + 16 + len > sizeof(p->out));
	p->out_len += 16 + len;
	p->option = option;
	return put_be32(put_be32(put_be64(at, MAGIC_OPTIONS), option), len);
}

static void ask_structured(struct nbd_proto *p)
{
	put_option(p, OPT_STRUCTURED_REPLY, 0);
	p->step = NBD_STRUCTURED;
	expect(p, R_OPTION, 20);
}

static void ask_go(struct nbd_proto *p)
{
	u32 n = (u32)strlen(p->name);
	u8 *at = put_option(p, OPT_GO, 4 + n + 4);

	at = put_be32(at, n);
	memcpy(at, p->name, n);
	put_be16(put_be16(at + n, 1), INFO_BLOCK_SIZE);
	p->step = NBD_GO;
	expect(p, R_OPTION, 20);
}

void nbd_proto_tls_done(struct nbd_proto *p)
{
	BUG_ON(p->step != NBD_TLS);
	ask_structured(p);
}

static int on_greeting(struct nbd_proto *p, struct error *e)
{
	u16 flags = be16(p->head + 16);

	if (be64(p->head) != MAGIC_GREETING)
		return error_set(e, E_PROTO, "what answers there is no NBD server: is the port right?");
	if (be64(p->head + 8) == MAGIC_OLDSTYLE || be64(p->head + 8) != MAGIC_OPTIONS || !(flags & HS_FIXED_NEWSTYLE))
		return error_set(e, E_UNSUPPORTED, "it does not speak the fixed newstyle protocol: use nbdkit, qemu-nbd or nbd-server "
				 "3.10 or newer, with newstyle (the default)");
	p->out_len = 4;
	put_be32(p->out, HS_FIXED_NEWSTYLE | (flags & HS_NO_ZEROES));
	if (p->tls) {
		put_option(p, OPT_STARTTLS, 0);
		p->step = NBD_STARTTLS;
		expect(p, R_OPTION, 20);
	} else {
		ask_structured(p);
	}
	return 0;
}

static int refused(struct nbd_proto *p, struct error *e)
{
	const char *sep = p->text_len ? ": " : "", *text = p->text;

	switch (p->reply & ~(u32)REP_ERROR) {
	case ERR_UNSUP:
	case ERR_POLICY:
		if (p->step == NBD_STARTTLS)
			return error_set(e, E_UNSUPPORTED, "it does not offer TLS%s%s. Give it a certificate, or write nbd:// instead of nbds://",
					 sep, text);
		return error_set(e, E_AUTH, "it refuses export '%s'%s%s", p->name, sep, text);
	case ERR_TLS_REQD:
		return error_set(e, E_AUTH, "it demands TLS%s%s. Write nbds:// instead of nbd://", sep, text);
	case ERR_UNKNOWN:
		return error_set(e, E_NOENT, "it has no export '%s'%s%s. Correct the name in disk=, or the server's", p->name, sep, text);
	case ERR_SHUTDOWN:
		return error_set(e, E_IO, "it is shutting down%s%s", sep, text);
	default:
		return error_set(e, E_PROTO, "it refuses export '%s' with NBD error %u%s%s", p->name,
				 (unsigned)(p->reply & ~(u32)REP_ERROR), sep, text);
	}
}

/* An option's answer has been read in full. */
static int on_reply(struct nbd_proto *p, struct error *e)
{
	if (p->reply == REP_INFO) {
		expect(p, R_OPTION, 20);
		return 0;
	}
	if (p->step == NBD_STRUCTURED && p->reply & REP_ERROR && (p->reply & ~(u32)REP_ERROR) != ERR_TLS_REQD) {
		ask_go(p); /* then with simple replies */
		return 0;
	}
	if (p->reply & REP_ERROR)
		return refused(p, e);
	switch (p->step) {
	case NBD_STARTTLS:
		p->step = NBD_TLS;
		return 0;
	case NBD_STRUCTURED:
		p->structured = true;
		ask_go(p);
		return 0;
	default:
		if (!p->have_export)
			return error_set(e, E_PROTO, "it does not say how large export '%s' is", p->name);
		p->step = NBD_UP;
		expect(p, R_MAGIC, 4);
		return 0;
	}
}

static int on_option(struct nbd_proto *p, struct error *e)
{
	u32 len = be32(p->head + 16);

	p->reply = be32(p->head + 12);
	if (be64(p->head) != MAGIC_OPTION_REPLY || be32(p->head + 8) != p->option)
		return error_set(e, E_PROTO, "it broke the protocol in the handshake (answer to another option)");
	if (len > MAX_REPLY_BYTES || (p->reply == REP_ACK && len) || (p->reply == REP_INFO && (p->step != NBD_GO || len < 2)) ||
	    (p->reply != REP_ACK && p->reply != REP_INFO && !(p->reply & REP_ERROR)))
		return error_set(e, E_PROTO, "it broke the protocol in the handshake (reply %#x of %u bytes)", p->reply, len);
	if (p->reply == REP_INFO && ++p->infos > MAX_INFOS)
		return error_set(e, E_PROTO, "its handshake does not end");
	p->left = len;
	p->text_len = 0;
	p->text[0] = 0;
	if (p->reply == REP_INFO)
		expect(p, R_INFO, MIN(len, 14u));
	else if (len)
		p->state = R_REPLY_TEXT;
	else
		return on_reply(p, e);
	return 0;
}

static int on_info(struct nbd_proto *p, struct error *e)
{
	struct nbd_export *x = &p->export;
	u32 type = be16(p->head), len = p->left;

	p->left -= p->need;
	if (type == INFO_EXPORT) {
		if (len != 12)
			goto broken;
		x->bytes = be64(p->head + 2);
		x->flags = be16(p->head + 10);
		if (!x->bytes || x->bytes > 1ull << 60)
			return error_set(e, E_RANGE, "export '%s' has %llu bytes, which no disk can have", p->name,
					 (unsigned long long)x->bytes);
		if (!(x->flags & NBD_FLAG_HAS_FLAGS))
			x->flags = 0;
		p->have_export = true;
	} else if (type == INFO_BLOCK_SIZE) {
		if (len != 14)
			goto broken;
		x->min_block = be32(p->head + 2);
		x->max_block = be32(p->head + 10);
		if (!x->min_block || x->min_block & (x->min_block - 1) || x->max_block < x->min_block)
			goto broken;
	}
	p->state = R_REPLY_REST;
	return p->left ? 0 : on_reply(p, e);
broken:
	return error_set(e, E_PROTO, "it describes export '%s' in a way that makes no sense", p->name);
}

/* --- answers --- */

/* Notes that [at, at + len) of a read has come; false: some of it had, or it came in too many pieces. */
static bool cover(struct nbd_wait *w, u32 at, u32 len)
{
	u32 i = 0, end = at + len;

	while (i < w->n_ranges && w->range[i].end < at)
		i++;
	/* Range i is the first that ends at or after the new one's start. */
	if (i < w->n_ranges && w->range[i].end == at) {
		if (i + 1 < w->n_ranges && w->range[i + 1].at < end)
			return false;
		w->range[i].end = end;
		if (i + 1 < w->n_ranges && w->range[i + 1].at == end) {
			w->range[i].end = w->range[i + 1].end;
			w->n_ranges--;
			memmove(&w->range[i + 1], &w->range[i + 2], (w->n_ranges - i - 1) * sizeof(w->range[0]));
		}
		return true;
	}
	if (i < w->n_ranges && w->range[i].at < end)
		return false;
	if (i < w->n_ranges && w->range[i].at == end) {
		w->range[i].at = at;
		return true;
	}
	if (w->n_ranges == NBD_RANGES)
		return false;
	memmove(&w->range[i + 1], &w->range[i], (w->n_ranges - i) * sizeof(w->range[0]));
	w->range[i].at = at;
	w->range[i].end = end;
	w->n_ranges++;
	return true;
}

static int broken(struct error *e, const char *what)
{
	return error_set(e, E_PROTO, "it broke the protocol: %s", what);
}

static void finish(struct nbd_proto *p)
{
	struct nbd_wait *w = p->wait;

	p->wait = NULL;
	expect(p, R_MAGIC, 4);
	p->sink->done(p->arg, w, w->error);
}

static int chunk_end(struct nbd_proto *p, struct error *e)
{
	struct nbd_wait *w = p->wait;

	if (!p->last_chunk) {
		p->wait = NULL;
		expect(p, R_MAGIC, 4);
		return 0;
	}
	if (w->type == NBD_CMD_READ && !w->error &&
	    (w->n_ranges != 1 || w->range[0].at || w->range[0].end != w->length))
		return broken(e, "a read was answered in part only");
	finish(p);
	return 0;
}

static int on_simple(struct nbd_proto *p, struct error *e)
{
	struct nbd_wait *w = p->sink->find(p->arg, be64(p->head + 8));

	if (!w)
		return broken(e, "an answer to nothing that was asked");
	if (w->n_ranges || w->error)
		return broken(e, "two answers to one request");
	p->wait = w;
	w->error = be32(p->head + 4);
	if (w->type != NBD_CMD_READ || w->error) {
		/* An error of a structured read is a chunk, but a server that says it this way is understood. */
		finish(p);
		return 0;
	}
	if (p->structured)
		return broken(e, "a simple answer to a read after structured ones were agreed");
	p->data_at = 0;
	p->left = w->length;
	p->last_chunk = true;
	w->n_ranges = 1;
	w->range[0].at = 0;
	w->range[0].end = w->length;
	p->state = R_DATA;
	return 0;
}

static int on_chunk(struct nbd_proto *p, struct error *e)
{
	u16 flags = be16(p->head + 4), type = be16(p->head + 6);
	struct nbd_wait *w = p->sink->find(p->arg, be64(p->head + 8));
	u32 len = be32(p->head + 16);

	if (!w)
		return broken(e, "an answer to nothing that was asked");
	p->wait = w;
	p->last_chunk = flags & CHUNK_DONE;
	p->left = len;
	if (type == CHUNK_NONE) {
		if (len || !p->last_chunk)
			return broken(e, "an empty piece of an answer that is not empty or not the last");
		return chunk_end(p, e);
	}
	if (type & CHUNK_ERROR_BIT) {
		if (len < 6 || len > MAX_REPLY_BYTES)
			return broken(e, "an error report of impossible size");
		expect(p, R_CHUNK_ERROR, 6);
		return 0;
	}
	if (w->type != NBD_CMD_READ || (type != CHUNK_OFFSET_DATA && type != CHUNK_OFFSET_HOLE))
		return broken(e, "a piece of an answer of a kind that does not belong there");
	if (type == CHUNK_OFFSET_HOLE ? len != 12 : len <= 8 || len - 8 > w->length)
		return broken(e, "a piece of a read of impossible size");
	expect(p, type == CHUNK_OFFSET_HOLE ? R_CHUNK_HOLE : R_CHUNK_AT, type == CHUNK_OFFSET_HOLE ? 12 : 8);
	return 0;
}

/* A piece of a read begins: where it goes. */
static int on_piece(struct nbd_proto *p, u32 len, struct error *e)
{
	struct nbd_wait *w = p->wait;
	u64 at = be64(p->head) - w->offset;

	if (be64(p->head) < w->offset || at > w->length || !len || len > w->length - at)
		return broken(e, "a piece of a read that lies outside of it");
	if (!cover(w, (u32)at, len))
		return broken(e, "pieces of a read that overlap, or too many of them");
	p->data_at = (u32)at;
	p->left = len;
	return 0;
}

static int on_head(struct nbd_proto *p, struct error *e)
{
	int rc;

	switch (p->state) {
	case R_GREETING:
		return on_greeting(p, e);
	case R_OPTION:
		return on_option(p, e);
	case R_INFO:
		return on_info(p, e);
	case R_MAGIC:
		if (be32(p->head) != MAGIC_SIMPLE && (be32(p->head) != MAGIC_CHUNK || !p->structured))
			return broken(e, "neither kind of answer");
		p->need = be32(p->head) == MAGIC_SIMPLE ? 16 : 20;
		p->state = be32(p->head) == MAGIC_SIMPLE ? R_SIMPLE : R_CHUNK;
		return 0;
	case R_SIMPLE:
		return on_simple(p, e);
	case R_CHUNK:
		return on_chunk(p, e);
	case R_CHUNK_AT:
		rc = on_piece(p, p->left - 8, e);
		p->state = R_DATA;
		return rc;
	case R_CHUNK_HOLE:
		rc = on_piece(p, be32(p->head + 8), e);
		if (rc)
			return rc;
		p->sink->data(p->arg, p->wait, p->data_at, NULL, p->left);
		return chunk_end(p, e);
	default: /* R_CHUNK_ERROR */
		if (!be32(p->head))
			return broken(e, "an error report without an error");
		if (!p->wait->error)
			p->wait->error = be32(p->head);
		p->left -= 6;
		p->state = R_SKIP;
		return p->left ? 0 : chunk_end(p, e);
	}
}

/* n bytes of what follows a head. */
static int on_payload(struct nbd_proto *p, const u8 *buf, u32 n, struct error *e)
{
	p->left -= n;
	if (p->state == R_REPLY_TEXT) {
		for (u32 i = 0; i < n && p->text_len < sizeof(p->text) - 1; i++)
			p->text[p->text_len++] = buf[i] >= ' ' && buf[i] <= '~' ? (char)buf[i] : '?';
		p->text[p->text_len] = 0;
	} else if (p->state == R_DATA) {
		p->sink->data(p->arg, p->wait, p->data_at, buf, n);
		p->data_at += n;
	}
	if (p->left)
		return 0;
	return p->state == R_REPLY_TEXT || p->state == R_REPLY_REST ? on_reply(p, e) : chunk_end(p, e);
}

int nbd_proto_feed(struct nbd_proto *p, const u8 *buf, size_t len, size_t *used, struct error *e)
{
	int rc = 0;

	for (*used = 0; !rc && *used < len && p->step != NBD_TLS;) {
		u32 n;

		if (p->state == R_REPLY_TEXT || p->state == R_REPLY_REST || p->state == R_DATA || p->state == R_SKIP) {
			n = (u32)MIN(len - *used, (size_t)p->left);
			*used += n;
			rc = on_payload(p, buf + *used - n, n, e);
			continue;
		}
		n = (u32)MIN(len - *used, (size_t)(p->need - p->got));
		memcpy(p->head + p->got, buf + *used, n);
		p->got += n;
		*used += n;
		if (p->got == p->need)
			rc = on_head(p, e);
	}
	return rc;
}
