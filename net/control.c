/* SPDX-License-Identifier: MIT */
/* Sessions and their lines; what the commands do is in commands.c. */
#include "net/control.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "hv/vm/vm.h"
#include "mbedtls/base64.h"
#include "mig/mig.h"
#include "net/commands.h"
#include <cJSON.h>
#include <stdio.h>
#include <string.h>

#define READ_CHUNK 4096
#define COMMANDS_PER_TURN 8
#define MAX_VALUES 1024        /* in one request: bounds what the parser allocates */
#define CONSOLE_CHUNK 6144     /* raw bytes of one CONSOLE event */
#define CONSOLE_PER_TURN 4
#define CLOSE_US (3 * 1000000ull)

struct buffer { char *p; size_t len, cap; };

struct session {
	struct stream *s;
	enum role role;
	struct buffer line;       /* request being received */
	size_t looked;            /* there is no line end before */
	struct buffer out;        /* answers and events not yet taken by the stream */
	u64 last_us;              /* last request */
	u64 close_at;             /* 0: stays */
	const char *why;          /* it is to be closed */
	struct { char name[NAME_MAX_LEN]; u64 offset; } consoles[VM_MAX];
};

static struct session *sessions[CONTROL_MAX_SESSIONS];
static const struct boot_info *boot;
static bool started;

/* --- Buffers --- */

static bool buffer_grow(struct buffer *b, size_t cap)
{
	char *p = heap_calloc(1, cap);

	if (!p)
		return false;
	if (b->len)
		memcpy(p, b->p, b->len);
	heap_free(b->p);
	b->p = p;
	b->cap = cap;
	return true;
}

/* Takes n bytes from its beginning. An empty buffer of more than keep bytes gives its memory back. */
static void buffer_take(struct buffer *b, size_t n, size_t keep)
{
	b->len -= n;
	if (b->len) {
		memmove(b->p, b->p + n, b->len);
	} else if (b->cap > keep) {
		heap_free(b->p);
		*b = (struct buffer){ 0 };
	}
}

/* --- Output --- */

static void end(struct session *s, const char *why)
{
	if (!s->why)
		s->why = why;
}

static void send_bytes(struct session *s, const char *data, size_t len)
{
	size_t want = s->out.len + len;

	if (s->why)
		return;
	if (want > CONTROL_MAX_OUTPUT) {
		end(s, "it does not take the answers");
		return;
	}
	if (want > s->out.cap && !buffer_grow(&s->out, MIN(MAX(want, s->out.cap * 2), (size_t)CONTROL_MAX_OUTPUT))) {
		end(s, "this host has no memory for the answer");
		return;
	}
	memcpy(s->out.p + s->out.len, data, len);
	s->out.len = want;
}

/* Sends and frees the object. */
static void send_json(struct session *s, cJSON *o)
{
	char *text = o ? cJSON_PrintUnformatted(o) : NULL;

	if (text) {
		send_bytes(s, text, strlen(text));
		send_bytes(s, "\n", 1);
		cJSON_free(text);
	} else {
		end(s, "this host has no memory for the answer");
	}
	cJSON_Delete(o);
}

static cJSON *event_new(const char *name, cJSON **data)
{
	cJSON *o = cJSON_CreateObject(), *t;
	u64 wall = wall_us();

	cJSON_AddStringToObject(o, "event", name);
	*data = cJSON_AddObjectToObject(o, "data");
	t = cJSON_AddObjectToObject(o, "timestamp");
	cJSON_AddNumberToObject(t, "seconds", (double)(wall / 1000000));
	cJSON_AddNumberToObject(t, "microseconds", (double)(wall % 1000000));
	return o;
}

/* To everybody; frees it. */
static void event_broadcast(cJSON *o)
{
	char *text = cJSON_PrintUnformatted(o);

	cJSON_Delete(o);
	if (!text)
		return;
	for (unsigned i = 0; i < CONTROL_MAX_SESSIONS; i++) {
		if (sessions[i]) {
			send_bytes(sessions[i], text, strlen(text));
			send_bytes(sessions[i], "\n", 1);
		}
	}
	cJSON_free(text);
}

