/* SPDX-License-Identifier: MIT */
#include "net/identity.h"
#include "hv/lib/clock.h"
#include "hv/mm/frame.h"
#include "lwip/tcp.h"
#include "mbedtls/oid.h"
#include "mbedtls/platform_time.h"
#include "mbedtls/platform_util.h"
#include "mbedtls/psa_util.h"
#include "psa/crypto.h"
#include <stdio.h>
#include <string.h>

static const char *alpn[TLS_CLIENT_OTHER][3] = { [TLS_SERVER] = { ALPN_QMP, ALPN_MIG }, [TLS_CLIENT_QMP] = { ALPN_QMP },
                                                 [TLS_CLIENT_MIG] = { ALPN_MIG } };
static const int suites[] = { MBEDTLS_TLS1_3_AES_128_GCM_SHA256, 0 };
static const u16 groups[] = { MBEDTLS_SSL_IANA_TLS_GROUP_X25519, MBEDTLS_SSL_IANA_TLS_GROUP_SECP256R1,
                              MBEDTLS_SSL_IANA_TLS_GROUP_NONE };
static const u16 sig_algs[] = { MBEDTLS_TLS1_3_SIG_ECDSA_SECP256R1_SHA256, MBEDTLS_TLS1_3_SIG_NONE };

/* The one value of that attribute; false if it is missing, repeated, too long or has odd characters. */
static bool cert_attr(const mbedtls_x509_crt *crt, const char *oid, size_t oid_len, char *out, size_t size)
{
	unsigned found = 0;

	out[0] = 0;
	for (const mbedtls_x509_name *n = &crt->subject; n; n = n->next) {
		if (n->oid.len != oid_len || memcmp(n->oid.p, oid, oid_len))
			continue;
		if (found++ || n->val.len == 0 || n->val.len >= size)
			return false;
		for (size_t i = 0; i < n->val.len; i++) {
			u8 c = n->val.p[i];

			if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && (!c || !strchr("-._@", c)))
				return false;
			out[i] = (char)c;
		}
		out[n->val.len] = 0;
	}
	return found == 1;
}

void cert_names(const mbedtls_x509_crt *crt, char name[32], char role[16])
{
	if (!cert_attr(crt, MBEDTLS_OID_AT_CN, MBEDTLS_OID_SIZE(MBEDTLS_OID_AT_CN), name, 32))
		strcpy(name, "?");
	if (!cert_attr(crt, MBEDTLS_OID_AT_ORG_UNIT, MBEDTLS_OID_SIZE(MBEDTLS_OID_AT_ORG_UNIT), role, 16))
		strcpy(role, "?");
}

static const char *clock_text(char out[24])
{
	mbedtls_time_t t = (mbedtls_time_t)wall_seconds();
	struct tm tm;

	if (!mbedtls_platform_gmtime_r(&t, &tm))
		return "unset";
	snprintf(out, 24, "%04d-%02d-%02d %02d:%02d", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min);
	return out;
}

static const char *date_text(char out[24], const mbedtls_x509_time *t)
{
	snprintf(out, 24, "%04d-%02d-%02d %02d:%02d", t->year, t->mon, t->day, t->hour, t->min);
	return out;
}

void cert_explain(struct error *e, const char *whose, const mbedtls_x509_crt *crt, u32 flags, const char *want)
{
	char name[32], role[16], date[24], clock[24], issuer[64];

	cert_names(crt, name, role);
	if (flags & (MBEDTLS_X509_BADCERT_NOT_TRUSTED | MBEDTLS_X509_BADCERT_BAD_MD | MBEDTLS_X509_BADCERT_BAD_PK |
	             MBEDTLS_X509_BADCERT_BAD_KEY)) {
		if (mbedtls_x509_dn_gets(issuer, sizeof(issuer), &crt->issuer) < 0)
			strcpy(issuer, "?");
		error_set(e, E_AUTH, "%s (for '%s', issued by '%s') is not from this host's CA. All of a cluster must be enrolled "
			"with one CA: 'godwit ca enroll %s' there, or put the right ca.crt here", whose, name, issuer, name);
	} else if (flags & MBEDTLS_X509_BADCERT_EXPIRED) {
		error_set(e, E_AUTH, "%s (for '%s') expired on %s UTC; this host's clock says %s UTC. Renew it with 'godwit ca "
			"enroll %s --force', or set the clock in the firmware setup if it is wrong", whose, name,
			date_text(date, &crt->valid_to), clock_text(clock), name);
	} else if (flags & MBEDTLS_X509_BADCERT_FUTURE) {
		error_set(e, E_AUTH, "%s (for '%s') is not valid before %s UTC; this host's clock says %s UTC. Set the clock in the "
			"firmware setup if it is wrong", whose, name, date_text(date, &crt->valid_from), clock_text(clock));
	} else if (flags & MBEDTLS_X509_BADCERT_CN_MISMATCH) {
		error_set(e, E_AUTH, "%s is for '%s', not for '%s'. Is the address right? If the host was renamed: 'godwit ca enroll "
			"%s'", whose, name, want ? want : "?", want ? want : name);
	} else if (flags) {
		error_set(e, E_AUTH, "%s (for '%s') may not be used for this (flags %x). Make a new one with 'godwit ca enroll "
			"%s --force'", whose, name, (unsigned)flags, name);
	}
}

