/* SPDX-License-Identifier: MIT */
#include "mig/state.h"
#include "mig/wire.h"

#include <stdio.h>
#include <string.h>

/* stream:  u32 format, sections, u8 0
 * section: u8 name length, name, u16 instance, u16 version, u32 length, records
 * record:  u16 tag, u8 width, u8 0, u32 count, count * width bytes */
#define MAX_TYPE_NAME 15u

static size_t records_len(const struct mig_type *t)
{
	size_t len = 0;

	for (unsigned i = 0; i < t->n_fields; i++)
		len += 8 + (size_t)t->fields[i].width * t->fields[i].count;
	return len;
}

static void save_section(struct wire_writer *w, const struct mig_instance *inst)
{
	const struct mig_type *t = inst->type;
	size_t name_len = strlen(t->name);

	BUG_ON(name_len == 0 || name_len > MAX_TYPE_NAME);
	wire_put_u8(w, (u8)name_len);
	wire_put_bytes(w, t->name, name_len);
	wire_put_u16(w, inst->instance);
	wire_put_u16(w, t->version);
	wire_put_u32(w, (u32)records_len(t));
	for (unsigned i = 0; i < t->n_fields; i++) {
		const struct mig_field *f = &t->fields[i];

		wire_put_u16(w, f->tag);
		wire_put_u8(w, f->width);
		wire_put_u8(w, 0);
		wire_put_u32(w, f->count);
		wire_put_bytes(w, (const u8 *)inst->state + f->offset, (size_t)f->width * f->count);
	}
}

int state_save(struct vm *vm, void *buf, size_t cap, size_t *len, struct error *e)
{
	struct wire_writer w = wire_writer(buf, cap);
	struct mig_instance inst;

	wire_put_u32(&w, STATE_FORMAT);
	for (unsigned i = 0; vm_mig_instance(vm, i, &inst); i++)
		save_section(&w, &inst);
	wire_put_u8(&w, 0);
	if (w.bad)
		return error_set(e, E_RANGE, "the state of guest %s does not fit %zu KiB", vm->config.name, cap >> 10);
	*len = w.len;
	return 0;
}

struct section { char name[MAX_TYPE_NAME + 1]; u16 instance, version; u32 length; };

/* 1: a section follows, 0: end of the stream, negative: malformed. */
static int read_section(struct wire_reader *r, struct section *s)
{
	u8 n = wire_u8(r);
	const u8 *name;

	if (r->bad || n > MAX_TYPE_NAME)
		return -E_PROTO;
	if (n == 0)
		return 0;
	name = wire_bytes(r, n);
	if (!name)
		return -E_PROTO;
	for (unsigned i = 0; i < n; i++)
		if (name[i] < 0x21 || name[i] > 0x7e)
			return -E_PROTO;
	memcpy(s->name, name, n);
	s->name[n] = 0;
	s->instance = wire_u16(r);
	s->version = wire_u16(r);
	s->length = wire_u32(r);
	return r->bad ? -E_PROTO : 1;
}

static bool find_instance(struct vm *vm, const struct section *s, struct mig_instance *inst, unsigned *index)
{
	for (unsigned i = 0; vm_mig_instance(vm, i, inst); i++)
		if (inst->instance == s->instance && !strcmp(inst->type->name, s->name)) {
			*index = i;
			return true;
		}
	return false;
}

static const struct mig_field *find_field(const struct mig_type *t, u16 tag)
{
	for (unsigned i = 0; i < t->n_fields; i++)
		if (t->fields[i].tag == tag)
			return &t->fields[i];
	return NULL;
}

static int load_record(const struct mig_instance *inst, const struct section *s, struct wire_reader *r, u64 *seen,
		       struct error *e)
{
	const struct mig_type *t = inst->type;
	u16 tag = wire_u16(r);
	u8 width = wire_u8(r), zero = wire_u8(r);
	u32 count = wire_u32(r);
	const struct mig_field *f;
	const u8 *bytes;
	size_t i;

	if (r->bad)
		return error_set(e, E_PROTO, "state %s.%u ends inside a record", s->name, s->instance);
	f = find_field(t, tag);
	if (!f || f->since > s->version)
		return error_set(e, E_PROTO, "state %s.%u has the unknown field tag %u", s->name, s->instance, tag);
	if (width != f->width || count != f->count || zero)
		return error_set(e, E_PROTO, "state %s.%u.%s is %u x %u bytes, %u x %u are expected", s->name, s->instance,
				 f->name, count, width, f->count, f->width);
	i = (size_t)(f - t->fields);
	if (seen[i / 64] & BIT(i % 64))
		return error_set(e, E_PROTO, "state %s.%u.%s comes twice", s->name, s->instance, f->name);
	bytes = wire_bytes(r, (size_t)width * count);
	if (!bytes)
		return error_set(e, E_PROTO, "state %s.%u.%s is cut short", s->name, s->instance, f->name);
	memcpy((u8 *)inst->state + f->offset, bytes, (size_t)width * count);
	seen[i / 64] |= BIT(i % 64);
	return 0;
}

