/* SPDX-License-Identifier: MIT */
#include "hv/vm/sched.h"
#include "hv/arch/cpu.h"
#include "hv/arch/x86.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/vm/lifecycle.h"
#include "hv/vm/vcpu.h"
#include "mig/mig.h"
#include "net/net.h"

#define SLICE_MIN_HZ 1000 /* a slice is at least 1/1000 s ... */
#define SLICE_MAX_HZ 50   /* ... and at most 1/50 s, so that the network is looked at often enough */

static bool has_work(struct vm *vm)
{
	struct vcpu *v = vm->n_vcpus ? vm->vcpus[0] : NULL;

	if (!v || vm->state != RS_RUNNING)
		return false;
	return v->s.activity == 0 || v->irq_check || vm_tsc(vm) >= vm->next_deadline;
}

static void run_guest(struct vm *vm, u64 slice, u64 self_migrate_exits)
{
	struct vcpu *v = vm->vcpus[0];
	u64 start = host_tsc();

	vcpu_run(v, start + slice);
	v->run_tsc += host_tsc() - start;
	if (vm->exits >= vm->next_self_migration && vm->state == RS_RUNNING) {
		if (!vm->mig) { /* else it just runs on: a move is under way */
			fpu_release();
			mig_self(vm);
			vm->self_migrations++;
		}
		vm->next_self_migration = vm->exits + self_migrate_exits;
	}
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

void sched_run(const struct config *c)
{
	u64 slice_min = host_tsc_hz() / SLICE_MIN_HZ, slice_max = host_tsc_hz() / SLICE_MAX_HZ;

	for (;;) {
		u64 start = host_tsc();
		bool busy, ran = false;

		fpu_release();
		log_poll();
		busy = net_poll();
		busy |= mig_poll();
		for (unsigned i = 0; i < VM_MAX; i++)
			if (vms[i])
				busy |= vm_service(vms[i]);
		if (busy)
			service_ticks += host_tsc() - start;
		/* Guests get as much as the services just took: a move cannot starve them. */
		u64 slice = busy ? MIN(MAX(host_tsc() - start, slice_min), slice_max) : slice_min;

		for (unsigned i = 0; i < VM_MAX; i++) {
			if (!vms[i])
				continue;
			if (has_work(vms[i])) {
				run_guest(vms[i], slice, c->self_migrate_exits);
				ran = true;
			}
			lifecycle_poll(vms[i]);
		}
		if (!ran && !busy) {
			if (c->quit_when_idle && all_dead()) {
				log_info("hv", "all guests have ended: powering off");
				machine_poweroff();
			}
			cpu_pause();
		}
	}
}
