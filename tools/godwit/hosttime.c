/* SPDX-License-Identifier: MIT */
#include "hosttime.h"

#include <argp.h>
#include <stdio.h>
#include <string.h>

#include "context.h"
#include "fleet.h"

struct time_args {
	struct context ctx;
	struct hosts_arg hosts;
};

static error_t time_parse(int key, char *arg, struct argp_state *state)
{
	struct time_args *a = state->input;

	(void)arg;
	if (key != ARGP_KEY_INIT)
		return ARGP_ERR_UNKNOWN;
	state->child_inputs[0] = &a->hosts;
	state->child_inputs[1] = &a->ctx;
	return 0;
}

/* "-0.123 ms" of -123 us, "?" where the host says nothing. json_number() is for what is never negative. */
static const char *signed_text(char *buf, size_t size, const cJSON *o, const char *key, const char *unit)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);

	if (!cJSON_IsNumber(v) || !(v->valuedouble > -1e18 && v->valuedouble < 1e18))
		snprintf(buf, size, "?");
	else
		snprintf(buf, size, "%+.3f %s", v->valuedouble / 1000, unit);
	return buf;
}

static const char *age_text(char *buf, size_t size, const cJSON *o, const char *key)
{
	double us = json_number(o, key, -1);

	if (us < 0)
		snprintf(buf, size, "never");
	else
		format_us(buf, size, us);
	return buf;
}

static void print_host(const char *host, const cJSON *t)
{
	const char *state = json_text(t, "state", "unknown");
	char offset[32], dispersion[32], age[32], slew[32], rate[32];
	const cJSON *s;

	if (!json_text(t, "source", "")[0]) {
		printf("%-12s %s%s\n", host, state, strcmp(state, "no-servers") ? "" :
		       ": its clock is the firmware's; name some in [time] servers= of its godwit.conf");
	} else {
		printf("%-12s %s, source %s, stratum %.0f, offset %s, dispersion %s, slewing %s, rate %s, last answer"
		       " %s ago, poll %.0f s\n", host, state, json_text(t, "source", ""), json_number(t, "stratum", 0),
		       signed_text(offset, sizeof(offset), t, "offset-us", "ms"),
		       format_us(dispersion, sizeof(dispersion), json_number(t, "dispersion-us", 0)),
		       signed_text(slew, sizeof(slew), t, "slew-us", "ms"),
		       signed_text(rate, sizeof(rate), t, "rate-ppb", "ppm"),
		       age_text(age, sizeof(age), t, "last-answer-us"), json_number(t, "poll-s", 0));
	}
	cJSON_ArrayForEach(s, cJSON_GetObjectItemCaseSensitive(t, "servers")) {
		const char *why = json_text(s, "error", "");

		printf("  %-21s %-12s stratum %2.0f  reach %03o  offset %14s  delay %8s  %s%s%s\n", json_text(s, "address", "?"),
		       json_text(s, "state", "?"), json_number(s, "stratum", 0), (unsigned int)json_number(s, "reach", 0) & 255,
		       signed_text(offset, sizeof(offset), s, "offset-us", "ms"), age_text(dispersion, sizeof(dispersion), s, "delay-us"),
		       json_true(s, "preferred") ? "preferred" : "", why[0] ? " " : "", why);
	}
}

static int time_run(struct time_args *a, struct fleet *fleet, struct fail *f)
{
	int code = fleet_ask(&a->ctx, a->hosts.names, a->hosts.count, false, fleet, f);
	cJSON *out = a->ctx.json && !code ? cJSON_CreateArray() : NULL;
	unsigned int i, failed = 0;

	if (code)
		return code;
	for (i = 0; i < fleet->count; i++) {
		struct answer *at = &fleet->answer[i];
		cJSON *t = NULL;

		if (!at->fail.code && !qmp_call(&at->qmp, "query-time", NULL, &t, &at->fail) && !cJSON_IsObject(t))
			fail_set(&at->fail, GW_NO_HOST, "host '%s' answered query-time with no object", at->host->name);
		failed += at->fail.code != GW_OK;
		if (a->ctx.json) {
			cJSON *h = cJSON_CreateObject();

			cJSON_AddStringToObject(h, "name", at->host->name);
			if (at->fail.code)
				cJSON_AddStringToObject(h, "error", at->fail.text);
			else
				cJSON_AddItemToObject(h, "time", cJSON_Duplicate(t, true));
			cJSON_AddItemToArray(out, h);
		} else if (at->fail.code) {
			printf("%-12s %s\n", at->host->name, at->fail.text);
		} else {
			print_host(at->host->name, t);
		}
		cJSON_Delete(t);
	}
	if (out)
		context_print_json(out);
	return failed ? GW_NO_HOST : GW_OK;
}

int time_main(int argc, char **argv)
{
	static const struct argp_child children[] = { { &hosts_argp, 0, NULL, 0 },
						      { &context_argp, 0, "Common options:", 1 }, { 0 } };
	static const struct argp argp = { NULL, time_parse, "[HOST...]",
					  "Shows how right the hosts' clocks are, and by which time servers."
					  " Exit code 3 if a host did not answer.", children, NULL, NULL };
	struct time_args a = { 0 };
	struct fleet fleet = { 0 };
	struct fail f = { 0 };
	int code;

	context_init(&a.ctx);
	argp_parse(&argp, argc, argv, 0, NULL, &a);
	code = context_open(&a.ctx, &f);
	if (!code)
		code = time_run(&a, &fleet, &f);
	if (f.code)
		context_print_fail(&a.ctx, &f);
	fleet_free(&fleet);
	context_free(&a.ctx);
	return code;
}
