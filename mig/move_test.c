/* SPDX-License-Identifier: MIT */
/* Whole moves between two hosts in one process. Whatever breaks, and wherever: never two owners, never none for good,
 * the same contents where it goes on, no memory lost. mig_fake.c checks the first and the third in every step. */
#include "mig/mig_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define STEP_US 1000

static void short_timeouts(void)
{
	mig_timeouts = (struct mig_timeouts){ .connect = 100000, .precopy = 100000, .freeze = 100000, .commit = 100000,
					      .silence = 200000, .frozen = 1000000, .disks = 50000, .drain = 50000, .keepalive = 20000, .retry_max = 50000, .linger = 30000 };
}

/* Steps until nothing goes on any more, or too long. */
static bool settle(unsigned steps)
{
	while (steps-- && fake_busy())
		fake_step(STEP_US);
	return !fake_busy();
}

enum outcome { STAYED, MOVED, WAITS };

static bool alive(const struct vm *vm)
{
	return vm && vm->owner && (vm->state == RS_RUNNING || vm->state == RS_PAUSED);
}

/* Where the guest is; fails unless exactly one host has it. */
static enum outcome outcome(void)
{
	struct vm *a = fake_guest(FAKE_A), *b = fake_guest(FAKE_B);

	if (alive(b)) {
		assert_false(a->owner);
		assert_int_equal(a->state, RS_POSTMIGRATE);
		assert_string_equal(a->owner_name, "b");
		assert_int_equal(b->epoch, 2);
		assert_int_equal(a->epoch, 2);
		assert_null(fake_vm(a)->ram);
		return MOVED;
	}
	assert_non_null(a);
	if (alive(a)) {
		assert_true(!b || !b->owner);
		assert_int_equal(a->epoch, 1);
		assert_null(a->dirty);
		assert_null(a->mig);
		assert_false(fake_vm(a)->drained);
		/* The target threw its copy away. */
		assert_null(b);
		return STAYED;
	}
	assert_int_equal(a->state, RS_PAUSED);
	assert_false(a->owner);
	assert_non_null(a->mig);
	assert_non_null(strstr(a->reason, "waits for host b"));
	return WAITS;
}

static struct mig_info info_of(int host)
{
	struct mig_info i = { 0 };

	fake_switch(host);
	assert_int_equal(mig_query(FAKE_GUEST, &i), 0);
	fake_switch(FAKE_A);
	return i;
}

static void begin(u64 seed, bool full)
{
	struct error e = { 0 };

	if (fake_move(FAKE_A, full, &e))
		fail_msg("seed %llu: %s", (unsigned long long)seed, e.text);
}

static void finish(void)
{
	assert_int_equal(fake_teardown(), 0);
}

static void test_plain(void **state)
{
	(void)state;
	for (u64 seed = 1; seed < 20; seed++) {
		struct mig_info a, b;

		fake_setup(seed);
		world->writes_per_run = (u32)seed;
		begin(seed, seed & 1);
		assert_true(settle(3000));
		assert_int_equal(outcome(), MOVED);
		a = info_of(FAKE_A);
		b = info_of(FAKE_B);
		assert_string_equal(a.status, "completed");
		assert_string_equal(b.status, "completed");
		assert_string_equal(a.phase, "done");
		assert_true(a.hash_verified && b.hash_verified);
		assert_true(a.hash == b.hash && a.hash);
		assert_int_equal(a.normal_pages + a.zero_pages, b.normal_pages + b.zero_pages);
		assert_int_equal(a.resent_pages, b.resent_pages);
		assert_true(a.resent_pages > 0);
		assert_int_equal(a.normal_pages + a.zero_pages, FAKE_GUEST_BYTES / PAGE_SIZE + a.resent_pages);
		assert_true(a.rounds[0].pages > 200 && a.rounds[0].zero > 600);
		assert_true(a.round >= 2 && a.round <= 7);
		assert_int_equal(a.n_rounds, a.round);
		assert_int_equal(b.n_rounds, a.round);
		assert_memory_equal(&a.rounds[a.round - 1].pages, &b.rounds[a.round - 1].pages, 16);
		assert_true(a.downtime_us > 0 && a.downtime_us >= b.downtime_us);
		assert_int_equal(a.verify_full, seed & 1);
		assert_int_equal(world->resumes, 1);
		finish();
	}
}

/* Whatever is written when a host loses its power: never two owners (mig_fake.c looks in every step), also when both are
 * restarted then. The guest is in A's godwit.conf, which starts it. */
static void power_cut(u32 at, bool after, int plan, bool *reached)
{
	fake_setup(at);
	world->autostart[FAKE_A] = true;
	fake_restart(FAKE_A);
	assert_true(alive(fake_guest(FAKE_A)));
	world->cut_at = at;
	world->cut_after = after;
	for (int i = 0; i < 3; i++) {
		struct vm *a = fake_guest(FAKE_A), *b = fake_guest(FAKE_B);

		if (!alive(a) && !alive(b))
			break;
		/* Plan 1: the second is given up in the freeze. Plan 2: its COMMIT is lost, and the source has to ask. */
		if (i == 1 && plan == 2)
			world->plan = (struct fake_plan){ FAULT_CUT, world->links, 1, 160, 0 };
		assert_int_equal(fake_move(alive(a) ? FAKE_A : FAKE_B, false, NULL), 0);
		for (unsigned n = 0; n < 3000 && fake_busy(); n++) {
			fake_step(STEP_US);
			a = fake_guest(alive(fake_guest(FAKE_A)) ? FAKE_A : FAKE_B);
			if (i == 1 && plan == 1 && a && a->mig && a->state == RS_FINISH_MIGRATE) {
				fake_switch(a == fake_guest(FAKE_A) ? FAKE_A : FAKE_B);
				(void)!mig_cancel(a, NULL);
				fake_switch(FAKE_A);
			}
		}
	}
	*reached = world->nvram_writes >= at;
	world->cut_at = 0;
	for (int i = 0; i < 4; i++) {
		fake_restart(i & 1 ? FAKE_B : FAKE_A);
		for (int n = 0; n < 50; n++)
			fake_step(STEP_US);
	}
	finish();
}

static void test_power_cuts(void **state)
{
	(void)state;
	short_timeouts();
	for (int plan = 0; plan < 3; plan++)
		for (int after = 0; after < 2; after++) {
			bool reached = true;
			u32 at;

			for (at = 1; reached; at++)
				power_cut(at, after, plan, &reached);
			assert_true(at > 6);
		}
}

