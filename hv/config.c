/* SPDX-License-Identifier: MIT */
#include "hv/config.h"
#include "hv/config_keys.h"

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

void config_complain(struct parser *p, u32 line, const char *fmt, ...)
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
		config_complain(p, p->guest_line, "[guest %s] has no kernel=. Name the file to boot, like kernel=vmlinuz", p->guest.name);
	if (!p->guest_bad) {
		memcpy(p->nic_lines[c->n_guests], p->nic_line, sizeof(p->nic_line));
		c->guests[c->n_guests++] = p->guest;
	}
	p->guest_open = false;
}

/* Whether [kind name] may begin, beside n others whose names are at the beginning of what lies size bytes apart. */
static bool name_ok(struct parser *p, const char *kind, const char *name, const void *others, size_t size, u32 n, u32 most)
{
	const char *wrong = config_name_wrong(name);

	if (wrong) {
		config_complain(p, p->line, "[%s %.40s]: the name %s", kind, name, wrong);
		return false;
	}
	for (u32 i = 0; i < n; i++)
		if (!strcmp((const char *)others + i * size, name)) {
			config_complain(p, p->line, "[%s %s] is there twice. Give each %s a name of its own", kind, name, kind);
			return false;
		}
	if (n == most)
		config_complain(p, p->line, "[%s %s] is one %s too many. A host has at most %u", kind, name, kind, most);
	return n < most;
}

static void guest_begin(struct parser *p, const char *name)
{
	struct config *c = p->c;

	/* A guest that was left out for an error counts as well, but then its own error is the one to read. */
	if (!name_ok(p, "guest", name, c->guests, sizeof(c->guests[0]), c->n_guests, CONFIG_MAX_GUESTS))
		return;
	p->section = S_GUEST;
	p->seen[S_GUEST] = 0;
	p->guest = (struct guest_config){ .memory_bytes = 128ull << 20, .vcpus = 1, .weight = CONFIG_DEFAULT_WEIGHT, .os_type = "other" };
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

	if (!name_ok(p, "switch", name, c->switches, sizeof(c->switches[0]), c->n_switches, CONFIG_MAX_SWITCHES))
		return;
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
			config_complain(p, line, "[guest %s] nic=%s: there is no [switch %s] in this file. Add one, or name one that is there",
				g->name, g->nics[n].network, g->nics[n].network);
			return false;
		}
		for (u32 i = 0; i <= good; i++) {
			struct guest_config *o = i < good ? &c->guests[i] : g;

			for (u32 k = 0; k < (o == g ? n : o->n_nics); k++)
				if (!memcmp(o->nics[k].mac, g->nics[n].mac, 6)) {
					config_complain(p, line, "[guest %s] nic=%s has the MAC address of a card of guest %s. Give it another one "
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
			config_complain(p, 0, "[switch %s] and [switch %s] are one network: both have uplink= and vlan= in common. Give one of "
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
	config_complain(p, p->line, "section [%.40s] is unknown. There are [host], [network], [time], [migration], [debug], [switch NAME] and "
		"[guest NAME]", name);
	return false;
}

static int handle(void *user, const char *section, const char *name, const char *value)
{
	struct parser *p = user;

	if (p->section == S_SKIP)
		return 1;
	if (p->section == S_NONE) {
		config_complain(p, p->line, "%.40s= stands before any section. Begin with [host]", name);
		return 0;
	}
	return config_key_set(p, section, name, value);
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
		config_complain(p, p->line, "binary data (a NUL byte). Write the file as plain text");
		return nothing;
	}
	if (!len || *s == ';' || *s == '#')
		return nothing; /* comments may be of any length and hold any characters */
	for (size_t i = 0; i < len; i++)
		if ((s[i] < ' ' && s[i] != '\t') || s[i] > '~') {
			config_complain(p, p->line, "character %#04x is not plain ASCII text. Only comments may have it", (u8)s[i]);
			return nothing;
		}
	if (len > LINE_MAX_BYTES) {
		config_complain(p, p->line, "the line is too long (%zu characters). At most %u are possible", len, LINE_MAX_BYTES);
		return nothing;
	}
	if (*s != '[') {
		if (memchr(s, '=', len) || memchr(s, ':', len))
			return NULL;
		if (p->section != S_SKIP)
			config_complain(p, p->line, "\"%.*s\" is neither [section] nor key=value. Correct or remove it",
				(int)MIN(len, (size_t)40), s);
		return nothing;
	}
	close = memchr(s, ']', len);
	if (!close || close != s + len - 1 || (size_t)(close - s) > SECTION_MAX_BYTES) {
		config_complain(p, p->line, "%s. Write it like [host] or [guest web], with at most %u characters",
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
	/* Texts of a guest go to other hosts, and those take no control characters. */
	for (char *tab = to; (tab = strchr(tab, '\t')); )
		*tab = ' ';
	return to;
}

void config_parse(struct config *c, const char *text, size_t len)
{
	struct parser p = { .c = c, .text = text, .end = text + len };

	memset(c, 0, sizeof(*c));
	strcpy(c->host_name, "unnamed");
	c->dhcp = c->keep_records = c->apicv = true;
	c->port = 4789;
	c->time.poll_s = 64;
	c->freeze_budget_ms = 300;
	c->max_rounds = 30;
	(void)config_ini_parse_stream(next_line, &p, handle, &p);
	guest_end(&p);

	networks_check(&p);
	if (!config_key_seen(&p, S_HOST, "name"))
		config_complain(&p, 0, "[host] name= is missing. Give this host the name that its certificate has, like name=a");
	for (u32 i = 0; i < c->time.n_servers; i++)
		if (c->time.servers[i].ip == p.prefer.ip && c->time.servers[i].port == p.prefer.port)
			c->time.prefer = i + 1;
	if (p.prefer.ip && !c->time.prefer)
		config_complain(&p, 0, "[time] prefer= is none of the servers= there. Name one of them; none is preferred");
	if (!p.mode_given && c->address)
		c->dhcp = false;
	if (!c->dhcp && !c->address) {
		config_complain(&p, 0, "[network] mode=static needs address=. Write it like address=192.168.1.10/24; DHCP is used instead");
		c->dhcp = true;
	}
	if (c->dhcp && c->address) {
		config_complain(&p, p.address_line, "[network] address= does not go with mode=dhcp. Remove one; DHCP is used");
		c->address = c->netmask = c->gateway = 0;
	}
	if (!c->dhcp && c->gateway && ((c->gateway ^ c->address) & c->netmask || c->gateway == c->address)) {
		config_complain(&p, 0, "[network] gateway= is not another address of the network that address= names; no gateway is used");
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

void config_default_mac(const char *guest, u32 n, u8 mac[6])
{
	u32 h = 2166136261u; /* FNV-1a */

	for (; *guest; guest++)
		h = (h ^ (u8)*guest) * 16777619u;
	h = (h ^ (u8)n) * 16777619u;
	h ^= h >> 24;
	memcpy(mac, (u8[6]){ 0x52, 0x54, 0x00, (u8)(h >> 16), (u8)(h >> 8), (u8)h }, 6);
}

/* --- Text from a definition --- */

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
