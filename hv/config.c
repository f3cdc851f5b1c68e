/* SPDX-License-Identifier: MIT */
#include "hv/config.h"
#include "hv/vm/cpu_model.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* inih is built into this file, so that its settings cannot differ between the two. Own names: no clash with another copy. */
#define INI_MAX_LINE 1100
#define INI_ALLOW_MULTILINE 0
#define INI_ALLOW_INLINE_COMMENTS 0
#define INI_STOP_ON_FIRST_ERROR 0
#define ini_parse_stream config_ini_parse_stream
#define ini_parse_string config_ini_parse_string
#define ini_parse_file config_ini_parse_file
#define ini_parse config_ini_parse
/* Lines are on the stack, and there are no files: what inih does not need here would pull in system calls. */
#define malloc(n) NULL
#define realloc(p, n) NULL
#define free(p) ((void)(p))
#define fopen(name, mode) ((FILE *)NULL)
#define fclose(file) ((void)(file))
static char *fgets_nothing(char *to, int room, FILE *file) { return NULL; }
#define fgets fgets_nothing
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wunused-function"
#include "ini.c"
#pragma GCC diagnostic pop

#define LINE_MAX_BYTES 1000 /* without the line end; a command line of 511 fits */
#define SECTION_MAX_BYTES 48 /* inih cuts longer ones */
#define SKIP "!" /* section whose error is already reported */

enum section { S_NONE, S_HOST, S_NETWORK, S_MIGRATION, S_DEBUG, S_GUEST, S_SWITCH, S_TIME, S_SKIP };

struct parser {
	struct config *c;
	const char *text, *end;
	u32 line;
	bool more_errors;
	enum section section;
	u64 seen[S_SKIP + 1]; /* bit per key of that section */
	u32 address_line;
	bool mode_given;
	struct guest_config guest; /* the one being read */
	const struct guest_config *base; /* what it is before any key is read; NULL: the defaults */
	u32 guest_line;
	bool guest_open, guest_bad;
	u32 nic_line[CONFIG_MAX_NICS], nic_lines[CONFIG_MAX_GUESTS][CONFIG_MAX_NICS];
	struct time_server prefer;
	struct error why; /* for checks that make their own text */
};

struct key {
	enum section section;
	const char *name;
	/* Checks and stores the value. NULL: good; otherwise what is wrong and what to write, after "NAME=VALUE ". */
	const char *(*set)(struct parser *p, const char *value);
};

static void complain(struct parser *p, u32 line, const char *fmt, ...) __printf(3, 4);

static void complain(struct parser *p, u32 line, const char *fmt, ...)
{
	struct config *c = p->c;
	struct error *e;
	int n;
	va_list ap;

	if (p->section == S_GUEST)
		p->guest_bad = true;
	if (c->n_errors == CONFIG_MAX_ERRORS) {
		if (!p->more_errors) {
			e = &c->errors[CONFIG_MAX_ERRORS - 1];
			snprintf(e->text, sizeof(e->text), "godwit.conf line %u and after: more errors. Correct the ones above first.",
				line);
		}
		p->more_errors = true;
		return;
	}
	e = &c->errors[c->n_errors++];
	e->code = E_INVAL;
	n = line ? snprintf(e->text, sizeof(e->text), "godwit.conf line %u: ", line) :
		snprintf(e->text, sizeof(e->text), "godwit.conf: ");
	va_start(ap, fmt);
	vsnprintf(e->text + n, sizeof(e->text) - n, fmt, ap);
	va_end(ap);
}

/* --- Values --- */

/* Digits, and what follows them in *rest. false: no digit, or too large. */
static bool number(const char *s, u64 *out, const char **rest)
{
	u64 v = 0;

	if (*s < '0' || *s > '9')
		return false;
	for (; *s >= '0' && *s <= '9'; s++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (u64)(*s - '0'), &v))
			return false;
	*out = v;
	*rest = s;
	return true;
}

static bool plain_number(const char *s, u64 min, u64 max, u64 *out)
{
	const char *rest;
	u64 v;

	if (!number(s, &v, &rest) || *rest || v < min || v > max)
		return false;
	*out = v;
	return true;
}

static bool size(const char *s, u64 *out)
{
	const char *rest;
	u64 unit;

	if (!number(s, out, &rest))
		return false;
	switch (*rest) {
	case 'K': case 'k': unit = 1ull << 10; break;
	case 'M': case 'm': unit = 1ull << 20; break;
	case 'G': case 'g': unit = 1ull << 30; break;
	default: return false;
	}
	return !rest[1] && !__builtin_mul_overflow(*out, unit, out);
}

static bool duration_ms(const char *s, u64 *out)
{
	const char *rest;

	if (!number(s, out, &rest))
		return false;
	if (!strcmp(rest, "ms"))
		return true;
	return !strcmp(rest, "s") && !__builtin_mul_overflow(*out, 1000, out);
}

static bool yes_no(const char *s, bool *out)
{
	bool yes = !strcmp(s, "yes");

	if (!yes && strcmp(s, "no"))
		return false;
	*out = yes;
	return true;
}

static bool ipv4(const char *s, u32 *out, const char **rest)
{
	u32 ip = 0;

	for (int i = 0; i < 4; i++) {
		u64 v;

		if (!number(s, &v, rest) || v > 255 || *rest - s > 3)
			return false;
		ip = ip << 8 | v;
		if (i < 3 && **rest != '.')
			return false;
		s = *rest + 1;
	}
	*out = ip;
	return true;
}

