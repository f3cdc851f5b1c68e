/* SPDX-License-Identifier: MIT */
#include "migrate.h"

#include <argp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "context.h"
#include "fleet.h"
#include "progress.h"
#include "hv/limits.h"

enum { POLL_MS = 250, RETRY_MS = 300 };

struct move {
	struct context ctx;
	char *guest, *to_name, *from_name;
	const char *verify;
	double freeze_ms, max_rounds; /* 0: as the host is configured */
	bool detach, follow, wants_target;

	struct host *from, *to;
	struct qmp src;
	struct progress progress;
	struct migration m; /* the last that the source told */
	cJSON *raw;	    /* the same as it came */
	cJSON *where;	    /* the guest's entry on the host that has it now; NULL: not known */
	bool news;	    /* an event came: ask at once */
	bool cancel_sent;
};

static volatile sig_atomic_t interrupts;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupts++;
}

/* Ctrl-C becomes a request to cancel. Without SA_RESTART, so that waits end at once. */
static void interrupts_catch(void)
{
	struct sigaction sa = { .sa_handler = on_interrupt };

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
}

static void move_event(void *arg, const char *name, const cJSON *data)
{
	struct move *mv = arg;

	if (!strcmp(name, "MIGRATION") && !strcmp(json_text(data, "guest", ""), mv->guest))
		mv->news = true;
}

static int move_dial(struct move *mv, struct qmp *q, const struct host *host, struct fail *f)
{
	int code = qmp_dial(q, mv->ctx.id, host, mv->ctx.timeout_ms, f);

	return code ? code : qmp_finish(q, f);
}

static int move_query(struct move *mv, struct fail *f)
{
	cJSON *raw;
	int code = qmp_call(&mv->src, "query-migrate", qmp_guest(mv->guest), &raw, f);
	struct migration m;

	if (!code)
		code = migration_parse(raw, &m, f);
	if (code) {
		cJSON_Delete(raw);
		return code;
	}
	/* How the guest once came there: the host knows nothing of the move that we asked for. */
	if (mv->wants_target && !strcmp(m.role, "target"))
		strcpy(m.status, "none");
	mv->m = m;
	cJSON_Delete(mv->raw);
	mv->raw = raw;
	return GW_OK;
}

/* Asks the source to cancel; a refusal is told and the migration goes on. */
static void move_cancel(struct move *mv)
{
	struct fail f;

	if (qmp_call(&mv->src, "migrate_cancel", qmp_guest(mv->guest), NULL, &f) == GW_FAILED)
		progress_note(&mv->progress, "  cannot cancel: %s", f.text);
	else if (!mv->src.broken)
		progress_note(&mv->progress, "  asked '%s' to cancel; waiting for it (Ctrl-C again leaves"
			      " without knowing)", mv->from->name);
	mv->cancel_sent = !mv->src.broken; /* else it is asked again, over the next connection */
}

/* Connects to the source again within one timeout; @f says why that failed. */
static bool move_reconnect(struct move *mv, struct fail *f)
{
	uint64_t deadline = now_ms() + mv->ctx.timeout_ms;
	int tries = 0, had = interrupts;

	do {
		qmp_close(&mv->src);
		if (tries++)
			poll(NULL, 0, RETRY_MS);
		if (!move_dial(mv, &mv->src, mv->from, f)) {
			mv->src.event = move_event;
			mv->src.event_arg = mv;
			return true;
		}
	} while (now_ms() < deadline && interrupts == had);
	qmp_close(&mv->src);
	return false;
}

/* One wait between two questions; an event or a signal shortens it. */
static int move_wait(struct move *mv, struct fail *f)
{
	uint64_t deadline = now_ms() + POLL_MS;
	int had = interrupts;
	unsigned int id;
	cJSON *ret;
	int code = GW_OK;

	mv->news = false;
	while (!code && !mv->news && interrupts == had && now_ms() < deadline) {
		uint64_t now = now_ms();
		struct pollfd p = { .fd = conn_fd(mv->src.conn), .events = POLLIN };

		if (!conn_pending(mv->src.conn) &&
		    poll(&p, 1, now < deadline ? (int)(deadline - now) : 0) <= 0)
			break;
		code = qmp_poll(&mv->src, now_ms(), &id, &ret, f);
		cJSON_Delete(code ? NULL : ret);
	}
	return code;
}

