/* SPDX-License-Identifier: MIT */
#include "net/commands.h"
#include "hv/arch/caps.h"
#include "hv/keep.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "hv/vdev/devices.h"
#include "hv/vm/vm.h"
#include "mbedtls/base64.h"
#include "mig/mig.h"
#include "net/time.h"
#include "net/vswitch.h"
#include <cJSON.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define INPUT_BYTES 4096 /* typed ahead, per guest */

static const struct boot_info *boot;
static u64 boot_ticks;
static struct input { char name[NAME_MAX_LEN]; u8 buf[INPUT_BYTES]; u32 len; } *inputs[VM_MAX];

#define NUM(o, key, val) cJSON_AddNumberToObject(o, key, (double)(val))
#define STR(o, key, val) cJSON_AddStringToObject(o, key, val)

static void __printf(3, 4) fail(struct command_call *c, const char *class, const char *fmt, ...)
{
	va_list ap;

	c->error_class = class;
	c->error.code = E_INVAL;
	va_start(ap, fmt);
	vsnprintf(c->error.text, sizeof(c->error.text), fmt, ap);
	va_end(ap);
}

void json_attach(struct cJSON *parent, const char *key, struct cJSON *item)
{
	if (item && !(key ? cJSON_AddItemToObject(parent, key, item) : cJSON_AddItemToArray(parent, item)))
		cJSON_Delete(item);
}

/* What a vm_ or mig_ call has said is the answer. */
static void result(struct command_call *c, int r)
{
	if (!r)
		return;
	c->error_class = "GenericError";
	error_set(&c->error, (enum err)-r, "failed (error %d)", -r);
}

/* --- Arguments --- */

/* A text argument, NULL with the error set if it is missing; otherwise: its value if it is not given. */
static const char *arg_text(struct command_call *c, const cJSON *args, const char *key, const char *otherwise)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(args, key);

	if (cJSON_IsString(v))
		return v->valuestring;
	if (!v && otherwise)
		return otherwise;
	fail(c, "GenericError", v ? "argument \"%s\" must be text" : "argument \"%s\" is missing", key);
	return NULL;
}

static bool arg_bool(const cJSON *args, const char *key)
{
	return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(args, key));
}

/* A whole number from min to max. */
static bool arg_number(struct command_call *c, const cJSON *args, const char *key, u32 min, u32 max, u32 *val)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(args, key);

	if (!v)
		return true;
	if (!cJSON_IsNumber(v) || v->valuedouble < min || v->valuedouble > max || v->valuedouble != (u32)v->valuedouble) {
		fail(c, "GenericError", "argument \"%s\" must be a whole number from %u to %u", key, min, max);
		return false;
	}
	*val = (u32)v->valuedouble;
	return true;
}

static struct vm *arg_vm(struct command_call *c, const cJSON *args, const char *key)
{
	const char *name = arg_text(c, args, key, NULL);
	struct vm *vm = name ? vm_find(name) : NULL;
	char list[160] = "";

	if (vm || !name)
		return vm;
	for (unsigned i = 0; i < VM_MAX; i++) {
		size_t at = strlen(list);

		if (vms[i])
			snprintf(list + at, sizeof(list) - at, "%s%s", at ? ", " : "", vms[i]->config.name);
	}
	fail(c, "DeviceNotFound", "no guest is called '%.31s' on host '%s'; it has: %s", name, boot->config.host_name,
		list[0] ? list : "none (see godwit.conf)");
	return NULL;
}

enum guest_need {
	NO_GUEST,
	ANY_GUEST,
	SETTLED_GUEST, /* not in the middle of a move */
	RESTING_GUEST, /* nor does it run here, and it is not about to */
};

static bool guest_is(struct command_call *c, enum guest_need need)
{
	const struct vm *vm = c->vm;

	if (need >= SETTLED_GUEST && vm->mig)
		fail(c, "GenericError", "guest %s is being moved: wait for the move to end, or cancel it (migrate_cancel)",
			vm->config.name);
	else if (need == RESTING_GUEST && (vm_is_populated(vm) ||
					   (vm->state != RS_PRELAUNCH && !vm_is_dead(vm) && vm->state != RS_POSTMIGRATE)))
		fail(c, "GenericError", "guest %s is %s: stop it first", vm->config.name, vm_run_state_name(vm->state));
	return !c->error_class;
}

