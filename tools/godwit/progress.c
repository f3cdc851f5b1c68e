/* SPDX-License-Identifier: MIT */
#include "progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "qmp.h"

enum { BAR_MIN = 6, BAR_MAX = 40, PLAIN_EVERY_MS = 5000 };
enum { PHASE_PRECOPY = 2, PHASE_FREEZE = 3, PHASE_DONE = 6, PHASES = 7 };

static const char *const phase_names[PHASES] = { "check", "connect", "precopy", "freeze", "commit",
						 "resume", "done" };

int migration_parse(const cJSON *json, struct migration *m, struct fail *f)
{
	const cJSON *ram = cJSON_GetObjectItemCaseSensitive(json, "ram"), *r;
	const char *status = json_text(json, "status", NULL);

	memset(m, 0, sizeof(*m));
	if (!status)
		return fail_set(f, GW_NO_HOST, "the host answered query-migrate without a status: it is of"
				" another version");
	snprintf(m->status, sizeof(m->status), "%s", status);
	snprintf(m->phase, sizeof(m->phase), "%s", json_text(json, "phase", ""));
	snprintf(m->role, sizeof(m->role), "%s", json_text(json, "role", ""));
	snprintf(m->peer, sizeof(m->peer), "%s", json_text(json, "peer", ""));
	snprintf(m->verify, sizeof(m->verify), "%s", json_text(json, "verify", ""));
	snprintf(m->hash, sizeof(m->hash), "%s", json_text(json, "hash", ""));
	snprintf(m->error, sizeof(m->error), "%s", json_text(json, "error-desc", ""));
	m->round = json_number(json, "round", 0);
	m->total = json_number(ram, "total", 0);
	m->transferred = json_number(ram, "transferred", 0);
	m->remaining = json_number(ram, "remaining", 0);
	m->zero = json_number(ram, "duplicate", 0);
	m->normal = json_number(ram, "normal", 0);
	m->resent = json_number(ram, "pages-resent", 0);
	m->mbps = json_number(ram, "mbps", 0);
	m->total_us = json_number(json, "total-time-us", json_number(json, "total-time", 0) * 1000);
	m->expected_ms = json_number(json, "expected-downtime", -1);
	m->downtime_us = json_number(json, "downtime-us", -1);
	m->epoch = json_number(json, "epoch", -1);
	m->hash_verified = json_true(json, "hash-verified");
	cJSON_ArrayForEach(r, cJSON_GetObjectItemCaseSensitive(json, "rounds")) {
		if (m->rounds == ROUNDS_MAX)
			break;
		m->r[m->rounds].pages = json_number(r, "pages", 0);
		m->r[m->rounds].zero = json_number(r, "zero", 0);
		m->r[m->rounds].bytes = json_number(r, "bytes", 0);
		m->r[m->rounds++].us = json_number(r, "us", 0);
	}
	return GW_OK;
}

bool migration_ended(const struct migration *m)
{
	return !strcmp(m->status, "completed") || !strcmp(m->status, "failed") ||
	       !strcmp(m->status, "cancelled") || !strcmp(m->status, "none");
}

void progress_init(struct progress *p, bool quiet)
{
	memset(p, 0, sizeof(*p));
	p->mode = quiet ? PROGRESS_NONE : isatty(STDOUT_FILENO) ? PROGRESS_TTY : PROGRESS_LINES;
	p->phase = -1;
	p->line_ms = now_ms();
}

/* Prints a line for good, in place of the live one. */
static void progress_line(struct progress *p, const char *text)
{
	if (p->mode == PROGRESS_NONE)
		return;
	printf("%s%s\n", p->live ? "\r\033[K" : "", text);
	p->live = false;
	p->line_ms = now_ms();
	fflush(stdout);
}

void progress_note(struct progress *p, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	progress_line(p, text);
}

void progress_end(struct progress *p)
{
	if (p->live)
		printf("\r\033[K");
	p->live = false;
	fflush(stdout);
}

static const char *phase_title(int phase)
{
	return phase == PHASE_PRECOPY ? "pre-copy" : phase_names[phase];
}

/* How many rounds are finished; the last of all is the one of the freeze. */
static unsigned int rounds_before(const struct migration *m)
{
	return m->round < 1 ? 0 : m->round > ROUNDS_MAX ? ROUNDS_MAX : (unsigned int)m->round - 1;
}

static void rounds_show(struct progress *p, const struct migration *m, unsigned int upto)
{
	char bytes[24], time[24], rate[24], text[256];

	for (; p->rounds < upto && p->rounds < m->rounds; p->rounds++) {
		const struct migration_round *r = &m->r[p->rounds];

		snprintf(text, sizeof(text), "  pre-copy  round %-3u %8.0f pages + %.0f zero, %s in %s"
			 " (%s/s)", p->rounds + 1, r->pages, r->zero,
			 format_bytes(bytes, sizeof(bytes), r->bytes),
			 format_us(time, sizeof(time), r->us),
			 format_bytes(rate, sizeof(rate), r->us > 0 ? r->bytes * 1e6 / r->us : 0));
		progress_line(p, text);
	}
}

/* Columns of the terminal; without one, enough for a line in a log. */
static int columns_get(const struct progress *p)
{
	struct winsize w = { 0 };

	if (p->mode != PROGRESS_TTY)
		return 110;
	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 10 ? w.ws_col : 80;
}