/*
 * Follows the migration on the source until it has ended. GW_OK: mv->m has the end. GW_NO_HOST: the
 * source was lost and did not come back. GW_UNKNOWN: the operator left.
 */
static int move_watch(struct move *mv, struct fail *f)
{
	for (;;) {
		int code = move_query(mv, f);

		if (!code) {
			progress_update(&mv->progress, &mv->m);
			if (migration_ended(&mv->m))
				return GW_OK;
			if (interrupts > 1)
				return fail_set(f, GW_UNKNOWN, "left while guest '%s' was in phase '%s' of its"
						" move from '%s' to '%s'%s. 'godwit migrate-status %s"
						" --follow' takes it up again", mv->guest, mv->m.phase,
						mv->from->name, mv->to ? mv->to->name : mv->m.peer,
						mv->cancel_sent ? "; cancelling was asked for" : "", mv->guest);
			if (interrupts && !mv->cancel_sent)
				move_cancel(mv);
			else
				code = move_wait(mv, f);
		}
		if (!code && !mv->src.broken)
			continue;
		if (!mv->src.broken)
			return fail_set(f, GW_UNKNOWN, "'%s' does not tell how the move of '%s' goes: %.490s."
					" 'godwit status' shows who has the guest", mv->from->name, mv->guest,
					f->text);
		progress_note(&mv->progress, "  lost the connection to '%s', trying again", mv->from->name);
		if (!move_reconnect(mv, f))
			return GW_NO_HOST;
		progress_note(&mv->progress, "  connected to '%s' again", mv->from->name);
	}
}

/*
 * Whether @host has the guest now, in mv->where. Keeps asking for one timeout, because a guest that
 * has just been handed over may take a moment. @f has the reason when it is not so.
 */
static int move_confirm(struct move *mv, const struct host *host, struct fail *f)
{
	uint64_t deadline = now_ms() + mv->ctx.timeout_ms;
	struct qmp q;
	int code;

	do {
		cJSON *g = NULL;

		code = move_dial(mv, &q, host, f);
		if (!code)
			code = guest_ask(&q, mv->guest, &g, f);
		if (!code) {
			cJSON_Delete(mv->where);
			mv->where = g;
			if (!guest_lives_on(g, host->name))
				code = fail_set(f, GW_FAILED, "host '%s' says that guest '%s' is in the state"
						" '%s' there, owned by '%s'%s%.300s", host->name, mv->guest,
						json_text(g, "status", "?"), json_text(g, "owner", "nobody"),
						json_text(g, "exit-reason", "")[0] ? ": " : "",
						json_text(g, "exit-reason", ""));
		}
		qmp_close(&q);
		if (code && now_ms() < deadline)
			poll(NULL, 0, RETRY_MS);
	} while (code && now_ms() < deadline && interrupts < 2);
	return code;
}

/* The source said "completed": it does not have the guest any more. */
static int move_completed(struct move *mv, struct fail *f)
{
	struct fail why = { 0 };
	int code;

	if (!mv->to)
		return fail_set(f, GW_UNKNOWN, "'%s' says that '%s' has moved to '%s', which is not in"
				" hosts.ini, so this could not be confirmed", mv->from->name, mv->guest,
				mv->m.peer);
	code = move_confirm(mv, mv->to, &why);
	if (code == GW_FAILED && mv->where && strcmp(json_text(mv->where, "status", ""), "inmigrate"))
		return fail_set(f, GW_BAD_END, "guest '%s' was moved to '%s' but does not run: %.900s",
				mv->guest, mv->to->name, why.text);
	if (code)
		return fail_set(f, GW_UNKNOWN, "'%s' says that '%s' was moved to '%s', but '%s' did not"
				" confirm it. The guest does not run on '%s'; see 'godwit status %s'."
				" Reason: %.700s", mv->from->name, mv->guest, mv->to->name, mv->to->name,
				mv->from->name, mv->to->name, why.text);
	return GW_OK;
}

