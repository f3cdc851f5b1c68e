/* SPDX-License-Identifier: MIT */
/* The control server over pipes instead of TLS, with guests and moves that only note what was asked of them. */
#include "net/control.h"
#include "net/vswitch.h"
#include "hv/arch/caps.h"
#include "hv/keep.h"
#include "hv/mm/frame.h"
#include "hv/vm/vm.h"
#include "mig/mig.h"
#include "net/net_fake.h"
#include "net/time.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* */
#include <cJSON.h>
#include <cmocka.h>

/* --- A stream whose other end is the test --- */

struct pipe {
	struct stream s;
	char in[200000], out[1200000];
	size_t in_len, out_len, out_limit;
	bool closed, broken;
};

static int pipe_write(struct stream *s, const void *buf, size_t len)
{
	struct pipe *p = container_of(s, struct pipe, s);
	size_t n = MIN(len, p->out_limit - p->out_len);

	if (p->broken)
		return error_set(&s->error, E_IO, "closed the connection");
	memcpy(p->out + p->out_len, buf, n);
	p->out_len += n;
	p->out[p->out_len] = 0;
	return (int)n;
}

static int pipe_read(struct stream *s, void *buf, size_t len)
{
	struct pipe *p = container_of(s, struct pipe, s);
	size_t n = MIN(len, p->in_len);

	if (!n && p->broken)
		return error_set(&s->error, E_IO, "closed the connection");
	memcpy(buf, p->in, n);
	p->in_len -= n;
	memmove(p->in, p->in + n, p->in_len);
	return (int)n;
}

static bool pipe_no(struct stream *s) { (void)s; return false; }
static void pipe_close(struct stream *s) { container_of(s, struct pipe, s)->closed = true; }

static const struct stream_ops pipe_ops = { pipe_write, pipe_read, pipe_no, pipe_close };

/* --- Guests and moves --- */

struct vm *vms[VM_MAX];
static struct vm guests[2];
static u8 consoles[2][CONSOLE_RING_BYTES];
static char did[300];
static struct error next_error;
static struct mig_params last_params;
static struct mig_info info;
static bool have_info;
static u8 typed[8192];
static size_t typed_len, typed_room;
static struct host_caps caps;

const struct host_caps *host_caps(void) { return &caps; }
struct cJSON *time_query(void)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "state", "synchronized");
	return o;
}

const char *vm_run_state_name(enum run_state s)
{
	static const char *const names[] = { "prelaunch", "running", "paused", "shutdown", "inmigrate", "finish-migrate",
	                                     "postmigrate", "internal-error", "guest-panicked" };
	return names[s];
}

u64 vm_exits(const struct vm *vm) { return vm->exits_before; }
u64 vm_run_us(const struct vm *vm) { return 0; }
const struct vdev_type pm_type;
static bool button_heard;
struct vdev *vm_vdev(struct vm *vm, const struct vdev_type *type, unsigned instance) { return type == &pm_type ? (void *)vm : NULL; }
bool pm_power_button(struct vdev *pm)
{
	snprintf(did, sizeof(did), "button %s", ((struct vm *)(void *)pm)->config.name);
	return button_heard;
}
void vm_lock(struct vm *vm) { }
void vm_unlock(struct vm *vm) { }
struct vm *vm_find(const char *name)
{
	for (unsigned i = 0; i < VM_MAX; i++)
		if (vms[i] && !strcmp(vms[i]->config.name, name))
			return vms[i];
	return NULL;
}

static const u8 kernel_image[] = "image";
const struct boot_file *boot_file(const struct boot_info *bi, const char *name)
{
	static struct boot_file f = { .data = kernel_image, .size = sizeof(kernel_image) };

	return strcmp(name, "vmlinuz") ? NULL : &f;
}

static struct vm made;
struct vm *vm_define(const struct guest_config *cfg, struct error *e)
{
	if (vms[2]) {
		error_set(e, E_NOMEM, "this host has as many guests as it can");
		return NULL;
	}
	made = (struct vm){ .config = *cfg, .state = RS_PRELAUNCH };
	return vms[2] = &made;
}
void vm_destroy(struct vm *vm) { vms[2] = NULL; }

static char kept[60];
static struct keep the_keep;
struct keep *keep = &the_keep;
static int keeps(const char *what, const char *guest, struct error *e)
{
	snprintf(kept, sizeof(kept), "%s %s", what, guest);
	return the_keep.problem.code ? error_set(e, (enum err)the_keep.problem.code, "%s", the_keep.problem.text) : 0;
}
int keep_define(const struct guest_config *g, struct error *e) { return keeps("define", g->name, e); }
int keep_delete(const char *guest, struct error *e) { return keeps("delete", guest, e); }

static int note(const char *what, const struct vm *vm, struct error *e)
{
	snprintf(did, sizeof(did), "%s %s", what, vm->config.name);
	if (next_error.code && e)
		return error_set(e, (enum err)next_error.code, "%s", next_error.text);
	return 0;
}

bool vm_is_dead(const struct vm *vm) { return vm->state == RS_SHUTDOWN || vm->state == RS_INTERNAL_ERROR; }
bool vm_is_populated(const struct vm *vm) { return vm->state != RS_PRELAUNCH && vm->state != RS_POSTMIGRATE; }
int vm_start(struct vm *vm, struct error *e) { return note("start", vm, e); }
int vm_reset(struct vm *vm, struct error *e) { return note("reset", vm, e); }
int vm_resume(struct vm *vm, struct error *e) { return note("resume", vm, e); }
void vm_pause(struct vm *vm, enum run_state s) { note(s == RS_PAUSED ? "pause" : "freeze", vm, NULL); }

void vm_stop(struct vm *vm, const char *reason)
{
	note("stop", vm, NULL);
	snprintf(vm->reason, sizeof(vm->reason), "%s", reason);
}

