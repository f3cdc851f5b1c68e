/* SPDX-License-Identifier: MIT */
#include "fleet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int answer_get(struct answer *a, bool info)
{
	const cJSON *g;
	int code = GW_OK;

	if (info)
		code = qmp_call(&a->qmp, "query-host", NULL, &a->info, &a->fail);
	if (!code && info && !cJSON_IsObject(a->info))
		code = fail_set(&a->fail, GW_NO_HOST, "host '%s' answered query-host with no object",
				a->host->name);
	if (!code)
		code = qmp_call(&a->qmp, "query-guests", NULL, &a->guests, &a->fail);
	if (!code && !cJSON_IsArray(a->guests))
		code = fail_set(&a->fail, GW_NO_HOST, "host '%s' answered query-guests with no list",
				a->host->name);
	if (code)
		return code;
	cJSON_ArrayForEach(g, a->guests) {
		if (!json_text(g, "name", NULL) || !json_text(g, "status", NULL))
			return fail_set(&a->fail, GW_NO_HOST, "host '%s' listed a guest without name or"
					" status: it is of another version", a->host->name);
	}
	return GW_OK;
}

int fleet_ask(struct context *ctx, char *const *names, unsigned int count, bool info,
	      struct fleet *fleet, struct fail *f)
{
	unsigned int n = count ? count : ctx->hosts.count;
	unsigned int i;

	memset(fleet, 0, sizeof(*fleet));
	if (!n)
		return fail_set(f, GW_USAGE, "no hosts are known: %s has none. Add one with 'godwit ca"
				" enroll HOST --address IP:PORT'", ctx->hosts.path);
	fleet->answer = calloc(n, sizeof(*fleet->answer));
	if (!fleet->answer)
		return fail_set(f, GW_FAILED, "out of memory");
	fleet->count = n;
	for (i = 0; i < n; i++) {
		struct host *h = count ? hosts_find(&ctx->hosts, names[i], f) : &ctx->hosts.host[i];

		if (!h) {
			fleet_free(fleet);
			return f->code;
		}
		fleet->answer[i].host = h;
	}
	/* All connections first, so that several dead hosts cost one timeout together. */
	for (i = 0; i < n; i++) {
		struct answer *a = &fleet->answer[i];

		qmp_dial(&a->qmp, ctx->id, a->host, ctx->timeout_ms, &a->fail);
	}
	for (i = 0; i < n; i++) {
		struct answer *a = &fleet->answer[i];

		if (!a->fail.code && !qmp_finish(&a->qmp, &a->fail))
			answer_get(a, info);
		fleet->failed += a->fail.code != GW_OK;
	}
	return GW_OK;
}

void fleet_free(struct fleet *fleet)
{
	unsigned int i;

	for (i = 0; i < fleet->count; i++) {
		qmp_close(&fleet->answer[i].qmp);
		cJSON_Delete(fleet->answer[i].info);
		cJSON_Delete(fleet->answer[i].guests);
	}
	free(fleet->answer);
	memset(fleet, 0, sizeof(*fleet));
}

const cJSON *guests_find(const cJSON *guests, const char *name)
{
	const cJSON *g;

	cJSON_ArrayForEach(g, guests)
		if (!strcmp(json_text(g, "name", ""), name))
			return g;
	return NULL;
}

int guest_ask(struct qmp *q, const char *name, cJSON **guest, struct fail *f)
{
	cJSON *list = NULL;
	int code = qmp_call(q, "query-guests", NULL, &list, f);
	cJSON *found = code ? NULL : (cJSON *)guests_find(list, name);

	*guest = found ? cJSON_DetachItemViaPointer(list, found) : NULL;
	cJSON_Delete(list);
	if (!code && !found)
		code = fail_set(f, GW_FAILED, "host '%s' has no guest '%s'", q->host->name, name);
	return code;
}

bool guest_lives_on(const cJSON *guest, const char *host)
{
	static const char *const alive[] = { "running", "paused", "finish-migrate" };
	const char *status = json_text(guest, "status", "");
	unsigned int i;

	for (i = 0; i < 3; i++)
		if (!strcmp(status, alive[i]))
			return !strcmp(json_text(guest, "owner", host), host);
	return false;
}

