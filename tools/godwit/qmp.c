/* SPDX-License-Identifier: MIT */
#include "qmp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROTOCOL = 1, JSON_DEPTH = 32 };

const char *json_text(const cJSON *o, const char *key, const char *otherwise)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);

	return cJSON_IsString(v) ? v->valuestring : otherwise;
}

double json_number(const cJSON *o, const char *key, double otherwise)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);

	return cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble < 9.2e18 ?
		v->valuedouble : otherwise;
}

bool json_true(const cJSON *o, const char *key)
{
	return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, key));
}

cJSON *qmp_guest(const char *guest)
{
	cJSON *args = cJSON_CreateObject();

	cJSON_AddStringToObject(args, "guest", guest);
	return args;
}

/* Makes every text printable; false if @item is nested deeper than any of our messages. */
static bool json_clean(cJSON *item, unsigned int depth)
{
	if (depth > JSON_DEPTH)
		return false;
	for (; item; item = item->next) {
		if (item->string)
			text_clean(item->string);
		if (cJSON_IsString(item))
			text_clean(item->valuestring);
		if (item->child && !json_clean(item->child, depth + 1))
			return false;
	}
	return true;
}

static int qmp_malformed(struct qmp *q, const char *what, const char *line, struct fail *f)
{
	char *shown = text_new("%.80s", line);

	text_clean(shown);
	q->broken = true;
	fail_set(f, GW_NO_HOST, "host '%s' (%s) sent %s: \"%s\". It is not a Godwit host, or of another"
		 " version", q->host->name, q->host->address, what, shown);
	free(shown);
	return f->code;
}

/* One JSON object; *@msg NULL when none came in time. */
static int qmp_read(struct qmp *q, cJSON **msg, uint64_t deadline, struct fail *f)
{
	char *line = NULL;
	int code = conn_read_line(q->conn, &line, deadline, f);

	*msg = NULL;
	if (code)
		q->broken = true;
	if (code || !line)
		return code;
	*msg = cJSON_ParseWithOpts(line, NULL, true);
	if (!cJSON_IsObject(*msg) || !json_clean(*msg, 0)) {
		cJSON_Delete(*msg);
		*msg = NULL;
		return qmp_malformed(q, "what is not a JSON object", line, f);
	}
	return GW_OK;
}

int qmp_dial(struct qmp *q, const struct identity *id, const struct host *host,
	     uint64_t timeout_ms, struct fail *f)
{
	memset(q, 0, sizeof(*q));
	q->host = host;
	q->timeout_ms = timeout_ms;
	return conn_dial(id, host, timeout_ms, &q->conn, f);
}

static int qmp_silent(struct qmp *q, const char *what, struct fail *f)
{
	q->broken = true;
	return fail_set(f, GW_NO_HOST, "host '%s' (%s) gave no answer to %s within %.1f s; it may be busy"
			" or stuck (see its serial log, or wait longer with --timeout)", q->host->name,
			q->host->address, what, (double)q->timeout_ms / 1000);
}

int qmp_finish(struct qmp *q, struct fail *f)
{
	const cJSON *hello, *version;
	cJSON *msg = NULL;
	const char *name;
	int code = conn_finish(q->conn, f);

	if (!code)
		code = qmp_read(q, &msg, now_ms() + q->timeout_ms, f);
	if (code)
		return code;
	if (!msg)
		return qmp_silent(q, "the connection", f);
	hello = cJSON_GetObjectItemCaseSensitive(msg, "QMP");
	version = cJSON_GetObjectItemCaseSensitive(hello, "version");
	name = json_text(hello, "host", "");
	snprintf(q->version, sizeof(q->version), "%s", json_text(version, "godwit", "?"));
	if (!cJSON_IsObject(version))
		code = fail_set(f, GW_NO_HOST, "host '%s' (%s) did not greet as a Godwit host", q->host->name,
				q->host->address);
	else if (json_number(version, "protocol", 0) != PROTOCOL)
		code = fail_set(f, GW_NO_HOST, "host '%s' runs Godwit %s with control protocol %.0f; this"
				" command speaks protocol %d: use the godwit command of that version",
				q->host->name, q->version, json_number(version, "protocol", 0), PROTOCOL);
	else if (strcmp(name, q->host->name))
		code = fail_set(f, GW_NO_HOST, "the host at %s calls itself '%s' in its godwit.conf, but its"
				" certificate says '%s': make name= there match", q->host->address, name,
				q->host->name);
	q->broken = code != GW_OK;
	cJSON_Delete(msg);
	return code;
}

