/* SPDX-License-Identifier: MIT */
/* The host that a guest comes to. It decides the outcome: it commits when COMMIT arrives while it is prepared, and
 * until then it may give up at any time, because the source still has everything (docs/PROTOCOL.md). */
#include "mig/session.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "hv/vdev/virtio_net.h"
#include "hv/vm/vm_clock.h"

#include <stdio.h>
#include <string.h>

#define VERIFY_PAGES 64u /* re-read in one turn */

/* The inactive entry that the newcomer had replaced. */
static void restore_stale(struct mig_session *s)
{
	struct vm *vm = s->stale;

	if (!vm)
		return;
	s->stale = NULL;
	BUG_ON(!vm_enlist(vm)); /* it was in the newcomer's place, which is free again */
	vm_state_changed(vm);
}

void target_abort(struct mig_session *s, const char *text)
{
	struct vm *vm = s->vm;
	enum wire_type type = s->step == TGT_RECEIVE || s->step == TGT_PREPARED ? WIRE_ABORT :
			      s->step == TGT_CONFIG || s->step == TGT_DISKS ? WIRE_REFUSED : WIRE_ERROR;
	bool tell;

	/* First on record, then said: the source may run the guest as soon as it reads this. */
	if (s->step == TGT_PREPARED)
		ledger_set(&mig_host->ledger, &s->key, LEDGER_ABORTED);
	log_warn("mig", "%s%s from host %s is not taken: %s", s->key.guest[0] ? "guest " : "a move", s->key.guest, s->peer, text);
	if (s->info) {
		error_set(&s->info->error, E_STATE, "%s", text);
		session_set(s, s->step, s->cancel ? "cancelled" : "failed", s->info->phase);
	}
	tell = !s->peer_ended && s->stream && !s->stream->error.code && !session_send_text(s, type, text) &&
	       wire_flush(&s->out, s->stream) >= 0;
	session_end(s);
	if (!tell)
		s->step = MIG_ENDED;
	if (vm)
		vm_destroy(vm);
	restore_stale(s);
}

/* --- CONFIG --- */

/* Makes room for the name: an inactive entry goes, a live one stays and is the reason to refuse. */
static int take_name(struct mig_session *s, const char *name, struct error *e)
{
	struct mig_session *old = session_find_incoming(name, s->peer);
	struct vm *vm;
	bool dead;

	/* The source, which owns the guest, begins anew: its earlier attempt is dead even if its link is not yet. */
	if (old)
		target_abort(old, "the source began the move anew");
	vm = vm_find(name);
	if (!vm)
		return 0;
	if (vm->mig)
		return error_set(e, E_BUSY, "a guest %s is being moved on this host already: wait for it, or cancel it", name);
	/* One that has ended here has no claim on its name: it was started anew elsewhere. */
	dead = vm_is_dead(vm);
	if (!dead && (vm->owner || (vm->state != RS_POSTMIGRATE && vm->state != RS_PRELAUNCH)))
		return error_set(e, E_EXIST, "this host has a guest %s of its own (%s): stop it there first, or rename one", name,
				 vm_run_state_name(vm->state));
	/* The host that has it as far as we know may have been restarted, and counts from 1 again. */
	if (!dead && strcmp(vm->owner_name, s->peer) && s->key.epoch <= vm->epoch)
		return error_set(e, E_STATE, "this host knows guest %s at epoch %llu, the copy offered would become %llu: it is out "
				 "of date, do not run it", name, (unsigned long long)vm->epoch, (unsigned long long)s->key.epoch);
	vm_release(vm);
	vm_delist(vm);
	s->stale = vm;
	return 0;
}

static int make_guest(struct mig_session *s, const struct definition *d, struct error *e)
{
	struct vm *vm = vm_create(&d->config, e);

	if (!vm)
		return error_set(e, E_NOMEM, "guest %s could not be made", d->config.name);
	s->vm = vm;
	vm->mig = s;
	vm->owner = false;
	vm->epoch = s->key.epoch - 1;
	snprintf(vm->owner_name, sizeof(vm->owner_name), "%s", s->peer);
	vm->state = RS_INMIGRATE;
	if (vm->ram_bytes != d->config.memory_bytes)
		return error_set(e, E_NOMEM, "guest %s got another amount of memory than it wants", d->config.name);
	if (ram_init(&s->ram, vm, false))
		goto nomem;
	s->state = frame_alloc_n(STATE_PAGES);
	if (!s->state)
		goto nomem;
	vm_state_changed(vm);
	return 0;
nomem:
	return error_set(e, E_NOMEM, "no memory left on this host for the move of guest %s: stop or move a guest there",
			 d->config.name);
}

