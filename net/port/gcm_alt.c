/* SPDX-License-Identifier: MIT */
/* AES-GCM (NIST SP 800-38D) for mbedTLS, eight blocks at a time with AES-NI and PCLMULQDQ, because the bytes of
 * a moving guest all pass through here. GHASH is computed as POLYVAL of byte-reversed blocks (RFC 8452, Appendix A):
 * that saves the bit reflection. CPUs without those instructions take a slow portable path. */
#define MBEDTLS_ALLOW_PRIVATE_ACCESS
#include "mbedtls/gcm.h"
#include "aesni.h"
#include "hv/lib/types.h"
#include "mbedtls/constant_time.h"
#include "mbedtls/platform_util.h"
#include <immintrin.h>
#include <string.h>

#define FAST __attribute__((target("aes,pclmul,ssse3,sse4.1")))

/* --- GHASH, portable: 128-bit numbers as {low, high}, bit-serial and without branches on data --- */

static void mulx(u64 v[2])
{
	u64 carry = -(v[1] >> 63);

	v[1] = v[1] << 1 | v[0] >> 63;
	v[0] <<= 1;
	v[0] ^= carry & 1;
	v[1] ^= carry & 0xc200000000000000;
}

static void reverse(u8 out[16], const u8 in[16])
{
	for (int i = 0; i < 16; i++)
		out[i] = in[15 - i];
}

/* a = a * b * x^-128 mod x^128 + x^127 + x^126 + x^121 + 1 */
static void dot_slow(u8 a8[16], const u8 b8[16])
{
	u64 a[2], b[2], r[2] = { 0, 0 };

	memcpy(a, a8, 16);
	memcpy(b, b8, 16);
	for (int i = 0; i < 128; i++) {
		u64 take = -(a[i >> 6] >> (i & 63) & 1), low;

		r[0] ^= b[0] & take;
		r[1] ^= b[1] & take;
		/* r = r / x */
		low = -(r[0] & 1);
		r[0] ^= low & 1;
		r[1] ^= low & 0xc200000000000000;
		r[0] = r[0] >> 1 | r[1] << 63;
		r[1] = r[1] >> 1 | (low & BIT(63));
	}
	memcpy(a8, r, 16);
}

/* --- GHASH and counter mode with the CPU's instructions --- */

#define BSWAP _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define LOAD(p) _mm_loadu_si128((const __m128i *)(p))
#define STORE(p, v) _mm_storeu_si128((__m128i *)(p), v)

/* Two folds by x^64 take {lo, hi} * x^-128. */
FAST static inline __m128i reduce(__m128i lo, __m128i hi)
{
	const __m128i poly = _mm_set_epi64x(0, (long long)0xc200000000000000);

	lo = _mm_xor_si128(_mm_shuffle_epi32(lo, 0x4e), _mm_clmulepi64_si128(lo, poly, 0x00));
	lo = _mm_xor_si128(_mm_shuffle_epi32(lo, 0x4e), _mm_clmulepi64_si128(lo, poly, 0x00));
	return _mm_xor_si128(hi, lo);
}

struct product { __m128i lo, mid, hi; };

FAST static inline void mul_add(struct product *p, __m128i a, __m128i b)
{
	p->lo = _mm_xor_si128(p->lo, _mm_clmulepi64_si128(a, b, 0x00));
	p->hi = _mm_xor_si128(p->hi, _mm_clmulepi64_si128(a, b, 0x11));
	p->mid = _mm_xor_si128(p->mid, _mm_xor_si128(_mm_clmulepi64_si128(a, b, 0x01), _mm_clmulepi64_si128(a, b, 0x10)));
}

FAST static inline __m128i product_reduce(const struct product *p)
{
	return reduce(_mm_xor_si128(p->lo, _mm_slli_si128(p->mid, 8)), _mm_xor_si128(p->hi, _mm_srli_si128(p->mid, 8)));
}

FAST static void dot_fast(u8 a[16], const u8 b[16])
{
	struct product p = { _mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128() };

	mul_add(&p, LOAD(a), LOAD(b));
	STORE(a, product_reduce(&p));
}

FAST static inline __m128i hash8(const mbedtls_gcm_context *ctx, __m128i hash, const u8 *in)
{
	struct product p = { _mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128() };

	mul_add(&p, _mm_xor_si128(hash, _mm_shuffle_epi8(LOAD(in), BSWAP)), LOAD(ctx->h[7]));
	for (int i = 1; i < 8; i++)
		mul_add(&p, _mm_shuffle_epi8(LOAD(in + 16 * i), BSWAP), LOAD(ctx->h[7 - i]));
	return product_reduce(&p);
}