size_t vm_console_in(struct vm *vm, const u8 *buf, size_t len)
{
	size_t n = MIN(len, typed_room);

	(void)vm;
	memcpy(typed + typed_len, buf, n);
	typed_len += n;
	return n;
}

int mig_start(struct vm *vm, const struct mig_params *p, struct error *e)
{
	last_params = *p;
	return note("migrate", vm, e);
}

int mig_cancel(struct vm *vm, struct error *e) { return note("cancel", vm, e); }

int mig_give_up(struct vm *vm, struct error *e)
{
	if (!vm_is_dead(vm))
		return error_set(e, E_STATE, "stop it first");
	vm->mig = NULL;
	return 0;
}

int mig_query(const char *guest, struct mig_info *out)
{
	if (!have_info || strcmp(guest, info.guest))
		return -E_NOENT;
	*out = info;
	return 0;
}

/* --- Frame --- */

static struct boot_info boot;
static struct pipe *pipes[CONTROL_MAX_SESSIONS + 2];

static int setup(void **state)
{
	(void)state;
	memset(&boot, 0, sizeof(boot));
	strcpy(boot.config.host_name, "a");
	boot.config.freeze_budget_ms = 300;
	boot.config.max_rounds = 30;
	strcpy(boot.config.errors[0].text, "line 3: memory: unknown");
	boot.config.n_errors = 1;
	memset(&caps, 0, sizeof(caps));
	caps.usable = true;
	strcpy(caps.cpu_name, "Test CPU");
	memset(vms, 0, sizeof(vms));
	memset(guests, 0, sizeof(guests));
	for (int i = 0; i < 2; i++) {
		strcpy(guests[i].config.name, i ? "two" : "one");
		strcpy(guests[i].config.os_type, "linux");
		strcpy(guests[i].owner_name, "a");
		guests[i].config.vcpus = 1;
		guests[i].config.memory_bytes = 64 << 20;
		guests[i].number = (unsigned)i + 1;
		guests[i].state = RS_RUNNING;
		guests[i].debug_exit_code = -1;
		guests[i].console = consoles[i];
		guests[i].n_vdevs = 9;
		guests[i].epoch = 1;
		vms[i * 3] = &guests[i];
	}
	memset(&next_error, 0, sizeof(next_error));
	memset(&the_keep, 0, sizeof(the_keep));
	did[0] = kept[0] = 0;
	typed_len = 0;
	typed_room = 4096;
	have_info = false;
	fake_log[0] = 0;
	control_init(&boot);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(pipes); i++) {
		if (pipes[i])
			pipes[i]->broken = true;
	}
	control_poll();
	control_poll();
	assert_int_equal(control_sessions(), 0);
	typed_room = 1 << 20;
	control_poll();
	for (unsigned i = 0; i < ARRAY_SIZE(pipes); i++) {
		if (pipes[i])
			assert_true(pipes[i]->closed);
		free(pipes[i]);
		pipes[i] = NULL;
	}
	assert_int_equal(fake_heap_bytes, 0);
	return 0;
}

static struct pipe *join(const char *name, const char *role)
{
	struct pipe *p = calloc(1, sizeof(*p));
	unsigned i = 0;

	assert_non_null(p);
	while (pipes[i])
		i++;
	pipes[i] = p;
	p->s.ops = &pipe_ops;
	p->out_limit = sizeof(p->out) - 1;
	snprintf(p->s.peer_name, sizeof(p->s.peer_name), "%s", name);
	snprintf(p->s.peer_role, sizeof(p->s.peer_role), "%s", role);
	control_accept(&p->s);
	return p;
}

static void feed(struct pipe *p, const char *text)
{
	size_t n = strlen(text);

	assert_true(p->in_len + n <= sizeof(p->in));
	memcpy(p->in + p->in_len, text, n);
	p->in_len += n;
}

static void polls(unsigned n)
{
	while (n--) {
		fake_now += 1000;
		control_poll();
	}
}

/* The next line that came, parsed; the test frees it. NULL: none. */
static cJSON *line(struct pipe *p)
{
	char *eol = memchr(p->out, '\n', p->out_len);
	cJSON *o;

	if (!eol)
		return NULL;
	*eol = 0;
	o = cJSON_Parse(p->out);
	if (!o)
		fail_msg("not JSON: %s", p->out);
	p->out_len -= (size_t)(eol + 1 - p->out);
	memmove(p->out, eol + 1, p->out_len + 1);
	return o;
}

static cJSON *ask(struct pipe *p, const char *req)
{
	cJSON *o;

	feed(p, req);
	feed(p, "\n");
	polls(3);
	o = line(p);
	if (!o)
		fail_msg("no answer to %s", req);
	return o;
}

/* Sends the request and compares the answer as text. */
static void expect(struct pipe *p, const char *req, const char *answer)
{
	cJSON *o = ask(p, req);
	char *text = cJSON_PrintUnformatted(o);

	if (strcmp(text, answer))
		fail_msg("%s gave %s, wanted %s", req, text, answer);
	cJSON_free(text);
	cJSON_Delete(o);
}

static void expect_error(struct pipe *p, const char *req, const char *class, const char *part)
{
	cJSON *o = ask(p, req), *e = cJSON_GetObjectItem(o, "error");
	const char *c = cJSON_GetStringValue(cJSON_GetObjectItem(e, "class"));
	const char *d = cJSON_GetStringValue(cJSON_GetObjectItem(e, "desc"));

	if (!c || !d || strcmp(c, class) || !strstr(d, part))
		fail_msg("%s gave %s '%s', wanted %s '%s'", req, c ? c : "no error", d ? d : "", class, part);
	cJSON_Delete(o);
}

static void greeted(struct pipe *p)
{
	cJSON *o;
	char *text;

	polls(1);
	o = line(p);
	assert_non_null(o);
	text = cJSON_PrintUnformatted(o);
	assert_string_equal(text, "{\"QMP\":{\"version\":{\"godwit\":\"0.1.0\",\"protocol\":1},\"capabilities\":[],\"host\":\"a\"}}");
	cJSON_free(text);
	cJSON_Delete(o);
}

