/* SPDX-License-Identifier: MIT */
#include "context.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cJSON.h>
#include <psa/crypto.h>

#include "tls.h"

enum { OPT_DIR = 0x300, OPT_IDENTITY, OPT_JSON, OPT_TIMEOUT };

static const struct argp_option context_options[] = {
	{ "dir", OPT_DIR, "DIR", 0, "state folder (default: $GODWIT_DIR, else godwit/ in"
	  " $XDG_CONFIG_HOME or ~/.config)", 0 },
	{ "identity", OPT_IDENTITY, "NAME", 0, "act as NAME (default: $GODWIT_IDENTITY, else admin,"
	  " else the only identity there is)", 0 },
	{ "json", OPT_JSON, 0, 0, "print the result as JSON", 0 },
	{ "timeout", OPT_TIMEOUT, "SECONDS", 0, "longest wait for a host's answer (default: 10)", 0 },
	{ 0 },
};

static error_t context_parse(int key, char *arg, struct argp_state *state)
{
	struct context *ctx = state->input;
	char *end;
	double s;

	switch (key) {
	case OPT_DIR:
		free(ctx->dir);
		ctx->dir = text_new("%s", arg);
		break;
	case OPT_IDENTITY:
		ctx->identity = arg;
		break;
	case OPT_JSON:
		ctx->json = true;
		break;
	case OPT_TIMEOUT:
		s = strtod(arg, &end);
		if (end == arg || *end || !(s >= 0.01 && s <= 3600))
			argp_error(state, "'%s' is not a timeout; give 0.01 to 3600 seconds", arg);
		ctx->timeout_ms = (uint64_t)(s * 1000);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

const struct argp context_argp = { context_options, context_parse, NULL, NULL, NULL, NULL, NULL };

void context_init(struct context *ctx)
{
	const char *dir = getenv("GODWIT_DIR"), *xdg = getenv("XDG_CONFIG_HOME");
	const char *home = getenv("HOME"), *identity = getenv("GODWIT_IDENTITY");

	memset(ctx, 0, sizeof(*ctx));
	ctx->timeout_ms = 10000;
	ctx->identity = identity && identity[0] ? identity : NULL;
	if (dir && dir[0])
		ctx->dir = text_new("%s", dir);
	else if (xdg && xdg[0])
		ctx->dir = text_new("%s/godwit", xdg);
	else
		ctx->dir = text_new("%s/.config/godwit", home && home[0] ? home : ".");
}

int context_crypto(struct fail *f)
{
	if (psa_crypto_init() != PSA_SUCCESS)
		return fail_set(f, GW_FAILED, "the crypto library does not start: this system gives no"
				" random numbers");
	return GW_OK;
}

int context_open(struct context *ctx, struct fail *f)
{
	int code = context_crypto(f);

	if (!code)
		code = hosts_load(ctx->dir, &ctx->hosts, f);
	if (!code)
		code = identity_load(ctx->dir, ctx->identity, &ctx->id, f);
	return code;
}

void context_free(struct context *ctx)
{
	identity_free(ctx->id);
	hosts_free(&ctx->hosts);
	free(ctx->dir);
}

void context_print_json(cJSON *json)
{
	char *text = cJSON_Print(json);

	if (text)
		text_utf8(text); /* paths and arguments may be anything, and a long text was cut somewhere */
	puts(text ? text : "null");
	fflush(stdout);
	cJSON_free(text);
	cJSON_Delete(json);
}

void context_print_fail(const struct context *ctx, const struct fail *f)
{
	fflush(stdout);
	fprintf(stderr, "godwit: %s\n", f->text);
	if (ctx->json) {
		cJSON *out = cJSON_CreateObject();

		cJSON_AddStringToObject(out, "error", f->text);
		cJSON_AddNumberToObject(out, "exit-code", f->code);
		context_print_json(out);
	}
}
