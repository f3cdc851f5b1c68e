/* SPDX-License-Identifier: MIT */
#include "hv/vm/sched.h"
#include "hv/arch/cpu.h"
#include "hv/arch/x86.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/vm/lifecycle.h"
#include "hv/vm/vcpu.h"
#include "hv/vm/vm_clock.h"
#include "hv/vmx/vmx.h"
#include "mig/mig.h"
#include "net/net.h"

#define SLICE_MIN_HZ 1000 /* a slice is at least 1/1000 s ... */
#define SLICE_MAX_HZ 50   /* ... and at most 1/50 s, so that the network is looked at often enough */
#define SLICE_AP_HZ 250   /* where there is no network to look at: how long others wait at most */
/* An idle service CPU looks at the network, which does not interrupt, so often ... */
#define POLL_HZ 20000
/* ... but if nobody is connected, once in a sixteenth of the time that nothing has come: no answer is later by more. */
#define POLL_SHARE 16
#define POLL_LEAST_HZ 1000 /* a gigabit card's ring is full after 3 ms */
#define SLEEP_HZ 10       /* no other CPU sleeps longer */

static struct spinlock lock;

void sched_lock(void) { spin_lock(&lock); }
void sched_unlock(void) { spin_unlock(&lock); }

void sched_wake(void)
{
	/* One that sleeps is enough: there is one vCPU more to run. The boot CPU runs guests only if it is alone. */
	for (u32 i = n_cpus > 1; i < n_cpus; i++)
		if (__atomic_load_n(&cpus[i]->idle, __ATOMIC_SEQ_CST) && cpu_wake(cpus[i]))
			return;
}

void sched_wake_service(void)
{
	if (__atomic_load_n(&cpus[0]->idle, __ATOMIC_SEQ_CST))
		cpu_wake(cpus[0]);
}

static bool may_run(const struct vm *vm)
{
	return vm && vm->state == RS_RUNNING && !vm->hold && !vm->attention && !vm->disks_wait;
}

bool sched_others_wait(const struct vcpu *v)
{
	bool found = false;

	spin_lock(&lock);
	for (unsigned i = 0; i < VM_MAX && !found; i++)
		for (unsigned n = 0; may_run(vms[i]) && n < vms[i]->n_vcpus && !found; n++)
			found = vms[i]->vcpus[n] != v && !vms[i]->vcpus[n]->on_cpu && vcpu_runnable(vms[i]->vcpus[n]);
	spin_unlock(&lock);
	return found;
}

/* vCPUs whose spun is this have yielded since one last ran on without. */
static u64 spins = 1;

static bool behind(const struct vcpu *v)
{
	return v->spun == __atomic_load_n(&spins, __ATOMIC_RELAXED);
}

/* The runnable vCPU with the least time, or NULL; one that has yielded only if there is no other. *until is lowered to the host
 * TSC at which a timer of a halted one is due. */
static struct vcpu *pick(u64 *until)
{
	struct vcpu *best = NULL;
	u64 now = host_tsc();
	unsigned more = 0;

	spin_lock(&lock);
	for (unsigned i = 0; i < VM_MAX; i++) {
		struct vm *vm = vms[i];

		if (!may_run(vm))
			continue;
		for (unsigned n = 0; n < vm->n_vcpus; n++) {
			struct vcpu *v = vm->vcpus[n];

			if (v->on_cpu)
				continue;
			if (vcpu_runnable(v)) {
				more++;
				if (!best || (behind(v) == behind(best) ? v->vruntime < best->vruntime : behind(best)))
					best = v;
			} else if (vm->next_deadline[n] != VDEV_NEVER) {
				u64 due = vm->next_deadline[n], tsc = vm_tsc(vm);

				/* Guests may set timers for the end of all time: nobody sleeps longer than a second anyway. */
				*until = MIN(*until, now + (due > tsc ? MIN(vm_clock_host_ticks(vm, due - tsc), host_tsc_hz()) : 0));
			}
		}
	}
	if (best)
		__atomic_store_n(&best->on_cpu, true, __ATOMIC_SEQ_CST);
	spin_unlock(&lock);
	if (more > 1)
		sched_wake();
	return best;
}

static u64 latest; /* vruntime of the one that was picked last */

static void charge(struct vcpu *v, u64 ticks)
{
	u32 weight = v->vm->config.weight ? v->vm->config.weight : CONFIG_DEFAULT_WEIGHT;

	v->uncharged += ticks; /* what is left over counts the next time, or short runs would be free */
	v->vruntime += v->uncharged / weight;
	v->uncharged %= weight;
}

/* until: somebody must look then whether another vCPU is to run. */
static void run(struct vcpu *v, u64 slice, u64 until)
{
	u64 start = host_tsc(), ran;

	/* One that slept long is ahead of the others by a slice, not by all that it has slept through. */
	v->vruntime = MAX(v->vruntime, latest > slice / CONFIG_DEFAULT_WEIGHT ? latest - slice / CONFIG_DEFAULT_WEIGHT : 0);
	latest = v->vruntime;
	vcpu_run(v, MIN(start + slice, until));
	ran = host_tsc() - start;
	v->run_tsc += ran;
	charge(v, ran);
	if (v->yields)
		v->spun = spins;
	else
		__atomic_add_fetch(&spins, 1, __ATOMIC_RELAXED);
	v->yields = false;
	if (n_cpus > 1)
		vcpu_put(v); /* whoever is next, it may be another CPU */
	__atomic_store_n(&v->on_cpu, false, __ATOMIC_SEQ_CST);
}

