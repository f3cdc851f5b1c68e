/* SPDX-License-Identifier: MIT */
#include "tls.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <mbedtls/error.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/oid.h>
#include <mbedtls/psa_util.h>
#include <mbedtls/ssl.h>
#include <mbedtls/x509_crt.h>

struct identity {
	mbedtls_x509_crt ca, crt;
	mbedtls_pk_context key;
	char name[64], role[64];
};

/* What the verification of the host's certificate found, for the error text. */
struct verdict {
	uint32_t leaf, above; /* MBEDTLS_X509_BADCERT_… of the certificate, and of its issuers */
	char name[64], role[64], issuer[128], from[32], to[32];
};

struct conn {
	int fd;
	const struct host *host;
	uint64_t timeout_ms, dial_deadline;
	mbedtls_ssl_context ssl;
	mbedtls_ssl_config conf;
	struct verdict verdict;
	bool greeted; /* a line has come */
	unsigned char first[48]; /* the first bytes from the host: tells TLS from anything else */
	size_t first_len;
	char *in;
	size_t in_len, in_size, in_used; /* in_used: length of the line handed out, with its end */
};

static void name_field(const mbedtls_x509_name *n, const char *oid, size_t oid_len, char out[64])
{
	out[0] = 0;
	for (; n; n = n->next) {
		if (n->oid.len != oid_len || memcmp(n->oid.p, oid, oid_len))
			continue;
		/* Two OUs, or one with a 0 byte or too long, must not pass for a role. */
		if (out[0] || n->val.len > 63 || memchr(n->val.p, 0, n->val.len)) {
			strcpy(out, "?");
			return;
		}
		memcpy(out, n->val.p, n->val.len);
		out[n->val.len] = 0;
	}
	text_clean(out);
}

static void name_and_role(const mbedtls_x509_crt *crt, char name[64], char role[64])
{
	name_field(&crt->subject, MBEDTLS_OID_AT_CN, MBEDTLS_OID_SIZE(MBEDTLS_OID_AT_CN), name);
	name_field(&crt->subject, MBEDTLS_OID_AT_ORG_UNIT,
		   MBEDTLS_OID_SIZE(MBEDTLS_OID_AT_ORG_UNIT), role);
}

static void date_text(char out[32], const mbedtls_x509_time *t)
{
	snprintf(out, 32, "%04u-%02u-%02u %02u:%02u UTC", t->year % 10000u, t->mon % 100u,
		 t->day % 100u, t->hour % 100u, t->min % 100u);
}

/* The only identity in the folder, or "admin" when there are none or several. */
static char *identity_default(const char *dir)
{
	char *folder = text_new("%s/identities", dir), *admin = text_new("%s/admin.crt", folder);
	char *only = NULL;
	unsigned int count = 0;
	struct dirent *e;
	DIR *d = opendir(folder);

	while (d && access(admin, F_OK) < 0 && (e = readdir(d))) {
		size_t n = strlen(e->d_name);

		if (n < 5 || strcmp(e->d_name + n - 4, ".crt"))
			continue;
		free(only);
		only = text_new("%.*s", (int)n - 4, e->d_name);
		count++;
	}
	if (d)
		closedir(d);
	free(folder);
	free(admin);
	if (count == 1)
		return only;
	free(only);
	return text_new("admin");
}

