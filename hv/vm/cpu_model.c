/* SPDX-License-Identifier: MIT */
#include "hv/vm/cpu_model.h"

#include <stdio.h>
#include <string.h>

const struct cpu_word_place cpu_word_places[CPU_WORDS] = {
	[CPU_1C] = { 1, 0, 2 }, [CPU_1D] = { 1, 0, 3 }, [CPU_7B] = { 7, 0, 1 }, [CPU_7C] = { 7, 0, 2 }, [CPU_7D] = { 7, 0, 3 },
	[CPU_XSAVE] = { 0xd, 1, 0 }, [CPU_81C] = { 0x80000001, 0, 2 }, [CPU_81D] = { 0x80000001, 0, 3 },
	[CPU_87D] = { 0x80000007, 0, 3 },
};

/* Linux takes the TSC for its clock if it sees this, and KVM's clock otherwise: that is the better one for guests that move,
 * because the kernel then knows that it was stopped. So it is shown only where cpu= asks for it. */
#define NONSTOP_TSC "nonstop_tsc"

/* Every feature that a guest may see, under its name in Linux, with what it makes no sense without. What is missing here is
 * hidden: SGX, TSX, MPX, RDT, PT, LA57, PKU, WAITPKG, CET, AMX, XSAVES, MONITOR, VMX and what is newer. */
static const struct feature { const char *name; u8 word, bit; const char *needs; } features[] = {
	{ "fpu", CPU_1D, 0 }, { "vme", CPU_1D, 1 }, { "de", CPU_1D, 2 }, { "pse", CPU_1D, 3 }, { "tsc", CPU_1D, 4 },
	{ "msr", CPU_1D, 5 }, { "pae", CPU_1D, 6 }, { "mce", CPU_1D, 7 }, { "cx8", CPU_1D, 8 }, { "apic", CPU_1D, 9 },
	{ "sep", CPU_1D, 11 }, { "mtrr", CPU_1D, 12 }, { "pge", CPU_1D, 13 }, { "mca", CPU_1D, 14 }, { "cmov", CPU_1D, 15 },
	{ "pat", CPU_1D, 16 }, { "pse36", CPU_1D, 17 }, { "clflush", CPU_1D, 19 }, { "mmx", CPU_1D, 23 }, { "fxsr", CPU_1D, 24 },
	{ "sse", CPU_1D, 25 }, { "sse2", CPU_1D, 26 },
	{ "syscall", CPU_81D, 11 }, { "nx", CPU_81D, 20 }, { "pdpe1gb", CPU_81D, 26 }, { "rdtscp", CPU_81D, 27 },
	{ "lm", CPU_81D, 29 },
	{ "pni", CPU_1C, 0 }, { "pclmulqdq", CPU_1C, 1 }, { "ssse3", CPU_1C, 9 }, { "fma", CPU_1C, 12, "avx" },
	{ "cx16", CPU_1C, 13 }, { "pcid", CPU_1C, 17 }, { "sse4_1", CPU_1C, 19 }, { "sse4_2", CPU_1C, 20 },
	{ "movbe", CPU_1C, 22 }, { "popcnt", CPU_1C, 23 }, { "aes", CPU_1C, 25 }, { "xsave", CPU_1C, 26 },
	{ "avx", CPU_1C, 28, "xsave" }, { "f16c", CPU_1C, 29, "avx" }, { "rdrand", CPU_1C, 30 },
	{ "lahf_lm", CPU_81C, 0 }, { "abm", CPU_81C, 5 }, { "3dnowprefetch", CPU_81C, 8 },
	{ "xsaveopt", CPU_XSAVE, 0, "xsave" }, { "xsavec", CPU_XSAVE, 1, "xsave" }, { "xgetbv1", CPU_XSAVE, 2, "xsave" },
	{ "fsgsbase", CPU_7B, 0 }, { "tsc_adjust", CPU_7B, 1 }, { "bmi1", CPU_7B, 3 }, { "avx2", CPU_7B, 5, "avx" },
	{ "fdp_excptn_only", CPU_7B, 6 }, { "smep", CPU_7B, 7 }, { "bmi2", CPU_7B, 8 }, { "erms", CPU_7B, 9 },
	{ "invpcid", CPU_7B, 10, "pcid" }, { "zero_fcs_fds", CPU_7B, 13 }, { "avx512f", CPU_7B, 16, "avx2" },
	{ "avx512dq", CPU_7B, 17, "avx512f" }, { "rdseed", CPU_7B, 18 }, { "adx", CPU_7B, 19 }, { "smap", CPU_7B, 20 },
	{ "avx512ifma", CPU_7B, 21, "avx512f" }, { "clflushopt", CPU_7B, 23 }, { "clwb", CPU_7B, 24 },
	{ "avx512cd", CPU_7B, 28, "avx512f" }, { "sha_ni", CPU_7B, 29 }, { "avx512bw", CPU_7B, 30, "avx512f" },
	{ "avx512vl", CPU_7B, 31, "avx512f" },
	{ "avx512vbmi", CPU_7C, 1, "avx512f" }, { "umip", CPU_7C, 2 }, { "avx512_vbmi2", CPU_7C, 6, "avx512f" },
	{ "gfni", CPU_7C, 8 }, { "vaes", CPU_7C, 9, "avx" }, { "vpclmulqdq", CPU_7C, 10, "avx" },
	{ "avx512_vnni", CPU_7C, 11, "avx512f" }, { "avx512_bitalg", CPU_7C, 12, "avx512f" },
	{ "avx512_vpopcntdq", CPU_7C, 14, "avx512f" }, { "rdpid", CPU_7C, 22 },
	{ "avx512_4vnniw", CPU_7D, 2, "avx512f" }, { "avx512_4fmaps", CPU_7D, 3, "avx512f" }, { "fsrm", CPU_7D, 4 },
	{ "avx512_vp2intersect", CPU_7D, 8, "avx512f" }, { "md_clear", CPU_7D, 10 },
	{ NONSTOP_TSC, CPU_87D, 8 },
};