/* Letters, digits, '.', '_' and '-': names that need no quoting anywhere. */
static bool name_ok(const char *s, size_t max)
{
	size_t n = strlen(s);

	for (size_t i = 0; i < n; i++)
		if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= '0' && s[i] <= '9') ||
		      strchr("._-", s[i])))
			return false;
	return n && n <= max && s[0] != '-' && s[0] != '.';
}

/* A file below \godwit\: no way up or out, and no character that FAT forbids. */
static bool file_ok(const char *s, size_t n, size_t max)
{
	if (!n || n > max || *s == '/' || s[n - 1] == '/')
		return false;
	for (size_t i = 0; i < n; i++) {
		if (s[i] <= ' ' || s[i] > '~' || strchr("\\:*?\"<>|", s[i]))
			return false;
		if (s[i] == '.' && i + 1 < n && s[i + 1] == '.')
			return false;
	}
	return true;
}

#define BAD_FILE "is not a file name. Name a file in the folder godwit of the boot disk: at most 63 letters, digits, . _ - and /," \
	" no .. and no spaces"
#define BAD_YES_NO "is neither yes nor no"
#define BAD_NAME "is not a good name. Use 1 to 31 letters, digits, . _ or -, beginning with a letter, digit or _"

static const char *set_file(char *to, size_t room, const char *v)
{
	if (!file_ok(v, strlen(v), room - 1))
		return BAD_FILE;
	strcpy(to, v);
	return NULL;
}

/* --- Keys --- */

static const char *set_host_name(struct parser *p, const char *v)
{
	if (!name_ok(v, NAME_MAX_LEN - 1))
		return BAD_NAME;
	strcpy(p->c->host_name, v);
	return NULL;
}

static const char *set_records(struct parser *p, const char *v)
{
	return yes_no(v, &p->c->keep_records) ? NULL : BAD_YES_NO;
}

static const char *set_mode(struct parser *p, const char *v)
{
	if (strcmp(v, "static") && strcmp(v, "dhcp"))
		return "is unknown. Write mode=static (with address=) or mode=dhcp";
	p->c->dhcp = !strcmp(v, "dhcp");
	p->mode_given = true;
	return NULL;
}

static const char *set_address(struct parser *p, const char *v)
{
	const char *rest;
	u32 ip, mask;
	u64 bits;

	if (!ipv4(v, &ip, &rest) || *rest != '/' || !plain_number(rest + 1, 1, 30, &bits))
		return "is not an IPv4 address with prefix length. Write it like address=192.168.1.10/24";
	mask = ~0u << (32 - bits);
	if (!(ip & ~mask) || (ip & ~mask) == ~mask)
		return "is the network's own or its broadcast address. Use the address of this host";
	if (!(ip >> 24) || ip >> 24 == 127 || ip >> 24 >= 224)
		return "is a reserved address. Use the address of this host";
	p->c->address = ip;
	p->c->netmask = mask;
	p->address_line = p->line;
	return NULL;
}

static const char *set_gateway(struct parser *p, const char *v)
{
	const char *rest;
	u32 ip;

	if (!ipv4(v, &ip, &rest) || *rest || !ip || ip >> 24 >= 224)
		return "is not an IPv4 address. Write it like gateway=192.168.1.1";
	p->c->gateway = ip;
	return NULL;
}

static const char *set_port(struct parser *p, const char *v)
{
	u64 n;

	if (!plain_number(v, 1, 65535, &n))
		return "is not a port. Use 1 to 65535; the default is 4789";
	p->c->port = n;
	return NULL;
}

static bool time_server(const char *v, struct time_server *s, const char **rest)
{
	u64 port = 123;

	if (!ipv4(v, &s->ip, rest) || !s->ip || s->ip >> 24 >= 224)
		return false;
	if (**rest == ':' && (!number(*rest + 1, &port, rest) || !port || port > 65535))
		return false;
	s->port = port;
	return true;
}

#define BAD_TIME_SERVER "is not made of IPv4 addresses, with :PORT where it is not 123. Write it like servers=192.168.1.1,192.168.1.2"

static const char *set_time_servers(struct parser *p, const char *v)
{
	struct time_config *t = &p->c->time;
	u32 i;

	for (i = 0; i < CONFIG_MAX_TIME_SERVERS; i++) {
		if (!time_server(v, &t->servers[i], &v) || (*v && *v != ','))
			break;
		if (!*v) {
			t->n_servers = i + 1;
			return NULL;
		}
		v += 1 + strspn(v + 1, " ");
	}
	t->n_servers = 0;
	return i == CONFIG_MAX_TIME_SERVERS ? "is one server too many. There can be 4" : BAD_TIME_SERVER;
}

static const char *set_time_prefer(struct parser *p, const char *v)
{
	return time_server(v, &p->prefer, &v) && !*v ? NULL : BAD_TIME_SERVER;
}

static const char *set_time_poll(struct parser *p, const char *v)
{
	u64 ms;

	if (!duration_ms(v, &ms) || ms < 8000 || ms > 3600000)
		return "is not a duration from 8s to 3600s. Write it like poll=64s";
	p->c->time.poll_s = ms / 1000;
	return NULL;
}

