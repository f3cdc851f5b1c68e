/* SPDX-License-Identifier: MIT */
/* The host that a guest leaves. Until `gave_up` every failure ends in source_fail(), which leaves the guest running
 * here as if nothing had happened. After it, only an answer of the target ends the move (docs/PROTOCOL.md). */
#include "mig/session.h"
#include "hv/keep.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "hv/vm/blk.h"
#include "hv/vm/vm_clock.h"
#include "net/forward.h"
#include "net/net.h"

#include <stdio.h>
#include <string.h>

#define SCAN_PAGES 1024u      /* looked at for zero in one turn */
#define VERIFY_PAGES 64u      /* re-read in one turn */
#define FRAMES_PER_TURN 16u
#define FEW_PAGES 16u /* not worth a round of their own */
#define UNKNOWN_RATE_PAGES 256u /* small enough to freeze for without knowing the rate */

/* From FINISH_MIGRATE: its clock stands already. */
static void set_paused(struct vm *vm)
{
	vm->state = RS_PAUSED;
	vm_state_changed(vm);
}

static void thaw(struct mig_session *s)
{
	struct error e = { 0 };
	struct vm *vm = s->vm;

	if (!s->frozen)
		return;
	s->frozen = false;
	/* Somebody else changed its state meanwhile: that is what counts. */
	if (vm->state != RS_FINISH_MIGRATE && !(s->waited && vm->state == RS_PAUSED))
		return;
	vm->reason[0] = 0;
	if (!s->was_paused)
		vm_clock_catch_up(vm, vm->stopped_wall_us);
	if (s->was_paused)
		set_paused(vm);
	else if (vm_resume(vm, &e))
		log_err("mig", "guest %s cannot run on: %s", vm->config.name, e.text);
}

/* The guest stays here. */
static void source_fail(struct mig_session *s, const struct error *e)
{
	bool tell = s->stream && !s->stream->error.code && !stream_connecting(s->stream) && s->step > SRC_HELLO &&
		    !s->peer_ended;

	dirty_stop(s->vm);
	if (s->drain_us)
		vm_undrain(s->vm);
	s->drain_us = 0;
	thaw(s);
	log_warn("mig", "guest %s stays here: %s", s->key.guest, e->text);
	s->info->error = *e;
	if (tell && !session_send_text(s, WIRE_ABORT, e->text) && wire_flush(&s->out, s->stream) < 0)
		tell = false;
	if (s->given)
		(void)!keep_here(s->key.guest, s->vm->epoch, NULL);
	session_set(s, s->step, s->cancel ? "cancelled" : "failed", s->info->phase);
	session_end(s);
	if (!tell)
		s->step = MIG_ENDED;
}

/* A frame for the guest's card that came here after all. Lost if the connection does not take them as fast as they come. */
static bool send_lan(void *arg, u16 card, const u8 *frame, unsigned len)
{
	struct mig_session *s = arg;
	struct wire_writer *w = wire_begin(&s->out, WIRE_LAN);

	wire_put_u16(w, card);
	wire_put_bytes(w, frame, len);
	return !wire_end(&s->out);
}

/* The guest is on the target. */
static void source_done(struct mig_session *s, u64 target_downtime_us)
{
	struct vm *vm = s->vm;
	struct mig_info *i = s->info;

	i->downtime_us = now_us() - s->freeze_us;
	i->downtime_ticks = host_tsc() - s->freeze_tsc;
	i->epoch = s->key.epoch;
	i->error.code = 0;
	session_set(s, s->step, "device", "resume");
	dirty_stop(s->vm);
	log_info("mig", "guest %s moved to host %s: %llu us, %u rounds, %llu bytes, down %llu us (%llu us by the target)",
		 s->key.guest, s->peer, (unsigned long long)i->total_us, i->round, (unsigned long long)i->transferred,
		 (unsigned long long)i->downtime_us, (unsigned long long)target_downtime_us);
	session_set(s, s->step, "completed", "done");
	session_end(s);
	s->forward = lan_forward_begin(vm, send_lan, s);
	vm_moved_away(vm, s->peer, s->key.epoch);
	(void)!keep_left(s->key.guest, NULL);
	/* As long as the connection lives on for those. */
	if (!s->forward)
		s->step = MIG_ENDED;
}

/* The target gave the right to run back. */
static void source_returned(struct mig_session *s, const struct error *e)
{
	s->gave_up = false;
	s->vm->owner = true;
	snprintf(s->vm->owner_name, sizeof(s->vm->owner_name), "%s", mig_host->name);
	source_fail(s, e);
}