/* The baselines: the levels of the x86-64 psABI, with what kernels want besides and every CPU of that level has. Each begins
 * with the one before. A guest keeps for its life what it was shown at its start, so a change here is for new starts; still,
 * a set that was released does not change: a better one gets a name of its own. */
static const struct baseline { const char *name, *features; } baselines[] = {
	{ "x86-64-v2", "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 "
		       "syscall nx rdtscp lm pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm tsc_adjust" },
	{ "x86-64-v3", "xsave xsaveopt avx avx2 f16c fma bmi1 bmi2 movbe abm pcid invpcid fsgsbase smep erms pdpe1gb" },
	{ "x86-64-v4", "avx512f avx512dq avx512cd avx512bw avx512vl xsavec xgetbv1 smap adx rdseed clflushopt 3dnowprefetch" },
};

static const struct feature *find(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(features); i++)
		if (strlen(features[i].name) == len && !memcmp(features[i].name, name, len))
			return &features[i];
	return NULL;
}

static bool has(const struct cpu_features *set, const struct feature *f)
{
	return set->word[f->word] >> f->bit & 1;
}

static void set_bit(struct cpu_features *set, const struct feature *f, bool on)
{
	set->word[f->word] = on ? set->word[f->word] | 1u << f->bit : set->word[f->word] & ~(1u << f->bit);
}

const struct cpu_features *cpu_features_known(void)
{
	static struct cpu_features known;

	if (!known.word[CPU_1D])
		for (size_t i = 0; i < ARRAY_SIZE(features); i++)
			set_bit(&known, &features[i], true);
	return &known;
}

void cpu_features_names(const struct cpu_features *set, char *buf, size_t cap)
{
	size_t n = 0;

	buf[0] = 0;
	for (unsigned w = 0; w < CPU_WORDS; w++)
		for (unsigned b = 0; b < 32; b++) {
			const struct feature *f = features;

			if (!(set->word[w] >> b & 1))
				continue;
			while (f < features + ARRAY_SIZE(features) && (f->word != w || f->bit != b))
				f++;
			if (f < features + ARRAY_SIZE(features))
				n += (size_t)snprintf(buf + n, cap - n, "%s%s", n ? " " : "", f->name);
			else
				n += (size_t)snprintf(buf + n, cap - n, "%sCPUID %#x.%u %s bit %u", n ? " " : "", cpu_word_places[w].leaf,
						      cpu_word_places[w].sub,
						      (const char *const[]){ "EAX", "EBX", "ECX", "EDX" }[cpu_word_places[w].reg], b);
			if (n >= cap) {
				if (cap > 4)
					memcpy(buf + cap - 4, "...", 4);
				return;
			}
		}
}

