/* SPDX-License-Identifier: MIT */
#include "hv/mm/frame.h"
#include "hv/lib/err.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* 40 whole 2 MiB frames and an edge of 100 pages before and 28 behind. */
#define WHOLE 40
#define EDGES 128
static u8 *arena;

static int setup(void **state)
{
	static u64 first;

	if (!arena) {
		arena = aligned_alloc(PAGE_2M, (WHOLE + 2) * PAGE_2M);
		memset(arena, 0xee, (WHOLE + 2) * PAGE_2M);
		frame_add(ptr_hpa(arena + PAGE_2M - 100 * PAGE_SIZE - 7), ptr_hpa(arena + (WHOLE + 1) * PAGE_2M + 28 * PAGE_SIZE + 5));
		first = frame_stats().free;
	}
	return frame_stats().free == first ? 0 : -1;
}

/* Every test gives back what it took (the heap keeps its arenas and is tested last). */
static int balanced(void **state)
{
	return setup(state);
}

static bool all(const u8 *p, u8 v, u64 n)
{
	for (u64 i = 0; i < n; i++)
		if (p[i] != v)
			return false;
	return true;
}

static void test_stats(void **state)
{
	struct frame_stats s = frame_stats();

	assert_int_equal(s.free, WHOLE * PAGE_2M + EDGES * PAGE_SIZE);
	assert_int_equal(s.total, s.free);
	assert_int_equal(s.hypervisor, 0);
	frame_account(12345);
	s = frame_stats();
	assert_int_equal(s.total, s.free + 12345);
	assert_int_equal(s.hypervisor, 12345);
	frame_account(-12345);
}

static void test_2m(void **state)
{
	hpa_t a[WHOLE];

	for (int i = 0; i < WHOLE; i++) {
		a[i] = frame_alloc_2m();
		assert_true(a[i].v && !(a[i].v % PAGE_2M));
		frame_zero_2m(a[i]);
		assert_true(all(hpa_ptr(a[i]), 0, PAGE_2M));
		memset(hpa_ptr(a[i]), i + 1, PAGE_2M);
	}
	assert_int_equal(frame_alloc_2m().v, 0);
	assert_int_equal(frame_stats().free, EDGES * PAGE_SIZE);
	assert_int_equal(frame_stats().hypervisor, 0);
	/* In an order that goes to and fro. */
	for (int i = 0; i < WHOLE; i++) {
		int k = i * 7 % WHOLE;

		assert_true(all((u8 *)hpa_ptr(a[k]), k + 1, PAGE_2M)); /* nobody shares */
		frame_free_2m(a[k]);
	}
	frame_free_2m(hpa(0));
	/* It is one piece again. */
	void *whole = frame_alloc_bytes(WHOLE * PAGE_2M);
	assert_non_null(whole);
	assert_int_equal(frame_alloc_2m().v, 0);
	frame_free_bytes(whole, WHOLE * PAGE_2M);
}

static void test_4k(void **state)
{
	static void *p[WHOLE * 512 + EDGES + 1];
	u32 n = 0;

	while ((p[n] = frame_alloc())) {
		assert_true(all(p[n], 0, PAGE_SIZE));
		memset(p[n], 0xcc, PAGE_SIZE);
		n++;
	}
	assert_int_equal(n, WHOLE * 512 + EDGES);
	assert_int_equal(frame_stats().free, 0);
	assert_int_equal(frame_stats().hypervisor, n * PAGE_SIZE);
	assert_int_equal(frame_alloc_2m().v, 0);
	/* Freed in an order that goes through all chunks at once. */
	for (u32 step = 0; step < 7; step++)
		for (u32 i = step; i < n; i += 7)
			frame_free(p[i]);
	frame_free(NULL);
	/* Chunks have become whole frames again. */
	hpa_t a = frame_alloc_2m();
	assert_int_not_equal(a.v, 0);
	frame_free_2m(a);
}

static void test_runs(void **state)
{
	void *p[300];
	unsigned len[300], n = 0;
	u32 seed = 7;

	for (int round = 0; round < 20000; round++) {
		seed = seed * 1664525 + 1013904223;
		if (n < ARRAY_SIZE(p) && seed >> 31) {
			unsigned want = (seed >> 8) % ((seed >> 20) % 8 ? 9 : 512) + 1;

			p[n] = frame_alloc_n(want);
			if (!p[n])
				continue;
			assert_true(all(p[n], 0, want * PAGE_SIZE));
			memset(p[n], 0xdd, want * PAGE_SIZE);
			len[n++] = want;
		} else if (n) {
			unsigned i = (seed >> 8) % n;

			assert_true(all(p[i], 0xdd, len[i] * PAGE_SIZE));
			frame_free_n(p[i], len[i]);
			p[i] = p[--n];
			len[i] = len[n];
		}
	}
	while (n--)
		frame_free_n(p[n], len[n]);
}