/* The source said "failed", "cancelled" or "none": then it must still have the guest. */
static int move_not_done(struct move *mv, struct fail *f)
{
	bool cancelled = !strcmp(mv->m.status, "cancelled");
	struct fail why = { 0 };
	char what[600];

	if (!strcmp(mv->m.status, "none"))
		snprintf(what, sizeof(what), "'%s' knows of no migration of '%s': the request was lost, or the"
			 " host has restarted", mv->from->name, mv->guest);
	else if (cancelled)
		snprintf(what, sizeof(what), "the move of '%s' was cancelled", mv->guest);
	else
		snprintf(what, sizeof(what), "the move of '%s' failed in phase '%s': %s", mv->guest,
			 mv->m.phase, mv->m.error[0] ? mv->m.error : "no reason given");
	if (move_confirm(mv, mv->from, &why))
		return fail_set(f, GW_UNKNOWN, "%s; but that it goes on on '%s' is not confirmed: %.400s. See"
				" 'godwit status'", what, mv->from->name, why.text);
	return fail_set(f, cancelled ? GW_CANCELLED : GW_FAILED, "%s. Nothing was changed: the guest is"
			" %s on '%s' (owner %s, epoch %.0f)", what,
			json_text(mv->where, "status", "?"), mv->from->name,
			json_text(mv->where, "owner", "?"), json_number(mv->where, "epoch", 0));
}

/* The source is gone. Says what is known; the target may know how it ended. */
static int move_lost(struct move *mv, struct fail *f)
{
	struct fail why = { 0 };
	const char *phase = mv->m.phase[0] ? mv->m.phase : "start";

	if (!mv->to)
		return fail_set(f, GW_UNKNOWN, "lost the host '%s' in phase '%s' of the move of '%s' (%.490s)",
				mv->from->name, phase, mv->guest, f->text);
	if (!move_confirm(mv, mv->to, &why)) {
		progress_note(&mv->progress, "  '%s' cannot be asked (%.490s), but '%s' says that it has the"
			      " guest", mv->from->name, f->text, mv->to->name);
		return GW_OK;
	}
	return fail_set(f, GW_UNKNOWN, "lost the host '%s' in phase '%s' of the move of '%s' to '%s', and"
			" how it ended is not known. Known: %.400s. The guest never runs on both: it is on"
			" '%s', or waits for the two hosts to agree. When they can be reached, 'godwit"
			" status %s %s' shows the owner. What was lost: %.490s", mv->from->name, phase,
			mv->guest, mv->to->name, why.text, mv->from->name, mv->from->name, mv->to->name,
			f->text);
}

/* Follows to the end and settles who has the guest. */
static int move_finish(struct move *mv, struct fail *f)
{
	int code = move_watch(mv, f);

	if (code == GW_NO_HOST)
		code = move_lost(mv, f);
	else if (!code && !strcmp(mv->m.status, "completed"))
		code = move_completed(mv, f);
	else if (!code)
		code = move_not_done(mv, f);
	progress_end(&mv->progress);
	return code;
}

/* @code says how the move ended, @exit_code how the command does. */
static void move_print_json(struct move *mv, int code, int exit_code, const struct fail *f)
{
	static const char *const outcome[] = { "completed", "failed", "", "failed", "unknown",
					       "cancelled", "not-running" };
	cJSON *out = cJSON_CreateObject();

	cJSON_AddStringToObject(out, "guest", mv->guest);
	cJSON_AddStringToObject(out, "from", mv->from->name);
	cJSON_AddStringToObject(out, "to", mv->to ? mv->to->name : mv->m.peer);
	cJSON_AddStringToObject(out, "outcome", mv->detach && !code ? "started" : outcome[code]);
	cJSON_AddNumberToObject(out, "exit-code", exit_code);
	if (exit_code)
		cJSON_AddStringToObject(out, "error", f->text);
	if (mv->where) {
		cJSON_AddStringToObject(out, "owner", json_text(mv->where, "owner", ""));
		cJSON_AddNumberToObject(out, "epoch", json_number(mv->where, "epoch", 0));
		cJSON_AddItemToObject(out, "guest-now", mv->where);
	}
	if (mv->raw)
		cJSON_AddItemToObject(out, "migration", mv->raw);
	mv->where = mv->raw = NULL;
	context_print_json(out);
}