static const char *set_freeze_budget(struct parser *p, const char *v)
{
	u64 n;

	if (!duration_ms(v, &n) || !n || n > MOVE_MAX_FREEZE_MS)
		return "is not a duration from 1ms to 60s. Write it like freeze-budget=300ms";
	p->c->freeze_budget_ms = n;
	return NULL;
}

static const char *set_max_rounds(struct parser *p, const char *v)
{
	u64 n;

	if (!plain_number(v, 1, MOVE_MAX_ROUNDS, &n))
		return "is not a number from 1 to 1000";
	p->c->max_rounds = n;
	return NULL;
}

static const char *set_verify(struct parser *p, const char *v)
{
	if (strcmp(v, "fold") && strcmp(v, "full"))
		return "is unknown. Write verify=fold (hashes, the default) or verify=full (both memories are read again)";
	p->c->verify_full = !strcmp(v, "full");
	return NULL;
}

static const char *set_self_migrate(struct parser *p, const char *v)
{
	return plain_number(v, 0, ~0ull, &p->c->self_migrate_exits) ? NULL : "is not a number of VM exits. Write 0 for off";
}

static const char *set_quit_when_idle(struct parser *p, const char *v)
{
	return yes_no(v, &p->c->quit_when_idle) ? NULL : BAD_YES_NO;
}

static const char *set_apicv(struct parser *p, const char *v)
{
	bool on;

	if (!yes_no(v, &on))
		return BAD_YES_NO;
	p->c->no_apicv = !on;
	return NULL;
}

static const char *set_memory(struct parser *p, const char *v)
{
	u64 n;

	if (!size(v, &n))
		return "is not a size. Write a number with K, M or G, like memory=128M";
	if (n % PAGE_2M || n < 2 * PAGE_2M || n > 1ull << 40)
		return "is not possible. Use a multiple of 2M from 4M to 1024G";
	p->guest.memory_bytes = n;
	return NULL;
}

static const char *set_vcpus(struct parser *p, const char *v)
{
	u64 n;

	if (!plain_number(v, 1, CONFIG_MAX_VCPUS, &n))
		return "is not possible. Use vcpus=1 to vcpus=8";
	p->guest.vcpus = n;
	return NULL;
}

static const char *set_weight(struct parser *p, const char *v)
{
	u64 n;

	if (!plain_number(v, 1, CONFIG_MAX_WEIGHT, &n))
		return "is not a number from 1 to 1000. 100 is the default";
	p->guest.weight = n;
	return NULL;
}

static const char *set_cpu(struct parser *p, const char *v)
{
	struct cpu_model m;

	if (strlen(v) >= sizeof(p->guest.cpu))
		return "is too long. Baseline and features have at most 127 characters";
	p->why.code = 0;
	if (cpu_model_parse(v, &m, &p->why))
		return p->why.text;
	strcpy(p->guest.cpu, v);
	return NULL;
}

static const char *set_kernel(struct parser *p, const char *v)
{
	return set_file(p->guest.kernel, sizeof(p->guest.kernel), v);
}

static const char *set_initrd(struct parser *p, const char *v)
{
	return set_file(p->guest.initrd, sizeof(p->guest.initrd), v);
}

static const char *set_cmdline(struct parser *p, const char *v)
{
	if (strlen(v) >= sizeof(p->guest.cmdline))
		return "is too long. A command line has at most 511 characters";
	strcpy(p->guest.cmdline, v);
	return NULL;
}

static const char *set_autostart(struct parser *p, const char *v)
{
	return yes_no(v, &p->guest.autostart) ? NULL : BAD_YES_NO;
}

static const char *set_debug_exit(struct parser *p, const char *v)
{
	return yes_no(v, &p->guest.debug_exit) ? NULL : BAD_YES_NO;
}

static const char *set_os(struct parser *p, const char *v)
{
	if (strcmp(v, "linux") && strcmp(v, "multiboot") && strcmp(v, "other"))
		return "is unknown. Write os=linux, os=multiboot or os=other";
	strcpy(p->guest.os_type, v);
	return NULL;
}

static const char *set_module(struct parser *p, const char *v)
{
	struct guest_config *g = &p->guest;

	if (g->n_modules == CONFIG_MAX_MODULES)
		return "is one module too many. A guest has at most 4";
	if (!file_ok(v, strcspn(v, " "), sizeof(g->kernel) - 1))
		return BAD_FILE;
	if (strlen(v) >= sizeof(g->modules[0]))
		return "is too long. File and arguments have at most 127 characters";
	strcpy(g->modules[g->n_modules++], v);
	return NULL;
}

static const char *set_console(struct parser *p, const char *v)
{
	if (strcmp(v, "serial") && strcmp(v, "none"))
		return "is unknown. Write console=serial (copied to the host's COM1) or console=none";
	p->guest.console_serial = !strcmp(v, "serial");
	return NULL;
}

static bool hex_byte(const char *s, u8 *out)
{
	static const char digits[] = "0123456789abcdef";
	const char *high, *low;

	/* strchr finds the terminator, too. */
	high = *s ? strchr(digits, *s | 0x20) : NULL;
	low = high && s[1] ? strchr(digits, s[1] | 0x20) : NULL;
	if (!low)
		return false;
	*out = (u8)((high - digits) << 4 | (low - digits));
	return true;
}

