/* SPDX-License-Identifier: MIT */
#include "mig/mig_fake.h"
#include "hv/arch/nvram.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "hv/vm/vm_clock.h"
#include "hv/vdev/virtio_net.h"
#include "net/forward.h"
#include "net/net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct fake_world the_world;
struct fake_world *world = &the_world;
u64 service_ticks; /* the scheduler's count; stands still here */
static const char *const host_names[FAKE_HOSTS] = { "a", "b" };

#define CHECK(cond) do { if (!(cond)) bug(__FILE__, __LINE__, #cond); } while (0)

/* --- the hypervisor around mig/ --- */

u64 now_us(void) { return world->now_us; }
u64 host_tsc(void) { return world->now_us * 1000; }
u64 host_tsc_hz(void) { return 1000000000; }
u64 wall_us(void) { return 1700000000000000 + world->now_us; }
u64 wall_seconds(void) { return 1700000000 + world->now_us / 1000000; }
void log_guard(void) { }
bool log_limit_ok(struct log_limit *l) { (void)l; return true; }

void log_line(enum log_level level, const char *subsys, const char *fmt, ...)
{
	va_list ap;

	(void)level;
	if (!getenv("TEST_LOG"))
		return;
	fprintf(stderr, "[%10.6f] %s %s: ", (double)world->now_us / 1e6, host_names[world->host], subsys);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

void bug(const char *file, int line, const char *what)
{
	fprintf(stderr, "BUG %s:%d: %s\n", file, line, what);
	abort();
}

static void *fake_alloc(size_t n, size_t size)
{
	void *p;

	if (world->host == FAKE_B && world->allocs_left >= 0 && world->allocs_left-- == 0) {
		world->allocs_left = 0;
		return NULL;
	}
	p = calloc(n ? n : 1, size ? size : 1);
	CHECK(p);
	world->live_allocs++;
	return p;
}

static void fake_release(void *p)
{
	if (!p)
		return;
	CHECK(world->live_allocs);
	world->live_allocs--;
	free(p);
}

void *frame_alloc(void) { return fake_alloc(1, 4096); }
void frame_free(void *p) { fake_release(p); }
void *frame_alloc_n(unsigned n) { return fake_alloc(n, 4096); }
void frame_free_n(void *p, unsigned n) { (void)n; fake_release(p); }
void *frame_alloc_bytes(u64 bytes) { return fake_alloc(1, bytes); }
void frame_free_bytes(void *p, u64 bytes) { (void)bytes; fake_release(p); }
void *heap_calloc(size_t n, size_t size) { return fake_alloc(n, size); }
void heap_free(void *p) { fake_release(p); }

/* --- what survives a restart --- */

static struct keep keeps[FAKE_HOSTS]; /* in memory */
static struct keep_slot nvram[FAKE_HOSTS][KEEP_SLOTS];
static jmp_buf power_cut;

int nvram_write(u32 i, const void *buf, size_t len, struct error *e)
{
	struct keep_slot *s = &nvram[world->host][i];

	if (world->nvram_fails)
		return error_set(e, world->nvram_fails, "a fault that the test wants");
	world->nvram_writes++;
	if (world->nvram_writes == world->cut_at && !world->cut_after)
		longjmp(power_cut, 1);
	s->len = (u16)len;
	if (len)
		memcpy(s->bytes, buf, len);
	if (world->nvram_writes == world->cut_at)
		longjmp(power_cut, 1);
	return 0;
}

/* --- guests --- */

static int cpu_post_load(void *owner, struct error *e)
{
	struct vm *vm = owner;

	return fake_vm(vm)->cpu.even & 1 ? error_set(e, E_INVAL, "even is odd") : 0;
}

static const struct mig_field clock_fields[] = {
	MIG_U64(1, struct vm_clock_state, guest_tsc, 1), MIG_U64(2, struct vm_clock_state, tsc_hz, 1),
	MIG_U64(3, struct vm_clock_state, boot_wall_seconds, 1),
};
static int clock_post_load(void *owner, struct error *e)
{
	struct vm *vm = owner;

	(void)e;
	vm->clock_running = false;
	vm->paused_tsc = vm->clock_state.guest_tsc;
	vm->tsc_hz = vm->clock_state.tsc_hz;
	return 0;
}
static const struct mig_type clock_type = {
	.name = "clock", .version = 1, .min_version = 1, .phase = MIG_PHASE_CLOCK, .n_fields = ARRAY_SIZE(clock_fields),
	.state_size = sizeof(struct vm_clock_state), .fields = clock_fields, .post_load = clock_post_load,
};
static const struct mig_field cpu_fields[] = {
	MIG_U64(1, struct fake_cpu, counter, 1), MIG_U64(2, struct fake_cpu, even, 1), MIG_U32S(3, struct fake_cpu, regs, 1),
	MIG_U8S(4, struct fake_cpu, bytes, 2),
};
static const struct mig_type cpu_type = {
	.name = "cpu", .version = 2, .min_version = 1, .phase = MIG_PHASE_VCPU, .n_fields = ARRAY_SIZE(cpu_fields),
	.state_size = sizeof(struct fake_cpu), .fields = cpu_fields, .post_load = cpu_post_load,
};

bool vm_mig_instance(struct vm *vm, unsigned i, struct mig_instance *out)
{
	if (i == 0)
		*out = (struct mig_instance){ &clock_type, 0, &vm->clock_state, vm };
	else if (i == 1)
		*out = (struct mig_instance){ &cpu_type, 0, &fake_vm(vm)->cpu, vm };
	return i < 2;
}

u64 vm_tsc(const struct vm *vm) { return vm->clock_running ? host_tsc() + vm->tsc_offset : vm->paused_tsc; }
u64 vm_tsc_hz(const struct vm *vm) { return vm->tsc_hz; }
void vm_clock_start(struct vm *vm)
{
	if (!vm->clock_running)
		vm->tsc_offset = vm->paused_tsc - host_tsc();
	vm->clock_running = true;
}
void vm_clock_stop(struct vm *vm)
{
	vm->paused_tsc = vm_tsc(vm);
	vm->clock_running = false;
	vm->stopped_wall_us = world->wall_synced ? wall_us() : 0;
}
u64 vm_clock_catch_up(struct vm *vm, u64 stopped_wall_us)
{
	u64 us = stopped_wall_us ? wall_us() - stopped_wall_us : 0;

	CHECK(!vm->clock_running);
	world->frozen_digest ^= vm->paused_tsc * 11 ^ (vm->paused_tsc + us * 1000) * 11; /* the one thing that changes */
	vm->paused_tsc += us * 1000;
	return us;
}

void vm_state_sync(struct vm *vm)
{
	vm->clock_state = (struct vm_clock_state){ vm_tsc(vm), vm->tsc_hz, vm->boot_wall_seconds };
	if (world->bad_state)
		fake_vm(vm)->cpu.even |= 1;
}
void vm_state_loaded(struct vm *vm) { (void)vm; }
void vm_state_changed(struct vm *vm) { (void)vm; }
void mig_changed(const struct mig_info *info) { CHECK(info->status && info->phase && info->role); }

bool vm_drain(struct vm *vm)
{
	CHECK(vm_find(vm->config.name) == vm);
	fake_vm(vm)->drained = true;
	if (world->never_drains)
		snprintf(vm->drain_why, sizeof(vm->drain_why), "disk 0 waits for server x");
	if (world->drain_turns)
		world->drain_turns--;
	return !world->never_drains && !world->drain_turns;
}

void vm_undrain(struct vm *vm)
{
	fake_vm(vm)->drained = false;
}

int vm_disks_check(struct vm *vm, const struct blk_info *was, struct error *e)
{
	for (u32 i = 0; i < vm->config.n_disks; i++) {
		/* The definition and what the guest has seen arrived whole. */
		CHECK(was[i].bytes == 512 * (i + 1) && was[i].hash == i + 7 && was[i].block == 512 && was[i].features == i);
		CHECK(!memcmp(&vm->config.disks[i], &world->disks[i], sizeof(world->disks[i])));
		if (world->disk_refused)
			return error_set(e, E_STATE, "disk %u is another one", i);
		if (world->disk_away) {
			world->disk_away--;
			error_set(e, E_IO, "server x is away");
			return 0;
		}
	}
	return 1;
}

const char *vm_run_state_name(enum run_state s)
{
	static const char *const names[] = { "prelaunch", "running", "paused", "shutdown", "inmigrate", "finish-migrate",
					     "postmigrate", "internal-error", "guest-panicked" };
	return names[s];
}

struct vm *vm_find(const char *name)
{
	for (unsigned i = 0; i < VM_MAX; i++) {
		struct vm *vm = world->vms[world->host][i];

		if (vm && !strcmp(vm->config.name, name))
			return vm;
	}
	return NULL;
}

bool vm_is_dead(const struct vm *vm)
{
	return vm->state == RS_SHUTDOWN || vm->state == RS_INTERNAL_ERROR || vm->state == RS_GUEST_PANICKED;
}

bool vm_enlist(struct vm *vm)
{
	CHECK(!vm_find(vm->config.name));
	for (unsigned i = 0; i < VM_MAX; i++)
		if (!world->vms[world->host][i]) {
			world->vms[world->host][i] = vm;
			return true;
		}
	return false;
}

void vm_delist(struct vm *vm)
{
	CHECK(!fake_vm(vm)->ram);
	for (unsigned i = 0; i < VM_MAX; i++)
		if (world->vms[world->host][i] == vm)
			world->vms[world->host][i] = NULL;
}

struct vm *vm_define(const struct guest_config *cfg, struct error *e)
{
	struct fake_vm *f = fake_alloc(1, sizeof(*f));
	u8 *console = fake_alloc(1, CONSOLE_RING_BYTES);

	if (f && console) {
		f->vm.config = *cfg;
		f->vm.console = console;
		f->vm.state = RS_PRELAUNCH;
		f->vm.tsc_hz = host_tsc_hz();
		if (vm_enlist(&f->vm))
			return &f->vm;
	}
	fake_release(console);
	fake_release(f);
	error_set(e, E_NOMEM, "no memory for guest %s", cfg->name);
	return NULL;
}

struct vm *vm_create(const struct guest_config *cfg, struct error *e)
{
	struct vm *vm = vm_define(cfg, e);

	if (!vm)
		return NULL;
	/* Whoever asks for more than a test has gets nothing. */
	if (cfg->memory_bytes <= 64ul << 20)
		fake_vm(vm)->ram = fake_alloc(1, cfg->memory_bytes);
	if (!fake_vm(vm)->ram) {
		vm_destroy(vm);
		error_set(e, E_NOMEM, "no memory for guest %s", cfg->name);
		return NULL;
	}
	vm->ram_bytes = cfg->memory_bytes;
	if (cfg->n_disks)
		strcpy(vm->reason, "waits for its disk 0");
	return vm;
}

void vm_release(struct vm *vm)
{
	dirty_stop(vm);
	fake_release(fake_vm(vm)->ram);
	fake_vm(vm)->ram = NULL;
	vm->ram_bytes = 0;
}

void vm_destroy(struct vm *vm)
{
	CHECK(!vm->mig);
	vm_release(vm);
	free(fake_vm(vm)->disks);
	vm_delist(vm);
	fake_release(vm->console);
	fake_release(fake_vm(vm));
}

void vm_moved_away(struct vm *vm, const char *to, u64 epoch)
{
	CHECK(!vm->mig && !vm->owner);
	vm_release(vm);
	vm->epoch = epoch;
	snprintf(vm->owner_name, sizeof(vm->owner_name), "%s", to);
	vm->state = RS_POSTMIGRATE;
}

u64 fake_digest(struct vm *vm)
{
	struct fake_cpu *c = &fake_vm(vm)->cpu;

	u64 d = ram_hash_bytes(fake_vm(vm)->ram, vm->ram_bytes) ^ ram_hash_bytes(c, sizeof(*c)) * 3 ^ vm_tsc(vm) * 11;

	/* Console history is for people, no hash of ours covers it; TLS does. */
	if (world->plan.fault == FAULT_FLIP)
		return d;
	return d ^ ram_hash_bytes(vm->console, CONSOLE_RING_BYTES) * 5 ^ vm->console_total * 7;
}

void vm_pause(struct vm *vm, enum run_state state)
{
	if (state == RS_FINISH_MIGRATE)
		CHECK(fake_vm(vm)->drained);
	if (vm->state != RS_RUNNING && vm->state != RS_PAUSED)
		return;
	vm_clock_stop(vm);
	vm->state = state;
	if (state == RS_FINISH_MIGRATE)
		world->frozen_digest = fake_digest(vm);
}

int vm_resume(struct vm *vm, struct error *e)
{
	if (!vm->owner)
		return error_set(e, E_STATE, "not the owner");
	/* Wherever it goes on, it goes on from where it was frozen. */
	if (vm->state != RS_RUNNING && vm->mig && !world->bad_state && world->frozen_digest != fake_digest(vm))
		bug(__FILE__, __LINE__, "the guest goes on with other contents than it was frozen with");
	vm->state = RS_RUNNING;
	vm_clock_start(vm);
	world->resumes++;
	return 0;
}

void vm_kill(struct vm *vm, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(vm->reason, sizeof(vm->reason), fmt, ap);
	va_end(ap);
	vm->state = RS_INTERNAL_ERROR;
	world->kills++;
}

int vm_cpu_compat_save(struct vm *vm, u8 *buf, size_t cap)
{
	(void)vm;
	CHECK(cap >= 4);
	memcpy(buf, "cpu1", 4);
	return 4;
}

int vm_cpu_compat_check(const u8 *buf, size_t len, struct error *e)
{
	return len == 4 && !memcmp(buf, "cpu1", 4) ? 0 : error_set(e, E_UNSUPPORTED, "another CPU");
}

int virtio_net_check(const struct guest_config *g, struct error *e)
{
	for (u32 i = 0; i < g->n_nics; i++)
		if (!strcmp(g->nics[i].network, "elsewhere"))
			return error_set(e, E_NOENT, "no switch %s here", g->nics[i].network);
	return 0;
}

/* One frame was held; more come when a test calls world->give. */
struct lan_forward *lan_forward_begin(struct vm *vm, lan_forward_fn give, void *arg)
{
	static const u8 held[60] = { [59] = 77 };

	CHECK(!vm->owner);
	world->give = give;
	world->give_arg = arg;
	CHECK(give(arg, 1, held, sizeof(held)));
	return arg;
}

u64 lan_forward_end(struct lan_forward *f)
{
	if (f && world->give_arg == f)
		world->give = NULL;
	return 0;
}

void virtio_net_inject(struct vm *vm, u32 card, const u8 *frame, size_t len)
{
	CHECK(vm->owner);
	world->injected++;
	world->injected_card = card;
	world->injected_len = len;
	world->injected_byte = len ? frame[len - 1] : 0;
}

u64 guest_gfn_end(const struct vm *vm) { return vm->ram_bytes >> PAGE_SHIFT; }
u64 guest_ram_pages(const struct vm *vm) { return vm->ram_bytes >> PAGE_SHIFT; }
u64 guest_next_gfn(const struct vm *vm, u64 gfn) { return gfn < guest_gfn_end(vm) ? gfn : ~0ull; }
const void *guest_page(const struct vm *vm, u64 gfn)
{
	return gfn < guest_gfn_end(vm) ? fake_vm((struct vm *)vm)->ram + (gfn << PAGE_SHIFT) : NULL;
}

int guest_write(struct vm *vm, gpa_t at, const void *buf, size_t len)
{
	if (at.v > vm->ram_bytes || len > vm->ram_bytes - at.v)
		return -E_RANGE;
	memcpy(fake_vm(vm)->ram + at.v, buf, len);
	for (u64 g = at.v >> PAGE_SHIFT; len && g <= (at.v + len - 1) >> PAGE_SHIFT; g++)
		dirty_mark(vm, g);
	return 0;
}

int dirty_start(struct vm *vm)
{
	CHECK(!vm->dirty);
	vm->dirty_words = guest_gfn_end(vm) / 64;
	vm->dirty = fake_alloc(vm->dirty_words, 8);
	return vm->dirty ? 0 : -E_NOMEM;
}

void dirty_stop(struct vm *vm)
{
	fake_release(vm->dirty);
	vm->dirty = NULL;
}

void dirty_mark(struct vm *vm, u64 gfn)
{
	if (vm->dirty)
		vm->dirty[gfn / 64] |= BIT(gfn % 64);
}

u64 dirty_harvest(struct vm *vm, u64 *bitmap)
{
	u64 n = 0;

	for (u64 i = 0; i < vm->dirty_words; i++) {
		n += (u64)__builtin_popcountll(vm->dirty[i] & ~bitmap[i]);
		bitmap[i] |= vm->dirty[i];
		vm->dirty[i] = 0;
	}
	return n;
}

/* --- links --- */

#define QUEUE_BYTES (96u << 10)
struct queue { u8 buf[QUEUE_BYTES]; size_t len, head; u64 carried; u8 header[8]; u64 frame_left; unsigned header_got; };
struct link { struct queue q[2]; struct end { struct stream s; struct link *link; int side; bool closed, dead; int wait; } end[2];
	      unsigned number; bool cut; struct fake_plan plan; };
static struct stream *pending[FAKE_HOSTS][8];

static struct end *end_of(struct stream *s) { return container_of(s, struct end, s); }

/* Notes where frames begin on the first link. */
static void record(struct link *l, int dir, const u8 *p, size_t len)
{
	struct queue *q = &l->q[dir];
	u64 at = q->carried;
	u32 body;

	while (len && l->number == 0) {
		size_t n = MIN(len, (size_t)q->frame_left);

		if (!n) {
			if (q->header_got == 0 && world->n_record[dir] < 4096)
				world->record[dir][world->n_record[dir]++] = at;
			q->header[q->header_got++] = *p;
			n = 1;
			if (q->header_got == 8) {
				memcpy(&body, q->header + 4, 4);
				q->frame_left = body;
				q->header_got = 0;
			}
		} else {
			q->frame_left -= n;
		}
		p += n, at += n, len -= n;
	}
}

static void enqueue(struct queue *q, const u8 *p, size_t len)
{
	while (len) {
		size_t at = (q->head + q->len) % QUEUE_BYTES, n = MIN(len, QUEUE_BYTES - at);

		memcpy(q->buf + at, p, n);
		q->len += n, p += n, len -= n;
	}
}

static void link_cut(struct link *l, bool one_side)
{
	l->cut = true;
	if (!one_side)
		l->q[0].len = l->q[1].len = 0;
}

void fake_cut(struct stream *s)
{
	link_cut(end_of(s)->link, false);
}

static int fail(struct end *e)
{
	e->dead = true;
	error_set(&e->s.error, E_IO, "the link broke");
	return -E_IO;
}

static int end_write(struct stream *s, const void *buf, size_t len)
{
	struct end *e = end_of(s);
	struct link *l = e->link;
	struct queue *q = &l->q[e->side];
	size_t n = MIN(len, QUEUE_BYTES - q->len);
	u64 left = ~0ull;
	u8 byte;

	if (e->dead || l->cut || l->end[!e->side].closed)
		return fail(e);
	if (world->prints && world->host == FAKE_A && fake_guest(FAKE_A)->state == RS_RUNNING)
		fake_guest(FAKE_A)->console_total += n;
	/* Up to the byte that the plan is about, then that one alone. */
	if (l->plan.fault && l->plan.dir == (unsigned)e->side)
		left = l->plan.at > q->carried ? l->plan.at - q->carried : l->plan.fault == FAULT_FLIP && l->plan.at < q->carried ?
			~0ull : 0;
	if (left && n > left)
		n = left;
	record(l, e->side, buf, left || l->plan.fault != FAULT_FLIP ? n : MIN(n, (size_t)1));
	if (left) {
		enqueue(q, buf, n);
	} else if (l->plan.fault == FAULT_FLIP && n) {
		n = 1;
		byte = *(const u8 *)buf ^ l->plan.flip;
		enqueue(q, &byte, 1);
	} else if (l->plan.fault != FAULT_BLACK_HOLE) {
		link_cut(l, l->plan.fault == FAULT_CUT_ONE_SIDE);
		n = 0;
	}
	q->carried += n;
	if (l->number == 0)
		world->carried[e->side] = q->carried;
	s->wire_out += n;
	return (int)n;
}

static int end_read(struct stream *s, void *buf, size_t len)
{
	struct end *e = end_of(s);
	struct queue *q = &e->link->q[!e->side];
	size_t n = 0;

	if (e->dead)
		return fail(e);
	while (n < len && q->len) {
		size_t k = MIN(MIN(len - n, q->len), QUEUE_BYTES - q->head);

		memcpy((u8 *)buf + n, q->buf + q->head, k);
		n += k, q->len -= k, q->head = (q->head + k) % QUEUE_BYTES;
	}
	if (!n && (e->link->cut || e->link->end[!e->side].closed))
		return fail(e);
	s->wire_in += n;
	return (int)n;
}

static bool end_connecting(struct stream *s) { return end_of(s)->wait > 0 && end_of(s)->wait--; }
static void end_close(struct stream *s)
{
	struct end *e = end_of(s);

	CHECK(!e->closed);
	e->closed = true;
	if (e->link->end[0].closed && e->link->end[1].closed)
		free(e->link);
}

static const struct stream_ops end_ops = { end_write, end_read, end_connecting, end_close };

struct stream *fake_pipe(const char *near_peer, const char *far_peer, struct stream **far)
{
	struct link *l = calloc(1, sizeof(*l));

	CHECK(l);
	l->number = world->links++;
	if (world->plan.fault && world->plan.link == l->number)
		l->plan = world->plan;
	for (int i = 0; i < 2; i++) {
		struct end *e = &l->end[i];

		e->link = l;
		e->side = i;
		e->s.ops = &end_ops;
		snprintf(e->s.peer_name, sizeof(e->s.peer_name), "%s", i ? far_peer : near_peer);
		snprintf(e->s.peer_role, sizeof(e->s.peer_role), "host");
		snprintf(e->s.peer_addr, sizeof(e->s.peer_addr), "192.0.2.%d:4789", i + 1);
	}
	l->end[0].wait = 2;
	*far = &l->end[1].s;
	return &l->end[0].s;
}

struct stream *net_connect(u32 ip, u16 port, const char *host, const char *alpn, struct error *e)
{
	struct stream *far, *near;
	int to = strcmp(host, "b") ? FAKE_A : FAKE_B;

	(void)ip;
	CHECK(port && !strcmp(alpn, WIRE_ALPN));
	if (world->net_down) {
		error_set(e, E_IO, "network unreachable");
		return NULL;
	}
	near = fake_pipe(host, host_names[world->host], &far);
	for (unsigned i = 0; i < 8; i++)
		if (!pending[to][i]) {
			pending[to][i] = far;
			return near;
		}
	bug(__FILE__, __LINE__, "too many connections");
}

/* --- the world --- */

void fake_switch(int host)
{
	world->host = host;
	mig_host = &world->mig[host];
	keep = &keeps[host];
}

static u64 rnd(struct fake_vm *f)
{
	f->rng ^= f->rng << 13;
	f->rng ^= f->rng >> 7;
	f->rng ^= f->rng << 17;
	return f->rng;
}

static void guest_scribble(struct fake_vm *f, u32 pages)
{
	u64 end = guest_gfn_end(&f->vm);

	for (u32 i = 0; i < pages; i++) {
		u64 gfn = rnd(f) % end, at = rnd(f) % 512;
		u64 *page = (u64 *)(void *)(f->ram + (gfn << PAGE_SHIFT));

		/* Sometimes a page becomes zero again. */
		if (rnd(f) % 8 == 0)
			memset(page, 0, PAGE_SIZE);
		else
			page[at] = rnd(f);
		dirty_mark(&f->vm, gfn);
	}
	f->cpu.counter++;
	f->cpu.regs[f->cpu.counter % 8] = (u32)rnd(f);
	f->vm.console[f->vm.console_total++ % CONSOLE_RING_BYTES] = (u8)rnd(f);
}

struct vm *fake_guest(int host)
{
	struct vm *vm;
	int back = world->host;

	fake_switch(host);
	vm = vm_find(FAKE_GUEST);
	fake_switch(back);
	return vm;
}

static const struct guest_config the_guest = { .name = FAKE_GUEST, .memory_bytes = FAKE_GUEST_BYTES, .vcpus = 1, .weight = 100,
	.os_type = "linux", .kernel = "vmlinuz", .cmdline = "console=ttyS0", .n_nics = 2,
	.nics = { { "lan", { 2, 0, 0, 0, 0, 1 }, 0 }, { "back", { 2, 0, 0, 0, 0, 2 }, 7 } } };

/* As hv_main() does: what godwit.conf and records say. */
static void host_boot(int host)
{
	static struct config c;
	char peer[NAME_MAX_LEN];
	u64 epoch = 0;

	memset(keep, 0, sizeof(*keep));
	memcpy(keep->slots, nvram[host], sizeof(keep->slots));
	memset(&c, 0, sizeof(c));
	snprintf(c.host_name, sizeof(c.host_name), "%s", host_names[host]);
	strcpy(c.switches[0].name, "lan");
	strcpy(c.switches[1].name, "back");
	c.n_switches = 2;
	c.guests[0] = the_guest;
	c.guests[0].autostart = true;
	c.n_guests = world->autostart[host];
	keep_merge(&c);
	CHECK(!c.n_errors);
	for (u32 i = 0; i < c.n_guests; i++) {
		enum keep_owner owner = keep_owner(c.guests[i].name, peer, &epoch);
		bool starts = c.guests[i].autostart && owner != KEEP_GIVEN;
		struct vm *vm = starts ? vm_create(&c.guests[i], NULL) : vm_define(&c.guests[i], NULL);

		vm->epoch = epoch + starts;
		if (owner == KEEP_GIVEN)
			vm_moved_away(vm, peer, epoch);
		else
			vm->state = starts ? RS_RUNNING : RS_SHUTDOWN;
		vm->owner = starts;
		if (!starts)
			continue;
		fake_vm(vm)->rng = 1;
		snprintf(vm->owner_name, sizeof(vm->owner_name), "%s", host_names[host]);
		vm_clock_start(vm);
		if (owner != KEEP_NONE)
			CHECK(!keep_here(c.guests[i].name, vm->epoch, NULL));
	}
}

void fake_setup(u64 seed)
{
	struct vm *vm;
	struct fake_vm *f;

	memset(world, 0, sizeof(*world));
	memset(nvram, 0, sizeof(nvram));
	world->allocs_left = -1;
	world->writes_per_run = 2;
	world->now_us = 1000000;
	for (int h = FAKE_HOSTS - 1; h >= 0; h--) {
		fake_switch(h);
		mig_init(host_names[h]);
		host_boot(h);
		world->now_us++; /* another boot id */
	}
	fake_switch(FAKE_A);
	vm = vm_create(&the_guest, NULL);
	f = fake_vm(vm);
	f->rng = seed * 0x9e3779b97f4a7c15ull + 1;
	for (int i = 0; i < 8; i++)
		rnd(f);
	guest_scribble(f, 300);
	f->cpu.even = rnd(f) & ~1ull;
	vm->owner = true;
	vm->epoch = 1;
	vm->state = RS_RUNNING;
	vm_clock_start(vm);
}

void fake_disks(u32 n)
{
	struct vm *vm = fake_guest(FAKE_A);

	fake_vm(vm)->disks = calloc(n, sizeof(struct blk_backend));
	for (u32 i = 0; i < n; i++) {
		struct disk_config *d = &world->disks[i];

		*d = (struct disk_config){ .kind = i % 3, .bytes = i % 3 ? 0 : 1u << 20, .address = 0x0a000001 + i, .port = (u16)(10809 + i),
					   .tls = i & 1, .read_only = i & 2, .timeout_ms = 1000 * i };
		snprintf(d->image, sizeof(d->image), "image%u", i);
		snprintf(d->export_name, sizeof(d->export_name), "export%u", i);
		snprintf(d->serial, sizeof(d->serial), "serial%u", i);
		vm->config.disks[i] = *d;
		vm->disks[i] = &fake_vm(vm)->disks[i];
		vm->disks[i]->info = (struct blk_info){ 512 * (i + 1), i + 7, 512, i };
	}
	vm->config.n_disks = n;
}

static void drop_pending(int host)
{
	for (unsigned i = 0; i < 8; i++)
		if (pending[host][i]) {
			stream_close(pending[host][i]);
			pending[host][i] = NULL;
		}
}

/* What the host held is gone; its links break without a word. */
static void host_gone(int host)
{
	fake_switch(host);
	drop_pending(host);
	for (unsigned i = 0; i < MIG_MAX_SESSIONS; i++) {
		struct mig_session *s = mig_host->sessions[i];

		if (!s)
			continue;
		if (s->stream)
			link_cut(end_of(s->stream)->link, false);
		session_end(s);
		if (s->stale)
			vm_destroy(s->stale);
		s->out.len = s->out.sent = 0;
	}
	for (int n = 0; n < 4; n++)
		mig_poll();
	for (unsigned i = 0; i < VM_MAX; i++)
		if (world->vms[host][i])
			vm_destroy(world->vms[host][i]);
}

void fake_restart(int host)
{
	int back = world->host;

	host_gone(host);
	world->now_us++;
	mig_init(host_names[host]);
	host_boot(host);
	fake_switch(back);
}

u64 fake_teardown(void)
{
	host_gone(FAKE_A);
	host_gone(FAKE_B);
	fake_switch(FAKE_A);
	return world->live_allocs;
}

/* Never two that may run it, never two that run it. */
static void check_owner(void)
{
	struct vm *a = fake_guest(FAKE_A), *b = fake_guest(FAKE_B);

	if (a && b && (a->owner || a->state == RS_RUNNING) && (b->owner || b->state == RS_RUNNING))
		bug(__FILE__, __LINE__, "two hosts run the guest");
}

/* The turn of the host that is switched to, until its power goes. */
static void poll_host(void)
{
	if (!setjmp(power_cut))
		mig_poll();
	else
		fake_restart(world->host);
}

void fake_step(u64 us)
{
	for (int h = 0; h < FAKE_HOSTS; h++) {
		struct vm *vm;

		fake_switch(h);
		for (unsigned i = 0; i < 8; i++)
			if (pending[h][i]) {
				struct stream *s = pending[h][i];

				pending[h][i] = NULL;
				mig_accept(s);
			}
		vm = vm_find(FAKE_GUEST);
		if (vm && vm->state == RS_RUNNING) {
			CHECK(vm->owner);
			guest_scribble(fake_vm(vm), world->writes_per_run);
		}
		poll_host();
		check_owner();
	}
	fake_switch(FAKE_A);
	world->now_us += us;
}

int fake_move(int from, bool full, struct error *e)
{
	struct mig_params p = { .ip = 1, .port = 4789, .verify_full = full, .freeze_budget_ms = 5, .max_rounds = 6 };
	int rc;

	snprintf(p.host, sizeof(p.host), "%s", host_names[!from]);
	fake_switch(from);
	rc = mig_start(fake_guest(from), &p, e);
	fake_switch(FAKE_A);
	return rc;
}

bool fake_busy(void)
{
	for (int h = 0; h < FAKE_HOSTS; h++)
		for (unsigned i = 0; i < MIG_MAX_SESSIONS; i++)
			if (world->mig[h].sessions[i])
				return true;
	for (int h = 0; h < FAKE_HOSTS; h++)
		for (unsigned i = 0; i < 8; i++)
			if (pending[h][i])
				return true;
	return false;
}