/* Reports the end of a move that was followed, on both outputs. */
static int move_report(struct move *mv, int code, struct fail *f)
{
	if (mv->ctx.json && mv->from) {
		if (code)
			fprintf(stderr, "godwit: %s\n", f->text);
		move_print_json(mv, code, code, f);
	} else if (code) {
		context_print_fail(&mv->ctx, f);
	} else if (mv->where && mv->to) {
		printf("Guest '%s' now is %s on '%s' (owner %s, epoch %.0f; confirmed by '%s').\n", mv->guest,
		       json_text(mv->where, "status", "?"), mv->to->name,
		       json_text(mv->where, "owner", "?"), json_number(mv->where, "epoch", 0),
		       mv->to->name);
		if (!strcmp(mv->m.status, "completed"))
			progress_summary(&mv->m);
	}
	return code;
}

/* Finds the host that has the guest and connects mv->src to it. */
static int move_source(struct move *mv, struct fail *f)
{
	struct fleet fleet;
	struct answer *at;
	int code;

	code = fleet_ask(&mv->ctx, &mv->from_name, mv->from_name ? 1 : 0, false, &fleet, f);
	if (code)
		return code;
	at = fleet_find(&fleet, mv->guest, false, f);
	if (at) {
		mv->from = at->host;
		mv->src = at->qmp;
		mv->src.event = move_event;
		mv->src.event_arg = mv;
		at->qmp.conn = NULL; /* now ours */
		mv->where = cJSON_Duplicate(guests_find(at->guests, mv->guest), true);
	}
	fleet_free(&fleet);
	return at ? GW_OK : f->code;
}

/* Source and target of the move that the host in mv->from has told about: it may be either of them. */
static void move_ends(struct move *mv)
{
	struct host *asked = mv->from;
	struct fail f;

	mv->to = hosts_find(&mv->ctx.hosts, mv->m.peer, &f);
	if (mv->to && !strcmp(mv->m.role, "target")) {
		mv->from = mv->to;
		mv->to = asked;
	}
}

/* Whether the target can be asked and can run guests, before anything is started. */
static int move_check_target(struct move *mv, struct fail *f)
{
	cJSON *info = NULL;
	const cJSON *vmx;
	struct qmp q = { 0 };
	int code = move_dial(mv, &q, mv->to, f);

	if (!code)
		code = qmp_call(&q, "query-host", NULL, &info, f);
	vmx = cJSON_GetObjectItemCaseSensitive(info, "vmx");
	if (!code && cJSON_IsObject(vmx) && !json_true(vmx, "usable"))
		code = fail_set(f, GW_FAILED, "host '%s' cannot run guests: it has no usable VT-x. Remedy: %s",
				mv->to->name, json_text(vmx, "remedy", "see 'godwit status'"));
	cJSON_Delete(info);
	qmp_close(&q);
	return code;
}

static int move_start(struct move *mv, struct fail *f)
{
	char uri[160];
	cJSON *args;
	int code;

	mv->to = hosts_find(&mv->ctx.hosts, mv->to_name, f);
	if (!mv->to)
		return f->code;
	code = host_peer_uri(&mv->ctx.hosts, mv->to, uri, f);
	if (!code)
		code = move_source(mv, f);
	if (code)
		return code;
	if (mv->from == mv->to)
		return fail_set(f, GW_FAILED, "the guest '%s' is on '%s' already", mv->guest, mv->to->name);
	if (!guest_lives_on(mv->where, mv->from->name))
		return fail_set(f, GW_FAILED, "the guest '%s' on '%s' is in the state '%s': only a running or"
				" paused guest can be moved ('godwit start %s')", mv->guest, mv->from->name,
				json_text(mv->where, "status", "?"), mv->guest);
	code = move_check_target(mv, f);
	if (code)
		return code;
	args = qmp_guest(mv->guest);
	cJSON_AddStringToObject(args, "host", mv->to->name);
	cJSON_AddStringToObject(args, "uri", uri);
	if (mv->verify)
		cJSON_AddStringToObject(args, "verify", mv->verify);
	if (mv->freeze_ms > 0)
		cJSON_AddNumberToObject(args, "downtime-limit", mv->freeze_ms);
	if (mv->max_rounds > 0)
		cJSON_AddNumberToObject(args, "max-rounds", mv->max_rounds);
	if (!mv->detach)
		interrupts_catch();
	code = qmp_call(&mv->src, "migrate", args, NULL, f);
	if (code != GW_NO_HOST)
		return code;
	if (mv->detach)
		return fail_set(f, GW_UNKNOWN, "asked host '%s' to move the guest '%s', but lost the answer: whether it"
				" was started is not known. 'godwit migrate-status %s' shows it. Reason: %.600s",
				mv->from->name, mv->guest, mv->guest, f->text);
	/* It may have been taken; from here on it is as if it had been. */
	progress_note(&mv->progress, "  lost the answer to 'migrate': %s", f->text);
	if (!move_reconnect(mv, f))
		return move_lost(mv, f);
	return GW_OK;
}

