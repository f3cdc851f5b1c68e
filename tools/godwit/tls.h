/* SPDX-License-Identifier: MIT */
/* TLS 1.3 connections to hosts, both ends authenticated, with lines of text on top. */
#ifndef GODWIT_TLS_H
#define GODWIT_TLS_H

#include "hosts.h"
#include "util.h"

enum { LINE_LIMIT = 1 << 20 }; /* longest line from a host, bytes */

struct identity; /* a person's certificate and key, and the CA */
struct conn;

/*
 * Reads DIR/ca.crt and DIR/identities/NAME.{crt,key}. @name NULL: "admin", else the only one.
 * Checks that the certificate is of that CA and valid now.
 */
int identity_load(const char *dir, const char *name, struct identity **id, struct fail *f);
void identity_free(struct identity *id);

/*
 * Starts to connect to @host and returns at once. @id and @host must outlive the connection.
 * *@out is set only on success; conn_close() it.
 */
int conn_dial(const struct identity *id, const struct host *host, uint64_t timeout_ms,
	      struct conn **out, struct fail *f);

/*
 * Waits for the connection and does the handshake: the certificate must be of our CA, valid now,
 * in the name of the host and with the role host. At most timeout_ms for each of the two steps.
 */
int conn_finish(struct conn *c, struct fail *f);

/* Sends all of @data before @deadline (ms, monotonic). */
int conn_write(struct conn *c, const void *data, size_t len, uint64_t deadline, struct fail *f);

/*
 * The next line without its end, valid until the next call. *@line is NULL if none came before
 * @deadline (then the result is GW_OK); any other trouble is an error and ends the connection.
 */
int conn_read_line(struct conn *c, char **line, uint64_t deadline, struct fail *f);

int conn_fd(const struct conn *c);

/* Whether a read might give something without the socket becoming readable. */
bool conn_pending(const struct conn *c);

/*
 * @lost: what was sent and has not arrived is taken back (TCP reset). Else the kernel goes on to send it, and a
 * command would be carried out long after its outcome was told.
 */
void conn_close(struct conn *c, bool lost);

#endif