void config_default_mac(const char *guest, u32 n, u8 mac[6])
{
	u32 h = 2166136261u; /* FNV-1a */

	for (; *guest; guest++)
		h = (h ^ (u8)*guest) * 16777619u;
	h = (h ^ (u8)n) * 16777619u;
	h ^= h >> 24;
	memcpy(mac, (u8[6]){ 0x52, 0x54, 0x00, (u8)(h >> 16), (u8)(h >> 8), (u8)h }, 6);
}

static bool vlan_id(const char *s, u16 *out)
{
	u64 n;

	if (!plain_number(s, 1, VLAN_MAX, &n))
		return false;
	*out = (u16)n;
	return true;
}

#define BAD_VLAN "has a VLAN that is not a number from 1 to 4094"

static const char *nic_option(struct nic_config *nic, const char *o)
{
	if (!strncmp(o, "vlan=", 5))
		return vlan_id(o + 5, &nic->vlan) ? NULL : BAD_VLAN;
	if (strncmp(o, "mac=", 4))
		return "has an unknown option. After the name of the network there may be ,mac=52:54:00:12:34:56 and ,vlan=ID";
	o += 4;
	for (unsigned i = 0; i < 6; i++)
		if (strlen(o) != 17 || !hex_byte(o + 3 * i, &nic->mac[i]) || o[3 * i + 2] != (i < 5 ? ':' : 0))
			return "has a MAC address that is none. Write it like mac=52:54:00:12:34:56";
	return config_mac_ok(nic->mac) ? NULL : "has a MAC address that no card can have (zero, or a multicast address: its first "
		"byte must be even). Begin it with 52:54:00";
}

static const char *set_nic(struct parser *p, const char *v)
{
	struct guest_config *g = &p->guest;
	struct nic_config *nic = &g->nics[g->n_nics];
	char text[128], *next, *at = text;
	const char *wrong;

	if (g->n_nics == CONFIG_MAX_NICS)
		return "is one network card too many. A guest has at most 4";
	if (strlen(v) >= sizeof(text))
		return "is too long. Write it like nic=lan,mac=52:54:00:12:34:56";
	strcpy(text, v);
	*nic = (struct nic_config){ 0 };
	for (bool first = true; at; at = next, first = false) {
		next = strchr(at, ',');
		if (next)
			*next++ = 0;
		if (first && !name_ok(at, NAME_MAX_LEN - 1))
			return "does not begin with the name of a network. Name a [switch NAME] section, like nic=lan";
		if (first)
			strcpy(nic->network, at);
		else if ((wrong = nic_option(nic, at)))
			return wrong;
	}
	if (!config_mac_ok(nic->mac))
		config_default_mac(g->name, g->n_nics, nic->mac);
	p->nic_line[g->n_nics++] = p->line;
	return NULL;
}

#define BAD_DISK "is no disk. Write disk=ram:64M, disk=image:FILE, disk=nbd://IP:PORT/EXPORT or disk=nbds://IP:PORT/EXPORT"

/* Printable, no blanks, nothing that would need quoting in a list of options. */
static bool word_ok(const char *s, size_t max)
{
	size_t n = strlen(s);

	for (size_t i = 0; i < n; i++)
		if (s[i] <= ' ' || s[i] > '~' || strchr("\"',\\", s[i]))
			return false;
	return n <= max;
}

/* What follows nbd: or nbds: */
static const char *disk_nbd(struct disk_config *d, const char *v)
{
	const char *rest;
	u64 port = 10809;

	if (!ipv4(v, &d->address, &rest) || !d->address || d->address >> 24 >= 224)
		return "has no IPv4 address behind //. Write it like disk=nbd://192.168.1.5:10809/root";
	if (*rest == ':' && (!number(rest + 1, &port, &rest) || !port || port > 65535))
		return "has a port that is none. Write it like disk=nbd://192.168.1.5:10809/root";
	if (*rest && *rest != '/')
		return BAD_DISK;
	if (*rest)
		rest++;
	if (!word_ok(rest, sizeof(d->export_name) - 1))
		return "has an export name that is not possible. Use up to 63 printable characters without blanks, commas, quotes and "
			"backslashes";
	strcpy(d->export_name, rest);
	d->kind = DISK_NBD;
	d->port = (u16)port;
	return NULL;
}

static const char *disk_source(struct disk_config *d, const char *v)
{
	if (!strncmp(v, "ram:", 4)) {
		d->kind = DISK_RAM;
		return !size(v + 4, &d->bytes) || !d->bytes || d->bytes % (1u << 20) || d->bytes > 1ull << 40 ?
			"is not possible. Give a RAM disk a size in whole megabytes, like disk=ram:64M" : NULL;
	}
	if (!strncmp(v, "image:", 6)) {
		d->kind = DISK_IMAGE;
		d->read_only = true;
		return set_file(d->image, sizeof(d->image), v + 6);
	}
	d->tls = !strncmp(v, "nbds://", 7);
	if (!d->tls && strncmp(v, "nbd://", 6))
		return BAD_DISK;
	return disk_nbd(d, v + (d->tls ? 7 : 6));
}

