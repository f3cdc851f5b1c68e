/* SPDX-License-Identifier: MIT */
#include "hosts.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ini.h>

struct hosts_reader {
	struct hosts *hosts;
	struct fail *fail;
};

static struct host *hosts_get(struct hosts *hosts, const char *name)
{
	unsigned int i;

	for (i = 0; i < hosts->count; i++)
		if (!strcmp(hosts->host[i].name, name))
			return &hosts->host[i];
	return NULL;
}

int address_split(const char *address, char name[128], unsigned int *port, struct fail *f)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:";
	const char *colon = strrchr(address, ':');
	size_t len = colon ? (size_t)(colon - address) : strlen(address);
	unsigned long n;
	char *end;

	*port = GODWIT_PORT;
	if (!len || strlen(address) > 127 || memchr(address, ':', len) || address[strspn(address, allowed)])
		return fail_set(f, GW_USAGE, "'%s' is not an address; write IP:PORT, for example"
				" 10.0.0.5:%d", address, GODWIT_PORT);
	memcpy(name, address, len);
	name[len] = 0;
	if (!colon)
		return GW_OK;
	n = strtoul(colon + 1, &end, 10);
	if (colon[1] < '0' || colon[1] > '9' || *end || !n || n > 65535)
		return fail_set(f, GW_USAGE, "'%s' has no valid port; ports are 1 to 65535", address);
	*port = (unsigned int)n;
	return GW_OK;
}

static int hosts_line(void *user, const char *section, const char *key, const char *value)
{
	struct hosts_reader *r = user;
	struct host *h = hosts_get(r->hosts, section);
	unsigned int port;
	char name[128];
	char *into;

	if (!name_valid(section)) {
		fail_set(r->fail, GW_FAILED, "'%s' is not a host name; put each host's lines under"
			 " [NAME]", section);
		return 0;
	}
	if (!h) {
		if (r->hosts->count == HOSTS_MAX) {
			fail_set(r->fail, GW_FAILED, "more than %d hosts", HOSTS_MAX);
			return 0;
		}
		h = &r->hosts->host[r->hosts->count++];
		memset(h, 0, sizeof(*h));
		snprintf(h->name, sizeof(h->name), "%s", section);
	}
	if (!strcmp(key, "address")) {
		into = h->address;
	} else if (!strcmp(key, "peer-address")) {
		into = h->peer;
	} else {
		fail_set(r->fail, GW_FAILED, "[%s] has no setting '%s'; there are address and"
			 " peer-address", section, key);
		return 0;
	}
	if (!value[0]) /* still to be filled in */
		return 1;
	if (address_split(value, name, &port, r->fail)) {
		fail_set(r->fail, GW_FAILED, "[%s] %s: %.900s", section, key, r->fail->text);
		return 0;
	}
	snprintf(into, sizeof(h->address), "%s", value);
	return 1;
}

int hosts_load(const char *dir, struct hosts *hosts, struct fail *f)
{
	struct fail why = { 0 };
	struct hosts_reader r = { hosts, &why };
	FILE *in;
	int line, failed;

	memset(hosts, 0, sizeof(*hosts));
	hosts->path = text_new("%s/hosts.ini", dir);
	in = fopen(hosts->path, "re");
	if (!in && errno == ENOENT)
		return GW_OK;
	if (!in)
		return fail_set(f, GW_FAILED, "cannot open %s: %s", hosts->path, strerror(errno));
	line = ini_parse_file(in, hosts_line, &r);
	failed = ferror(in) ? errno : 0;
	fclose(in);
	if (failed) /* half of the hosts are none: a guest could be started that runs on another */
		return fail_set(f, GW_FAILED, "cannot read %s: %s", hosts->path, strerror(failed));
	if (line)
		return fail_set(f, GW_FAILED, "%s, line %d: %.900s", hosts->path, line,
				why.text[0] ? why.text : "not 'setting=value' and not '[HOST]'");
	return GW_OK;
}

