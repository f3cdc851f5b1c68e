/* SPDX-License-Identifier: MIT */
/* The source's rounds: all pages first, then those that the guest has written meanwhile, again and again until so few are
 * left that they can be sent while it is frozen. */
#include "hv/keep.h"
#include "hv/lib/clock.h"
#include "hv/mm/frame.h"
#include "mig/session.h"

#define SCAN_PAGES 1024u        /* looked at for zero in one turn */
#define FEW_PAGES 16u           /* not worth a round of their own */
#define UNKNOWN_RATE_PAGES 256u /* small enough to freeze for without knowing the rate */

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

int precopy_begin(struct mig_session *s, struct error *e)
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

/* As many as may be; or its disks have waited long enough for it. */
static bool rounds_over(const struct mig_session *s)
{
	return s->info->round >= s->params.max_rounds || (s->drained && now_us() - s->drain_us > mig_timeouts.drain);
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

int precopy_echo(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	u32 round = wire_u32(r);

	wire_u32(r);
	if (!wire_done(r) || !s->awaiting || round != s->info->round)
		return session_malformed(s, WIRE_ROUND_END, e);
	s->awaiting = false;
	next_round(s);
	return 0;
}

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
	if (!s->drain_us) {
		if (record_given(s, e))
			return -E_IO;
		s->drain_us = now_us();
	}
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

int precopy_produce(struct mig_session *s, struct error *e)
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
			session_set(s, SRC_VERIFY, "device", "freeze");
		}
	}
	return rc < 0 ? error_set(e, E_RANGE, "a frame did not fit the output") : 1;
}
