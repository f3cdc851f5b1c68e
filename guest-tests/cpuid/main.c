/* SPDX-License-Identifier: MIT */
/*
 * cpuid: what CPUID offers works, what it does not offer is not there, and nothing is shown that a
 * guest of one virtual CPU cannot have. Argument: bare (no hypervisor is expected).
 */
#include "guest.h"

#define F(leaf, reg, bit, name) { leaf, offsetof(struct cpuid, reg), bit, name }

struct feature {
	u32 leaf;
	u32 reg; /* offset in struct cpuid */
	u32 bit;
	const char *name;
};

static bool has(const struct feature *f)
{
	struct cpuid c;

	if (cpuid(f->leaf & 0x80000000, 0).eax < f->leaf)
		return false;
	c = cpuid(f->leaf, 0);
	return *(u32 *)((u8 *)&c + f->reg) & BIT(f->bit);
}

/* Hidden from guests: they need what a guest cannot be given, or would pin it to one host. */
static const struct feature hidden[] = {
	F(1, ecx, 5, "vmx"), F(1, ecx, 6, "smx"), F(1, ecx, 2, "dtes64"), F(1, ecx, 4, "ds-cpl"),
	F(1, ecx, 7, "est"), F(1, ecx, 8, "tm2"), F(1, ecx, 15, "pdcm"), F(1, edx, 21, "ds"),
	F(1, edx, 22, "acpi-thermal"), F(1, edx, 29, "tm"), F(7, ebx, 2, "sgx"),
	F(7, ebx, 12, "rdt-m"), F(7, ebx, 15, "rdt-a"), F(7, ebx, 25, "pt"), F(7, ecx, 30, "sgx-lc"),
	F(7, edx, 18, "pconfig"), F(7, edx, 19, "arch-lbr"), F(7, edx, 22, "amx-bf16"),
	F(7, edx, 24, "amx-tile"), F(7, edx, 25, "amx-int8"),
};

static void check_hidden(void)
{
	u32 seen = 0;

	for (u32 i = 0; i < ARRAY_SIZE(hidden); i++) {
		if (has(&hidden[i])) {
			printf("cpuid: %s is shown\n", hidden[i].name);
			seen++;
		}
	}
	CHECK("cpuid.hidden", !seen, "%u features that a guest cannot have", seen);
	CHECK("cpuid.no-perf", cpuid(0, 0).eax < 10 || !(cpuid(10, 0).eax & 0xff),
	      "version %u", cpuid(10, 0).eax & 0xff);
}

static void check_hypervisor(void)
{
	struct cpuid c;
	u32 sign[4] = { 0 };
	bool on = cpuid(1, 0).ecx & BIT(31);

	if (arg_is("bare", NULL))
		return;
	CHECK("hypervisor.bit", on, "leaf 1 ECX 0x%x", cpuid(1, 0).ecx);
	if (!on)
		return;
	c = cpuid(0x40000000, 0);
	sign[0] = c.ebx;
	sign[1] = c.ecx;
	sign[2] = c.edx;
	printf("cpuid: hypervisor '%s', leaves to 0x%x\n", (char *)sign, c.eax);
	CHECK("hypervisor.leaf", c.eax >= 0x40000000 && c.eax < 0x40010000, "0x%x", c.eax);
	CHECK("hypervisor.repeats", cpuid(0x40000000, 0).ebx == c.ebx, "differs");
}

