/* SPDX-License-Identifier: MIT */
/* What every command shares: the common options, the state folder, the hosts, the identity. */
#ifndef GODWIT_CONTEXT_H
#define GODWIT_CONTEXT_H

#include <argp.h>

#include "hosts.h"
#include "util.h"

struct cJSON;
struct identity;

struct context {
	char *dir;	      /* state folder: ca.crt, hosts.ini, identities/ */
	const char *identity; /* name of the identity to act as; NULL: admin, or the only one */
	bool json;	      /* results as JSON on standard output */
	uint64_t timeout_ms;  /* for each wait on a host */
	struct hosts hosts;
	struct identity *id;
};

/* Child parser for the common options; its input is the struct context. */
extern const struct argp context_argp;

/* Fills in the defaults (state folder from the environment). */
void context_init(struct context *ctx);

/* Starts the crypto library; once, before keys are made or hosts are called. */
int context_crypto(struct fail *f);

/* Crypto, hosts.ini and the identity: for every command that talks to hosts. */
int context_open(struct context *ctx, struct fail *f);
void context_free(struct context *ctx);

/* Prints @json as one indented document on standard output and deletes it. */
void context_print_json(struct cJSON *json);

/* "godwit: text" on standard error, and with --json {"error":…,"exit-code":…} on standard output. */
void context_print_fail(const struct context *ctx, const struct fail *f);

#endif
