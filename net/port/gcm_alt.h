/* SPDX-License-Identifier: MIT */
/* Context of AES-GCM (MBEDTLS_GCM_ALT); included by mbedtls/gcm.h. */
#pragma once
#include <mbedtls/cipher.h>
#include <stdbool.h>

#define MBEDTLS_GCM_HTABLE_SIZE 16

typedef struct mbedtls_gcm_context {
	/* For mbedTLS's gcm.c, by the names that it uses: key, powers of the hash key, bytes so far, E(first counter), last
	 * counter. */
	mbedtls_cipher_context_t cipher_ctx;
	uint64_t H[MBEDTLS_GCM_HTABLE_SIZE][2];
	uint64_t len, add_len;
	unsigned char base_ectr[16], y[16];
	/* Hash so far, for both. OpenSSL finds its powers of the hash key 32 bytes behind it (struct gcm128_context). */
	unsigned char buf[16];
	uint64_t openssl_h[2];
	uint64_t openssl_htable[16][2];
	struct {
		uint32_t round_keys[60];
		int rounds;
	} openssl_key; /* AES_KEY */
	unsigned char mode, acceleration; /* gcm.c's */
	bool fast;                        /* the CPU can run OpenSSL's code, and what it needs is set */
} mbedtls_gcm_context;