/* The operator says that the target does not have it. If he is wrong, the target's is the older one from now on. */
static void source_gave_up(struct mig_session *s, const struct error *e)
{
	s->vm->epoch = s->key.epoch;
	source_returned(s, e);
}

/* An operator has stopped the waiting copy: it will not run on whatever the target says, so its memory is free. */
static void drop_stopped(struct mig_session *s)
{
	if (!s->gave_up || !s->ram.vm || !vm_is_dead(s->vm))
		return;
	ram_free(&s->ram);
	vm_release(s->vm);
}

int mig_give_up(struct vm *vm, struct error *e)
{
	struct mig_session *s = vm->mig;
	struct error why = { 0 };

	if (!s || !s->gave_up || !vm_is_dead(vm))
		return error_set(e, E_STATE, "guest %s is no stopped copy that waits for the outcome of its move%s", vm->config.name,
				 s && s->gave_up ? ": stop it first" : "");
	error_set(&why, E_STATE, "given up by an operator before host %s said whether it has the guest", s->peer);
	source_gave_up(s, &why);
	return 0;
}

/* The link died after COMMIT: whether the target runs the guest is not known here, so it waits. */
static void source_wait(struct mig_session *s, const char *why)
{
	struct vm *vm = s->vm;

	if (s->stream)
		stream_close(s->stream);
	s->stream = NULL;
	s->waited = true;
	/* In full: the guest's reason has less room. */
	s->info->error.code = 0;
	error_set(&s->info->error, E_STATE, "%s", why);
	if (!vm_is_dead(vm)) {
		snprintf(vm->reason, sizeof(vm->reason), "waits for host %s to say whether it took the guest over: %.70s",
			 s->peer, why);
		if (vm->state != RS_PAUSED)
			set_paused(vm);
	}
	if (s->step < SRC_WAIT)
		log_warn("mig", "guest %s waits: host %s was told to take over and its answer is missing (%s)", s->key.guest,
			 s->peer, why);
	s->retry_us = now_us() + MIN(mig_timeouts.retry_max, s->retry ? 100000ull << MIN(s->retry, 10u) : 0);
	s->retry++;
	session_set(s, SRC_WAIT, "wait-commit", "commit");
}

static void source_trouble(struct mig_session *s, const struct error *e)
{
	if (s->gave_up)
		source_wait(s, e->text);
	else
		source_fail(s, e);
}

/* Definitions, and what the guest has seen of them. */
static void put_disks(struct wire_writer *w, const struct vm *vm)
{
	wire_put_u16(w, (u16)vm->config.n_disks);
	for (u32 i = 0; i < vm->config.n_disks; i++) {
		const struct disk_config *d = &vm->config.disks[i];
		struct blk_info info = vm->disks[i] ? vm->disks[i]->info : (struct blk_info){ 0 };

		wire_put_u32(w, d->kind);
		wire_put_u32(w, (d->tls ? 1u : 0u) | (d->read_only ? 2u : 0u));
		wire_put_u64(w, d->bytes);
		wire_put_u32(w, d->address);
		wire_put_u32(w, d->timeout_ms);
		wire_put_u16(w, d->port);
		wire_put_str(w, d->image);
		wire_put_str(w, d->export_name);
		wire_put_str(w, d->serial);
		wire_put_u64(w, info.bytes);
		wire_put_u64(w, info.hash);
		wire_put_u32(w, info.block);
		wire_put_u32(w, info.features);
	}
}

static int send_config(struct mig_session *s, struct error *e)
{
	struct vm *vm = s->vm;
	const struct guest_config *c = &vm->config;
	struct wire_writer *w = wire_begin(&s->out, WIRE_CONFIG);
	u8 cpu[2048];
	int n = vm_cpu_compat_save(vm, cpu, sizeof(cpu));

	if (n < 0)
		return error_set(e, E_RANGE, "the CPU description of guest %s is too large", c->name);
	wire_put_u64(w, s->key.id);
	wire_put_u64(w, s->key.epoch);
	wire_put_u64(w, c->memory_bytes);
	wire_put_u64(w, vm_tsc_hz(vm));
	wire_put_u32(w, c->vcpus);
	wire_put_u32(w, c->weight);
	wire_put_u32(w, (c->debug_exit ? 1u : 0u) | (c->console_serial ? 2u : 0u));
	wire_put_str(w, c->name);
	wire_put_str(w, c->os_type);
	wire_put_str(w, c->cpu);
	wire_put_str(w, c->kernel);
	wire_put_str(w, c->initrd);
	wire_put_str(w, c->cmdline);
	wire_put_u16(w, (u16)c->n_modules);
	for (u32 i = 0; i < c->n_modules; i++)
		wire_put_str(w, c->modules[i]);
	wire_put_u16(w, (u16)c->n_nics);
	for (u32 i = 0; i < c->n_nics; i++) {
		wire_put_str(w, c->nics[i].network);
		wire_put_bytes(w, c->nics[i].mac, sizeof(c->nics[i].mac));
		wire_put_u16(w, c->nics[i].vlan);
	}
	wire_put_u16(w, (u16)n);
	wire_put_bytes(w, cpu, (size_t)n);
	put_disks(w, vm);
	s->disks_unknown = vm->disks_wait;
	return wire_end(&s->out) ? error_set(e, E_RANGE, "the definition of guest %s is too large", c->name) : 0;
}

