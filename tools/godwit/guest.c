/* SPDX-License-Identifier: MIT */
#include "guest.h"

#include <argp.h>
#include <stdio.h>
#include <string.h>

#include "context.h"
#include "fleet.h"

enum { OPT_HOST = 0x200, OPT_FORCE };

struct guest_args {
	struct context ctx;
	char *guest, *host;
	bool force;
};

static const struct verb {
	const char *name, *command, *past;
} verbs[] = {
	{ "start", "guest-start", "started" },
	{ "stop", "guest-stop", "switched off" },
	{ "reset", "system_reset", "reset" },
	{ "pause", "stop", "paused" },
	{ "resume", "cont", "resumed" },
};

static const struct argp_option guest_options[] = {
	{ "host", OPT_HOST, "HOST", 0, "the host that has the guest (default: ask all hosts)", 0 },
	{ "force", OPT_FORCE, 0, 0, "start, with --host: also a guest that moved to another host, which is gone for"
	  " good. If it is not gone, the guest runs twice", 0 },
	{ 0 },
};

static error_t guest_parse(int key, char *arg, struct argp_state *state)
{
	struct guest_args *a = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->ctx;
		break;
	case OPT_HOST:
		a->host = arg;
		break;
	case OPT_FORCE:
		a->force = true;
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

static int guest_run(struct guest_args *a, const struct verb *v, struct fleet *fleet,
		     struct fail *f)
{
	bool start = !strcmp(v->name, "start");
	struct answer *at;
	cJSON *now = NULL, *args;
	int code;

	if (a->force && (!start || !a->host))
		return fail_set(f, GW_USAGE, "--force is for 'godwit start' with --host only");

	/* Starting a guest that lives on a host that was not asked would make it run twice. */
	code = fleet_ask(&a->ctx, &a->host, a->host ? 1 : 0, false, fleet, f);
	if (code)
		return code;
	at = fleet_find(fleet, a->guest, start, f);
	if (!at)
		return f->code;
	args = qmp_guest(a->guest);
	if (a->force)
		cJSON_AddTrueToObject(args, "force");
	code = qmp_call(&at->qmp, v->command, args, NULL, f);
	if (code == GW_NO_HOST) {
		char reason[700];

		snprintf(reason, sizeof(reason), "%.600s", f->text);
		return fail_set(f, GW_UNKNOWN, "asked host '%s' to %s the guest '%s', but lost the answer:"
				" whether it was done is not known. 'godwit status %s' shows it. Reason:"
				" %s", at->host->name, v->name, a->guest, at->host->name, reason);
	}
	if (code)
		return code;
	if (guest_ask(&at->qmp, a->guest, &now, f))
		now = qmp_guest(a->guest); /* done; only the state after it is not known */
	if (a->ctx.json) {
		cJSON *out = cJSON_CreateObject();

		cJSON_AddStringToObject(out, "guest", a->guest);
		cJSON_AddStringToObject(out, "host", at->host->name);
		cJSON_AddStringToObject(out, "done", v->command);
		cJSON_AddStringToObject(out, "status", json_text(now, "status", "unknown"));
		context_print_json(out);
	} else {
		printf("Guest '%s' on host '%s' was %s; it is now %s.\n", a->guest, at->host->name,
		       v->past, json_text(now, "status", "in an unknown state"));
	}
	cJSON_Delete(now);
	return GW_OK;
}

int guest_main(int argc, char **argv)
{
	static const struct argp_child children[] = { { &context_argp, 0, "Common options:", 1 },
						      { 0 } };
	static const struct argp argp = { guest_options, guest_parse, "GUEST",
					  "start: boots the guest. stop: switches it off at once. reset: as the"
					  " button. pause, resume: stops its CPU and lets it go on.",
					  children, NULL, NULL };
	const struct verb *v = verbs;
	struct guest_args a = { 0 };
	struct fleet fleet = { 0 };
	struct fail f = { 0 };
	int code;

	while (strcmp(v->name, strrchr(argv[0], ' ') + 1))
		v++;
	context_init(&a.ctx);
	argp_parse(&argp, argc, argv, 0, NULL, &a);
	code = context_open(&a.ctx, &f);
	if (!code)
		code = guest_run(&a, v, &fleet, &f);
	if (code)
		context_print_fail(&a.ctx, &f);
	fleet_free(&fleet);
	context_free(&a.ctx);
	return code;
}