/* --- Questions --- */

static void do_nothing(struct command_call *c, const cJSON *args)
{
}

static void query_version(struct command_call *c, const cJSON *args)
{
	c->ret = cJSON_CreateObject();
	STR(c->ret, "godwit", GODWIT_VERSION);
	NUM(c->ret, "protocol", GODWIT_PROTOCOL);
}

static void query_host(struct command_call *c, const cJSON *args)
{
	const struct host_caps *caps = host_caps();
	struct frame_stats m = frame_stats();
	cJSON *o = c->ret = cJSON_CreateObject(), *vmx, *list;
	u64 first = 0;

	for (unsigned i = 0; i < VM_MAX; i++)
		if (vms[i] && vms[i]->first_output_tsc && (!first || vms[i]->first_output_tsc < first))
			first = vms[i]->first_output_tsc;
	STR(o, "name", boot->config.host_name);
	STR(o, "version", GODWIT_VERSION);
	vmx = cJSON_AddObjectToObject(o, "vmx");
	cJSON_AddBoolToObject(vmx, "usable", caps->usable);
	list = cJSON_AddArrayToObject(vmx, "missing");
	for (u32 i = 0; i < caps->n_missing; i++)
		json_attach(list, NULL, cJSON_CreateString(caps->missing[i]));
	STR(vmx, "remedy", caps->remedy);
	STR(o, "cpu", caps->cpu_name);
	NUM(o, "tsc-khz", host_tsc_hz() / 1000);
	NUM(o, "memory-total", m.total);
	NUM(o, "memory-free", m.free);
	NUM(o, "hypervisor-memory", m.hypervisor);
	NUM(o, "uptime-us", now_us());
	list = cJSON_AddArrayToObject(o, "config-errors");
	for (u32 i = 0; i < boot->config.n_errors; i++)
		json_attach(list, NULL, cJSON_CreateString(boot->config.errors[i].text));
	STR(o, "records-error", keep->problem.code ? keep->problem.text : "");
	/* Both are the TSC, which starts at 0 when the machine does. */
	NUM(o, "boot-ticks", boot_ticks);
	NUM(o, "first-guest-output-ticks", first);
}

static void query_time(struct command_call *c, const cJSON *args)
{
	c->ret = time_query();
}

static void query_guests(struct command_call *c, const cJSON *args)
{
	c->ret = cJSON_CreateArray();
	for (unsigned i = 0; i < VM_MAX; i++) {
		const struct vm *vm = vms[i];
		cJSON *o;

		if (!vm)
			continue;
		o = cJSON_CreateObject();
		STR(o, "name", vm->config.name);
		NUM(o, "number", vm->number);
		STR(o, "os-type", vm->config.os_type);
		STR(o, "status", vm_run_state_name(vm->state));
		cJSON_AddBoolToObject(o, "running", vm->state == RS_RUNNING);
		NUM(o, "vcpus", vm->config.vcpus);
		NUM(o, "devices", vm->n_vdevs);
		NUM(o, "nics", vm->config.n_nics);
		NUM(o, "memory", vm->config.memory_bytes);
		STR(o, "owner", vm->owner_name);
		NUM(o, "epoch", vm->epoch);
		NUM(o, "uptime-us", vm_is_populated(vm) && !vm_is_dead(vm) ? now_us() - vm->started_us : 0);
		NUM(o, "exits", vm_exits(vm));
		NUM(o, "cpu-us", vm_run_us(vm));
		NUM(o, "self-migrations", vm->self_migrations);
		if (vm->debug_exit_code >= 0)
			NUM(o, "debug-exit-code", vm->debug_exit_code);
		STR(o, "exit-reason", vm->state == RS_RUNNING ? "" : vm->reason);
		json_attach(c->ret, NULL, o);
	}
}

