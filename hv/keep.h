/* SPDX-License-Identifier: MIT */
/* What must survive a restart of the host: guests that were defined, changed or deleted while it ran, and who owns the guests
 * that have moved (docs/OPERATING.md, "After a restart of a host"; docs/PROTOCOL.md, "Records"). Small records in the firmware's
 * variables, read by boot/, then kept in memory, too. CPU 0 only. */
#pragma once
#include "hv/config.h"

#define KEEP_SLOTS 48
#define KEEP_RECORD_BYTES 2048
#define KEEP_TOTAL_BYTES 16384  /* all records: firmware's stores are small */
#define KEEP_UNREADABLE 0xffff  /* len: there is a variable, but not one of ours */

struct keep {
	char host[NAME_MAX_LEN];
	struct keep_slot { u16 len; u8 bytes[KEEP_RECORD_BYTES]; } slots[KEEP_SLOTS];
	struct { char name[NAME_MAX_LEN]; u64 hash; } sections[CONFIG_MAX_GUESTS]; /* of godwit.conf, as the file has them */
	u32 n_sections;
	u64 outdated;                /* bit per slot: the section in godwit.conf is newer */
	bool damaged;                /* there is a record that cannot be read: it may be any guest's */
	struct error problem;        /* the last change that will not survive a restart, and why; code 0: none */
	char problem_guest[NAME_MAX_LEN];
	u8 problem_kind;             /* of the record that it is about */
};
extern struct keep *keep;        /* this host's; tests have several */

/* LOST: no record, but one is damaged. */
enum keep_owner { KEEP_NONE, KEEP_HERE, KEEP_GIVEN, KEEP_LOST };

/* Firmware phase, slots filled: makes c's guests those that the host has by godwit.conf and records. What is wrong with a record
 * goes into c->errors; then it counts as if it were not there. */
void keep_merge(struct config *c);
/* Once firmware can be called and the host's name is known for certain (its certificate may have had to tell it): says what
 * godwit.conf has overtaken, and forgets that. */
void keep_start(const char *host);

/* The calls below write at most what has changed, and return only when it is on stable storage (milliseconds), or the first
 * of several errors with *e: then nothing is lost but what they were to note, the log and query-host say so. */

/* The definition was made or changed by an operator. */
int keep_define(const struct guest_config *g, struct error *e) __must_check;
/* The guest was deleted by an operator. */
int keep_delete(const char *guest, struct error *e) __must_check;
/* Who has the guest, as far as is recorded. HERE, GIVEN: *epoch; GIVEN: peer, the host that it was given to. */
enum keep_owner keep_owner(const char *guest, char peer[NAME_MAX_LEN], u64 *epoch);
/* This host owns it (again), since that epoch. */
int keep_here(const char *guest, u64 epoch, struct error *e) __must_check;
/* To be called before the right to run it is given up: from now on a restart does not start it, and nobody without force. */
int keep_given(const char *guest, const char *peer, u64 epoch, struct error *e) __must_check;
/* It has come by a move and runs here. Its definition is recorded if this host has none of its own. */
int keep_came(const struct guest_config *g, u64 epoch, struct error *e) __must_check;
/* It has left by a move: what keep_came() recorded of its definition goes. */
int keep_left(const char *guest, struct error *e) __must_check;
