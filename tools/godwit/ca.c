/* SPDX-License-Identifier: MIT */
#include "ca.h"

#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cJSON.h>
#include <mbedtls/ecp.h>
#include <mbedtls/error.h>
#include <mbedtls/oid.h>
#include <mbedtls/pk.h>
#include <mbedtls/platform_util.h>
#include <mbedtls/psa_util.h>
#include <mbedtls/x509_crt.h>

#include "context.h"
#include "hosts.h"

enum {
	PEM_MAX = 4096,
	CA_DAYS = 3650,
	LEAF_DAYS = 825,
	BACKDATE_DAYS = 1, /* so that a host whose clock is a little behind accepts it at once */
};

/* The CA's own key and certificate. */
struct authority {
	mbedtls_pk_context key;
	mbedtls_x509_crt crt;
	char subject[256];
	char cluster[64];
};

static int ca_fail(struct fail *f, const char *what, int ret)
{
	char why[128];

	mbedtls_strerror(ret, why, sizeof(why));
	return fail_set(f, GW_FAILED, "%s: %s", what, why);
}

static int key_make(mbedtls_pk_context *key)
{
	int ret = mbedtls_pk_setup(key, mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY));

	return ret ? ret : mbedtls_ecp_gen_key(MBEDTLS_ECP_DP_SECP256R1, mbedtls_pk_ec(*key),
					       mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE);
}

static int key_write(const char *path, mbedtls_pk_context *key, bool overwrite, struct fail *f)
{
	unsigned char pem[PEM_MAX];
	int ret = mbedtls_pk_write_key_pem(key, pem, sizeof(pem));
	int code;

	if (ret)
		return ca_fail(f, "cannot write a key", ret);
	code = file_write(path, pem, strlen((char *)pem), 0600, overwrite, f);
	mbedtls_platform_zeroize(pem, sizeof(pem));
	return code;
}

/* "YYYYMMDDhhmmss" in @days from now. */
static void date_in_days(char out[16], int days)
{
	time_t t = time(NULL) + (time_t)days * 86400;
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(out, 16, "%Y%m%d%H%M%S", &tm);
}

/* Everything that differs between the certificates that the CA signs. */
struct certificate {
	const char *subject, *issuer;
	mbedtls_pk_context *key, *issuer_key;
	int from_days, to_days;
	bool is_ca;
	const char *dns; /* dNSName: makes it a certificate for a host; else NULL */
};

static int crt_extend(mbedtls_x509write_cert *w, const struct certificate *c)
{
	mbedtls_asn1_sequence client = { 0 }, server = { 0 };
	mbedtls_x509_san_list san = { 0 };
	int ret;

	ret = mbedtls_x509write_crt_set_basic_constraints(w, c->is_ca, c->is_ca ? 0 : -1);
	if (!ret)
		ret = mbedtls_x509write_crt_set_subject_key_identifier(w);
	if (!ret)
		ret = mbedtls_x509write_crt_set_authority_key_identifier(w);
	if (!ret)
		ret = mbedtls_x509write_crt_set_key_usage(w, c->is_ca ?
			MBEDTLS_X509_KU_KEY_CERT_SIGN | MBEDTLS_X509_KU_CRL_SIGN :
			MBEDTLS_X509_KU_DIGITAL_SIGNATURE);
	if (ret || c->is_ca)
		return ret;

	client.buf.tag = MBEDTLS_ASN1_OID;
	client.buf.p = (unsigned char *)MBEDTLS_OID_CLIENT_AUTH;
	client.buf.len = MBEDTLS_OID_SIZE(MBEDTLS_OID_CLIENT_AUTH);
	server.buf.tag = MBEDTLS_ASN1_OID;
	server.buf.p = (unsigned char *)MBEDTLS_OID_SERVER_AUTH;
	server.buf.len = MBEDTLS_OID_SIZE(MBEDTLS_OID_SERVER_AUTH);
	server.next = &client;
	ret = mbedtls_x509write_crt_set_ext_key_usage(w, c->dns ? &server : &client);
	if (ret || !c->dns)
		return ret;
	san.node.type = MBEDTLS_X509_SAN_DNS_NAME;
	san.node.san.unstructured_name.p = (unsigned char *)c->dns;
	san.node.san.unstructured_name.len = strlen(c->dns);
	return mbedtls_x509write_crt_set_subject_alternative_name(w, &san);
}

