/* SPDX-License-Identifier: MIT */
#include "hv/vm/cpuid.h"
#include "hv/arch/x86.h"
#include "hv/lib/clock.h"
#include "hv/vm/cpu_model.h"
#include "hv/vm/kvmclock.h"
#include "hv/vm/vm_clock.h"
#include "hv/vmx/vmx.h"

#include <string.h>

/* Shown to every guest, whatever its baseline (cpu_model.c) and the host's CPU: Godwit makes them itself. */
#define F1C_ALWAYS (F1C_X2APIC | F1C_TSC_DEADLINE | F1C_HYPERVISOR)
#define F1C_HYPERVISOR BIT(31)
#define F1C_OSXSAVE BIT(27)
#define F1C_X2APIC BIT(21)
#define F1C_TSC_DEADLINE BIT(24)
#define F1C_PCID BIT(17)
#define F1C_XSAVE BIT(26)
#define F1C_AVX BIT(28)
#define F1D_HTT BIT(28)
#define F7B_TSC_ADJUST BIT(1)
#define F7B_INVPCID BIT(10)
#define F7B_AVX512F BIT(16)
#define F7C_RDPID BIT(22)
#define F81D_RDTSCP BIT(27)
#define F87D_INVARIANT_TSC BIT(8)
#define KVM_SIGNATURE_LEAF 0x40000000u

static void add(struct cpuid_table *t, u32 leaf, u32 subleaf, struct cpuid_regs r)
{
	BUG_ON(t->n == CPUID_MAX_ENTRIES);
	t->leaf[t->n] = leaf;
	t->subleaf[t->n] = subleaf;
	t->eax[t->n] = r.eax;
	t->ebx[t->n] = r.ebx;
	t->ecx[t->n] = r.ecx;
	t->edx[t->n] = r.edx;
	t->n++;
}

/* What this host can give. */
static void host_features(struct cpu_features *f)
{
	u32 basic = cpuid(0, 0).eax, ext = cpuid(0x80000000, 0).eax;

	for (unsigned w = 0; w < CPU_WORDS; w++) {
		const struct cpu_word_place *p = &cpu_word_places[w];
		struct cpuid_regs r = { 0 };

		if (p->leaf <= (p->leaf >> 31 ? ext : basic))
			r = cpuid(p->leaf, p->sub);
		f->word[w] = ((u32[]){ r.eax, r.ebx, r.ecx, r.edx })[p->reg] & cpu_features_known()->word[w];
	}
	f->word[CPU_7B] |= F7B_TSC_ADJUST; /* emulated, whether the CPU has it or not */
	f->word[CPU_87D] |= F87D_INVARIANT_TSC; /* no host without it is used (hv/arch/caps.c) */
	/* Without their control these take #UD in a guest, whatever the CPU can do. */
	if (!(vmx_config.proc2 & PROC2_RDTSCP)) {
		f->word[CPU_81D] &= ~(u32)F81D_RDTSCP;
		f->word[CPU_7C] &= ~(u32)F7C_RDPID;
	}
	if (!(vmx_config.proc2 & PROC2_INVPCID))
		f->word[CPU_7B] &= ~(u32)F7B_INVPCID;
	if (!(f->word[CPU_1C] & F1C_XSAVE))
		f->word[CPU_XSAVE] = 0;
}

/* The state components that go with the features shown. */
static u64 xcr0_mask(u32 f1c, u32 f7b)
{
	u64 mask = XCR0_X87 | XCR0_SSE;

	if (!(f1c & F1C_XSAVE))
		return XCR0_X87;
	if (f1c & F1C_AVX)
		mask |= XCR0_AVX | (f7b & F7B_AVX512F ? XCR0_AVX512 : 0);
	return mask & fpu_guest_xcr0_mask();
}

static void add_xsave(struct cpuid_table *t, u64 mask, u32 features)
{
	struct cpuid_regs r = { (u32)mask, 0, 576, (u32)(mask >> 32) }, sub;

	for (u32 i = 2; i < 32; i++) {
		if (!(mask & BIT(i)))
			continue;
		sub = cpuid(0xd, i);
		r.ecx = MAX(r.ecx, sub.ebx + sub.eax);
	}
	add(t, 0xd, 0, r); /* EBX follows XCR0: cpuid_exit() */
	add(t, 0xd, 1, (struct cpuid_regs){ features, 0, 0, 0 });
	for (u32 i = 2; i < 32; i++)
		if (mask & BIT(i)) {
			r = cpuid(0xd, i);
			add(t, 0xd, i, (struct cpuid_regs){ r.eax, r.ebx, r.ecx & 2, 0 });
		}
}