static struct pipe *client(const char *role)
{
	struct pipe *p = join("ann", role);

	greeted(p);
	return p;
}

/* --- Cases --- */

static void test_basics(void **state)
{
	struct pipe *p = client("admin");
	cJSON *o;

	(void)state;
	expect(p, "{\"execute\":\"qmp_capabilities\"}", "{\"return\":{}}");
	expect(p, "{\"execute\":\"qmp_capabilities\",\"id\":[1,{\"x\":\"y\"}]}", "{\"return\":{},\"id\":[1,{\"x\":\"y\"}]}");
	expect(p, "{\"execute\":\"query-version\",\"id\":7}\r", "{\"return\":{\"godwit\":\"0.1.0\",\"protocol\":1},\"id\":7}");
	expect(p, "{\"execute\":\"query-status\",\"arguments\":{\"guest\":\"one\"},\"id\":null}",
	       "{\"return\":{\"status\":\"running\",\"running\":true},\"id\":null}");
	expect_error(p, "{\"execute\":\"fly\",\"id\":1}", "CommandNotFound", "fly");
	expect_error(p, "{\"execute\":\"query-status\",\"arguments\":{\"guest\":\"nix\"}}", "DeviceNotFound", "it has: one, two");
	expect_error(p, "{\"execute\":\"query-status\"}", "GenericError", "\"guest\" is missing");
	expect_error(p, "{\"execute\":\"query-status\",\"arguments\":{\"guest\":3}}", "GenericError", "must be text");
	expect_error(p, "{\"execute\":3}", "GenericError", "execute");
	expect_error(p, "{\"execute\":\"query-status\",\"arguments\":[]}", "GenericError", "arguments");
	expect_error(p, "[]", "GenericError", "one JSON object");
	expect_error(p, "{\"execute\":\"query-version\"} x", "GenericError", "one JSON object");
	expect_error(p, "\xff\xfe{", "GenericError", "one JSON object");
	expect_error(p, "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{"
		"}}}}}}}}}}}}}}}}}}", "GenericError", "one JSON object");
	o = ask(p, "{\"execute\":\"query-commands\"}");
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(o, "return")), 23);
	cJSON_Delete(o);
	/* Pieces, and several in one. */
	feed(p, "{\"execute\":");
	polls(2);
	assert_null(line(p));
	feed(p, "\"qmp_capabilities\",\"id\":1}\n\n{\"execute\":\"qmp_capabilities\",\"id\":2}\n");
	polls(2);
	for (int i = 1; i <= 2; i++) {
		o = line(p);
		assert_int_equal(cJSON_GetNumberValue(cJSON_GetObjectItem(o, "id")), i);
		cJSON_Delete(o);
	}
}

static void has(const cJSON *o, const char *key, char type)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);

	if (!v || (type == 's' && !cJSON_IsString(v)) || (type == 'n' && !cJSON_IsNumber(v)) || (type == 'b' && !cJSON_IsBool(v)) ||
	    (type == 'a' && !cJSON_IsArray(v)) || (type == 'o' && !cJSON_IsObject(v)))
		fail_msg("%s is missing or of the wrong type", key);
}

/* keys: "name:s memory:n ..." */
static void shape(const cJSON *o, const char *keys)
{
	char buf[600], *save, *k;
	int n = 0;

	snprintf(buf, sizeof(buf), "%s", keys);
	for (k = strtok_r(buf, " ", &save); k; k = strtok_r(NULL, " ", &save), n++) {
		char *colon = strchr(k, ':');

		*colon = 0;
		has(o, k, colon[1]);
	}
	assert_int_equal(cJSON_GetArraySize(o), n);
}

