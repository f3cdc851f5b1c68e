/* SPDX-License-Identifier: MIT */
#include "hv/keep.h"
#include "hv/arch/nvram.h"
#include "hv/lib/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MAGIC 0x31744747u /* "GGt1": the layout below */

enum kind { OWNER = 1, GUEST = 2 };
#define GIVEN 1u   /* OWNER: to the host named in the third string */
#define DELETED 1u /* GUEST: no definition; the section in godwit.conf does not count */
#define CAME 2u    /* GUEST: came with a move, and goes with it */

/* host, guest, and a host's name (OWNER) or a [guest] section (GUEST) follow, each with its NUL. */
struct record {
	u32 magic, check;  /* check: of all that follows */
	u64 number;        /* OWNER: epoch. GUEST: hash of the section in godwit.conf that it stands for, 0: there was none */
	u8 kind, flags;
	char text[];
} __attribute__((packed));

static struct keep keep_default;
struct keep *keep = &keep_default;

struct view { const struct record *r; const char *host, *guest, *rest; };

static u64 fnv(const void *data, size_t len)
{
	u64 h = 0xcbf29ce484222325ull; /* FNV-1a */

	for (size_t i = 0; i < len; i++)
		h = (h ^ ((const u8 *)data)[i]) * 0x100000001b3ull;
	return h;
}

static u32 check_of(const struct record *r, size_t len)
{
	return (u32)fnv(&r->number, len - offsetof(struct record, number));
}

/* false: empty, or not a record. */
static bool view(const struct keep_slot *s, struct view *v)
{
	const struct record *r = (const void *)s->bytes;
	const char *p = r->text, *end = (const char *)s->bytes + s->len;
	const char **to[] = { &v->host, &v->guest, &v->rest };

	if (s->len < sizeof(*r) || s->len > sizeof(s->bytes) || r->magic != MAGIC || r->check != check_of(r, s->len))
		return false;
	for (u32 i = 0; i < 3; i++) {
		*to[i] = p;
		p = p < end ? memchr(p, 0, (size_t)(end - p)) : NULL;
		if (!p++)
			return false;
	}
	v->r = r;
	return p == end && strlen(v->guest) < NAME_MAX_LEN && (r->kind == GUEST || (r->kind == OWNER && strlen(v->rest) < NAME_MAX_LEN));
}

/* The slot with that record of this host, or KEEP_SLOTS. */
static u32 find(enum kind kind, const char *guest, struct view *v)
{
	u32 i;

	for (i = 0; i < KEEP_SLOTS; i++)
		if (view(&keep->slots[i], v) && v->r->kind == kind && !strcmp(v->guest, guest) && !strcmp(v->host, keep->host))
			break;
	return i;
}

/* For a new record: an empty slot, else one that holds nothing of this host's. KEEP_SLOTS: none. */
static u32 place(void)
{
	struct view v;
	u32 i, other = KEEP_SLOTS;

	for (i = 0; i < KEEP_SLOTS; i++) {
		if (!keep->slots[i].len)
			return i;
		if (keep->slots[i].len != KEEP_UNREADABLE && (!view(&keep->slots[i], &v) || strcmp(v.host, keep->host)))
			other = i;
	}
	return other;
}

static int write_slot(u32 i, const void *buf, size_t len, struct error *e)
{
	size_t total = len;
	int rc;

	if (i == KEEP_SLOTS)
		return error_set(e, E_RANGE, "there are as many records as can be: delete guests that are not needed");
	for (u32 k = 0; k < KEEP_SLOTS; k++)
		total += k != i && keep->slots[k].len != KEEP_UNREADABLE ? keep->slots[k].len : 0;
	if (len && total > KEEP_TOTAL_BYTES)
		return error_set(e, E_RANGE, "all records would have more than %u bytes: put definitions into godwit.conf", KEEP_TOTAL_BYTES);
	rc = nvram_write(i, buf, len, e);
	if (!rc && len)
		memcpy(keep->slots[i].bytes, buf, len);
	if (!rc)
		keep->slots[i].len = (u16)len;
	return rc;
}