int tls_init(struct error *e)
{
	int r = entropy_check();

	if (r == -E_UNSUPPORTED)
		return error_set(e, E_UNSUPPORTED, "this CPU has neither RDSEED nor RDRAND, so no TLS keys can be made: the network "
			"stays off. Use a CPU that has them (in an emulator, choose a CPU model with rdrand)");
	if (r)
		return error_set(e, E_IO, "the CPU's random number generator (%s) repeats itself, so no TLS keys are made: the network "
			"stays off. Update the CPU's microcode (firmware update)", entropy_source());
	if (psa_crypto_init() != PSA_SUCCESS)
		return error_set(e, E_NOMEM, "TLS did not start: no memory or no random numbers");
	return 0;
}

static int config_init(struct tls_identity *id, enum tls_use use)
{
	mbedtls_ssl_config *conf = &id->conf[use];

	if (mbedtls_ssl_config_defaults(conf, use == TLS_SERVER ? MBEDTLS_SSL_IS_SERVER : MBEDTLS_SSL_IS_CLIENT,
	                                MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT))
		return -E_NOMEM;
	mbedtls_ssl_conf_authmode(conf, MBEDTLS_SSL_VERIFY_REQUIRED);
	mbedtls_ssl_conf_ca_chain(conf, &id->ca, NULL);
	mbedtls_ssl_conf_rng(conf, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE);
	mbedtls_ssl_conf_ciphersuites(conf, suites);
	mbedtls_ssl_conf_groups(conf, groups);
	mbedtls_ssl_conf_sig_algs(conf, sig_algs);
	if ((use < ARRAY_SIZE(alpn) && mbedtls_ssl_conf_alpn_protocols(conf, alpn[use])) ||
	    mbedtls_ssl_conf_own_cert(conf, &id->crt, &id->key))
		return -E_NOMEM;
	return 0;
}

/* PEM parsers want a NUL at the end. */
static u8 *pem_copy(const void *data, size_t len)
{
	u8 *p = len && len <= 65536 ? heap_calloc(1, len + 1) : NULL;

	if (p)
		memcpy(p, data, len);
	return p;
}

static void pem_drop(u8 *p, size_t len)
{
	if (p)
		mbedtls_platform_zeroize(p, len);
	heap_free(p);
}

static int identity_parse(struct tls_identity *id, const struct tls_files *f, struct error *e)
{
	u8 *ca = pem_copy(f->ca, f->ca_len), *crt = pem_copy(f->crt, f->crt_len), *key = pem_copy(f->key, f->key_len);
	int r;

	if (!ca || (r = mbedtls_x509_crt_parse(&id->ca, ca, f->ca_len + 1)) != 0)
		error_set(e, E_INVAL, "\\godwit\\ca.crt is not a PEM certificate; copy the cluster's ca.crt there ('godwit ca enroll')");
	else if (!crt || (r = mbedtls_x509_crt_parse(&id->crt, crt, f->crt_len + 1)) != 0)
		error_set(e, E_INVAL, "\\godwit\\host.crt is not a PEM certificate; make it with 'godwit ca enroll HOST'");
	else if (!key || (r = mbedtls_pk_parse_key(&id->key, key, f->key_len + 1, NULL, 0, mbedtls_psa_get_random,
	                                           MBEDTLS_PSA_RANDOM_STATE)) != 0)
		error_set(e, E_INVAL, "\\godwit\\host.key is not a PEM private key without passphrase; make it with 'godwit ca enroll HOST'");
	else if (!mbedtls_pk_can_do(&id->key, MBEDTLS_PK_ECDSA) || mbedtls_pk_get_bitlen(&id->key) != 256)
		error_set(e, E_INVAL, "\\godwit\\host.key is not an EC P-256 key; make a new one with 'godwit ca enroll HOST --force'");
	else if (mbedtls_pk_check_pair(&id->crt.pk, &id->key, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE))
		error_set(e, E_INVAL, "\\godwit\\host.key does not belong to \\godwit\\host.crt; copy both from the same 'godwit ca enroll'");
	pem_drop(ca, f->ca_len);
	pem_drop(crt, f->crt_len);
	pem_drop(key, f->key_len);
	return e->code ? -e->code : 0;
}

