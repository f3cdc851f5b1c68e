/* SPDX-License-Identifier: MIT */
#include "hv/vm/lifecycle.h"
#include "hv/arch/caps.h"
#include "hv/arch/percpu.h"
#include "hv/keep.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "hv/vm/acpi_tables.h"
#include "hv/vm/board.h"
#include "hv/vm/cpuid.h"
#include "hv/vm/guest_mem.h"
#include "hv/vm/load.h"
#include "hv/vm/sched.h"
#include "hv/vm/vcpu.h"
#include "hv/vm/vm_clock.h"
#include "hv/vmx/vmx.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SELF_MIGRATION_OFF (~0ull)

struct vm *vms[VM_MAX];
u64 service_ticks;
static unsigned last_number;
static u64 self_migrate_exits;
static char host_name[NAME_MAX_LEN];

void lifecycle_init(const struct config *c)
{
	self_migrate_exits = c->self_migrate_exits;
	snprintf(host_name, sizeof(host_name), "%s", c->host_name);
}

const char *vm_run_state_name(enum run_state s)
{
	static const char *const names[] = {
		[RS_PRELAUNCH] = "prelaunch", [RS_RUNNING] = "running", [RS_PAUSED] = "paused", [RS_SHUTDOWN] = "shutdown",
		[RS_INMIGRATE] = "inmigrate", [RS_FINISH_MIGRATE] = "finish-migrate", [RS_POSTMIGRATE] = "postmigrate",
		[RS_INTERNAL_ERROR] = "internal-error", [RS_GUEST_PANICKED] = "guest-panicked",
	};

	return s < ARRAY_SIZE(names) ? names[s] : "unknown";
}

struct vm *vm_find(const char *name)
{
	for (unsigned i = 0; i < VM_MAX; i++)
		if (vms[i] && !strcmp(vms[i]->config.name, name))
			return vms[i];
	return NULL;
}

bool vm_is_dead(const struct vm *vm)
{
	return vm->state == RS_SHUTDOWN || vm->state == RS_INTERNAL_ERROR || vm->state == RS_GUEST_PANICKED;
}

bool vm_is_populated(const struct vm *vm)
{
	return vm->n_vcpus > 0;
}

/* A host that guests only pass through keeps an entry of each; when all places are taken, the oldest of those goes. */
static unsigned forget_moved(void)
{
	unsigned oldest = VM_MAX;

	for (unsigned i = 0; i < VM_MAX; i++)
		if (vms[i]->state == RS_POSTMIGRATE && !vms[i]->mig && (oldest == VM_MAX || vms[i]->number < vms[oldest]->number))
			oldest = i;
	if (oldest < VM_MAX)
		vm_destroy(vms[oldest]);
	return oldest;
}

bool vm_enlist(struct vm *vm)
{
	unsigned slot = 0;

	while (slot < VM_MAX && vms[slot])
		slot++;
	if (slot == VM_MAX)
		slot = forget_moved();
	if (slot == VM_MAX)
		return false;
	sched_lock();
	vms[slot] = vm;
	sched_unlock();
	return true;
}

void vm_delist(struct vm *vm)
{
	sched_lock();
	for (unsigned i = 0; i < VM_MAX; i++)
		if (vms[i] == vm)
			vms[i] = NULL;
	sched_unlock();
}

struct vm *vm_define(const struct guest_config *cfg, struct error *e)
{
	const char *has = "no memory left";
	struct vm *vm;
	u8 *console;

	if (vm_find(cfg->name)) {
		error_set(e, E_EXIST, "there is a guest named %s on this host already", cfg->name);
		return NULL;
	}
	vm = heap_calloc(1, sizeof(*vm));
	console = frame_alloc_n(CONSOLE_RING_BYTES / PAGE_SIZE);
	if (vm && console) {
		vm->config = *cfg;
		vm->console = console;
		vm->number = ++last_number;
		vm->state = RS_PRELAUNCH;
		vm->debug_exit_code = -1;
		vm->ept_generation = 1;
		memset(vm->next_deadline, 0xff, sizeof(vm->next_deadline)); /* VDEV_NEVER */
		vm->next_self_migration = SELF_MIGRATION_OFF;
		snprintf(vm->owner_name, sizeof(vm->owner_name), "-");
		if (vm_enlist(vm))
			return vm;
		has = "as many guests as it can";
	}
	frame_free_n(console, CONSOLE_RING_BYTES / PAGE_SIZE);
	heap_free(vm);
	error_set(e, E_NOMEM, "guest %s: this host has %s", cfg->name, has);
	return NULL;
}