/* The outcome of a change to that record of the guest. A problem is over when the record is as it should be again. */
static int outcome(enum kind kind, const char *guest, int rc, const struct error *why, struct error *e)
{
	if (!rc) {
		if (keep->problem_kind == kind && !strcmp(keep->problem_guest, guest))
			keep->problem.code = 0;
		return 0;
	}
	keep->problem.code = 0;
	keep->problem_kind = kind;
	snprintf(keep->problem_guest, sizeof(keep->problem_guest), "%s", guest);
	error_set(&keep->problem, (enum err)-rc, "a restart of this host will undo the last change of guest %s: %s", guest, why->text);
	log_warn("keep", "%s", keep->problem.text);
	return error_set(e, (enum err)-rc, "%s", keep->problem.text);
}

static int put(enum kind kind, const char *guest, u8 flags, u64 number, const char *rest, struct error *e)
{
	u8 buf[KEEP_RECORD_BYTES];
	struct record *r = (void *)buf;
	struct error why = { 0 };
	struct view v;
	u32 i = find(kind, guest, &v);
	size_t room = sizeof(buf) - sizeof(*r), len;

	*r = (struct record){ MAGIC, 0, number, kind, flags };
	len = rest ? (size_t)snprintf(r->text, room, "%s%c%s%c%s", keep->host, 0, guest, 0, rest) + 1 : room + 1;
	if (len > room)
		return outcome(kind, guest, error_set(&why, E_RANGE, "its definition is too long: make it shorter, or put it into godwit.conf"), &why, e);
	len += sizeof(*r);
	r->check = check_of(r, len);
	if (i < KEEP_SLOTS && keep->slots[i].len == len && !memcmp(keep->slots[i].bytes, buf, len))
		return outcome(kind, guest, 0, NULL, e);
	return outcome(kind, guest, write_slot(i < KEEP_SLOTS ? i : place(), buf, len, &why), &why, e);
}

static int drop(enum kind kind, const char *guest, struct error *e)
{
	struct view v;
	struct error why = { 0 };
	u32 i = find(kind, guest, &v);

	return outcome(kind, guest, i == KEEP_SLOTS ? 0 : write_slot(i, NULL, 0, &why), &why, e);
}

/* 0: godwit.conf has none. */
static u64 section(const char *guest)
{
	for (u32 i = 0; i < keep->n_sections; i++)
		if (!strcmp(keep->sections[i].name, guest))
			return keep->sections[i].hash;
	return 0;
}

static int put_guest(const struct guest_config *g, u8 flags, struct error *e)
{
	static char text[KEEP_RECORD_BYTES];

	return put(GUEST, g->name, flags, section(g->name), config_guest_text(g, text, sizeof(text)) < 0 ? NULL : text, e);
}

int keep_define(const struct guest_config *g, struct error *e)
{
	return put_guest(g, 0, e);
}

/* In an order that is safe at every point: what is not defined is not started. */
int keep_delete(const char *guest, struct error *e)
{
	int rc = section(guest) ? put(GUEST, guest, DELETED, section(guest), "", e) : drop(GUEST, guest, e);

	return rc ?: drop(OWNER, guest, e);
}

enum keep_owner keep_owner(const char *guest, char peer[NAME_MAX_LEN], u64 *epoch)
{
	struct view v;

	if (find(OWNER, guest, &v) == KEEP_SLOTS)
		return keep->damaged ? KEEP_LOST : KEEP_NONE;
	*epoch = v.r->number;
	snprintf(peer, NAME_MAX_LEN, "%s", v.rest);
	return v.r->flags & GIVEN ? KEEP_GIVEN : KEEP_HERE;
}

int keep_here(const char *guest, u64 epoch, struct error *e)
{
	return put(OWNER, guest, 0, epoch, "", e);
}

int keep_given(const char *guest, const char *peer, u64 epoch, struct error *e)
{
	return put(OWNER, guest, GIVEN, epoch, peer, e);
}