/* Sends the next part of what is due of the guest's console; what the ring does not hold any more is left out. */
static int send_console(struct mig_session *s)
{
	struct vm *vm = s->vm;
	u64 total = vm->console_total, from = MAX(s->console_sent, total - MIN(total, (u64)CONSOLE_RING_BYTES));
	u64 to = MIN(s->console_due, from + WIRE_MAX_PAYLOAD / 2);
	struct wire_writer *w;

	s->console_sent = MAX(from, to);
	if (from >= to)
		return 0;
	w = wire_begin(&s->out, WIRE_CONSOLE);
	wire_put_u64(w, from);
	while (from < to) {
		u64 at = from % CONSOLE_RING_BYTES, n = MIN(to - from, CONSOLE_RING_BYTES - at);

		wire_put_bytes(w, vm->console + at, n);
		from += n;
	}
	return wire_end(&s->out);
}

static int send_zero_runs(struct mig_session *s)
{
	struct wire_writer *w;

	if (!s->n_zero_runs)
		return 0;
	w = wire_begin(&s->out, WIRE_ZERO);
	wire_put_u32(w, s->n_zero_runs);
	wire_put_u32(w, 0);
	for (u32 i = 0; i < s->n_zero_runs; i++) {
		wire_put_u64(w, s->zero_runs[i].gfn);
		wire_put_u32(w, s->zero_runs[i].count);
		wire_put_u32(w, 0);
	}
	s->n_zero_runs = s->n_zero_pages = 0;
	return wire_end(&s->out);
}

static void count_page(struct mig_session *s, u64 gfn, u64 hash)
{
	if (ram_note(&s->ram, gfn, hash))
		s->info->resent_pages++;
}

static void add_zero(struct mig_session *s, u64 gfn)
{
	u32 n = s->n_zero_runs;

	count_page(s, gfn, ram_hash_of_zero());
	s->info->zero_pages++;
	session_round(s)->zero++;
	s->n_zero_pages++;
	if (n && s->zero_runs[n - 1].gfn + s->zero_runs[n - 1].count == gfn) {
		s->zero_runs[n - 1].count++;
		return;
	}
	s->zero_runs[n].gfn = gfn;
	s->zero_runs[n].count = 1;
	s->n_zero_runs++;
}

static bool zero_runs_full(const struct mig_session *s)
{
	return s->n_zero_runs == WIRE_MAX_ZERO_RUNS || s->n_zero_pages == WIRE_MAX_ZERO_PAGES;
}

static int send_pages(struct mig_session *s, const u64 *gfns, u32 n)
{
	struct wire_writer *w = wire_begin(&s->out, WIRE_PAGES);
	u32 runs = 0, len;

	for (u32 i = 0; i < n; i++)
		runs += !i || gfns[i] != gfns[i - 1] + 1;
	wire_put_u32(w, runs);
	wire_put_u32(w, n);
	for (u32 i = 0; i < n; i += len) {
		for (len = 1; i + len < n && gfns[i + len] == gfns[i] + len; len++)
			;
		wire_put_u64(w, gfns[i]);
		wire_put_u32(w, len);
		wire_put_u32(w, 0);
	}
	for (u32 i = 0; i < n; i++) {
		const u8 *sent = w->buf + w->len;

		wire_put_bytes(w, guest_page(s->vm, gfns[i]), PAGE_SIZE);
		/* Of the copy: the hash is of what goes out, whatever happens to the page meanwhile. */
		if (!w->bad)
			count_page(s, gfns[i], ram_hash(sent));
	}
	s->info->normal_pages += n;
	session_round(s)->pages += n;
	session_round(s)->bytes += w->len;
	return wire_end(&s->out);
}