/* Whole groups of 128 bytes. in == out is fine. */
FAST static void bulk(mbedtls_gcm_context *ctx, const u8 *in, u8 *out, size_t groups)
{
	const u8 *keys = (const u8 *)(ctx->aes.buf + ctx->aes.rk_offset);
	int rounds = ctx->aes.nr;
	__m128i hash = LOAD(ctx->hash), base = LOAD(ctx->counter), b[8];
	u32 n = __builtin_bswap32((u32)_mm_extract_epi32(base, 3));

	for (; groups; groups--, in += 128, out += 128) {
		__m128i key = LOAD(keys);

#pragma GCC unroll 8
		for (int i = 0; i < 8; i++)
			b[i] = _mm_xor_si128(_mm_insert_epi32(base, (int)__builtin_bswap32(++n), 3), key);
		for (int r = 1; r < rounds; r++) {
			key = LOAD(keys + 16 * r);
#pragma GCC unroll 8
			for (int i = 0; i < 8; i++)
				b[i] = _mm_aesenc_si128(b[i], key);
		}
		key = LOAD(keys + 16 * rounds);
		if (ctx->decrypt)
			hash = hash8(ctx, hash, in);
#pragma GCC unroll 8
		for (int i = 0; i < 8; i++)
			STORE(out + 16 * i, _mm_xor_si128(_mm_aesenclast_si128(b[i], key), LOAD(in + 16 * i)));
		if (!ctx->decrypt)
			hash = hash8(ctx, hash, out);
	}
	STORE(ctx->hash, hash);
	STORE(ctx->counter, _mm_insert_epi32(base, (int)__builtin_bswap32(n), 3));
}

/* --- Blocks and bytes --- */

static void hash_block(mbedtls_gcm_context *ctx, const u8 block[16])
{
	u8 x[16];

	reverse(x, block);
	for (int i = 0; i < 16; i++)
		ctx->hash[i] ^= x[i];
	if (ctx->fast)
		dot_fast(ctx->hash, ctx->h[0]);
	else
		dot_slow(ctx->hash, ctx->h[0]);
}

/* Hashes what is in ctx->block, padded with zeros from byte `used` on. */
static void hash_rest(mbedtls_gcm_context *ctx, size_t used)
{
	if (!used)
		return;
	memset(ctx->block + used, 0, 16 - used);
	hash_block(ctx, ctx->block);
}

static int next_stream(mbedtls_gcm_context *ctx)
{
	u32 n;

	memcpy(&n, ctx->counter + 12, 4);
	n = __builtin_bswap32(__builtin_bswap32(n) + 1);
	memcpy(ctx->counter + 12, &n, 4);
	return mbedtls_aes_crypt_ecb(&ctx->aes, MBEDTLS_AES_ENCRYPT, ctx->counter, ctx->stream);
}

/* --- mbedTLS's interface --- */

void mbedtls_gcm_init(mbedtls_gcm_context *ctx)
{
	memset(ctx, 0, sizeof(*ctx));
	mbedtls_aes_init(&ctx->aes);
}

void mbedtls_gcm_free(mbedtls_gcm_context *ctx)
{
	if (!ctx)
		return;
	mbedtls_aes_free(&ctx->aes);
	mbedtls_platform_zeroize(ctx, sizeof(*ctx));
}

int mbedtls_gcm_setkey(mbedtls_gcm_context *ctx, mbedtls_cipher_id_t cipher, const unsigned char *key, unsigned int keybits)
{
	u8 zero[16] = { 0 };
	u64 h[2];
	int r;

	if (cipher != MBEDTLS_CIPHER_ID_AES)
		return MBEDTLS_ERR_GCM_BAD_INPUT;
	mbedtls_aes_free(&ctx->aes);
	mbedtls_aes_init(&ctx->aes);
	r = mbedtls_aes_setkey_enc(&ctx->aes, key, keybits);
	if (!r)
		r = mbedtls_aes_crypt_ecb(&ctx->aes, MBEDTLS_AES_ENCRYPT, zero, zero);
	if (r)
		return r;
	/* The round keys are in the CPU's order only if mbedTLS took AES-NI too. */
	ctx->fast = mbedtls_aesni_has_support(MBEDTLS_AESNI_AES) && mbedtls_aesni_has_support(MBEDTLS_AESNI_CLMUL);
	reverse(ctx->h[0], zero);
	memcpy(h, ctx->h[0], 16);
	mulx(h);
	memcpy(ctx->h[0], h, 16);
	for (int i = 1; ctx->fast && i < 8; i++) {
		memcpy(ctx->h[i], ctx->h[i - 1], 16);
		dot_fast(ctx->h[i], ctx->h[0]);
	}
	mbedtls_platform_zeroize(zero, sizeof(zero));
	mbedtls_platform_zeroize(h, sizeof(h));
	return 0;
}

