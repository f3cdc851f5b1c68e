/* SPDX-License-Identifier: MIT */
/* What a host tells about a migration (query-migrate), and how it is shown while it runs. */
#ifndef GODWIT_PROGRESS_H
#define GODWIT_PROGRESS_H

#include <cJSON.h>

#include "util.h"

enum { ROUNDS_MAX = 64 };

struct migration_round {
	double pages, zero, bytes, us; /* pages sent whole, zero pages, wire bytes, duration */
};

/* query-migrate; bytes and counts as doubles, as they come in JSON. */
struct migration {
	char status[24], phase[24], role[12], peer[64], verify[8], hash[80], error[400];
	double round, total, transferred, remaining, zero, normal, resent, mbps;
	double total_us, expected_ms, downtime_us, epoch; /* -1: not told */
	bool hash_verified;
	unsigned int rounds;
	struct migration_round r[ROUNDS_MAX];
};

/* Fills @m from the host's answer; an answer without status is an error. */
int migration_parse(const cJSON *json, struct migration *m, struct fail *f);

/* Whether nothing more will happen (completed, failed, cancelled or none). */
bool migration_ended(const struct migration *m);

enum progress_mode { PROGRESS_NONE, PROGRESS_LINES, PROGRESS_TTY };

struct progress {
	enum progress_mode mode;
	int phase;		 /* index of the phase shown, -1 at first */
	unsigned int rounds;	 /* finished rounds shown */
	double round, at_start;	 /* the round shown, and what remained when it began, bytes */
	uint64_t phase_ms, round_ms, line_ms; /* when these began; when a plain line was last written */
	bool live;		 /* the cursor is in a line that will be redrawn */
};

/* Shows on standard output: a live display on a terminal, plain lines elsewhere. */
void progress_init(struct progress *p, bool quiet);
void progress_update(struct progress *p, const struct migration *m);

/* One line between the others, for what the operator has to know. */
void progress_note(struct progress *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Ends the live line. */
void progress_end(struct progress *p);

/* The closing table: times, rounds, bytes, pages, hash. */
void progress_summary(const struct migration *m);

#endif