int cpuid_build(struct vm *vm, struct error *e)
{
	struct cpuid_table *t = &vm->cpuid;
	struct cpuid_regs r, max = cpuid(0, 0);
	u32 hz = host_tsc_hz() >> 32 ? 0 : (u32)host_tsc_hz(), mhz = (u32)(host_tsc_hz() / 1000000);
	u32 vcpus = vm->config.vcpus;
	struct cpu_features host, f;
	struct cpu_model model;
	int rc = cpu_model_parse(vm->config.cpu, &model, e);

	host_features(&host);
	if (!rc)
		rc = cpu_model_apply(&model, &host, &f, e);
	if (rc)
		return rc;
	memset(t, 0, sizeof(*t));
	r = max;
	r.eax = 0x16;
	add(t, 0, 0, r);
	r = cpuid(1, 0);
	add(t, 1, 0, (struct cpuid_regs){ r.eax, (r.ebx & 0xff00) | vcpus << 16, f.word[CPU_1C] | F1C_ALWAYS,
		f.word[CPU_1D] | (vcpus > 1 ? F1D_HTT : 0) });
	add(t, 2, 0, cpuid(2, 0));
	for (u32 i = 0; i < 4; i++) {
		r = cpuid(4, i);
		r.eax &= 0x3fff; /* one thread shares each cache, one core a package */
		add(t, 4, i, r);
	}
	add(t, 6, 0, (struct cpuid_regs){ .eax = BIT(2) }); /* ARAT: the APIC timer never stops */
	add(t, 7, 0, (struct cpuid_regs){ 0, f.word[CPU_7B], f.word[CPU_7C], f.word[CPU_7D] });
	add(t, 0xb, 0, (struct cpuid_regs){ 0, 1, 0x100, 0 });
	add(t, 0xb, 1, (struct cpuid_regs){ 3, vcpus, 0x201, 0 });
	if (f.word[CPU_1C] & F1C_XSAVE)
		add_xsave(t, xcr0_mask(f.word[CPU_1C], f.word[CPU_7B]), f.word[CPU_XSAVE]);
	/* Crystal = TSC: Linux then needs no calibration, and the APIC timer runs at this rate. Above 4.29 GHz the crystal's rate
	 * is left out, as CPUs do; kernels then go by the next leaf. */
	add(t, 0x15, 0, (struct cpuid_regs){ 1, 1, hz, 0 });
	add(t, 0x16, 0, (struct cpuid_regs){ mhz, mhz, 100, 0 });
	/* KVM's signature: also how stock kernels learn that x2APIC works without interrupt remapping. */
	add(t, KVM_SIGNATURE_LEAF, 0, (struct cpuid_regs){ KVM_SIGNATURE_LEAF + 1, 0x4b4d564b, 0x564b4d56, 0x4d });
	add(t, KVM_SIGNATURE_LEAF + 1, 0, (struct cpuid_regs){ .eax = KVMCLOCK_FEATURES | KVM_FEATURE_NOP_IO_DELAY });
	r = cpuid(0x80000000, 0);
	add(t, 0x80000000, 0, (struct cpuid_regs){ 0x80000008, 0, 0, 0 });
	u32 ext = r.eax;

	add(t, 0x80000001, 0, (struct cpuid_regs){ 0, 0, f.word[CPU_81C], f.word[CPU_81D] });
	for (u32 leaf = 0x80000002; leaf <= 0x80000004 && leaf <= ext; leaf++)
		add(t, leaf, 0, cpuid(leaf, 0));
	add(t, 0x80000006, 0, cpuid(0x80000006, 0));
	add(t, 0x80000007, 0, (struct cpuid_regs){ .edx = f.word[CPU_87D] });
	r = cpuid(0x80000008, 0);
	add(t, 0x80000008, 0, (struct cpuid_regs){ MIN(r.eax & 0xff, 46u) | 48 << 8, 0, 0, 0 });
	return cpuid_index(vm, e);
}

static u8 *index_slot(struct vm *vm, u32 leaf)
{
	/* Basic 0x0..., hypervisor 0x4..., extended 0x8...: bits 31:30 tell, the rest is a small number. */
	if ((leaf & 0x3fffffff) >= 32 || leaf >> 30 == 3)
		return NULL;
	return &vm->cpuid_index[leaf >> 30][leaf & 31];
}