static int send_round_end(struct mig_session *s)
{
	struct wire_writer *w = wire_begin(&s->out, WIRE_ROUND_END);

	wire_put_u32(w, s->info->round);
	wire_put_u8(w, s->frozen);
	wire_put_u8(w, s->params.verify_full);
	wire_put_u16(w, 0);
	return wire_end(&s->out);
}

/* Fills the empty output buffer with pages. 1: the round's set is empty now. */
static int fill(struct mig_session *s)
{
	u64 gfns[WIRE_MAX_PAGES], gfn = 0;
	u32 n = 0;

	for (u32 i = 0; i < SCAN_PAGES && n < WIRE_MAX_PAGES && !zero_runs_full(s); i++) {
		gfn = ram_take(&s->ram);
		if (gfn == ~0ull)
			break;
		s->work += PAGE_SIZE / 8;
		if (ram_is_zero(guest_page(s->vm, gfn)))
			add_zero(s, gfn);
		else
			gfns[n++] = gfn;
	}
	if (gfn == ~0ull || zero_runs_full(s))
		if (send_zero_runs(s))
			return -E_RANGE;
	if (n && send_pages(s, gfns, n))
		return -E_RANGE;
	return gfn == ~0ull;
}

/* --- rounds --- */

static void round_begin(struct mig_session *s)
{
	s->info->round++;
	session_next_round(s);
	s->round_us = now_us();
}

static void round_finish(struct mig_session *s)
{
	struct mig_round *r = session_round(s);

	r->us += now_us() - s->round_us;
	/* Few pages say more about latency than about the rate. (The last slot has several rounds: their average.) */
	if (r->us && (r->pages >= 64 || !s->rate))
		s->rate = r->bytes * 1000000 / r->us;
}

static int precopy_begin(struct mig_session *s, struct error *e)
{
	struct vm *vm = s->vm;

	s->info->setup_us = now_us() - s->started_us;
	if (dirty_start(vm))
		return error_set(e, E_NOMEM, "no memory for tracking the writes of guest %s: free some memory on this host",
				 vm->config.name);
	if (ram_init(&s->ram, vm, true))
		return error_set(e, E_NOMEM, "no memory for the page table of the move of guest %s: free some memory on this host",
				 vm->config.name);
	s->state = frame_alloc_n(STATE_PAGES);
	if (!s->state)
		return error_set(e, E_NOMEM, "no memory for the state of guest %s: free some memory on this host",
				 vm->config.name);
	ram_mark_all(&s->ram);
	s->last_todo = s->ram.todo_pages;
	s->info->total_bytes = guest_ram_pages(vm) * PAGE_SIZE;
	session_set(s, SRC_PRECOPY, "active", "precopy");
	round_begin(s);
	return 0;
}

static void freeze(struct mig_session *s)
{
	s->was_paused = s->vm->state == RS_PAUSED;
	s->freeze_us = now_us();
	s->freeze_tsc = host_tsc();
	vm_pause(s->vm, RS_FINISH_MIGRATE);
	s->frozen = true;
	ram_harvest(&s->ram);
	session_set(s, SRC_FREEZE, "device", "freeze");
	round_begin(s);
}

static u64 freeze_budget_us(const struct mig_session *s)
{
	return s->params.freeze_budget_ms * 1000ull;
}

static bool rounds_over(const struct mig_session *s)
{
	return s->info->round >= s->params.max_rounds;
}

/* Takes up what the guest has written meanwhile: can all that is left be sent while it is frozen? */
static bool fits_freeze(struct mig_session *s)
{
	u64 down;

	ram_harvest(&s->ram);
	if (s->rate)
		down = s->ram.todo_pages * PAGE_SIZE * 1000000 / s->rate;
	else
		down = s->ram.todo_pages <= UNKNOWN_RATE_PAGES ? 0 : freeze_budget_us(s) + 1;
	s->info->expected_downtime_us = down;
	return down <= freeze_budget_us(s);
}

/* The target has worked off a round: once more, or freeze? */
static void next_round(struct mig_session *s)
{
	bool fits, shrinking;

	round_finish(s);
	fits = fits_freeze(s);
	/* It fits the budget; but as long as a round halves what is left, one more makes the freeze shorter still. */
	shrinking = s->ram.todo_pages > FEW_PAGES && s->ram.todo_pages <= s->last_todo / 2;
	s->last_todo = s->ram.todo_pages;
	if ((fits && !shrinking) || rounds_over(s))
		s->freeze_due = true;
	else
		round_begin(s);
}