static int crt_write(const char *path, const struct certificate *c, bool overwrite, struct fail *f)
{
	unsigned char serial[16], pem[PEM_MAX];
	char from[16], to[16];
	mbedtls_x509write_cert w;
	int ret;

	mbedtls_x509write_crt_init(&w);
	mbedtls_x509write_crt_set_version(&w, MBEDTLS_X509_CRT_VERSION_3);
	mbedtls_x509write_crt_set_md_alg(&w, MBEDTLS_MD_SHA256);
	mbedtls_x509write_crt_set_subject_key(&w, c->key);
	mbedtls_x509write_crt_set_issuer_key(&w, c->issuer_key);
	date_in_days(from, c->from_days);
	date_in_days(to, c->to_days);
	ret = mbedtls_psa_get_random(MBEDTLS_PSA_RANDOM_STATE, serial, sizeof(serial));
	serial[0] = (serial[0] & 0x7f) | 0x40; /* positive, and never a leading zero */
	if (!ret)
		ret = mbedtls_x509write_crt_set_serial_raw(&w, serial, sizeof(serial));
	if (!ret)
		ret = mbedtls_x509write_crt_set_validity(&w, from, to);
	if (!ret)
		ret = mbedtls_x509write_crt_set_subject_name(&w, c->subject);
	if (!ret)
		ret = mbedtls_x509write_crt_set_issuer_name(&w, c->issuer);
	if (!ret)
		ret = crt_extend(&w, c);
	if (!ret)
		ret = mbedtls_x509write_crt_pem(&w, pem, sizeof(pem), mbedtls_psa_get_random,
						MBEDTLS_PSA_RANDOM_STATE);
	mbedtls_x509write_crt_free(&w);
	if (ret)
		return ca_fail(f, "cannot make a certificate", ret);
	return file_write(path, pem, strlen((char *)pem), 0644, overwrite, f);
}

static void authority_free(struct authority *ca)
{
	mbedtls_pk_free(&ca->key);
	mbedtls_x509_crt_free(&ca->crt);
}

static int authority_load(const char *dir, struct authority *ca, struct fail *f)
{
	char *key = text_new("%s/ca.key", dir), *crt = text_new("%s/ca.crt", dir);
	const mbedtls_x509_name *n;
	int code = GW_OK;
	int ret;

	mbedtls_pk_init(&ca->key);
	mbedtls_x509_crt_init(&ca->crt);
	ca->cluster[0] = 0;
	if (access(key, R_OK) < 0) {
		code = fail_set(f, GW_FAILED, "cannot read the CA's key %s: %s. 'godwit ca init' makes a"
				" new CA; if there is one, give its folder with --dir", key,
				strerror(errno));
		goto out;
	}
	ret = mbedtls_pk_parse_keyfile(&ca->key, key, NULL, mbedtls_psa_get_random,
				       MBEDTLS_PSA_RANDOM_STATE);
	if (!ret)
		ret = mbedtls_x509_crt_parse_file(&ca->crt, crt);
	if (!ret)
		ret = mbedtls_pk_check_pair(&ca->crt.pk, &ca->key, mbedtls_psa_get_random,
					    MBEDTLS_PSA_RANDOM_STATE);
	if (ret) {
		code = ca_fail(f, "ca.key and ca.crt are damaged or do not belong together", ret);
		goto out;
	}
	for (n = &ca->crt.subject; n; n = n->next)
		if (!MBEDTLS_OID_CMP(MBEDTLS_OID_AT_ORGANIZATION, &n->oid))
			snprintf(ca->cluster, sizeof(ca->cluster), "%.*s", (int)n->val.len, n->val.p);
	if (!name_valid(ca->cluster))
		code = fail_set(f, GW_FAILED, "%s was not made by 'godwit ca init': it names no cluster",
				crt);
	snprintf(ca->subject, sizeof(ca->subject), "O=%s,OU=ca,CN=%s CA", ca->cluster, ca->cluster);
out:
	free(key);
	free(crt);
	return code;
}