static void test_shapes(void **state)
{
	struct vport card[2] = { { .vlan = 7, .frames_in = 5 }, { .vlan = 8, .frames_in = 5 } };
	struct pipe *p = client("viewer");
	cJSON *o, *r;
	char *text;

	(void)state;
	o = ask(p, "{\"execute\":\"query-time\"}");
	assert_string_equal(cJSON_GetObjectItem(cJSON_GetObjectItem(o, "return"), "state")->valuestring, "synchronized");
	cJSON_Delete(o);
	o = ask(p, "{\"execute\":\"query-host\"}");
	r = cJSON_GetObjectItem(o, "return");
	shape(r, "name:s version:s vmx:o cpu:s tsc-khz:n memory-total:n memory-free:n hypervisor-memory:n uptime-us:n "
		"config-errors:a records-error:s boot-ticks:n first-guest-output-ticks:n");
	shape(cJSON_GetObjectItem(r, "vmx"), "usable:b missing:a remedy:s");
	assert_string_equal(cJSON_GetStringValue(cJSON_GetArrayItem(cJSON_GetObjectItem(r, "config-errors"), 0)),
		"line 3: memory: unknown");
	cJSON_Delete(o);

	guests[1].state = RS_INTERNAL_ERROR;
	guests[1].debug_exit_code = 3;
	strcpy(guests[1].reason, "EPT violation");
	guests[0].exits_before = 123456789012;
	o = ask(p, "{\"execute\":\"query-guests\"}");
	r = cJSON_GetObjectItem(o, "return");
	assert_int_equal(cJSON_GetArraySize(r), 2);
	shape(cJSON_GetArrayItem(r, 0), "name:s number:n os-type:s status:s running:b vcpus:n devices:n nics:n memory:n owner:s "
		"epoch:n uptime-us:n exits:n cpu-us:n self-migrations:n exit-reason:s");
	shape(cJSON_GetArrayItem(r, 1), "name:s number:n os-type:s status:s running:b vcpus:n devices:n nics:n memory:n owner:s "
		"epoch:n uptime-us:n exits:n cpu-us:n self-migrations:n debug-exit-code:n exit-reason:s");
	text = cJSON_PrintUnformatted(r);
	assert_non_null(strstr(text, "\"exits\":123456789012,"));
	assert_non_null(strstr(text, "\"exit-reason\":\"EPT violation\""));
	cJSON_free(text);
	cJSON_Delete(o);

	expect(p, "{\"execute\":\"query-migrate\",\"arguments\":{\"guest\":\"one\"}}", "{\"return\":{\"status\":\"none\"}}");
	expect(p, "{\"execute\":\"query-switches\"}", "{\"return\":[]}");
	vnetworks[0] = (struct vnetwork){ .name = "lan", .sw = vswitch_create(), .vlan = 7, .uplink = "card", .forwarded = 3 };
	n_vnetworks = 1;
	assert_int_equal(vswitch_add(vnetworks[0].sw, &card[0]), 0);
	assert_int_equal(vswitch_add(vnetworks[0].sw, &card[1]), 0);
	expect(p, "{\"execute\":\"query-switches\"}",
	       "{\"return\":[{\"name\":\"lan\",\"uplink\":\"card\",\"vlan\":7,\"ports\":1,\"macs\":0,\"frames-in\":5,\"frames-out\":0,"
	       "\"no-room\":0,\"refused\":0,\"forwarded\":3}]}");
	vswitch_remove(&card[0]);
	vswitch_remove(&card[1]);
	heap_free(vnetworks[0].sw); /* nobody polls it */
	n_vnetworks = 0;
	expect_error(p, "{\"execute\":\"query-migrate\",\"arguments\":{\"guest\":\"nix\"}}", "DeviceNotFound", "nix");
	memset(&info, 0, sizeof(info));
	info.status = "failed";
	info.phase = "connect";
	info.role = "source";
	strcpy(info.guest, "one");
	strcpy(info.peer, "b");
	info.n_rounds = 2;
	info.rounds[1].pages = 17;
	info.hash = 0xfedcba9876543210;
	info.total_us = 1234567;
	error_set(&info.error, E_IO, "host 'b': connection refused");
	have_info = true;
	o = ask(p, "{\"execute\":\"query-migrate\",\"arguments\":{\"guest\":\"one\"}}");
	r = cJSON_GetObjectItem(o, "return");
	shape(r, "status:s phase:s role:s peer:s round:n ram:o rounds:a total-time:n total-time-us:n expected-downtime:n downtime-us:n "
		"downtime-ticks:n setup-time-us:n busy-ticks:n verify:s hash:s hash-verified:b epoch:n error-desc:s");
	shape(cJSON_GetObjectItem(r, "ram"), "total:n transferred:n remaining:n duplicate:n normal:n pages-resent:n "
		"dirty-sync-count:n mbps:n page-size:n");
	shape(cJSON_GetArrayItem(cJSON_GetObjectItem(r, "rounds"), 1), "pages:n zero:n bytes:n us:n");
	assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(r, "hash")), "fedcba9876543210");
	assert_int_equal(cJSON_GetNumberValue(cJSON_GetObjectItem(r, "total-time")), 1234);
	cJSON_Delete(o);
}

static void test_guests(void **state)
{
	static const struct { const char *cmd, *did; } cmds[] = {
		{ "guest-start", "start one" }, { "guest-stop", "stop one" }, { "system_reset", "reset one" }, { "stop", "pause one" },
		{ "cont", "resume one" }, { "migrate_cancel", "cancel one" },
	};
	struct pipe *p = client("operator");
	char req[200];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cmds); i++) {
		did[0] = 0;
		snprintf(req, sizeof(req), "{\"execute\":\"%s\",\"arguments\":{\"guest\":\"one\"}}", cmds[i].cmd);
		expect(p, req, "{\"return\":{}}");
		assert_string_equal(did, cmds[i].did);
	}
	assert_string_equal(guests[0].reason, "switched off by ann");
	assert_non_null(strstr(fake_log, "ann (operator): guest-stop one"));
	/* What the lower layer says is passed on. */
	error_set(&next_error, E_STATE, "guest one lives on host b now");
	expect_error(p, "{\"execute\":\"guest-start\",\"arguments\":{\"guest\":\"one\"}}", "GenericError", "lives on host b now");
	memset(&next_error, 0, sizeof(next_error));
	/* Nothing happens to a guest in the middle of a move, except cancelling. */
	guests[0].mig = &guests[0];
	did[0] = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(cmds) - 1; i++) {
		snprintf(req, sizeof(req), "{\"execute\":\"%s\",\"arguments\":{\"guest\":\"one\"}}", cmds[i].cmd);
		expect_error(p, req, "GenericError", "being moved");
	}
	assert_string_equal(did, "");
	expect(p, "{\"execute\":\"migrate_cancel\",\"arguments\":{\"guest\":\"one\"}}", "{\"return\":{}}");
	/* By force only a copy that waits for its move's outcome and has been stopped, or one that has left. */
	expect_error(p, "{\"execute\":\"guest-start\",\"arguments\":{\"guest\":\"one\",\"force\":true}}", "GenericError", "stop it first");
	guests[0].state = RS_SHUTDOWN;
	expect_error(p, "{\"execute\":\"guest-start\",\"arguments\":{\"guest\":\"one\"}}", "GenericError", "being moved");
	expect(p, "{\"execute\":\"guest-start\",\"arguments\":{\"guest\":\"one\",\"force\":true}}", "{\"return\":{}}");
	assert_string_equal(did, "start one");
	assert_null(guests[0].mig);
	guests[0].state = RS_POSTMIGRATE;
	strcpy(guests[0].owner_name, "b");
	expect(p, "{\"execute\":\"guest-start\",\"arguments\":{\"guest\":\"one\",\"force\":true}}", "{\"return\":{}}");
	assert_int_equal(guests[0].state, RS_SHUTDOWN); /* for vm_start() to take it */
	expect_error(p, "{\"execute\":\"guest-stop\",\"arguments\":{\"guest\":\"one\"}}", "GenericError", "it is shutdown");
	expect_error(p, "{\"execute\":\"stop\",\"arguments\":{\"guest\":\"one\"}}", "GenericError", "only a running guest");
	caps.usable = false;
	strcpy(caps.remedy, "turn on VT-x in the firmware setup");
	expect_error(p, "{\"execute\":\"guest-start\",\"arguments\":{\"guest\":\"one\"}}", "GenericError", "turn on VT-x");
}