static int state_begin(struct mig_session *s, struct error *e)
{
	u64 pages = guest_ram_pages(s->vm);

	/* The sums of both ends would agree without it. */
	if (s->ram.noted != pages)
		return error_set(e, E_STATE, "%llu of %llu pages of guest %s were never sent: this is a fault of Godwit",
				 (unsigned long long)(pages - s->ram.noted), (unsigned long long)pages, s->key.guest);
	vm_state_sync(s->vm);
	s->state_sent = 0;
	if (state_save(s->vm, s->state, STATE_MAX_BYTES, &s->state_len, e))
		return -E_RANGE;
	session_set(s, SRC_STATE, "device", "freeze");
	return 1;
}

static int send_state(struct mig_session *s)
{
	struct wire_writer *w = wire_begin(&s->out, WIRE_STATE);
	size_t n = MIN(s->state_len - s->state_sent, (size_t)WIRE_MAX_PAYLOAD);

	wire_put_bytes(w, s->state + s->state_sent, n);
	s->state_sent += n;
	return wire_end(&s->out);
}

static int send_final(struct mig_session *s)
{
	struct vm *vm = s->vm;
	struct wire_writer *w;

	w = session_begin(s, WIRE_FINAL);
	wire_put_u64(w, s->ram.fold);
	wire_put_u64(w, ram_hash_bytes(s->state, s->state_len));
	wire_put_u64(w, guest_ram_pages(vm));
	wire_put_u64(w, vm_tsc(vm));
	wire_put_u64(w, vm->stopped_wall_us);
	wire_put_u32(w, (u32)s->state_len);
	wire_put_u8(w, s->was_paused);
	wire_put_u8(w, s->params.verify_full);
	wire_put_u16(w, 0);
	return wire_end(&s->out);
}

/* The point of no return: from here on only the target's answer decides who runs the guest. */
static int commit(struct mig_session *s, struct error *e)
{
	struct vm *vm = s->vm;
	struct wire_writer *w;

	vm->owner = false;
	snprintf(vm->owner_name, sizeof(vm->owner_name), "?");
	s->gave_up = true;
	w = session_begin(s, WIRE_COMMIT);
	wire_put_u64(w, now_us() - s->freeze_us);
	session_set(s, SRC_COMMIT, "device", "commit");
	return wire_end(&s->out) ? error_set(e, E_RANGE, "no room for COMMIT") : 0;
}

static int send_resolve(struct mig_session *s)
{
	struct wire_writer *w = session_begin(s, WIRE_RESOLVE);

	wire_put_u64(w, s->move_boot);
	wire_put_str(w, s->key.guest);
	return wire_end(&s->out);
}

/* --- what the target says --- */

static int on_prepared(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	u64 hash;

	if (!session_read_key(s, r))
		return session_malformed(s, WIRE_PREPARED, e);
	hash = wire_u64(r);
	if (!wire_done(r))
		return session_malformed(s, WIRE_PREPARED, e);
	if (hash != s->ram.fold)
		return error_set(e, E_PROTO, "the memory that host %s received has another hash (%016llx) than what was sent (%016llx)",
				 s->peer, (unsigned long long)hash, (unsigned long long)s->ram.fold);
	s->info->hash_verified = true;
	return commit(s, e);
}

static int on_round_echo(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	u32 round = wire_u32(r);

	wire_u32(r);
	if (!wire_done(r) || !s->awaiting || round != s->info->round)
		return session_malformed(s, WIRE_ROUND_END, e);
	s->awaiting = false;
	next_round(s);
	return 0;
}

static int on_hello(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	bool again = s->step == SRC_REHELLO;
	int rc = session_check_hello(s, r, e);

	if (rc)
		return rc;
	if (again) {
		if (send_resolve(s))
			return error_set(e, E_RANGE, "no room for RESOLVE");
		session_set(s, SRC_RESOLVE, "wait-commit", "commit");
		return 0;
	}
	s->move_boot = s->peer_boot;
	rc = send_config(s, e);
	if (!rc)
		session_set(s, SRC_CONFIG, "setup", "connect");
	return rc;
}

static int on_unknown(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	session_peer_text(s, r, "cannot say what became of the move", e);
	/* Stopped by the operator: then this copy will not run on, and only its name is left to give back. */
	if (!vm_is_dead(s->vm))
		return -E_STATE;
	source_gave_up(s, e);
	return 0;
}