/* READY is said when all disks are there, and the same that the guest knows. Their connections may break while pages come,
 * too, and no vCPU is there that would have them made anew. */
static int disks_turn(struct mig_session *s, struct error *e)
{
	struct error why = { 0 };
	int rc = vm_disks_check(s->vm, s->disks, &why);

	s->disks_us = now_us();
	if (rc < 0)
		return error_set(e, (enum err)why.code, "%s", why.text);
	if (s->step == TGT_RECEIVE)
		return 0;
	if (rc == 0) {
		session_keepalive(s);
		if (now_us() - s->step_us <= mig_timeouts.disks)
			return 0;
		return error_set(e, E_TIMEOUT, "this host cannot reach a disk of guest %s: %s", s->key.guest, why.text);
	}
	s->vm->reason[0] = 0; /* it waited for them */
	session_set(s, TGT_RECEIVE, "active", "precopy");
	session_begin(s, WIRE_READY);
	return wire_end(&s->out);
}

static int on_config(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	struct definition d = { 0 };
	int rc;

	snprintf(s->key.source, sizeof(s->key.source), "%s", s->peer);
	rc = definition_read(s, r, &d, e);
	if (rc)
		return rc;
	snprintf(s->key.guest, sizeof(s->key.guest), "%s", d.config.name);
	if (ledger_get(&mig_host->ledger, &s->key) != LEDGER_NONE)
		return error_set(e, E_PROTO, "this move of guest %s was decided before: begin a new one", s->key.guest);
	rc = vm_cpu_compat_check(d.cpu, d.cpu_len, e);
	if (rc)
		return error_set(e, E_UNSUPPORTED, "this host's CPU cannot run guest %s", s->key.guest);
	rc = virtio_net_check(&d.config, e);
	if (rc)
		return rc;
	rc = take_name(s, d.config.name, e);
	if (rc)
		return rc;
	d.config.autostart = s->stale && s->stale->config.autostart; /* the host's own affair */
	if (!session_info(s, d.config.name))
		return error_set(e, E_BUSY, "too many moves at a time: try again later");
	session_set(s, s->step, "setup", "connect");
	rc = make_guest(s, &d, e);
	if (rc)
		return rc;
	s->info->epoch = s->vm->epoch;
	s->info->total_bytes = d.config.memory_bytes;
	s->info->setup_us = now_us() - s->started_us;
	log_info("mig", "guest %s: coming from host %s (%llu MiB, TSC %llu kHz, epoch %llu)", s->key.guest, s->peer,
		 (unsigned long long)d.config.memory_bytes >> 20, (unsigned long long)d.tsc_hz / 1000,
		 (unsigned long long)s->key.epoch);
	session_next_round(s);
	session_set(s, TGT_DISKS, "setup", "connect");
	return disks_turn(s, e);
}

/* --- pages --- */

static int put_page(struct mig_session *s, u64 gfn, const void *bytes, struct error *e)
{
	if (!guest_page(s->vm, gfn) || guest_write(s->vm, gpa(gfn << PAGE_SHIFT), bytes, PAGE_SIZE))
		return error_set(e, E_PROTO, "host %s sent page 0x%llx, which is not memory of guest %s", s->peer,
				 (unsigned long long)gfn, s->key.guest);
	/* Of the memory, not of the frame: this is also the proof that it was written. */
	if (ram_note(&s->ram, gfn, ram_hash(guest_page(s->vm, gfn))))
		s->info->resent_pages++;
	return 0;
}