int qmp_send(struct qmp *q, const char *command, cJSON *args, unsigned int *id, struct fail *f)
{
	cJSON *msg = cJSON_CreateObject();
	char *text, *line;
	int code;

	*id = ++q->last_id;
	cJSON_AddStringToObject(msg, "execute", command);
	if (args)
		cJSON_AddItemToObject(msg, "arguments", args);
	cJSON_AddNumberToObject(msg, "id", *id);
	text = cJSON_PrintUnformatted(msg);
	line = text_new("%s\n", text ? text : "");
	code = conn_write(q->conn, line, strlen(line), now_ms() + q->timeout_ms, f);
	q->broken |= code != GW_OK;
	free(line);
	cJSON_free(text);
	cJSON_Delete(msg);
	return code;
}

static int qmp_refused(struct qmp *q, const cJSON *error, struct fail *f)
{
	const char *desc = json_text(error, "desc", "no reason given");

	snprintf(q->error_class, sizeof(q->error_class), "%s",
		 json_text(error, "class", "GenericError"));
	if (!strcmp(q->error_class, "AccessDenied"))
		return fail_set(f, GW_FAILED, "host '%s' does not allow this: %s. --identity NAME acts"
				" as somebody else", q->host->name, desc);
	return fail_set(f, GW_FAILED, "host '%s': %s", q->host->name, desc);
}

int qmp_poll(struct qmp *q, uint64_t deadline, unsigned int *id, cJSON **ret, struct fail *f)
{
	const cJSON *error, *event;
	cJSON *msg;
	double n;
	int code = qmp_read(q, &msg, deadline, f);

	*id = 0;
	if (ret)
		*ret = NULL;
	if (code || !msg)
		return code;
	event = cJSON_GetObjectItemCaseSensitive(msg, "event");
	error = cJSON_GetObjectItemCaseSensitive(msg, "error");
	n = json_number(msg, "id", 0);
	if (cJSON_IsString(event)) {
		if (q->event)
			q->event(q->event_arg, event->valuestring,
				 cJSON_GetObjectItemCaseSensitive(msg, "data"));
	} else if (n < 1 || n > q->last_id) {
		char *text = cJSON_PrintUnformatted(msg);

		code = qmp_malformed(q, "an answer to nothing that was asked", text ? text : "", f);
		cJSON_free(text);
	} else if (cJSON_IsObject(error)) {
		*id = (unsigned int)n;
		code = qmp_refused(q, error, f);
	} else if (!cJSON_HasObjectItem(msg, "return")) {
		code = qmp_malformed(q, "an answer with neither return nor error", "", f);
	} else {
		*id = (unsigned int)n;
		q->error_class[0] = 0;
		if (ret)
			*ret = cJSON_DetachItemFromObjectCaseSensitive(msg, "return");
	}
	cJSON_Delete(msg);
	return code;
}

int qmp_call(struct qmp *q, const char *command, cJSON *args, cJSON **ret, struct fail *f)
{
	uint64_t deadline = now_ms() + q->timeout_ms;
	unsigned int want, got = 0;
	int code;

	q->error_class[0] = 0;
	if (ret)
		*ret = NULL;
	code = qmp_send(q, command, args, &want, f);
	while (!code && got != want) {
		code = qmp_poll(q, deadline, &got, ret, f);
		if (!code && got && got != want && ret) {
			cJSON_Delete(*ret); /* an answer that the console no longer waits for */
			*ret = NULL;
		}
		if (!code && !got && now_ms() >= deadline)
			code = qmp_silent(q, command, f);
	}
	return code;
}

void qmp_close(struct qmp *q)
{
	conn_close(q->conn, q->broken);
	q->conn = NULL;
}