static void test_migrate(void **state)
{
	static const struct { const char *args, *error; } bad[] = {
		{ "\"guest\":\"one\"", "\"host\" is missing" },
		{ "\"guest\":\"one\",\"host\":\"b\"", "\"uri\" is missing" },
		{ "\"guest\":\"one\",\"host\":\"a\",\"uri\":\"tcp:1.2.3.4:5\"", "already" },
		{ "\"guest\":\"one\",\"host\":\"b\",\"uri\":\"udp:1.2.3.4:5\"", "is no address" },
		{ "\"guest\":\"one\",\"host\":\"b\",\"uri\":\"tcp:1.2.3:5\"", "is no address" },
		{ "\"guest\":\"one\",\"host\":\"b\",\"uri\":\"tcp:1.2.3.4\"", "is no address" },
		{ "\"guest\":\"one\",\"host\":\"b\",\"uri\":\"tcp:1.2.3.256:5\"", "is no address" },
		{ "\"guest\":\"one\",\"host\":\"b\",\"uri\":\"tcp:1.2.3.4:65536\"", "is no address" },
		{ "\"guest\":\"one\",\"host\":\"b\",\"uri\":\"tcp:1.2.3.4:0\"", "is no address" },
		{ "\"guest\":\"one\",\"host\":\"b\",\"uri\":\"tcp:1.2.3.4:5x\"", "is no address" },
		{ "\"guest\":\"one\",\"host\":\"b\",\"uri\":\"tcp:0.0.0.0:5\"", "is no address" },
		{ "\"guest\":\"one\",\"host\":\"b\",\"uri\":\"tcp: 1.2.3.4:5\"", "is no address" },
		{ "\"guest\":\"one\",\"host\":\"b\",\"uri\":\"tcp:1.2.3.4:5\",\"verify\":\"no\"", "verify" },
		{ "\"guest\":\"one\",\"host\":\"b\",\"uri\":\"tcp:1.2.3.4:5\",\"max-rounds\":0", "max-rounds" },
		{ "\"guest\":\"one\",\"host\":\"b\",\"uri\":\"tcp:1.2.3.4:5\",\"max-rounds\":1.5", "max-rounds" },
		{ "\"guest\":\"one\",\"host\":\"b\",\"uri\":\"tcp:1.2.3.4:5\",\"downtime-limit\":-1", "downtime-limit" },
		{ "\"guest\":\"one\",\"host\":\"0123456789012345678901234567890123\",\"uri\":\"tcp:1.2.3.4:5\"", "no host name" },
	};
	struct pipe *p = client("operator");
	char req[300];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(req, sizeof(req), "{\"execute\":\"migrate\",\"arguments\":{%s}}", bad[i].args);
		expect_error(p, req, "GenericError", bad[i].error);
	}
	assert_string_equal(did, "");
	expect(p, "{\"execute\":\"migrate\",\"arguments\":{\"guest\":\"two\",\"host\":\"b\",\"uri\":\"tcp:10.0.2.2:4790\"}}",
	       "{\"return\":{}}");
	assert_string_equal(did, "migrate two");
	assert_string_equal(last_params.host, "b");
	assert_int_equal(last_params.ip, 0x0a000202);
	assert_int_equal(last_params.port, 4790);
	assert_int_equal(last_params.freeze_budget_ms, 300);
	assert_int_equal(last_params.max_rounds, 30);
	assert_false(last_params.verify_full);
	expect(p, "{\"execute\":\"migrate\",\"arguments\":{\"guest\":\"two\",\"host\":\"b\",\"uri\":\"tcp:10.0.2.2:4790\","
	       "\"verify\":\"full\",\"downtime-limit\":50,\"max-rounds\":5}}", "{\"return\":{}}");
	assert_true(last_params.verify_full);
	assert_int_equal(last_params.freeze_budget_ms, 50);
	assert_int_equal(last_params.max_rounds, 5);
}

