/* SPDX-License-Identifier: MIT */
#include "hv/vm/cpu_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static struct cpu_model m;

static void parse(const char *spec)
{
	struct error e = { 0 };

	if (cpu_model_parse(spec, &m, &e))
		fail_msg("%s: %s", spec, e.text);
}

static void refused(const char *spec, const char *why)
{
	struct error e = { 0 };

	assert_int_equal(cpu_model_parse(spec, &m, &e), -E_INVAL);
	if (!strstr(e.text, why))
		fail_msg("%s: wanted <%s>, got: %s", spec, why, e.text);
}

static bool shows(const struct cpu_features *f, const char *name)
{
	char names[2000], *p = names;

	cpu_features_names(f, names, sizeof(names));
	for (char *word; (word = strtok(p, " ")); p = NULL)
		if (!strcmp(word, name))
			return true;
	return false;
}

/* A host of that level, with some that no level has. */
static struct cpu_features host_of(const char *spec)
{
	struct cpu_model h;

	assert_int_equal(cpu_model_parse(spec, &h, NULL), 0);
	return h.set;
}

static void levels_build_on_each_other(void **state)
{
	struct cpu_features v2, v3, v4;

	parse("x86-64-v2");
	v2 = m.set;
	parse("v3");
	v3 = m.set;
	parse("x86-64-v4");
	v4 = m.set;
	for (unsigned w = 0; w < CPU_WORDS; w++) {
		assert_int_equal(v2.word[w] & ~v3.word[w], 0);
		assert_int_equal(v3.word[w] & ~v4.word[w], 0);
		assert_int_equal(v4.word[w] & ~cpu_features_known()->word[w], 0);
	}
	assert_true(shows(&v2, "sse4_2") && shows(&v2, "cx16") && shows(&v2, "lahf_lm") && !shows(&v2, "avx"));
	assert_true(shows(&v3, "avx2") && shows(&v3, "fma") && shows(&v3, "abm") && !shows(&v3, "avx512f"));
	assert_true(shows(&v4, "avx512vl") && shows(&v4, "avx512cd"));
	assert_int_equal(v2.word[CPU_1D], 0x078bfbff);
	/* Bits by the SDM's numbers, not by this table's. */
	assert_int_equal(v3.word[CPU_1C], 1 << 0 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 17 | 1 << 19 | 1 << 20 | 1 << 22 | 1 << 23 |
			 1 << 26 | 1 << 28 | 1 << 29);
	assert_int_equal(v3.word[CPU_7B], 1 << 0 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10);
	assert_int_equal(v2.word[CPU_81D], 1 << 11 | 1 << 20 | 1 << 27 | 1 << 29);
}

static void a_host_must_have_it(void **state)
{
	struct cpu_features haswell = host_of("v3,+aes,+pclmulqdq,+rdrand"), out;
	struct error e = { 0 };

	parse("v3");
	assert_int_equal(cpu_model_apply(&m, &haswell, &out, &e), 0);
	assert_memory_equal(&out, &m.set, sizeof(out)); /* no more than the set, although the host has more */
	parse("v4");
	assert_int_equal(cpu_model_apply(&m, &haswell, &out, &e), -E_UNSUPPORTED);
	assert_non_null(strstr(e.text, "lacks xsavec") ? e.text : strstr(e.text, "avx512f"));
	assert_non_null(strstr(e.text, "choose a lower cpu="));
	parse("v2,+clwb");
	e = (struct error){ 0 };
	assert_int_equal(cpu_model_apply(&m, &haswell, &out, &e), -E_UNSUPPORTED);
	assert_non_null(strstr(e.text, "this host's CPU lacks clwb:"));
}

static void the_host_as_it_is(void **state)
{
	struct cpu_features host = host_of("v4,+aes"), out;
	struct error e = { 0 };

	host.word[CPU_7C] |= 1u << 5; /* WAITPKG: not for guests */
	parse("");
	assert_int_equal(cpu_model_apply(&m, &host, &out, &e), 0);
	assert_int_equal(out.word[CPU_7C] & 1u << 5, 0);
	assert_true(shows(&out, "aes") && shows(&out, "avx512f"));
	parse("host,-avx512f");
	assert_int_equal(cpu_model_apply(&m, &host, &out, &e), 0);
	assert_true(shows(&out, "avx2") && !shows(&out, "avx512f") && !shows(&out, "avx512vl"));
	parse("host,-xsave");
	assert_int_equal(cpu_model_apply(&m, &host, &out, &e), 0);
	assert_true(!shows(&out, "avx") && !shows(&out, "fma") && !shows(&out, "avx512bw") && !shows(&out, "xsaveopt"));
	host.word[CPU_87D] = 1u << 8;
	parse("host");
	assert_int_equal(cpu_model_apply(&m, &host, &out, &e), 0);
	assert_int_equal(out.word[CPU_87D], 0);
	parse("host,+nonstop_tsc");
	assert_int_equal(cpu_model_apply(&m, &host, &out, &e), 0);
	assert_int_equal(out.word[CPU_87D], 1u << 8);
	parse("host,+sha_ni");
	assert_int_equal(cpu_model_apply(&m, &host, &out, &e), -E_UNSUPPORTED);
	assert_non_null(strstr(e.text, "sha_ni"));
}

static void pluses_and_minuses(void **state)
{
	parse("v3,+aes,-fma");
	assert_true(shows(&m.set, "aes") && !shows(&m.set, "fma") && shows(&m.set, "avx2"));
	parse("x86-64-v3,-avx");
	assert_true(!shows(&m.set, "avx2") && !shows(&m.set, "f16c") && shows(&m.set, "bmi2"));
	parse("v2,+xsave,+avx");
	assert_true(shows(&m.set, "avx") && !shows(&m.set, "avx2"));
	refused("v2,+avx", "'avx', which is nothing without xsave");
	refused("v3,+avx512f,-avx2", "adds 'avx512f' and takes it, or what it needs, away");
	refused("host,+aes,-aes", "adds 'aes'");
	refused("v3,-lm", "takes 'lm' away");
	refused("v3,-sse2", "takes 'sse2' away");
	refused("v1", "names 'v1', which is no CPU baseline");
	refused("x86-64", "no CPU baseline");
	refused("hosts", "no CPU baseline");
	refused("v3,aes", "names '");
	refused("v3,+", "names ''");
	refused("v3,", "names ''");
	refused("v3,,+aes", "names '");
	refused("v3,+aes ", "names 'aes '");
	refused("v3,+AES", "names 'AES'");
	refused("host,+vmx", "names 'vmx', which is no feature that guests can have");
}

static void names_are_cut_to_fit(void **state)
{
	struct cpu_features all;
	char buf[64];

	memset(&all, 0xff, sizeof(all));
	for (size_t n = 1; n <= sizeof(buf); n++) {
		memset(buf, 'x', sizeof(buf));
		cpu_features_names(&all, buf, n);
		assert_true(strlen(buf) < n);
	}
	assert_string_equal(buf + 60, "...");
	memset(&all, 0, sizeof(all));
	cpu_features_names(&all, buf, sizeof(buf));
	assert_string_equal(buf, "");
	all.word[CPU_7D] = 1u << 24;
	cpu_features_names(&all, buf, sizeof(buf));
	assert_string_equal(buf, "CPUID 0x7.0 EDX bit 24");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(levels_build_on_each_other), cmocka_unit_test(a_host_must_have_it),
		cmocka_unit_test(the_host_as_it_is), cmocka_unit_test(pluses_and_minuses), cmocka_unit_test(names_are_cut_to_fit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