/* What a restart does after a move: the source's section does not start the guest, the target has it, off, until it is back. */
static void test_restarts_after_moves(void **state)
{
	char peer[NAME_MAX_LEN];
	u64 epoch;

	(void)state;
	fake_setup(1);
	world->autostart[FAKE_A] = true;
	begin(1, false);
	assert_true(settle(3000));
	assert_int_equal(outcome(), MOVED);
	assert_true(world->nvram_writes <= 3);
	fake_restart(FAKE_A);
	assert_int_equal(fake_guest(FAKE_A)->state, RS_POSTMIGRATE);
	assert_string_equal(fake_guest(FAKE_A)->owner_name, "b");
	assert_int_equal(fake_guest(FAKE_A)->epoch, 2);
	assert_int_equal(fake_move(FAKE_B, false, NULL), 0);
	assert_true(settle(3000));
	fake_restart(FAKE_B);
	assert_null(fake_guest(FAKE_B)); /* it only passed through */
	fake_restart(FAKE_A);
	assert_true(alive(fake_guest(FAKE_A)));
	assert_int_equal(fake_guest(FAKE_A)->epoch, 4);
	assert_int_equal(fake_move(FAKE_A, false, NULL), 0);
	assert_true(settle(3000));
	fake_restart(FAKE_B);
	fake_switch(FAKE_B);
	assert_int_equal(fake_guest(FAKE_B)->state, RS_SHUTDOWN);
	assert_int_equal(fake_guest(FAKE_B)->config.memory_bytes, FAKE_GUEST_BYTES);
	assert_int_equal(keep_owner(FAKE_GUEST, peer, &epoch), KEEP_HERE);
	assert_int_equal(epoch, 5);
	fake_switch(FAKE_A);
	finish();
}

/* A move that cannot be recorded takes place only if no restart starts the guest again, or if nothing is ever recorded. */
static void test_records_fail(void **state)
{
	(void)state;
	short_timeouts();
	for (int i = 0; i < 6; i++) {
		static const enum err faults[] = { E_UNSUPPORTED, E_RANGE, E_IO };
		bool starts = i >= 3, stays = starts && i != 3;

		fake_setup((u64)i + 1);
		fake_guest(FAKE_A)->config.autostart = starts;
		world->nvram_fails = faults[i % 3];
		begin((u64)i, false);
		assert_true(settle(3000));
		assert_int_equal(outcome(), stays ? STAYED : MOVED);
		if (stays)
			assert_non_null(strstr(info_of(FAKE_A).error.text, "a fault that the test wants"));
		finish();
	}
}

static void test_there_and_back(void **state)
{
	struct error e = { 0 };
	struct vm *vm;

	(void)state;
	fake_setup(3);
	for (int i = 0; i < 6; i++) {
		assert_int_equal(fake_move(i & 1, false, &e), 0);
		assert_true(settle(3000));
		vm = fake_guest(!(i & 1));
		assert_true(alive(vm));
		assert_int_equal(vm->epoch, i + 2);
		assert_int_equal(fake_guest(i & 1)->state, RS_POSTMIGRATE);
		for (int n = 0; n < 5; n++)
			fake_step(STEP_US);
	}
	finish();
}

static void test_paused_stays_paused(void **state)
{
	(void)state;
	fake_setup(4);
	vm_pause(fake_guest(FAKE_A), RS_PAUSED);
	begin(4, true);
	assert_true(settle(3000));
	assert_int_equal(outcome(), MOVED);
	assert_int_equal(fake_guest(FAKE_B)->state, RS_PAUSED);
	fake_switch(FAKE_B);
	assert_int_equal(vm_resume(fake_guest(FAKE_B), NULL), 0);
	assert_true(world->frozen_digest == fake_digest(fake_guest(FAKE_B)));
	finish();
	/* And when it fails, it is paused here as before. */
	fake_setup(4);
	vm_pause(fake_guest(FAKE_A), RS_PAUSED);
	world->bad_state = true;
	begin(4, true);
	assert_true(settle(3000));
	assert_int_equal(outcome(), STAYED);
	assert_int_equal(fake_guest(FAKE_A)->state, RS_PAUSED);
	finish();
}

static void test_refusals(void **state)
{
	struct guest_config c = { .name = FAKE_GUEST, .memory_bytes = FAKE_GUEST_BYTES, .vcpus = 1 };
	struct error e = { 0 };
	struct vm *b;

	(void)state;
	for (int kind = 0; kind < 5; kind++) {
		fake_setup(5);
		fake_switch(FAKE_B);
		b = vm_define(&c, &e);
		assert_non_null(b);
		if (kind == 0) /* a live one of its own */
			b->state = RS_RUNNING, b->owner = true;
		if (kind == 1) /* knows it at a later epoch */
			b->state = RS_POSTMIGRATE, b->epoch = 7;
		if (kind == 2) /* ended there */
			b->state = RS_SHUTDOWN, b->epoch = 7;
		if (kind == 4) { /* the same, but it was the source's then: that one has been restarted */
			b->state = RS_POSTMIGRATE, b->epoch = 7;
			strcpy(b->owner_name, "a");
		}
		if (kind == 0)
			world->writes_per_run = 0, b->state = RS_PAUSED;
		fake_switch(FAKE_A);
		if (kind == 0)
			b->owner = false; /* so that the world's own check stays quiet; the state alone must do */
		begin(5, false);
		assert_true(settle(3000));
		if (kind >= 2) { /* 3: only defined there. All are replaced */
			assert_int_equal(outcome(), MOVED);
		} else {
			assert_true(alive(fake_guest(FAKE_A)));
			assert_int_equal(fake_guest(FAKE_A)->state, RS_RUNNING);
			assert_string_equal(info_of(FAKE_A).status, "failed");
			assert_non_null(strstr(info_of(FAKE_A).error.text, "host b refuses the guest"));
			assert_ptr_equal(fake_guest(FAKE_B), b);
		}
		finish();
	}
}

/* Its cards go along, to switches of the same name; where there is none, it does not go. */
static void test_networks(void **state)
{
	struct guest_config before;

	(void)state;
	fake_setup(5);
	before = fake_guest(FAKE_A)->config;
	begin(5, false);
	assert_true(settle(3000));
	assert_int_equal(outcome(), MOVED);
	assert_int_equal(fake_guest(FAKE_B)->config.n_nics, 2);
	assert_memory_equal(fake_guest(FAKE_B)->config.nics, before.nics, sizeof(before.nics));
	finish();

	fake_setup(5);
	strcpy(fake_guest(FAKE_A)->config.nics[1].network, "elsewhere");
	begin(5, false);
	assert_true(settle(3000));
	assert_int_equal(outcome(), STAYED);
	assert_non_null(strstr(info_of(FAKE_A).error.text, "host b refuses the guest"));
	assert_non_null(strstr(info_of(FAKE_A).error.text, "no switch elsewhere here"));
	finish();

	/* What no config file could say. */
	for (int kind = 0; kind < 7; kind++) {
		struct guest_config *c;

		fake_setup(5);
		c = &fake_guest(FAKE_A)->config;
		if (kind == 0)
			c->nics[0].mac[0] = 1;
		if (kind == 1)
			memset(c->nics[0].mac, 0, 6);
		if (kind == 2)
			c->nics[0].vlan = 4095;
		if (kind == 3)
			strcpy(c->nics[0].network, "a b");
		if (kind == 4)
			c->nics[0].network[0] = 0;
		if (kind == 5)
			strcpy(c->nics[0].network, ".lan");
		begin(5, false);
		if (kind == 6)
			strcpy(c->name, "-g");
		assert_true(settle(3000));
		strcpy(c->name, FAKE_GUEST);
		assert_int_equal(outcome(), STAYED);
		assert_non_null(strstr(info_of(FAKE_A).error.text, kind == 6 ? "a guest with an unusable name" : "malformed guest definition"));
		finish();
	}
}