/* Each bit of CR4 that has a CPUID feature can be set if and only if that is offered. */
static void check_cr4(void)
{
	static const struct {
		struct feature f;
		u32 bit;
	} cr4[] = {
		{ F(1, edx, 1, "vme"), 0 }, { F(1, edx, 2, "de"), 3 }, { F(1, edx, 3, "pse"), 4 },
		{ F(1, edx, 7, "mce"), 6 }, { F(1, edx, 13, "pge"), 7 }, { F(7, ecx, 2, "umip"), 11 },
		{ F(1, ecx, 5, "vmx"), 13 }, { F(1, ecx, 6, "smx"), 14 },
		{ F(7, ebx, 0, "fsgsbase"), 16 }, { F(1, ecx, 17, "pcid"), 17 },
		{ F(1, ecx, 26, "xsave"), 18 }, { F(7, ebx, 7, "smep"), 20 },
		{ F(7, ebx, 20, "smap"), 21 }, { F(7, ecx, 3, "pku"), 22 },
	};
	u64 before = read_cr4();

	for (u32 i = 0; i < ARRAY_SIZE(cr4); i++) {
		u64 v = before | BIT(cr4[i].bit);
		int vec = TRY("mov %0, %%cr4", , "r"(v));
		bool set = vec == VEC_NONE && read_cr4() & BIT(cr4[i].bit);

		CHECK(cr4[i].f.name, set == has(&cr4[i].f) && (vec == VEC_NONE || vec == VEC_GP),
		      "offered %d, CR4 bit %u set %d, vector %d", has(&cr4[i].f), cr4[i].bit, set, vec);
		write_cr4(before);
	}
	CHECK("cr4.reserved", TRY("mov %0, %%cr4", , "r"(before | BIT(31))) == VEC_GP, "vector %d",
	      fault_vector);
	CHECK("cr0.reserved-high", TRY("mov %0, %%cr0", , "r"(read_cr0() | BIT(40))) == VEC_GP,
	      "vector %d", fault_vector);
	write_cr4(before | BIT(18));
	CHECK("osxsave.follows", !!(cpuid(1, 0).ecx & BIT(27)) == !!(cpuid(1, 0).ecx & BIT(26)),
	      "leaf 1 ECX 0x%x", cpuid(1, 0).ecx);
	write_cr4(before & ~BIT(18));
	CHECK("osxsave.clears", !(cpuid(1, 0).ecx & BIT(27)), "leaf 1 ECX 0x%x", cpuid(1, 0).ecx);
	write_cr4(before);
}

/* MSRs that exist if and only if CPUID says so. */
static void check_msrs(void)
{
	static const struct {
		struct feature f;
		u32 msr;
	} msrs[] = {
		{ F(7, ebx, 1, "tsc-adjust"), 0x3b }, { F(1, ecx, 24, "tsc-deadline"), 0x6e0 },
		{ F(7, edx, 29, "arch-capabilities"), 0x10a }, { F(7, edx, 26, "spec-ctrl"), 0x48 },
		{ F(7, edx, 30, "core-capabilities"), 0xcf }, { F(1, edx, 12, "mtrr"), 0xfe },
		{ F(1, edx, 16, "pat"), 0x277 }, { F(1, edx, 14, "mca"), 0x179 },
		{ F(0x80000001, edx, 27, "rdtscp"), 0xc0000103 }, { F(1, edx, 11, "sep"), 0x174 },
	};

	for (u32 i = 0; i < ARRAY_SIZE(msrs); i++) {
		u64 v = 0;
		int vec = try_rdmsr(msrs[i].msr, &v);
		bool offered = has(&msrs[i].f);

		/* Existing without being offered does little harm; the reverse kills a guest. */
		if (!offered && vec == VEC_NONE)
			printf("cpuid: MSR 0x%x is there without %s\n", msrs[i].msr, msrs[i].f.name);
		CHECK(msrs[i].f.name, !offered || vec == VEC_NONE, "offered, but MSR 0x%x gives %d",
		      msrs[i].msr, vec);
	}
}

static void xsetbv(u64 v)
{
	__asm__ volatile("xsetbv" : : "c"(0), "a"((u32)v), "d"((u32)(v >> 32)));
}

static int try_xsetbv(u64 v)
{
	return TRY("xsetbv", , ARGS("c"(0), "a"((u32)v), "d"((u32)(v >> 32))));
}

