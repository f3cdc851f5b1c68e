/* SPDX-License-Identifier: MIT */
#include "define.h"

#include <argp.h>
#include <stdio.h>
#include <string.h>

#include "context.h"
#include "fleet.h"

struct define_args {
	struct context ctx;
	struct guest_arg at;
	cJSON *keys;
};

/* KEY=VALUE; a key that comes again makes a list. The host checks both. */
static void add_key(struct define_args *a, char *arg, struct argp_state *state)
{
	char *eq = strchr(arg, '=');
	cJSON *old, *list;

	if (!eq || eq == arg)
		argp_error(state, "'%s' is not KEY=VALUE as in godwit.conf", arg);
	*eq = 0;
	if (!strcmp(arg, "guest"))
		argp_error(state, "a guest's name cannot be changed");
	old = cJSON_GetObjectItemCaseSensitive(a->keys, arg);
	if (old && !cJSON_IsArray(old)) {
		list = cJSON_CreateArray();
		cJSON_AddItemToArray(list, cJSON_DetachItemViaPointer(a->keys, old));
		cJSON_AddItemToObject(a->keys, arg, list);
		old = list;
	}
	if (old)
		cJSON_AddItemToArray(old, cJSON_CreateString(eq + 1));
	else
		cJSON_AddStringToObject(a->keys, arg, eq + 1);
}

static error_t define_parse(int key, char *arg, struct argp_state *state)
{
	struct define_args *a = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->at;
		state->child_inputs[1] = &a->ctx;
		break;
	case ARGP_KEY_ARG:
		if (!a->at.guest)
			return ARGP_ERR_UNKNOWN;
		add_key(a, arg, state);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

/* Where a new guest goes: its name must be the only one in the cluster, so every host is asked. */
static struct answer *place(struct define_args *a, struct fleet *fleet, struct fail *f)
{
	struct answer *at = NULL;
	unsigned int i;

	for (i = 0; i < fleet->count; i++) {
		struct answer *h = &fleet->answer[i];

		if (h->fail.code == GW_OK && guests_find(h->guests, a->at.guest)) {
			fail_set(f, GW_FAILED, "host '%s' has a guest '%s' already: names are unique in the cluster", h->host->name, a->at.guest);
			return NULL;
		}
		if (a->at.host ? !strcmp(h->host->name, a->at.host) : fleet->count == 1)
			at = h;
	}
	if (!at)
		fail_set(f, GW_USAGE, a->at.host ? "host '%s' is not in hosts.ini" : "say on which host, with --host", a->at.host);
	else if (at->fail.code)
		fail_set(f, at->fail.code, "%s", at->fail.text);
	return f->code ? NULL : at;
}

static int define_run(struct define_args *a, const char *verb, struct fleet *fleet, struct fail *f)
{
	bool create = !strcmp(verb, "create"), delete = !strcmp(verb, "delete");
	char command[32];
	struct answer *at;
	cJSON *args, *ret = NULL;
	const char *warning;
	int code;

	if (delete != !cJSON_GetArraySize(a->keys))
		return fail_set(f, GW_USAGE, delete ? "godwit delete takes no KEY=VALUE" : "say what: KEY=VALUE as in godwit.conf");
	code = fleet_ask(&a->ctx, &a->at.host, a->at.host && !create ? 1 : 0, false, fleet, f);
	if (code)
		return code;
	/* A silent host may have it, too: then it is not clear which is meant. */
	at = create ? place(a, fleet, f) : fleet_find(fleet, a->at.guest, true, f);
	if (!at)
		return f->code;
	args = cJSON_Duplicate(a->keys, true);
	cJSON_AddStringToObject(args, "guest", a->at.guest);
	snprintf(command, sizeof(command), "guest-%s", verb);
	code = qmp_call(&at->qmp, command, args, &ret, f);
	if (code == GW_NO_HOST)
		return fail_set(f, GW_UNKNOWN, "asked host '%s' to %s the guest '%s', but lost the answer: 'godwit status %s' shows"
				" whether it was done", at->host->name, verb, a->at.guest, at->host->name);
	if (code)
		return code;
	warning = json_text(ret, "warning", "");
	if (a->ctx.json) {
		cJSON *out = cJSON_CreateObject();

		cJSON_AddStringToObject(out, "guest", a->at.guest);
		cJSON_AddStringToObject(out, "host", at->host->name);
		cJSON_AddStringToObject(out, "done", command);
		if (warning[0])
			cJSON_AddStringToObject(out, "warning", warning);
		context_print_json(out);
	} else {
		printf("Guest '%s' on host '%s' was %sd.\n", a->at.guest, at->host->name, verb);
	}
	if (warning[0])
		fprintf(stderr, "godwit: but %s\n", warning);
	cJSON_Delete(ret);
	return GW_OK;
}

int define_main(int argc, char **argv)
{
	static const struct argp_child children[] = { { &guest_argp, 0, NULL, 0 },
						      { &context_argp, 0, "Common options:", 1 }, { 0 } };
	static const struct argp argp = { NULL, define_parse, "GUEST [KEY=VALUE...]",
					  "create: defines a guest on a running host (--host), with the keys of a [guest]"
					  " section of godwit.conf. change: of a guest that does not run; a list (disk, nic,"
					  " module) is replaced as a whole. delete: forgets one that does not run.",
					  children, NULL, NULL };
	const char *verb = strrchr(argv[0], ' ') + 1;
	struct define_args a = { .keys = cJSON_CreateObject() };
	struct fleet fleet = { 0 };
	struct fail f = { 0 };
	int code;

	context_init(&a.ctx);
	argp_parse(&argp, argc, argv, 0, NULL, &a);
	code = context_open(&a.ctx, &f);
	if (!code)
		code = define_run(&a, verb, &fleet, &f);
	if (code)
		context_print_fail(&a.ctx, &f);
	fleet_free(&fleet);
	cJSON_Delete(a.keys);
	context_free(&a.ctx);
	return code;
}