/* Memory, devices and vCPUs, in reset state; the clock stands at 0. */
static int populate(struct vm *vm, struct error *e)
{
	const struct host_caps *caps = host_caps();
	int rc;

	if (!caps->usable || !vmx_config.on)
		return error_set(e, E_UNSUPPORTED, "guest %s cannot run on this host: it lacks %s", vm->config.name,
				 caps->n_missing ? caps->missing[0] : "usable VT-x");
	vm_clock_init(vm);
	rc = cpuid_build(vm, e);
	if (!rc)
		rc = guest_mem_create(vm, vm->config.memory_bytes, e);
	if (!rc)
		rc = board_create(vm, e);
	for (unsigned i = 0; !rc && i < vm->config.vcpus; i++)
		if (vcpu_create(vm, i))
			rc = error_set(e, E_NOMEM, "guest %s: no memory for vCPU %u", vm->config.name, i);
	if (rc)
		vm_release(vm);
	else
		board_reset(vm);
	return rc;
}

struct vm *vm_create(const struct guest_config *cfg, struct error *e)
{
	struct vm *vm = vm_define(cfg, e);

	if (vm && populate(vm, e)) {
		vm_destroy(vm);
		return NULL;
	}
	return vm;
}

u64 vm_exits(const struct vm *vm)
{
	u64 n = vm->exits_before;

	for (unsigned i = 0; i < vm->n_vcpus; i++)
		n += vm->vcpus[i]->exits;
	return n;
}

u64 vm_run_us(const struct vm *vm)
{
	u64 ticks = 0;

	for (unsigned i = 0; i < vm->n_vcpus; i++)
		ticks += vm->vcpus[i]->run_tsc;
	return muldiv64(ticks, 1000000, host_tsc_hz());
}

void vm_release(struct vm *vm)
{
	BUG_ON(vm->state == RS_RUNNING && n_cpus > 1);
	for (unsigned i = 0; i < VM_MAX_VCPUS; i++)
		if (vm->vcpus[i])
			vcpu_destroy(vm->vcpus[i]);
	vm->n_vcpus = 0;
	board_destroy(vm);
	guest_mem_destroy(vm);
	memset(vm->next_deadline, 0xff, sizeof(vm->next_deadline));
}

void vm_destroy(struct vm *vm)
{
	BUG_ON(vm->mig);
	vm_release(vm);
	vm_delist(vm);
	frame_free_n(vm->console, CONSOLE_RING_BYTES / PAGE_SIZE);
	heap_free(vm);
}

void vm_moved_away(struct vm *vm, const char *to, u64 epoch)
{
	vm_release(vm);
	vm->owner = false;
	vm->epoch = epoch;
	snprintf(vm->owner_name, sizeof(vm->owner_name), "%s", to);
	snprintf(vm->reason, sizeof(vm->reason), "moved to host %s", to);
	vm->state = RS_POSTMIGRATE;
	vm_state_changed(vm);
}

bool vm_recall(struct vm *vm)
{
	char peer[NAME_MAX_LEN];
	u64 epoch;
	enum keep_owner owner = keep_owner(vm->config.name, peer, &epoch);

	if (owner == KEEP_GIVEN)
		vm_moved_away(vm, peer, epoch);
	if (owner != KEEP_HERE)
		return owner != KEEP_LOST;
	vm->epoch = epoch;
	vm->owner = true;
	snprintf(vm->owner_name, sizeof(vm->owner_name), "%s", host_name);
	snprintf(vm->reason, sizeof(vm->reason), "this host was restarted");
	vm->state = RS_SHUTDOWN;
	return true;
}

/* What the guest asked for is done, or does not matter any more. */
static void attended(struct vm *vm)
{
	vm->want_reset = vm->want_poweroff = vm->want_kill = vm->want_self_migration = vm->panicked = vm->attention = false;
}

/* Power-on: zeroed memory, reset devices, the kernel image loaded, vCPU 0 at its entry. The clock is left stopped. */
static int boot_guest(struct vm *vm, struct error *e)
{
	int rc;

	vm_clock_stop(vm);
	guest_mem_clear(vm);
	board_reset(vm);
	for (unsigned i = 0; i < vm->n_vcpus; i++)
		vcpu_reset(vm->vcpus[i]);
	rc = acpi_tables_write(vm, e);
	if (!rc)
		rc = guest_image_load(vm, &vm->vcpus[0]->s, e);
	if (rc)
		return rc;
	vcpu_load_state(vm->vcpus[0]);
	attended(vm);
	return 0;
}

