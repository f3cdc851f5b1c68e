/* SPDX-License-Identifier: MIT */
/* The cluster's certificate authority: one key, and the certificates that it signs. */
#ifndef GODWIT_CA_H
#define GODWIT_CA_H

#include "util.h"

/* What `godwit ca enroll` was asked to make. */
struct enrolment {
	const char *name;	 /* host or person; becomes CN (and dNSName of a host) */
	const char *role;	 /* host, admin, operator, viewer; becomes OU */
	const char *out;	 /* folder for the result; NULL: a place in the state dir */
	const char *address;	 /* IP:PORT, or NULL */
	const char *peer_address; /* IP:PORT, or NULL */
	int days;		 /* validity; negative makes one that has expired (tests) */
	int start_days;		 /* begins in so many days (tests) */
	const char *other_ou;	 /* test: OU instead of the role */
	const char *other_dns;	 /* test: dNSName and CN instead of the name */
	bool force;		 /* replace the key and certificate that are there */
};

/*
 * Makes DIR/ca.key and DIR/ca.crt for the cluster @cluster, and the identity "admin". An existing
 * CA is an error: replacing it would cut off every host that was enrolled with it.
 */
int ca_init(const char *dir, const char *cluster, int days, struct fail *f);

/*
 * Makes a key and a certificate signed by the CA in @dir. For a host, *@where (caller frees) is
 * the folder whose content goes on the host's EFI system partition; for a person, the folder that
 * serves as --dir.
 */
int ca_enroll(const char *dir, const struct enrolment *e, char **where, struct fail *f);

/* The `godwit ca ...` command. */
int ca_main(int argc, char **argv);

#endif
