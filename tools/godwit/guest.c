/* SPDX-License-Identifier: MIT */
#include "guest.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "context.h"
#include "fleet.h"

enum { OPT_FORCE = 0x200, OPT_WAIT, WAIT_S = 60 };

struct guest_args {
	struct context ctx;
	struct guest_arg at;
	bool force;
	unsigned int wait_s; /* stop: how long to wait; 0 not given */
};

static const struct verb {
	const char *name, *command, *past;
} verbs[] = {
	{ "start", "guest-start", "started" },
	{ "stop", "system_powerdown", "shut down" },
	{ "reset", "system_reset", "reset" },
	{ "pause", "stop", "paused" },
	{ "resume", "cont", "resumed" },
};

static const struct argp_option guest_options[] = {
	{ "wait", OPT_WAIT, "SECONDS", 0, "stop: how long to wait for the guest to shut down (default 60)", 0 },
	{ "force", OPT_FORCE, 0, 0, "stop: switch it off at once, without asking it. start, with --host: also a guest that moved to another host, which is gone for"
	  " good. If it is not gone, the guest runs twice", 0 },
	{ 0 },
};

static error_t guest_parse(int key, char *arg, struct argp_state *state)
{
	struct guest_args *a = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->at;
		state->child_inputs[1] = &a->ctx;
		break;
	case OPT_FORCE:
		a->force = true;
		break;
	case OPT_WAIT: {
		char *end;
		unsigned long s = strtoul(arg, &end, 10);

		if (*arg < '0' || *arg > '9' || *end || !s || s > 86400)
			argp_error(state, "--wait must be 1 to 86400 seconds");
		a->wait_s = (unsigned int)s;
		break;
	}
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

/* The guest was asked to shut down: until it has. */
static int guest_wait(struct guest_args *a, struct answer *at, struct fail *f)
{
	uint64_t until = now_ms() + 1000ull * (a->wait_s ? a->wait_s : WAIT_S);

	for (;;) {
		cJSON *now = NULL;
		const char *status;
		bool over;
		int code = guest_ask(&at->qmp, a->at.guest, &now, f);

		if (code)
			return fail_set(f, GW_UNKNOWN, "asked the guest '%s' to shut down, but lost"
					" it or the connection to host '%s': 'godwit status' shows whether it has", a->at.guest,
					at->host->name);
		status = json_text(now, "status", "");
		over = !strcmp(status, "shutdown") || !strcmp(status, "prelaunch"); /* nobody owns it in the commit of a move */
		if (guest_died(status))
			code = fail_set(f, GW_BAD_END, "the guest '%s' on host '%s' was asked to shut down, and died: %.900s", a->at.guest,
					at->host->name, json_text(now, "exit-reason", status));
		if (!strcmp(status, "postmigrate"))
			code = fail_set(f, GW_BAD_END, "the guest '%s' was asked to shut down, but moved to host '%s' meanwhile: stop it there",
					a->at.guest, json_text(now, "owner", "?"));
		cJSON_Delete(now);
		if (code || over)
			return code;
		if (now_ms() >= until)
			return fail_set(f, GW_BAD_END, "the guest '%s' on host '%s' was asked to shut down, but still runs after %u s:"
					" look at its console, wait longer (--wait), or switch it off with 'godwit stop %s --force'",
					a->at.guest, at->host->name, a->wait_s ? a->wait_s : WAIT_S, a->at.guest);
		usleep(200000);
	}
}

static int guest_run(struct guest_args *a, const struct verb *v, struct fleet *fleet,
		     struct fail *f)
{
	static const struct verb switch_off = { "stop", "guest-stop", "switched off" };
	bool start = !strcmp(v->name, "start"), stop = !strcmp(v->name, "stop");
	struct answer *at;
	cJSON *now = NULL, *args;
	const char *status;
	int code;

	if (a->force && !stop && (!start || !a->at.host))
		return fail_set(f, GW_USAGE, "--force is for 'godwit stop', and for 'godwit start' with --host, only");
	if (a->wait_s && !stop)
		return fail_set(f, GW_USAGE, "--wait is for 'godwit stop' only");

	/* Starting a guest that lives on a host that was not asked would make it run twice. */
	code = fleet_ask(&a->ctx, &a->at.host, a->at.host ? 1 : 0, false, fleet, f);
	if (code)
		return code;
	at = fleet_find(fleet, a->at.guest, start, f);
	if (!at)
		return f->code;
	/*
	 * One that does not run (paused, or a copy that waits for the outcome of a move) cannot be asked. One that is frozen
	 * for a move may run on by the time that the command comes.
	 */
	status = json_text(guests_find(at->guests, a->at.guest), "status", "");
	if (stop && (a->force || (strcmp(status, "running") && strcmp(status, "finish-migrate") && strcmp(status, "inmigrate"))))
		v = &switch_off;
	args = qmp_guest(a->at.guest);
	if (a->force && start)
		cJSON_AddTrueToObject(args, "force");
	code = qmp_call(&at->qmp, v->command, args, NULL, f);
	if (code == GW_NO_HOST)
		return fail_set(f, GW_UNKNOWN, "asked host '%s' to %s the guest '%s', but lost the answer:"
				" whether it was done is not known. 'godwit status %s' shows it. Reason:"
				" %.600s", at->host->name, v->name, a->at.guest, at->host->name, f->text);
	if (!code && stop && v != &switch_off)
		code = guest_wait(a, at, f);
	if (code)
		return code;
	if (guest_ask(&at->qmp, a->at.guest, &now, f))
		now = qmp_guest(a->at.guest); /* done; only the state after it is not known */
	if (a->ctx.json) {
		cJSON *out = cJSON_CreateObject();

		cJSON_AddStringToObject(out, "guest", a->at.guest);
		cJSON_AddStringToObject(out, "host", at->host->name);
		cJSON_AddStringToObject(out, "done", v->command);
		cJSON_AddStringToObject(out, "status", json_text(now, "status", "unknown"));
		context_print_json(out);
	} else {
		printf("Guest '%s' on host '%s' was %s; it is now %s.\n", a->at.guest, at->host->name,
		       v->past, json_text(now, "status", "in an unknown state"));
	}
	cJSON_Delete(now);
	return GW_OK;
}

int guest_main(int argc, char **argv)
{
	static const struct argp_child children[] = { { &guest_argp, 0, NULL, 0 },
						      { &context_argp, 0, "Common options:", 1 }, { 0 } };
	static const struct argp argp = { guest_options, guest_parse, "GUEST",
					  "start: boots the guest. stop: presses its power button and waits for it to shut"
					  " down; one that does not run is switched off. reset: as the"
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