static void query_switches(struct command_call *c, const cJSON *args)
{
	c->ret = cJSON_CreateArray();
	for (u32 i = 0; i < n_vnetworks; i++) {
		const struct vnetwork *n = &vnetworks[i];
		cJSON *o = cJSON_CreateObject();
		u64 in = 0, out = 0, no_room = 0, refused = 0;
		const struct vport *p;
		u32 ports = 0;

		for (u32 k = 0; (p = vswitch_port(n->sw, k)); k++) {
			if (p->trunk || p->moved || p->vlan != n->vlan)
				continue;
			ports++;
			in += p->frames_in;
			out += p->frames_out;
			no_room += p->no_room;
			refused += p->refused;
		}
		STR(o, "name", n->name);
		STR(o, "uplink", n->uplink);
		NUM(o, "vlan", n->vlan);
		NUM(o, "ports", ports);
		NUM(o, "macs", vswitch_macs(n->sw, n->vlan));
		NUM(o, "frames-in", in);
		NUM(o, "frames-out", out);
		NUM(o, "no-room", no_room);
		NUM(o, "refused", refused);
		NUM(o, "forwarded", n->forwarded);
		json_attach(c->ret, NULL, o);
	}
}

static void query_status(struct command_call *c, const cJSON *args)
{
	c->ret = cJSON_CreateObject();
	STR(c->ret, "status", vm_run_state_name(c->vm->state));
	cJSON_AddBoolToObject(c->ret, "running", c->vm->state == RS_RUNNING);
}

static void query_migrate(struct command_call *c, const cJSON *args)
{
	const char *guest = arg_text(c, args, "guest", NULL);
	struct mig_info *m = guest ? heap_calloc(1, sizeof(*m)) : NULL;
	char hash[20];
	cJSON *o, *ram, *rounds;

	if (!guest)
		return;
	if (!m) {
		fail(c, "GenericError", "this host has no memory for the answer");
		return;
	}
	if (mig_query(guest, m)) {
		heap_free(m);
		if (!arg_vm(c, args, "guest"))
			return;
		c->ret = cJSON_CreateObject();
		STR(c->ret, "status", "none");
		return;
	}
	o = c->ret = cJSON_CreateObject();
	STR(o, "status", m->status);
	STR(o, "phase", m->phase ? m->phase : "");
	STR(o, "role", m->role ? m->role : "");
	STR(o, "peer", m->peer);
	NUM(o, "round", m->round);
	ram = cJSON_AddObjectToObject(o, "ram");
	NUM(ram, "total", m->total_bytes);
	NUM(ram, "transferred", m->transferred);
	NUM(ram, "remaining", m->remaining);
	NUM(ram, "duplicate", m->zero_pages);
	NUM(ram, "normal", m->normal_pages);
	NUM(ram, "pages-resent", m->resent_pages);
	NUM(ram, "dirty-sync-count", m->round);
	NUM(ram, "mbps", m->mbps);
	NUM(ram, "page-size", PAGE_SIZE);
	rounds = cJSON_AddArrayToObject(o, "rounds");
	for (u32 i = 0; i < MIN(m->n_rounds, (u32)MIG_MAX_ROUNDS); i++) {
		cJSON *r = cJSON_CreateObject();

		NUM(r, "pages", m->rounds[i].pages);
		NUM(r, "zero", m->rounds[i].zero);
		NUM(r, "bytes", m->rounds[i].bytes);
		NUM(r, "us", m->rounds[i].us);
		json_attach(rounds, NULL, r);
	}
	NUM(o, "total-time", m->total_us / 1000);
	NUM(o, "total-time-us", m->total_us);
	NUM(o, "expected-downtime", m->expected_downtime_us / 1000);
	NUM(o, "downtime-us", m->downtime_us);
	NUM(o, "downtime-ticks", m->downtime_ticks);
	NUM(o, "setup-time-us", m->setup_us);
	NUM(o, "busy-ticks", m->busy_ticks);
	STR(o, "verify", m->verify_full ? "full" : "fold");
	snprintf(hash, sizeof(hash), "%016llx", (unsigned long long)m->hash);
	STR(o, "hash", hash);
	cJSON_AddBoolToObject(o, "hash-verified", m->hash_verified);
	NUM(o, "epoch", m->epoch);
	if (m->error.code)
		STR(o, "error-desc", m->error.text);
	heap_free(m);
}

/* --- Guests --- */

/* The operator vouches that no other host has the guest: one that moved to a host which is gone is ours again. */
static bool take_back(struct command_call *c, struct vm *vm)
{
	if (vm->mig && mig_give_up(vm, &c->error)) {
		c->error_class = "GenericError";
		return false;
	}
	if (vm->state == RS_POSTMIGRATE) {
		log_warn("control", "guest %s is taken back from host %s by %s", vm->config.name, vm->owner_name, c->who->peer_name);
		vm->state = RS_SHUTDOWN;
		snprintf(vm->reason, sizeof(vm->reason), "taken back from host %s", vm->owner_name);
	}
	return true;
}

