/* SPDX-License-Identifier: MIT */
#include "console.h"

#include <argp.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include <mbedtls/base64.h>

#include "context.h"
#include "fleet.h"

enum {
	ESCAPE = 0x1d, /* Ctrl-] */
	INPUT_MAX = 512,
	FIND_MS = 500,	    /* between two searches for a guest that is on its way */
	RETRY_MS = 100,	    /* between two tries to type to a guest that does not read */
	EOF_IDLE_MS = 2000, /* how long to wait for output when the input has ended */
	DRAIN_MS = 500,	    /* the last output may come after the event that tells the end */
};

struct console {
	struct context ctx;
	struct guest_arg at;
	bool no_input, follow, history;
	uint64_t idle_ms; /* leave after so long without output; 0: never */

	struct host *host;
	struct qmp q;
	bool raw;	      /* the terminal is in raw mode: lines need \r\n */
	bool moved, ended;    /* the guest left for another host; it is off */
	char status[24], reason[300];
	bool died;	      /* it ended by an error */
	bool repeats;	      /* the new host may repeat what the old one has shown */
	int write_errno;      /* why standard output is gone; 0: it is not */
	uint64_t seen_ms;     /* when output came last */
	double next;	      /* offset after the last byte shown */

	unsigned char typed[INPUT_MAX]; /* not taken by the guest yet */
	size_t typed_len, sent_len; /* sent_len of them are in the write that is pending */
	unsigned int pending; /* id of the write that waits for its answer; 0: none */
	uint64_t typed_ms;    /* when it was typed */
	uint64_t sent_ms;     /* when it was sent last */
	uint64_t retry_ms;    /* when to send (again) what was typed; 0: not now */
	uint64_t leave_ms;    /* when the operator asked to leave; 0: not */
};

static struct termios saved_termios;
static bool termios_changed;

static void terminal_restore(void)
{
	if (termios_changed)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved_termios);
	termios_changed = false;
}

static void on_end(int sig)
{
	terminal_restore();
	raise(sig); /* SA_RESETHAND: now it ends us */
}

static bool terminal_raw(void)
{
	struct sigaction sa = { .sa_handler = on_end, .sa_flags = SA_RESETHAND };
	struct termios t;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved_termios) < 0)
		return false;
	t = saved_termios;
	cfmakeraw(&t);
	if (tcsetattr(STDIN_FILENO, TCSANOW, &t) < 0)
		return false;
	termios_changed = true;
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	return true;
}

static void console_note(const struct console *c, const char *text)
{
	const char *eol = c->raw ? "\r\n" : "\n";

	fflush(stdout);
	fprintf(stderr, "%s[godwit: %s]%s", eol, text, eol);
}

/* @data with another piece of output in it; nothing if that is empty. */
static void console_json(const cJSON *data, double offset, const unsigned char *piece, size_t n)
{
	size_t size = n / 3 * 4 + 5, len;
	unsigned char *text = malloc(size);
	cJSON *out = cJSON_Duplicate(data, true);
	char *line = NULL;

	if (n && text && !mbedtls_base64_encode(text, size, &len, piece, n)) {
		cJSON_ReplaceItemInObjectCaseSensitive(out, "offset", cJSON_CreateNumber(offset));
		cJSON_ReplaceItemInObjectCaseSensitive(out, "data", cJSON_CreateString((char *)text));
		line = cJSON_PrintUnformatted(out);
	}
	if (line)
		printf("%s\n", line);
	cJSON_free(line);
	cJSON_Delete(out);
	free(text);
}