int ca_init(const char *dir, const char *cluster, int days, struct fail *f)
{
	char *key_path = text_new("%s/ca.key", dir), *crt_path = text_new("%s/ca.crt", dir);
	struct enrolment admin = { .name = "admin", .role = "admin", .days = days < LEAF_DAYS ? days : LEAF_DAYS };
	struct certificate c = { .is_ca = true, .from_days = -BACKDATE_DAYS, .to_days = days };
	char *subject = text_new("O=%s,OU=ca,CN=%s CA", cluster, cluster);
	mbedtls_pk_context key;
	char *where = NULL;
	int code, ret;

	mbedtls_pk_init(&key);
	c.subject = c.issuer = subject;
	c.key = c.issuer_key = &key;
	if (access(key_path, F_OK) == 0 || access(crt_path, F_OK) == 0) {
		code = fail_set(f, GW_FAILED, "%s holds a CA already; a new one would cut off every host"
				" enrolled with it. For another cluster use another --dir", dir);
		goto out;
	}
	ret = key_make(&key);
	code = ret ? ca_fail(f, "cannot make the CA's key", ret) : dir_make(dir, f);
	if (!code)
		code = key_write(key_path, &key, false, f);
	if (!code)
		code = crt_write(crt_path, &c, false, f);
	if (!code)
		code = ca_enroll(dir, &admin, &where, f);
out:
	mbedtls_pk_free(&key);
	free(where);
	free(subject);
	free(crt_path);
	free(key_path);
	return code;
}

/* A configuration to start from; every line that is not needed is a comment. */
static const char conf_template[] =
	"# Godwit host configuration: \\godwit\\godwit.conf on the EFI system partition.\n"
	"# Files (kernel, initrd, module) are in \\godwit\\ too. Sizes: K, M, G. Times: ms, s.\n"
	"\n"
	"[host]\n"
	"# The name in this host's certificate (made by 'godwit ca enroll').\n"
	"name=%s\n"
	"\n"
	"[network]\n"
	"# mode=dhcp, or mode=static with address= (and gateway=, if there is one).\n"
	"mode=dhcp\n"
	"#mode=static\n"
	"#address=%s/24\n"
	"#gateway=10.0.0.1\n"
	"# TCP port of control and migration.\n"
	"port=%u\n"
	"\n"
	"# One section per guest. It moves with the guest; another host needs it only to start the guest, or\n"
	"# for when it resets there. autostart=yes on one host only.\n"
	"#[guest linux1]\n"
	"#memory=128M\n"
	"#vcpus=1\n"
	"#kernel=vmlinuz\n"
	"#initrd=initrd.gz\n"
	"#cmdline=console=ttyS0\n"
	"#autostart=yes\n"
	"#os=linux\n"
	"\n"
	"#[migration]\n"
	"# Longest freeze to aim for, most rounds before it freezes anyway, and how much is compared at\n"
	"# the end: fold (hashes of all pages sent) or full (both memories are read again).\n"
	"#freeze-budget=300ms\n"
	"#max-rounds=30\n"
	"#verify=fold\n";

/* Writes the template unless the operator has a godwit.conf there already. */
static int conf_write(const char *folder, const struct enrolment *e, struct fail *f)
{
	char *path = text_new("%s/godwit.conf", folder), *text;
	unsigned int port = GODWIT_PORT;
	char ip[128] = "10.0.0.5";
	int code = GW_OK;

	/* With a peer address of its own, or on this machine, the host is behind a port forward. */
	if (e->address && !e->peer_address && strncmp(e->address, "127.", 4))
		code = address_split(e->address, ip, &port, f);
	if (!code && access(path, F_OK) < 0) {
		text = text_new(conf_template, e->name, ip, port);
		code = file_write(path, text, strlen(text), 0644, false, f);
		free(text);
	}
	free(path);
	return code;
}