/* --- the commands --- */

enum { OPT_FROM = 0x200, OPT_VERIFY, OPT_FREEZE, OPT_ROUNDS, OPT_DETACH, OPT_FOLLOW };

static const struct argp_option migrate_options[] = {
	{ "from", OPT_FROM, "HOST", 0, "the host that has the guest (default: ask all hosts)", 0 },
	{ "verify", OPT_VERIFY, "fold|full", 0, "compare hashes of all pages sent, or read both memories"
	  " again at the end (longer freeze)", 0 },
	{ "freeze-budget", OPT_FREEZE, "MS", 0, "freeze when this is predicted to be enough", 0 },
	{ "max-rounds", OPT_ROUNDS, "N", 0, "freeze after N rounds whatever is predicted", 0 },
	{ "detach", OPT_DETACH, 0, 0, "return when the migration has been started", 0 },
	{ 0 },
};

static const struct argp_option one_options[] = {
	{ "host", OPT_FROM, "HOST", 0, "the host to ask (default: the one that has the guest)", 0 },
	{ "follow", OPT_FOLLOW, 0, 0, "migrate-status: show the progress until the end; exit codes as of migrate", 0 },
	{ 0 },
};

static double arg_count(const char *arg, unsigned int max, struct argp_state *state)
{
	char *end;
	double n = strtod(arg, &end);

	if (end == arg || *end || !(n >= 1 && n <= max) || n != (double)(long)n)
		argp_error(state, "'%s' is not a whole number from 1 to %u", arg, max);
	return n;
}