static void console_output(struct console *c, const cJSON *data)
{
	const char *text = json_text(data, "data", "");
	double offset = json_number(data, "offset", c->next);
	size_t len = strlen(text), n = 0, skip = 0;
	unsigned char *buf = malloc(len + 1);

	c->seen_ms = now_ms();
	if (!buf || mbedtls_base64_decode(buf, len + 1, &n, (const unsigned char *)text, len)) {
		console_note(c, "the host sent console output that cannot be read");
	} else {
		if (c->repeats && offset < c->next)
			skip = c->next - offset < (double)n ? (size_t)(c->next - offset) : n;
		if (c->ctx.json)
			console_json(data, offset + (double)skip, buf + skip, n - skip);
		else
			fwrite(buf + skip, 1, n - skip, stdout);
	}
	if (skip < n || !c->repeats) {
		c->repeats = false;
		c->next = offset + (double)n;
	}
	if ((fflush(stdout) || ferror(stdout)) && !c->write_errno)
		c->write_errno = errno;
	free(buf);
}

static void console_event(void *arg, const char *name, const cJSON *data)
{
	struct console *c = arg;
	const char *status = json_text(data, "status", "");

	if (strcmp(json_text(data, "guest", ""), c->at.guest))
		return;
	if (!strcmp(name, "CONSOLE")) {
		console_output(c, data);
	} else if (!strcmp(name, "MIGRATION")) {
		c->moved |= !strcmp(status, "completed");
	} else if (!strcmp(name, "GUEST_STATE")) {
		c->moved |= !strcmp(status, "postmigrate");
		c->died = guest_died(status);
		c->ended = c->died || !strcmp(status, "shutdown");
		c->seen_ms = now_ms();
		snprintf(c->status, sizeof(c->status), "%s", status);
		snprintf(c->reason, sizeof(c->reason), "%s", json_text(data, "reason", ""));
	}
}

/* Finds the guest, connects and attaches. @again: after the guest has changed hosts. */
static int console_attach(struct console *c, bool again, struct fail *f)
{
	struct fleet fleet;
	struct answer *at;
	cJSON *args;
	int code;

	qmp_close(&c->q);
	code = fleet_ask(&c->ctx, &c->at.host, c->at.host && !again ? 1 : 0, false, &fleet, f);
	if (code)
		return code;
	at = fleet_find(&fleet, c->at.guest, false, f);
	if (at && again && !guest_lives_on(guests_find(at->guests, c->at.guest), at->host->name)) {
		fail_set(f, GW_FAILED, "the guest '%s' runs on no host that answers", c->at.guest);
		at = NULL;
	}
	if (at) {
		c->host = at->host;
		c->q = at->qmp;
		c->q.event = console_event;
		c->q.event_arg = c;
		at->qmp.conn = NULL; /* now ours */
	}
	fleet_free(&fleet);
	if (!at)
		return f->code;
	c->moved = c->ended = false;
	args = qmp_guest(c->at.guest);
	/* History and its offsets travel with the guest, so nothing is lost or shown twice. */
	cJSON_AddBoolToObject(args, "history", again || c->history);
	c->repeats = again;
	code = qmp_call(&c->q, "console-attach", args, NULL, f);
	c->seen_ms = now_ms();
	return code;
}

/* As console_attach(), but the guest may still be on its way: keeps trying for three timeouts. */
static int console_find_again(struct console *c, struct fail *f)
{
	uint64_t deadline = now_ms() + 3 * c->ctx.timeout_ms;
	char text[128];
	int code;

	do {
		code = console_attach(c, true, f);
		if (code)
			poll(NULL, 0, FIND_MS);
	} while (code && now_ms() < deadline);
	if (!code) {
		snprintf(text, sizeof(text), "'%s' is on '%s' now", c->at.guest, c->host->name);
		console_note(c, text);
	}
	return code;
}

/* Sends what was typed and not taken yet. */
static int console_type(struct console *c, struct fail *f)
{
	unsigned char text[INPUT_MAX * 2];
	cJSON *args = cJSON_CreateObject();
	size_t len;

	mbedtls_base64_encode(text, sizeof(text), &len, c->typed, c->typed_len);
	cJSON_AddStringToObject(args, "device", c->at.guest);
	cJSON_AddStringToObject(args, "data", (char *)text);
	cJSON_AddStringToObject(args, "format", "base64");
	c->retry_ms = 0;
	c->sent_ms = now_ms();
	c->sent_len = c->typed_len;
	return qmp_send(&c->q, "ringbuf-write", args, &c->pending, f);
}