/* A pre-copy round under way; the bar takes the room that the figures leave. */
static void precopy_text(const struct progress *p, const struct migration *m, char *text,
			 size_t size)
{
	static const char full[] = "########################################";
	static const char empty[] = "........................................";
	double done = p->at_start - m->remaining, s = (double)(now_ms() - p->round_ms) / 1000;
	double part = p->at_start > 0 && done > 0 ? done / p->at_start : 0;
	int columns = columns_get(p), bar, filled;
	char tail[160], a[24], time[24], sent[40] = "";
	int n;

	if (columns >= 100)
		snprintf(sent, sizeof(sent), ", %s sent", format_bytes(a, sizeof(a), m->transferred));
	n = snprintf(tail, sizeof(tail), " %3.0f%%  %s left%s, %.1f MB/s", 100 * part,
		     format_bytes(a, sizeof(a), m->remaining), sent, m->mbps / 8);
	if (done > 0 && s > 0)
		n += snprintf(tail + n, sizeof(tail) - (size_t)n, ", %s",
			      format_us(time, sizeof(time), m->remaining / (done / s) * 1e6));
	if (m->expected_ms > 0 && n < (int)sizeof(tail)) /* 0: no round has been measured yet */
		n += snprintf(tail + n, sizeof(tail) - (size_t)n, "; freeze ~%.0f ms", m->expected_ms);
	bar = columns - 20 - n;
	bar = bar < BAR_MIN ? BAR_MIN : bar > BAR_MAX ? BAR_MAX : bar;
	filled = (int)(part * bar);
	snprintf(text, size, "  pre-copy  %-3.0f [%.*s%.*s]%s", m->round, filled, full, bar - filled,
		 empty, tail);
}

/* The line about what is going on now. */
static void now_text(const struct progress *p, const struct migration *m, char *text, size_t size)
{
	const char *title = phase_title(p->phase);
	char a[24];
	size_t n;

	if (!strcmp(m->status, "wait-commit"))
		snprintf(text, size, "  %-9s waiting for '%s' to answer; the guest is paused meanwhile, it"
			 " never runs twice", title, m->peer);
	else if (p->phase == PHASE_PRECOPY)
		precopy_text(p, m, text, size);
	else if (p->phase == PHASE_FREEZE && m->expected_ms > 0)
		snprintf(text, size, "  %-9s ... (predicted %.0f ms), %s to send", title, m->expected_ms,
			 format_bytes(a, sizeof(a), m->remaining));
	else
		snprintf(text, size, "  %-9s ...", title);
	n = strlen(text);
	if (!strcmp(m->status, "cancelling"))
		snprintf(text + n, size - n, "  cancelling");
}

static void live_draw(struct progress *p, const char *text)
{
	printf("\r\033[K%.*s", columns_get(p) - 1, text);
	fflush(stdout);
	p->live = true;
}

static void phase_enter(struct progress *p, const struct migration *m, int phase)
{
	char text[128], time[24];
	uint64_t now = now_ms();

	for (; p->phase < phase; p->phase++) {
		if (p->phase == PHASE_PRECOPY)
			rounds_show(p, m, rounds_before(m)); /* the round now is the freeze */
		else if (p->phase >= 0) {
			/* Phases that came and went between two questions have no time of their own. */
			/* How long the guest stood still is only told, exactly, at the end. */
			if (p->phase_ms && p->phase < PHASE_FREEZE)
				format_us(time, sizeof(time), (double)(now - p->phase_ms) * 1000);
			else
				time[0] = 0;
			snprintf(text, sizeof(text), "  %-9s ok%s%s", phase_title(p->phase),
				 time[0] ? "  " : "", time);
			progress_line(p, text);
		}
		p->phase_ms = p->phase + 1 == phase ? now : 0;
	}
}

void progress_update(struct progress *p, const struct migration *m)
{
	char text[400];
	int phase;

	for (phase = 0; phase < PHASES && strcmp(phase_names[phase], m->phase); phase++)
		;
	if (!strcmp(m->status, "completed"))
		phase = PHASE_DONE;
	if (phase == PHASES || p->mode == PROGRESS_NONE)
		return;
	phase_enter(p, m, phase);
	if (migration_ended(m))
		return;
	if (p->phase == PHASE_PRECOPY) {
		rounds_show(p, m, rounds_before(m));
		if (m->round != p->round || m->remaining > p->at_start) {
			p->round = m->round;
			p->at_start = m->remaining;
			p->round_ms = now_ms();
		}
	}
	now_text(p, m, text, sizeof(text));
	if (p->mode == PROGRESS_TTY)
		live_draw(p, text);
	else if (now_ms() - p->line_ms >= PLAIN_EVERY_MS)
		progress_line(p, text);
}

void progress_summary(const struct migration *m)
{
	char a[24], b[24], c[24], name[24];
	unsigned int i;

	printf("  total %s, freeze %s, %s sent\n", format_us(a, sizeof(a), m->total_us),
	       m->downtime_us < 0 ? "not told" : format_us(b, sizeof(b), m->downtime_us),
	       format_bytes(c, sizeof(c), m->transferred));
	if (m->rounds)
		printf("   round    pages     zero       bytes       time          rate\n");
	for (i = 0; i < m->rounds; i++) {
		snprintf(name, sizeof(name), i + 1 == m->round ? "freeze" : "%u", i + 1);
		printf("  %6s %8.0f %8.0f %11s %10s %11s/s\n", name, m->r[i].pages, m->r[i].zero,
		       format_bytes(a, sizeof(a), m->r[i].bytes), format_us(b, sizeof(b), m->r[i].us),
		       format_bytes(c, sizeof(c), m->r[i].us > 0 ? m->r[i].bytes * 1e6 / m->r[i].us : 0));
	}
	printf("  pages: %.0f sent, %.0f zero, %.0f of them sent again\n", m->normal, m->zero, m->resent);
	printf("  memory hash (%s): %s%s%s\n", m->verify[0] ? m->verify : "fold",
	       m->hash_verified ? "the same on both hosts" : "NOT VERIFIED", m->hash[0] ? ", " : "",
	       m->hash);
}
