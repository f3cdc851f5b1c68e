/* SPDX-License-Identifier: MIT */
/*
 * The control protocol: one JSON object per line, in the shape of QEMU's QMP. Everything that a
 * host sends is checked here; texts in it are made safe to print.
 */
#ifndef GODWIT_QMP_H
#define GODWIT_QMP_H

#include <cJSON.h>

#include "tls.h"
#include "util.h"

struct qmp {
	struct conn *conn;
	const struct host *host;
	uint64_t timeout_ms;
	unsigned int last_id;
	bool broken;		 /* the connection is of no more use */
	char error_class[32];	 /* of the last error that the host answered; else empty */
	char version[32];
	/* Called for each event with its name and data; may be NULL. Must not call qmp_*(). */
	void (*event)(void *arg, const char *name, const cJSON *data);
	void *event_arg;
};

/* Starts to connect, as conn_dial(). */
int qmp_dial(struct qmp *q, const struct identity *id, const struct host *host,
	     uint64_t timeout_ms, struct fail *f);

/* Waits for the connection and checks the greeting: QMP, our protocol, that host's name. */
int qmp_finish(struct qmp *q, struct fail *f);

/*
 * Executes @command. @args is consumed and may be NULL. *@ret (caller deletes; @ret may be NULL)
 * is what the host returned. GW_FAILED: the host answered with an error, and the connection is
 * still good. GW_NO_HOST: the connection is lost (@q->broken).
 */
int qmp_call(struct qmp *q, const char *command, cJSON *args, cJSON **ret, struct fail *f);

/* As qmp_call() in two halves, for the console: qmp_send() gives the id, qmp_poll() the answers. */
int qmp_send(struct qmp *q, const char *command, cJSON *args, unsigned int *id, struct fail *f);

/*
 * Takes one message if it comes before @deadline; events go to the callback. *@id is the id of the
 * answer (0: there was none), whose error or result is in @f and *@ret as for qmp_call().
 */
int qmp_poll(struct qmp *q, uint64_t deadline, unsigned int *id, cJSON **ret, struct fail *f);

void qmp_close(struct qmp *q);

/* {"guest": NAME} */
cJSON *qmp_guest(const char *guest);

/* Fields of a JSON object; a field of another type counts as missing. */
const char *json_text(const cJSON *o, const char *key, const char *otherwise);
double json_number(const cJSON *o, const char *key, double otherwise); /* 0 .. 2^63, else missing */
bool json_true(const cJSON *o, const char *key);

#endif
