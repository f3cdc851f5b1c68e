/* SPDX-License-Identifier: MIT */
#include "hv/vm/kvmclock.h"
#include "hv/lib/clock.h"

#include <string.h>

#define NS_PER_S 1000000000ull
#define ENABLED BIT(0)
#define TSC_STABLE 0x01    /* PVCLOCK_TSC_STABLE_BIT: equal on all vCPUs, no need for the kernel to guard against steps back */
#define GUEST_STOPPED 0x02 /* PVCLOCK_GUEST_STOPPED; the kernel clears it */

/* struct pvclock_vcpu_time_info and struct pvclock_wall_clock of the Linux ABI. */
struct pvclock_page {
	u32 version; /* odd while it is being written */
	u32 pad0;
	u64 tsc_timestamp, system_time; /* ns at that TSC */
	u32 tsc_to_system_mul;
	signed char tsc_shift;
	u8 flags, pad[2];
};
_Static_assert(sizeof(struct pvclock_page) == 32, "as Linux has it");
struct pvclock_wall { u32 version, sec, nsec; };

/* ns = (ticks << shift) * mul >> 32, with mul of full precision (at least 2^31). */
static void scale(u64 hz, u32 *mul, signed char *shift)
{
	u64 ns = NS_PER_S;

	*shift = 0;
	while (hz > ns) { /* afterwards ns/2 < hz' = hz / 2^n <= ns: as a fraction, 1 <= ns/hz' < 2 */
		ns <<= 1;
		(*shift)--;
	}
	while (hz * 2 <= ns) {
		hz <<= 1;
		(*shift)++;
	}
	(*shift)++; /* half of that fits 32 bits */
	*mul = (u32)MIN(muldiv64(ns, BIT(31), hz), 0xffffffffull);
}

static u64 to_ns(const struct vm *vm, u64 tsc)
{
	u32 mul;
	signed char shift;

	scale(vm->tsc_hz, &mul, &shift);
	return (u64)((unsigned __int128)(shift < 0 ? tsc >> -shift : tsc << shift) * mul >> 32);
}

/* Whether all vCPUs read the same TSC. */
static bool tsc_equal(const struct vm *vm)
{
	for (unsigned i = 1; i < vm->n_vcpus; i++)
		if (vm->vcpus[i]->s.tsc_adjust != vm->vcpus[0]->s.tsc_adjust)
			return false;
	return true;
}

/* Writes a page of either kind, whose first word is its version: odd while the rest changes, for others may be reading it. What
 * cannot be written, because there is no memory, is not read. */
static void publish(struct vm *vm, u64 at, void *page, size_t size)
{
	u32 version;

	if (guest_read(vm, gpa(at), &version, sizeof(version)))
		return;
	version = (version + 1) | 1;
	if (guest_write(vm, gpa(at), &version, sizeof(version)))
		return;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	memcpy(page, &version, sizeof(version));
	if (guest_write(vm, gpa(at), page, size))
		return;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	version++;
	(void)!guest_write(vm, gpa(at), &version, sizeof(version));
}

static void page_write(struct vm *vm, unsigned id, u8 kept_flags, u8 more_flags)
{
	u64 at = vm->kvmclock.system_time[id];
	struct pvclock_page p = { 0 }, old;

	if (!(at & ENABLED) || guest_read(vm, gpa(at & ~ENABLED), &old, sizeof(old)))
		return;
	/* The TSC that the guest reads has its adjustment in it; the time has not, and was 0 when the clock began. */
	p.tsc_timestamp = vm->vcpus[id]->s.tsc_adjust;
	scale(vm->tsc_hz, &p.tsc_to_system_mul, &p.tsc_shift);
	p.flags = (tsc_equal(vm) ? TSC_STABLE : 0) | (old.flags & kept_flags) | more_flags;
	publish(vm, at & ~ENABLED, &p, sizeof(p));
}

/* UTC at guest TSC 0. Worked out anew each time, so that it is right by this host's clock, and nothing of it moves. */
static void wall_write(struct vm *vm, u64 at)
{
	u64 ns = wall_us() * 1000 - to_ns(vm, vm_tsc(vm));
	struct pvclock_wall w = { .sec = (u32)(ns / NS_PER_S), .nsec = (u32)(ns % NS_PER_S) };

	publish(vm, at, &w, sizeof(w));
}

int kvmclock_msr(struct vcpu *v, u32 msr, bool write, u64 *val)
{
	u64 *slot = msr == MSR_KVM_WALL_CLOCK_NEW ? &v->vm->kvmclock.wall_clock : &v->vm->kvmclock.system_time[v->id];

	if (!write) {
		*val = *slot;
		return 0;
	}
	spin_lock(&v->vm->kvmclock_lock);
	*slot = *val;
	if (msr == MSR_KVM_WALL_CLOCK_NEW)
		wall_write(v->vm, *val);
	else
		page_write(v->vm, v->id, 0, 0); /* what stood there was no page of ours */
	spin_unlock(&v->vm->kvmclock_lock);
	return 0;
}

static void all_write(struct vm *vm, u8 kept_flags, u8 more_flags)
{
	spin_lock(&vm->kvmclock_lock);
	for (unsigned i = 0; i < vm->n_vcpus; i++)
		page_write(vm, i, kept_flags, more_flags);
	spin_unlock(&vm->kvmclock_lock);
}

void kvmclock_tsc_moved(struct vm *vm) { all_write(vm, GUEST_STOPPED, 0); }
void kvmclock_was_stopped(struct vm *vm) { all_write(vm, 0, GUEST_STOPPED); }

void kvmclock_reset(struct vcpu *v)
{
	v->vm->kvmclock.system_time[v->id] = 0;
	if (v->id == 0)
		v->vm->kvmclock.wall_clock = 0;
}

static const struct mig_field kvmclock_fields[] = {
	MIG_U64(1, struct kvmclock_state, wall_clock, 1),
	MIG_U64S(2, struct kvmclock_state, system_time, 1),
};

/* No value is impossible: an address that is no memory is not written to. */
const struct mig_type kvmclock_type = {
	.name = "kvmclock", .version = 1, .min_version = 1, .phase = MIG_PHASE_CLOCK,
	MIG_STATE(struct kvmclock_state, kvmclock_fields),
};
MIG_REGISTER(kvmclock_type);