static void guest_start(struct command_call *c, const cJSON *args)
{
	bool force = arg_bool(args, "force");

	if (!force && !guest_is(c, SETTLED_GUEST))
		return;
	if (!host_caps()->usable)
		fail(c, "GenericError", "guests cannot run on host '%s': %s", boot->config.host_name, host_caps()->remedy);
	else if (!force || take_back(c, c->vm))
		result(c, vm_start(c->vm, &c->error));
}

/* --- Definitions --- */

#define DEFINITION_BYTES 8192

/* One "key=value" line. false: that would not be one. */
static bool definition_line(char *text, size_t *n, const char *key, const cJSON *v)
{
	char number[24];
	const char *value = cJSON_IsString(v) ? v->valuestring : cJSON_IsTrue(v) ? "yes" : cJSON_IsFalse(v) ? "no" : NULL;
	int len;

	if (cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble < 1e15 && v->valuedouble == (double)(u64)v->valuedouble) {
		snprintf(number, sizeof(number), "%llu", (unsigned long long)v->valuedouble);
		value = number;
	}
	/* What is in it is checked as in godwit.conf; but it must stay the line that it is. */
	if (!value || !key[0] || strpbrk(key, "\r\n=:;#[] \t") || strpbrk(value, "\r\n"))
		return false;
	len = snprintf(text + *n, DEFINITION_BYTES - *n, "%s=%s\n", key, value);
	*n += (size_t)len;
	return *n < DEFINITION_BYTES;
}

static bool definition_text(struct command_call *c, const cJSON *args, const char *name, char *text, size_t *n)
{
	const cJSON *v, *item;

	*n = (size_t)snprintf(text, DEFINITION_BYTES, "[guest %.40s]\n", name);
	if (strpbrk(name, "\r\n")) {
		fail(c, "GenericError", "a guest's name has no line breaks");
		return false;
	}
	cJSON_ArrayForEach(v, args) {
		bool ok = true;

		if (!strcmp(v->string, "guest"))
			continue;
		if (cJSON_IsArray(v)) {
			cJSON_ArrayForEach(item, v)
				ok = ok && definition_line(text, n, v->string, item);
		} else {
			ok = definition_line(text, n, v->string, v);
		}
		if (!ok) {
			fail(c, "GenericError", "argument \"%.40s\" is not one line of text, a number, true or false, or a list of these; "
				"or all of it is too long", v->string);
			return false;
		}
	}
	return true;
}

/* Godwit reads its boot disk only while it boots. */
static bool files_are_there(struct command_call *c, const struct guest_config *g)
{
	const char *files[2 + CONFIG_MAX_MODULES] = { g->kernel, g->initrd };
	char name[64];

	for (u32 i = 0; i < g->n_modules; i++)
		files[2 + i] = g->modules[i];
	for (u32 i = 0; i < 2 + g->n_modules; i++) {
		const struct boot_file *f;

		snprintf(name, sizeof(name), "%.*s", (int)strcspn(files[i], " "), files[i]);
		f = boot_file(boot, name);
		if (name[0] && (!f || !f->data)) {
			fail(c, "GenericError", "host '%s' has not read %s from its boot disk: a guest can have the files that godwit.conf names "
				"when the host boots", boot->config.host_name, name);
			return false;
		}
	}
	return true;
}

/* What the arguments make of base (NULL: of nothing); to be freed. NULL: the error is set. */
static struct guest_config *definition(struct command_call *c, const cJSON *args, const char *name, const struct guest_config *base)
{
	struct guest_config *g = heap_calloc(1, sizeof(*g));
	struct config *scratch = heap_calloc(1, sizeof(*scratch));
	char *text = heap_calloc(1, DEFINITION_BYTES);
	size_t n;

	if (!g || !scratch || !text)
		fail(c, "GenericError", "this host has no memory for that");
	else if (definition_text(c, args, name, text, &n))
		result(c, config_parse_guest(&boot->config, scratch, text, n, base, g, &c->error));
	heap_free(scratch);
	heap_free(text);
	if (!c->error_class && files_are_there(c, g))
		return g;
	heap_free(g);
	return NULL;
}