/* Frames that were held for it, and such as still come to the source, go after it; for a while. */
static void test_frames_follow(void **state)
{
	u8 frame[1514] = { [1513] = 9, [99] = 8 };

	(void)state;
	fake_setup(5);
	begin(5, false);
	for (unsigned i = 0; i < 3000 && !world->injected; i++)
		fake_step(STEP_US);
	assert_int_equal(outcome(), MOVED);
	assert_int_equal(world->injected, 1);
	assert_true(world->injected_card == 1 && world->injected_len == 60 && world->injected_byte == 77);
	fake_switch(FAKE_A);
	assert_true(world->give(world->give_arg, 0, frame, sizeof(frame)));
	assert_true(world->give(world->give_arg, 0, frame, 100));
	fake_step(STEP_US);
	fake_step(STEP_US);
	fake_step(STEP_US);
	assert_int_equal(world->injected, 3);
	assert_true(world->injected_card == 0 && world->injected_len == 100 && world->injected_byte == 8);
	/* More than the connection takes at a time: some are lost, nothing else. */
	fake_switch(FAKE_A);
	for (unsigned i = 0; i < 200; i++)
		if (!world->give(world->give_arg, 0, frame, sizeof(frame)))
			break;
	assert_false(world->give(world->give_arg, 0, frame, sizeof(frame)));
	assert_true(settle(3000));
	assert_true(world->injected > 10 && world->injected < 203);
	assert_null(world->give);
	finish();

	/* It has gone on from there by now. */
	fake_setup(5);
	begin(5, false);
	for (unsigned i = 0; i < 3000 && !world->injected; i++)
		fake_step(STEP_US);
	fake_guest(FAKE_B)->epoch++;
	fake_switch(FAKE_A);
	assert_true(world->give(world->give_arg, 0, frame, 100));
	fake_step(STEP_US);
	fake_step(STEP_US);
	assert_int_equal(world->injected, 1);
	assert_true(settle(3000));
	finish();
}

/* One that has ended comes back as it was. */
static void test_dead_restored(void **state)
{
	struct guest_config c = { .name = FAKE_GUEST, .memory_bytes = FAKE_GUEST_BYTES, .vcpus = 1 };
	struct error e = { 0 };
	struct vm *b;

	(void)state;
	fake_setup(6);
	fake_switch(FAKE_B);
	b = vm_define(&c, &e);
	b->state = RS_INTERNAL_ERROR;
	b->epoch = 9;
	strcpy(b->owner_name, "b");
	strcpy(b->reason, "triple fault");
	strcpy((char *)b->console, "Oops");
	b->console_total = 4;
	world->bad_state = true;
	fake_switch(FAKE_A);
	begin(6, false);
	assert_true(settle(3000));
	b = fake_guest(FAKE_B);
	assert_non_null(b);
	assert_int_equal(b->state, RS_INTERNAL_ERROR);
	assert_int_equal(b->epoch, 9);
	assert_string_equal(b->owner_name, "b");
	assert_string_equal(b->reason, "triple fault");
	/* What it said before it died is what somebody will want to read. */
	assert_int_equal(b->console_total, 4);
	assert_memory_equal(b->console, "Oops", 4);
	finish();
}

/* The entry that made room comes back when the move fails. */
static void test_stale_restored(void **state)
{
	struct guest_config c = { .name = FAKE_GUEST, .memory_bytes = FAKE_GUEST_BYTES, .vcpus = 1, .kernel = "mine" };
	struct error e = { 0 };
	struct vm *b;

	(void)state;
	fake_setup(6);
	fake_switch(FAKE_B);
	b = vm_define(&c, &e);
	b->state = RS_POSTMIGRATE;
	b->epoch = 1;
	snprintf(b->owner_name, sizeof(b->owner_name), "a");
	world->bad_state = true;
	fake_switch(FAKE_A);
	begin(6, false);
	assert_true(settle(3000));
	b = fake_guest(FAKE_B);
	assert_non_null(b);
	assert_int_equal(b->state, RS_POSTMIGRATE);
	assert_string_equal(b->config.kernel, "mine");
	assert_string_equal(b->owner_name, "a");
	assert_true(alive(fake_guest(FAKE_A)));
	assert_non_null(strstr(info_of(FAKE_A).error.text, "even is odd"));
	finish();
}

static void test_start_errors(void **state)
{
	struct mig_params p = { .host = "b", .ip = 1, .port = 4789 };
	struct error e = { 0 };
	struct vm *vm;

	(void)state;
	fake_setup(7);
	vm = fake_guest(FAKE_A);
	snprintf(p.host, sizeof(p.host), "a");
	assert_int_equal(mig_start(vm, &p, &e), -E_INVAL);
	snprintf(p.host, sizeof(p.host), "b");
	assert_int_equal(mig_cancel(vm, NULL), -E_STATE);
	world->net_down = true;
	assert_int_equal(mig_start(vm, &p, NULL), -E_IO);
	assert_null(vm->mig);
	world->net_down = false;
	assert_int_equal(mig_start(vm, &p, NULL), 0);
	assert_int_equal(mig_start(vm, &p, NULL), -E_BUSY);
	assert_int_equal(mig_cancel(vm, NULL), 0);
	assert_true(settle(3000));
	vm->state = RS_SHUTDOWN;
	assert_int_equal(mig_start(vm, &p, NULL), -E_STATE);
	assert_int_equal(mig_query("nobody", &(struct mig_info){ 0 }), -E_NOENT);
	finish();
}

/* Reaches step `at` on the source (or gives up after n steps). */
static bool run_to(enum mig_step at)
{
	for (int n = 0; n < 3000 && fake_busy(); n++) {
		struct vm *vm = fake_guest(FAKE_A);
		struct mig_session *s = vm->mig;

		if (s && s->step == at)
			return true;
		/* Small steps of one host at a time show every step. */
		fake_step(50);
	}
	return false;
}

static void test_cancel_everywhere(void **state)
{
	unsigned reached = 0;

	(void)state;
	for (unsigned n = 0; n < 400; n++) {
		struct vm *vm;
		struct error e = { 0 };
		bool cancelled;

		fake_setup(8);
		world->writes_per_run = 40;
		begin(8, true);
		for (unsigned i = 0; i < n && fake_busy(); i++)
			fake_step(100);
		vm = fake_guest(FAKE_A);
		if (!vm->mig) {
			finish();
			break;
		}
		cancelled = mig_cancel(vm, &e) == 0;
		assert_true(settle(3000));
		if (cancelled) {
			reached++;
			assert_int_equal(outcome(), STAYED);
			assert_int_equal(vm->state, RS_RUNNING);
			assert_string_equal(info_of(FAKE_A).status, "cancelled");
		} else {
			assert_int_equal(outcome(), MOVED);
		}
		finish();
	}
	assert_true(reached > 10);
}

static void test_cancel_on_target(void **state)
{
	(void)state;
	for (unsigned n = 0; n < 200; n++) {
		struct vm *vm;

		fake_setup(9);
		begin(9, true);
		for (unsigned i = 0; i < n && fake_busy(); i++)
			fake_step(100);
		vm = fake_guest(FAKE_B);
		if (vm && vm->mig) {
			fake_switch(FAKE_B);
			assert_int_equal(mig_cancel(vm, NULL), 0);
			fake_switch(FAKE_A);
			assert_true(settle(3000));
			assert_int_equal(outcome(), STAYED);
		}
		finish();
	}
}