bool guest_died(const char *status)
{
	return !strcmp(status, "internal-error") || !strcmp(status, "guest-panicked");
}

/* "a, b" of the hosts that list (@listed) or did not answer (!@listed); in @buf. */
static const char *fleet_names(const struct fleet *fleet, const char *guest, bool listed, char *buf,
			       size_t size)
{
	unsigned int i;
	size_t len = 0;

	buf[0] = 0;
	for (i = 0; i < fleet->count && len + 70 < size; i++) {
		const struct answer *a = &fleet->answer[i];

		if (listed ? a->fail.code == GW_OK && guests_find(a->guests, guest) != NULL :
			     a->fail.code != GW_OK)
			len += (size_t)snprintf(buf + len, size - len, "%s%s", len ? ", " : "",
						a->host->name);
	}
	return buf;
}

struct answer *fleet_find(struct fleet *fleet, const char *name, bool strict, struct fail *f)
{
	struct answer *live = NULL, *listed = NULL, *owner = NULL;
	unsigned int lives = 0, lists = 0, owners = 0, i;
	char names[256];

	for (i = 0; i < fleet->count; i++) {
		struct answer *a = &fleet->answer[i];
		const cJSON *g = a->fail.code ? NULL : guests_find(a->guests, name);

		if (!g)
			continue;
		listed = a;
		lists++;
		if (!strcmp(json_text(g, "owner", ""), a->host->name)) {
			owner = a;
			owners++;
		}
		if (guest_lives_on(g, a->host->name)) {
			live = a;
			lives++;
		}
	}
	if (lives > 1) {
		fail_set(f, GW_FAILED, "the guest '%s' lives on more than one host (%s): these are different"
			 " guests of the same name, or one was started twice. Say which with --host",
			 name, fleet_names(fleet, name, true, names, sizeof(names)));
		return NULL;
	}
	if (lives == 1)
		return live;
	if (fleet->failed && fleet->count == 1) {
		*f = fleet->answer[0].fail;
		return NULL;
	}
	if (fleet->failed && (strict || !lists)) {
		fleet_names(fleet, name, false, names, sizeof(names));
		for (i = 0; !fleet->answer[i].fail.code; i++)
			;
		fail_set(f, GW_NO_HOST, "the guest '%s' %s, and not all hosts could be asked (not: %s). It"
			 " may be there; if you are certain, say --host. First reason: %.700s", name,
			 lists ? "runs on no host that answered" : "was not found", names,
			 fleet->answer[i].fail.text);
		return NULL;
	}
	if (lists == 1)
		return listed;
	if (owners == 1)
		return owner;
	if (lists)
		fail_set(f, GW_FAILED, "the guest '%s' is configured on several hosts (%s) and runs on none:"
			 " say which with --host", name,
			 fleet_names(fleet, name, true, names, sizeof(names)));
	else
		fail_set(f, GW_FAILED, "no host has a guest called '%s'; 'godwit status' lists them", name);
	return NULL;
}

static error_t hosts_parse(int key, char *arg, struct argp_state *state)
{
	struct hosts_arg *a = state->input;

	(void)arg;
	if (key != ARGP_KEY_ARGS)
		return ARGP_ERR_UNKNOWN;
	a->names = state->argv + state->next;
	a->count = (unsigned int)(state->argc - state->next);
	return 0;
}

const struct argp hosts_argp = { .parser = hosts_parse };

enum { OPT_HOST = 0x300 };

static error_t guest_parse(int key, char *arg, struct argp_state *state)
{
	struct guest_arg *a = state->input;

	switch (key) {
	case OPT_HOST:
		a->host = arg;
		break;
	case ARGP_KEY_ARG:
		if (a->guest)
			return ARGP_ERR_UNKNOWN;
		a->guest = arg;
		break;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "say which guest");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp_option guest_options[] = {
	{ "host", OPT_HOST, "HOST", 0, "the host that has the guest, or gets it (default: ask all hosts)", 0 },
	{ 0 },
};

const struct argp guest_argp = { .options = guest_options, .parser = guest_parse };
