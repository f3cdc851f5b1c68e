/* SPDX-License-Identifier: MIT */
#include "hv/config_keys.h"
#include "hv/vm/cpu_model.h"

#include <stdio.h>
#include <string.h>

/* A setter's result is NULL, or what is wrong and what to write, to be read behind "NAME=VALUE ". */
struct key;
typedef const char *set_fn(struct parser *p, const struct key *k, void *to, const char *value);

struct key {
	enum section section;
	const char *name;
	set_fn *set;             /* checks the value and stores it */
	u32 offset, bytes;       /* of what it sets, in the guest, the switch, or struct config */
	u64 min, max;            /* set_number(), set_duration(); max of a list: how many */
	u32 unit;                /* set_duration(): milliseconds to one of what is stored */
	const char *words[2];    /* set_word(): for false and for true */
	const char *wrong;       /* set_number(), set_duration(), set_word(): any other value; a list: one more */
	u32 count;               /* a list: offset of its u32 number of elements; 0: no list. to is the next element */
};

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

const char *config_name_wrong(const char *s)
{
	static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	size_t n = strlen(s);

	if (n && n < NAME_MAX_LEN && s[0] != '-' && s[0] != '.' && strspn(s, good) == n)
		return NULL;
	return "is not a good name. Use 1 to 31 letters, digits, . _ or -, beginning with a letter, digit or _";
}