static void test_definitions(void **state)
{
	static const struct { const char *args, *error; } bad[] = {
		{ "\"kernel\":\"vmlinuz\"", "\"guest\" is missing" },
		{ "\"guest\":\"one\",\"kernel\":\"vmlinuz\"", "has a guest one already" },
		{ "\"guest\":\"new\"", "[guest new] has no kernel=" },
		{ "\"guest\":\"a b\",\"kernel\":\"vmlinuz\"", "is not a good name" },
		{ "\"guest\":\"a]\\n[x\",\"kernel\":\"vmlinuz\"", "no line breaks" },
		{ "\"guest\":\"new\",\"kernel\":\"other\"", "has not read other from its boot disk" },
		{ "\"guest\":\"new\",\"kernel\":\"vmlinuz\",\"initrd\":\"i.gz\"", "has not read i.gz" },
		{ "\"guest\":\"new\",\"kernel\":\"vmlinuz\",\"module\":[\"vmlinuz a\",\"m b\"]", "has not read m from" },
		{ "\"guest\":\"new\",\"kernel\":\"vmlinuz\",\"memory\":\"5M\"", "memory=5M is not possible" },
		{ "\"guest\":\"new\",\"kernel\":\"vmlinuz\",\"memroy\":\"6M\"", "has no key memroy" },
		{ "\"guest\":\"new\",\"kernel\":\"vmlinuz\",\"vcpus\":1.5", "\"vcpus\" is not one line" },
		{ "\"guest\":\"new\",\"kernel\":\"vmlinuz\",\"vcpus\":9", "vcpus=9 is not possible" },
		{ "\"guest\":\"new\",\"kernel\":\"vmlinuz\",\"vcpus\":[1,2]", "vcpus= is there twice" },
		{ "\"guest\":\"new\",\"kernel\":\"vmlinuz\\n[host]\"", "\"kernel\" is not one line" },
		{ "\"guest\":\"new\",\"kernel\":\"vmlinuz\",\"os=linux\\nx\":1", "is not one line" },
		{ "\"guest\":\"new\",\"kernel\":\"vmlinuz\",\"nic\":\"lan\"", "there is no [switch lan]" },
		{ "\"guest\":\"new\",\"kernel\":\"vmlinuz\",\"cpu\":\"v9\"", "no CPU baseline" },
		{ "\"guest\":\"new\",\"kernel\":{}", "is not one line" },
	};
	struct pipe *p = client("operator");
	char req[400];

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(req, sizeof(req), "{\"execute\":\"guest-create\",\"arguments\":{%s}}", bad[i].args);
		expect_error(p, req, "GenericError", bad[i].error);
		assert_null(vms[2]);
	}
	expect(p, "{\"execute\":\"guest-create\",\"arguments\":{\"guest\":\"new\",\"kernel\":\"vmlinuz\",\"memory\":\"64M\",\"vcpus\":2,"
	       "\"console\":\"serial\",\"debug-exit\":true,\"disk\":[\"ram:4M\",\"ram:8M,ro\"]}}", "{\"return\":{}}");
	assert_string_equal(kept, "define new");
	assert_non_null(vms[2]);
	assert_int_equal(made.config.memory_bytes, 64 << 20);
	assert_int_equal(made.config.vcpus, 2);
	assert_int_equal(made.config.n_disks, 2);
	assert_true(made.config.console_serial && made.config.debug_exit);
	/* What is not given stays; a list is replaced. */
	expect(p, "{\"execute\":\"guest-change\",\"arguments\":{\"guest\":\"new\",\"disk\":\"ram:16M\",\"weight\":7}}", "{\"return\":{}}");
	assert_int_equal(made.config.memory_bytes, 64 << 20);
	assert_int_equal(made.config.n_disks, 1);
	assert_int_equal(made.config.disks[0].bytes, 16 << 20);
	assert_int_equal(made.config.weight, 7);
	expect_error(p, "{\"execute\":\"guest-change\",\"arguments\":{\"guest\":\"new\",\"weight\":0}}", "GenericError", "weight=0");
	assert_int_equal(made.config.weight, 7);
	/* Not what runs. */
	expect_error(p, "{\"execute\":\"guest-change\",\"arguments\":{\"guest\":\"one\",\"weight\":9}}", "GenericError", "stop it first");
	expect_error(p, "{\"execute\":\"guest-delete\",\"arguments\":{\"guest\":\"one\"}}", "GenericError", "stop it first");
	error_set(&the_keep.problem, E_RANGE, "the store is full");
	expect(p, "{\"execute\":\"guest-change\",\"arguments\":{\"guest\":\"new\",\"weight\":8}}",
	       "{\"return\":{\"warning\":\"the store is full\"}}");
	assert_int_equal(made.config.weight, 8);
	the_keep.problem.code = 0;
	expect(p, "{\"execute\":\"guest-delete\",\"arguments\":{\"guest\":\"new\"}}", "{\"return\":{}}");
	assert_string_equal(kept, "delete new");
	assert_null(vms[2]);
	expect_error(p, "{\"execute\":\"guest-delete\",\"arguments\":{\"guest\":\"new\"}}", "DeviceNotFound", "no guest is called");
	/* The power button. */
	button_heard = true;
	expect(p, "{\"execute\":\"system_powerdown\",\"arguments\":{\"guest\":\"one\"}}", "{\"return\":{}}");
	assert_string_equal(did, "button one");
	button_heard = false;
	expect_error(p, "{\"execute\":\"system_powerdown\",\"arguments\":{\"guest\":\"one\"}}", "GenericError", "does not listen");
}

static void test_roles(void **state)
{
	static const char *const denied[] = { "guest-start", "guest-stop", "system_reset", "stop", "cont", "console-attach",
		"console-detach", "ringbuf-write", "migrate", "migrate_cancel" };
	static const char *const roles[] = { "viewer", "host" };
	char req[200];

	(void)state;
	for (unsigned r = 0; r < ARRAY_SIZE(roles); r++) {
		struct pipe *p = client(roles[r]);

		for (unsigned i = 0; i < ARRAY_SIZE(denied); i++) {
			snprintf(req, sizeof(req), "{\"execute\":\"%s\",\"arguments\":{\"guest\":\"one\",\"device\":\"one\",\"data\":\"eA==\","
				"\"host\":\"b\",\"uri\":\"tcp:1.2.3.4:5\"}}", denied[i]);
			expect_error(p, req, "AccessDenied", "needs operator or admin");
		}
		assert_string_equal(did, "");
		expect(p, "{\"execute\":\"query-status\",\"arguments\":{\"guest\":\"one\"}}",
		       "{\"return\":{\"status\":\"running\",\"running\":true}}");
	}
}

static void print(int g, const char *text)
{
	while (*text)
		consoles[g][guests[g].console_total++ % CONSOLE_RING_BYTES] = (u8)*text++;
}

static void expect_console(struct pipe *p, u64 offset, const char *base64)
{
	cJSON *o = line(p), *d = cJSON_GetObjectItem(o, "data");

	if (!o)
		fail_msg("no event");
	assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(o, "event")), "CONSOLE");
	assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(d, "guest")), "one");
	assert_int_equal(cJSON_GetNumberValue(cJSON_GetObjectItem(d, "offset")), offset);
	if (base64)
		assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(d, "data")), base64);
	shape(cJSON_GetObjectItem(o, "timestamp"), "seconds:n microseconds:n");
	cJSON_Delete(o);
}