static void test_guest_dies(void **state)
{
	static const enum mig_step steps[] = { SRC_CONNECT, SRC_HELLO, SRC_CONFIG, SRC_PRECOPY };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
		struct vm *vm;

		fake_setup(10);
		begin(10, false);
		assert_true(run_to(steps[i]));
		vm = fake_guest(FAKE_A);
		vm_kill(vm, "triple fault");
		assert_true(settle(3000));
		assert_string_equal(info_of(FAKE_A).status, "failed");
		assert_non_null(strstr(info_of(FAKE_A).error.text, "ended by itself"));
		assert_non_null(strstr(info_of(FAKE_A).error.text, "triple fault"));
		assert_null(vm->mig);
		assert_null(vm->dirty);
		assert_null(fake_guest(FAKE_B));
		finish();
	}
}

/* `cont` by an operator while the guest is frozen: it runs on here, the move ends. */
static void test_resumed_in_freeze(void **state)
{
	static const enum mig_step steps[] = { SRC_VERIFY, SRC_FINAL };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
		fake_setup(11);
		begin(11, true);
		assert_true(run_to(steps[i]));
		assert_int_equal(vm_resume(fake_guest(FAKE_A), NULL), 0);
		assert_true(settle(3000));
		assert_int_equal(outcome(), STAYED);
		assert_non_null(strstr(info_of(FAKE_A).error.text, "in the middle of the freeze"));
		finish();
	}
}

/* A reset that the guest has asked for happens before the freeze; what it writes until then moves too. */
static void test_freeze_waits_for_reset(void **state)
{
	struct vm *vm;

	(void)state;
	fake_setup(14);
	begin(14, true);
	assert_true(run_to(SRC_PRECOPY));
	vm = fake_guest(FAKE_A);
	vm->want_reset = true;
	for (int i = 0; i < 300; i++) { /* longer than any limit */
		fake_step(STEP_US);
		assert_int_equal(vm->state, RS_RUNNING);
	}
	vm->want_reset = false;
	assert_true(settle(3000));
	assert_int_equal(outcome(), MOVED);
	finish();
}

static void test_target_out_of_memory(void **state)
{
	bool moved = false;

	(void)state;
	for (s64 n = 0; n < 200 && !moved; n++) {
		fake_setup(12);
		world->allocs_left = n;
		begin(12, false);
		assert_true(settle(3000));
		moved = outcome() == MOVED;
		if (!moved && n > 4)
			assert_non_null(strstr(info_of(FAKE_A).error.text, "no memory"));
		finish();
	}
	assert_true(moved);
}

static void test_dirty_log_fault(void **state)
{
	struct fake_vm *f;

	(void)state;
	fake_setup(13);
	begin(13, true);
	assert_true(run_to(SRC_PRECOPY));
	/* A write that the log misses, to a page that has gone already. */
	world->writes_per_run = 0;
	for (int i = 0; i < 3; i++)
		fake_step(50);
	f = fake_vm(fake_guest(FAKE_A));
	assert_int_equal(f->vm.state, RS_RUNNING);
	f->ram[5] ^= 1;
	assert_true(settle(3000));
	assert_int_equal(outcome(), STAYED);
	assert_non_null(strstr(info_of(FAKE_A).error.text, "page 0x0 of guest g1 changed after it was sent"));
	finish();
}

/* --- faults at every place --- */

static struct { u64 at[2][4096]; unsigned n[2]; u64 total[2]; } frames;

static void find_frames(bool full)
{
	fake_setup(20);
	begin(20, full);
	assert_true(settle(3000));
	assert_int_equal(outcome(), MOVED);
	memcpy(frames.at, world->record, sizeof(frames.at));
	memcpy(frames.n, world->n_record, sizeof(frames.n));
	memcpy(frames.total, world->carried, sizeof(frames.total));
	finish();
}

static unsigned counts[3];

static void run_fault(enum fake_fault fault, unsigned dir, u64 at, u8 flip, bool full)
{
	enum outcome o;

	fake_setup(20);
	world->plan = (struct fake_plan){ fault, 0, dir, at, flip };
	begin(20, full);
	if (!settle(4000))
		fail_msg("fault %d dir %u at %llu: does not end", fault, dir, (unsigned long long)at);
	o = outcome();
	counts[o]++;
	/* The link healed, so nothing may be left waiting. */
	if (o == WAITS)
		fail_msg("fault %d dir %u at %llu: still waits", fault, dir, (unsigned long long)at);
	assert_string_equal(info_of(FAKE_A).status, o == MOVED ? "completed" : "failed");
	if (o == STAYED)
		assert_true(info_of(FAKE_A).error.text[0]);
	if (fake_teardown())
		fail_msg("fault %d dir %u at %llu: memory is lost", fault, dir, (unsigned long long)at);
}

static void test_cut_at_frames(void **state)
{
	(void)state;
	find_frames(false);
	assert_true(frames.n[0] > 20 && frames.n[1] >= 5);
	memset(counts, 0, sizeof(counts));
	for (enum fake_fault f = FAULT_CUT; f <= FAULT_BLACK_HOLE; f++)
		for (unsigned dir = 0; dir < 2; dir++)
			for (unsigned i = 0; i < frames.n[dir]; i++)
				for (int d = -1; d <= 1; d++)
					if (frames.at[dir][i] || d >= 0)
						run_fault(f, dir, frames.at[dir][i] + (u64)d, 0, false);
	/* Both ends of the story must have been seen. */
	assert_true(counts[STAYED] > 100 && counts[MOVED] > 5);
}

static void test_cut_at_random(void **state)
{
	const char *n = getenv("MIG_TEST_RUNS");
	unsigned runs = n ? (unsigned)atoi(n) : 300;

	(void)state;
	find_frames(true);
	srand(1);
	for (unsigned i = 0; i < runs; i++) {
		unsigned dir = (unsigned)rand() % 2;
		/* Half of them near the end, where the commit is. */
		u64 span = rand() % 2 ? frames.total[dir] : MIN(frames.total[dir], 400ull);

		run_fault(FAULT_CUT + (unsigned)rand() % 3, dir, frames.total[dir] - 1 - (u64)rand() % span, 0, true);
	}
}

static void test_garbage(void **state)
{
	(void)state;
	find_frames(false);
	srand(2);
	/* Headers and first words of every frame, and places at random. TLS would not let these through. */
	for (unsigned dir = 0; dir < 2; dir++)
		for (unsigned i = 0; i < frames.n[dir]; i++)
			for (u64 d = 0; d < 12; d++)
				run_fault(FAULT_FLIP, dir, frames.at[dir][i] + d, (u8)(1u << rand() % 8), false);
	for (unsigned i = 0; i < 300; i++) {
		unsigned dir = (unsigned)rand() % 2;

		run_fault(FAULT_FLIP, dir, (u64)rand() % frames.total[dir], (u8)(1 + rand() % 255), false);
	}
}