int keep_came(const struct guest_config *g, u64 epoch, struct error *e)
{
	struct view v;
	bool recorded = find(GUEST, g->name, &v) < KEEP_SLOTS;
	bool own = recorded ? !(v.r->flags & (DELETED | CAME)) : section(g->name) != 0;
	int rc = own ? 0 : put_guest(g, CAME, e), rc2 = keep_here(g->name, epoch, e);

	return rc ?: rc2;
}

int keep_left(const char *guest, struct error *e)
{
	struct view v;

	return find(GUEST, guest, &v) < KEEP_SLOTS && v.r->flags & CAME ? keep_delete(guest, e) : 0;
}

/* --- at boot --- */

static void __printf(2, 3) complain(struct config *c, const char *fmt, ...)
{
	struct error *e = &c->errors[MIN(c->n_errors, CONFIG_MAX_ERRORS - 1u)];
	va_list ap;

	c->n_errors = MIN(c->n_errors + 1, (u32)CONFIG_MAX_ERRORS);
	e->code = E_INVAL;
	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
}

static void apply(struct config *c, u32 slot, const struct view *v)
{
	static struct config scratch;
	struct guest_config *old = NULL, *last = &c->guests[c->n_guests];
	struct guest_config g;
	struct error e = { 0 };

	for (u32 i = 0; i < c->n_guests; i++)
		if (!strcmp(c->guests[i].name, v->guest))
			old = &c->guests[i];
	if (old && section(v->guest) != v->r->number) {
		keep->outdated |= BIT(slot);
	} else if (v->r->flags & DELETED) {
		if (old)
			memmove(old, old + 1, (size_t)(last - old - 1) * sizeof(*old));
		c->n_guests -= old != NULL;
	} else if (config_parse_guest(c, &scratch, v->rest, strlen(v->rest), NULL, &g, &e) || strcmp(g.name, v->guest)) {
		complain(c, "guest %s is not as it was before the restart: %.200s. Make what is missing, or define the guest anew", v->guest,
			 e.text);
	} else if (old) {
		*old = g;
	} else if (c->n_guests < CONFIG_MAX_GUESTS) {
		c->guests[c->n_guests++] = g;
	} else {
		complain(c, "guest %s is one guest too many beside those in godwit.conf. A host has at most %u", v->guest, CONFIG_MAX_GUESTS);
	}
}

void keep_merge(struct config *c)
{
	static char text[4096];
	struct view v;

	snprintf(keep->host, sizeof(keep->host), "%s", c->host_name);
	keep->n_sections = 0;
	keep->damaged = false;
	for (u32 i = 0; i < c->n_guests; i++) {
		int len = config_guest_text(&c->guests[i], text, sizeof(text));

		strcpy(keep->sections[keep->n_sections].name, c->guests[i].name);
		keep->sections[keep->n_sections++].hash = fnv(text, len < 0 ? sizeof(text) : (size_t)len) | 1;
	}
	for (u32 i = 0; i < KEEP_SLOTS; i++) {
		if (!keep->slots[i].len)
			continue;
		if (!view(&keep->slots[i], &v)) {
			if (!keep->damaged)
				complain(c, "record %u in the firmware's variables is damaged and not used: a guest that had moved away, or was "
					 "changed, may be as godwit.conf has it. Look where your guests are before you start any", i);
			keep->damaged = true;
		} else if (v.r->kind == GUEST && !strcmp(v.host, keep->host)) {
			apply(c, i, &v);
		}
	}
}

void keep_start(const char *host)
{
	struct error e = { 0 };
	struct view v;

	snprintf(keep->host, sizeof(keep->host), "%s", host);
	for (u32 i = 0; i < KEEP_SLOTS; i++) {
		if (!view(&keep->slots[i], &v))
			continue;
		if (strcmp(v.host, keep->host))
			log_warn("keep", "record %u is of a host %s, which this machine was: it is not used", i, v.host);
		if (!(keep->outdated >> i & 1))
			continue;
		log_warn("keep", "guest %s: its section in godwit.conf was edited after it had been changed or deleted: the file counts", v.guest);
		if (write_slot(i, NULL, 0, &e))
			log_warn("keep", "it cannot be forgotten: %s", e.text);
	}
	keep->outdated = 0;
}