/* Done, but a restart of the host may undo it. */
static void kept(struct command_call *c, int rc, const struct error *e)
{
	if (!rc)
		return;
	c->ret = cJSON_CreateObject();
	STR(c->ret, "warning", e->text);
}

static void guest_create(struct command_call *c, const cJSON *args)
{
	const char *name = arg_text(c, args, "guest", NULL);
	struct error e = { 0 };
	struct guest_config *g;

	if (!name)
		return;
	if (vm_find(name)) {
		fail(c, "GenericError", "host '%s' has a guest %s already: change it (guest-change), or delete it first",
			boot->config.host_name, name);
		return;
	}
	g = definition(c, args, name, NULL);
	if (!g)
		return;
	if (vm_define(g, &c->error))
		kept(c, keep_define(g, &e), &e);
	else
		result(c, -c->error.code);
	heap_free(g);
}

static void guest_change(struct command_call *c, const cJSON *args)
{
	struct guest_config *g = definition(c, args, c->vm->config.name, &c->vm->config);
	struct error e = { 0 };

	if (!g)
		return;
	c->vm->config = *g;
	kept(c, keep_define(g, &e), &e);
	heap_free(g);
}

static void guest_delete(struct command_call *c, const cJSON *args)
{
	struct error e = { 0 };

	kept(c, keep_delete(c->vm->config.name, &e), &e);
	vm_destroy(c->vm);
}

static void guest_stop(struct command_call *c, const cJSON *args)
{
	struct vm *vm = c->vm;
	char reason[80];

	/* A copy that waits for the outcome of its move may be given up; nothing else may be stopped in a move. */
	if (!(vm->mig && !vm->owner && vm->state == RS_PAUSED) && !guest_is(c, SETTLED_GUEST))
		return;
	if (vm_is_dead(vm) || vm->state == RS_PRELAUNCH || vm->state == RS_POSTMIGRATE) {
		fail(c, "GenericError", "guest %s does not run here: it is %s%s%s", vm->config.name, vm_run_state_name(vm->state),
			vm->state == RS_POSTMIGRATE ? " on host " : "", vm->state == RS_POSTMIGRATE ? vm->owner_name : "");
		return;
	}
	snprintf(reason, sizeof(reason), "switched off by %s", c->who->peer_name);
	vm_stop(vm, reason);
}

static void system_powerdown(struct command_call *c, const cJSON *args)
{
	struct vm *vm = c->vm;
	bool heard;

	if (vm->state != RS_RUNNING) {
		fail(c, "GenericError", "guest %s is %s: only a running guest can shut itself down", vm->config.name,
			vm_run_state_name(vm->state));
		return;
	}
	vm_lock(vm);
	heard = pm_power_button(vm_vdev(vm, &pm_type, 0));
	vm_unlock(vm);
	if (!heard)
		fail(c, "GenericError", "guest %s does not listen to its power button: it is still booting, or its system has no ACPI "
			"button driver. Shut it down from inside, or switch it off (godwit stop --force)", vm->config.name);
}

static void system_reset(struct command_call *c, const cJSON *args)
{
	result(c, vm_reset(c->vm, &c->error));
}

static void stop(struct command_call *c, const cJSON *args)
{
	struct vm *vm = c->vm;

	if (vm->state != RS_RUNNING && vm->state != RS_PAUSED)
		fail(c, "GenericError", "guest %s is %s: only a running guest can be paused", vm->config.name,
			vm_run_state_name(vm->state));
	else
		vm_pause(vm, RS_PAUSED);
}

static void cont(struct command_call *c, const cJSON *args)
{
	result(c, vm_resume(c->vm, &c->error));
}

/* --- Console --- */

static void console_attach(struct command_call *c, const cJSON *args)
{
	if (!control_console_attach(c->session, c->vm, arg_bool(args, "history")))
		fail(c, "GenericError", "this session watches as many consoles as it can; detach one");
}

static void console_detach(struct command_call *c, const cJSON *args)
{
	const char *guest = arg_text(c, args, "guest", NULL);

	if (guest)
		control_console_detach(c->session, guest);
}

static struct input *input_for(const char *guest, bool make)
{
	struct input **empty = NULL;

	for (unsigned i = 0; i < VM_MAX; i++) {
		if (inputs[i] && !strcmp(inputs[i]->name, guest))
			return inputs[i];
		if (!inputs[i] && !empty)
			empty = &inputs[i];
	}
	if (!make || !empty)
		return NULL;
	*empty = heap_calloc(1, sizeof(**empty));
	if (*empty)
		snprintf((*empty)->name, NAME_MAX_LEN, "%s", guest);
	return *empty;
}