static int on_pages(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	u32 runs = wire_u32(r), pages = wire_u32(r), done = 0;
	struct wire_reader list, data;
	struct mig_round *round = session_round(s);

	if (r->bad || pages == 0 || pages > WIRE_MAX_PAGES || runs == 0 || runs > pages ||
	    (size_t)(r->end - r->p) != runs * 16ul + pages * PAGE_SIZE)
		return session_malformed(s, WIRE_PAGES, e);
	list = wire_reader(wire_bytes(r, runs * 16ul), runs * 16ul);
	data = wire_reader(r->p, pages * PAGE_SIZE);
	for (u32 i = 0; i < runs; i++) {
		u64 gfn = wire_u64(&list);
		u32 count = wire_u32(&list), zero = wire_u32(&list);

		if (zero || count == 0 || count > pages - done)
			return session_malformed(s, WIRE_PAGES, e);
		done += count;
		for (; count; count--, gfn++) {
			int rc = put_page(s, gfn, wire_bytes(&data, PAGE_SIZE), e);

			if (rc)
				return rc;
		}
	}
	if (done != pages)
		return session_malformed(s, WIRE_PAGES, e);
	s->info->normal_pages += pages;
	round->pages += pages;
	round->bytes += s->in.length;
	return 0;
}

static int put_zero(struct mig_session *s, u64 gfn, struct error *e)
{
	static const u8 zero[PAGE_SIZE];

	if (!guest_page(s->vm, gfn))
		return error_set(e, E_PROTO, "host %s sent page 0x%llx, which is not memory of guest %s", s->peer,
				 (unsigned long long)gfn, s->key.guest);
	/* Fresh guest memory is zero: only what was written before must be cleared. */
	s->work += PAGE_SIZE / 64;
	if (ram_noted(&s->ram, gfn)) {
		if (guest_write(s->vm, gpa(gfn << PAGE_SHIFT), zero, PAGE_SIZE))
			return -E_RANGE;
		s->work += PAGE_SIZE;
	}
	if (ram_note(&s->ram, gfn, ram_hash_of_zero()))
		s->info->resent_pages++;
	s->info->zero_pages++;
	session_round(s)->zero++;
	return 0;
}

static int on_zero(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	u32 runs = wire_u32(r), zero = wire_u32(r), left = WIRE_MAX_ZERO_PAGES;

	if (r->bad || zero || runs == 0 || runs > WIRE_MAX_ZERO_RUNS || (size_t)(r->end - r->p) != runs * 16ul)
		return session_malformed(s, WIRE_ZERO, e);
	for (u32 i = 0; i < runs; i++) {
		u64 gfn = wire_u64(r);
		u32 count = wire_u32(r);

		if (wire_u32(r) || count == 0 || count > left)
			return session_malformed(s, WIRE_ZERO, e);
		left -= count;
		for (; count; count--, gfn++) {
			int rc = put_zero(s, gfn, e);

			if (rc)
				return rc;
		}
	}
	return 0;
}

static int on_console(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	struct vm *vm = s->vm;
	u64 from = wire_u64(r);
	size_t len = (size_t)(r->end - r->p), done = 0;

	if (r->bad || len > CONSOLE_RING_BYTES || from < vm->console_total || from + len < from)
		return session_malformed(s, WIRE_CONSOLE, e);
	while (vm->console && done < len) {
		u64 at = (from + done) % CONSOLE_RING_BYTES;
		size_t n = MIN(len - done, (size_t)(CONSOLE_RING_BYTES - at));

		memcpy(vm->console + at, r->p + done, n);
		done += n;
	}
	/* The line that is not finished yet belongs to the log of the host where it ends: here. */
	if (from != vm->console_total)
		vm->console_line = from;
	while (done && r->p[done - 1] != '\n')
		done--;
	if (done)
		vm->console_line = from + done;
	vm->console_total = from + len;
	return 0;
}

static int on_round_end(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	u32 round = wire_u32(r);
	u8 last = wire_u8(r), full = wire_u8(r);
	struct wire_writer *w;

	wire_u16(r);
	if (!wire_done(r) || last > 1 || full > 1 || s->last_round)
		return session_malformed(s, WIRE_ROUND_END, e);
	session_round(s)->us += now_us() - s->step_us;
	s->info->round = round;
	s->info->verify_full = full;
	if (last) {
		s->last_round = true;
		s->full_pending = full;
		session_set(s, TGT_RECEIVE, "device", "freeze");
		return 0;
	}
	session_next_round(s);
	session_set(s, TGT_RECEIVE, "active", "precopy");
	/* The echo tells the source that everything up to here is in the guest's memory. */
	w = wire_begin(&s->out, WIRE_ROUND_END);
	wire_put_u32(w, round);
	wire_put_u32(w, 0);
	return wire_end(&s->out);
}