void mig_changed(const struct mig_info *info)
{
	cJSON *data, *o;

	if (!control_sessions())
		return;
	o = event_new("MIGRATION", &data);
	cJSON_AddStringToObject(data, "guest", info->guest);
	cJSON_AddStringToObject(data, "status", info->status);
	cJSON_AddStringToObject(data, "phase", info->phase ? info->phase : "");
	event_broadcast(o);
}

static __attribute__((noinline)) void state_event(const struct vm *vm)
{
	cJSON *data, *o;

	if (!control_sessions())
		return;
	o = event_new("GUEST_STATE", &data);
	cJSON_AddStringToObject(data, "guest", vm->config.name);
	cJSON_AddStringToObject(data, "status", vm_run_state_name(vm->state));
	cJSON_AddStringToObject(data, "reason", vm->reason);
	event_broadcast(o);
	if (vm->state != RS_GUEST_PANICKED)
		return;
	o = event_new("GUEST_PANICKED", &data);
	cJSON_AddStringToObject(data, "guest", vm->config.name);
	cJSON_AddStringToObject(data, "action", "shutdown");
	event_broadcast(o);
}

void vm_state_changed(struct vm *vm)
{
	/* May come from an exit handler, with the guest's vector registers live. */
	log_guard();
	state_event(vm);
}

/* --- Consoles --- */

static int console_slot(const struct session *s, const char *guest)
{
	for (int i = 0; i < VM_MAX; i++)
		if (!strcmp(s->consoles[i].name, guest))
			return i;
	return -1;
}

bool control_console_attach(struct session *s, const struct vm *vm, bool history)
{
	int i = console_slot(s, vm->config.name);

	if (i < 0)
		i = console_slot(s, "");
	if (i < 0)
		return false;
	snprintf(s->consoles[i].name, NAME_MAX_LEN, "%s", vm->config.name);
	s->consoles[i].offset = history ? 0 : vm->console_total;
	return true;
}

void control_console_detach(struct session *s, const char *guest)
{
	int i = console_slot(s, guest);

	if (i >= 0)
		s->consoles[i].name[0] = 0;
}

/* Sends what the guest has printed since. The ring holds the last CONSOLE_RING_BYTES; what a slow reader missed shows
 * as a gap between offsets. */
static bool console_send(struct session *s, unsigned slot)
{
	static u8 raw[CONSOLE_CHUNK];
	static unsigned char text[CONSOLE_CHUNK / 3 * 4 + 8];
	struct vm *vm = vm_find(s->consoles[slot].name);
	u64 *at = &s->consoles[slot].offset;
	cJSON *data, *o;
	size_t n, len;

	if (!vm || !vm->console)
		return false;
	if (*at > vm->console_total)
		*at = vm->console_total;
	if (vm->console_total - *at > CONSOLE_RING_BYTES)
		*at = vm->console_total - CONSOLE_RING_BYTES;
	n = MIN(vm->console_total - *at, (u64)CONSOLE_CHUNK);
	if (!n || s->out.len > CONTROL_PAUSE_BYTES)
		return false;
	for (size_t i = 0; i < n; i++)
		raw[i] = vm->console[(*at + i) % CONSOLE_RING_BYTES];
	if (mbedtls_base64_encode(text, sizeof(text), &len, raw, n))
		return false;
	o = event_new("CONSOLE", &data);
	cJSON_AddStringToObject(data, "guest", vm->config.name);
	cJSON_AddNumberToObject(data, "offset", (double)*at);
	cJSON_AddStringToObject(data, "data", (char *)text);
	send_json(s, o);
	*at += n;
	return true;
}

/* --- Requests --- */

static void send_error(struct session *s, cJSON *id, const char *class, const char *desc)
{
	cJSON *o = cJSON_CreateObject(), *e = cJSON_AddObjectToObject(o, "error");

	cJSON_AddStringToObject(e, "class", class);
	cJSON_AddStringToObject(e, "desc", desc);
	json_attach(o, "id", id);
	send_json(s, o);
}