static int file_copy(const char *from_dir, const char *to_dir, const char *name, struct fail *f)
{
	char *from = text_new("%s/%s", from_dir, name), *to = text_new("%s/%s", to_dir, name);
	char *data = NULL;
	size_t len;
	int code = file_read(from, &data, &len, f);

	if (!code)
		code = file_write(to, data, len, 0644, true, f);
	free(data);
	free(from);
	free(to);
	return code;
}

static int enroll_pair(const struct authority *ca, const struct enrolment *e, const char *folder,
		       const char *base, struct fail *f)
{
	const char *name = e->other_dns ? e->other_dns : e->name;
	char *key_path = text_new("%s/%s.key", folder, base);
	char *crt_path = text_new("%s/%s.crt", folder, base);
	char *subject = text_new("O=%s,OU=%s,CN=%s", ca->cluster, e->other_ou ? e->other_ou : e->role,
				 name);
	struct certificate c = { .subject = subject, .issuer = ca->subject,
				 .issuer_key = (mbedtls_pk_context *)&ca->key };
	mbedtls_pk_context key;
	int code, ret;

	c.from_days = (e->days < 0 ? e->days : e->start_days) - BACKDATE_DAYS;
	c.to_days = e->start_days + e->days;
	if (e->start_days)
		c.from_days = e->start_days;
	c.dns = !strcmp(e->role, "host") ? name : NULL;
	mbedtls_pk_init(&key);
	c.key = &key;
	ret = key_make(&key);
	if (ret)
		code = ca_fail(f, "cannot make a key", ret);
	else if (!e->force && (access(key_path, F_OK) == 0 || access(crt_path, F_OK) == 0))
		code = fail_set(f, GW_FAILED, "'%s' is enrolled already (%s); --force makes a new key and"
				" certificate in its place", e->name, crt_path);
	else
		code = key_write(key_path, &key, e->force, f);
	if (!code)
		code = crt_write(crt_path, &c, e->force, f);
	mbedtls_pk_free(&key);
	free(subject);
	free(crt_path);
	free(key_path);
	return code;
}

static int enroll_host(const char *dir, const struct authority *ca, const struct enrolment *e,
		       char **where, struct fail *f)
{
	struct host host = { 0 };
	char ip[128], *folder;
	unsigned int port;
	int code = GW_OK;

	if (e->address)
		code = address_split(e->address, ip, &port, f);
	if (!code && e->peer_address)
		code = address_split(e->peer_address, ip, &port, f);
	if (code)
		return code;
	*where = e->out ? text_new("%s", e->out) : text_new("%s/esp/%s", dir, e->name);
	folder = text_new("%s/godwit", *where);
	code = dir_make(folder, f);
	if (!code)
		code = enroll_pair(ca, e, folder, "host", f);
	if (!code)
		code = file_copy(dir, folder, "ca.crt", f);
	if (!code)
		code = conf_write(folder, e, f);
	snprintf(host.name, sizeof(host.name), "%s", e->name);
	snprintf(host.address, sizeof(host.address), "%s", e->address ? e->address : "");
	snprintf(host.peer, sizeof(host.peer), "%s", e->peer_address ? e->peer_address : "");
	if (!code)
		code = hosts_put(dir, &host, f);
	free(folder);
	return code;
}

static int enroll_person(const char *dir, const struct authority *ca, const struct enrolment *e,
			 char **where, struct fail *f)
{
	char *folder = text_new("%s/identities", e->out ? e->out : dir), *hosts = text_new("%s/hosts.ini", dir);
	int code = dir_make(folder, f);

	*where = text_new("%s", e->out ? e->out : dir);
	if (!code)
		code = enroll_pair(ca, e, folder, e->name, f);
	if (!code && e->out) {
		/* A folder that can be handed to that person: it has no CA key. */
		code = file_copy(dir, e->out, "ca.crt", f);
		if (!code && access(hosts, F_OK) == 0)
			code = file_copy(dir, e->out, "hosts.ini", f);
	}
	free(hosts);
	free(folder);
	return code;
}

