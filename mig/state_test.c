/* SPDX-License-Identifier: MIT */
/* The state stream over a real guest: every registered description is tested by what it says, none is named here. */
#include "mig/session.h"
#include "hv/fake/fake.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "net/net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define STREAM_MAX STATE_MAX_BYTES
#define TESTDATA "mig/testdata/state_v1.bin"

static u64 rng = 88172645463325252ull;

static u64 rnd(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

/* No moves in this test, but mig/ is linked whole. */
struct stream *net_connect(u32 ip, u16 port, const char *host, const char *alpn, struct error *e)
{
	error_set(e, E_IO, "no network here");
	return NULL;
}
void mig_changed(const struct mig_info *info) { }

/* Stored streams are of a guest without them, and without disks. */
static bool no_cards;

static struct vm *make(const char *name)
{
	struct guest_config c = { .memory_bytes = 4ul << 20, .vcpus = 1, .debug_exit = true, .n_nics = !no_cards,
				  .n_disks = !no_cards, .disks = { { .kind = DISK_RAM, .bytes = 1u << 20 } } };
	struct error e = { 0 };
	struct vm *vm;

	snprintf(c.name, sizeof(c.name), "%s", name);
	vm = vm_create(&c, &e);
	if (!vm)
		fail_msg("%s", e.text);
	vm_state_sync(vm);
	return vm;
}

static size_t save(struct vm *vm, u8 *buf)
{
	struct error e = { 0 };
	size_t len = 0;

	if (state_save(vm, buf, STREAM_MAX, &len, &e))
		fail_msg("%s", e.text);
	return len;
}

static bool accepts(const struct mig_instance *inst)
{
	struct error e = { 0 };

	return !inst->type->post_load || inst->type->post_load(inst->owner, &e) == 0;
}

static bool all_accept(struct vm *vm)
{
	struct mig_instance inst;

	for (unsigned i = 0; vm_mig_instance(vm, i, &inst); i++)
		if (!accepts(&inst))
			return false;
	return true;
}

/* One element of one field gets another value; what its owner does not accept is taken back. */
static void randomise_field(struct vm *vm, const struct mig_instance *inst, const struct mig_field *f)
{
	/* Everybody looks at the clock. */
	bool all = inst->type->phase == MIG_PHASE_CLOCK;

	for (u32 i = 0; i < f->count; i++) {
		u8 *at = (u8 *)inst->state + f->offset + (size_t)i * f->width, old[8];

		memcpy(old, at, f->width);
		for (int tries = 0; tries < 6; tries++) {
			/* Wide values first, then smaller and smaller ones. */
			u64 v = rnd() >> (tries * 12 % 64);

			memcpy(at, &v, f->width);
			if (all ? all_accept(vm) : accepts(inst))
				break;
			memcpy(at, old, f->width);
		}
		/* A blob such as the XSAVE image is accepted or not as a whole; enough of it is random by now. */
		if (i == 600)
			break;
	}
	if (!(all ? all_accept(vm) : accepts(inst)))
		fail_msg("%s.%s: what was accepted before is not any more", inst->type->name, f->name);
}

static void randomise(struct vm *vm)
{
	struct mig_instance inst;

	assert_true(all_accept(vm));
	for (unsigned i = 0; vm_mig_instance(vm, i, &inst); i++)
		for (unsigned n = 0; n < inst.type->n_fields; n++)
			randomise_field(vm, &inst, &inst.type->fields[n]);
}

/* Which field a difference is in, for the message. */
static void assert_same(struct vm *vm, const u8 *a, size_t len_a, const u8 *b, size_t len_b)
{
	char where[80];
	size_t i;

	assert_int_equal(len_a, len_b);
	for (i = 0; i < len_a && a[i] == b[i]; i++)
		;
	if (i == len_a)
		return;
	state_locate(vm, i, where, sizeof(where));
	fail_msg("%s is not the same after save and load", where);
}

static void test_every_type_is_there(void **state)
{
	struct vm *vm = make("g");
	struct mig_instance inst;
	unsigned types = (unsigned)(__stop_migratable - __start_migratable);

	assert_true(types >= 9);
	for (unsigned t = 0; t < types; t++) {
		bool found = false;

		for (unsigned i = 0; vm_mig_instance(vm, i, &inst); i++)
			found |= inst.type == __start_migratable[t];
		if (!found)
			fail_msg("a guest has no instance of %s: it would not move", __start_migratable[t]->name);
	}
	vm_destroy(vm);
}

/* Each field is found by its bytes. */
static void test_locate(void **state)
{
	u8 *a = malloc(STREAM_MAX), *b = malloc(STREAM_MAX);
	struct vm *vm = make("g");
	struct mig_instance inst;
	char where[80], wanted[80];
	size_t len, len_b, at;

	assert_int_equal(state_save(vm, a, STREAM_MAX, &len, NULL), 0);
	for (unsigned i = 0; vm_mig_instance(vm, i, &inst); i++)
		for (unsigned n = 0; n < inst.type->n_fields; n++) {
			const struct mig_field *f = &inst.type->fields[n];
			u8 *last = (u8 *)inst.state + f->offset + f->width * f->count - 1;

			*last ^= 1;
			assert_int_equal(state_save(vm, b, STREAM_MAX, &len_b, NULL), 0);
			*last ^= 1;
			for (at = 0; at < len && a[at] == b[at]; at++)
				;
			state_locate(vm, at, where, sizeof(where));
			snprintf(wanted, sizeof(wanted), "%s.%u.%s", inst.type->name, inst.instance, f->name);
			assert_string_equal(where, wanted);
		}
	state_locate(vm, len, where, sizeof(where));
	assert_string_equal(where, "frame of the stream");
	vm_destroy(vm);
	free(a);
	free(b);
}

static void test_save_load_save(void **state)
{
	u8 *a = malloc(STREAM_MAX), *b = malloc(STREAM_MAX);

	for (int round = 0; round < 30; round++) {
		struct vm *from = make("from"), *to = make("to");
		struct error e = { 0 };
		size_t len, len2;

		if (round)
			randomise(from);
		len = save(from, a);
		/* Saving changes nothing. */
		len2 = save(from, b);
		assert_same(from, a, len, b, len2);
		if (state_load(to, a, len, &e))
			fail_msg("round %d: %s", round, e.text);
		len2 = save(to, b);
		assert_same(from, a, len, b, len2);
		vm_destroy(from);
		vm_destroy(to);
	}
	free(a);
	free(b);
}

static void test_self(void **state)
{
	struct vm *vm = make("g");

	mig_self(vm);
	if (vm_is_dead(vm))
		fail_msg("%s", vm->reason);
	vm_destroy(vm);
}

static void test_truncation(void **state)
{
	struct vm *vm = make("from");
	u8 *a = malloc(STREAM_MAX), *copy;
	size_t len;

	randomise(vm);
	len = save(vm, a);
	for (size_t n = 0; n < len; n++) {
		struct error e = { 0 };

		/* Its own allocation, so that one byte too far is seen. */
		copy = malloc(n ? n : 1);
		memcpy(copy, a, n);
		if (!state_load(vm, copy, n, &e))
			fail_msg("%zu of %zu bytes load", n, len);
		assert_true(e.text[0]);
		free(copy);
		/* Past the headers, every byte of the big blobs teaches nothing new. */
		if (n > 400 && len - n > 400 && rnd() % 4)
			n += rnd() % 16;
	}
	vm_destroy(vm);
	free(a);
}

static void test_flips(void **state)
{
	struct vm *vm = make("from");
	u8 *a = malloc(STREAM_MAX), *b = malloc(STREAM_MAX);
	unsigned refused = 0;
	size_t len;

	randomise(vm);
	len = save(vm, a);
	for (int i = 0; i < 6000; i++) {
		struct error e = { 0 };

		memcpy(b, a, len);
		for (u64 n = 1 + rnd() % 4; n; n--)
			b[rnd() % (rnd() % 2 ? len : 600)] ^= (u8)(1u << rnd() % 8);
		if (state_load(vm, b, len, &e)) {
			assert_true(e.text[0]);
			refused++;
		}
	}
	assert_true(refused > 1000);
	vm_destroy(vm);
	free(a);
	free(b);
}

/* --- rules of the stream, on a stream cut into sections --- */

struct piece { u8 *at; size_t len; };

static unsigned cut(u8 *a, size_t len, struct piece *out, unsigned max)
{
	u8 *p = a + 4, *end = a + len - 1;
	unsigned n = 0;

	while (p < end && n < max) {
		u32 body;
		size_t head = 1u + p[0] + 8u;

		memcpy(&body, p + head - 4, 4);
		out[n++] = (struct piece){ p, head + body };
		p += head + body;
	}
	assert_ptr_equal(p, end);
	return n;
}

static size_t join(u8 *b, const struct piece *pieces, unsigned n, int without, int twice)
{
	u8 *p = b;
	u32 format = STATE_FORMAT;

	memcpy(p, &format, 4);
	p += 4;
	for (unsigned i = 0; i < n; i++)
		for (int k = 0; k < ((int)i == twice ? 2 : (int)i == without ? 0 : 1); k++) {
			memcpy(p, pieces[i].at, pieces[i].len);
			p += pieces[i].len;
		}
	*p++ = 0;
	return (size_t)(p - b);
}

static void expect(struct vm *vm, const u8 *b, size_t len, int code, const char *text)
{
	struct error e = { 0 };
	int rc = state_load(vm, b, len, &e);

	if (rc != code || !strstr(e.text, text))
		fail_msg("got %d '%s', wanted %d '%s'", rc, e.text, code, text);
}

static void test_rules(void **state)
{
	struct vm *vm = make("g");
	u8 *a = malloc(STREAM_MAX), *b = malloc(2 * STREAM_MAX);
	struct piece pieces[STATE_MAX_INSTANCES];
	size_t len = save(vm, a), head;
	unsigned n = cut(a, len, pieces, ARRAY_SIZE(pieces));
	struct error e = { 0 };
	u8 *p;

	assert_true(n >= 10);
	for (unsigned i = 0; i < n; i++) {
		len = join(b, pieces, n, (int)i, -1);
		expect(vm, b, len, -E_PROTO, "is missing");
		expect(vm, b, join(b, pieces, n, -1, (int)i), -E_PROTO, "comes twice");
	}
	/* Order does not matter. */
	len = join(b, pieces, n, 0, -1) - 1;
	memcpy(b + len, pieces[0].at, pieces[0].len);
	b[len + pieces[0].len] = 0;
	if (state_load(vm, b, len + pieces[0].len + 1, &e))
		fail_msg("%s", e.text);
	for (unsigned i = 0; i < n; i++) {
		u16 v, tag;

		len = join(b, pieces, n, -1, -1);
		p = b + (pieces[i].at - a);
		head = 1u + p[0] + 8u;
		/* An instance that is not there. */
		p[head - 8] ^= 0x40;
		expect(vm, b, len, -E_UNSUPPORTED, "this host's guest has no");
		p[head - 8] ^= 0x40;
		/* Too new, too old. */
		memcpy(&v, p + head - 6, 2);
		v = (u16)(v + 1);
		memcpy(p + head - 6, &v, 2);
		expect(vm, b, len, -E_UNSUPPORTED, "update this host");
		v = 0;
		memcpy(p + head - 6, &v, 2);
		expect(vm, b, len, -E_UNSUPPORTED, "update the other host");
		join(b, pieces, n, -1, -1);
		if (pieces[i].len == head)
			continue;
		/* Unknown field; wrong width; wrong count. */
		tag = 0x7fff;
		memcpy(p + head, &tag, 2);
		expect(vm, b, len, -E_PROTO, "unknown field tag 32767");
		join(b, pieces, n, -1, -1);
		p[head + 2] = (u8)(p[head + 2] * 2);
		expect(vm, b, len, -E_PROTO, "are expected");
		join(b, pieces, n, -1, -1);
		p[head + 4]++;
		expect(vm, b, len, -E_PROTO, "are expected");
	}
	/* A stream of another format, and one that goes on. */
	len = join(b, pieces, n, -1, -1);
	b[len] = 0;
	expect(vm, b, len + 1, -E_PROTO, "goes on after its end");
	b[0] = 9;
	expect(vm, b, len, -E_UNSUPPORTED, "format 9");
	vm_destroy(vm);
	free(a);
	free(b);
}

static void test_duplicate_and_absent_field(void **state)
{
	struct vm *vm = make("g");
	u8 *a = malloc(STREAM_MAX), *b = malloc(STREAM_MAX);
	struct piece pieces[STATE_MAX_INSTANCES];
	size_t len = save(vm, a), head, record, at;
	unsigned n = cut(a, len, pieces, ARRAY_SIZE(pieces));
	u32 count, body;

	for (unsigned i = 0; i < n; i++) {
		const u8 *p = pieces[i].at;

		head = 1u + p[0] + 8u;
		if (pieces[i].len == head)
			continue;
		memcpy(&count, p + head + 4, 4);
		record = 8 + (size_t)p[head + 2] * count;
		/* Without its first record. */
		at = (size_t)(p - a) + head;
		memcpy(b, a, at);
		memcpy(b + at, a + at + record, len - at - record);
		body = (u32)(pieces[i].len - head - record);
		memcpy(b + at - 4, &body, 4);
		expect(vm, b, len - record, -E_PROTO, "is missing");
		/* And with it twice. */
		memcpy(b, a, at + record);
		memcpy(b + at + record, a + at, len - at);
		body = (u32)(pieces[i].len - head + record);
		memcpy(b + at - 4, &body, 4);
		expect(vm, b, len + record, -E_PROTO, "comes twice");
	}
	vm_destroy(vm);
	free(a);
	free(b);
}

/* A description that has grown: what version 1 had loads, what came later keeps its reset value. */
struct grown { u32 old; u16 added[2]; };
static const struct mig_field grown_fields[] = { MIG_U32(1, struct grown, old, 1), MIG_U16S(2, struct grown, added, 2) };
static const struct mig_field first_fields[] = { MIG_U32(1, struct grown, old, 1) };
static const struct mig_type grown_type = {
	.name = "grown", .version = 2, .min_version = 1, .n_fields = 2, .state_size = sizeof(struct grown), .fields = grown_fields,
};
static const struct mig_type first_type = {
	.name = "grown", .version = 1, .min_version = 1, .n_fields = 1, .state_size = sizeof(struct grown), .fields = first_fields,
};
static struct grown the_grown;
static const struct mig_type *the_type;
bool __real_vm_mig_instance(struct vm *vm, unsigned i, struct mig_instance *out);
bool __wrap_vm_mig_instance(struct vm *vm, unsigned i, struct mig_instance *out);
bool __wrap_vm_mig_instance(struct vm *vm, unsigned i, struct mig_instance *out)
{
	if (!the_type)
		return __real_vm_mig_instance(vm, i, out);
	*out = (struct mig_instance){ the_type, 0, &the_grown, vm };
	return i == 0;
}

static void test_versions(void **state)
{
	struct vm *vm = make("g");
	struct error e = { 0 };
	u8 v1[256], v2[256];
	size_t len1, len2;

	the_type = &first_type;
	the_grown = (struct grown){ 77, { 8, 9 } };
	len1 = save(vm, v1);
	the_type = &grown_type;
	len2 = save(vm, v2);
	the_grown = (struct grown){ 0, { 5, 6 } };
	assert_int_equal(state_load(vm, v1, len1, &e), 0);
	assert_int_equal(the_grown.old, 77);
	assert_int_equal(the_grown.added[0], 5);
	assert_int_equal(state_load(vm, v2, len2, &e), 0);
	assert_int_equal(the_grown.added[1], 9);
	/* Version 2's field in a section that says version 1. */
	v2[4 + 1 + 5 + 2] = 1;
	expect(vm, v2, len2, -E_PROTO, "unknown field tag 2");
	/* An older host gets it. */
	the_type = &first_type;
	v2[4 + 1 + 5 + 2] = 2;
	expect(vm, v2, len2, -E_UNSUPPORTED, "has version 2, this host knows up to 1");
	the_type = NULL;
	vm_destroy(vm);
}

/* A stream that an earlier Godwit wrote. To add one for a new version: MIG_WRITE_TESTDATA=1; never rewrite an old one. */
static void test_stored(void **state)
{
	struct vm *vm = (no_cards = true, make("g"));
	struct error e = { 0 };
	u8 *a = malloc(STREAM_MAX), *b = malloc(STREAM_MAX);
	size_t len;
	FILE *f;

	if (getenv("MIG_WRITE_TESTDATA")) {
		rng = 1;
		randomise(vm);
		len = save(vm, a);
		f = fopen(TESTDATA, "wb");
		assert_non_null(f);
		assert_int_equal(fwrite(a, 1, len, f), len);
		fclose(f);
	}
	f = fopen(TESTDATA, "rb");
	if (!f)
		fail_msg("%s is missing (the test runs in the project's root)", TESTDATA);
	len = fread(a, 1, STREAM_MAX, f);
	fclose(f);
	if (state_load(vm, a, len, &e))
		fail_msg("%s", e.text);
	/* What comes out (with what versions since then have added) goes in again. */
	len = save(vm, b);
	if (state_load(vm, b, len, &e))
		fail_msg("%s", e.text);
	assert_same(vm, b, len, a, save(vm, a));
	vm_destroy(vm);
	free(a);
	free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_type_is_there), cmocka_unit_test(test_locate), cmocka_unit_test(test_save_load_save), cmocka_unit_test(test_self),
		cmocka_unit_test(test_truncation), cmocka_unit_test(test_flips), cmocka_unit_test(test_rules),
		cmocka_unit_test(test_duplicate_and_absent_field), cmocka_unit_test(test_versions), cmocka_unit_test(test_stored),
	};

	fake_memory(256ul << 20);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
