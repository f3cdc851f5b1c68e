/* SPDX-License-Identifier: MIT */
/* Randomness: raw words of the hardware generator, watched for repeating itself (NIST SP 800-90B, "Repetition Count
 * Test"), conditioned by mbedTLS. Without a sound source there are no keys, so TLS stays off. */
#include "net/port/port.h"
#include "hv/lib/err.h"
#include "hv/lib/log.h"
#include "mbedtls/entropy.h"
#include "entropy_poll.h"
#include "mbedtls/platform_util.h"
#include "psa/crypto.h"
#include <string.h>

#define TRIES 64    /* RDSEED may run dry for a while */
#define HISTORY 4   /* words compared with each new one; by chance two in 2^62 are equal */

static u64 history[HISTORY];
static unsigned history_at, repeats;
static bool broken;

static bool word_get(u64 *out)
{
	for (unsigned i = 0; i < TRIES && !broken; i++) {
		bool same = false;

		if (!entropy_raw(out))
			continue;
		for (unsigned k = 0; k < HISTORY; k++)
			same |= *out == history[k];
		/* A word of all zeros or ones is what a generator that failed gives for ever. */
		same |= *out == 0 || *out == ~0ull;
		history[history_at++ % HISTORY] = *out;
		if (!same) {
			repeats = 0;
			return true;
		}
		if (++repeats >= 3) {
			broken = true;
			log_err("net", "the CPU's random number generator (%s) repeats itself; no new TLS keys are made. "
				"Update the CPU's microcode (firmware update) and restart this host", entropy_source());
		}
	}
	return false;
}

int entropy_check(void)
{
	u64 w;

	if (!entropy_source())
		return -E_UNSUPPORTED;
	for (unsigned i = 0; i < 16; i++)
		if (!word_get(&w))
			return -E_IO;
	return 0;
}

int mbedtls_hardware_poll(void *data, unsigned char *output, size_t len, size_t *olen)
{
	*olen = 0;
	while (*olen < len) {
		size_t n = MIN(len - *olen, (size_t)8);
		u64 w;

		if (!word_get(&w))
			return MBEDTLS_ERR_ENTROPY_SOURCE_FAILED;
		memcpy(output + *olen, &w, n);
		*olen += n;
		mbedtls_platform_zeroize(&w, sizeof(w));
	}
	return 0;
}

u32 net_rand32(void)
{
	static u64 fallback = 0x9e3779b97f4a7c15;
	u32 r;

	if (psa_generate_random((u8 *)&r, sizeof(r)) == PSA_SUCCESS)
		return r;
	/* No generator, so no TLS either: this is for DHCP ids and ports only. */
	fallback = fallback * 6364136223846793005ull + 1442695040888963407ull;
	return (u32)(fallback >> 32);
}
