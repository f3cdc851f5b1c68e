/* SPDX-License-Identifier: MIT */
#include "hv/arch/caps.h"
#include "hv/arch/x86.h"

#include <stdio.h>
#include <string.h>

#define FIRMWARE_HINT "Power the machine on, enter firmware set-up (often F2 or Del), and enable \"Intel Virtualization Technology\"" \
	" (also called VT-x, VMX or Vanderpool), usually under Advanced > CPU Configuration or Security. Then switch the power" \
	" off and on again."

static void miss(struct host_caps *c, const char *what)
{
	if (c->n_missing < CAPS_MAX_MISSING)
		c->missing[c->n_missing++] = what;
}

static void remedy(struct host_caps *c, const char *text)
{
	if (!c->remedy[0])
		snprintf(c->remedy, sizeof(c->remedy), "%s", text);
}

static void read_name(struct host_caps *c)
{
	u32 brand[13] = { 0 };
	const char *p = (const char *)brand;

	if (cpuid(0x80000000, 0).eax >= 0x80000004)
		for (u32 i = 0; i < 3; i++) {
			struct cpuid_regs r = cpuid(0x80000002 + i, 0);

			memcpy(brand + 4 * i, &r, sizeof(r));
		}
	while (*p == ' ')
		p++;
	snprintf(c->cpu_name, sizeof(c->cpu_name), "%s", *p ? p : "unknown CPU");
	for (size_t n = strlen(c->cpu_name); n && c->cpu_name[n - 1] == ' ';)
		c->cpu_name[--n] = 0;
}

/* State components that we enable (SDM "XSAVE-Managed State"). */
static void read_xsave(struct host_caps *c)
{
	const u64 want = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512;
	struct cpuid_regs r = cpuid(0xd, 0);
	u64 have = ((u64)r.edx << 32 | r.eax) & want;

	if ((have & XCR0_AVX512) != XCR0_AVX512 || !(have & XCR0_AVX))
		have &= ~XCR0_AVX512; /* XSETBV takes #GP on part of them */
	c->xcr0 = have | XCR0_X87;
}

static bool vmx_allowed(struct host_caps *c)
{
	u64 fc = rdmsr(MSR_IA32_FEATURE_CONTROL);

	if (!(fc & FEATURE_CONTROL_LOCK)) {
		/* Firmware left the choice to us. */
		fc |= FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX_OUTSIDE_SMX;
		if (wrmsr_safe(MSR_IA32_FEATURE_CONTROL, fc))
			fc = 0;
	}
	if (fc & FEATURE_CONTROL_VMX_OUTSIDE_SMX)
		return true;
	miss(c, "VT-x is locked off by firmware (IA32_FEATURE_CONTROL)");
	remedy(c, "The CPU has VT-x, but firmware has switched it off. " FIRMWARE_HINT);
	return false;
}

enum word { BASIC, PIN, PROC, PROC2, EXIT, ENTRY, EPT_VPID, N_WORDS };

#define NEED(word, bits, what) { word, bits, what }
static const struct { enum word word; u64 bits; const char *what; } needs[] = {
	NEED(PROC2, BIT(1), "extended page tables (EPT)"),
	NEED(EPT_VPID, BIT(6) | BIT(14), "EPT: page walk of 4 levels in write-back memory"),
	NEED(EPT_VPID, BIT(16), "EPT: 2 MiB pages"),
	NEED(EPT_VPID, BIT(21), "EPT: accessed and dirty flags"),
	NEED(EPT_VPID, BIT(20) | BIT(26), "INVEPT of all contexts"),
	NEED(PROC2, BIT(7), "unrestricted guest"),
	NEED(PIN, BIT(6), "VMX-preemption timer"),
	NEED(PIN, BIT(0) | BIT(3), "external-interrupt and NMI exiting"),
	NEED(PROC, BIT(28), "MSR bitmaps"),
	NEED(PROC, BIT(24), "unconditional I/O exiting"),
	NEED(EXIT, BIT(9), "64-bit host"),
	NEED(ENTRY, BIT(9), "64-bit guest"),
	NEED(EXIT, BIT(20) | BIT(21), "saving and loading IA32_EFER at VM exit"),
	NEED(ENTRY, BIT(15), "loading IA32_EFER at VM entry"),
	NEED(EXIT, BIT(18) | BIT(19), "saving and loading IA32_PAT at VM exit"),
	NEED(ENTRY, BIT(14), "loading IA32_PAT at VM entry"),
	NEED(BASIC, BIT(55), "TRUE control capability MSRs"),
};
_Static_assert(ARRAY_SIZE(needs) + 2 <= CAPS_MAX_MISSING, "there is room for all that can be missing");