/* Requests are small; one with thousands of values is an attack on the heap. */
static bool too_many_values(const char *line, size_t len)
{
	bool text = false;
	unsigned n = 0;

	for (size_t i = 0; i < len; i++) {
		if (line[i] == '\\')
			i++;
		else if (line[i] == '"')
			text = !text;
		else
			n += !text && (line[i] == ',' || line[i] == '[' || line[i] == '{');
	}
	return n > MAX_VALUES;
}

static void request(struct session *s, const char *line, size_t len)
{
	struct command_call call = { .session = s, .role = s->role, .who = s->s };
	const char *end_of_json;
	cJSON *req, *id, *cmd, *args;

	while (len && (line[len - 1] == '\r' || line[len - 1] == ' '))
		len--;
	if (!len)
		return;
	s->last_us = now_us();
	if (too_many_values(line, len)) {
		send_error(s, NULL, "GenericError", "the request has more than 1024 values");
		return;
	}
	req = cJSON_ParseWithLengthOpts(line, len, &end_of_json, false);
	if (!req || !cJSON_IsObject(req) || end_of_json != line + len) {
		cJSON_Delete(req);
		send_error(s, NULL, "GenericError", "the request is not one JSON object in one line; a request looks like "
			"{\"execute\":\"query-version\"}");
		return;
	}
	id = cJSON_DetachItemFromObjectCaseSensitive(req, "id");
	cmd = cJSON_GetObjectItemCaseSensitive(req, "execute");
	args = cJSON_GetObjectItemCaseSensitive(req, "arguments");
	if (!cJSON_IsString(cmd) || (args && !cJSON_IsObject(args))) {
		send_error(s, id, "GenericError", "the request needs \"execute\" (text), and \"arguments\" must be an object");
		cJSON_Delete(req);
		return;
	}
	command_run(&call, cmd->valuestring, args);
	if (call.error_class) {
		cJSON_Delete(call.ret);
		send_error(s, id, call.error_class, call.error.text);
	} else {
		cJSON *o = cJSON_CreateObject();

		json_attach(o, "return", call.ret ? call.ret : cJSON_CreateObject());
		json_attach(o, "id", id);
		send_json(s, o);
	}
	cJSON_Delete(req);
}

/* Takes complete lines out of the buffer. */
static unsigned lines_run(struct session *s)
{
	size_t at = 0;
	unsigned n = 0;
	char *eol;

	if (!s->line.len)
		return 0;
	while (n < COMMANDS_PER_TURN && !s->why && s->out.len < CONTROL_PAUSE_BYTES) {
		eol = memchr(s->line.p + s->looked, '\n', s->line.len - s->looked);
		if (!eol) {
			s->looked = s->line.len;
			break;
		}
		request(s, s->line.p + at, (size_t)(eol - (s->line.p + at)));
		at = s->looked = (size_t)(eol - s->line.p) + 1;
		n++;
	}
	s->looked -= at;
	buffer_take(&s->line, at, READ_CHUNK);
	return n;
}

static void session_free(struct session *s)
{
	for (unsigned i = 0; i < CONTROL_MAX_SESSIONS; i++)
		if (sessions[i] == s)
			sessions[i] = NULL;
	stream_close(s->s);
	heap_free(s->line.p);
	heap_free(s->out.p);
	heap_free(s);
}