static error_t migrate_parse(int key, char *arg, struct argp_state *state)
{
	struct move *mv = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &mv->ctx;
		break;
	case OPT_FROM: mv->from_name = arg; break;
	case OPT_VERIFY:
		if (strcmp(arg, "fold") && strcmp(arg, "full"))
			argp_error(state, "--verify is fold or full, not '%s'", arg);
		mv->verify = arg;
		break;
	case OPT_FREEZE: mv->freeze_ms = arg_count(arg, MOVE_MAX_FREEZE_MS, state); break;
	case OPT_ROUNDS: mv->max_rounds = arg_count(arg, MOVE_MAX_ROUNDS, state); break;
	case OPT_DETACH: mv->detach = true; break;
	case OPT_FOLLOW: mv->follow = true; break;
	case ARGP_KEY_ARG:
		if (state->arg_num == 0)
			mv->guest = arg;
		else if (state->arg_num == 1 && mv->wants_target)
			mv->to_name = arg;
		else
			return ARGP_ERR_UNKNOWN;
		break;
	case ARGP_KEY_END:
		if (!mv->guest || (mv->wants_target && !mv->to_name))
			argp_error(state, mv->wants_target ? "say which guest and to which host" : "say which guest");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp_child children[] = { { &context_argp, 0, "Common options:", 1 }, { 0 } };

static void move_open(struct move *mv, const struct argp *argp, int argc, char **argv)
{
	memset(mv, 0, sizeof(*mv));
	mv->wants_target = argp->options == migrate_options;
	context_init(&mv->ctx);
	argp_parse(argp, argc, argv, 0, NULL, mv);
	progress_init(&mv->progress, mv->ctx.json);
}

static void move_close(struct move *mv)
{
	qmp_close(&mv->src);
	cJSON_Delete(mv->raw);
	cJSON_Delete(mv->where);
	context_free(&mv->ctx);
}

int migrate_main(int argc, char **argv)
{
	static const struct argp argp = {
		migrate_options, migrate_parse, "GUEST HOST",
		"Moves a running guest to HOST and shows how it goes. Ctrl-C cancels: before the commit"
		" the guest then stays where it is.", children, NULL, NULL };
	struct fail f = { 0 };
	struct move mv;
	char memory[24];
	int code;

	move_open(&mv, &argp, argc, argv);
	code = context_open(&mv.ctx, &f);
	if (!code)
		code = move_start(&mv, &f);
	if (!code && mv.src.conn)
		progress_note(&mv.progress, "Moving '%s' (%s) from '%s' to '%s'%s", mv.guest,
			      format_bytes(memory, sizeof(memory), json_number(mv.where, "memory", 0)),
			      mv.from->name, mv.to->name,
			      mv.detach ? "; 'godwit migrate-status' shows how it goes" : "");
	if (!code && mv.src.conn && !mv.detach) {
		cJSON_Delete(mv.where);
		mv.where = NULL;
		code = move_finish(&mv, &f);
	}
	if (!mv.detach || code || mv.ctx.json)
		move_report(&mv, code, &f);
	move_close(&mv);
	return code;
}

int migrate_status_main(int argc, char **argv)
{
	static const struct argp argp = { one_options, migrate_parse, "GUEST",
					  "Shows the migration that the guest's host tells about.",
					  children, NULL, NULL };
	struct fail f = { 0 };
	struct move mv;
	char a[24], b[24];
	int code;

	move_open(&mv, &argp, argc, argv);
	code = context_open(&mv.ctx, &f);
	if (!code)
		code = move_source(&mv, &f);
	if (!code)
		code = move_query(&mv, &f);
	if (!code && mv.follow)
		move_ends(&mv);
	if (!code && mv.follow && (mv.to || strcmp(mv.m.role, "target"))) {
		interrupts_catch();
		code = move_report(&mv, move_finish(&mv, &f), &f);
	} else if (code) {
		context_print_fail(&mv.ctx, &f);
	} else if (mv.ctx.json) {
		context_print_json(cJSON_Duplicate(mv.raw, true));
	} else {
		printf("Guest '%s' on '%s': migration %s", mv.guest, mv.from->name, mv.m.status);
		if (strcmp(mv.m.status, "none"))
			printf(" (%s; the other host is '%s'), phase %s, round %.0f, %s sent, %s remain",
			       mv.m.role, mv.m.peer, mv.m.phase, mv.m.round,
			       format_bytes(a, sizeof(a), mv.m.transferred),
			       format_bytes(b, sizeof(b), mv.m.remaining));
		printf("%s%s\n", mv.m.error[0] ? "; " : "", mv.m.error);
	}
	move_close(&mv);
	return code;
}

int migrate_cancel_main(int argc, char **argv)
{
	static const struct argp argp = { one_options, migrate_parse, "GUEST",
					  "Cancels the guest's migration and waits until that is done."
					  " Exit code 0: the guest goes on where it was.", children, NULL,
					  NULL };
	struct fail f = { 0 };
	struct move mv;
	bool asked;
	int code;

	move_open(&mv, &argp, argc, argv);
	progress_init(&mv.progress, true);
	code = context_open(&mv.ctx, &f);
	if (!code)
		code = move_source(&mv, &f);
	if (!code)
		code = qmp_call(&mv.src, "migrate_cancel", qmp_guest(mv.guest), NULL, &f);
	asked = !code;
	if (!code) {
		cJSON_Delete(mv.where);
		mv.where = NULL;
		code = move_query(&mv, &f);
	}
	if (!code)
		move_ends(&mv);
	if (!code) {
		code = move_finish(&mv, &f);
		if (!code)
			code = fail_set(&f, GW_BAD_END, "it was too late to cancel: '%s' now runs on '%s'",
					mv.guest, mv.to->name);
	} else if (asked || mv.src.broken) {
		code = fail_set(&f, GW_UNKNOWN, "lost '%s' while cancelling; 'godwit status' shows who has the"
				" guest", mv.from ? mv.from->name : "the host");
	}
	if (code == GW_CANCELLED) {
		code = GW_OK;
		if (mv.ctx.json)
			move_print_json(&mv, GW_CANCELLED, GW_OK, &f);
		else
			printf("%s.\n", f.text);
	} else if (code) {
		context_print_fail(&mv.ctx, &f);
	}
	move_close(&mv);
	return code;
}