static int source_frame(struct mig_session *s, u32 type, struct wire_reader *r, struct error *e)
{
	u64 us;

	switch (type) {
	case WIRE_KEEPALIVE:
		return 0;
	case WIRE_ERROR:
		return session_peer_text(s, r, "reports an error", e);
	case WIRE_ABORT:
		session_peer_text(s, r, "gave the move up", e);
		if (!s->gave_up || (s->step != SRC_COMMIT && s->step != SRC_RESOLVE))
			return -E_STATE;
		source_returned(s, e);
		return 0;
	case WIRE_HELLO:
		if (s->step == SRC_HELLO || s->step == SRC_REHELLO)
			return on_hello(s, r, e);
		break;
	case WIRE_REFUSED:
		if (s->step == SRC_CONFIG)
			return session_peer_text(s, r, "refuses the guest", e);
		break;
	case WIRE_READY:
		if (s->step == SRC_CONFIG)
			return session_read_key(s, r) && wire_done(r) ? precopy_begin(s, e) : session_malformed(s, type, e);
		break;
	case WIRE_ROUND_END:
		if (s->step == SRC_PRECOPY)
			return on_round_echo(s, r, e);
		break;
	case WIRE_PREPARED:
		if (s->step == SRC_FINAL)
			return on_prepared(s, r, e);
		break;
	case WIRE_COMMITTED:
		if (s->step != SRC_COMMIT && s->step != SRC_RESOLVE)
			break;
		if (!session_read_key(s, r))
			return session_malformed(s, type, e);
		us = wire_u64(r);
		if (!wire_done(r))
			return session_malformed(s, type, e);
		source_done(s, us);
		return 0;
	case WIRE_UNKNOWN:
		if (s->step == SRC_RESOLVE)
			return on_unknown(s, r, e);
		break;
	default:
		break;
	}
	return session_misplaced(s, type, e);
}

/* --- turns --- */

/* From here on this host does not start the guest by itself after a restart, whatever happens: written while the guest still
 * runs, because it takes milliseconds. What cannot be recorded may leave only if a restart would not start it. */
static int record_given(struct mig_session *s, struct error *e)
{
	struct error why = { 0 };
	int rc = keep_given(s->key.guest, s->peer, s->key.epoch, &why);

	s->given = !rc;
	if (!rc || rc == -E_UNSUPPORTED || !s->vm->config.autostart)
		return 0;
	return error_set(e, (enum err)-rc, "it would be started a second time: %s", why.text);
}

/* 1: the guest is frozen, or one more round has begun; 0: not yet. */
static int prepare_freeze(struct mig_session *s, struct error *e)
{
	/* A reset or power-off that the guest has asked for must happen before it stops for us. A guest that resets itself again
	 * and again stands still meanwhile, for minutes if it is big. */
	if (s->vm->state == RS_RUNNING && (s->vm->want_reset || s->vm->want_poweroff)) {
		session_keepalive(s);
		return 0;
	}
	/* Its disks and the like have nothing under way from here any more, then it stops. */
	if (!s->drain_us && record_given(s, e))
		return -E_IO;
	if (!s->drain_us)
		s->drain_us = now_us();
	if (!vm_drain(s->vm))
		return 0;
	s->drained = true;
	s->freeze_due = false;
	/* While they came to rest it has written on. To send that it had better wait for its disks than stand still. */
	if (now_us() - s->drain_us > freeze_budget_us(s) && !rounds_over(s) && !fits_freeze(s))
		round_begin(s);
	else
		freeze(s);
	return 1;
}

static int produce_round(struct mig_session *s, struct error *e)
{
	int rc;

	if (s->awaiting)
		return 0;
	if (s->freeze_due) {
		rc = prepare_freeze(s, e);
		if (rc <= 0)
			return rc;
	}
	if (!s->round_done) {
		rc = fill(s);
		s->round_done = rc == 1;
		s->console_due = s->vm->console_total;
	} else if (s->console_sent < s->console_due) {
		rc = send_console(s);
	} else {
		rc = send_round_end(s);
		s->round_done = false;
		s->awaiting = !s->frozen;
		if (s->frozen && !rc) {
			round_finish(s);
			ram_verify_start(&s->ram);
			if (!s->params.verify_full)
				return state_begin(s, e);
			session_set(s, SRC_VERIFY, "device", "freeze");
		}
	}
	return rc < 0 ? error_set(e, E_RANGE, "a frame did not fit the output") : 1;
}