int mbedtls_gcm_starts(mbedtls_gcm_context *ctx, int mode, const unsigned char *iv, size_t iv_len)
{
	if (iv_len == 0 || (u64)iv_len >> 61)
		return MBEDTLS_ERR_GCM_BAD_INPUT;
	ctx->decrypt = mode == MBEDTLS_GCM_DECRYPT;
	ctx->len = ctx->add_len = 0;
	memset(ctx->hash, 0, 16);
	if (iv_len == 12) {
		memcpy(ctx->counter, iv, 12);
		memcpy(ctx->counter + 12, "\0\0\0\1", 4);
	} else {
		u64 bits = __builtin_bswap64((u64)iv_len * 8);
		u8 last[16] = { 0 };

		for (; iv_len >= 16; iv_len -= 16, iv += 16)
			hash_block(ctx, iv);
		memcpy(ctx->block, iv, iv_len);
		hash_rest(ctx, iv_len);
		memcpy(last + 8, &bits, 8);
		hash_block(ctx, last);
		reverse(ctx->counter, ctx->hash);
		memset(ctx->hash, 0, 16);
	}
	return mbedtls_aes_crypt_ecb(&ctx->aes, MBEDTLS_AES_ENCRYPT, ctx->counter, ctx->first);
}

int mbedtls_gcm_update_ad(mbedtls_gcm_context *ctx, const unsigned char *add, size_t add_len)
{
	if (ctx->len || ((ctx->add_len + add_len) >> 61) || ctx->add_len + add_len < add_len)
		return MBEDTLS_ERR_GCM_BAD_INPUT;
	for (; add_len; add_len--) {
		ctx->block[ctx->add_len++ % 16] = *add++;
		if (ctx->add_len % 16 == 0)
			hash_block(ctx, ctx->block);
	}
	return 0;
}

int mbedtls_gcm_update(mbedtls_gcm_context *ctx, const unsigned char *in, size_t len, unsigned char *out, size_t out_size,
                       size_t *out_len)
{
	if (out_size < len)
		return MBEDTLS_ERR_GCM_BUFFER_TOO_SMALL;
	if (ctx->len + len < ctx->len || ctx->len + len > 0xfffffffe0ull)
		return MBEDTLS_ERR_GCM_BAD_INPUT;
	*out_len = len;
	if (!len)
		return 0;
	if (!ctx->len)
		hash_rest(ctx, ctx->add_len % 16);
	while (len) {
		size_t at = ctx->len % 16;

		if (!at && ctx->fast && len >= 128) {
			size_t groups = len / 128;

			bulk(ctx, in, out, groups);
			in += groups * 128;
			out += groups * 128;
			len -= groups * 128;
			ctx->len += groups * 128;
			continue;
		}
		if (!at) {
			int r = next_stream(ctx);

			if (r)
				return r;
		}
		for (; at < 16 && len; at++, len--, in++, out++, ctx->len++) {
			u8 c = *in;

			*out = c ^ ctx->stream[at];
			ctx->block[at] = ctx->decrypt ? c : *out;
		}
		if (at == 16)
			hash_block(ctx, ctx->block);
	}
	return 0;
}

int mbedtls_gcm_finish(mbedtls_gcm_context *ctx, unsigned char *out, size_t out_size, size_t *out_len, unsigned char *tag,
                       size_t tag_len)
{
	u64 bits[2] = { __builtin_bswap64(ctx->add_len * 8), __builtin_bswap64(ctx->len * 8) };
	u8 full[16];

	(void)out;
	(void)out_size;
	*out_len = 0;
	if (tag_len > 16 || tag_len < 4)
		return MBEDTLS_ERR_GCM_BAD_INPUT;
	hash_rest(ctx, ctx->len ? ctx->len % 16 : ctx->add_len % 16);
	memcpy(full, bits, 16);
	hash_block(ctx, full);
	reverse(full, ctx->hash);
	for (size_t i = 0; i < tag_len; i++)
		tag[i] = full[i] ^ ctx->first[i];
	return 0;
}

int mbedtls_gcm_crypt_and_tag(mbedtls_gcm_context *ctx, int mode, size_t length, const unsigned char *iv, size_t iv_len,
                              const unsigned char *add, size_t add_len, const unsigned char *input, unsigned char *output,
                              size_t tag_len, unsigned char *tag)
{
	size_t n;
	int r = mbedtls_gcm_starts(ctx, mode, iv, iv_len);

	if (!r)
		r = mbedtls_gcm_update_ad(ctx, add, add_len);
	if (!r)
		r = mbedtls_gcm_update(ctx, input, length, output, length, &n);
	if (!r)
		r = mbedtls_gcm_finish(ctx, NULL, 0, &n, tag, tag_len);
	return r;
}

int mbedtls_gcm_auth_decrypt(mbedtls_gcm_context *ctx, size_t length, const unsigned char *iv, size_t iv_len,
                             const unsigned char *add, size_t add_len, const unsigned char *tag, size_t tag_len,
                             const unsigned char *input, unsigned char *output)
{
	u8 mine[16];
	int r = mbedtls_gcm_crypt_and_tag(ctx, MBEDTLS_GCM_DECRYPT, length, iv, iv_len, add, add_len, input, output, tag_len,
	                                  mine);

	if (r)
		return r;
	if (mbedtls_ct_memcmp(tag, mine, tag_len)) {
		mbedtls_platform_zeroize(output, length);
		return MBEDTLS_ERR_GCM_AUTH_FAILED;
	}
	return 0;
}
