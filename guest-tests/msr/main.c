/* SPDX-License-Identifier: MIT */
/* msr: unknown MSRs and bad values raise #GP(0) and nothing else; known ones keep their values. */
#include "guest.h"

enum {
	MSR_TSC = 0x10, MSR_TSC_ADJUST = 0x3b, MSR_SYSENTER_CS = 0x174, MSR_SYSENTER_ESP = 0x175,
	MSR_SYSENTER_EIP = 0x176, MSR_MISC_ENABLE = 0x1a0, MSR_PAT = 0x277, MSR_EFER = 0xc0000080,
	MSR_STAR = 0xc0000081, MSR_LSTAR = 0xc0000082, MSR_CSTAR = 0xc0000083,
	MSR_FMASK = 0xc0000084, MSR_FS_BASE = 0xc0000100, MSR_GS_BASE = 0xc0000101,
	MSR_KERNEL_GS_BASE = 0xc0000102, MSR_TSC_AUX = 0xc0000103,
};

static void check_unknown(void)
{
	static const u32 unknown[] = { 0x12345, 0x4b564dff, 0xc0001fff, 0xdeadbeef, 0x7fffffff,
				       0xffffffff };

	for (u32 i = 0; i < ARRAY_SIZE(unknown); i++) {
		u64 v;
		int rd = try_rdmsr(unknown[i], &v), wr = try_wrmsr(unknown[i], 0);

		printf("msr 0x%x: read %d write %d\n", unknown[i], rd, wr);
		CHECK("msr.unknown.read", rd == VEC_GP && !fault_error, "0x%x gave %d", unknown[i], rd);
		CHECK("msr.unknown.write", wr == VEC_GP, "0x%x gave %d", unknown[i], wr);
	}
}

static void check_bad_values(void)
{
	static const struct {
		const char *name;
		u32 msr;
		u64 value;
	} bad[] = {
		{ "efer.reserved", MSR_EFER, BIT(63) | 0x500 },
		{ "efer.lme-off", MSR_EFER, 0 }, /* while paging is on */
		{ "pat.type-2", MSR_PAT, 0x0007040600070402 },
		{ "apic-base.reserved", MSR_APIC_BASE, APIC_MMIO | APIC_BASE_EN | BIT(60) | BIT(8) },
		{ "apic-base.x2-only", MSR_APIC_BASE, APIC_MMIO | APIC_BASE_EXTD | BIT(8) },
		{ "lstar.non-canonical", MSR_LSTAR, BIT(62) },
		{ "fs-base.non-canonical", MSR_FS_BASE, BIT(48) },
		{ "kernel-gs-base.non-canonical", MSR_KERNEL_GS_BASE, BIT(63) },
		{ "sysenter-eip.non-canonical", MSR_SYSENTER_EIP, BIT(60) },
	};

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		u64 before = rdmsr(bad[i].msr);
		int vec = try_wrmsr(bad[i].msr, bad[i].value);

		CHECK(bad[i].name, vec == VEC_GP, "0x%x := 0x%lx gave %d", bad[i].msr, bad[i].value,
		      vec);
		CHECK(bad[i].name, rdmsr(bad[i].msr) == before, "changed to 0x%lx",
		      rdmsr(bad[i].msr));
	}
}

static void check_kept(void)
{
	static const struct {
		const char *name;
		u32 msr;
		u64 value;
	} kept[] = {
		{ "sysenter-cs", MSR_SYSENTER_CS, 0x8 },
		{ "sysenter-esp", MSR_SYSENTER_ESP, 0xffff800012345678 },
		{ "sysenter-eip", MSR_SYSENTER_EIP, 0xffff800087654321 },
		{ "pat", MSR_PAT, 0x0007010600070406 },
		{ "star", MSR_STAR, 0x0023001000000000 },
		{ "lstar", MSR_LSTAR, 0xffffffff81800000 },
		{ "cstar", MSR_CSTAR, 0xffffffff81900000 },
		{ "fmask", MSR_FMASK, 0x47700 },
		{ "fs-base", MSR_FS_BASE, 0x00007f1234567000 },
		{ "gs-base", MSR_GS_BASE, 0xffff888000000000 },
		{ "kernel-gs-base", MSR_KERNEL_GS_BASE, 0x7ffffffff000 },
	};
	u64 old[ARRAY_SIZE(kept)];

	for (u32 i = 0; i < ARRAY_SIZE(kept); i++) {
		old[i] = rdmsr(kept[i].msr);
		if (try_wrmsr(kept[i].msr, kept[i].value) != VEC_NONE)
			CHECK(kept[i].name, false, "write gave #%d", fault_vector);
	}
	for (int i = 0; i < 100; i++) { /* exits of several kinds in between */
		cpuid(1, 0);
		pm_timer_read();
		inb(0x71);
	}
	for (u32 i = 0; i < ARRAY_SIZE(kept); i++) {
		u64 v = rdmsr(kept[i].msr);

		CHECK(kept[i].name, v == kept[i].value, "0x%lx, not 0x%lx", v, kept[i].value);
		wrmsr(kept[i].msr, old[i]);
	}
	wrmsr(MSR_KERNEL_GS_BASE, 0x1234000);
	wrmsr(MSR_GS_BASE, 0x5678000);
	__asm__ volatile("swapgs");
	CHECK("swapgs", rdmsr(MSR_GS_BASE) == 0x1234000 && rdmsr(MSR_KERNEL_GS_BASE) == 0x5678000,
	      "gs 0x%lx kernel-gs 0x%lx", rdmsr(MSR_GS_BASE), rdmsr(MSR_KERNEL_GS_BASE));
	wrmsr(MSR_GS_BASE, 0);
	wrmsr(MSR_KERNEL_GS_BASE, 0);
}

static void check_tsc(void)
{
	u64 before = rdtsc(), msr = rdmsr(MSR_TSC), after = rdtsc(), v = 0, moved;

	CHECK("tsc.msr", before <= msr && msr <= after, "%lu is not in %lu..%lu", msr, before, after);
	if (cpuid(7, 0).ebx & BIT(1)) {
		CHECK("tsc-adjust.read", try_rdmsr(MSR_TSC_ADJUST, &v) == VEC_NONE, "faults");
		before = rdtsc();
		wrmsr(MSR_TSC_ADJUST, v + (1ull << 40));
		moved = rdtsc() - before;
		CHECK("tsc-adjust.moves", moved >= 1ull << 40 && moved < (1ull << 40) + (1ull << 34),
		      "moved by %lu", moved);
		wrmsr(MSR_TSC_ADJUST, v);
	}
	if (cpuid(0x80000001, 0).edx & BIT(27)) {
		u32 aux, lo, hi;

		wrmsr(MSR_TSC_AUX, 0xabcd1234);
		cpuid(0, 0);
		__asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
		CHECK("tsc-aux", aux == 0xabcd1234, "0x%x", aux);
	}
	CHECK("misc-enable", try_rdmsr(MSR_MISC_ENABLE, &v) == VEC_NONE, "faults");
	CHECK("misc-enable.write-back", try_wrmsr(MSR_MISC_ENABLE, v) == VEC_NONE, "faults");
	/* Fast strings: without them Linux would mistrust CPUID's ERMS and FSRM. */
	CHECK("misc-enable.fast-strings", v & 1, "0x%lx", v);
}

int main(void)
{
	check_unknown();
	check_bad_values();
	check_kept();
	check_tsc();
	return 0;
}