/* --- the window between COMMIT and its answer --- */

/* Stops the world right after the source gave its right up; whether COMMIT has arrived is up to `deliver`. */
static void to_window(bool deliver)
{
	fake_setup(30);
	begin(30, false);
	assert_true(run_to(SRC_FINAL));
	/* The target answers PREPARED, the source gives up; then its COMMIT is lost, or the answer to it. */
	for (int i = 0; i < 1000; i++) {
		struct mig_session *s = fake_guest(FAKE_A)->mig;

		fake_switch(FAKE_A);
		mig_poll();
		if (s->step == SRC_COMMIT)
			break;
		fake_switch(FAKE_B);
		mig_poll();
	}
	assert_false(fake_guest(FAKE_A)->owner);
	if (deliver) {
		fake_switch(FAKE_B);
		mig_poll();
		assert_true(fake_guest(FAKE_B)->owner);
	} else {
		assert_false(fake_guest(FAKE_B)->owner);
	}
	fake_switch(FAKE_A);
	world->net_down = true;
}

static struct mig_session *first_session(int host)
{
	for (unsigned i = 0; i < MIG_MAX_SESSIONS; i++)
		if (world->mig[host].sessions[i])
			return world->mig[host].sessions[i];
	return NULL;
}

static void break_link(void)
{
	struct mig_session *s = fake_guest(FAKE_A)->mig;

	fake_cut(s->stream);
}

static void test_window(void **state)
{
	(void)state;
	for (int deliver = 0; deliver < 2; deliver++) {
		struct error e = { 0 };

		to_window(deliver);
		break_link();
		for (int i = 0; i < 300; i++)
			fake_step(STEP_US);
		if (deliver)
			assert_true(alive(fake_guest(FAKE_B)));
		else
			assert_int_equal(outcome(), WAITS);
		assert_string_equal(info_of(FAKE_A).status, "wait-commit");
		/* Nobody may talk it into running. */
		assert_int_equal(vm_resume(fake_guest(FAKE_A), &e), -E_STATE);
		assert_int_equal(mig_cancel(fake_guest(FAKE_A), NULL), -E_STATE);
		world->net_down = false;
		assert_true(settle(3000));
		assert_int_equal(outcome(), deliver ? MOVED : STAYED);
		finish();
	}
}

static void test_window_target_restarts(void **state)
{
	(void)state;
	for (int deliver = 0; deliver < 2; deliver++) {
		to_window(deliver);
		break_link();
		fake_restart(FAKE_B);
		world->net_down = false;
		for (int i = 0; i < 500; i++)
			fake_step(STEP_US);
		/* It cannot know, so it does not guess. */
		assert_int_equal(outcome(), WAITS);
		assert_non_null(strstr(fake_guest(FAKE_A)->reason, "host b"));
		/* The operator gives the waiting copy up. */
		fake_guest(FAKE_A)->state = RS_SHUTDOWN;
		assert_true(settle(3000));
		assert_true(fake_guest(FAKE_A)->owner);
		assert_int_equal(fake_guest(FAKE_A)->state, RS_SHUTDOWN);
		finish();
	}
}

/* A guest waits for the outcome of its move: whatever else is begun, it can ask, and whoever else waits can ask its host. */
static void test_room_to_ask(void **state)
{
	struct guest_config c = { .memory_bytes = FAKE_GUEST_BYTES, .vcpus = 1 };
	struct mig_params p = { .host = "b", .ip = 1, .port = 4789 };
	struct stream *near[MIG_MAX_SESSIONS], *far;
	struct mig_session *s;
	struct error e;
	struct vm *vm;

	(void)state;
	to_window(false);
	break_link();
	fake_step(STEP_US);
	assert_int_equal(first_session(FAKE_A)->step, SRC_WAIT);
	world->net_down = false;
	for (unsigned i = 1; i <= MIG_MAX_OUTWARD; i++) {
		snprintf(c.name, sizeof(c.name), "more%u", i);
		vm = vm_create(&c, NULL);
		vm->owner = true;
		vm->state = RS_RUNNING;
		e.code = 0;
		assert_int_equal(mig_start(vm, &p, &e), i < MIG_MAX_OUTWARD ? 0 : -E_BUSY);
	}
	assert_non_null(strstr(e.text, "too many moves at a time"));
	assert_true(settle(3000));
	assert_int_equal(outcome(), STAYED);
	finish();

	fake_setup(1);
	fake_switch(FAKE_B);
	for (unsigned i = 0; i < MIG_MAX_SESSIONS; i++) {
		near[i] = fake_pipe("b", "a", &far);
		s = session_new(false, far);
		assert_non_null(s);
		snprintf(c.name, sizeof(c.name), "more%u", i);
		assert_true(!session_info(s, c.name) == (i >= MIG_MAX_MOVES));
	}
	for (unsigned i = 0; i < MIG_MAX_SESSIONS; i++) {
		session_end(mig_host->sessions[i]);
		stream_close(near[i]);
	}
	finish();
}

/* The target was asked before COMMIT came: that COMMIT is void, even if it still arrives. */
static void test_commit_after_resolve(void **state)
{
	struct mig_session *t;
	struct stream *far, *near;
	struct ledger_key key;

	(void)state;
	to_window(false);
	t = first_session(FAKE_B);
	assert_non_null(t);
	assert_int_equal(t->step, TGT_PREPARED);
	key = t->key;
	/* Asked over another connection, while COMMIT lies in the first. */
	near = fake_pipe("b", "a", &far);
	fake_switch(FAKE_B);
	mig_accept(far);
	fake_switch(FAKE_A);
	{
		struct wire_out o;
		struct mig_session ask = { .stream = near };

		assert_int_equal(wire_out_init(&ask.out), 0);
		assert_int_equal(session_send_hello(&ask), 0);
		o = ask.out;
		struct wire_writer *w = wire_begin(&o, WIRE_RESOLVE);

		wire_put_u64(w, key.id);
		wire_put_u64(w, key.epoch);
		wire_put_u64(w, world->mig[FAKE_B].boot_id);
		wire_put_str(w, FAKE_GUEST);
		assert_int_equal(wire_end(&o), 0);
		assert_true(wire_flush(&o, near) > 0);
		wire_out_free(&o);
	}
	fake_switch(FAKE_B);
	/* The asking session's turn comes first here; the other still holds COMMIT unread. */
	t = world->mig[FAKE_B].sessions[0];
	world->mig[FAKE_B].sessions[0] = world->mig[FAKE_B].sessions[1];
	world->mig[FAKE_B].sessions[1] = t;
	mig_poll();
	assert_null(fake_guest(FAKE_B));
	assert_int_equal(ledger_get(&mig_host->ledger, &key), LEDGER_ABORTED);
	stream_close(near);
	world->net_down = false;
	assert_true(settle(3000));
	assert_int_equal(outcome(), STAYED);
	finish();
}

/* A guest that prints faster than its output is sent. */
static void test_noisy(void **state)
{
	(void)state;
	fake_setup(18);
	world->prints = true;
	begin(18, false);
	assert_true(settle(3000));
	assert_int_equal(outcome(), MOVED);
	assert_true(fake_guest(FAKE_B)->console_total > 4 * CONSOLE_RING_BYTES);
	finish();
}