int cpuid_index(struct vm *vm, struct error *e)
{
	const struct cpuid_table *t = &vm->cpuid;

	memset(vm->cpuid_index, 0, sizeof(vm->cpuid_index));
	if (t->n > CPUID_MAX_ENTRIES || t->n == 0)
		return error_set(e, E_INVAL, "cpuid: %u entries, 1 to %u are possible", t->n, CPUID_MAX_ENTRIES);
	for (u32 i = 0; i < t->n; i++) {
		u8 *slot = index_slot(vm, t->leaf[i]);

		if (!slot)
			return error_set(e, E_INVAL, "cpuid: leaf %#x is not one that Godwit shows", t->leaf[i]);
		if (!*slot)
			*slot = (u8)(i + 1);
	}
	return 0;
}

static int find(const struct vm *vm, u32 leaf, u32 subleaf)
{
	const struct cpuid_table *t = &vm->cpuid;
	const u8 *slot = index_slot((struct vm *)vm, leaf);

	if (!slot || !*slot)
		return -1;
	u32 i = *slot - 1u;

	if (leaf != 4 && leaf != 7 && leaf != 0xb && leaf != 0xd)
		return (int)i; /* ECX does not matter */
	for (; i < t->n && t->leaf[i] == leaf; i++)
		if (t->subleaf[i] == subleaf)
			return (int)i;
	return -1;
}

u32 cpuid_guest(const struct vm *vm, u32 leaf, u32 subleaf, unsigned reg)
{
	int i = find(vm, leaf, subleaf);
	const struct cpuid_table *t = &vm->cpuid;
	const u32 *const regs[] = { t->eax, t->ebx, t->ecx, t->edx };

	return i < 0 ? 0 : regs[reg][i];
}

u64 cpuid_cr4_mask(const struct vm *vm)
{
	u64 m = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR |
		CR4_OSXMMEXCPT;
	u32 f1c = cpuid_guest(vm, 1, 0, 2), f7b = cpuid_guest(vm, 7, 0, 1), f7c = cpuid_guest(vm, 7, 0, 2);

	m |= f1c & F1C_PCID ? CR4_PCIDE : 0;
	m |= f1c & F1C_XSAVE ? CR4_OSXSAVE : 0;
	m |= f7b & BIT(0) ? CR4_FSGSBASE : 0;
	m |= f7b & BIT(7) ? CR4_SMEP : 0;
	m |= f7b & BIT(20) ? CR4_SMAP : 0;
	m |= f7c & BIT(2) ? CR4_UMIP : 0;
	return m;
}

u64 cpuid_xcr0_mask(const struct vm *vm)
{
	return xcr0_mask(cpuid_guest(vm, 1, 0, 2), cpuid_guest(vm, 7, 0, 1));
}

/* Size of the standard-format area for xcr0: the end of its highest component. */
static u32 xsave_size(const struct vm *vm, u64 xcr0)
{
	u32 size = 576;

	for (u32 i = 2; i < 32; i++)
		if (xcr0 & BIT(i))
			size = MAX(size, cpuid_guest(vm, 0xd, i, 0) + cpuid_guest(vm, 0xd, i, 1));
	return size;
}

/* SDM "Compacted Format of the XSAVE Area": components one after the other, some aligned to 64 bytes. */
static u32 xsavec_size(const struct vm *vm, u64 xcr0)
{
	u32 size = 576;

	for (u32 i = 2; i < 32; i++)
		if (xcr0 & BIT(i))
			size = (cpuid_guest(vm, 0xd, i, 2) & 2 ? ALIGN_UP(size, 64u) : size) + cpuid_guest(vm, 0xd, i, 0);
	return size;
}

void cpuid_exit(struct vcpu *v)
{
	const struct cpuid_table *t = &v->vm->cpuid;
	u64 *r = v->s.gpr;
	u32 leaf = (u32)r[VCPU_RAX], sub = (u32)r[VCPU_RCX];
	int i = find(v->vm, leaf, sub);

	r[VCPU_RAX] = i < 0 ? 0 : t->eax[i];
	r[VCPU_RBX] = i < 0 ? 0 : t->ebx[i];
	r[VCPU_RCX] = i < 0 ? 0 : t->ecx[i];
	r[VCPU_RDX] = i < 0 ? 0 : t->edx[i];
	switch (leaf) {
	case 1:
		r[VCPU_RBX] |= (u32)v->id << 24;
		if (vcpu_cr4(v) & CR4_OSXSAVE)
			r[VCPU_RCX] |= F1C_OSXSAVE;
		break;
	case 0xb:
		r[VCPU_RCX] = (r[VCPU_RCX] & 0xff00) | (sub & 0xff);
		r[VCPU_RDX] = v->id;
		break;
	case 0xd:
		if (sub == 0 && i >= 0)
			r[VCPU_RBX] = xsave_size(v->vm, v->s.xcr0);
		else if (sub == 1 && i >= 0)
			r[VCPU_RBX] = xsavec_size(v->vm, v->s.xcr0);
		break;
	}
}