/* Reads what is typed. The escape key works even when the guest takes nothing. */
static void console_input(struct console *c, bool *eof)
{
	size_t room = sizeof(c->typed) - c->typed_len;
	unsigned char buf[INPUT_MAX], *escape;
	ssize_t n = read(STDIN_FILENO, buf, c->raw ? sizeof(buf) : room);
	size_t len;

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0) {
		*eof = true;
		c->seen_ms = now_ms();
		if (!c->idle_ms)
			c->idle_ms = EOF_IDLE_MS;
		return;
	}
	escape = c->raw ? memchr(buf, ESCAPE, (size_t)n) : NULL;
	len = escape ? (size_t)(escape - buf) : (size_t)n;
	len = len < room ? len : room;
	memcpy(c->typed + c->typed_len, buf, len);
	if (!c->typed_len)
		c->typed_ms = c->retry_ms = now_ms();
	c->typed_len += len;
	if (escape)
		c->leave_ms = now_ms();
}

/*
 * The answer to a write. A guest that does not read (it boots, or is frozen for a move) makes the
 * host refuse; the same bytes are sent again for one timeout.
 */
static int console_typed(struct console *c, int code)
{
	c->pending = 0;
	if (!code) {
		c->typed_len -= c->sent_len;
		memmove(c->typed, c->typed + c->sent_len, c->typed_len);
		c->seen_ms = c->typed_ms = c->retry_ms = now_ms();
	} else if (strcmp(c->q.error_class, "GenericError") ||
		   now_ms() - c->typed_ms >= c->ctx.timeout_ms) {
		return code;
	} else {
		c->retry_ms = now_ms() + RETRY_MS;
	}
	return GW_OK;
}

/* The guest is off, or elsewhere and not to be followed. */
static int console_ended(struct console *c, struct fail *f)
{
	char text[400];

	if (!c->ended) {
		console_note(c, "the guest moved to another host; --follow goes with it");
		return GW_OK;
	}
	snprintf(text, sizeof(text), "guest '%s' is off: %s%s%s", c->at.guest, c->status,
		 c->reason[0] ? ", " : "", c->reason);
	console_note(c, text);
	return c->died ? fail_set(f, GW_BAD_END, "guest '%s' died: %s", c->at.guest,
				  c->reason[0] ? c->reason : c->status) : GW_OK;
}

/* Until the operator leaves (GW_OK), the guest ends, or something fails. */
static int console_run(struct console *c, struct fail *f)
{
	bool eof = c->no_input;
	unsigned int id;
	int code;

	for (;;) {
		bool over = c->ended || (c->moved && !c->follow);
		uint64_t idle = over ? DRAIN_MS : c->typed_len ? 0 : c->idle_ms, now = now_ms();
		uint64_t end = idle ? c->seen_ms + idle : !c->typed_len ? 0 : c->retry_ms ?
			c->retry_ms : c->sent_ms + c->ctx.timeout_ms;
		bool take = !eof && !c->leave_ms && !over && (c->raw || !c->typed_len);
		struct pollfd p[2] = { { .fd = conn_fd(c->q.conn), .events = POLLIN },
				       { .fd = take ? STDIN_FILENO : -1, .events = POLLIN } };

		if (c->write_errno)
			return fail_set(f, GW_FAILED, "cannot write the console's output: %s",
					strerror(c->write_errno));
		if (idle && now >= end)
			return over ? console_ended(c, f) : GW_OK;
		if (c->leave_ms && (!c->typed_len || now - c->leave_ms >= DRAIN_MS))
			return GW_OK;
		if (c->pending && now >= c->sent_ms + c->ctx.timeout_ms)
			return fail_set(f, GW_NO_HOST, "host '%s' did not say within %.1f s whether it took"
					" what was typed; it may be busy or stuck", c->host->name,
					(double)c->ctx.timeout_ms / 1000);
		if (c->leave_ms)
			end = c->leave_ms + DRAIN_MS;
		poll(p, 2, conn_pending(c->q.conn) ? 0 : !end ? -1 : now < end ? (int)(end - now) : 0);

		code = qmp_poll(&c->q, now_ms(), &id, NULL, f);
		if (id && id == c->pending)
			code = console_typed(c, code);
		if (!code && take && p[1].revents)
			console_input(c, &eof);
		if (!code && c->typed_len && c->retry_ms && now_ms() >= c->retry_ms)
			code = console_type(c, f);
		if (code && !c->q.broken)
			return code; /* for example: this identity may look but not type */
		if (code && over)
			return console_ended(c, f);
		if (code || (c->moved && c->follow)) {
			/* Whether a write without an answer was taken is not known: once is better. */
			if (c->pending)
				c->typed_len = 0;
			c->pending = 0;
			c->retry_ms = now_ms();
			if (c->follow)
				code = console_find_again(c, f);
			if (code)
				return code;
		}
	}
}