static int identity_parse(struct identity *id, const char *dir, const char *name, struct fail *f)
{
	char *ca = text_new("%s/ca.crt", dir);
	char *crt = text_new("%s/identities/%s.crt", dir, name);
	char *key = text_new("%s/identities/%s.key", dir, name);
	uint32_t flags = 0;
	char to[32], why[128];
	int code = GW_OK;
	int ret = 0;

	if (access(ca, R_OK) < 0) {
		code = fail_set(f, GW_NO_HOST, "cannot read the cluster's CA certificate %s: %s. 'godwit"
				" ca init' makes a new cluster; for an existing one give its folder with"
				" --dir", ca, strerror(errno));
	} else if (access(crt, R_OK) < 0 || access(key, R_OK) < 0) {
		code = fail_set(f, GW_NO_HOST, "cannot read the identity '%s' (%s and .key): %s. Choose"
				" one with --identity, or make it with 'godwit ca enroll %s --role"
				" operator'", name, crt, strerror(errno), name);
	} else {
		ret = mbedtls_x509_crt_parse_file(&id->ca, ca);
		if (!ret)
			ret = mbedtls_x509_crt_parse_file(&id->crt, crt);
		if (!ret)
			ret = mbedtls_pk_parse_keyfile(&id->key, key, NULL, mbedtls_psa_get_random,
						       MBEDTLS_PSA_RANDOM_STATE);
		if (!ret)
			ret = mbedtls_pk_check_pair(&id->crt.pk, &id->key, mbedtls_psa_get_random,
						    MBEDTLS_PSA_RANDOM_STATE);
		if (ret) {
			mbedtls_strerror(ret, why, sizeof(why));
			code = fail_set(f, GW_NO_HOST, "%s, %s or its .key is damaged, or they do not"
					" belong together: %s", ca, crt, why);
		}
	}
	if (code)
		goto out;
	name_and_role(&id->crt, id->name, id->role);
	date_text(to, &id->crt.valid_to);
	mbedtls_x509_crt_verify(&id->crt, &id->ca, NULL, NULL, &flags, NULL, NULL);
	if (mbedtls_x509_time_is_past(&id->ca.valid_to))
		code = fail_set(f, GW_NO_HOST, "the cluster's CA certificate %s has expired: make a new cluster with"
				" 'godwit ca init' in another folder and enrol the hosts again", ca);
	else if (flags & MBEDTLS_X509_BADCERT_NOT_TRUSTED)
		code = fail_set(f, GW_NO_HOST, "your certificate %s was not made by the CA in %s; enrol"
				" '%s' again with that CA", crt, ca, name);
	else if (flags & MBEDTLS_X509_BADCERT_EXPIRED)
		code = fail_set(f, GW_NO_HOST, "your certificate %s expired on %s; renew it with 'godwit"
				" ca enroll %s --role %s --force'", crt, to, name, id->role);
	else if (flags)
		code = fail_set(f, GW_NO_HOST, "your certificate %s is not valid now; is this machine's"
				" clock right?", crt);
out:
	free(ca);
	free(crt);
	free(key);
	return code;
}

int identity_load(const char *dir, const char *name, struct identity **out, struct fail *f)
{
	struct identity *id = calloc(1, sizeof(*id));
	char *use = name ? text_new("%s", name) : identity_default(dir);
	int code;

	if (!id) {
		free(use);
		return fail_set(f, GW_FAILED, "out of memory");
	}
	mbedtls_x509_crt_init(&id->ca);
	mbedtls_x509_crt_init(&id->crt);
	mbedtls_pk_init(&id->key);
	if (name_valid(use))
		code = identity_parse(id, dir, use, f);
	else
		code = fail_set(f, GW_USAGE, "'%s' cannot be the name of an identity", use);
	free(use);
	if (code)
		identity_free(id);
	else
		*out = id;
	return code;
}

void identity_free(struct identity *id)
{
	if (!id)
		return;
	mbedtls_x509_crt_free(&id->ca);
	mbedtls_x509_crt_free(&id->crt);
	mbedtls_pk_free(&id->key);
	free(id);
}

/* --- the socket --- */

static int bio_send(void *ctx, const unsigned char *buf, size_t len)
{
	struct conn *c = ctx;
	ssize_t n = send(c->fd, buf, len, MSG_NOSIGNAL);

	if (n >= 0)
		return (int)n;
	if (errno == EAGAIN || errno == EINTR)
		return MBEDTLS_ERR_SSL_WANT_WRITE;
	/*
	 * A host that refuses us may have said why before it closed: the alert is still to be read,
	 * so a failed send is not the error to report. The next read tells.
	 */
	return errno == EPIPE || errno == ECONNRESET ? (int)len : MBEDTLS_ERR_NET_SEND_FAILED;
}