/* The compatibility block: the guest's TSC rate, then what CPUID shows it. Both ends run the same version. */
struct compat_block {
	u64 tsc_hz;
	struct cpuid_table cpuid;
};

int vm_cpu_compat_save(struct vm *vm, u8 *buf, size_t cap)
{
	if (cap < sizeof(struct compat_block))
		return -E_RANGE;
	memcpy(buf, &vm->tsc_hz, sizeof(vm->tsc_hz));
	memcpy(buf + offsetof(struct compat_block, cpuid), &vm->cpuid, sizeof(vm->cpuid));
	return sizeof(struct compat_block);
}

/* Feature words: what a guest was shown must be here. */
static int check_features(const struct vm *guest, const struct vm *here, struct error *e)
{
	struct cpu_features lacking;
	char names[160];
	u32 any = 0;

	for (unsigned w = 0; w < CPU_WORDS; w++) {
		const struct cpu_word_place *p = &cpu_word_places[w];

		lacking.word[w] = cpuid_guest(guest, p->leaf, p->sub, p->reg) & ~cpuid_guest(here, p->leaf, p->sub, p->reg);
		any |= lacking.word[w];
	}
	if (!any)
		return 0;
	cpu_features_names(&lacking, names, sizeof(names));
	return error_set(e, E_UNSUPPORTED, "this host's CPU lacks %s, which the guest was shown when it started: choose a host that has "
			 "them, or restart the guest here (see cpu= for guests that move)", names);
}

int vm_cpu_compat_check(const u8 *buf, size_t len, struct error *e)
{
	static struct vm guest, here; /* too big for the stack; used whole, one at a time */

	u64 tsc_hz;

	if (len != sizeof(struct compat_block))
		return error_set(e, E_PROTO, "CPU block has %zu bytes, %zu are expected: the peer runs another version of Godwit",
				 len, sizeof(struct compat_block));
	memcpy(&tsc_hz, buf, sizeof(tsc_hz));
	memcpy(&guest.cpuid, buf + offsetof(struct compat_block, cpuid), sizeof(guest.cpuid));
	int rc = cpuid_index(&guest, e);

	if (!rc)
		rc = vm_clock_rate_check(tsc_hz, e);
	if (rc)
		return rc == -E_INVAL ? -E_PROTO : rc;
	here.config.vcpus = CONFIG_MAX_VCPUS; /* with what several of them show */
	strcpy(here.config.cpu, "host,+nonstop_tsc");
	BUG_ON(cpuid_build(&here, NULL));
	rc = check_features(&guest, &here, e);
	u32 lacks = cpuid_guest(&guest, 0xd, 0, 0) & ~cpuid_guest(&here, 0xd, 0, 0);

	if (!rc && lacks)
		rc = error_set(e, E_UNSUPPORTED, "this host's CPU lacks state components (CPUID 0xd, bits %#x) that the guest was shown when "
			       "it started: choose a host with the same or a newer CPU", lacks);
	u32 seen = cpuid_guest(&guest, 0x80000008, 0, 0) & 0xff, ours = cpuid_guest(&here, 0x80000008, 0, 0) & 0xff;

	if (!rc && seen > ours)
		rc = error_set(e, E_UNSUPPORTED, "the guest was shown %u physical address bits when it started, this host's CPU has %u: "
			       "choose a host with as many, or restart the guest here", seen, ours);
	/* The layout of the XSAVE area must be the same, or state would land in the wrong registers. */
	for (u32 i = 2; !rc && i < 32; i++)
		if ((cpuid_guest(&guest, 0xd, 0, 0) & BIT(i)) &&
		    (cpuid_guest(&guest, 0xd, i, 0) != cpuid_guest(&here, 0xd, i, 0) ||
		     cpuid_guest(&guest, 0xd, i, 1) != cpuid_guest(&here, 0xd, i, 1)))
			rc = error_set(e, E_UNSUPPORTED, "XSAVE component %u is laid out differently on this host's CPU", i);
	return rc;
}
