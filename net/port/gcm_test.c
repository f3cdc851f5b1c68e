/* SPDX-License-Identifier: MIT */
/* AES-GCM with OpenSSL's assembly against mbedTLS's gcm.c (`fast` off) and against answers from elsewhere. */
#define MBEDTLS_ALLOW_PRIVATE_ACCESS
#include "mbedtls/gcm.h"
#include "hv/lib/types.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
/* */
#include <cmocka.h>

#define LEN_MAX 70000u
#define ROOM (18 * PAGE_SIZE) /* holds LEN_MAX */
_Static_assert(ROOM > LEN_MAX + 64, "ROOM");

size_t aesni_gcm_encrypt(const void *in, void *out, size_t len, const void *aes_key, unsigned char counter[16], void *hash);

/* Pages that end (or begin) where touching is fatal: AddressSanitizer does not see what assembly touches. */
static u8 *fenced[4];

static u64 random_u64(void)
{
	static u64 x = 0x9e3779b97f4a7c15;

	x ^= x << 13;
	x ^= x >> 7;
	return x ^= x << 17;
}

static void random_fill(u8 *p, size_t len)
{
	while (len--)
		*p++ = (u8)(random_u64() >> 24);
}

static int setup(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(fenced); i++) {
		u8 *p = mmap(NULL, ROOM + 2 * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED || mprotect(p + PAGE_SIZE, ROOM, PROT_READ | PROT_WRITE))
			return -1;
		fenced[i] = p + PAGE_SIZE;
	}
	return 0;
}

static bool cpu_has_all(void)
{
	return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("avx2");
}

static void key_set(mbedtls_gcm_context *ctx, const u8 *key, unsigned bits, bool fast)
{
	mbedtls_gcm_init(ctx);
	assert_int_equal(mbedtls_gcm_setkey(ctx, MBEDTLS_CIPHER_ID_AES, key, bits), 0);
	if (cpu_has_all())
		assert_true(ctx->fast);
	if (!fast)
		ctx->fast = false;
}

/* An old assembler makes the library's script print a function that does nothing, and everything would still work. */
static void test_assembly_is_there(void **state)
{
	mbedtls_gcm_context ctx;
	u8 key[16] = { 0 };

	(void)state;
	if (!cpu_has_all())
		skip();
	key_set(&ctx, key, 128, true);
	assert_int_equal(aesni_gcm_encrypt(fenced[0], fenced[1], 288, &ctx.openssl_key, ctx.y, ctx.buf), 288);
	mbedtls_gcm_free(&ctx);
}

/* NIST's vectors, by mbedTLS (all of them short), and a TLS record of full length, by Python's cryptography:
 * AESGCM(bytes(range(n))).encrypt(bytes(range(12)), bytes(i * 7 + (i >> 8) & 255 for i in range(16385)), b'\x17\3\3\x40\x11') */
static void test_known_answers(void **state)
{
	static const struct { u8 head[8], tag[16]; } want[3] = {
		{ { 0x93, 0x6b, 0xa9, 0xdb, 0x7a, 0x38, 0xdd, 0x65 },
		  { 0xb0, 0xe6, 0xef, 0x69, 0xc2, 0xa2, 0x26, 0xce, 0xed, 0x24, 0xe2, 0xcf, 0x6b, 0x1b, 0x5c, 0x12 } },
		{ { 0xe6, 0xfe, 0x2c, 0x8e, 0x85, 0x9a, 0xe3, 0x3f },
		  { 0x7b, 0xbc, 0x90, 0x21, 0x37, 0xf6, 0x23, 0x06, 0xc0, 0xcd, 0x91, 0x9a, 0x8f, 0x08, 0xe0, 0xaa } },
		{ { 0x47, 0x05, 0xd8, 0x0e, 0xd9, 0xc6, 0xe8, 0x2a },
		  { 0xa2, 0x6b, 0x5e, 0xcb, 0xf0, 0x36, 0x26, 0x52, 0x84, 0xa6, 0xfb, 0xdb, 0x8d, 0x75, 0x20, 0x59 } },
	};
	mbedtls_gcm_context ctx;
	u8 count[32], tag[16], *in = fenced[0], *out = fenced[1];

	(void)state;
	assert_int_equal(mbedtls_gcm_self_test(0), 0);
	for (unsigned i = 0; i < sizeof(count); i++)
		count[i] = (u8)i;
	for (unsigned i = 0; i < 16385; i++)
		in[i] = (u8)(i * 7 + (i >> 8));
	for (unsigned k = 0; k < 6; k++) {
		key_set(&ctx, count, 128 + 64 * (k % 3), k < 3);
		assert_int_equal(mbedtls_gcm_crypt_and_tag(&ctx, MBEDTLS_GCM_ENCRYPT, 16385, count, 12, (u8 *)"\x17\3\3\x40\x11",
			5, in, out, 16, tag), 0);
		assert_memory_equal(out, want[k % 3].head, 8);
		assert_memory_equal(tag, want[k % 3].tag, 16);
		mbedtls_gcm_free(&ctx);
	}
}