static int bio_recv(void *ctx, unsigned char *buf, size_t len)
{
	struct conn *c = ctx;
	ssize_t n = recv(c->fd, buf, len, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return MBEDTLS_ERR_SSL_WANT_READ;
	if (n < 0)
		return errno == ECONNRESET ? MBEDTLS_ERR_NET_CONN_RESET :
		       errno == ETIMEDOUT ? MBEDTLS_ERR_SSL_TIMEOUT : MBEDTLS_ERR_NET_RECV_FAILED;
	if (n > 0 && c->first_len < sizeof(c->first)) {
		size_t take = sizeof(c->first) - c->first_len;

		take = (size_t)n < take ? (size_t)n : take;
		memcpy(c->first + c->first_len, buf, take);
		c->first_len += take;
	}
	return (int)n;
}

/* Waits for @events until @deadline; false when it passed. */
static bool conn_wait(const struct conn *c, short events, uint64_t deadline)
{
	struct pollfd p = { .fd = c->fd, .events = events };

	for (;;) {
		uint64_t now = now_ms();
		int n = poll(&p, 1, now < deadline ? (int)(deadline - now) : 0);

		if (n > 0)
			return true;
		if (now >= deadline || (n < 0 && errno != EINTR))
			return false;
	}
}

/* --- what went wrong, in words --- */

static const struct alert {
	int number;
	const char *name, *remedy;
} alerts[] = {
	{ 40, "handshake_failure", "its TLS settings have nothing in common with ours" },
	{ 42, "bad_certificate", "it does not accept your certificate" },
	{ 43, "unsupported_certificate", "it does not accept your kind of certificate" },
	{ 44, "certificate_revoked", "your certificate was revoked" },
	{ 45, "certificate_expired", "it holds your certificate to be expired: renew it, and check that"
	  " the host's clock is right" },
	{ 46, "certificate_unknown", "it does not accept your certificate" },
	{ 48, "unknown_ca", "it was enrolled with another CA than yours: check --dir, or enrol the host"
	  " again with your CA" },
	{ 49, "access_denied", "the role in your certificate is not allowed to connect" },
	{ 51, "decrypt_error", "your certificate or key is damaged" },
	{ 70, "protocol_version", "it does not speak TLS 1.3" },
	{ 80, "internal_error", "something failed on the host: see its serial log" },
	{ 112, "unrecognized_name", "the host there has another name" },
	{ 116, "certificate_required", "it got no certificate from us" },
	{ 120, "no_application_protocol", "it does not speak godwit-qmp/1: another program, or another"
	  " version of Godwit" },
};

static int explain_alert(const struct conn *c, struct fail *f)
{
	/* There is no public way to ask which alert it was. */
	int number = c->ssl.MBEDTLS_PRIVATE(in_msg)[1];
	unsigned int i;

	for (i = 0; i < sizeof(alerts) / sizeof(alerts[0]); i++)
		if (alerts[i].number == number)
			return fail_set(f, GW_NO_HOST, "host '%s' (%s) refused us with the TLS alert %s:"
					" %s", c->host->name, c->host->address, alerts[i].name,
					alerts[i].remedy);
	return fail_set(f, GW_NO_HOST, "host '%s' (%s) refused us with the TLS alert number %d",
			c->host->name, c->host->address, number);
}

static int explain_certificate(const struct conn *c, struct fail *f)
{
	const struct verdict *v = &c->verdict;
	const char *host = c->host->name, *address = c->host->address;

	if (v->leaf & MBEDTLS_X509_BADCERT_NOT_TRUSTED)
		return fail_set(f, GW_NO_HOST, "the certificate of '%s' at %s is not of your cluster's CA"
				" (its issuer is '%s'). Check --dir and the address, or enrol the host"
				" again with this CA", host, address, v->issuer);
	if (v->leaf & MBEDTLS_X509_BADCERT_EXPIRED)
		return fail_set(f, GW_NO_HOST, "the certificate of host '%s' (%s) expired on %s. Renew it"
				" with 'godwit ca enroll %s --force' and copy the files to the host",
				host, address, v->to, host);
	if ((v->leaf | v->above) & MBEDTLS_X509_BADCERT_FUTURE)
		return fail_set(f, GW_NO_HOST, "the certificate of host '%s' (%s) is valid only from %s:"
				" is this machine's clock right?", host, address, v->from);
	if (v->leaf & MBEDTLS_X509_BADCERT_CN_MISMATCH)
		return fail_set(f, GW_NO_HOST, "the host at %s is '%s', not '%s': correct the address of"
				" '%s' in hosts.ini", address, v->name, host, host);
	if (v->leaf & (MBEDTLS_X509_BADCERT_OTHER | MBEDTLS_X509_BADCERT_EXT_KEY_USAGE |
		       MBEDTLS_X509_BADCERT_KEY_USAGE))
		return fail_set(f, GW_NO_HOST, "what answers at %s for '%s' shows a certificate with the"
				" role '%s', which is not that of a host. Do not trust it: only 'godwit"
				" ca enroll' with the role host makes a host's certificate", address,
				host, v->role);
	return fail_set(f, GW_NO_HOST, "the certificate of host '%s' (%s) is not acceptable (flags"
			" 0x%x)", host, address, v->leaf | v->above);
}

static bool conn_is_tls(const struct conn *c)
{
	/* Record types handshake or alert, then legacy version 3.x (RFC 8446, "Record Layer"). */
	return !c->first_len || ((c->first[0] == 0x16 || c->first[0] == 0x15) &&
				 (c->first_len < 2 || c->first[1] == 3));
}

static int explain(struct conn *c, int ret, const char *doing, struct fail *f)
{
	const char *host = c->host->name, *address = c->host->address;
	char text[sizeof(c->first) + 1];
	size_t i;

	if (!conn_is_tls(c)) {
		unsigned char more[sizeof(c->first)];

		bio_recv(c, more, sizeof(more)); /* so far it was only the length of a record header */
		for (i = 0; i < c->first_len; i++)
			text[i] = isprint(c->first[i]) ? (char)c->first[i] : '.';
		text[i] = 0;
		return fail_set(f, GW_NO_HOST, "what answers at %s does not speak TLS (it sent \"%s\"):"
				" another program listens there; correct the address of '%s' in hosts.ini",
				address, text, host);
	}
	switch (ret) {
	case MBEDTLS_ERR_X509_CERT_VERIFY_FAILED:
		return explain_certificate(c, f);
	case MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE:
		return explain_alert(c, f);
	case MBEDTLS_ERR_SSL_BAD_PROTOCOL_VERSION:
		return fail_set(f, GW_NO_HOST, "what answers at %s for '%s' does not speak TLS 1.3, so it"
				" is not a Godwit host", address, host);
	case 0:
	case MBEDTLS_ERR_SSL_CONN_EOF:
	case MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY:
		return fail_set(f, GW_NO_HOST, "host '%s' (%s) closed the connection %s", host, address,
				doing);
	case MBEDTLS_ERR_SSL_TIMEOUT:
		return fail_set(f, GW_NO_HOST, "host '%s' (%s) does not answer any more: it has lost its"
				" power or its network", host, address);
	case MBEDTLS_ERR_NET_CONN_RESET:
		return fail_set(f, GW_NO_HOST, "host '%s' (%s) reset the connection %s; it may have"
				" restarted", host, address, doing);
	default:
		mbedtls_strerror(ret, f->text, 128);
		snprintf(text, sizeof(text), "%.48s", f->text);
		return fail_set(f, GW_NO_HOST, "the connection to host '%s' (%s) failed %s: %s (-0x%04x)",
				host, address, doing, text, (unsigned int)-ret);
	}
}

static int explain_errno(const struct conn *c, int err, struct fail *f)
{
	const char *host = c->host->name, *address = c->host->address;

	if (err == ECONNREFUSED)
		return fail_set(f, GW_NO_HOST, "host '%s' (%s) refuses connections: the machine is up, but"
				" nothing listens on that port. Is it running Godwit, and is the port in"
				" hosts.ini that of its godwit.conf?", host, address);
	return fail_set(f, GW_NO_HOST, "cannot reach host '%s' (%s): %s. Check the address in hosts.ini"
			" and the network", host, address, strerror(err));
}

/* --- connecting --- */

static int conn_verify(void *ctx, mbedtls_x509_crt *crt, int depth, uint32_t *flags)
{
	struct conn *c = ctx;
	struct verdict *v = &c->verdict;

	if (depth) {
		v->above |= *flags;
		return 0;
	}
	name_and_role(crt, v->name, v->role);
	if (mbedtls_x509_dn_gets(v->issuer, sizeof(v->issuer), &crt->issuer) < 0)
		strcpy(v->issuer, "?");
	text_clean(v->issuer);
	date_text(v->from, &crt->valid_from);
	date_text(v->to, &crt->valid_to);
	if (strcmp(v->role, "host"))
		*flags |= MBEDTLS_X509_BADCERT_OTHER;
	v->leaf = *flags;
	return 0;
}

static int conn_setup(struct conn *c, const struct identity *id)
{
	static const char *alpn[] = { "godwit-qmp/1", NULL };
	int ret;

	ret = mbedtls_ssl_config_defaults(&c->conf, MBEDTLS_SSL_IS_CLIENT,
					  MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT);
	if (ret)
		return ret;
	mbedtls_ssl_conf_rng(&c->conf, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE);
	mbedtls_ssl_conf_authmode(&c->conf, MBEDTLS_SSL_VERIFY_REQUIRED);
	mbedtls_ssl_conf_verify(&c->conf, conn_verify, c);
	mbedtls_ssl_conf_ca_chain(&c->conf, (mbedtls_x509_crt *)&id->ca, NULL);
	ret = mbedtls_ssl_conf_own_cert(&c->conf, (mbedtls_x509_crt *)&id->crt,
					(mbedtls_pk_context *)&id->key);
	if (!ret)
		ret = mbedtls_ssl_conf_alpn_protocols(&c->conf, alpn);
	if (!ret)
		ret = mbedtls_ssl_setup(&c->ssl, &c->conf);
	if (!ret)
		ret = mbedtls_ssl_set_hostname(&c->ssl, c->host->name);
	mbedtls_ssl_set_bio(&c->ssl, c, bio_send, bio_recv, NULL);
	return ret;
}

int conn_dial(const struct identity *id, const struct host *host, uint64_t timeout_ms,
	      struct conn **out, struct fail *f)
{
	struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM }, *ai = NULL;
	char name[128], service[8];
	unsigned int port;
	struct conn *c;
	int code, ret;
	int one = 1, idle = 15, interval = 5, probes = 3;

	if (!host->address[0])
		return fail_set(f, GW_NO_HOST, "host '%s' has no address: set address=IP:PORT under [%s] in"
				" hosts.ini", host->name, host->name);
	code = address_split(host->address, name, &port, f);
	if (code)
		return code;
	snprintf(service, sizeof(service), "%u", port);
	ret = getaddrinfo(name, service, &hints, &ai);
	if (ret)
		return fail_set(f, GW_NO_HOST, "cannot look up '%s', the address of host '%s': %s", name,
				host->name, gai_strerror(ret));
	c = calloc(1, sizeof(*c));
	if (!c) {
		freeaddrinfo(ai);
		return fail_set(f, GW_FAILED, "out of memory");
	}
	c->host = host;
	c->timeout_ms = timeout_ms;
	c->dial_deadline = now_ms() + timeout_ms;
	mbedtls_ssl_init(&c->ssl);
	mbedtls_ssl_config_init(&c->conf);
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	ret = conn_setup(c, id);
	if (ret) {
		code = explain(c, ret, "before it began", f);
	} else {
		setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		/* A console may be quiet for days; a host that lost its power must still be noticed. */
		setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
		setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
		setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
		setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
		if (connect(c->fd, ai->ai_addr, ai->ai_addrlen) < 0 && errno != EINPROGRESS)
			code = explain_errno(c, errno, f);
	}
	freeaddrinfo(ai);
	if (code)
		conn_close(c, true);
	else
		*out = c;
	return code;
}