static void test_console(void **state)
{
	struct pipe *p = client("operator"), *q = client("viewer");
	u64 expected, total = 0;

	(void)state;
	print(0, "old ");
	expect(p, "{\"execute\":\"console-attach\",\"arguments\":{\"guest\":\"one\"}}", "{\"return\":{}}");
	polls(2);
	assert_null(line(p));
	print(0, "new");
	print(1, "other");
	polls(2);
	expect_console(p, 4, "bmV3");
	expect(p, "{\"execute\":\"console-attach\",\"arguments\":{\"guest\":\"one\",\"history\":true}}", "{\"return\":{}}");
	polls(2);
	expect_console(p, 0, "b2xkIG5ldw==");
	assert_null(line(q));
	expect(p, "{\"execute\":\"console-detach\",\"arguments\":{\"guest\":\"one\"}}", "{\"return\":{}}");
	print(0, "unseen");
	polls(2);
	assert_null(line(p));
	/* History is the ring; a reader that was away sees where it missed something. */
	for (unsigned i = 0; i < 10000; i++)
		print(0, "0123456789abcdef");
	expected = guests[0].console_total - CONSOLE_RING_BYTES;
	feed(p, "{\"execute\":\"console-attach\",\"arguments\":{\"guest\":\"one\",\"history\":true}}\n");
	polls(20);
	cJSON_Delete(line(p));
	for (;;) {
		cJSON *o = line(p), *d = cJSON_GetObjectItem(o, "data");

		if (!o)
			break;
		assert_int_equal(cJSON_GetNumberValue(cJSON_GetObjectItem(d, "offset")), expected);
		expected += strlen(cJSON_GetStringValue(cJSON_GetObjectItem(d, "data"))) / 4 * 3;
		total++;
		cJSON_Delete(o);
	}
	assert_true(total > 5 && expected >= guests[0].console_total && expected <= guests[0].console_total + 2 * total);
	expect_error(p, "{\"execute\":\"console-attach\",\"arguments\":{\"guest\":\"nix\"}}", "DeviceNotFound", "nix");
}

static void test_typing(void **state)
{
	struct pipe *p = client("operator");

	(void)state;
	typed_room = 2;
	expect(p, "{\"execute\":\"ringbuf-write\",\"arguments\":{\"device\":\"one\",\"data\":\"aGVsbG8=\",\"format\":\"base64\"}}",
	       "{\"return\":{}}");
	polls(5);
	assert_int_equal(typed_len, 5);
	assert_memory_equal(typed, "hello", 5);
	expect(p, "{\"execute\":\"ringbuf-write\",\"arguments\":{\"device\":\"one\",\"data\":\"x\\n\"}}", "{\"return\":{}}");
	polls(2);
	assert_memory_equal(typed, "hellox\n", 7);
	/* Frozen for a move: what is typed waits. */
	guests[0].state = RS_FINISH_MIGRATE;
	expect(p, "{\"execute\":\"ringbuf-write\",\"arguments\":{\"device\":\"one\",\"data\":\"y\"}}", "{\"return\":{}}");
	polls(5);
	assert_int_equal(typed_len, 7);
	guests[0].state = RS_RUNNING;
	polls(2);
	assert_int_equal(typed_len, 8);
	expect_error(p, "{\"execute\":\"ringbuf-write\",\"arguments\":{\"device\":\"one\",\"data\":\"***\",\"format\":\"base64\"}}",
		     "GenericError", "base64");
	expect_error(p, "{\"execute\":\"ringbuf-write\",\"arguments\":{\"device\":\"one\",\"data\":\"x\",\"format\":\"hex\"}}",
		     "GenericError", "format");
	guests[0].state = RS_SHUTDOWN;
	expect_error(p, "{\"execute\":\"ringbuf-write\",\"arguments\":{\"device\":\"one\",\"data\":\"x\"}}", "GenericError",
		     "does not run here");
	/* A guest that does not read: bounded, and said so. */
	guests[0].state = RS_RUNNING;
	typed_room = 0;
	char *req = calloc(1, 8000);
	strcpy(req, "{\"execute\":\"ringbuf-write\",\"arguments\":{\"device\":\"one\",\"data\":\"");
	memset(req + strlen(req), 'x', 3000);
	strcat(req, "\"}}");
	expect(p, req, "{\"return\":{}}");
	expect_error(p, req, "GenericError", "typed ahead");
	free(req);
}

static void test_events(void **state)
{
	struct pipe *p = client("viewer"), *q = client("admin");
	cJSON *o, *d, *stamp;
	struct pipe *both[] = { p, q };

	(void)state;
	fake_wall = (struct wall){ .base_us = 1800000000700000, .at_us = fake_now };
	strcpy(info.guest, "one");
	info.status = "active";
	info.phase = "precopy";
	mig_changed(&info);
	guests[1].state = RS_SHUTDOWN;
	strcpy(guests[1].reason, "ACPI power-off");
	vm_state_changed(&guests[1]);
	polls(1);
	for (int i = 0; i < 2; i++) {
		o = line(both[i]);
		d = cJSON_GetObjectItem(o, "data");
		assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(o, "event")), "MIGRATION");
		shape(d, "guest:s status:s phase:s");
		assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(d, "phase")), "precopy");
		cJSON_Delete(o);
		o = line(both[i]);
		d = cJSON_GetObjectItem(o, "data");
		assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(o, "event")), "GUEST_STATE");
		shape(d, "guest:s status:s reason:s");
		assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(d, "reason")), "ACPI power-off");
		shape(o, "event:s data:o timestamp:o");
		/* Both parts by one clock, or time would go back and forth. */
		stamp = cJSON_GetObjectItem(o, "timestamp");
		assert_int_equal((u64)cJSON_GetNumberValue(cJSON_GetObjectItem(stamp, "seconds")), 1800000000);
		assert_int_equal((u64)cJSON_GetNumberValue(cJSON_GetObjectItem(stamp, "microseconds")), 700000);
		cJSON_Delete(o);
	}
}

