/* SPDX-License-Identifier: MIT */
/* From firmware to the scheduler. A host that cannot run guests still brings up its console and control port. */
#include "hv/main.h"
#include "hv/arch/nvram.h"
#include "hv/arch/cpu.h"
#include "hv/keep.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "hv/vm/lifecycle.h"
#include "hv/vm/msr.h"
#include "hv/vm/sched.h"
#include "hv/vmx/vmx.h"
#include "mig/mig.h"
#include "net/net.h"

static const struct boot_info *boot_info;

const struct boot_info *boot_info_get(void)
{
	return boot_info;
}

static bool vmx_start(bool apicv)
{
	const struct host_caps *caps = host_caps();
	struct error e = { 0 };

	if (!caps->usable) {
		for (u32 i = 0; i < caps->n_missing; i++)
			log_err("hv", "guests cannot run here: missing %s", caps->missing[i]);
		log_err("hv", "%s", caps->remedy);
		return false;
	}
	if (vmx_init(apicv, &e) || vmx_on(&e)) {
		log_err("hv", "guests cannot run here: %s", e.text);
		return false;
	}
	log_info("cpu", "interrupts of guests in x2APIC mode are delivered by %s", vmx_config.apicv ? "the CPU" :
		 apicv ? "software: this CPU does not virtualize APICs" : "software, as godwit.conf says (apicv=no)");
	fpu_init();
	msr_init();
	return true;
}

void hv_main(struct boot_info *bi)
{
	const struct config *c = &bi->config;
	bool can_run;

	boot_info = bi;
	arch_init(bi);
	nvram_init(bi);
	BUG_ON(&__start_migratable[0] == &__stop_migratable[0]);
	net_name_host(bi);
	keep_start(c->host_name);
	lifecycle_init(c);
	can_run = vmx_start(c->apicv);
	if (can_run)
		smp_start(bi->trampoline, sched_run_guests);
	mig_init(c->host_name);
	net_init(bi);
	net_wait_time();
	for (u32 i = 0; i < c->n_guests; i++) {
		struct error e = { 0 };
		struct vm *vm = vm_define(&c->guests[i], &e);
		bool known = vm && vm_recall(vm), start = vm && can_run && c->guests[i].autostart;

		if (start && known)
			(void)!vm_start(vm, &e);
		else if (start)
			error_set(&e, E_STATE, "not started by itself: the record that is damaged may have said that it was given to another "
				  "host. Look there, then start it with 'godwit start'");
		if (e.code)
			log_err("guest", "%s: %s", c->guests[i].name, e.text);
	}
	struct frame_stats m = frame_stats();

	log_info("hv", "ready: memory %llu MiB, free %llu MiB, hypervisor %llu KiB", (unsigned long long)m.total >> 20,
		 (unsigned long long)m.free >> 20, (unsigned long long)m.hypervisor >> 10);
	sched_run(c);
}