static void ringbuf_write(struct command_call *c, const cJSON *args)
{
	struct vm *vm = arg_vm(c, args, "device");
	const char *format = vm ? arg_text(c, args, "format", "utf8") : NULL;
	const char *data = format ? arg_text(c, args, "data", NULL) : NULL;
	static u8 raw[INPUT_BYTES];
	struct input *in;
	size_t n = 0;

	if (!data)
		return;
	if (!strcmp(format, "base64")) {
		if (mbedtls_base64_decode(raw, sizeof(raw), &n, (const u8 *)data, strlen(data))) {
			fail(c, "GenericError", "argument \"data\" is not base64 of at most %u bytes", INPUT_BYTES);
			return;
		}
	} else if (!strcmp(format, "utf8") && strlen(data) <= sizeof(raw)) {
		n = strlen(data);
		memcpy(raw, data, n);
	} else {
		fail(c, "GenericError", "argument \"format\" must be \"base64\" or \"utf8\", and the data at most %u bytes", INPUT_BYTES);
		return;
	}
	if (!vm_is_populated(vm) || vm_is_dead(vm)) {
		fail(c, "GenericError", "guest %s does not run here (it is %s), nobody reads its console", vm->config.name,
			vm_run_state_name(vm->state));
		return;
	}
	in = input_for(vm->config.name, true);
	if (!in || in->len + n > INPUT_BYTES) {
		fail(c, "GenericError", "guest %s does not read its console; %u bytes typed ahead are waiting. Try again later",
			vm->config.name, in ? in->len : 0);
		return;
	}
	memcpy(in->buf + in->len, raw, n);
	in->len += (u32)n;
}

bool commands_poll(void)
{
	bool busy = false;

	for (unsigned i = 0; i < VM_MAX; i++) {
		struct input *in = inputs[i];
		struct vm *vm = in ? vm_find(in->name) : NULL;
		bool there = vm && vm_is_populated(vm) && !vm_is_dead(vm);
		size_t n;

		if (!in)
			continue;
		/* While it is frozen for a move, what is typed waits; the state that moves must not change any more. */
		if (there && vm->state != RS_RUNNING)
			continue;
		n = there && in->len ? vm_console_in(vm, in->buf, in->len) : 0;
		if (n) {
			in->len -= (u32)n;
			memmove(in->buf, in->buf + n, in->len);
			busy = true;
		}
		if (!in->len || !there) {
			heap_free(in);
			inputs[i] = NULL;
		}
	}
	return busy;
}

/* --- Moving --- */

static void migrate(struct command_call *c, const cJSON *args)
{
	const struct config *cfg = &boot->config;
	struct mig_params p = { .verify_full = cfg->verify_full, .freeze_budget_ms = cfg->freeze_budget_ms,
	                        .max_rounds = cfg->max_rounds };
	const char *host = arg_text(c, args, "host", NULL);
	const char *uri = host ? arg_text(c, args, "uri", NULL) : NULL;
	const char *verify = uri ? arg_text(c, args, "verify", p.verify_full ? "full" : "fold") : NULL, *rest;

	if (!verify || !arg_number(c, args, "downtime-limit", 1, MOVE_MAX_FREEZE_MS, &p.freeze_budget_ms) ||
	    !arg_number(c, args, "max-rounds", 1, MOVE_MAX_ROUNDS, &p.max_rounds))
		return;
	if (strcmp(verify, "full") && strcmp(verify, "fold")) {
		fail(c, "GenericError", "argument \"verify\" must be \"fold\" or \"full\"");
		return;
	}
	if (strncmp(uri, "tcp:", 4) || !config_station(uri + 4, &p.ip, &p.port, &rest) || !p.port || *rest) {
		fail(c, "GenericError", "'%.60s' is no address; it must look like tcp:192.168.0.2:4789", uri);
		return;
	}
	if (!host[0] || strlen(host) >= sizeof(p.host)) {
		fail(c, "GenericError", "'%.40s' is no host name", host);
		return;
	}
	if (!strcmp(host, cfg->host_name)) {
		fail(c, "GenericError", "guest %s is on host '%s' already", c->vm->config.name, host);
		return;
	}
	p.verify_full = !strcmp(verify, "full");
	strcpy(p.host, host);
	result(c, mig_start(c->vm, &p, &c->error));
}