int ca_enroll(const char *dir, const struct enrolment *e, char **where, struct fail *f)
{
	static const char *const roles[] = { "host", "admin", "operator", "viewer" };
	bool is_host = !strcmp(e->role, "host");
	struct authority ca;
	unsigned int i;
	int code;

	*where = NULL;
	if (!name_valid(e->name))
		return fail_set(f, GW_USAGE, "'%s' cannot be a name: use up to 31 letters, digits, '.',"
				" '_' and '-'", e->name);
	for (i = 0; i < 4 && strcmp(roles[i], e->role); i++)
		;
	if (i == 4)
		return fail_set(f, GW_USAGE, "there is no role '%s'; roles are host, admin, operator and"
				" viewer", e->role);
	if (!is_host && (e->address || e->peer_address))
		return fail_set(f, GW_USAGE, "only a host has an address; '%s' is to be an %s", e->name,
				e->role);
	code = authority_load(dir, &ca, f);
	if (!code && e->days >= 0 && mbedtls_x509_time_is_past(&ca.crt.valid_to))
		code = fail_set(f, GW_FAILED, "the CA in %s has expired, and nobody would accept what it makes now: make a new"
				" cluster with 'godwit ca init' in another folder and enrol all hosts there", dir);
	if (!code)
		code = is_host ? enroll_host(dir, &ca, e, where, f) :
				 enroll_person(dir, &ca, e, where, f);
	authority_free(&ca);
	return code;
}

/* --- the command --- */

struct ca_args {
	struct context ctx;
	struct enrolment e;
	const char *verb, *cluster;
	bool days_given;
};

enum { OPT_CLUSTER = 0x200, OPT_ROLE, OPT_OUT, OPT_DAYS, OPT_ADDRESS, OPT_PEER, OPT_FORCE,
       OPT_START, OPT_OU, OPT_DNS };

static const struct argp_option ca_options[] = {
	{ "cluster", OPT_CLUSTER, "NAME", 0, "init: name of the cluster (default: godwit)", 0 },
	{ "role", OPT_ROLE, "ROLE", 0, "enroll: host (default), admin, operator or viewer", 0 },
	{ "out", OPT_OUT, "DIR", 0, "enroll: write there. A host: what goes on its EFI system"
	  " partition (default: STATE/esp/NAME). A person: a folder to hand over", 0 },
	{ "days", OPT_DAYS, "N", 0, "validity (default: CA 3650, others 825)", 0 },
	{ "address", OPT_ADDRESS, "IP:PORT", 0, "enroll: where this machine reaches the host", 0 },
	{ "peer-address", OPT_PEER, "IP:PORT", 0, "enroll: where other hosts reach it, if that"
	  " differs", 0 },
	{ "force", OPT_FORCE, 0, 0, "enroll: replace the key and certificate that are there", 0 },
	{ "test-start-days", OPT_START, "N", OPTION_HIDDEN, "", 0 },
	{ "test-ou", OPT_OU, "OU", OPTION_HIDDEN, "", 0 },
	{ "test-dns", OPT_DNS, "NAME", OPTION_HIDDEN, "", 0 },
	{ 0 },
};

static int arg_days(const char *arg, struct argp_state *state)
{
	char *end;
	long n = strtol(arg, &end, 10);

	if (end == arg || *end || n < -20000 || n > 20000)
		argp_error(state, "'%s' is not a number of days", arg);
	return (int)n;
}

