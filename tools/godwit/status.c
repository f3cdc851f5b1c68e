/* SPDX-License-Identifier: MIT */
#include "status.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "fleet.h"

enum { COLUMNS = 12, CELL = 64 };

/* A table whose columns are as wide as their widest cell; '>' in the head aligns to the right. */
struct table {
	const char *const *head;
	unsigned int columns, rows;
	char (*cell)[COLUMNS][CELL];
};

static char *table_cell(struct table *t, unsigned int column)
{
	return t->cell[t->rows - 1][column];
}

static void table_row(struct table *t)
{
	t->cell = realloc(t->cell, (t->rows + 1) * sizeof(*t->cell));
	if (!t->cell)
		abort();
	memset(t->cell[t->rows++], 0, sizeof(*t->cell));
}

static void table_print(struct table *t)
{
	static const char dashes[] = "================================================================";
	unsigned int width[COLUMNS], c, r;

	for (c = 0; c < t->columns; c++) {
		width[c] = (unsigned int)strlen(t->head[c] + 1);
		for (r = 0; r < t->rows; r++)
			if (strlen(t->cell[r][c]) > width[c])
				width[c] = (unsigned int)strlen(t->cell[r][c]);
	}
	for (r = 0; r < t->rows + 2; r++) {
		unsigned int last = t->columns - 1;

		while (r > 1 && last && !t->cell[r - 2][last][0])
			last--;
		for (c = 0; c <= last; c++) {
			const char *text = r == 0 ? t->head[c] + 1 : r == 1 ? dashes : t->cell[r - 2][c];
			int w = (int)width[c], pad = t->head[c][0] == '>' ? w : c == last ? 0 : -w;

			printf("%s%*.*s", c ? " " : "", pad, w, text);
		}
		putchar('\n');
	}
	free(t->cell);
}

static void cell_number(char *cell, const cJSON *o, const char *key)
{
	double n = json_number(o, key, -1);

	snprintf(cell, CELL, n < 0 ? "-" : "%.0f", n);
}

static void cell_text(char *cell, const cJSON *o, const char *key)
{
	snprintf(cell, CELL, "%s", json_text(o, key, "-"));
}

static void cell_bytes(char *cell, const cJSON *o, const char *key)
{
	double n = json_number(o, key, -1);

	if (n < 0)
		strcpy(cell, "-");
	else
		format_bytes(cell, CELL, n);
}

static void cell_uptime(char *cell, const cJSON *o, bool shown)
{
	double us = json_number(o, "uptime-us", -1);

	if (us < 0 || !shown)
		strcpy(cell, "-");
	else
		format_us(cell, CELL, us);
}

static bool vmx_missing(const cJSON *info)
{
	const cJSON *vmx = cJSON_GetObjectItemCaseSensitive(info, "vmx");

	return cJSON_IsObject(vmx) && !json_true(vmx, "usable");
}

static void print_hosts(const struct fleet *fleet)
{
	static const char *const head[] = { "<Host", "<Address", "<State", "<Version", "<VT-x",
					    ">Memory", ">Free", ">Godwit's", ">Uptime", "<CPU" };
	struct table t = { head, 10, 0, NULL };
	unsigned int i;

	for (i = 0; i < fleet->count; i++) {
		const struct answer *a = &fleet->answer[i];
		bool up = a->fail.code == GW_OK;

		table_row(&t);
		snprintf(table_cell(&t, 0), CELL, "%s", a->host->name);
		snprintf(table_cell(&t, 1), CELL, "%.60s", a->host->address[0] ? a->host->address : "-");
		strcpy(table_cell(&t, 2), up ? "up" : "no answer");
		if (!up)
			continue;
		cell_text(table_cell(&t, 3), a->info, "version");
		strcpy(table_cell(&t, 4), vmx_missing(a->info) ? "MISSING" : "ok");
		cell_bytes(table_cell(&t, 5), a->info, "memory-total");
		cell_bytes(table_cell(&t, 6), a->info, "memory-free");
		cell_bytes(table_cell(&t, 7), a->info, "hypervisor-memory");
		cell_uptime(table_cell(&t, 8), a->info, true);
		cell_text(table_cell(&t, 9), a->info, "cpu");
	}
	printf("[Hosts]\n");
	table_print(&t);
}

/* Columns as in HP's hpvmstatus, then what migration adds. */
static void print_guests(const struct fleet *fleet)
{
	static const char *const head[] = { "<Virtual Machine", ">VM #", "<OS Type", "<State",
					    ">#VCPUs", ">#Devs", ">#Nets", ">Memory", "<Host",
					    "<Owner", ">Epoch", ">Uptime" };
	struct table t = { head, COLUMNS, 0, NULL };
	const cJSON *g;
	unsigned int i;

	for (i = 0; i < fleet->count; i++) {
		const struct answer *a = &fleet->answer[i];

		if (a->fail.code)
			continue;
		cJSON_ArrayForEach(g, a->guests) {
			table_row(&t);
			cell_text(table_cell(&t, 0), g, "name");
			cell_number(table_cell(&t, 1), g, "number");
			cell_text(table_cell(&t, 2), g, "os-type");
			cell_text(table_cell(&t, 3), g, "status");
			cell_number(table_cell(&t, 4), g, "vcpus");
			cell_number(table_cell(&t, 5), g, "devices");
			cell_number(table_cell(&t, 6), g, "nics");
			cell_bytes(table_cell(&t, 7), g, "memory");
			snprintf(table_cell(&t, 8), CELL, "%s", a->host->name);
			cell_text(table_cell(&t, 9), g, "owner");
			cell_number(table_cell(&t, 10), g, "epoch");
			cell_uptime(table_cell(&t, 11), g, guest_lives_on(g, a->host->name));
		}
	}
	printf("\n[Virtual Machines]\n");
	if (t.rows)
		table_print(&t);
	else
		printf("none%s\n", fleet->failed ? " on the hosts that answered" : "");
}

