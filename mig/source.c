/* SPDX-License-Identifier: MIT */
/* The host that a guest leaves. Until `gave_up` every failure ends in source_fail(), which leaves the guest running
 * here as if nothing had happened. After it, only an answer of the target ends the move (docs/PROTOCOL.md). */
#include "mig/session.h"
#include "hv/keep.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/vm/vm_clock.h"
#include "net/forward.h"
#include "net/net.h"

#include <stdio.h>
#include <string.h>

#define VERIFY_PAGES 64u      /* re-read in one turn */
#define FRAMES_PER_TURN 16u

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
	struct wire_writer *w = session_begin(s, WIRE_FINAL);

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
	bool ours = session_read_key(s, r);
	u64 hash = wire_u64(r);

	if (!ours || !wire_done(r))
		return session_malformed(s, WIRE_PREPARED, e);
	if (hash != s->ram.fold)
		return error_set(e, E_PROTO, "the memory that host %s received has another hash (%016llx) than what was sent (%016llx)",
				 s->peer, (unsigned long long)hash, (unsigned long long)s->ram.fold);
	s->info->hash_verified = true;
	return commit(s, e);
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
	rc = definition_send(s, e);
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
	bool ours;
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
			return precopy_echo(s, r, e);
		break;
	case WIRE_PREPARED:
		if (s->step == SRC_FINAL)
			return on_prepared(s, r, e);
		break;
	case WIRE_COMMITTED:
		if (s->step != SRC_COMMIT && s->step != SRC_RESOLVE)
			break;
		ours = session_read_key(s, r);
		us = wire_u64(r);
		if (!ours || !wire_done(r))
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

/* The output is empty: what comes next? 1: something was done, 0: waiting for the target. */
static int produce(struct mig_session *s, struct error *e)
{
	u64 bad;
	int rc;

	switch (s->step) {
	case SRC_PRECOPY:
	case SRC_FREEZE:
		return precopy_produce(s, e);
	case SRC_VERIFY:
		if (!s->params.verify_full)
			return state_begin(s, e);
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
	if (rc >= 0 && check_time(s, &e))
		rc = -E_TIMEOUT;
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