static void test_heap(void **state)
{
	u8 *p[400];
	size_t len[400];
	unsigned n = 0;
	u32 seed = 3;

	for (int round = 0; round < 60000; round++) {
		seed = seed * 1664525 + 1013904223;
		if (n < ARRAY_SIZE(p) && seed >> 31) {
			size_t want = (seed >> 4) % ((seed >> 20) % 16 ? 300 : 100000);

			p[n] = heap_calloc(want, 1);
			if (!p[n])
				continue;
			assert_int_equal((uintptr_t)p[n] % 16, 0);
			assert_true(all(p[n], 0, want));
			memset(p[n], n, want);
			len[n++] = want;
		} else if (n) {
			unsigned i = (seed >> 8) % n;

			for (size_t b = 1; b < len[i]; b++)
				assert_int_equal(p[i][b], p[i][0]);
			heap_free(p[i]);
			p[i] = p[--n];
			len[i] = len[n];
		}
	}
	while (n--)
		heap_free(p[n]);
	heap_free(NULL);
	assert_null(heap_calloc(SIZE_MAX, 2));
	assert_null(heap_calloc(1, SIZE_MAX));
	assert_null(heap_calloc(1, PAGE_2M));
}

static void test_heap_limit(void **state)
{
	void *p[64], *big;
	unsigned n = 0;

	/* All is one again: 12 arenas of nearly 2 MiB, no more than 24 MiB in all. */
	while ((p[n] = heap_calloc(1, PAGE_2M - 96)))
		n++;
	assert_int_equal(n, 12);
	assert_int_equal(frame_stats().hypervisor, 24 << 20);
	while (n--)
		heap_free(p[n]);
	big = heap_calloc(2, 1000000);
	assert_non_null(big);
	heap_free(big);
}

/* Does this end in a BUG? */
static bool is_bug(void (*f)(void))
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		signal(SIGILL, SIG_DFL);
		f();
		_exit(0);
	}
	assert_true(waitpid(pid, &status, 0) == pid);
	return WIFSIGNALED(status) || WEXITSTATUS(status) != 0;
}

static void nothing_wrong(void) { heap_free(heap_calloc(3, 5)); frame_free(frame_alloc()); }
static void overrun(void) { u8 *p = heap_calloc(1, 100); p[104] ^= 1; heap_free(p); }
static void overrun_by_one(void) { u8 *p = heap_calloc(1, 101); p[101] = 1; heap_free(p); }
static void underrun(void) { u8 *p = heap_calloc(1, 100); p[-1] ^= 1; p[-9] ^= 1; heap_free(p); }
static void heap_twice(void) { u8 *p = heap_calloc(1, 100); heap_free(p); heap_free(p); }
static void heap_wild(void) { static u64 x[16]; heap_free((u8 *)x + (-(uintptr_t)x & 15) + 16); }
static void heap_inside(void) { u8 *p = heap_calloc(1, 100); heap_free(p + 16); }
static void frame_twice(void) { void *p = frame_alloc(), *q = frame_alloc(); frame_free(p); frame_free(p); frame_free(q); }
static void frame_2m_twice(void) { hpa_t a = frame_alloc_2m(), b = frame_alloc_2m(); frame_free_2m(a); frame_free_2m(a); frame_free_2m(b); }
static void frame_wild(void) { frame_free((void *)0x123000); }
static void frame_odd(void) { u8 *p = frame_alloc(); frame_free(p + 8); }

static void test_bugs(void **state)
{
	assert_false(is_bug(nothing_wrong));
	assert_true(is_bug(overrun));
	assert_true(is_bug(overrun_by_one));
	assert_true(is_bug(underrun));
	assert_true(is_bug(heap_twice));
	assert_true(is_bug(heap_wild));
	assert_true(is_bug(heap_inside));
	assert_true(is_bug(frame_twice));
	assert_true(is_bug(frame_2m_twice));
	assert_true(is_bug(frame_wild));
	assert_true(is_bug(frame_odd));
}

/* In one piece, whatever the size; given back, it is whole again. */
static void test_bytes(void **state)
{
	static const u64 sizes[] = { 1, PAGE_SIZE, PAGE_2M - 1, PAGE_2M, PAGE_2M + 1, 7 * PAGE_2M - 5, WHOLE / 2 * PAGE_2M };
	u64 before = frame_stats().free;
	u8 *p, *q;

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		u64 taken = ALIGN_UP(sizes[i], sizes[i] > PAGE_2M ? PAGE_2M : PAGE_SIZE);

		p = frame_alloc_bytes(sizes[i]);
		assert_non_null(p);
		assert_true(all(p, 0, sizes[i]));
		assert_int_equal(before - frame_stats().free, taken);
		assert_int_equal(frame_stats().hypervisor, taken);
		memset(p, 0xaa, sizes[i]);
		q = frame_alloc_bytes(sizes[i]);
		if (q) {
			assert_true(q + taken <= p || p + taken <= q);
			assert_true(all(q, 0, sizes[i]) && all(p, 0xaa, sizes[i]));
		}
		frame_free_bytes(q, sizes[i]);
		frame_free_bytes(p, sizes[i]);
		assert_int_equal(frame_stats().free, before);
	}
	assert_null(frame_alloc_bytes(0));
	assert_null(frame_alloc_bytes((WHOLE + 1) * PAGE_2M));
	assert_null(frame_alloc_bytes(~0ull));
	frame_free_bytes(NULL, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_stats, setup, balanced),
		cmocka_unit_test_setup_teardown(test_bytes, setup, balanced),
		cmocka_unit_test_setup_teardown(test_2m, setup, balanced),
		cmocka_unit_test_setup_teardown(test_4k, setup, balanced),
		cmocka_unit_test_setup_teardown(test_runs, setup, balanced),
		cmocka_unit_test(test_heap),
		cmocka_unit_test(test_heap_limit),
		cmocka_unit_test(test_bugs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