/* What needs attention, one line each. */
static void print_notes(const struct fleet *fleet)
{
	unsigned int i, notes = 0;
	const cJSON *v;

	for (i = 0; i < fleet->count; i++) {
		const struct answer *a = &fleet->answer[i];
		const cJSON *vmx = cJSON_GetObjectItemCaseSensitive(a->info, "vmx");
		const char *host = a->host->name;

		if (a->fail.code) {
			printf("%s%s\n", notes++ ? "" : "\n[Attention]\n", a->fail.text);
			continue;
		}
		if (vmx_missing(a->info)) {
			printf("%shost '%s' cannot run guests; missing:", notes++ ? "" : "\n[Attention]\n",
			       host);
			cJSON_ArrayForEach(v, cJSON_GetObjectItemCaseSensitive(vmx, "missing"))
				printf(" %s%s", cJSON_IsString(v) ? v->valuestring : "?", v->next ? "," : "");
			printf(". Remedy: %s\n", json_text(vmx, "remedy", "see its serial log"));
		}
		cJSON_ArrayForEach(v, cJSON_GetObjectItemCaseSensitive(a->info, "config-errors"))
			printf("%shost '%s', configuration: %s\n", notes++ ? "" : "\n[Attention]\n", host,
			       cJSON_IsString(v) ? v->valuestring : "?");
		if (json_text(a->info, "records-error", "")[0])
			printf("%shost '%s', what must survive a restart: %s\n", notes++ ? "" : "\n[Attention]\n", host,
			       json_text(a->info, "records-error", ""));
		cJSON_ArrayForEach(v, a->guests) {
			const char *status = json_text(v, "status", "");

			if (json_text(v, "exit-reason", "")[0] && strcmp(status, "running") &&
			    strcmp(status, "prelaunch") && strcmp(status, "postmigrate"))
				printf("%sguest '%s' on '%s' is %s: %s\n", notes++ ? "" : "\n[Attention]\n",
				       json_text(v, "name", ""), host, status,
				       json_text(v, "exit-reason", ""));
		}
	}
}

static void print_json(struct fleet *fleet)
{
	cJSON *out = cJSON_CreateObject(), *hosts = cJSON_AddArrayToObject(out, "hosts");
	unsigned int i;

	for (i = 0; i < fleet->count; i++) {
		struct answer *a = &fleet->answer[i];
		cJSON *h = cJSON_CreateObject();

		cJSON_AddItemToArray(hosts, h);
		cJSON_AddStringToObject(h, "name", a->host->name);
		cJSON_AddStringToObject(h, "address", a->host->address);
		cJSON_AddBoolToObject(h, "answered", a->fail.code == GW_OK);
		if (a->fail.code) {
			cJSON_AddStringToObject(h, "error", a->fail.text);
			continue;
		}
		cJSON_AddItemToObject(h, "host", a->info);
		cJSON_AddItemToObject(h, "guests", a->guests);
		a->info = a->guests = NULL;
	}
	context_print_json(out);
}

struct status_args {
	struct context ctx;
	struct hosts_arg hosts;
};

static error_t status_parse(int key, char *arg, struct argp_state *state)
{
	struct status_args *a = state->input;

	(void)arg;
	if (key != ARGP_KEY_INIT)
		return ARGP_ERR_UNKNOWN;
	state->child_inputs[0] = &a->hosts;
	state->child_inputs[1] = &a->ctx;
	return 0;
}

int status_main(int argc, char **argv)
{
	static const struct argp_child children[] = { { &hosts_argp, 0, NULL, 0 },
						      { &context_argp, 0, "Common options:", 1 }, { 0 } };
	static const struct argp argp = { NULL, status_parse, "[HOST...]",
					  "Shows the hosts and their guests (all hosts in hosts.ini, or"
					  " those named). Exit code 3 if a host did not answer.",
					  children, NULL, NULL };
	struct status_args a = { 0 };
	struct fleet fleet = { 0 };
	struct fail f = { 0 };
	int code;

	context_init(&a.ctx);
	argp_parse(&argp, argc, argv, 0, NULL, &a);
	code = context_open(&a.ctx, &f);
	if (!code)
		code = fleet_ask(&a.ctx, a.hosts.names, a.hosts.count, true, &fleet, &f);
	if (code) {
		context_print_fail(&a.ctx, &f);
	} else {
		code = fleet.failed ? GW_NO_HOST : GW_OK;
		if (a.ctx.json) {
			print_json(&fleet);
		} else {
			print_hosts(&fleet);
			print_guests(&fleet);
			print_notes(&fleet);
		}
	}
	fleet_free(&fleet);
	context_free(&a.ctx);
	return code;
}