/* A page that no round ever took counts: both ends would agree on a sum without it. */
static void test_never_sent(void **state)
{
	(void)state;
	for (int blind = 0; blind < 2; blind++) {
		struct mig_session *s;
		u64 gfn = 0;

		fake_setup(15);
		world->writes_per_run = 0;
		begin(15, false);
		assert_true(run_to(SRC_PRECOPY));
		s = fake_guest(FAKE_A)->mig;
		gfn = (u64)__builtin_ctzll(s->ram.todo[s->ram.todo_words - 1]) + (s->ram.todo_words - 1) * 64;
		s->ram.todo[gfn / 64] &= ~BIT(gfn % 64);
		s->ram.todo_pages--;
		s->ram.noted += (u64)blind; /* a source that does not notice: then the target does */
		assert_true(settle(3000));
		assert_int_equal(outcome(), STAYED);
		assert_non_null(strstr(info_of(FAKE_A).error.text, "1 of 1024 pages"));
		finish();
	}
}

/* One frame must not keep the target busy for long. */
static void test_zero_flood(void **state)
{
	struct mig_session *s;
	struct wire_writer *w;

	(void)state;
	fake_setup(16);
	begin(16, false);
	assert_true(run_to(SRC_PRECOPY));
	s = fake_guest(FAKE_A)->mig;
	while (!wire_out_empty(&s->out))
		assert_true(wire_flush(&s->out, s->stream) >= 0);
	w = wire_begin(&s->out, WIRE_ZERO);
	wire_put_u32(w, WIRE_MAX_ZERO_RUNS);
	wire_put_u32(w, 0);
	for (u32 i = 0; i < WIRE_MAX_ZERO_RUNS; i++) {
		wire_put_u64(w, 0);
		wire_put_u32(w, 1024);
		wire_put_u32(w, 0);
	}
	assert_int_equal(wire_end(&s->out), 0);
	assert_true(settle(3000));
	assert_int_equal(outcome(), STAYED);
	assert_non_null(strstr(info_of(FAKE_A).error.text, "malformed ZERO"));
	finish();
}

/* A target that says nothing but that it is alive must not keep the guest frozen for ever. */
static void test_frozen_too_long(void **state)
{
	struct mig_session *t;
	struct vm *vm;

	(void)state;
	fake_setup(17);
	begin(17, true);
	assert_true(run_to(SRC_VERIFY));
	vm = fake_guest(FAKE_A);
	t = fake_guest(FAKE_B)->mig;
	for (int i = 0; i < 1000 && vm->mig; i++) {
		wire_begin(&t->out, WIRE_KEEPALIVE);
		assert_int_equal(wire_end(&t->out), 0);
		(void)!wire_flush(&t->out, t->stream);
		fake_switch(FAKE_A);
		mig_poll();
		world->now_us += 10000;
	}
	assert_null(vm->mig);
	assert_int_equal(vm->state, RS_RUNNING);
	assert_non_null(strstr(info_of(FAKE_A).error.text, "frozen"));
	assert_true(settle(3000));
	assert_int_equal(outcome(), STAYED);
	finish();
}

/* The target never comes back. Stopping the waiting copy frees its memory; giving it up frees its name, under an epoch
 * above that of whatever the target may have. */
static void test_window_target_gone(void **state)
{
	struct error e = { 0 };
	struct vm *vm;

	(void)state;
	to_window(true);
	break_link();
	for (int i = 0; i < 300; i++)
		fake_step(STEP_US);
	vm = fake_guest(FAKE_A);
	assert_int_equal(mig_give_up(vm, &e), -E_STATE);
	assert_non_null(strstr(e.text, "stop"));
	vm->state = RS_SHUTDOWN;
	for (int i = 0; i < 300; i++)
		fake_step(STEP_US);
	assert_null(fake_vm(vm)->ram);
	assert_non_null(vm->mig);
	/* The truth still counts if it comes in time ... */
	world->net_down = false;
	assert_true(settle(3000));
	assert_int_equal(vm->state, RS_POSTMIGRATE);
	finish();
	/* ... and if it does not come, the operator decides. */
	to_window(true);
	break_link();
	vm = fake_guest(FAKE_A);
	for (int i = 0; i < 10; i++)
		fake_step(STEP_US);
	vm->state = RS_SHUTDOWN;
	fake_restart(FAKE_B);
	for (int i = 0; i < 10; i++)
		fake_step(STEP_US);
	assert_int_equal(mig_give_up(vm, NULL), 0);
	assert_null(vm->mig);
	assert_true(vm->owner);
	assert_int_equal(vm->epoch, 2);
	assert_int_equal(vm->state, RS_SHUTDOWN);
	assert_null(vm->dirty);
	assert_string_equal(info_of(FAKE_A).status, "failed");
	assert_int_equal(mig_give_up(vm, NULL), -E_STATE);
	assert_true(settle(3000));
	finish();
}

/* Operators, links and hosts do anything at any time. fake_step() watches that never two have the guest; in the end, when
 * nothing goes wrong any more, nothing may be left undecided but what only a restarted host could have told. */
static void test_chaos(void **state)
{
	const char *n = getenv("MIG_TEST_RUNS");
	unsigned runs = n ? (unsigned)atoi(n) : 300, moved = 0, lost = 0;

	(void)state;
	for (unsigned seed = 0; seed < runs; seed++) {
		unsigned restarts = 0;
		bool given_up = false;

		srand(seed);
		fake_setup(seed);
		for (unsigned step = 0; step < 400; step++) {
			int host = rand() & 1;
			struct vm *vm = fake_guest(host);
			struct mig_session *s = vm ? vm->mig : NULL;
			struct error e = { 0 };

			fake_step(rand() % 4 ? 100 : STEP_US);
			vm = fake_guest(host);
			s = vm ? vm->mig : NULL;
			fake_switch(host);
			switch (rand() % 60) {
			case 0: case 1: case 2: case 3:
				if (vm && !s && vm->owner)
					(void)!fake_move(host, rand() & 1, &e);
				break;
			case 4:
				if (vm)
					(void)!mig_cancel(vm, &e);
				break;
			case 5:
				if (s && s->stream)
					fake_cut(s->stream);
				break;
			case 6:
				world->net_down = rand() & 1;
				break;
			case 7:
				if (vm && !s && vm->state == RS_RUNNING)
					vm_pause(vm, RS_PAUSED);
				break;
			case 8: case 9:
				if (vm && !s && vm->state == RS_PAUSED)
					(void)!vm_resume(vm, &e);
				break;
			case 10:
				if (step > 200 && rand() % 4 == 0) {
					fake_restart(host);
					restarts++;
				}
				break;
			case 11: /* guest-stop, as net/commands.c allows it */
				if (vm && s && !vm->owner && vm->state == RS_PAUSED) {
					vm->state = RS_SHUTDOWN;
					given_up = true;
				}
				break;
			case 12: /* guest-start force: only by an operator who is right */
				if (vm && s && vm_is_dead(vm) && !fake_guest(!host))
					(void)!mig_give_up(vm, &e);
				break;
			}
			fake_switch(FAKE_A);
		}
		world->net_down = false;
		if (!settle(4000)) {
			/* Only a target that was restarted cannot tell. */
			if (!restarts)
				fail_msg("seed %u: does not end", seed);
			lost++;
		} else {
			struct vm *a = fake_guest(FAKE_A), *b = fake_guest(FAKE_B);

			if (!alive(a) && !alive(b) && !restarts && !given_up)
				fail_msg("seed %u: nobody has it", seed);
			moved += alive(b);
		}
		if (fake_teardown())
			fail_msg("seed %u: memory is lost", seed);
	}
	assert_true(moved > runs / 20 && lost < runs / 4);
}