/* One message of `len` bytes through both, with everything else at random. */
static void compare(size_t len)
{
	mbedtls_gcm_context fast, stock;
	u64 r = random_u64();
	unsigned bits = 128 + 64 * (r % 3);
	bool split = r >> 8 & 1, in_place = r >> 9 & 1, at_end = r >> 10 & 1, wrap = r >> 11 & 1;
	size_t ad_len = (r >> 16) % 70, ad_cut = ad_len ? (r >> 24) % ad_len : 0, iv_len = r >> 12 & 3 ? 12 : 1 + (r >> 32) % 40;
	size_t off = (r >> 40) % 32, off2 = (r >> 48) % 32, n, part;
	u8 key[32], iv[40], ad[70], tag[16], tag2[16], *in, *out, *text = fenced[2], *by_stock = fenced[3];

	in = at_end ? fenced[0] + ROOM - len : fenced[0] + off;
	out = in_place ? in : at_end ? fenced[1] + ROOM - len : fenced[1] + off2;
	random_fill(key, sizeof(key));
	random_fill(iv, sizeof(iv));
	random_fill(ad, sizeof(ad));
	random_fill(text, len);
	key_set(&fast, key, bits, true);
	key_set(&stock, key, bits, false);
	for (int mode = MBEDTLS_GCM_ENCRYPT;; mode = MBEDTLS_GCM_DECRYPT) {
		assert_int_equal(mbedtls_gcm_starts(&fast, mode, iv, iv_len), 0);
		assert_int_equal(mbedtls_gcm_starts(&stock, mode, iv, iv_len), 0);
		if (wrap) { /* the 32-bit counter goes over within the message, as only some lengths of IV would make it */
			memset(fast.y + 12, 0xff, 3);
			memset(stock.y + 12, 0xff, 3);
		}
		assert_int_equal(mbedtls_gcm_update_ad(&fast, ad, ad_cut), 0);
		assert_int_equal(mbedtls_gcm_update_ad(&fast, ad + ad_cut, ad_len - ad_cut), 0);
		assert_int_equal(mbedtls_gcm_update_ad(&stock, ad, ad_len), 0);
		memcpy(in, mode == MBEDTLS_GCM_ENCRYPT ? text : by_stock, len);
		for (size_t done = 0; done < len; done += n) {
			part = split ? MIN(1 + random_u64() % 2000, len - done) : len;
			assert_int_equal(mbedtls_gcm_update(&fast, in + done, part, out + done, part, &n), 0);
			assert_int_equal(n, part);
		}
		assert_int_equal(mbedtls_gcm_update(&stock, mode == MBEDTLS_GCM_ENCRYPT ? text : by_stock, len, by_stock, len, &n), 0);
		assert_int_equal(mbedtls_gcm_finish(&fast, NULL, 0, &n, tag, 16), 0);
		assert_int_equal(mbedtls_gcm_finish(&stock, NULL, 0, &n, tag2, 16), 0);
		assert_memory_equal(out, by_stock, len);
		assert_memory_equal(tag, tag2, 16);
		if (mode == MBEDTLS_GCM_DECRYPT)
			break;
	}
	assert_memory_equal(out, text, len);
	mbedtls_gcm_free(&fast);
	mbedtls_gcm_free(&stock);
}

static void test_against_stock(void **state)
{
	(void)state;
	for (size_t len = 0; len <= 1200; len++)
		for (unsigned i = 0; i < 4; i++)
			compare(len);
	for (unsigned i = 0; i < 150; i++)
		compare(random_u64() % (LEN_MAX + 1));
	compare(LEN_MAX);
	for (size_t len = 16384 - 40; len < 16384 + 40; len++)
		compare(len);
}