bool config_station(const char *s, u32 *ip, u16 *port, const char **rest)
{
	u64 n;

	if (!ipv4(s, ip, rest) || !*ip || *ip >> 24 >= 224)
		return false;
	if (!port || **rest != ':')
		return true;
	if (!number(*rest + 1, &n, rest) || !n || n > 65535)
		return false;
	*port = (u16)n;
	return true;
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
#define BAD_VLAN "has a VLAN that is not a number from 1 to 4094"

/* --- Setters for any key --- */

static const char *set_number(struct parser *p, const struct key *k, void *to, const char *v)
{
	u64 n;

	if (!plain_number(v, k->min, k->max, &n))
		return k->wrong;
	memcpy(to, &n, k->bytes);
	return NULL;
}

static const char *set_duration(struct parser *p, const struct key *k, void *to, const char *v)
{
	u64 n;

	if (!duration_ms(v, &n) || n < k->min || n > k->max)
		return k->wrong;
	n /= k->unit;
	memcpy(to, &n, k->bytes);
	return NULL;
}

static const char *set_word(struct parser *p, const struct key *k, void *to, const char *v)
{
	bool on = !strcmp(v, k->words[1]);

	if (!on && strcmp(v, k->words[0]))
		return k->wrong;
	*(bool *)to = on;
	return NULL;
}

static const char *set_file(struct parser *p, const struct key *k, void *to, const char *v)
{
	if (!file_ok(v, strlen(v), k->bytes - 1))
		return BAD_FILE;
	strcpy(to, v);
	return NULL;
}

/* --- Host, network, time --- */

static const char *set_host_name(struct parser *p, const struct key *k, void *to, const char *v)
{
	const char *wrong = config_name_wrong(v);

	if (!wrong)
		strcpy(to, v);
	return wrong;
}

static const char *set_mode(struct parser *p, const struct key *k, void *to, const char *v)
{
	const char *wrong = set_word(p, k, to, v);

	p->mode_given = p->mode_given || !wrong;
	return wrong;
}

static const char *set_address(struct parser *p, const struct key *k, void *to, const char *v)
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

static const char *set_gateway(struct parser *p, const struct key *k, void *to, const char *v)
{
	u32 ip;

	if (!config_station(v, &ip, NULL, &v) || *v)
		return "is not an IPv4 address. Write it like gateway=192.168.1.1";
	*(u32 *)to = ip;
	return NULL;
}

static bool time_server(const char *v, struct time_server *s, const char **rest)
{
	s->port = 123;
	return config_station(v, &s->ip, &s->port, rest);
}

#define BAD_TIME_SERVER "is not made of IPv4 addresses, with :PORT where it is not 123. Write it like servers=192.168.1.1,192.168.1.2"

static const char *set_time_servers(struct parser *p, const struct key *k, void *to, const char *v)
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

static const char *set_time_prefer(struct parser *p, const struct key *k, void *to, const char *v)
{
	struct time_server s;

	if (!time_server(v, &s, &v) || *v)
		return BAD_TIME_SERVER;
	p->prefer = s;
	return NULL;
}

/* --- Guests --- */

static const char *set_memory(struct parser *p, const struct key *k, void *to, const char *v)
{
	u64 n;

	if (!size(v, &n))
		return "is not a size. Write a number with K, M or G, like memory=128M";
	if (n % PAGE_2M || n < 2 * PAGE_2M || n > 1ull << 40)
		return "is not possible. Use a multiple of 2M from 4M to 1024G";
	*(u64 *)to = n;
	return NULL;
}

static const char *set_cpu(struct parser *p, const struct key *k, void *to, const char *v)
{
	struct cpu_model m;

	if (strlen(v) >= k->bytes)
		return "is too long. Baseline and features have at most 127 characters";
	p->why.code = 0;
	if (cpu_model_parse(v, &m, &p->why))
		return p->why.text;
	strcpy(to, v);
	return NULL;
}

static const char *set_cmdline(struct parser *p, const struct key *k, void *to, const char *v)
{
	if (strlen(v) >= k->bytes)
		return "is too long. A command line has at most 511 characters";
	strcpy(to, v);
	return NULL;
}

static const char *set_os(struct parser *p, const struct key *k, void *to, const char *v)
{
	if (strcmp(v, "linux") && strcmp(v, "multiboot") && strcmp(v, "other"))
		return "is unknown. Write os=linux, os=multiboot or os=other";
	strcpy(to, v);
	return NULL;
}

static const char *set_module(struct parser *p, const struct key *k, void *to, const char *v)
{
	if (!file_ok(v, strcspn(v, " "), sizeof(p->guest.kernel) - 1))
		return BAD_FILE;
	if (strlen(v) >= sizeof(p->guest.modules[0]))
		return "is too long. File and arguments have at most 127 characters";
	strcpy(to, v);
	return NULL;
}

typedef const char *part_fn(void *to, const char *part);

/* FIRST,OPTION,OPTION...; to: what they fill in. */
static const char *set_parts(const char *v, void *to, part_fn *first, part_fn *option)
{
	char text[256], *next, *at = text;
	const char *wrong = NULL;

	if (strlen(v) >= sizeof(text))
		return "is too long. At most 255 characters are possible";
	strcpy(text, v);
	for (part_fn *part = first; at && !wrong; at = next, part = option) {
		next = strchr(at, ',');
		if (next)
			*next++ = 0;
		wrong = part(to, at);
	}
	return wrong;
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

static const char *nic_network(void *to, const char *name)
{
	struct nic_config *nic = to;

	if (config_name_wrong(name))
		return "does not begin with the name of a network. Name a [switch NAME] section, like nic=lan";
	strcpy(nic->network, name);
	return NULL;
}

static const char *nic_option(void *to, const char *o)
{
	struct nic_config *nic = to;
	u64 n;

	if (!strncmp(o, "vlan=", 5)) {
		if (!plain_number(o + 5, 1, VLAN_MAX, &n))
			return BAD_VLAN;
		nic->vlan = (u16)n;
		return NULL;
	}
	if (strncmp(o, "mac=", 4))
		return "has an unknown option. After the name of the network there may be ,mac=52:54:00:12:34:56 and ,vlan=ID";
	o += 4;
	for (unsigned i = 0; i < 6; i++)
		if (strlen(o) != 17 || !hex_byte(o + 3 * i, &nic->mac[i]) || o[3 * i + 2] != (i < 5 ? ':' : 0))
			return "has a MAC address that is none. Write it like mac=52:54:00:12:34:56";
	return config_mac_ok(nic->mac) ? NULL : "has a MAC address that no card can have (zero, or a multicast address: its first "
		"byte must be even). Begin it with 52:54:00";
}

static const char *set_nic(struct parser *p, const struct key *k, void *to, const char *v)
{
	struct guest_config *g = &p->guest;
	struct nic_config *nic = to;
	const char *wrong = set_parts(v, nic, nic_network, nic_option);

	if (!config_mac_ok(nic->mac))
		config_default_mac(g->name, g->n_nics, nic->mac);
	p->nic_line[g->n_nics] = p->line;
	return wrong;
}

/* Printable, no blanks, nothing that would need quoting in a list of options. */
static bool word_ok(const char *s, size_t max)
{
	size_t n = strlen(s);

	for (size_t i = 0; i < n; i++)
		if (s[i] <= ' ' || s[i] > '~' || strchr("\"',\\", s[i]))
			return false;
	return n <= max;
}

#define BAD_DISK "is no disk. Write disk=ram:64M, disk=image:FILE, disk=nbd://IP:PORT/EXPORT or disk=nbds://IP:PORT/EXPORT"

/* What follows nbd:// or nbds:// */
static const char *disk_nbd(struct disk_config *d, const char *v)
{
	const char *rest;

	d->kind = DISK_NBD;
	d->port = 10809;
	if (!config_station(v, &d->address, &d->port, &rest))
		return "has no IPv4 address behind //, or a port that is none. Write it like disk=nbd://192.168.1.5:10809/root";
	if (*rest && *rest != '/')
		return BAD_DISK;
	if (*rest)
		rest++;
	if (!word_ok(rest, sizeof(d->export_name) - 1))
		return "has an export name that is not possible. Use up to 63 printable characters without blanks, commas, quotes and "
			"backslashes";
	strcpy(d->export_name, rest);
	return NULL;
}

static const char *disk_source(void *to, const char *v)
{
	struct disk_config *d = to;

	if (!strncmp(v, "ram:", 4)) {
		d->kind = DISK_RAM;
		return !size(v + 4, &d->bytes) || !d->bytes || d->bytes % (1u << 20) || d->bytes > 1ull << 40 ?
			"is not possible. Give a RAM disk a size in whole megabytes, like disk=ram:64M" : NULL;
	}
	if (!strncmp(v, "image:", 6)) {
		d->kind = DISK_IMAGE;
		d->read_only = true;
		v += 6;
		if (!file_ok(v, strlen(v), sizeof(d->image) - 1))
			return BAD_FILE;
		strcpy(d->image, v);
		return NULL;
	}
	d->tls = !strncmp(v, "nbds://", 7);
	if (!d->tls && strncmp(v, "nbd://", 6))
		return BAD_DISK;
	return disk_nbd(d, v + (d->tls ? 7 : 6));
}

static const char *disk_option(void *to, const char *o)
{
	struct disk_config *d = to;
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

static const char *set_disk(struct parser *p, const struct key *k, void *to, const char *v)
{
	return set_parts(v, to, disk_source, disk_option);
}

/* --- Switches --- */

/* N, or a PCI address: bus:device.function in hexadecimal. */
static const char *set_uplink(struct parser *p, const struct key *k, void *to, const char *v)
{
	struct switch_config *s = to;
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

/* --- The keys --- */

#define AT(type, member) .offset = offsetof(struct type, member), .bytes = sizeof(((struct type *)0)->member)
#define WRONG(text) .wrong = text
#define YES_NO(type, member) set_word, AT(type, member), .words = { "no", "yes" }, .wrong = "is neither yes nor no"
#define LIST(array, most) AT(guest_config, array), .max = most, .count = offsetof(struct guest_config, n_##array)

static const struct key keys[] = {
	{ S_HOST, "name", set_host_name, AT(config, host_name) },
	{ S_HOST, "records", YES_NO(config, keep_records) },
	{ S_NETWORK, "mode", set_mode, AT(config, dhcp), .words = { "static", "dhcp" },
	  WRONG("is unknown. Write mode=static (with address=) or mode=dhcp") },
	{ S_NETWORK, "address", set_address },
	{ S_NETWORK, "gateway", set_gateway, AT(config, gateway) },
	{ S_NETWORK, "port", set_number, AT(config, port), 1, 65535, WRONG("is not a port. Use 1 to 65535; the default is 4789") },
	{ S_MIGRATION, "freeze-budget", set_duration, AT(config, freeze_budget_ms), 1, MOVE_MAX_FREEZE_MS, .unit = 1,
	  WRONG("is not a duration from 1ms to 60s. Write it like freeze-budget=300ms") },
	{ S_MIGRATION, "max-rounds", set_number, AT(config, max_rounds), 1, MOVE_MAX_ROUNDS, WRONG("is not a number from 1 to 1000") },
	{ S_MIGRATION, "verify", set_word, AT(config, verify_full), .words = { "fold", "full" },
	  WRONG("is unknown. Write verify=fold (hashes, the default) or verify=full (both memories are read again)") },
	{ S_TIME, "servers", set_time_servers },
	{ S_TIME, "prefer", set_time_prefer },
	{ S_TIME, "poll", set_duration, AT(config, time.poll_s), 8000, 3600000, .unit = 1000,
	  WRONG("is not a duration from 8s to 3600s. Write it like poll=64s") },
	{ S_DEBUG, "self-migrate-exits", set_number, AT(config, self_migrate_exits), 0, ~0ull,
	  WRONG("is not a number of VM exits. Write 0 for off") },
	{ S_DEBUG, "quit-when-idle", YES_NO(config, quit_when_idle) },
	{ S_DEBUG, "apicv", YES_NO(config, apicv) },
	{ S_GUEST, "memory", set_memory, AT(guest_config, memory_bytes) },
	{ S_GUEST, "vcpus", set_number, AT(guest_config, vcpus), 1, CONFIG_MAX_VCPUS,
	  WRONG("is not possible. Use vcpus=1 to vcpus=8") },
	{ S_GUEST, "weight", set_number, AT(guest_config, weight), 1, CONFIG_MAX_WEIGHT,
	  WRONG("is not a number from 1 to 1000. 100 is the default") },
	{ S_GUEST, "cpu", set_cpu, AT(guest_config, cpu) },
	{ S_GUEST, "kernel", set_file, AT(guest_config, kernel) },
	{ S_GUEST, "initrd", set_file, AT(guest_config, initrd) },
	{ S_GUEST, "cmdline", set_cmdline, AT(guest_config, cmdline) },
	{ S_GUEST, "autostart", YES_NO(guest_config, autostart) },
	{ S_GUEST, "debug-exit", YES_NO(guest_config, debug_exit) },
	{ S_GUEST, "os", set_os, AT(guest_config, os_type) },
	{ S_GUEST, "module", set_module, LIST(modules, CONFIG_MAX_MODULES), WRONG("is one module too many. A guest has at most 4") },
	{ S_GUEST, "console", set_word, AT(guest_config, console_serial), .words = { "none", "serial" },
	  WRONG("is unknown. Write console=serial (copied to the host's COM1) or console=none") },
	{ S_GUEST, "disk", set_disk, LIST(disks, CONFIG_MAX_DISKS), WRONG("is one disk too many. A guest has at most 4") },
	{ S_GUEST, "nic", set_nic, LIST(nics, CONFIG_MAX_NICS), WRONG("is one network card too many. A guest has at most 4") },
	{ S_SWITCH, "uplink", set_uplink },
	{ S_SWITCH, "vlan", set_number, AT(switch_config, vlan), 1, VLAN_MAX, WRONG(BAD_VLAN) },
};
_Static_assert(ARRAY_SIZE(keys) <= 64, "a bit for each key in seen");

static const struct key *find(enum section section, const char *name)
{
	for (const struct key *k = keys; k < keys + ARRAY_SIZE(keys); k++)
		if (k->section == section && !strcmp(k->name, name))
			return k;
	return NULL;
}

bool config_key_seen(const struct parser *p, enum section section, const char *name)
{
	return p->seen[section] >> (find(section, name) - keys) & 1;
}

static const char *set(struct parser *p, const struct key *k, bool first, const char *value)
{
	u8 *object = p->section == S_GUEST ? (u8 *)&p->guest : p->section == S_SWITCH ?
		(u8 *)&p->c->switches[p->c->n_switches - 1] : (u8 *)p->c;
	u8 *to = object + k->offset;
	u32 *count = (u32 *)(object + k->count), size = k->count ? k->bytes / (u32)k->max : k->bytes;
	const char *wrong;

	if (k->count && first) { /* a list that is given replaces the one that the guest had */
		memset(to, 0, k->bytes);
		*count = 0;
	}
	if (!*value)
		return "has no value. Write one, or remove the line";
	if (!k->count)
		return k->set(p, k, to, value);
	if (*count == k->max)
		return k->wrong;
	wrong = k->set(p, k, to + *count * size, value);
	*count += !wrong;
	return wrong;
}

bool config_key_set(struct parser *p, const char *section, const char *name, const char *value)
{
	const struct key *k = find(p->section, name);
	const char *wrong;
	bool first;
	u64 bit;

	if (!k) {
		char known[240] = "";
		size_t n = 0;

		for (k = keys; k < keys + ARRAY_SIZE(keys); k++)
			if (k->section == p->section && n < sizeof(known))
				n += snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", k->name);
		config_complain(p, p->line, "[%s] has no key %.40s. It knows %s", section, name, known);
		return false;
	}
	bit = BIT(k - keys);
	first = !(p->seen[p->section] & bit);
	if (!first && !k->count) {
		config_complain(p, p->line, "[%s] %s= is there twice. Remove one", section, name);
		return false;
	}
	p->seen[p->section] |= bit;
	wrong = set(p, k, first, value);
	if (wrong)
		config_complain(p, p->line, "[%s] %s=%.40s%s %s", section, name, value, strlen(value) > 40 ? "..." : "", wrong);
	return !wrong;
}