static void test_versions(void **state)
{
	struct stream *far, *near;
	u8 buf[2048];
	int n;

	(void)state;
	fake_setup(40);
	for (int kind = 0; kind < 3; kind++) {
		struct mig_session me = { .source = true };
		struct wire_in in;
		struct wire_reader r;
		size_t read = 0;
		struct error e = { 0 };

		near = fake_pipe("b", kind == 2 ? "c" : "a", &far);
		me.stream = near;
		assert_int_equal(wire_out_init(&me.out), 0);
		assert_int_equal(session_send_hello(&me), 0);
		if (kind == 0)
			me.out.buf[WIRE_HEADER + 8] = 99;
		if (kind == 1)
			me.out.buf[WIRE_HEADER] ^= 1;
		assert_true(wire_flush(&me.out, near) > 0);
		fake_switch(FAKE_B);
		mig_accept(far);
		mig_poll();
		fake_switch(FAKE_A);
		assert_int_equal(wire_in_init(&in), 0);
		n = wire_recv(&in, near, &r, &read, &e);
		assert_int_equal(n, 1);
		assert_int_equal(in.type, WIRE_ERROR);
		wire_text(&r, (char *)buf, sizeof(buf));
		assert_non_null(strstr((char *)buf, kind == 0 ? "migration protocol 99" :
				       kind == 1 ? "does not speak" : "its certificate says c"));
		wire_in_free(&in);
		wire_out_free(&me.out);
		stream_close(near);
	}
	/* Only hosts may. */
	near = fake_pipe("b", "a", &far);
	snprintf(far->peer_role, sizeof(far->peer_role), "admin");
	fake_switch(FAKE_B);
	mig_accept(far);
	assert_null(first_session(FAKE_B) && first_session(FAKE_B)->stream == far ? far : NULL);
	fake_switch(FAKE_A);
	assert_true(stream_read(near, buf, 1) < 0);
	stream_close(near);
	assert_true(settle(300));
	finish();
}

/* With time servers behind both clocks, the guest's clock shows after a move what it would without; otherwise it lost the freeze. */
static void test_clock(void **state)
{
	(void)state;
	for (int synced = 0; synced < 2; synced++) {
		u64 tsc, at, down, lost, sent;
		struct error e = { 0 };

		fake_setup(60);
		world->wall_synced = synced;
		fake_switch(FAKE_A);
		tsc = vm_tsc(fake_guest(FAKE_A));
		at = world->now_us;
		assert_int_equal(fake_move(FAKE_A, false, &e), 0);
		assert_true(settle(3000));
		assert_true(alive(fake_guest(FAKE_B)));
		down = info_of(FAKE_B).downtime_us;
		assert_true(down > 0);
		fake_switch(FAKE_B);
		lost = world->now_us - at - (vm_tsc(fake_guest(FAKE_B)) - tsc) / 1000;
		assert_true(synced ? lost == 0 : lost >= down && lost <= down + STEP_US);
		sent = world->carried[0];
		finish();
		/* One that comes back from the freeze (its link is cut in FINAL, before COMMIT) has lost nothing either. */
		fake_setup(60);
		world->wall_synced = synced;
		world->plan = (struct fake_plan){ FAULT_CUT, 0, 0, sent - 50 - 70, 0 }; /* 70: LAN, see lan_forward_begin() */
		tsc = vm_tsc(fake_guest(FAKE_A));
		at = world->now_us;
		assert_int_equal(fake_move(FAKE_A, false, &e), 0);
		assert_true(settle(3000));
		assert_true(alive(fake_guest(FAKE_A)));
		fake_switch(FAKE_A);
		lost = world->now_us - at - (vm_tsc(fake_guest(FAKE_A)) - tsc) / 1000;
		assert_true(synced ? lost == 0 : lost > 0);
		finish();
	}
}

static void test_self(void **state)
{
	struct vm *vm;
	u64 before;

	(void)state;
	fake_setup(50);
	vm = fake_guest(FAKE_A);
	before = fake_digest(vm);
	mig_self(vm);
	assert_int_equal(world->kills, 0);
	assert_true(vm->clock_running);
	assert_true(fake_digest(vm) == before);
	world->bad_state = true;
	mig_self(vm);
	assert_int_equal(world->kills, 1);
	assert_non_null(strstr(vm->reason, "self-migration: state cpu.0: even is odd"));
	finish();
}

static int setup(void **state)
{
	(void)state;
	short_timeouts();
	return 0;
}

/* Definitions of disks, and what the guest has seen of them, arrive whole; slow devices and slow disks are waited for. */
static void test_disks_travel(void **state)
{
	struct vm *b;

	(void)state;
	for (u32 n = 1; n <= CONFIG_MAX_DISKS; n++) {
		fake_setup(n);
		fake_disks(n);
		if (n == 1) /* vm_resume() of a running one clears the reason */
			vm_pause(fake_guest(FAKE_A), RS_PAUSED);
		world->drain_turns = 20;
		world->disk_away = 20;
		begin(n, false);
		assert_true(settle(3000));
		assert_int_equal(outcome(), MOVED);
		b = fake_guest(FAKE_B);
		assert_int_equal(b->config.n_disks, n);
		assert_memory_equal(b->config.disks, world->disks, sizeof(world->disks));
		assert_string_equal(b->reason, "");
		assert_false(fake_vm(b)->drained);
		finish();
	}
}

/* A target that sees another disk, or none, refuses the move. */
static void test_disk_refused(void **state)
{
	(void)state;
	for (int away = 0; away < 2; away++) {
		fake_setup(3);
		short_timeouts();
		fake_disks(2);
		world->disk_refused = !away;
		world->disk_away = away ? 100000 : 0;
		begin(3, false);
		assert_true(settle(3000));
		assert_int_equal(outcome(), STAYED);
		if (!strstr(info_of(FAKE_A).error.text, away ? "cannot reach a disk of guest g1: server x is away" : "disk 0 is another one"))
			fail_msg("%s", info_of(FAKE_A).error.text);
		assert_string_equal(info_of(FAKE_A).status, "failed");
		assert_int_equal(world->kills, 0);
		finish();
	}
}

/* One that loses the disk after it had it: no commit. */
static void test_disk_lost_before_commit(void **state)
{
	(void)state;
	fake_setup(4);
	fake_disks(1);
	begin(4, false);
	while (!fake_guest(FAKE_A)->dirty)
		fake_step(STEP_US);
	world->disk_away = 100000;
	assert_true(settle(3000));
	assert_int_equal(outcome(), STAYED);
	assert_non_null(strstr(info_of(FAKE_A).error.text, "server x is away"));
	assert_false(fake_vm(fake_guest(FAKE_A))->drained);
	assert_int_equal(fake_guest(FAKE_A)->state, RS_RUNNING);
	finish();
}

