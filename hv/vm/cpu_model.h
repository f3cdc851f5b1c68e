/* SPDX-License-Identifier: MIT */
/* CPU baselines: the named sets of features that a guest may be given (cpu= in godwit.conf). Pure. */
#pragma once
#include "hv/lib/err.h"

/* The feature words of CPUID that guests are shown by name. */
enum cpu_word { CPU_1C, CPU_1D, CPU_7B, CPU_7C, CPU_7D, CPU_XSAVE, CPU_81C, CPU_81D, CPU_87D, CPU_WORDS };
struct cpu_features { u32 word[CPU_WORDS]; };
struct cpu_word_place { u32 leaf, sub; u8 reg; }; /* reg: 0 eax 1 ebx 2 ecx 3 edx */
extern const struct cpu_word_place cpu_word_places[CPU_WORDS];

struct cpu_model {
	bool host;                 /* all that the host has and Godwit knows, but remove */
	struct cpu_features set;   /* host: what it must have; otherwise all that is shown */
	struct cpu_features remove;
};

/* Reads cpu=: "host" or a baseline (x86-64-v2, v2, ...), then ,+FEATURE and ,-FEATURE with the names of Linux's /proc/cpuinfo.
 * nonstop_tsc is shown only where it is asked for. Taking a feature away takes away what needs it. -E_INVAL with *e (what is wrong and what to write); "" is host. */
int cpu_model_parse(const char *spec, struct cpu_model *m, struct error *e) __must_check;
/* What a guest of that model sees on a host that has those features. -E_UNSUPPORTED with *e naming what the host lacks. */
int cpu_model_apply(const struct cpu_model *m, const struct cpu_features *host, struct cpu_features *out, struct error *e) __must_check;
/* The features that guests may see at all: everything else stays hidden, whatever the CPU has. */
const struct cpu_features *cpu_features_known(void);
/* The names of a set, with blanks between, cut to fit; bits without a name as word.bit. */
void cpu_features_names(const struct cpu_features *f, char *buf, size_t cap);