static error_t ca_parse(int key, char *arg, struct argp_state *state)
{
	struct ca_args *a = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->ctx;
		break;
	case OPT_CLUSTER:
		if (!name_valid(arg))
			argp_error(state, "'%s' cannot be a cluster name: letters, digits, '.', '_', '-'",
				   arg);
		a->cluster = arg;
		break;
	case OPT_ROLE: a->e.role = arg; break;
	case OPT_OUT: a->e.out = arg; break;
	case OPT_DAYS: a->e.days = arg_days(arg, state); a->days_given = true; break;
	case OPT_ADDRESS: a->e.address = arg; break;
	case OPT_PEER: a->e.peer_address = arg; break;
	case OPT_FORCE: a->e.force = true; break;
	case OPT_START: a->e.start_days = arg_days(arg, state); break;
	case OPT_OU: a->e.other_ou = arg; break;
	case OPT_DNS: a->e.other_dns = arg; break;
	case ARGP_KEY_ARG:
		if (state->arg_num == 0)
			a->verb = arg;
		else if (state->arg_num == 1 && !strcmp(a->verb, "enroll"))
			a->e.name = arg;
		else
			return ARGP_ERR_UNKNOWN;
		break;
	case ARGP_KEY_END:
		if (!a->verb || (strcmp(a->verb, "init") && strcmp(a->verb, "enroll")))
			argp_error(state, "say 'godwit ca init' or 'godwit ca enroll NAME'");
		else if (!strcmp(a->verb, "enroll") && !a->e.name)
			argp_error(state, "say which host or person: 'godwit ca enroll NAME'");
		else if (!strcmp(a->verb, "enroll") && a->cluster)
			argp_error(state, "--cluster is for 'godwit ca init' only");
		else if (!strcmp(a->verb, "init") && (a->e.role || a->e.out || a->e.address || a->e.peer_address || a->e.force))
			argp_error(state, "'godwit ca init' takes --cluster and --days only");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

int ca_main(int argc, char **argv)
{
	static const struct argp_child children[] = { { &context_argp, 0, "Common options:", 1 },
						      { 0 } };
	static const struct argp argp = {
		ca_options, ca_parse, "init\nenroll NAME",
		"Makes the cluster's certificate authority, and keys and certificates of hosts and"
		" people.", children, NULL, NULL };
	struct ca_args a = { .e = { .days = LEAF_DAYS } };
	struct fail f = { 0 };
	char *where = NULL;
	bool init;
	int code;

	context_init(&a.ctx);
	argp_parse(&argp, argc, argv, 0, NULL, &a);
	init = !strcmp(a.verb, "init");
	a.cluster = a.cluster ? a.cluster : "godwit";
	a.e.role = a.e.role ? a.e.role : "host";
	code = context_crypto(&f);
	if (!code)
		code = init ? ca_init(a.ctx.dir, a.cluster, a.days_given ? a.e.days : CA_DAYS, &f) :
			      ca_enroll(a.ctx.dir, &a.e, &where, &f);
	if (!code && a.ctx.json) {
		cJSON *out = cJSON_CreateObject();

		cJSON_AddStringToObject(out, init ? "cluster" : "name", init ? a.cluster : a.e.name);
		cJSON_AddStringToObject(out, "role", init ? "ca" : a.e.role);
		cJSON_AddStringToObject(out, "dir", where ? where : a.ctx.dir);
		context_print_json(out);
	} else if (!code && init) {
		printf("Made the CA of cluster '%s' and the identity 'admin' in %s.\n"
		       "Keep ca.key safe: whoever has it can act as any host or admin.\n"
		       "Next, for each host: godwit ca enroll HOST --address IP:PORT\n",
		       a.cluster, a.ctx.dir);
	} else if (!code && !strcmp(a.e.role, "host")) {
		printf("Enrolled host '%s'. Copy the folder %s/godwit to the root of its EFI system"
		       " partition and edit godwit.conf there.\n", a.e.name, where);
		if (!a.e.address)
			printf("No --address was given: set address=IP:PORT under [%s] in %s/hosts.ini,"
			       " unless it is there.\n", a.e.name, a.ctx.dir);
	} else if (!code) {
		printf("Enrolled %s '%s'. Use it with: godwit --dir %s --identity %s ...\n", a.e.role,
		       a.e.name, where, a.e.name);
	}
	if (code)
		context_print_fail(&a.ctx, &f);
	free(where);
	context_free(&a.ctx);
	return code;
}