int conn_finish(struct conn *c, struct fail *f)
{
	const char *host = c->host->name, *address = c->host->address;
	uint64_t deadline;
	socklen_t len = sizeof(int);
	int err = 0, ret;

	if (!conn_wait(c, POLLOUT, c->dial_deadline))
		return fail_set(f, GW_NO_HOST, "host '%s' (%s) does not answer: no connection within %.1f s."
				" Is it on, and is the address in hosts.ini right?", host, address,
				(double)c->timeout_ms / 1000);
	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		err = errno;
	if (err)
		return explain_errno(c, err, f);

	deadline = now_ms() + c->timeout_ms;
	while ((ret = mbedtls_ssl_handshake(&c->ssl))) {
		if (ret != MBEDTLS_ERR_SSL_WANT_READ && ret != MBEDTLS_ERR_SSL_WANT_WRITE)
			return explain(c, ret, "during the TLS handshake", f);
		if (!conn_wait(c, ret == MBEDTLS_ERR_SSL_WANT_READ ? POLLIN : POLLOUT, deadline))
			return fail_set(f, GW_NO_HOST, "host '%s' (%s) took the connection but was silent"
					" in the TLS handshake for %.1f s: it may be busy or stuck, or"
					" another program listens there", host, address,
					(double)c->timeout_ms / 1000);
	}
	if (!mbedtls_ssl_get_alpn_protocol(&c->ssl))
		return fail_set(f, GW_NO_HOST, "what answers at %s for '%s' is a TLS server without"
				" godwit-qmp/1, so it is not a Godwit host", address, host);
	return GW_OK;
}