/* SDM "Compacted Format of the Extended Region of an XSAVE Area", for what XCR0 and XSS enable. */
static u32 compacted_size(u64 enabled)
{
	u32 size = 576;

	for (u32 i = 2; i < 63; i++) {
		struct cpuid c = cpuid(13, i);

		if (!(enabled & BIT(i)))
			continue;
		if (c.ecx & 2)
			size = (size + 63) & ~63u;
		size += c.eax;
	}
	return size;
}

static void check_xcr0(void)
{
	struct cpuid d;
	u64 offered, size = 576;
	u32 lo, hi;
	u8 *area;
	static u8 space[16384] __attribute__((aligned(64)));

	if (!(cpuid(1, 0).ecx & BIT(26))) {
		guest_skip("xcr0", "no XSAVE in CPUID");
		return;
	}
	write_cr4(read_cr4() | BIT(18));
	d = cpuid(13, 0);
	offered = d.eax | (u64)d.edx << 32;
	printf("cpuid: XCR0 may be 0x%lx, area %u bytes\n", offered, d.ecx);
	CHECK("xcr0.sse", (offered & 3) == 3, "0x%lx", offered);
	CHECK("xcr0.avx", !(cpuid(1, 0).ecx & BIT(28)) || offered & 4, "AVX without its state");
	CHECK("xcr0.avx512", !(offered & 0xe0) || ((offered & 0xe0) == 0xe0 && offered & 4),
	      "0x%lx", offered);
	CHECK("xcr0.avx512-feature", !(cpuid(7, 0).ebx & BIT(16)) || (offered & 0xe0) == 0xe0,
	      "AVX-512 without its state");
	CHECK("xcr0.no-amx", !(offered & 0x60000), "0x%lx", offered);
	CHECK("xcr0.pku", !(offered & BIT(9)) == !(cpuid(7, 0).ecx & BIT(3)), "0x%lx", offered);

	CHECK("xcr0.all", try_xsetbv(offered) == VEC_NONE, "vector %d", fault_vector);
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	CHECK("xcr0.reads", (lo | (u64)hi << 32) == offered, "0x%x%08x", hi, lo);
	for (u32 i = 2; i < 63; i++) {
		struct cpuid s = cpuid(13, i);

		if (offered & BIT(i) && s.ebx + s.eax > size)
			size = s.ebx + s.eax;
		if (offered & BIT(i) && (!s.eax || s.ecx & 1))
			CHECK("xcr0.component", false, "%u: size %u flags 0x%x", i, s.eax, s.ecx);
	}
	d = cpuid(13, 0);
	CHECK("xcr0.size", d.ebx == size && d.ecx >= d.ebx, "EBX %u ECX %u, components end at %lu",
	      d.ebx, d.ecx, size);
	if (cpuid(13, 1).eax & (BIT(1) | BIT(3)))
		CHECK("xcr0.size-compacted", cpuid(13, 1).ebx == compacted_size(offered), "%u, not %u",
		      cpuid(13, 1).ebx, compacted_size(offered));
	area = space;
	if (d.ebx <= sizeof(space))
		CHECK("xsave", TRY("xsave (%0)", , ARGS("r"(area), "a"(-1), "d"(-1))) == VEC_NONE &&
		      TRY("xrstor (%0)", , ARGS("r"(area), "a"(-1), "d"(-1))) == VEC_NONE,
		      "vector %d", fault_vector);

	CHECK("xcr0.none", try_xsetbv(0) == VEC_GP, "vector %d", fault_vector);
	CHECK("xcr0.avx-alone", try_xsetbv(5) == VEC_GP, "vector %d", fault_vector);
	for (u32 i = 0; i < 64; i++)
		if (!(offered & BIT(i)) && try_xsetbv(offered | BIT(i)) != VEC_GP)
			CHECK("xcr0.not-offered", false, "bit %u: vector %d", i, fault_vector);
	CHECK("xcr0.register-1", TRY("xsetbv", , ARGS("c"(1), "a"(3), "d"(0))) == VEC_GP,
	      "vector %d", fault_vector);
	xsetbv(3);
	CHECK("xcr0.size-small", cpuid(13, 0).ebx == 576, "%u", cpuid(13, 0).ebx);
	if (cpuid(13, 1).eax & (BIT(1) | BIT(3)))
		CHECK("xcr0.size-small-compacted", cpuid(13, 1).ebx == 576, "%u", cpuid(13, 1).ebx);

	d = cpuid(13, 1);
	if (d.eax & BIT(1))
		CHECK("xsavec", TRY("xsavec (%0)", , ARGS("r"(area), "a"(-1), "d"(-1))) == VEC_NONE,
		      "vector %d", fault_vector);
	if (d.eax & BIT(2))
		CHECK("xgetbv1", TRY("xgetbv", ARGS("=a"(lo), "=d"(hi)), "c"(1)) == VEC_NONE,
		      "vector %d", fault_vector);
	if (d.eax & BIT(3)) {
		u64 xss = d.ecx | (u64)d.edx << 32, v = 0;

		/* XSAVES wants a compacted image or zeros. */
		memset(space, 0, sizeof(space));
		CHECK("xsaves", TRY("xsaves (%0)", , ARGS("r"(area), "a"(-1), "d"(-1))) == VEC_NONE &&
		      TRY("xrstors (%0)", , ARGS("r"(area), "a"(-1), "d"(-1))) == VEC_NONE,
		      "vector %d", fault_vector);
		CHECK("xss.read", try_rdmsr(0xda0, &v) == VEC_NONE && !v, "0x%lx", v);
		CHECK("xss.offered", try_wrmsr(0xda0, xss) == VEC_NONE, "0x%lx: vector %d", xss,
		      fault_vector);
		CHECK("xss.not-offered", try_wrmsr(0xda0, BIT(62)) == VEC_GP, "vector %d",
		      fault_vector);
		try_wrmsr(0xda0, 0);
	}
	xsetbv(1);
	write_cr4(read_cr4() & ~BIT(18));
}