/* Returns whether it did something; s may be freed. */
static bool session_turn(struct session *s, u64 now)
{
	bool busy = false, attached = false;
	struct buffer *line = &s->line;
	int r = 0;

	/* Input: none while answers pile up, so a client that does not read cannot make us work. */
	if (!s->why && s->out.len < CONTROL_PAUSE_BYTES) {
		if (line->len == line->cap && s->looked == line->len &&
		    (line->cap == CONTROL_MAX_LINE ||
		     !buffer_grow(line, MIN(MAX(line->cap * 2, (size_t)READ_CHUNK), (size_t)CONTROL_MAX_LINE)))) {
			send_error(s, NULL, "GenericError", line->cap == CONTROL_MAX_LINE ? "the request is longer than 64 KiB" :
				"this host has no memory for the request");
			end(s, "its request was too long");
		}
		if (line->len < line->cap)
			r = stream_read(s->s, line->p + line->len, line->cap - line->len);
		if (r > 0)
			line->len += (size_t)r;
		busy = lines_run(s) || r > 0;
	}
	for (unsigned i = 0; i < VM_MAX && !s->why; i++) {
		attached |= s->consoles[i].name[0] != 0;
		for (unsigned k = 0; s->consoles[i].name[0] && k < CONSOLE_PER_TURN && console_send(s, i); k++)
			busy = true;
	}
	if (s->out.len) {
		int w = stream_write(s->s, s->out.p, s->out.len);

		if (w > 0) {
			buffer_take(&s->out, (size_t)w, READ_CHUNK * 4);
			busy = true;
		}
		if (w < 0)
			r = w;
	}
	if (attached)
		s->last_us = MAX(s->last_us, now); /* watching is no idleness */
	else if (!s->why && now > s->last_us + CONTROL_IDLE_US)
		end(s, "nothing was asked for 30 minutes");
	if (s->why && !s->close_at)
		s->close_at = now + CLOSE_US;
	if (r < 0 || (s->why && (!s->out.len || now >= s->close_at))) {
		log_info("control", "%s (%s) at %s left: %s", s->s->peer_name, s->s->peer_role, s->s->peer_addr,
			 s->why ? s->why : s->s->error.text);
		session_free(s);
		return true;
	}
	return busy;
}

/* --- Interface --- */

static void *json_malloc(size_t n)
{
	return heap_calloc(1, n);
}

void control_init(const struct boot_info *bi)
{
	cJSON_Hooks hooks = { json_malloc, heap_free };

	cJSON_InitHooks(&hooks);
	boot = bi;
	started = false;
	commands_init(bi);
}

static enum role role_of(const char *name)
{
	if (!strcmp(name, "admin"))
		return ROLE_ADMIN;
	return strcmp(name, "operator") ? ROLE_VIEWER : ROLE_OPERATOR; /* hosts may look, like viewers */
}

void control_accept(struct stream *stream)
{
	unsigned slot = CONTROL_MAX_SESSIONS, same = 0;
	struct session *s;
	cJSON *o, *q, *v;

	for (unsigned i = CONTROL_MAX_SESSIONS; i-- > 0;) {
		if (!sessions[i])
			slot = i;
		else
			same += !strcmp(sessions[i]->s->peer_name, stream->peer_name);
	}
	if (same >= CONTROL_MAX_PER_NAME)
		slot = CONTROL_MAX_SESSIONS;
	s = slot < CONTROL_MAX_SESSIONS ? heap_calloc(1, sizeof(*s)) : NULL;
	if (!s) {
		log_guest(LOG_WARN, "control", "%s (%s) at %s was turned away: %s", stream->peer_name, stream->peer_role,
			stream->peer_addr, slot < CONTROL_MAX_SESSIONS ? "no memory" : same < CONTROL_MAX_PER_NAME ?
			"all sessions are in use" : "it has 12 sessions already");
		stream_close(stream);
		return;
	}
	s->s = stream;
	s->role = role_of(stream->peer_role);
	s->last_us = now_us();
	sessions[slot] = s;
	log_info("control", "%s (%s) at %s connected", stream->peer_name, stream->peer_role, stream->peer_addr);
	o = cJSON_CreateObject();
	q = cJSON_AddObjectToObject(o, "QMP");
	v = cJSON_AddObjectToObject(q, "version");
	cJSON_AddStringToObject(v, "godwit", GODWIT_VERSION);
	cJSON_AddNumberToObject(v, "protocol", GODWIT_PROTOCOL);
	cJSON_AddArrayToObject(q, "capabilities");
	cJSON_AddStringToObject(q, "host", boot->config.host_name);
	send_json(s, o);
}

bool control_poll(void)
{
	u64 now = now_us();
	bool busy = false;

	if (!started) {
		started = true;
		commands_started();
	}
	busy = commands_poll();
	for (unsigned i = 0; i < CONTROL_MAX_SESSIONS; i++)
		if (sessions[i])
			busy |= session_turn(sessions[i], now);
	return busy;
}

unsigned control_sessions(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < CONTROL_MAX_SESSIONS; i++)
		n += !!sessions[i];
	return n;
}
