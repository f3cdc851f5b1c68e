/* SPDX-License-Identifier: MIT */
/* Who this host is (net/tls.h: struct tls_identity), and what is in a certificate. For net/tls.c only. */
#pragma once
#include "net/tls.h"
#include "mbedtls/ssl.h"

enum tls_use { TLS_SERVER, TLS_CLIENT_QMP, TLS_CLIENT_MIG, TLS_CLIENT_OTHER, TLS_USES };

struct tls_identity {
	mbedtls_x509_crt ca, crt;
	mbedtls_pk_context key;
	mbedtls_ssl_config conf[TLS_USES];
	struct tcp_pcb *listener;
	void (*accept)(struct stream *);
};

/* Name (CN) and role (OU) of a certificate; "?" where one is missing, repeated, too long, or has odd characters. */
void cert_names(const mbedtls_x509_crt *crt, char name[32], char role[16]);
/* Says in *e what mbedTLS's flags (MBEDTLS_X509_BADCERT_*; 0: nothing) mean for a certificate. whose: "its certificate",
 * "\\godwit\\host.crt"... want: the name that was meant, or NULL. */
void cert_explain(struct error *e, const char *whose, const mbedtls_x509_crt *crt, u32 flags, const char *want);