static void migrate_cancel(struct command_call *c, const cJSON *args)
{
	result(c, mig_cancel(c->vm, &c->error));
}

/* --- Table --- */

static void query_commands(struct command_call *c, const cJSON *args);

static const struct command {
	const char *name;
	enum role role;  /* the least that may do it */
	bool logged;     /* it changes something */
	enum guest_need guest;
	void (*run)(struct command_call *c, const cJSON *args);
} commands[] = {
	{ "qmp_capabilities", ROLE_VIEWER, false, NO_GUEST, do_nothing },
	{ "query-version", ROLE_VIEWER, false, NO_GUEST, query_version },
	{ "query-commands", ROLE_VIEWER, false, NO_GUEST, query_commands },
	{ "query-host", ROLE_VIEWER, false, NO_GUEST, query_host },
	{ "query-time", ROLE_VIEWER, false, NO_GUEST, query_time },
	{ "query-guests", ROLE_VIEWER, false, NO_GUEST, query_guests },
	{ "query-status", ROLE_VIEWER, false, ANY_GUEST, query_status },
	{ "query-migrate", ROLE_VIEWER, false, NO_GUEST, query_migrate },
	{ "query-switches", ROLE_VIEWER, false, NO_GUEST, query_switches },
	{ "guest-start", ROLE_OPERATOR, true, ANY_GUEST, guest_start },
	{ "guest-create", ROLE_OPERATOR, true, NO_GUEST, guest_create },
	{ "guest-change", ROLE_OPERATOR, true, RESTING_GUEST, guest_change },
	{ "guest-delete", ROLE_OPERATOR, true, RESTING_GUEST, guest_delete },
	{ "guest-stop", ROLE_OPERATOR, true, ANY_GUEST, guest_stop },
	{ "system_powerdown", ROLE_OPERATOR, true, SETTLED_GUEST, system_powerdown },
	{ "system_reset", ROLE_OPERATOR, true, SETTLED_GUEST, system_reset },
	{ "stop", ROLE_OPERATOR, true, SETTLED_GUEST, stop },
	{ "cont", ROLE_OPERATOR, true, SETTLED_GUEST, cont },
	{ "console-attach", ROLE_OPERATOR, true, ANY_GUEST, console_attach },
	{ "console-detach", ROLE_OPERATOR, false, NO_GUEST, console_detach },
	{ "ringbuf-write", ROLE_OPERATOR, false, NO_GUEST, ringbuf_write },
	{ "migrate", ROLE_OPERATOR, true, SETTLED_GUEST, migrate },
	{ "migrate_cancel", ROLE_OPERATOR, true, ANY_GUEST, migrate_cancel },
};

static void query_commands(struct command_call *c, const cJSON *args)
{
	c->ret = cJSON_CreateArray();
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
		cJSON *o = cJSON_CreateObject();

		STR(o, "name", commands[i].name);
		json_attach(c->ret, NULL, o);
	}
}

void command_run(struct command_call *c, const char *name, const cJSON *args)
{
	const cJSON *guest = cJSON_GetObjectItemCaseSensitive(args, "guest");

	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *cmd = &commands[i];

		if (strcmp(cmd->name, name))
			continue;
		if (c->role < cmd->role) {
			fail(c, "AccessDenied", "'%s' has the role %s; %s needs operator or admin. Use another certificate ('godwit ca "
				"enroll NAME --role operator')", c->who->peer_name, c->who->peer_role, name);
			return;
		}
		c->vm = cmd->guest ? arg_vm(c, args, "guest") : NULL;
		if (!cmd->guest || (c->vm && guest_is(c, cmd->guest)))
			cmd->run(c, args);
		if (cmd->logged)
			log_info("control", "%s (%s): %s %.31s%s%s", c->who->peer_name, c->who->peer_role, name,
				 cJSON_IsString(guest) ? guest->valuestring : "", c->error_class ? ": " : "",
				 c->error_class ? c->error.text : "");
		return;
	}
	fail(c, "CommandNotFound", "there is no command '%.40s'; query-commands lists them", name);
}

void commands_init(const struct boot_info *bi)
{
	boot = bi;
}

void commands_started(void)
{
	boot_ticks = host_tsc();
}