#define MAX_FIELDS 256u

static int load_section(const struct mig_instance *inst, const struct section *s, struct wire_reader r, struct error *e)
{
	const struct mig_type *t = inst->type;
	u64 seen[MAX_FIELDS / 64] = { 0 };

	BUG_ON(t->n_fields > MAX_FIELDS);
	if (s->version > t->version)
		return error_set(e, E_UNSUPPORTED, "state %s.%u has version %u, this host knows up to %u: update this host",
				 s->name, s->instance, s->version, t->version);
	if (s->version < t->min_version)
		return error_set(e, E_UNSUPPORTED, "state %s.%u has version %u, this host needs at least %u: update the other host",
				 s->name, s->instance, s->version, t->min_version);
	while (r.p < r.end) {
		int rc = load_record(inst, s, &r, seen, e);

		if (rc)
			return rc;
	}
	/* What a later version added keeps its reset value; anything else must be there. */
	for (unsigned i = 0; i < t->n_fields; i++)
		if (!(seen[i / 64] & BIT(i % 64)) && t->fields[i].since <= s->version)
			return error_set(e, E_PROTO, "state %s.%u.%s is missing", s->name, s->instance, t->fields[i].name);
	return 0;
}

static int load_sections(struct vm *vm, struct wire_reader *r, u64 *loaded, struct error *e)
{
	struct mig_instance inst;
	struct section s;
	unsigned index;
	const u8 *body;
	int rc;

	for (;;) {
		rc = read_section(r, &s);
		if (rc < 0)
			return error_set(e, E_PROTO, "the state stream is malformed or cut short");
		if (rc == 0)
			return wire_done(r) ? 0 : error_set(e, E_PROTO, "the state stream goes on after its end");
		body = wire_bytes(r, s.length);
		if (!body)
			return error_set(e, E_PROTO, "state %s.%u is cut short", s.name, s.instance);
		if (!find_instance(vm, &s, &inst, &index))
			return error_set(e, E_UNSUPPORTED, "this host's guest has no %s.%u: are both hosts of one version?",
					 s.name, s.instance);
		BUG_ON(index >= STATE_MAX_INSTANCES);
		if (*loaded & BIT(index))
			return error_set(e, E_PROTO, "state %s.%u comes twice", s.name, s.instance);
		*loaded |= BIT(index);
		rc = load_section(&inst, &s, wire_reader(body, s.length), e);
		if (rc)
			return rc;
	}
}

int state_load(struct vm *vm, const void *buf, size_t len, struct error *e)
{
	struct wire_reader r = wire_reader(buf, len);
	struct mig_instance inst;
	u64 loaded = 0;
	u32 format = wire_u32(&r);
	int rc;

	if (r.bad || format != STATE_FORMAT)
		return error_set(e, E_UNSUPPORTED, "the state stream has format %u, this host knows %u", format, STATE_FORMAT);
	rc = load_sections(vm, &r, &loaded, e);
	if (rc)
		return rc;
	for (unsigned i = 0; vm_mig_instance(vm, i, &inst); i++)
		if (!(loaded & BIT(i)))
			return error_set(e, E_PROTO, "state %s.%u is missing", inst.type->name, inst.instance);
	/* Last, and in the order of the phases: a device may look at those before it. */
	for (unsigned i = 0; vm_mig_instance(vm, i, &inst); i++) {
		struct error why = { 0 };

		if (!inst.type->post_load)
			continue;
		rc = inst.type->post_load(inst.owner, &why);
		if (rc)
			return error_set(e, E_INVAL, "state %s.%u: %s", inst.type->name, inst.instance,
					 why.code ? why.text : "impossible values; do both hosts run the same Godwit?");
	}
	return 0;
}

void state_locate(struct vm *vm, size_t at, char *out, size_t cap)
{
	struct mig_instance inst;
	size_t end = sizeof(u32);

	snprintf(out, cap, "frame of the stream");
	for (unsigned i = 0; vm_mig_instance(vm, i, &inst); i++) {
		const struct mig_type *t = inst.type;

		end += 1 + strlen(t->name) + 2 + 2 + 4;
		for (const struct mig_field *f = t->fields; f < t->fields + t->n_fields; f++) {
			end += 8 + (size_t)f->width * f->count;
			if (at < end) {
				snprintf(out, cap, "%s.%u.%s", t->name, inst.instance, f->name);
				return;
			}
		}
	}
}