static int on_state(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	size_t len = (size_t)(r->end - r->p);

	if (!s->last_round || len == 0 || len > STATE_MAX_BYTES - s->state_len)
		return session_malformed(s, WIRE_STATE, e);
	memcpy(s->state + s->state_len, r->p, len);
	s->state_len += len;
	return 0;
}

static int check_hash(struct mig_session *s, u64 fold, u64 pages, struct error *e)
{
	if (pages != guest_ram_pages(s->vm))
		return error_set(e, E_PROTO, "guest %s has %llu pages there and %llu here", s->key.guest, (unsigned long long)pages,
				 (unsigned long long)guest_ram_pages(s->vm));
	/* What never came is in neither sum. */
	if (s->ram.noted != pages)
		return error_set(e, E_PROTO, "host %s never sent %llu of %llu pages of guest %s", s->peer,
				 (unsigned long long)(pages - s->ram.noted), (unsigned long long)pages, s->key.guest);
	if (fold != s->ram.fold)
		return error_set(e, E_PROTO, "the memory of guest %s arrived with hash %016llx, the source has %016llx: the copy is "
				 "not used", s->key.guest, (unsigned long long)s->ram.fold, (unsigned long long)fold);
	return 0;
}

static int on_final(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	u64 fold, state_hash, pages, tsc;
	u32 state_len;
	u8 paused, full;
	struct wire_writer *w;
	int rc;

	if (!s->last_round || !session_read_key(s, r))
		return session_malformed(s, WIRE_FINAL, e);
	fold = wire_u64(r);
	state_hash = wire_u64(r);
	pages = wire_u64(r);
	tsc = wire_u64(r);
	s->stopped_wall_us = wire_u64(r);
	state_len = wire_u32(r);
	paused = wire_u8(r);
	full = wire_u8(r);
	wire_u16(r);
	if (!wire_done(r) || paused > 1 || full != s->info->verify_full || state_len != s->state_len)
		return session_malformed(s, WIRE_FINAL, e);
	rc = check_hash(s, fold, pages, e);
	if (rc)
		return rc;
	/* Its last moment: after PREPARED this host has to take the guest. */
	rc = vm_disks_check(s->vm, s->disks, e);
	if (rc <= 0)
		return rc < 0 ? rc : -E_IO;
	s->info->hash_verified = true;
	if (state_hash != ram_hash_bytes(s->state, s->state_len))
		return error_set(e, E_PROTO, "the device state of guest %s did not arrive as it was sent", s->key.guest);
	rc = state_load(s->vm, s->state, s->state_len, e);
	if (rc)
		return rc;
	vm_state_loaded(s->vm);
	if (vm_is_dead(s->vm))
		return error_set(e, E_INVAL, "guest %s did not survive loading its state: %.120s", s->key.guest, s->vm->reason);
	s->was_paused = paused;
	/* Up-time goes on counting from the guest's own clock. */
	if (vm_tsc_hz(s->vm) >= 1000000)
		s->vm->started_us = now_us() - muldiv64(tsc, 1000000, vm_tsc_hz(s->vm));
	ledger_set(&mig_host->ledger, &s->key, LEDGER_PREPARED);
	session_set(s, TGT_PREPARED, "device", "commit");
	w = session_begin(s, WIRE_PREPARED);
	wire_put_u64(w, s->ram.fold);
	return wire_end(&s->out);
}

/* --- the decision --- */

static int send_committed(struct mig_session *s, u64 down_us)
{
	struct wire_writer *w = session_begin(s, WIRE_COMMITTED);

	wire_put_u64(w, down_us);
	return wire_end(&s->out);
}

