/* SPDX-License-Identifier: MIT */
/* The log and the clock themselves, not the fakes of them that other tests are linked with. */
#define log_line real_log_line
#define log_guard real_log_guard
#define log_limit_ok real_log_limit_ok
#define log_raw real_log_raw
#define log_poll real_log_poll
#define log_flush real_log_flush
#define log_pending real_log_pending
#define log_sink real_log_sink
#define log_guard_hook real_log_guard_hook
#define now_us test_now_us
#include "hv/lib/log.c"
#undef now_us

#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

static u64 now;
static char out[4 * LOG_RING_BYTES];
static size_t out_len, room;
static int guards;

u64 test_now_us(void) { return now; }

static size_t sink(const char *buf, size_t len, bool wait)
{
	size_t n = wait ? len : MIN(len, room);

	assert_true(out_len + n <= sizeof(out));
	memcpy(out + out_len, buf, n);
	out_len += n;
	room -= wait ? 0 : n;
	return n;
}

static void guard(void) { guards++; }

static bool out_is(const char *s)
{
	return out_len == strlen(s) && !memcmp(out, s, out_len);
}

static void test_lines(void **state)
{
	log_sink = sink;
	log_guard_hook = guard;
	now = 12345678;
	log_info("net", "link %d up", 3);
	assert_true(out_is("[   12.345678] net: link 3 up\r\n"));
	assert_int_equal(guards, 1);
	out_len = 0;
	log_err("vm", "guest \"%s\"", "a\033[2J\r\nb\x7f\xc2\x9b" "2J");
	assert_true(out_is("[   12.345678] vm: error: guest \"a?[2J??b???2J\"\r\n"));
}

static void test_long_line(void **state)
{
	char big[2000];

	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = 0;
	out_len = 0;
	log_warn("a", "%s", big);
	assert_int_equal(out_len, LINE_MAX_LEN - 1 + 2);
	assert_memory_equal(out + out_len - 3, "x\r\n", 3);
}

static void test_slow_sink(void **state)
{
	char buf[64];

	out_len = 0;
	log_poll(); /* from here on nothing waits */
	room = 5;
	log_raw("0123456789", 10);
	assert_true(out_is("01234"));
	room = 3;
	log_poll();
	assert_true(out_is("01234567"));
	assert_true(log_pending());
	log_flush();
	assert_true(out_is("0123456789"));
	assert_false(log_pending());
	/* More than the ring holds: the loss is told, what is left is the newest. */
	room = 0;
	for (u32 i = 0; i < LOG_RING_BYTES / 8 + 100; i++) {
		snprintf(buf, sizeof(buf), "%07x\n", i);
		log_raw(buf, 8);
	}
	out_len = 0;
	log_flush();
	assert_memory_equal(out, "\r\n[lost]\r\n", 10);
	snprintf(buf, sizeof(buf), "%07x\n", LOG_RING_BYTES / 8 + 99);
	assert_memory_equal(out + out_len - 8, buf, 8);
	assert_true(out_len <= LOG_RING_BYTES + 100);
}

static void test_limit(void **state)
{
	struct log_limit l = { 0 };
	int ok = 0;

	for (int i = 0; i < 100; i++)
		ok += log_limit_ok(&l);
	assert_int_equal(ok, 10);
	now += 999999;
	assert_false(log_limit_ok(&l));
	now += 1;
	for (int i = 0; i < 100; i++)
		ok += log_limit_ok(&l);
	assert_int_equal(ok, 20);
}

static void test_muldiv(void **state)
{
	assert_int_equal(muldiv64(~0ull, ~0ull, ~0ull), ~0ull);
	assert_int_equal(muldiv64(1ull << 63, 6, 3ull << 2), 1ull << 62);
	assert_int_equal(muldiv64(7, 3, 2), 10);
	assert_int_equal(muldiv64(0, ~0ull, 5), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines), cmocka_unit_test(test_long_line), cmocka_unit_test(test_slow_sink),
		cmocka_unit_test(test_limit), cmocka_unit_test(test_muldiv),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