static const char *disk_option(struct disk_config *d, const char *o)
{
	u64 n;

	if (!strcmp(o, "ro")) {
		d->read_only = true;
		return NULL;
	}
	if (!strncmp(o, "serial=", 7)) {
		if (!o[7] || !word_ok(o + 7, sizeof(d->serial) - 1))
			return "has a serial number that is not possible. Use 1 to 20 printable characters";
		strcpy(d->serial, o + 7);
		return NULL;
	}
	if (strncmp(o, "timeout=", 8))
		return "has an unknown option. After the disk there may be ,ro ,serial=TEXT and ,timeout=DURATION";
	if (d->kind != DISK_NBD || !duration_ms(o + 8, &n) || n < 1000 || n > 86400000)
		return "has a timeout that is not possible. An NBD disk may have one from 1s to 86400s, like timeout=60s";
	d->timeout_ms = (u32)n;
	return NULL;
}

static const char *set_disk(struct parser *p, const char *v)
{
	struct guest_config *g = &p->guest;
	struct disk_config *d = &g->disks[g->n_disks];
	char text[256], *next, *at = text;
	const char *wrong;

	if (g->n_disks == CONFIG_MAX_DISKS)
		return "is one disk too many. A guest has at most 4";
	if (strlen(v) >= sizeof(text))
		return "is too long. At most 255 characters are possible";
	strcpy(text, v);
	*d = (struct disk_config){ 0 };
	for (bool first = true; at; at = next, first = false) {
		next = strchr(at, ',');
		if (next)
			*next++ = 0;
		wrong = first ? disk_source(d, at) : disk_option(d, at);
		if (wrong)
			return wrong;
	}
	g->n_disks++;
	return NULL;
}

/* N, or a PCI address: bus:device.function in hexadecimal. */
static const char *set_uplink(struct parser *p, const char *v)
{
	struct switch_config *s = &p->c->switches[p->c->n_switches - 1];
	u64 n;

	if (!strcmp(v, "none"))
		return NULL;
	if (plain_number(v, 0, 63, &n)) {
		s->uplink = UPLINK_NUMBER;
		s->number = (u8)n;
		return NULL;
	}
	if (strlen(v) != 7 || !hex_byte(v, &s->bus) || v[2] != ':' || !hex_byte(v + 3, &s->dev) || s->dev > 31 || v[5] != '.' ||
	    v[6] < '0' || v[6] > '7')
		return "is no network card. Write its number in PCI order (the first is 0), its PCI address like 00:04.0, or none";
	s->uplink = UPLINK_ADDRESS;
	s->fn = (u8)(v[6] - '0');
	return NULL;
}

static const char *set_vlan(struct parser *p, const char *v)
{
	return vlan_id(v, &p->c->switches[p->c->n_switches - 1].vlan) ? NULL : BAD_VLAN;
}

static const struct key keys[] = {
	{ S_HOST, "name", set_host_name },
	{ S_HOST, "records", set_records },
	{ S_NETWORK, "mode", set_mode },
	{ S_NETWORK, "address", set_address },
	{ S_NETWORK, "gateway", set_gateway },
	{ S_NETWORK, "port", set_port },
	{ S_MIGRATION, "freeze-budget", set_freeze_budget },
	{ S_MIGRATION, "max-rounds", set_max_rounds },
	{ S_MIGRATION, "verify", set_verify },
	{ S_TIME, "servers", set_time_servers },
	{ S_TIME, "prefer", set_time_prefer },
	{ S_TIME, "poll", set_time_poll },
	{ S_DEBUG, "self-migrate-exits", set_self_migrate },
	{ S_DEBUG, "quit-when-idle", set_quit_when_idle },
	{ S_DEBUG, "apicv", set_apicv },
	{ S_GUEST, "memory", set_memory },
	{ S_GUEST, "vcpus", set_vcpus },
	{ S_GUEST, "weight", set_weight },
	{ S_GUEST, "cpu", set_cpu },
	{ S_GUEST, "kernel", set_kernel },
	{ S_GUEST, "initrd", set_initrd },
	{ S_GUEST, "cmdline", set_cmdline },
	{ S_GUEST, "autostart", set_autostart },
	{ S_GUEST, "debug-exit", set_debug_exit },
	{ S_GUEST, "os", set_os },
	{ S_GUEST, "module", set_module },
	{ S_GUEST, "console", set_console },
	{ S_GUEST, "disk", set_disk },
	{ S_GUEST, "nic", set_nic },
	{ S_SWITCH, "uplink", set_uplink },
	{ S_SWITCH, "vlan", set_vlan },
};

static const char *const section_names[] = { [S_HOST] = "host", [S_NETWORK] = "network", [S_MIGRATION] = "migration",
	[S_DEBUG] = "debug", [S_TIME] = "time" };

/* --- Sections --- */

static void guest_end(struct parser *p)
{
	struct config *c = p->c;

	if (!p->guest_open)
		return;
	p->section = S_GUEST;
	if (!p->guest_bad && !p->guest.kernel[0])
		complain(p, p->guest_line, "[guest %s] has no kernel=. Name the file to boot, like kernel=vmlinuz", p->guest.name);
	if (!p->guest_bad) {
		memcpy(p->nic_lines[c->n_guests], p->nic_line, sizeof(p->nic_line));
		c->guests[c->n_guests++] = p->guest;
	}
	p->guest_open = false;
}

