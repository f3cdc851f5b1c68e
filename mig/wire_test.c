/* SPDX-License-Identifier: MIT */
#include "mig/mig_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void test_values(void **state)
{
	u8 buf[64];
	struct wire_writer w = wire_writer(buf, sizeof(buf));
	struct wire_reader r;
	char text[8];

	(void)state;
	wire_put_u8(&w, 0x11);
	wire_put_u16(&w, 0x2233);
	wire_put_u32(&w, 0x44556677);
	wire_put_u64(&w, 0x8899aabbccddeeffull);
	wire_put_str(&w, "abc");
	assert_false(w.bad);
	assert_int_equal(w.len, 1 + 2 + 4 + 8 + 5);
	/* Little-endian on the wire, whatever the host is. */
	assert_memory_equal(buf, "\x11\x33\x22\x77\x66\x55\x44\xff\xee\xdd\xcc\xbb\xaa\x99\x88\x03\x00" "abc", w.len);
	r = wire_reader(buf, w.len);
	assert_int_equal(wire_u8(&r), 0x11);
	assert_int_equal(wire_u16(&r), 0x2233);
	assert_int_equal(wire_u32(&r), 0x44556677);
	assert_true(wire_u64(&r) == 0x8899aabbccddeeffull);
	wire_str(&r, text, sizeof(text));
	assert_string_equal(text, "abc");
	assert_true(wire_done(&r));
	/* One past the end, and it stays bad. */
	assert_int_equal(wire_u8(&r), 0);
	assert_true(r.bad);
	assert_false(wire_done(&r));
}

static void test_sticky(void **state)
{
	u8 buf[6] = { 1, 2, 3, 4, 5, 6 };
	struct wire_reader r = wire_reader(buf, sizeof(buf));
	struct wire_writer w = wire_writer(buf, sizeof(buf));

	(void)state;
	assert_int_equal(wire_u32(&r), 0x04030201);
	assert_int_equal(wire_u32(&r), 0);
	assert_true(r.bad);
	/* Two bytes are left, but nothing is believed after an error. */
	assert_int_equal(wire_u16(&r), 0);
	assert_null(wire_bytes(&r, 0));
	wire_put_u32(&w, 0);
	wire_put_u32(&w, 0);
	assert_true(w.bad);
	wire_put_u8(&w, 0);
	assert_int_equal(w.len, 4);
}

static void test_strings(void **state)
{
	static const u8 too_long[] = "\x04\x00" "abcd", control[] = "\x02\x00" "a\n", cut[] = "\x05\x00" "ab";
	struct wire_reader r = wire_reader(too_long, 6);
	char out[4];

	(void)state;
	wire_str(&r, out, sizeof(out));
	assert_true(r.bad);
	assert_string_equal(out, "");
	r = wire_reader(too_long, 6);
	wire_text(&r, out, sizeof(out));
	assert_true(wire_done(&r));
	assert_string_equal(out, "abc");
	r = wire_reader(control, 4);
	wire_str(&r, out, sizeof(out));
	assert_true(r.bad);
	r = wire_reader(control, 4);
	wire_text(&r, out, sizeof(out));
	assert_string_equal(out, "a?");
	r = wire_reader(cut, 4);
	wire_text(&r, out, sizeof(out));
	assert_true(r.bad);
	assert_string_equal(out, "");
}

static void test_frames(void **state)
{
	struct stream *far, *near = fake_pipe("b", "a", &far);
	struct wire_out o;
	struct wire_in in;
	struct wire_reader r;
	struct error e = { 0 };
	size_t read = 0, sizes[] = { 0, 1, 7, 4096, WIRE_MAX_PAYLOAD };
	u8 *big = calloc(1, WIRE_MAX_PAYLOAD + WIRE_OUT_RESERVE);

	(void)state;
	assert_non_null(big);
	assert_int_equal(wire_out_init(&o), 0);
	assert_int_equal(wire_in_init(&in), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		memset(big, (int)i + 1, sizes[i]);
		wire_put_bytes(wire_begin(&o, WIRE_STATE), big, sizes[i]);
		assert_int_equal(wire_end(&o), 0);
		assert_int_equal(wire_flush(&o, near), sizes[i] + WIRE_HEADER);
		assert_true(wire_out_empty(&o));
		assert_int_equal(wire_recv(&in, far, &r, &read, &e), 1);
		assert_int_equal(in.type, WIRE_STATE);
		assert_int_equal(r.end - r.p, sizes[i]);
		assert_memory_equal(r.p, big, sizes[i]);
		assert_int_equal(wire_recv(&in, far, &r, &read, &e), 0);
	}
	/* A small frame fits behind the biggest one that waits; a bigger one is dropped and leaves the rest alone. */
	wire_put_bytes(wire_begin(&o, WIRE_PAGES), big, WIRE_MAX_PAYLOAD);
	assert_int_equal(wire_end(&o), 0);
	wire_put_bytes(wire_begin(&o, WIRE_STATE), big, o.cap - o.len - WIRE_HEADER + 1);
	assert_true(o.cap - o.len >= WIRE_OUT_RESERVE);
	assert_int_equal(wire_end(&o), -E_RANGE);
	wire_put_str(wire_begin(&o, WIRE_ABORT), "no more");
	assert_int_equal(wire_end(&o), 0);
	assert_true(wire_flush(&o, near) > 0);
	assert_int_equal(wire_recv(&in, far, &r, &read, &e), 1);
	assert_int_equal(in.type, WIRE_PAGES);
	assert_int_equal(wire_recv(&in, far, &r, &read, &e), 1);
	assert_int_equal(in.type, WIRE_ABORT);
	/* Larger than any frame may be. */
	wire_put_bytes(wire_begin(&o, WIRE_STATE), big, WIRE_MAX_PAYLOAD + 1);
	assert_int_equal(wire_end(&o), -E_RANGE);
	wire_out_free(&o);
	wire_in_free(&in);
	stream_close(near);
	stream_close(far);
	free(big);
}