static int on_commit(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	struct vm *vm = s->vm;
	bool ours = session_read_key(s, r);
	u64 t0 = now_us(), tsc0 = host_tsc(), frozen_us = wire_u64(r);
	int rc;

	if (!ours || !wire_done(r) || frozen_us > 1ull << 60)
		return session_malformed(s, WIRE_COMMIT, e);
	session_set(s, s->step, "device", "resume");
	ledger_set(&mig_host->ledger, &s->key, LEDGER_COMMITTED);
	vm->owner = true;
	vm->epoch = s->key.epoch;
	snprintf(vm->owner_name, sizeof(vm->owner_name), "%s", mig_host->name);
	vm->state = RS_PAUSED;
	if (s->was_paused) {
		vm_state_changed(vm);
	} else {
		vm_clock_catch_up(vm, s->stopped_wall_us);
		rc = vm_resume(vm, e);
		if (rc) {
			/* It has not run an instruction here: the right goes back. */
			vm->owner = false;
			return rc;
		}
	}
	s->info->epoch = vm->epoch;
	s->info->downtime_us = frozen_us + now_us() - t0;
	s->info->downtime_ticks = host_tsc() - tsc0;
	log_info("mig", "guest %s runs here now, from host %s: epoch %llu, down %llu us", s->key.guest, s->peer,
		 (unsigned long long)vm->epoch, (unsigned long long)s->info->downtime_us);
	if (send_committed(s, s->info->downtime_us))
		log_err("mig", "no room for COMMITTED; the source will ask");
	session_set(s, s->step, "completed", "done");
	if (s->stale)
		vm_destroy(s->stale);
	s->stale = NULL;
	s->takes_lan = s->unrecorded = true;
	session_end(s);
	return 0;
}

/* The source asks what became of a move whose answer it never got. */
static int on_resolve(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	struct ledger_key k = { 0 };
	struct mig_session *old;
	enum ledger_outcome o;
	u64 boot;
	int rc;

	k.id = wire_u64(r);
	k.epoch = wire_u64(r);
	boot = wire_u64(r);
	wire_str(r, k.guest, sizeof(k.guest));
	snprintf(k.source, sizeof(k.source), "%s", s->peer);
	if (!wire_done(r))
		return session_malformed(s, WIRE_RESOLVE, e);
	s->key = k;
	if (boot != mig_host->boot_id) {
		rc = session_send_text(s, WIRE_UNKNOWN, "this host has been restarted since: if the guest ran here, it is gone; to "
				       "give up the waiting copy too, stop it");
	} else {
		/* A commit that has not been read yet never will be. */
		old = session_find_incoming(k.guest, k.source);
		if (old && old->key.id == k.id)
			target_abort(old, "the source asked for the outcome over a new connection before COMMIT arrived");
		o = ledger_get(&mig_host->ledger, &k);
		if (o == LEDGER_COMMITTED) {
			rc = send_committed(s, 0);
			s->takes_lan = true;
		} else if (o == LEDGER_NONE && mig_host->ledger.forgot) {
			rc = session_send_text(s, WIRE_UNKNOWN, "this move is too long ago for this host to remember; to give up the "
					       "waiting copy, stop it");
		} else {
			ledger_set(&mig_host->ledger, &k, LEDGER_ABORTED);
			rc = session_send_text(s, WIRE_ABORT, "it never took the guest over and will not");
		}
	}
	log_info("mig", "host %s asked about its move of guest %s", s->peer, k.guest);
	session_end(s);
	return rc;
}

/* --- turns --- */

static int on_hello(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	int rc = session_check_hello(s, r, e);

	if (rc)
		return rc;
	s->step = TGT_CONFIG;
	s->step_us = now_us();
	return session_send_hello(s);
}

static int receive_frame(struct mig_session *s, u32 type, struct wire_reader *r, struct error *e)
{
	switch (type) {
	case WIRE_PAGES:
		return s->last_round ? session_malformed(s, type, e) : on_pages(s, r, e);
	case WIRE_ZERO:
		return s->last_round ? session_malformed(s, type, e) : on_zero(s, r, e);
	case WIRE_CONSOLE:
		return on_console(s, r, e);
	case WIRE_ROUND_END:
		return on_round_end(s, r, e);
	case WIRE_STATE:
		return on_state(s, r, e);
	case WIRE_FINAL:
		return on_final(s, r, e);
	default:
		return session_misplaced(s, type, e);
	}
}