/* The output is empty: what comes next? 1: something was done, 0: waiting for the target. */
static int produce(struct mig_session *s, struct error *e)
{
	u64 bad;
	int rc;

	switch (s->step) {
	case SRC_PRECOPY:
	case SRC_FREEZE:
		return produce_round(s, e);
	case SRC_VERIFY:
		session_keepalive(s);
		s->work += VERIFY_PAGES * PAGE_SIZE;
		rc = ram_verify_step(&s->ram, VERIFY_PAGES, &bad);
		if (rc < 0)
			return error_set(e, E_STATE, "page 0x%llx of guest %s changed after it was sent and the dirty log missed it: "
					 "this is a fault of Godwit or of this host's memory", (unsigned long long)bad, s->key.guest);
		return rc ? state_begin(s, e) : 1;
	case SRC_STATE:
		if (s->state_sent < s->state_len) {
			rc = send_state(s);
		} else {
			rc = send_final(s);
			session_set(s, SRC_FINAL, "device", "freeze");
		}
		return rc ? error_set(e, E_RANGE, "a frame did not fit the output") : 1;
	default:
		return 0;
	}
}

static int turn(struct mig_session *s, struct error *e)
{
	struct wire_reader r;
	size_t read = 0;
	bool did = false;
	int rc;

	for (unsigned i = 0; i < FRAMES_PER_TURN; i++) {
		rc = wire_recv(&s->in, s->stream, &r, &read, e);
		if (rc < 0)
			return rc;
		if (rc == 0)
			break;
		rc = source_frame(s, s->in.type, &r, e);
		if (rc < 0)
			return rc;
		if (!s->vm)
			return 1;
		did = true;
	}
	if (read)
		s->moved_us = now_us();
	for (s->work = 0; s->work < MIG_POLL_BYTES; s->work += s->out.len + PAGE_SIZE) {
		rc = session_flush(s, e);
		if (rc < 0)
			return rc;
		did |= rc > 0;
		if (!wire_out_empty(&s->out))
			break;
		rc = produce(s, e);
		if (rc < 0)
			return rc;
		if (rc == 0)
			break;
		did = true;
	}
	return did || read;
}

static int connect_turn(struct mig_session *s, struct error *e)
{
	struct stream *st = s->stream;

	if (st->error.code)
		return error_set(e, (enum err)st->error.code, "%s", st->error.text);
	if (stream_connecting(st))
		return 0;
	if (strcmp(st->peer_name, s->params.host) || strcmp(st->peer_role, "host"))
		return error_set(e, E_AUTH, "%s is '%s' with role '%s', not host %s: check the address and its certificate",
				 st->peer_addr, st->peer_name, st->peer_role, s->params.host);
	if (session_send_hello(s))
		return error_set(e, E_RANGE, "no room for HELLO");
	if (s->gave_up)
		session_set(s, SRC_REHELLO, "wait-commit", "commit");
	else
		session_set(s, SRC_HELLO, "setup", "connect");
	return 1;
}

/* Asks again over a new connection. */
static bool wait_turn(struct mig_session *s)
{
	struct error e = { 0 };

	if (now_us() < s->retry_us)
		return false;
	s->peer_ended = false;
	s->in.got = 0;
	s->out.len = s->out.sent = 0;
	s->stream = net_connect(s->params.ip, s->params.port, s->params.host, WIRE_ALPN, &e);
	if (!s->stream)
		source_wait(s, e.text);
	else
		session_set(s, SRC_RECONNECT, "wait-commit", "commit");
	return true;
}

static int check_guest(struct mig_session *s, struct error *e)
{
	struct vm *vm = s->vm;

	if (s->gave_up)
		return 0;
	if (s->cancel)
		return error_set(e, E_STATE, "cancelled by the operator");
	if (vm_is_dead(vm))
		return error_set(e, E_STATE, "guest %s ended by itself (%s%s%.100s) before it was moved", vm->config.name,
				 vm_run_state_name(vm->state), vm->reason[0] ? ": " : "", vm->reason);
	if (s->frozen && vm->state != RS_FINISH_MIGRATE)
		return error_set(e, E_STATE, "guest %s was set to %s in the middle of the freeze", vm->config.name,
				 vm_run_state_name(vm->state));
	if (!vm->owner)
		return error_set(e, E_STATE, "this host does not own guest %s any more", vm->config.name);
	/* The target was told to take whatever it finds. Now the guest has seen one. */
	if (s->disks_unknown && !vm->disks_wait)
		return error_set(e, E_STATE, "the disks of guest %s could be reached only after the move had begun: move it again",
				 vm->config.name);
	return 0;
}