int conn_write(struct conn *c, const void *data, size_t len, uint64_t deadline, struct fail *f)
{
	const unsigned char *p = data;

	while (len) {
		int n = mbedtls_ssl_write(&c->ssl, p, len);

		if (n > 0) {
			p += n;
			len -= (size_t)n;
			continue;
		}
		if (n != MBEDTLS_ERR_SSL_WANT_READ && n != MBEDTLS_ERR_SSL_WANT_WRITE)
			return explain(c, n, "while we sent a command", f);
		if (!conn_wait(c, n == MBEDTLS_ERR_SSL_WANT_READ ? POLLIN : POLLOUT, deadline))
			return fail_set(f, GW_NO_HOST, "host '%s' (%s) stopped taking data", c->host->name,
					c->host->address);
	}
	return GW_OK;
}

/* Hands out the first whole line in the buffer, if there is one. @from: where to look. */
static char *conn_cut_line(struct conn *c, size_t from)
{
	char *end = c->in_len > from ? memchr(c->in + from, '\n', c->in_len - from) : NULL;

	if (!end)
		return NULL;
	c->in_used = (size_t)(end - c->in) + 1;
	/* A 0 byte would end the text early and hide what follows: make it visible as bad JSON. */
	for (char *p = c->in; (p = memchr(p, 0, (size_t)(end - p))); )
		*p = 0x7f;
	*end = 0;
	return c->in;
}

