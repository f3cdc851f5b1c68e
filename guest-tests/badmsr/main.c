/* SPDX-License-Identifier: MIT */
/*
 * badmsr: reads every MSR of the usual ranges and writes back what it read. Each access works or
 * raises #GP; none harms the guest or its host. Argument: step=N (1) tries every Nth only.
 */
#include "guest.h"

static u32 reads, faults, others, writes, write_faults;

static void range(u32 from, u32 to, u32 step)
{
	for (u32 msr = from; msr < to; msr += step) {
		u64 v;
		int vec = try_rdmsr(msr, &v);

		if (vec == VEC_GP) {
			faults++;
			continue;
		}
		if (vec != VEC_NONE) {
			others++;
			continue;
		}
		reads++;
		/* Not the clocks, and not x2APIC registers: writing those does something. */
		if (msr == 0x10 || msr == MSR_TSC_DEADLINE || (msr >= 0x800 && msr < 0x900))
			continue;
		vec = try_wrmsr(msr, v);
		if (vec == VEC_NONE)
			writes++;
		else if (vec == VEC_GP)
			write_faults++;
		else
			others++;
	}
}

int main(void)
{
	u32 step = arg_u64("step", 1);

	range(0, 0x2000, step);
	range(0x40000000, 0x40000200, step);
	range(0x4b564d00, 0x4b564d10, step);
	range(0xc0000000, 0xc0002000, step);
	range(0xc0010000, 0xc0010200, step);
	printf("badmsr: %u readable, %u #GP; written back %u, #GP %u; other faults %u\n", reads,
	       faults, writes, write_faults, others);
	CHECK("badmsr.only-gp", !others, "%u", others);
	CHECK("badmsr.some", reads > 4 && faults > 4, "%u readable", reads);
	return 0;
}
