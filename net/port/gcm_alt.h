/* SPDX-License-Identifier: MIT */
/* Context of our AES-GCM (MBEDTLS_GCM_ALT); included by mbedtls/gcm.h. */
#pragma once
#include <mbedtls/aes.h>

typedef struct mbedtls_gcm_context {
	mbedtls_aes_context aes;
	uint8_t h[8][16];      /* powers 1..8 of the hash key, in POLYVAL form (RFC 8452, Appendix A) */
	uint8_t counter[16];   /* last counter block used */
	uint8_t first[16];     /* encrypted first counter block, masks the tag */
	uint8_t hash[16];      /* GHASH so far, byte-reversed */
	uint8_t block[16];     /* input block being filled for the hash */
	uint8_t stream[16];    /* key stream of the block being worked on */
	uint64_t len, add_len; /* bytes */
	int decrypt, fast;
} mbedtls_gcm_context;