/* Adds a baseline and those below it. false: there is none of that name. */
static bool add_baseline(struct cpu_model *m, const char *name, size_t len)
{
	static const char prefix[] = "x86-64-";
	size_t last = 0;

	for (; last < ARRAY_SIZE(baselines); last++) {
		const char *full = baselines[last].name, *brief = full + sizeof(prefix) - 1;

		if ((strlen(full) == len && !memcmp(full, name, len)) || (strlen(brief) == len && !memcmp(brief, name, len)))
			break;
	}
	if (last == ARRAY_SIZE(baselines))
		return false;
	for (size_t i = 0; i <= last; i++)
		for (const char *p = baselines[i].features; *p; p += strspn(p, " ")) {
			size_t n = strcspn(p, " ");
			const struct feature *f = find(p, n);

			BUG_ON(!f);
			set_bit(&m->set, f, true);
			p += n;
		}
	return true;
}

/* Until nothing changes: what needs one that is gone is gone as well. */
static void remove_with_dependents(struct cpu_features *remove, const struct feature *gone)
{
	bool more = true;

	set_bit(remove, gone, true);
	while (more) {
		more = false;
		for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
			const struct feature *f = &features[i];

			if (f->needs && !has(remove, f) && has(remove, find(f->needs, strlen(f->needs)))) {
				set_bit(remove, f, true);
				more = true;
			}
		}
	}
}

/* What Linux for x86-64 does not start without, and what every guest has anyway. */
static bool essential(const struct feature *f)
{
	return f->word == CPU_1D || !strcmp(f->name, "lm") || !strcmp(f->name, "syscall") || !strcmp(f->name, "tsc_adjust");
}

int cpu_model_parse(const char *spec, struct cpu_model *m, struct error *e)
{
	struct cpu_features added = { 0 };
	size_t n = strcspn(spec, ",");

	memset(m, 0, sizeof(*m));
	m->host = !n || (n == 4 && !memcmp(spec, "host", 4));
	if (!m->host && !add_baseline(m, spec, n))
		return error_set(e, E_INVAL, "names '%.*s', which is no CPU baseline. Write x86-64-v2, x86-64-v3, x86-64-v4 or host, then "
				 ",+FEATURE or ,-FEATURE", (int)MIN(n, (size_t)20), spec);
	for (spec += n; *spec; spec += n) {
		char sign = spec[1];
		const struct feature *f;

		spec += 1 + !!sign;
		n = strcspn(spec, ",");
		f = sign == '+' || sign == '-' ? find(spec, n) : NULL;
		if (!f)
			return error_set(e, E_INVAL, "names '%.*s', which is no feature that guests can have. Write +NAME or -NAME with a name "
					 "that Linux shows in /proc/cpuinfo", (int)MIN(n, (size_t)24), spec);
		if (sign == '-' && essential(f))
			return error_set(e, E_INVAL, "takes '%s' away, without which no 64-bit guest runs. Leave it out", f->name);
		if (sign == '-')
			remove_with_dependents(&m->remove, f);
		else
			set_bit(&added, f, true);
	}
	if (m->host && !has(&added, find(NONSTOP_TSC, strlen(NONSTOP_TSC))))
		set_bit(&m->remove, find(NONSTOP_TSC, strlen(NONSTOP_TSC)), true);
	for (unsigned w = 0; w < CPU_WORDS; w++)
		m->set.word[w] = (m->set.word[w] & ~m->remove.word[w]) | added.word[w];
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		const struct feature *f = &features[i], *needs = f->needs ? find(f->needs, strlen(f->needs)) : NULL;

		if (has(&added, f) && has(&m->remove, f))
			return error_set(e, E_INVAL, "adds '%s' and takes it, or what it needs, away. Write one of the two", f->name);
		if (!m->host && needs && has(&m->set, f) && !has(&m->set, needs))
			return error_set(e, E_INVAL, "has '%s', which is nothing without %s. Add both or none", f->name, needs->name);
	}
	return 0;
}

int cpu_model_apply(const struct cpu_model *m, const struct cpu_features *host, struct cpu_features *out, struct error *e)
{
	struct cpu_features lacking = { 0 };
	bool lacks = false;
	char names[200];

	for (unsigned w = 0; w < CPU_WORDS; w++) {
		out->word[w] = m->host ? host->word[w] & cpu_features_known()->word[w] & ~m->remove.word[w] : m->set.word[w];
		lacking.word[w] = m->set.word[w] & ~host->word[w];
		lacks |= lacking.word[w];
	}
	if (!lacks)
		return 0;
	cpu_features_names(&lacking, names, sizeof(names));
	return error_set(e, E_UNSUPPORTED, "this host's CPU lacks %s: choose a lower cpu= for the guest, or a host with a newer CPU", names);
}
