/* SPDX-License-Identifier: MIT */
/* Asking several hosts at once, and finding the host that has a guest. */
#ifndef GODWIT_FLEET_H
#define GODWIT_FLEET_H

#include <argp.h>

#include "context.h"
#include "qmp.h"

/* One host's answers. A host that could not be asked has the reason in @fail. */
struct answer {
	struct host *host;
	struct qmp qmp;
	cJSON *info;   /* query-host, if it was asked for */
	cJSON *guests; /* query-guests: array of objects that each have a name and a status */
	struct fail fail;
};

struct fleet {
	struct answer *answer;
	unsigned int count, failed;
};

/*
 * Asks the @count hosts of @names (0: all known hosts) for their guests, and with @info about
 * themselves. The connections stay open until fleet_free(). Fails only if a name is not known or
 * no host is; hosts that do not answer are counted in @failed.
 */
int fleet_ask(struct context *ctx, char *const *names, unsigned int count, bool info,
	      struct fleet *fleet, struct fail *f);
void fleet_free(struct fleet *fleet);

/* "HOST...", as an argp child: the hosts that a command asks. @count 0: all. */
struct hosts_arg {
	char **names;
	unsigned int count;
};

extern const struct argp hosts_argp;

/* "GUEST" (must be given) and --host, as an argp child; a second argument is left to the parent. */
struct guest_arg {
	char *guest, *host;
};

extern const struct argp guest_argp;

/* The entry of the guest called @name, or NULL. */
const cJSON *guests_find(const cJSON *guests, const char *name);

/* Asks one host again for @name. GW_FAILED: it has no such guest. The caller deletes *@guest. */
int guest_ask(struct qmp *q, const char *name, cJSON **guest, struct fail *f);

/* Whether @guest (an entry of query-guests) belongs to @host and has not ended. */
bool guest_lives_on(const cJSON *guest, const char *host);

/* Whether @status is that of a guest that ended by an error. */
bool guest_died(const char *status);

/*
 * The one answer whose host has the guest @name: the host that owns it while it lives, else the
 * only one that lists it. NULL with @f set when there is none or it is not clear which. With
 * @strict, hosts that could not be asked make it unclear too.
 */
struct answer *fleet_find(struct fleet *fleet, const char *name, bool strict, struct fail *f);

#endif
