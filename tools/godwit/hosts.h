/* SPDX-License-Identifier: MIT */
/* hosts.ini: the hosts that this operator knows, and where they listen. */
#ifndef GODWIT_HOSTS_H
#define GODWIT_HOSTS_H

#include "util.h"

enum { HOSTS_MAX = 256, GODWIT_PORT = 4789 };

struct host {
	char name[64];
	char address[128]; /* IP:PORT or NAME:PORT for this machine; empty: not set */
	char peer[128];	   /* IP:PORT that other hosts use to reach this one; empty: as address */
};

struct hosts {
	char *path; /* of hosts.ini, for error texts */
	unsigned int count;
	struct host host[HOSTS_MAX];
};

/* Reads DIR/hosts.ini. A missing file is an empty list. Release with hosts_free(). */
int hosts_load(const char *dir, struct hosts *hosts, struct fail *f);
void hosts_free(struct hosts *hosts);

/* The host called @name, or NULL with @f set (the text lists the known names). */
struct host *hosts_find(struct hosts *hosts, const char *name, struct fail *f);

/*
 * Adds @host to DIR/hosts.ini, or changes the addresses of the section that is there (an empty
 * address in @host leaves the old one). Comments and the other sections stay as they are.
 */
int hosts_put(const char *dir, const struct host *host, struct fail *f);

/* Splits "IP", "IP:PORT", "NAME:PORT" of at most 127 characters; @port defaults to GODWIT_PORT. */
int address_split(const char *address, char name[128], unsigned int *port, struct fail *f);

/* "tcp:IP:PORT" for other hosts to reach @host, into @uri; names are refused, hosts have no DNS. */
int host_peer_uri(const struct hosts *hosts, const struct host *host, char uri[160],
		  struct fail *f);

#endif