/* vm_hold() and vm_unhold(): a vCPU that somebody has picked before it saw hold leaves at once. */
void vm_hold(struct vm *vm)
{
	spin_lock(&lock);
	__atomic_add_fetch(&vm->hold, 1, __ATOMIC_SEQ_CST);
	spin_unlock(&lock);
	if (n_cpus == 1)
		return;
	for (unsigned i = 0; i < vm->n_vcpus; i++) {
		vcpu_kick(vm->vcpus[i]);
		while (__atomic_load_n(&vm->vcpus[i]->on_cpu, __ATOMIC_SEQ_CST))
			cpu_pause();
	}
}

void vm_unhold(struct vm *vm)
{
	struct vcpu *v = this_cpu()->current;

	if (n_cpus > 1 && v && v->vm == vm)
		vcpu_put(v);
	/* With the lock, or a CPU that looks for work could see the guest's state from before and the hold from after: it would
	 * run a vCPU of a guest that has just been stopped, and is about to be freed. */
	spin_lock(&lock);
	__atomic_sub_fetch(&vm->hold, 1, __ATOMIC_SEQ_CST);
	spin_unlock(&lock);
	for (unsigned i = 0; n_cpus > 1 && i < vm->n_vcpus; i++)
		sched_wake();
}

void sched_run_guests(void)
{
	struct cpu *c = this_cpu();
	struct error e = { 0 };

	if (vmx_on(&e)) {
		log_err("cpu", "CPU %u runs no guests: %s", c->id, e.text);
		return; /* not started: it does not count, so the boot CPU runs guests itself if it is the only one left */
	}
	__atomic_store_n(&c->started, true, __ATOMIC_SEQ_CST);
	for (;;) {
		u64 until = host_tsc() + host_tsc_hz() / SLEEP_HZ;
		struct vcpu *v = pick(&until);

		if (!v) {
			__atomic_store_n(&c->idle, true, __ATOMIC_SEQ_CST);
			v = pick(&until); /* what came before idle was seen woke nobody */
			if (!v) {
				cpu_sleep(until);
				continue;
			}
			if (!__atomic_exchange_n(&c->idle, false, __ATOMIC_SEQ_CST))
				sched_wake(); /* somebody has called this CPU for another one meanwhile */
		}
		run(v, host_tsc_hz() / SLICE_AP_HZ, until);
	}
}

void sched_self_migrate(struct vm *vm)
{
	u64 start = host_tsc();

	fpu_release();
	mig_self(vm);
	/* On its account, or guests that do nothing else would always be ahead of one that computes. */
	if (vm_is_populated(vm))
		charge(vm->vcpus[0], host_tsc() - start);
}

static bool all_dead(void)
{
	bool any = false;

	for (unsigned i = 0; i < VM_MAX; i++) {
		if (!vms[i] || vms[i]->state == RS_PRELAUNCH)
			continue;
		if (!vm_is_dead(vms[i]) || vms[i]->mig)
			return false;
		any = true;
	}
	return any;
}

/* One turn of everything that is not a guest. */
static bool services(void)
{
	bool busy;

	fpu_release();
	log_poll();
	busy = net_poll();
	busy |= mig_poll();
	for (unsigned i = 0; i < VM_MAX; i++)
		if (vms[i])
			busy |= vm_service(vms[i]);
	return busy;
}

/* A vCPU or a device on another CPU wants something of the services. Devices of a guest that stands still wait (vm_service()). */
static bool called(void)
{
	for (unsigned i = 0; i < VM_MAX; i++)
		if (vms[i] && ((vms[i]->state == RS_RUNNING && __atomic_load_n(&vms[i]->kicked, __ATOMIC_SEQ_CST)) ||
			       __atomic_load_n(&vms[i]->attention, __ATOMIC_SEQ_CST)))
			return true;
	return false;
}

void sched_run(const struct config *c)
{
	struct cpu *cpu = this_cpu();
	u64 slice_min = host_tsc_hz() / SLICE_MIN_HZ, slice_max = host_tsc_hz() / SLICE_MAX_HZ, awake = host_tsc();

	for (;;) {
		u64 start = host_tsc(), until, took;
		bool busy = services();
		struct vcpu *v = NULL;

		took = host_tsc() - start;
		if (busy)
			service_ticks += took;
		if (busy || net_waits() || log_pending())
			awake = start;
		until = start + MAX(MIN((start - awake) / POLL_SHARE, host_tsc_hz() / POLL_LEAST_HZ), host_tsc_hz() / POLL_HZ);
		if (n_cpus == 1)
			v = pick(&until);
		/* Guests get as much as the services just took: a move cannot starve them. */
		if (v)
			run(v, busy ? MIN(MAX(took, slice_min), slice_max) : slice_min, ~0ull);
		for (unsigned i = 0; i < VM_MAX; i++)
			if (vms[i])
				lifecycle_poll(vms[i]);
		if (v || busy)
			continue;
		if (c->quit_when_idle && all_dead()) {
			log_info("hv", "all guests have ended: powering off");
			machine_poweroff();
		}
		__atomic_store_n(&cpu->idle, true, __ATOMIC_SEQ_CST);
		if (called())
			__atomic_store_n(&cpu->idle, false, __ATOMIC_SEQ_CST);
		else
			cpu_sleep(until);
	}
}