static void guest_begin(struct parser *p, const char *name)
{
	struct config *c = p->c;

	p->section = S_SKIP;
	if (!name_ok(name, NAME_MAX_LEN - 1)) {
		complain(p, p->line, "[guest %.40s]: the name " BAD_NAME, name);
		return;
	}
	/* A guest that was left out for an error counts as well, but then its own error is the one to read. */
	for (u32 i = 0; i < c->n_guests; i++)
		if (!strcmp(c->guests[i].name, name)) {
			complain(p, p->line, "[guest %s] is there twice. Give each guest a name of its own", name);
			return;
		}
	if (c->n_guests == CONFIG_MAX_GUESTS) {
		complain(p, p->line, "[guest %s] is one guest too many. A host has at most %u", name, CONFIG_MAX_GUESTS);
		return;
	}
	p->section = S_GUEST;
	p->seen[S_GUEST] = 0;
	p->guest = (struct guest_config){ .memory_bytes = 128ull << 20, .vcpus = 1, .weight = 100, .os_type = "other" };
	if (p->base)
		p->guest = *p->base;
	strcpy(p->guest.name, name);
	p->guest_line = p->line;
	p->guest_open = true;
	p->guest_bad = false;
}

static void switch_begin(struct parser *p, const char *name)
{
	struct config *c = p->c;

	if (!name_ok(name, NAME_MAX_LEN - 1)) {
		complain(p, p->line, "[switch %.40s]: the name " BAD_NAME, name);
		return;
	}
	for (u32 i = 0; i < c->n_switches; i++)
		if (!strcmp(c->switches[i].name, name)) {
			complain(p, p->line, "[switch %s] is there twice. Give each switch a name of its own", name);
			return;
		}
	if (c->n_switches == CONFIG_MAX_SWITCHES) {
		complain(p, p->line, "[switch %s] is one switch too many. A host has at most %u", name, CONFIG_MAX_SWITCHES);
		return;
	}
	p->section = S_SWITCH;
	p->seen[S_SWITCH] = 0;
	strcpy(c->switches[c->n_switches++].name, name);
}

/* Whether the guest's cards lead somewhere and are told apart from each other and from those of the first `good` guests. */
static bool nics_ok(struct parser *p, u32 guest, u32 good)
{
	struct config *c = p->c;
	struct guest_config *g = &c->guests[guest];

	for (u32 n = 0; n < g->n_nics; n++) {
		u32 line = p->nic_lines[guest][n], s = 0;

		while (s < c->n_switches && strcmp(c->switches[s].name, g->nics[n].network))
			s++;
		if (s == c->n_switches) {
			complain(p, line, "[guest %s] nic=%s: there is no [switch %s] in this file. Add one, or name one that is there",
				g->name, g->nics[n].network, g->nics[n].network);
			return false;
		}
		for (u32 i = 0; i <= good; i++) {
			struct guest_config *o = i < good ? &c->guests[i] : g;

			for (u32 k = 0; k < (o == g ? n : o->n_nics); k++)
				if (!memcmp(o->nics[k].mac, g->nics[n].mac, 6)) {
					complain(p, line, "[guest %s] nic=%s has the MAC address of a card of guest %s. Give it another one "
						"with mac=", g->name, g->nics[n].network, o->name);
					return false;
				}
		}
	}
	return true;
}

static void networks_check(struct parser *p)
{
	struct config *c = p->c;
	u32 good = 0;

	p->section = S_NONE;
	/* Only now: a switch may stand behind the guests in the file. */
	for (u32 i = 0; i < c->n_guests; i++) {
		if (!nics_ok(p, i, good))
			continue;
		memmove(p->nic_lines[good], p->nic_lines[i], sizeof(p->nic_lines[0]));
		memmove(&c->guests[good++], &c->guests[i], sizeof(c->guests[0]));
	}
	c->n_guests = good;
	for (u32 i = 0; i < c->n_switches; i++)
		for (u32 k = 0; k < i; k++) {
			struct switch_config *a = &c->switches[k], *b = &c->switches[i];

			if (a->uplink == UPLINK_NONE || a->uplink != b->uplink || a->vlan != b->vlan ||
			    (a->uplink == UPLINK_NUMBER ? a->number != b->number : a->bus != b->bus || a->dev != b->dev || a->fn != b->fn))
				continue;
			complain(p, 0, "[switch %s] and [switch %s] are one network: both have uplink= and vlan= in common. Give one of "
				"them another vlan=, or leave one out. The second has no uplink now", a->name, b->name);
			b->uplink = UPLINK_NONE;
		}
}

/* A "[name]" line; false: its keys are to be skipped, the error is reported. */
static bool section_begin(struct parser *p, const char *name)
{
	guest_end(p);
	p->section = S_SKIP;
	for (u32 i = S_HOST; i < ARRAY_SIZE(section_names); i++)
		if (section_names[i] && !strcmp(name, section_names[i])) {
			p->section = i;
			return true;
		}
	if (!strncmp(name, "guest ", 6)) {
		guest_begin(p, name + 6 + strspn(name + 6, " "));
		return p->section == S_GUEST;
	}
	if (!strncmp(name, "switch ", 7)) {
		switch_begin(p, name + 7 + strspn(name + 7, " "));
		return p->section == S_SWITCH;
	}
	complain(p, p->line, "section [%.40s] is unknown. There are [host], [network], [time], [migration], [debug], [switch NAME] and "
		"[guest NAME]", name);
	return false;
}