static void check_instructions(void)
{
	u64 v = 0;
	u32 aux;
	int vec;
	struct {
		u64 a, b;
	} desc __attribute__((aligned(16))) = { 0, 0 };

	if (cpuid(0x80000001, 0).edx & BIT(27))
		CHECK("rdtscp", TRY("rdtscp", ARGS("=c"(aux)), , "rax", "rdx") == VEC_NONE, "vector %d",
		      fault_vector);
	vec = TRY("rdrand %0", "=r"(v), );
	CHECK("rdrand", (vec == VEC_NONE) == !!(cpuid(1, 0).ecx & BIT(30)), "vector %d", vec);
	vec = TRY("rdseed %0", "=r"(v), );
	CHECK("rdseed", (vec == VEC_NONE) == !!(cpuid(7, 0).ebx & BIT(18)), "vector %d", vec);
	vec = TRY("invpcid %1, %0", , ARGS("r"(2ul), "m"(desc)));
	CHECK("invpcid", vec == (cpuid(7, 0).ebx & BIT(10) ? VEC_NONE : VEC_UD), "vector %d", vec);
	if (cpuid(7, 0).ecx & BIT(22))
		CHECK("rdpid", TRY("rdpid %0", "=r"(v), ) == VEC_NONE, "vector %d", fault_vector);
	vec = TRY("wbinvd", , );
	CHECK("wbinvd", vec == VEC_NONE, "vector %d", vec);
	if (cpuid(7, 0).ebx & BIT(24))
		CHECK("clwb", TRY("clwb %0", , "m"(desc)) == VEC_NONE, "vector %d", fault_vector);
	vec = TRY("vmxoff", , );
	CHECK("vmxoff", vec == VEC_UD, "vector %d", vec);
	vec = TRY("vmxon %0", , "m"(desc));
	CHECK("vmxon", vec == VEC_UD, "vector %d", vec);
	vec = TRY("getsec", , "a"(0), "rbx", "rcx", "rdx");
	CHECK("getsec", vec == VEC_UD || vec == VEC_GP, "vector %d", vec);
	if (!(cpuid(1, 0).ecx & BIT(3))) {
		vec = TRY("monitor", , ARGS("a"(&desc), "c"(0), "d"(0)));
		CHECK("monitor.hidden", vec == VEC_UD, "vector %d", vec);
		vec = TRY("mwait", , ARGS("a"(0), "c"(0)));
		CHECK("mwait.hidden", vec == VEC_UD, "vector %d", vec);
	}
	if (try_rdmsr(0x3a, &v) == VEC_NONE)
		CHECK("feature-control", !(v & 6), "VMX is allowed: 0x%lx", v);
}