int vm_start(struct vm *vm, struct error *e)
{
	char peer[NAME_MAX_LEN];
	u64 epoch;
	int rc;

	if (vm->mig)
		return error_set(e, E_BUSY, "guest %s is being moved: wait for the move to end or cancel it", vm->config.name);
	if (vm->state == RS_POSTMIGRATE)
		return error_set(e, E_STATE, "guest %s was moved to host %s (epoch %llu): start or stop it there, or start it here "
				 "with force if that host is gone for good", vm->config.name, vm->owner_name, (unsigned long long)vm->epoch);
	if (vm->state != RS_PRELAUNCH && !vm_is_dead(vm))
		return error_set(e, E_STATE, "guest %s is %s already", vm->config.name, vm_run_state_name(vm->state));
	vm_release(vm);
	vm_hold(vm);
	rc = populate(vm, e);
	if (!rc)
		rc = boot_guest(vm, e);
	if (rc) {
		vm->state = RS_SHUTDOWN;
		vm_release(vm);
		vm_unhold(vm);
		snprintf(vm->reason, sizeof(vm->reason), "%s", e ? e->text : "could not be started");
		vm_state_changed(vm);
		return rc;
	}
	vm_clock_start(vm);
	vm->state = RS_RUNNING;
	vm->owner = true;
	vm->epoch++;
	snprintf(vm->owner_name, sizeof(vm->owner_name), "%s", host_name);
	vm->reason[0] = 0;
	vm->exits_before = 0;
	vm->debug_exit_code = -1;
	vm->started_us = now_us();
	vm->next_self_migration = self_migrate_exits ? self_migrate_exits : SELF_MIGRATION_OFF;
	log_info("guest", "%s: started, %llu MiB, %u vCPU, epoch %llu", vm->config.name,
		 (unsigned long long)vm->ram_bytes >> 20, vm->config.vcpus, (unsigned long long)vm->epoch);
	vm_state_changed(vm);
	vm_unhold(vm);
	/* What was never moved needs no record: the definition says it all. */
	if (keep_owner(vm->config.name, peer, &epoch) != KEEP_NONE)
		(void)!keep_here(vm->config.name, vm->epoch, NULL);
	return 0;
}

/* Ends it in one of the dead states, for the reason in reason[]. */
static void end(struct vm *vm, enum run_state state)
{
	vm_hold(vm);
	vm_clock_stop(vm);
	vm->state = state;
	log_line(state == RS_SHUTDOWN ? LOG_INFO : LOG_ERR, "guest", "%s: %s (%s)", vm->config.name, vm_run_state_name(state), vm->reason);
	vm_state_changed(vm);
	vm_unhold(vm);
}

static void end_killed(struct vm *vm)
{
	end(vm, vm->panicked ? RS_GUEST_PANICKED : RS_INTERNAL_ERROR);
}

void vm_stop(struct vm *vm, const char *reason)
{
	if (vm_is_dead(vm) || !vm_is_populated(vm))
		return;
	log_guard();
	snprintf(vm->reason, sizeof(vm->reason), "%s", reason);
	end(vm, RS_SHUTDOWN);
}

int vm_reset(struct vm *vm, struct error *e)
{
	int rc;

	if (vm->state != RS_RUNNING && vm->state != RS_PAUSED)
		return error_set(e, E_STATE, "guest %s is %s: only a running guest can be reset; use start", vm->config.name,
				 vm_run_state_name(vm->state));
	/* A guest whose move is undecided is paused here, and must not run (mig/). */
	if (!vm->owner)
		return error_set(e, E_STATE, "guest %s is not this host's to reset: its owner is %s", vm->config.name, vm->owner_name);
	vm_hold(vm);
	rc = boot_guest(vm, e);
	if (rc) {
		vm_kill(vm, "reset failed: %s", e ? e->text : "image cannot be loaded");
	} else {
		if (vm->state == RS_RUNNING)
			vm_clock_start(vm);
		log_guest(LOG_INFO, "guest", "%s: reset", vm->config.name);
	}
	vm_unhold(vm);
	return rc;
}

/* The reset that the guest asked for. Clearing memory and loading images takes long, and no service runs meanwhile: a
 * guest that resets itself again and again gets no more than a tenth of the time for it. */
static void reset_as_asked(struct vm *vm)
{
	struct error e = { 0 };
	u64 start = host_tsc(), end;

	if (vm_reset(vm, &e))
		log_err("guest", "%s: %s", vm->config.name, e.text);
	end = host_tsc();
	vm->reset_after = end + 9 * (end - start);
}

