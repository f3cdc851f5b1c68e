/* SPDX-License-Identifier: MIT */
#include "hv/vm/vm_clock.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/vm/kvmclock.h"
#include "hv/vmx/vmx.h"

/* A guest that waits for the outcome of its move can stand still for days. What is longer is no freeze, but a clock that is
 * wrong. */
#define CATCH_UP_MAX_US (30 * 86400 * 1000000ull)

u64 vm_tsc(const struct vm *vm)
{
	return vm->clock_running ? vm_tsc_at(vm, host_tsc()) : vm->paused_tsc;
}

u64 vm_tsc_hz(const struct vm *vm) { return vm->tsc_hz; }
u64 vm_boot_wall_seconds(const struct vm *vm) { return vm->boot_wall_seconds; }

void vm_clock_init(struct vm *vm)
{
	vm->tsc_hz = host_tsc_hz();
	vm->tsc_mult = TSC_MULT_ONE;
	vm->clock_running = false;
	vm->paused_tsc = 0;
	vm->boot_wall_seconds = wall_seconds();
}

void vm_clock_start(struct vm *vm)
{
	if (vm->clock_running)
		return;
	vm->tsc_offset = vm->paused_tsc - vm_clock_scale(host_tsc(), vm->tsc_mult);
	vm->clock_running = true;
}

void vm_clock_stop(struct vm *vm)
{
	if (!vm->clock_running)
		return;
	vm->paused_tsc = vm_tsc(vm);
	vm->clock_running = false;
	vm->stopped_wall_us = wall_synced() ? wall_us() : 0;
}

u64 vm_clock_catch_up(struct vm *vm, u64 stopped_wall_us)
{
	u64 us = wall_us() - stopped_wall_us;

	BUG_ON(vm->clock_running);
	if (!stopped_wall_us || !wall_synced())
		return 0;
	/* Also what a clock that is ahead of the other's makes: a huge number. */
	if (us > CATCH_UP_MAX_US) {
		log_warn("guest", "%s: was frozen for %lld us by the two hosts' clocks, which cannot be: its clock is not set forward",
			 vm->config.name, (long long)us);
		return 0;
	}
	vm->paused_tsc += muldiv64(us, vm->tsc_hz, 1000000);
	kvmclock_was_stopped(vm);
	return us;
}

void vm_clock_save(struct vm *vm, struct vm_clock_state *s)
{
	*s = (struct vm_clock_state){ vm_tsc(vm), vm->tsc_hz, vm->boot_wall_seconds };
}

int vm_clock_rate_check(u64 hz, struct error *e)
{
	u64 ours = host_tsc_hz(), diff = hz > ours ? hz - ours : ours - hz;

	if (hz < 1000000 || hz > 100000000000ull)
		return error_set(e, E_INVAL, "TSC frequency %llu Hz is not believable", (unsigned long long)hz);
	/* 100 ppm is what two calibrations of one crystal may differ by; NTP in the guest corrects 500. */
	if (diff <= ours / 10000 || vmx_config.tsc_scaling)
		return 0;
	return error_set(e, E_UNSUPPORTED,
			 "the guest's TSC runs at %llu kHz, this host's at %llu kHz, and this CPU has no TSC scaling: choose a host with "
			 "the same TSC rate", (unsigned long long)hz / 1000, (unsigned long long)ours / 1000);
}

int vm_clock_load(struct vm *vm, const struct vm_clock_state *s, struct error *e)
{
	u64 ours = host_tsc_hz(), diff = s->tsc_hz > ours ? s->tsc_hz - ours : ours - s->tsc_hz;
	int rc = vm_clock_rate_check(s->tsc_hz, e);

	if (rc)
		return rc;
	if (s->guest_tsc >> 62)
		return error_set(e, E_INVAL, "guest TSC %#llx would overflow", (unsigned long long)s->guest_tsc);
	vm->tsc_hz = s->tsc_hz;
	vm->tsc_mult = diff <= ours / 10000 ? TSC_MULT_ONE : (u64)(((unsigned __int128)s->tsc_hz << 48) / ours);
	vm->boot_wall_seconds = s->boot_wall_seconds;
	vm->paused_tsc = s->guest_tsc;
	vm->clock_running = false;
	return 0;
}