/* A tag, text, IV or additional data that is not what was sealed is refused, and no text comes out. */
static void test_refuses(void **state)
{
	static const size_t lens[] = { 1, 16, 303, 304, 305, 1000, 16385 };
	mbedtls_gcm_context ctx;
	u8 key[16], iv[12], ad[5], tag[16], *sealed = fenced[0], *out = fenced[1];

	(void)state;
	random_fill(key, 16);
	random_fill(iv, 12);
	random_fill(ad, 5);
	key_set(&ctx, key, 128, true);
	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
		size_t len = lens[i];

		random_fill(out, len);
		assert_int_equal(mbedtls_gcm_crypt_and_tag(&ctx, MBEDTLS_GCM_ENCRYPT, len, iv, 12, ad, 5, out, sealed, 16, tag), 0);
		for (unsigned what = 0; what < 5; what++) {
			u8 *hurt[] = { tag + random_u64() % 16, sealed + random_u64() % len, iv + random_u64() % 12,
				ad + random_u64() % 5, NULL };
			u8 bit = (u8)(1u << random_u64() % 8);
			int r;

			if (hurt[what])
				*hurt[what] ^= bit;
			memset(out, 0xaa, len);
			r = mbedtls_gcm_auth_decrypt(&ctx, len, iv, 12, ad, 5, tag, 16, sealed, out);
			assert_int_equal(r, hurt[what] ? MBEDTLS_ERR_GCM_AUTH_FAILED : 0);
			for (size_t b = 0; hurt[what] && b < len; b++)
				assert_int_equal(out[b], 0);
			if (hurt[what])
				*hurt[what] ^= bit;
		}
	}
	mbedtls_gcm_free(&ctx);
}

/* Calls that gcm.c refuses are refused with the assembly too; buffers that overlap in the way that it allows work. */
static void test_arguments(void **state)
{
	mbedtls_gcm_context ctx;
	u8 key[16] = { 1 }, iv[12] = { 2 }, tag[16], tag2[16], *p = fenced[0], *want = fenced[1];
	size_t n;

	(void)state;
	key_set(&ctx, key, 128, true);
	assert_int_equal(mbedtls_gcm_setkey(&ctx, MBEDTLS_CIPHER_ID_AES, key, 100), MBEDTLS_ERR_GCM_BAD_INPUT);
	assert_false(ctx.fast);
	mbedtls_gcm_free(&ctx);
	key_set(&ctx, key, 128, true);
	assert_int_equal(mbedtls_gcm_starts(&ctx, MBEDTLS_GCM_ENCRYPT, iv, 12), 0);
	assert_int_equal(mbedtls_gcm_update(&ctx, p, 1000, want, 999, &n), MBEDTLS_ERR_GCM_BUFFER_TOO_SMALL);
	assert_int_equal(mbedtls_gcm_update(&ctx, p, 1000, p + 100, 1000, &n), MBEDTLS_ERR_GCM_BAD_INPUT);
	ctx.len = 0xfffffffe0ull - 992;
	assert_int_equal(mbedtls_gcm_update(&ctx, p, 1000, want, 1000, &n), MBEDTLS_ERR_GCM_BAD_INPUT);
	assert_int_equal(mbedtls_gcm_update(&ctx, p, 992, want, 992, &n), 0);
	assert_int_equal(mbedtls_gcm_update(&ctx, p, 1, want, 1, &n), MBEDTLS_ERR_GCM_BAD_INPUT);
	random_fill(p + 24, 5000);
	assert_int_equal(mbedtls_gcm_crypt_and_tag(&ctx, MBEDTLS_GCM_ENCRYPT, 5000, iv, 12, NULL, 0, p + 24, want, 16, tag), 0);
	assert_int_equal(mbedtls_gcm_crypt_and_tag(&ctx, MBEDTLS_GCM_ENCRYPT, 5000, iv, 12, NULL, 0, p + 24, p, 16, tag2), 0);
	assert_memory_equal(p, want, 5000);
	assert_memory_equal(tag, tag2, 16);
	mbedtls_gcm_free(&ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_assembly_is_there), cmocka_unit_test(test_known_answers), cmocka_unit_test(test_against_stock),
		cmocka_unit_test(test_refuses), cmocka_unit_test(test_arguments),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