void hosts_free(struct hosts *hosts)
{
	free(hosts->path);
	hosts->path = NULL;
}

struct host *hosts_find(struct hosts *hosts, const char *name, struct fail *f)
{
	struct host *h = hosts_get(hosts, name);
	char known[512] = "";
	unsigned int i;

	if (h)
		return h;
	for (i = 0; i < hosts->count && strlen(known) < 400; i++) {
		strcat(known, i ? ", " : "");
		strcat(known, hosts->host[i].name);
	}
	fail_set(f, GW_USAGE, "no host is called '%s'; %s knows %s. Add it with 'godwit ca enroll %s"
		 " --address IP:PORT'", name, hosts->path, known[0] ? known : "none", name);
	return NULL;
}

/* Whether @line sets @key (up to '=' and spaces). */
static bool line_sets(const char *line, const char *key)
{
	size_t n = strlen(key);

	line += strspn(line, " \t");
	return !strncmp(line, key, n) && strchr("= \t:", line[n]) && line[n];
}

int hosts_put(const char *dir, const struct host *host, struct fail *f)
{
	char *path = text_new("%s/hosts.ini", dir);
	char *section = text_new("[%s]", host->name);
	char *old = NULL, *new = NULL;
	bool inside = false, found = false;
	size_t len = 0, new_len = 0;
	char *line, *next;
	FILE *out;
	int code = GW_OK;

	if (access(path, F_OK) < 0)
		old = text_new("# Hosts that the godwit command knows; it adds to this file.\n"
			       "# address: for this machine. peer-address: for the other hosts, when"
			       " theirs differs.\n");
	else
		code = file_read(path, &old, &len, f);
	if (code)
		goto done;
	out = open_memstream(&new, &new_len);
	if (!out) {
		code = fail_set(f, GW_FAILED, "out of memory writing %s", path);
		goto done;
	}
	for (line = old; *line; line = next) {
		size_t n = strcspn(line, "\n"), blank = strspn(line, " \t");

		next = line + n + (line[n] == '\n');
		if (line[blank] == '[') {
			inside = !strncmp(line + blank, section, strlen(section));
			found |= inside;
			fprintf(out, "%.*s\n", (int)n, line);
			if (inside && host->address[0])
				fprintf(out, "address=%s\n", host->address);
			if (inside && host->peer[0])
				fprintf(out, "peer-address=%s\n", host->peer);
			continue;
		}
		if (inside && host->address[0] && line_sets(line, "address"))
			continue;
		if (inside && host->peer[0] && line_sets(line, "peer-address"))
			continue;
		fprintf(out, "%.*s\n", (int)n, line);
	}
	if (!found) {
		fprintf(out, "\n%s\n", section);
		fprintf(out, "address=%s\n", host->address);
		if (host->peer[0])
			fprintf(out, "peer-address=%s\n", host->peer);
	}
	fclose(out);
	code = file_write(path, new, new_len, 0644, true, f);
done:
	free(new);
	free(old);
	free(section);
	free(path);
	return code;
}

int host_peer_uri(const struct hosts *hosts, const struct host *host, char uri[160],
		  struct fail *f)
{
	const char *address = host->peer[0] ? host->peer : host->address;
	struct in_addr ip;
	unsigned int port;
	char name[128];

	if (!address[0])
		return fail_set(f, GW_FAILED, "host '%s' has no address in %s: add address=IP:PORT under"
				" [%s]", host->name, hosts->path, host->name);
	if (address_split(address, name, &port, f))
		return f->code;
	if (inet_pton(AF_INET, name, &ip) != 1)
		return fail_set(f, GW_FAILED, "other hosts cannot look up the name '%s': set"
				" peer-address=IP:PORT under [%s] in %s", name, host->name, hosts->path);
	snprintf(uri, 160, "tcp:%s:%u", name, port);
	return GW_OK;
}
