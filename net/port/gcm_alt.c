/* SPDX-License-Identifier: MIT */
/* AES-GCM for mbedTLS (MBEDTLS_GCM_ALT): its own gcm.c, except that OpenSSL's assembly takes the long runs, because the
 * bytes of a moving guest all pass through here. No mathematics is ours. On CPUs that lack the instructions gcm.c does
 * everything. */
#include "common.h"
#include "mbedtls/gcm.h"
#include "hv/lib/types.h"
#include <cpuid.h>

/* gcm.c with four of its functions put aside by name; the rest of it serves as it is. */
#undef MBEDTLS_GCM_ALT
#undef MBEDTLS_SELF_TEST
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#define mbedtls_gcm_setkey stock_gcm_setkey
#define mbedtls_gcm_update stock_gcm_update
#define mbedtls_gcm_crypt_and_tag stock_gcm_crypt_and_tag
#define mbedtls_gcm_auth_decrypt stock_gcm_auth_decrypt
#include "gcm.c"
#pragma GCC diagnostic pop
#undef mbedtls_gcm_setkey
#undef mbedtls_gcm_update
#undef mbedtls_gcm_crypt_and_tag
#undef mbedtls_gcm_auth_decrypt

/* OpenSSL's crypto/aes/asm/aesni-x86_64.pl, crypto/modes/asm/ghash-x86_64.pl and aesni-gcm-x86_64.pl, and the CPU's
 * features as its crypto/x86_64cpuid.pl would tell them. */
int aesni_set_encrypt_key(const unsigned char *key, int bits, void *aes_key);
void aesni_encrypt(const void *in, void *out, const void *aes_key);
void gcm_init_avx(void *htable, const u64 h[2]);
size_t aesni_gcm_encrypt(const void *in, void *out, size_t len, const void *aes_key, unsigned char counter[16], void *hash);
size_t aesni_gcm_decrypt(const void *in, void *out, size_t len, const void *aes_key, unsigned char counter[16], void *hash);
u32 OPENSSL_ia32cap_P[4];

_Static_assert(offsetof(mbedtls_gcm_context, openssl_htable) == offsetof(mbedtls_gcm_context, buf) + 32, "gcm128_context");
_Static_assert(offsetof(mbedtls_gcm_context, openssl_key.rounds) - offsetof(mbedtls_gcm_context, openssl_key) == 240, "AES_KEY");

#define LONG_RUN (16 + 3 * 96)  /* a block for gcm.c, and the least that aesni_gcm_encrypt() takes */
#define TEXT_MAX 0xfffffffe0ull /* NIST SP 800-38D, 5.2.1.1 */
#define XCR0_SSE_AVX 6u

static bool cpu_is_fast(void)
{
	const u32 need = bit_AES | bit_PCLMUL | bit_SSSE3 | bit_MOVBE | bit_AVX | bit_OSXSAVE;
	u32 eax, ebx, ecx, edx;

	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & need) != need)
		return false;
	OPENSSL_ia32cap_P[0] = edx;
	OPENSSL_ia32cap_P[1] = ecx & ~(u32)BIT(11); /* AMD's XOP there, which we do not look for */
	__asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
	return (eax & XCR0_SSE_AVX) == XCR0_SSE_AVX;
}

int mbedtls_gcm_setkey(mbedtls_gcm_context *ctx, mbedtls_cipher_id_t cipher, const unsigned char *key, unsigned int keybits)
{
	int r = stock_gcm_setkey(ctx, cipher, key, keybits);

	ctx->fast = !r && cipher == MBEDTLS_CIPHER_ID_AES && cpu_is_fast() &&
		!aesni_set_encrypt_key(key, (int)keybits, &ctx->openssl_key);
	if (ctx->fast) {
		u64 h[2] = { 0, 0 };

		aesni_encrypt(h, h, &ctx->openssl_key);
		ctx->openssl_h[0] = __builtin_bswap64(h[0]);
		ctx->openssl_h[1] = __builtin_bswap64(h[1]);
		gcm_init_avx(ctx->openssl_htable, ctx->openssl_h);
		mbedtls_platform_zeroize(h, sizeof(h));
	}
	return r;
}

int mbedtls_gcm_update(mbedtls_gcm_context *ctx, const unsigned char *in, size_t len, unsigned char *out, size_t out_size,
                       size_t *out_len)
{
	bool overlap = in != out && in < out + len && out < in + len;
	size_t at, n;
	int r;

	/* What is to be refused is left to gcm.c too. */
	if (!ctx->fast || len < LONG_RUN || out_size < len || overlap || len > TEXT_MAX - ctx->len)
		return stock_gcm_update(ctx, in, len, out, out_size, out_len);
	/* gcm.c begins: that ends the additional data, or the block that was begun. */
	r = stock_gcm_update(ctx, in, 16 - ctx->len % 16, out, out_size, &at);
	if (r)
		return r;
	gcm_incr(ctx->y); /* gcm.c keeps the last counter, OpenSSL the next */
	n = (ctx->mode == MBEDTLS_GCM_ENCRYPT ? aesni_gcm_encrypt : aesni_gcm_decrypt)(in + at, out + at, len - at,
		&ctx->openssl_key, ctx->y, ctx->buf);
	MBEDTLS_PUT_UINT32_BE(MBEDTLS_GET_UINT32_BE(ctx->y, 12) - 1, ctx->y, 12);
	ctx->len += n;
	at += n;
	*out_len = len;
	return stock_gcm_update(ctx, in + at, len - at, out + at, len - at, &n);
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

	if (!r && mbedtls_ct_memcmp(tag, mine, tag_len)) {
		mbedtls_platform_zeroize(output, length);
		r = MBEDTLS_ERR_GCM_AUTH_FAILED;
	}
	return r;
}