static int target_frame(struct mig_session *s, u32 type, struct wire_reader *r, struct error *e)
{
	if (type == WIRE_KEEPALIVE)
		return 0;
	if (type == WIRE_ABORT)
		return session_peer_text(s, r, "ended the move", e);
	if (type == WIRE_ERROR)
		return session_peer_text(s, r, "reports an error", e);
	if (s->step == TGT_RECEIVE)
		return receive_frame(s, type, r, e);
	if (s->step == TGT_HELLO && type == WIRE_HELLO)
		return on_hello(s, r, e);
	if (s->step == TGT_CONFIG && type == WIRE_CONFIG)
		return on_config(s, r, e);
	if (s->step == TGT_CONFIG && type == WIRE_RESOLVE)
		return on_resolve(s, r, e);
	if (s->step == TGT_PREPARED && type == WIRE_COMMIT)
		return on_commit(s, r, e);
	return session_misplaced(s, type, e);
}

/* Re-reads memory before FINAL is looked at. 1: still at it. */
static int full_turn(struct mig_session *s, struct error *e)
{
	u64 bad;
	int rc = ram_verify_step(&s->ram, VERIFY_PAGES, &bad);

	if (rc < 0)
		return error_set(e, E_STATE, "page 0x%llx of guest %s is not what was received: this is a fault of Godwit or of this "
				 "host's memory", (unsigned long long)bad, s->key.guest);
	s->full_pending = rc == 0;
	session_keepalive(s);
	return 1;
}

static int turn(struct mig_session *s, struct error *e)
{
	struct wire_reader r;
	size_t read = 0;
	int rc;

	rc = session_flush(s, e);
	if (rc < 0)
		return rc;
	if (s->step == TGT_DISKS || (s->step == TGT_RECEIVE && now_us() - s->disks_us >= mig_timeouts.keepalive)) {
		rc = disks_turn(s, e);
		if (rc < 0)
			return rc;
	}
	if (s->full_pending)
		return full_turn(s, e);
	/* What cannot be answered is not read. */
	for (s->work = 0; read + s->work < MIG_POLL_BYTES && wire_out_empty(&s->out);) {
		rc = wire_recv(&s->in, s->stream, &r, &read, e);
		if (rc < 0)
			return rc;
		if (rc == 0)
			break;
		rc = target_frame(s, s->in.type, &r, e);
		if (rc < 0)
			return rc;
		if (s->step == MIG_LINGER || s->full_pending)
			break;
		rc = session_flush(s, e);
		if (rc < 0)
			return rc;
	}
	if (read)
		s->moved_us = now_us();
	/* COMMITTED and the like leave at once. */
	if (s->step == MIG_LINGER && wire_flush(&s->out, s->stream) < 0)
		return 1;
	return read > 0;
}

static int check_time(const struct mig_session *s, struct error *e)
{
	u64 limit, since = s->moved_us;

	if (s->step == TGT_RECEIVE) {
		limit = mig_timeouts.silence;
	} else {
		limit = s->step == TGT_PREPARED ? mig_timeouts.commit : mig_timeouts.connect;
		since = s->step_us;
	}
	if (now_us() - since <= limit)
		return 0;
	return error_set(e, E_TIMEOUT, "host %s was silent for %llu s", s->peer, (unsigned long long)limit / 1000000);
}

bool target_poll(struct mig_session *s)
{
	struct error e = { 0 };
	int rc;

	if (s->cancel)
		rc = error_set(&e, E_STATE, "cancelled by the operator of host %s", mig_host->name);
	else if (s->vm && s->vm->state != RS_INMIGRATE)
		rc = error_set(&e, E_STATE, "guest %s was set to %s while it was arriving", s->key.guest,
			       vm_run_state_name(s->vm->state));
	else
		rc = turn(s, &e);
	if (s->step == MIG_LINGER)
		return true;
	if (rc >= 0 && check_time(s, &e))
		rc = -E_TIMEOUT;
	if (rc < 0)
		target_abort(s, e.code ? e.text : "this host could not go on");
	return rc != 0;
}