static void read_vmx(struct host_caps *c)
{
	struct vmx_caps *v = &c->vmx;
	u64 w[N_WORDS], ept_vpid = 0;
	bool exact;

	v->basic = rdmsr(MSR_IA32_VMX_BASIC);
	exact = v->basic & BIT(55);
	v->pin = rdmsr(exact ? MSR_IA32_VMX_TRUE_PINBASED_CTLS : MSR_IA32_VMX_PINBASED_CTLS);
	v->proc = rdmsr(exact ? MSR_IA32_VMX_TRUE_PROCBASED_CTLS : MSR_IA32_VMX_PROCBASED_CTLS);
	v->exit = rdmsr(exact ? MSR_IA32_VMX_TRUE_EXIT_CTLS : MSR_IA32_VMX_EXIT_CTLS);
	v->entry = rdmsr(exact ? MSR_IA32_VMX_TRUE_ENTRY_CTLS : MSR_IA32_VMX_ENTRY_CTLS);
	/* The upper half of a capability MSR says which controls may be 1; these MSRs exist only if the control above does
	 * (SDM "VMX Capability Reporting Facility"). */
	if (v->proc >> 32 & BIT(31))
		v->proc2 = rdmsr(MSR_IA32_VMX_PROCBASED_CTLS2);
	if (v->proc2 >> 32 & (BIT(1) | BIT(5)))
		ept_vpid = rdmsr(MSR_IA32_VMX_EPT_VPID_CAP);
	w[BASIC] = v->basic;
	w[PIN] = v->pin >> 32;
	w[PROC] = v->proc >> 32;
	w[PROC2] = v->proc2 >> 32;
	w[EXIT] = v->exit >> 32;
	w[ENTRY] = v->entry >> 32;
	w[EPT_VPID] = ept_vpid;
	for (u32 i = 0; i < ARRAY_SIZE(needs); i++)
		if ((w[needs[i].word] & needs[i].bits) != needs[i].bits && (needs[i].word != EPT_VPID || w[PROC2] & BIT(1)))
			miss(c, needs[i].what);
	if ((w[BASIC] >> 50 & 15) != 6)
		miss(c, "VMCS in write-back memory");

	c->vpid = w[PROC2] & BIT(5) && ept_vpid & BIT(32) && ept_vpid & BIT(42);
	c->tsc_scaling = w[PROC2] & BIT(25);
	c->invept_single = ept_vpid & BIT(25);
	c->invvpid_single = ept_vpid & BIT(41);
	c->preemption_timer_shift = rdmsr(MSR_IA32_VMX_MISC) & 31;
}

bool cpu_has_nx(void)
{
	return cpuid(0x80000000, 0).eax >= 0x80000001 && cpuid(0x80000001, 0).edx & BIT(20);
}

void cpu_check(struct host_caps *c)
{
	struct cpuid_regs f0 = cpuid(0, 0), f1 = cpuid(1, 0), e1 = { 0 };
	u32 max_ext = cpuid(0x80000000, 0).eax;
	bool intel = f0.ebx == 0x756e6547 && f0.edx == 0x49656e69 && f0.ecx == 0x6c65746e; /* "GenuineIntel" */

	memset(c, 0, sizeof(*c));
	c->n_cpus = 1;
	read_name(c);
	c->phys_bits = 36;
	c->linear_bits = 48;
	if (max_ext >= 0x80000001)
		e1 = cpuid(0x80000001, 0);
	if (max_ext >= 0x80000008) {
		u32 a = cpuid(0x80000008, 0).eax;

		c->phys_bits = a;
		c->linear_bits = a >> 8;
	}
	c->page_1g = e1.edx & BIT(26);
	c->tsc_deadline = f1.ecx & BIT(24);
	c->xcr0 = XCR0_X87 | XCR0_SSE;
	if (!(f1.ecx & BIT(26)) || f0.eax < 0xd)
		miss(c, "XSAVE");
	else
		read_xsave(c);
	if (!(f1.ecx & BIT(5))) {
		miss(c, "VT-x (VMX)");
		if (!intel)
			remedy(c, "Godwit needs an Intel CPU with VT-x; this CPU is not one. Use another machine. In a virtual machine:"
				" use KVM on an Intel host with nested virtualization.");
		else if (f1.ecx & BIT(31))
			remedy(c, "This is a virtual machine without VT-x. Enable nested virtualization for it (KVM: kvm_intel nested=1 and"
				" -cpu host), or use Bochs 3.1 or later.");
		else
			remedy(c, "This CPU shows no VT-x: it has none, or firmware hides it. " FIRMWARE_HINT);
	} else if (vmx_allowed(c)) {
		read_vmx(c);
	}
	if (c->n_missing)
		remedy(c, f1.ecx & BIT(31) ?
			"The virtual machine's CPU model lacks what is listed. Choose a newer one (Bochs: cpu: model=corei7_haswell_4770 or"
			" later; KVM: -cpu host)." :
			"This CPU is too old for Godwit. Use one with Intel's Haswell core (2013) or a later one, and firmware that does"
			" not disable parts of VT-x.");
	c->usable = !c->n_missing;
}
