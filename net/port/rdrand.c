/* SPDX-License-Identifier: MIT */
/* The CPU's random number generator (SDM "RDSEED", "RDRAND"). */
#include "net/port/port.h"
#include "hv/arch/x86.h"

const char *entropy_source(void)
{
	static const char *name;
	static bool asked;

	if (!asked) {
		asked = true;
		if (cpuid(0, 0).eax >= 7 && (cpuid(7, 0).ebx & BIT(18)))
			name = "RDSEED";
		else if (cpuid(1, 0).ecx & BIT(30))
			name = "RDRAND";
	}
	return name;
}

bool entropy_raw(u64 *out)
{
	const char *name = entropy_source();
	u8 ok = 0;

	if (name && name[2] == 'S')
		__asm__ volatile("rdseed %0; setc %1" : "=r"(*out), "=qm"(ok) : : "cc");
	else if (name)
		__asm__ volatile("rdrand %0; setc %1" : "=r"(*out), "=qm"(ok) : : "cc");
	if (!ok && name)
		cpu_pause();
	return ok;
}