void vm_pause(struct vm *vm, enum run_state state)
{
	BUG_ON(state != RS_PAUSED && state != RS_FINISH_MIGRATE);
	vm_hold(vm);
	if (vm->want_reset && vm->state == RS_RUNNING)
		reset_as_asked(vm); /* now, or a paused guest's move would lose it */
	if (vm->state == RS_RUNNING || vm->state == RS_PAUSED) {
		vm_clock_stop(vm);
		vm->state = state;
		vm_state_changed(vm);
	}
	vm_unhold(vm);
}

int vm_resume(struct vm *vm, struct error *e)
{
	if (!vm->owner)
		return error_set(e, E_STATE, "guest %s is not this host's to run: its owner is %s", vm->config.name, vm->owner_name);
	if (!vm_is_populated(vm) || vm_is_dead(vm))
		return error_set(e, E_STATE, "guest %s is %s: use start", vm->config.name, vm_run_state_name(vm->state));
	if (vm->state == RS_RUNNING)
		return 0;
	vm_hold(vm);
	vm_clock_start(vm);
	vm->reason[0] = 0;
	vm->state = RS_RUNNING;
	if (vm->next_self_migration == SELF_MIGRATION_OFF && self_migrate_exits)
		vm->next_self_migration = vm->vcpus[0]->exits + self_migrate_exits;
	vm_state_changed(vm);
	vm_unhold(vm);
	return 0;
}

static void want(struct vm *vm, bool *what)
{
	*what = true;
	__atomic_store_n(&vm->attention, true, __ATOMIC_SEQ_CST);
	sched_wake_service();
}

void vm_kill(struct vm *vm, const char *fmt, ...)
{
	static struct spinlock one; /* two vCPUs may die at the same time: the reason is the first one's */
	/* In a vCPU's run loop, or in one of its devices: the service CPU does it when nothing of the guest is on a stack. */
	bool later = this_cpu()->running || spin_is_locked(&vm->lock), first;
	va_list ap;

	log_guard();
	spin_lock(&one);
	first = !vm_is_dead(vm) && !vm->want_kill;
	if (first) {
		va_start(ap, fmt);
		vsnprintf(vm->reason, sizeof(vm->reason), fmt, ap);
		va_end(ap);
		vm->want_kill = later;
	}
	spin_unlock(&one);
	if (first && later)
		want(vm, &vm->want_kill);
	else if (first)
		end_killed(vm);
}

void vm_request_panic(struct vm *vm, const char *reason)
{
	if (vm_is_dead(vm) || vm->want_kill)
		return;
	vm->panicked = true;
	vm_kill(vm, "%s", reason);
}

void vm_request_reset(struct vm *vm, const char *reason)
{
	want(vm, &vm->want_reset);
	log_guard();
	log_guest(LOG_INFO, "guest", "%s: asks for a reset (%s)", vm->config.name, reason);
}

void vm_request_poweroff(struct vm *vm, const char *reason)
{
	log_guard();
	snprintf(vm->reason, sizeof(vm->reason), "%s", reason);
	want(vm, &vm->want_poweroff);
}

struct vcpu *vm_vcpu(struct vm *vm, unsigned id)
{
	return id < vm->n_vcpus ? vm->vcpus[id] : NULL;
}

unsigned vm_vcpu_count(const struct vm *vm)
{
	return vm->n_vcpus;
}

static void self_migrate(struct vm *vm)
{
	if (vm->state != RS_RUNNING)
		return;
	if (!vm->mig) { /* else it just runs on: a move is under way */
		sched_self_migrate(vm);
		vm->self_migrations++;
	}
	if (vm_is_populated(vm))
		vm->next_self_migration = vm->vcpus[0]->exits + self_migrate_exits;
}

static void attend(struct vm *vm)
{
	if (vm->want_kill && !vm_is_dead(vm)) {
		end_killed(vm);
	} else if (vm->want_poweroff && !vm_is_dead(vm)) {
		end(vm, RS_SHUTDOWN);
	} else if (vm->want_reset && vm->state == RS_RUNNING) {
		if (host_tsc() < vm->reset_after)
			return; /* it stands still until then */
		reset_as_asked(vm);
	} else if (vm->want_self_migration) {
		self_migrate(vm);
	}
	attended(vm);
}

/* Done between slices, when nothing of the guest is on the stack. */
void lifecycle_poll(struct vm *vm)
{
	if (__atomic_load_n(&vm->attention, __ATOMIC_SEQ_CST)) {
		vm_hold(vm);
		attend(vm);
		vm_unhold(vm);
	}
	if (vm_is_dead(vm) && vm_is_populated(vm) && !vm->mig)
		vm_release(vm);
}