enum { OPT_NO_INPUT = 0x200, OPT_FOLLOW, OPT_HISTORY, OPT_IDLE };

static const struct argp_option console_options[] = {
	{ "history", OPT_HISTORY, 0, 0, "first show the output that the host has kept", 0 },
	{ "follow", OPT_FOLLOW, 0, 0, "when the guest moves to another host, go with it", 0 },
	{ "no-input", OPT_NO_INPUT, 0, 0, "only show; standard input is not read", 0 },
	{ "idle", OPT_IDLE, "SECONDS", 0, "leave after so long without output (default: never, but 2 s"
	  " after the end of an input that is not a terminal)", 0 },
	{ 0 },
};

static error_t console_parse(int key, char *arg, struct argp_state *state)
{
	struct console *c = state->input;
	char *end;
	double s;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &c->at;
		state->child_inputs[1] = &c->ctx;
		break;
	case OPT_HISTORY: c->history = true; break;
	case OPT_FOLLOW: c->follow = true; break;
	case OPT_NO_INPUT: c->no_input = true; break;
	case OPT_IDLE:
		s = strtod(arg, &end);
		if (end == arg || *end || !(s >= 0.01 && s <= 1e6))
			argp_error(state, "'%s' is not a number of seconds", arg);
		c->idle_ms = (uint64_t)(s * 1000);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

int console_main(int argc, char **argv)
{
	static const struct argp_child children[] = { { &guest_argp, 0, NULL, 0 },
						      { &context_argp, 0, "Common options:", 1 }, { 0 } };
	static const struct argp argp = {
		console_options, console_parse, "GUEST",
		"Connects this terminal to a guest's serial console. Ctrl-] leaves. Exit code 0 when you"
		" leave or the guest is switched off, 6 when it dies.", children, NULL, NULL };
	struct console c = { 0 };
	struct fail f = { 0 };
	char text[200];
	int code;

	context_init(&c.ctx);
	argp_parse(&argp, argc, argv, 0, NULL, &c);
	code = context_open(&c.ctx, &f);
	if (!code)
		code = console_attach(&c, false, &f);
	if (!code) {
		c.raw = !c.no_input && terminal_raw();
		if (c.raw) {
			snprintf(text, sizeof(text), "console of '%s' on '%s'; Ctrl-] leaves", c.at.guest,
				 c.host->name);
			console_note(&c, text);
		}
		code = console_run(&c, &f);
		terminal_restore();
		if (c.raw)
			fputc('\n', stderr);
	}
	if (code) {
		c.ctx.json = false; /* standard output is the console's */
		context_print_fail(&c.ctx, &f);
	}
	qmp_close(&c.q);
	context_free(&c.ctx);
	return code;
}