/* A list that is given replaces the one that the guest had. */
static void clear_list(struct guest_config *g, const struct key *k)
{
	if (k->set == set_module)
		g->n_modules = 0;
	if (k->set == set_disk) {
		memset(g->disks, 0, sizeof(g->disks));
		g->n_disks = 0;
	}
	if (k->set == set_nic) {
		memset(g->nics, 0, sizeof(g->nics));
		g->n_nics = 0;
	}
}

static int handle(void *user, const char *section, const char *name, const char *value)
{
	struct parser *p = user;
	const struct key *k = keys;
	const char *wrong;
	bool first;
	u64 bit;

	_Static_assert(ARRAY_SIZE(keys) <= 64, "a bit for each key");
	if (p->section == S_SKIP)
		return 1;
	if (p->section == S_NONE) {
		complain(p, p->line, "%.40s= stands before any section. Begin with [host]", name);
		return 0;
	}
	while (k < keys + ARRAY_SIZE(keys) && (k->section != p->section || strcmp(k->name, name)))
		k++;
	if (k == keys + ARRAY_SIZE(keys)) {
		char known[240] = "";
		size_t n = 0;

		for (k = keys; k < keys + ARRAY_SIZE(keys); k++)
			if (k->section == p->section && n < sizeof(known))
				n += snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", k->name);
		complain(p, p->line, "[%s] has no key %.40s. It knows %s", section, name, known);
		return 0;
	}
	bit = 1ull << (k - keys);
	first = !(p->seen[p->section] & bit);
	if (p->seen[p->section] & bit && k->set != set_module && k->set != set_disk && k->set != set_nic) {
		complain(p, p->line, "[%s] %s= is there twice. Remove one", section, name);
		return 0;
	}
	p->seen[p->section] |= bit;
	if (p->base && first)
		clear_list(&p->guest, k);
	wrong = *value ? k->set(p, value) : "has no value. Write one, or remove the line";
	if (wrong) {
		complain(p, p->line, "[%s] %s=%.40s%s %s", section, name, value, strlen(value) > 40 ? "..." : "", wrong);
		return 0;
	}
	return 1;
}

/* --- Lines --- */

/* Checks one line, without its end and leading blanks. Returns what inih shall see in its place, NULL: the line itself. */
static const char *check_line(struct parser *p, const char *s, size_t len)
{
	char name[SECTION_MAX_BYTES + 1];
	const char *close, *nothing = ";\n";

	if (len && *s == '[') {
		/* Whatever is wrong with this line is not the last guest's fault, and its keys must not land there. */
		guest_end(p);
		p->section = S_SKIP;
		nothing = "[" SKIP "]\n";
	}
	if (memchr(s, 0, len)) {
		complain(p, p->line, "binary data (a NUL byte). Write the file as plain text");
		return nothing;
	}
	if (!len || *s == ';' || *s == '#')
		return nothing; /* comments may be of any length and hold any characters */
	for (size_t i = 0; i < len; i++)
		if ((s[i] < ' ' && s[i] != '\t') || s[i] > '~') {
			complain(p, p->line, "character %#04x is not plain ASCII text. Only comments may have it", (u8)s[i]);
			return nothing;
		}
	if (len > LINE_MAX_BYTES) {
		complain(p, p->line, "the line is too long (%zu characters). At most %u are possible", len, LINE_MAX_BYTES);
		return nothing;
	}
	if (*s != '[') {
		if (memchr(s, '=', len) || memchr(s, ':', len))
			return NULL;
		if (p->section != S_SKIP)
			complain(p, p->line, "\"%.*s\" is neither [section] nor key=value. Correct or remove it",
				(int)MIN(len, (size_t)40), s);
		return nothing;
	}
	close = memchr(s, ']', len);
	if (!close || close != s + len - 1 || (size_t)(close - s) > SECTION_MAX_BYTES) {
		complain(p, p->line, "%s. Write it like [host] or [guest web], with at most %u characters",
			!close ? "the section has no ]" : close != s + len - 1 ? "there is text after the section's ]" :
			"the section's name is too long", SECTION_MAX_BYTES);
		return nothing;
	}
	memcpy(name, s + 1, close - s - 1);
	name[close - s - 1] = 0;
	return section_begin(p, name) ? NULL : nothing;
}

/* ini_reader: the next line. */
static char *next_line(char *to, int room, void *stream)
{
	struct parser *p = stream;
	const char *s = p->text, *end, *instead;

	if (s == p->end)
		return NULL;
	p->line++;
	end = memchr(s, '\n', p->end - s);
	if (!end)
		end = p->end;
	p->text = end < p->end ? end + 1 : end;
	if (p->line == 1 && end - s >= 3 && !memcmp(s, "\xef\xbb\xbf", 3))
		s += 3; /* what some editors put in front of a text */
	while (s < end && (*s == ' ' || *s == '\t'))
		s++;
	while (s < end && (end[-1] == '\r' || end[-1] == ' ' || end[-1] == '\t'))
		end--;
	instead = check_line(p, s, end - s);
	if (instead)
		return strcpy(to, instead);
	BUG_ON(end - s + 2 > room);
	memcpy(to, s, end - s);
	strcpy(to + (end - s), "\n");
	return to;
}