/* A server that is away for a while in the middle: the connection is made anew before it is needed. */
static void test_disk_comes_back(void **state)
{
	(void)state;
	fake_setup(4);
	short_timeouts();
	mig_timeouts.keepalive = 2000;
	fake_disks(1);
	world->drain_turns = 30;
	begin(4, false);
	while (!fake_guest(FAKE_A)->dirty)
		fake_step(STEP_US);
	world->disk_away = 5;
	assert_true(settle(3000));
	assert_int_equal(outcome(), MOVED);
	finish();
}

/* A disk that the guest gets to see only in the middle of the move: the target was told to take whatever it finds. */
static void test_disk_seen_late(void **state)
{
	(void)state;
	for (int late = 0; late < 2; late++) {
		fake_setup(4);
		fake_guest(FAKE_A)->disks_wait = true;
		begin(4, false);
		while (!fake_guest(FAKE_A)->dirty)
			fake_step(STEP_US);
		fake_guest(FAKE_A)->disks_wait = !late;
		assert_true(settle(3000));
		assert_int_equal(outcome(), late ? STAYED : MOVED);
		if (late)
			assert_non_null(strstr(info_of(FAKE_A).error.text, "only after the move had begun: move it again"));
		finish();
	}
}

/* Requests that nobody answers: the move fails in time, the guest runs on with working devices. */
static void test_never_drains(void **state)
{
	struct vm *a;

	(void)state;
	fake_setup(5);
	short_timeouts();
	world->never_drains = true;
	begin(5, false);
	assert_true(settle(3000));
	assert_int_equal(outcome(), STAYED);
	a = fake_guest(FAKE_A);
	assert_non_null(strstr(info_of(FAKE_A).error.text, "disk 0 waits for server x"));
	assert_false(fake_vm(a)->drained);
	assert_int_equal(a->state, RS_RUNNING);
	/* And then it can. */
	world->never_drains = false;
	begin(5, false);
	assert_true(settle(3000));
	assert_int_equal(outcome(), MOVED);
	finish();
}

/* What the guest writes while its disks come to rest slowly does not make its freeze long. */
static void test_slow_drain(void **state)
{
	struct mig_params p = { .host = "b", .ip = 1, .port = 4789, .freeze_budget_ms = 5, .max_rounds = 1000 };
	struct mig_info i;

	(void)state;
	fake_setup(5);
	short_timeouts();
	mig_timeouts.drain = 1000000;
	world->drain_turns = 90; /* turns of 1 ms; no byte goes meanwhile */
	world->writes_per_run = 5;
	begin(5, false);
	assert_true(settle(3000));
	assert_int_equal(outcome(), MOVED);
	i = info_of(FAKE_A);
	assert_true(i.rounds[i.n_rounds - 1].pages + i.rounds[i.n_rounds - 1].zero < 200);
	assert_int_equal(i.n_rounds, i.round);
	finish();

	/* But its disks do not wait for ever for a guest that writes more than the link takes. */
	fake_setup(5);
	mig_timeouts.drain = 300000;
	world->drain_turns = 90;
	fake_switch(FAKE_A);
	assert_int_equal(mig_start(fake_guest(FAKE_A), &p, NULL), 0);
	while (!fake_vm(fake_guest(FAKE_A))->drained)
		fake_step(STEP_US);
	world->writes_per_run = 2000;
	assert_true(settle(3000));
	assert_int_equal(outcome(), MOVED);
	assert_true(info_of(FAKE_A).round < 20);
	finish();
}

/* The rate, from which the freeze is foretold, stays right when the table of rounds is full. */
static void test_many_rounds(void **state)
{
	struct mig_params p = { .host = "b", .ip = 1, .port = 4789, .freeze_budget_ms = 1, .max_rounds = 3 * MIG_MAX_ROUNDS };
	struct error e = { 0 };

	(void)state;
	fake_setup(6);
	world->writes_per_run = 60;
	fake_switch(FAKE_A);
	assert_int_equal(mig_start(fake_guest(FAKE_A), &p, &e), 0);
	assert_true(settle(30000));
	assert_int_equal(outcome(), MOVED);
	assert_int_equal(info_of(FAKE_A).n_rounds, MIG_MAX_ROUNDS);
	assert_int_equal(info_of(FAKE_A).round, 3 * MIG_MAX_ROUNDS + 1);
	finish();
}

/* Cancelled while the devices come to rest. */
static void test_cancel_while_draining(void **state)
{
	struct error e = { 0 };
	struct vm *a;

	(void)state;
	fake_setup(6);
	world->never_drains = true;
	begin(6, false);
	a = fake_guest(FAKE_A);
	while (!fake_vm(a)->drained)
		fake_step(STEP_US);
	fake_switch(FAKE_A);
	assert_int_equal(mig_cancel(a, &e), 0);
	assert_true(settle(3000));
	assert_int_equal(outcome(), STAYED);
	assert_false(fake_vm(a)->drained);
	finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_disks_travel),
		cmocka_unit_test(test_disk_refused),
		cmocka_unit_test(test_disk_lost_before_commit),
		cmocka_unit_test(test_disk_comes_back),
		cmocka_unit_test(test_disk_seen_late),
		cmocka_unit_test(test_never_drains),
		cmocka_unit_test(test_slow_drain),
		cmocka_unit_test(test_many_rounds),
		cmocka_unit_test(test_cancel_while_draining),
		cmocka_unit_test(test_there_and_back),
		cmocka_unit_test(test_power_cuts),
		cmocka_unit_test(test_restarts_after_moves),
		cmocka_unit_test(test_records_fail),
		cmocka_unit_test(test_paused_stays_paused),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_networks), cmocka_unit_test(test_frames_follow),
		cmocka_unit_test(test_stale_restored),
		cmocka_unit_test(test_dead_restored),
		cmocka_unit_test(test_start_errors),
		cmocka_unit_test(test_cancel_everywhere),
		cmocka_unit_test(test_cancel_on_target),
		cmocka_unit_test(test_guest_dies),
		cmocka_unit_test(test_resumed_in_freeze),
		cmocka_unit_test(test_freeze_waits_for_reset),
		cmocka_unit_test(test_target_out_of_memory),
		cmocka_unit_test(test_dirty_log_fault),
		cmocka_unit_test(test_cut_at_frames),
		cmocka_unit_test(test_cut_at_random),
		cmocka_unit_test(test_garbage),
		cmocka_unit_test(test_window),
		cmocka_unit_test(test_window_target_restarts),
		cmocka_unit_test(test_room_to_ask),
		cmocka_unit_test(test_commit_after_resolve),
		cmocka_unit_test(test_noisy),
		cmocka_unit_test(test_never_sent),
		cmocka_unit_test(test_zero_flood),
		cmocka_unit_test(test_frozen_too_long),
		cmocka_unit_test(test_window_target_gone),
		cmocka_unit_test(test_chaos),
		cmocka_unit_test(test_versions),
		cmocka_unit_test(test_clock),
		cmocka_unit_test(test_self),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