int conn_read_line(struct conn *c, char **line, uint64_t deadline, struct fail *f)
{
	size_t looked = 0;

	if (c->in_used) {
		c->in_len -= c->in_used;
		memmove(c->in, c->in + c->in_used, c->in_len);
		c->in_used = 0;
	}
	while (!(*line = conn_cut_line(c, looked))) {
		int n;

		looked = c->in_len;
		if (c->in_len > LINE_LIMIT)
			return fail_set(f, GW_NO_HOST, "host '%s' (%s) sent a line longer than 1 MiB; the"
					" connection was given up", c->host->name, c->host->address);
		if (c->in_size - c->in_len < 16384) {
			char *more = realloc(c->in, c->in_size + 65536);

			if (!more)
				return fail_set(f, GW_FAILED, "out of memory");
			c->in = more;
			c->in_size += 65536;
		}
		n = mbedtls_ssl_read(&c->ssl, (unsigned char *)c->in + c->in_len,
				     c->in_size - c->in_len);
		if (n > 0) {
			c->in_len += (size_t)n;
			continue;
		}
		if (n != MBEDTLS_ERR_SSL_WANT_READ && n != MBEDTLS_ERR_SSL_WANT_WRITE)
			return explain(c, n, c->greeted ? "without a word" : "before it greeted: all its"
				       " sessions may be in use (see its serial log)", f);
		if (!conn_wait(c, n == MBEDTLS_ERR_SSL_WANT_READ ? POLLIN : POLLOUT, deadline))
			return GW_OK;
	}
	c->greeted = true;
	return GW_OK;
}

int conn_fd(const struct conn *c)
{
	return c->fd;
}

bool conn_pending(const struct conn *c)
{
	size_t left = c->in_len - c->in_used;

	return mbedtls_ssl_get_bytes_avail(&c->ssl) > 0 ||
	       (left && memchr(c->in + c->in_used, '\n', left));
}

void conn_close(struct conn *c, bool lost)
{
	struct linger now = { .l_onoff = 1 };

	if (!c)
		return;
	if (c->fd >= 0) {
		if (lost)
			setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		else
			mbedtls_ssl_close_notify(&c->ssl);
		close(c->fd);
	}
	mbedtls_ssl_free(&c->ssl);
	mbedtls_ssl_config_free(&c->conf);
	free(c->in);
	free(c);
}