static void test_bad_headers(void **state)
{
	static const u32 headers[][2] = { { 0, 0 }, { WIRE_TYPE_END, 0 }, { ~0u, 4 }, { WIRE_PAGES, WIRE_MAX_PAYLOAD + 1 },
					  { WIRE_HELLO, ~0u } };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(headers); i++) {
		struct stream *far, *near = fake_pipe("b", "a", &far);
		struct wire_in in;
		struct wire_reader r;
		struct error e = { 0 };
		size_t read = 0;

		assert_int_equal(wire_in_init(&in), 0);
		assert_int_equal(stream_write(near, headers[i], 8), 8);
		assert_int_equal(wire_recv(&in, far, &r, &read, &e), -E_PROTO);
		assert_true(e.text[0]);
		wire_in_free(&in);
		stream_close(near);
		stream_close(far);
	}
}

static void test_byte_by_byte(void **state)
{
	struct stream *far, *near = fake_pipe("b", "a", &far);
	static const u8 bytes[] = { WIRE_ABORT, 0, 0, 0, 4, 0, 0, 0, 2, 0, 'h', 'i' };
	struct wire_in in;
	struct wire_reader r;
	struct error e = { 0 };
	size_t read = 0;
	char text[8];

	(void)state;
	assert_int_equal(wire_in_init(&in), 0);
	for (unsigned i = 0; i < sizeof(bytes); i++) {
		assert_int_equal(wire_recv(&in, far, &r, &read, &e), 0);
		assert_int_equal(stream_write(near, &bytes[i], 1), 1);
	}
	assert_int_equal(wire_recv(&in, far, &r, &read, &e), 1);
	wire_text(&r, text, sizeof(text));
	assert_string_equal(text, "hi");
	assert_int_equal(read, sizeof(bytes));
	/* The end of the link comes after what it carried. */
	stream_close(near);
	assert_int_equal(wire_recv(&in, far, &r, &read, &e), -E_IO);
	wire_in_free(&in);
	stream_close(far);
}

static void test_hashes(void **state)
{
	static u8 page[PAGE_SIZE] __attribute__((aligned(64)));

	(void)state;
	assert_true(ram_is_zero(page));
	assert_true(ram_hash(page) == ram_hash_of_zero());
	for (unsigned i = 0; i < PAGE_SIZE; i++) {
		page[i] = 1;
		assert_false(ram_is_zero(page));
		assert_true(ram_hash(page) != ram_hash_of_zero());
		page[i] = 0;
	}
	/* What docs/PROTOCOL.md gives for other implementations to check against. */
	assert_true(ram_hash_of_zero() == 0x93d76fe148c689baull);
	assert_true(ram_mix(ram_hash_of_zero(), 0) == 0xede3296cc293207dull);
	assert_true(ram_mix(ram_hash_of_zero(), 1) == 0x8c38972b2f44f57aull);
	for (unsigned i = 0; i < PAGE_SIZE; i++)
		page[i] = (u8)i;
	assert_true(ram_hash(page) == 0xeb4b7c3707879151ull);
	assert_true(ram_mix(ram_hash(page), 0x100) == 0xccabe847bfa78aeaull);
	/* ram_hash() takes the one that this CPU has; ram_hash_bytes() never takes AVX2. */
	for (unsigned i = 0; i < 200; i++) {
		page[(i * 2654435761u) % PAGE_SIZE] ^= (u8)(i + 1);
		assert_true(ram_hash(page) == ram_hash_bytes(page, PAGE_SIZE));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values), cmocka_unit_test(test_sticky), cmocka_unit_test(test_strings),
		cmocka_unit_test(test_frames), cmocka_unit_test(test_bad_headers), cmocka_unit_test(test_byte_by_byte),
		cmocka_unit_test(test_hashes),
	};

	world->allocs_left = -1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