void config_parse(struct config *c, const char *text, size_t len)
{
	struct parser p = { .c = c, .text = text, .end = text + len };

	memset(c, 0, sizeof(*c));
	strcpy(c->host_name, "unnamed");
	c->dhcp = c->keep_records = true;
	c->port = 4789;
	c->time.poll_s = 64;
	c->freeze_budget_ms = 300;
	c->max_rounds = 30;
	(void)config_ini_parse_stream(next_line, &p, handle, &p);
	guest_end(&p);

	networks_check(&p);
	if (!p.seen[S_HOST])
		complain(&p, 0, "[host] name= is missing. Give this host the name that its certificate has, like name=a");
	for (u32 i = 0; i < c->time.n_servers; i++)
		if (c->time.servers[i].ip == p.prefer.ip && c->time.servers[i].port == p.prefer.port)
			c->time.prefer = i + 1;
	if (p.prefer.ip && !c->time.prefer)
		complain(&p, 0, "[time] prefer= is none of the servers= there. Name one of them; none is preferred");
	if (!p.mode_given && c->address)
		c->dhcp = false;
	if (!c->dhcp && !c->address) {
		complain(&p, 0, "[network] mode=static needs address=. Write it like address=192.168.1.10/24; DHCP is used instead");
		c->dhcp = true;
	}
	if (c->dhcp && c->address) {
		complain(&p, p.address_line, "[network] address= does not go with mode=dhcp. Remove one; DHCP is used");
		c->address = c->netmask = c->gateway = 0;
	}
	if (!c->dhcp && c->gateway && ((c->gateway ^ c->address) & c->netmask || c->gateway == c->address)) {
		complain(&p, 0, "[network] gateway= is not another address of the network that address= names; no gateway is used");
		c->gateway = 0;
	}
}

int config_parse_guest(const struct config *host, struct config *scratch, const char *text, size_t len, const struct guest_config *base,
		       struct guest_config *out, struct error *e)
{
	struct parser p = { .c = scratch, .text = text, .end = text + len, .base = base };
	const char *why;

	memset(scratch, 0, sizeof(*scratch));
	memcpy(scratch->switches, host->switches, sizeof(scratch->switches));
	scratch->n_switches = host->n_switches;
	(void)config_ini_parse_stream(next_line, &p, handle, &p);
	guest_end(&p);
	p.section = S_NONE;
	if (scratch->n_guests == 1 && nics_ok(&p, 0, 0)) {
		*out = scratch->guests[0];
		return 0;
	}
	/* Without the line: nobody has seen this text. */
	why = scratch->n_errors ? strstr(scratch->errors[0].text, ": ") : NULL;
	return error_set(e, E_INVAL, "%s", why ? why + 2 : "this is not the definition of one guest");
}

struct text { char *at; size_t room, len; };

static void __printf(2, 3) put(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->at + MIN(t->len, t->room), t->room - MIN(t->len, t->room), fmt, ap);
	va_end(ap);
	t->len += (size_t)n;
}

static void put_disk(struct text *t, const struct disk_config *d)
{
	if (d->kind == DISK_RAM)
		put(t, "disk=ram:%lluM", (unsigned long long)d->bytes >> 20);
	else if (d->kind == DISK_IMAGE)
		put(t, "disk=image:%s", d->image);
	else
		put(t, "disk=nbd%s://%u.%u.%u.%u:%u/%s", d->tls ? "s" : "", d->address >> 24, d->address >> 16 & 255,
		    d->address >> 8 & 255, d->address & 255, d->port, d->export_name);
	if (d->read_only && d->kind != DISK_IMAGE)
		put(t, ",ro");
	if (d->serial[0])
		put(t, ",serial=%s", d->serial);
	if (d->timeout_ms)
		put(t, ",timeout=%ums", d->timeout_ms);
	put(t, "\n");
}

int config_guest_text(const struct guest_config *g, char *text, size_t room)
{
	struct text t = { text, room, 0 };
	const struct { const char *key, *value; } values[] = { { "cpu", g->cpu }, { "kernel", g->kernel }, { "initrd", g->initrd },
		{ "cmdline", g->cmdline }, { "os", g->os_type }, { "autostart", g->autostart ? "yes" : "" },
		{ "debug-exit", g->debug_exit ? "yes" : "" }, { "console", g->console_serial ? "serial" : "" } };

	put(&t, "[guest %s]\nmemory=%lluM\nvcpus=%u\nweight=%u\n", g->name, (unsigned long long)g->memory_bytes >> 20, g->vcpus,
	    g->weight);
	for (u32 i = 0; i < ARRAY_SIZE(values); i++)
		if (values[i].value[0]) /* a key without a value would be an error */
			put(&t, "%s=%s\n", values[i].key, values[i].value);
	for (u32 i = 0; i < g->n_modules; i++)
		put(&t, "module=%s\n", g->modules[i]);
	for (u32 i = 0; i < g->n_disks; i++)
		put_disk(&t, &g->disks[i]);
	for (u32 i = 0; i < g->n_nics; i++) {
		const struct nic_config *n = &g->nics[i];

		put(&t, "nic=%s,mac=%02x:%02x:%02x:%02x:%02x:%02x", n->network, n->mac[0], n->mac[1], n->mac[2], n->mac[3], n->mac[4],
		    n->mac[5]);
		put(&t, n->vlan ? ",vlan=%u\n" : "\n", n->vlan);
	}
	return t.len < room ? (int)t.len : -E_RANGE;
}