static void test_limits(void **state)
{
	struct pipe *p = client("admin");
	static char big[70000];
	cJSON *o;

	(void)state;
	/* 64 KiB without a newline ends the session, with a reason. */
	memset(big, ' ', sizeof(big));
	big[66000] = 0;
	feed(p, big);
	polls(40);
	o = line(p);
	assert_non_null(strstr(cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetObjectItem(o, "error"), "desc")), "64 KiB"));
	cJSON_Delete(o);
	assert_true(p->closed);
	/* A long but legal line is fine. */
	p = client("admin");
	memset(big, ' ', 60000);
	strcpy(big + 60000, "{\"execute\":\"qmp_capabilities\"}");
	feed(p, big);
	feed(p, "\n");
	polls(40);
	o = line(p);
	assert_non_null(cJSON_GetObjectItem(o, "return"));
	cJSON_Delete(o);
	/* Many values: refused before they are parsed. */
	memset(big, ',', 2000);
	memcpy(big, "{\"a\":[1", 7);
	big[2000] = 0;
	expect_error(p, big, "GenericError", "1024 values");
	/* But those that are text are not values. */
	memcpy(big, "{\"execute\":\"qmp_capabilities\",\"id\":\"\\\"[", 39);
	strcpy(big + 1998, "\"}");
	feed(p, big);
	feed(p, "\n");
	polls(4);
	o = line(p);
	assert_non_null(cJSON_GetObjectItem(o, "return"));
	cJSON_Delete(o);
	/* A client that never reads: its requests stop being taken, events end it, memory is bounded. */
	p->out_limit = p->out_len;
	for (unsigned i = 0; i < 4000; i++) {
		if (p->in_len < 100000)
			feed(p, "{\"execute\":\"query-commands\"}\n");
		polls(1);
	}
	assert_true(fake_heap_bytes < 2 * CONTROL_PAUSE_BYTES + 70000);
	assert_true(p->in_len > 90000);
	assert_false(p->closed);
	for (unsigned i = 0; i < 6000; i++)
		vm_state_changed(&guests[0]);
	assert_true(fake_heap_bytes < 2 * CONTROL_MAX_OUTPUT);
	polls(4000);
	assert_true(p->closed);
	assert_non_null(strstr(fake_log, "it does not take the answers"));
	/* Idle sessions end, watching ones do not. */
	p = client("operator");
	struct pipe *q = client("operator");
	expect(q, "{\"execute\":\"console-attach\",\"arguments\":{\"guest\":\"one\"}}", "{\"return\":{}}");
	fake_now += CONTROL_IDLE_US + 1;
	polls(2);
	assert_true(p->closed);
	assert_false(q->closed);
}

static void test_sessions(void **state)
{
	struct pipe *p;

	(void)state;
	for (unsigned i = 0; i < CONTROL_MAX_PER_NAME; i++)
		join("ann", "viewer");
	p = join("ann", "viewer");
	assert_true(p->closed);
	for (unsigned i = CONTROL_MAX_PER_NAME; i < CONTROL_MAX_SESSIONS; i++)
		assert_false(join("bob", "viewer")->closed);
	p = join("cat", "viewer");
	assert_true(p->closed);
	assert_int_equal(control_sessions(), CONTROL_MAX_SESSIONS);
	pipes[0]->broken = true;
	polls(2);
	assert_true(pipes[0]->closed);
	assert_int_equal(control_sessions(), CONTROL_MAX_SESSIONS - 1);
}

/* Flipped and cut requests, and an allocator that fails at every point: answers or an end, never a crash or a leak. */
static void test_fuzz(void **state)
{
	static const char *const seeds[] = {
		"{\"execute\":\"migrate\",\"arguments\":{\"guest\":\"two\",\"host\":\"b\",\"uri\":\"tcp:10.0.2.2:4790\"},\"id\":[1,2.5e3,null,\"\\u00e4\"]}",
		"{\"execute\":\"ringbuf-write\",\"arguments\":{\"device\":\"one\",\"data\":\"aGVsbG8=\",\"format\":\"base64\"}}",
		"{\"execute\":\"query-guests\",\"id\":{\"a\":[true,false]}}",
	};
	struct pipe *p = client("admin");
	char buf[300];

	(void)state;
	srand(3);
	for (unsigned i = 0; i < 20000; i++) {
		snprintf(buf, sizeof(buf), "%s", seeds[i % ARRAY_SIZE(seeds)]);
		for (int k = rand() % 4; k >= 0; k--) {
			char *at = &buf[(unsigned)rand() % strlen(buf)];

			*at = rand() % 3 ? (char)(1 + rand() % 255) : "{}[]\",:\\0"[rand() % 9];
			if (*at == 0)
				break;
		}
		feed(p, buf);
		feed(p, "\n");
		polls(1);
		p->out_len = 0;
	}
	assert_false(p->closed);
	for (size_t room = 0; room < 20000; room += 40) {
		struct pipe *q;

		p = join("eve", "admin");
		fake_heap_limit = fake_heap_bytes + room;
		feed(p, seeds[room / 40 % ARRAY_SIZE(seeds)]);
		feed(p, "\n{\"execute\":\"query-host\"}\n");
		polls(2);
		fake_heap_limit = 0;
		p->broken = true;
		polls(4);
		assert_true(p->closed);
		for (unsigned i = 0; i < ARRAY_SIZE(pipes); i++) {
			q = pipes[i];
			if (q == p) {
				free(q);
				pipes[i] = NULL;
			}
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_basics, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shapes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_guests, setup, teardown),
		cmocka_unit_test_setup_teardown(test_migrate, setup, teardown),
		cmocka_unit_test_setup_teardown(test_definitions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_roles, setup, teardown),
		cmocka_unit_test_setup_teardown(test_console, setup, teardown),
		cmocka_unit_test_setup_teardown(test_typing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_events, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sessions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fuzz, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