static void check_tsc(void)
{
	struct cpuid c;
	u64 khz;

	if (cpuid(0, 0).eax >= 0x15) {
		c = cpuid(0x15, 0);
		if (c.eax && c.ebx && c.ecx) {
			khz = (u64)c.ecx * c.ebx / c.eax / 1000;
			CHECK("tsc.leaf15", khz * 100 > tsc_khz() * 99 && khz * 100 < tsc_khz() * 101,
			      "%lu kHz, measured %lu", khz, tsc_khz());
		}
	}
	if (cpuid(1, 0).ecx & BIT(31) && cpuid(0x40000000, 0).eax >= 0x40000010) {
		khz = cpuid(0x40000010, 0).eax;
		CHECK("tsc.leaf40000010", khz * 100 > tsc_khz() * 99 && khz * 100 < tsc_khz() * 101,
		      "%lu kHz, measured %lu", khz, tsc_khz());
	}
	c = cpuid(0x80000000, 0);
	CHECK("tsc.invariant", (c.eax >= 0x80000007 && cpuid(0x80000007, 0).edx & BIT(8)) ||
	      (cpuid(1, 0).ecx & BIT(31) && cpuid(0x40000001, 0).eax & BIT(24)), "neither a TSC nor a KVM clock that Linux trusts");
}

static void check_topology(void)
{
	u32 id = cpuid(1, 0).ebx >> 24, cpus = cpuid(1, 0).ebx >> 16 & 0xff;
	struct cpuid c;

	apic_enable(false);
	CHECK("topology.apic-id", id == apic_read(APIC_ID) >> 24, "%u, APIC says %u", id,
	      apic_read(APIC_ID) >> 24);
	CHECK("topology.one-cpu", cpus <= 1 || !(cpuid(1, 0).edx & BIT(28)), "%u CPUs", cpus);
	if (cpuid(0, 0).eax >= 11 && cpuid(11, 0).ebx) {
		c = cpuid(11, 0);
		CHECK("topology.leaf11", c.edx == id && (c.ebx & 0xffff) == 1, "id %u, CPUs %u", c.edx,
		      c.ebx & 0xffff);
	}
	c = cpuid(0x80000008, 0);
	CHECK("address.bits", (c.eax & 0xff) >= 32 && (c.eax & 0xff) <= 52, "%u", c.eax & 0xff);
	/* The APIC's feature bit follows its global enable. */
	CHECK("apic.bit", cpuid(1, 0).edx & BIT(9), "off");
}

int main(void)
{
	u32 name[13] = { 0 };

	for (u32 i = 0; i < 3 && cpuid(0x80000000, 0).eax >= 0x80000004; i++) {
		struct cpuid c = cpuid(0x80000002 + i, 0);

		memcpy(&name[4 * i], &c, 16);
	}
	printf("cpuid: leaves to 0x%x, 0x%x, family/model 0x%x '%s'\n", cpuid(0, 0).eax,
	       cpuid(0x80000000, 0).eax, cpuid(1, 0).eax, (char *)name);
	check_hidden();
	check_hypervisor();
	check_cr4();
	check_msrs();
	check_xcr0();
	check_instructions();
	check_tsc();
	check_topology();
	return 0;
}