bool tls_certificate_name(const void *pem, size_t len, char name[32])
{
	u8 *text = pem_copy(pem, len);
	mbedtls_x509_crt crt;
	bool ok;

	mbedtls_x509_crt_init(&crt);
	ok = text && !mbedtls_x509_crt_parse(&crt, text, len + 1) &&
		cert_attr(&crt, MBEDTLS_OID_AT_CN, MBEDTLS_OID_SIZE(MBEDTLS_OID_AT_CN), name, 32);
	mbedtls_x509_crt_free(&crt);
	pem_drop(text, len);
	return ok;
}

static int own_verify(void *arg, mbedtls_x509_crt *crt, int depth, uint32_t *flags)
{
	cert_explain(arg, depth ? "\\godwit\\ca.crt" : "\\godwit\\host.crt", crt, *flags, NULL);
	return 0;
}

struct tls_identity *tls_identity_load(const struct tls_files *files, const char *host, struct error *e)
{
	struct tls_identity *id = heap_calloc(1, sizeof(*id));
	struct error own = { 0 };
	char name[32], role[16];
	u32 flags = 0;

	if (!id) {
		error_set(e, E_NOMEM, "no memory for the TLS identity");
		return NULL;
	}
	mbedtls_x509_crt_init(&id->ca);
	mbedtls_x509_crt_init(&id->crt);
	mbedtls_pk_init(&id->key);
	for (unsigned i = 0; i < TLS_USES; i++)
		mbedtls_ssl_config_init(&id->conf[i]);
	if (identity_parse(id, files, &own))
		goto fail;
	cert_names(&id->crt, name, role);
	if (host) {
		if (mbedtls_x509_crt_verify(&id->crt, &id->ca, NULL, NULL, &flags, own_verify, &own) && !own.code)
			error_set(&own, E_AUTH, "\\godwit\\host.crt cannot be verified (flags %x); make it anew with 'godwit ca enroll "
				"%s --force'", (unsigned)flags, host);
		if (strcmp(name, host))
			error_set(&own, E_AUTH, "\\godwit\\host.crt is for '%s', but godwit.conf calls this host '%s'. Make the two the "
				"same, or 'godwit ca enroll %s'", name, host, host);
		if (strcmp(role, "host"))
			error_set(&own, E_AUTH, "\\godwit\\host.crt has the role (OU) '%s' instead of 'host'; make it with 'godwit ca "
				"enroll %s'", role, host);
		if (own.code)
			goto fail;
	}
	for (unsigned i = 0; i < TLS_USES; i++)
		if (config_init(id, i)) {
			error_set(&own, E_NOMEM, "no memory for the TLS configuration");
			goto fail;
		}
	return id;
fail:
	error_set(e, own.code, "%s", own.text);
	tls_identity_free(id);
	return NULL;
}

const struct mbedtls_ssl_config *tls_client_config(const struct tls_identity *id)
{
	return &id->conf[TLS_CLIENT_OTHER];
}

void tls_identity_free(struct tls_identity *id)
{
	if (!id)
		return;
	if (id->listener)
		tcp_close(id->listener);
	for (unsigned i = 0; i < TLS_USES; i++)
		mbedtls_ssl_config_free(&id->conf[i]);
	mbedtls_pk_free(&id->key);
	mbedtls_x509_crt_free(&id->crt);
	mbedtls_x509_crt_free(&id->ca);
	heap_free(id);
}