static int check_time(const struct mig_session *s, struct error *e)
{
	const struct mig_timeouts *t = &mig_timeouts;
	u64 now = now_us(), limit, since = s->moved_us;

	switch (s->step) {
	case SRC_PRECOPY:
		limit = t->precopy;
		break;
	case SRC_FREEZE:
	case SRC_VERIFY:
	case SRC_STATE:
	case SRC_FINAL:
		limit = t->freeze;
		break;
	case SRC_COMMIT:
		limit = t->commit;
		since = s->step_us;
		break;
	case SRC_WAIT:
		return 0;
	default:
		limit = t->connect;
		since = s->step_us;
	}
	if (s->drain_us && !s->drained && now - s->drain_us > t->drain)
		return error_set(e, E_TIMEOUT, "the devices of guest %s do not come to rest within %llu s: %.160s", s->key.guest,
				 (unsigned long long)t->drain / 1000000, s->vm->drain_why);
	if (s->frozen && !s->gave_up && now - s->freeze_us > t->frozen)
		return error_set(e, E_TIMEOUT, "guest %s would stay frozen for more than %llu s: the link to host %s is too slow, or that "
				 "host is stuck", s->key.guest, (unsigned long long)t->frozen / 1000000, s->peer);
	if (now - since <= limit)
		return 0;
	return error_set(e, E_TIMEOUT, "host %s did not answer for %llu s (phase %s): check that it is up and reachable", s->peer,
			 (unsigned long long)limit / 1000000, s->info->phase);
}

bool source_poll(struct mig_session *s)
{
	struct error e = { 0 };
	int rc = check_guest(s, &e);

	drop_stopped(s);
	if (!rc && s->step == SRC_WAIT)
		return wait_turn(s);
	if (!rc)
		rc = s->step == SRC_CONNECT || s->step == SRC_RECONNECT ? connect_turn(s, &e) : turn(s, &e);
	if (!s->vm)
		return true;
	if (rc >= 0) {
		int late = check_time(s, &e);

		if (late)
			rc = late;
	}
	if (rc < 0) {
		source_trouble(s, &e);
		return true;
	}
	return rc > 0;
}

static int check_start(const struct vm *vm, const struct mig_params *p, struct error *e)
{
	const char *name = vm->config.name;

	if (vm->mig)
		return error_set(e, E_BUSY, "guest %s is being moved already: wait, or cancel with migrate_cancel", name);
	if (!p->host[0] || !p->port)
		return error_set(e, E_INVAL, "no target given for guest %s: name host and address", name);
	if (!strcmp(p->host, mig_host->name))
		return error_set(e, E_INVAL, "guest %s is on host %s already: choose another host", name, p->host);
	if (vm->state == RS_POSTMIGRATE)
		return error_set(e, E_STATE, "guest %s has moved to host %s: ask that host", name, vm->owner_name);
	if (vm->state != RS_RUNNING && vm->state != RS_PAUSED)
		return error_set(e, E_STATE, "guest %s is %s: only a running or paused guest can be moved", name,
				 vm_run_state_name(vm->state));
	if (!vm->owner)
		return error_set(e, E_STATE, "this host does not own guest %s", name);
	return 0;
}

int mig_start(struct vm *vm, const struct mig_params *p, struct error *e)
{
	struct mig_session *s;
	struct stream *st;
	int rc = check_start(vm, p, e);

	if (rc)
		return rc;
	st = net_connect(p->ip, p->port, p->host, WIRE_ALPN, e);
	if (!st)
		return error_set(e, E_IO, "no connection to host %s", p->host);
	s = session_new(true, st);
	if (s)
		snprintf(s->peer, sizeof(s->peer), "%s", p->host);
	if (!s || !session_info(s, vm->config.name)) {
		if (s)
			session_end(s); /* closes the stream in its own turn */
		else
			stream_close(st);
		return error_set(e, E_BUSY, "too many moves at a time, or no memory: try again later");
	}
	s->vm = vm;
	vm->mig = s;
	s->params = *p;
	if (!s->params.max_rounds)
		s->params.max_rounds = 30;
	if (!s->params.freeze_budget_ms)
		s->params.freeze_budget_ms = 300;
	s->info->verify_full = p->verify_full;
	s->info->epoch = vm->epoch;
	snprintf(s->key.source, sizeof(s->key.source), "%s", mig_host->name);
	snprintf(s->key.guest, sizeof(s->key.guest), "%s", vm->config.name);
	s->key.epoch = vm->epoch + 1;
	s->key.id = ram_mix(mig_host->boot_id + ++mig_host->move_count, host_tsc());
	session_set(s, SRC_CONNECT, "setup", "check");
	session_set(s, SRC_CONNECT, "setup", "connect");
	log_info("mig", "guest %s: moving to host %s", vm->config.name, p->host);
	return 0;
}
