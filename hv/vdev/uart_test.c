/* SPDX-License-Identifier: MIT */
#include "hv/fake/vdev_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

static struct vm *vm;
static struct vdev *uart, *pic;

static u8 rd(unsigned r) { return (u8)vdev_fake_in(vm, (u16)(0x3f8 + r), 1); }
static void wr(unsigned r, u8 v) { vdev_fake_out(vm, (u16)(0x3f8 + r), 1, v); }

static int setup(void **unused)
{
	vm = vdev_fake_vm();
	uart = vdev_fake_add(vm, &uart_type, 0);
	pic = vm_vdev(vm, &pic_type, 0);
	vdev_fake_out(vm, 0x4d0, 1, 0x10); /* IRQ 4 as level: pic_intr() shows the line */
	vdev_fake_out(vm, 0x20, 1, 0x13);
	vdev_fake_out(vm, 0x21, 1, 0x30);
	vdev_fake_out(vm, 0x21, 1, 0x01);
	vdev_fake_out(vm, 0x21, 1, 0xef);
	return 0;
}

static int teardown(void **unused)
{
	vdev_fake_free(vm);
	return 0;
}

static bool line(void) { return pic_intr(pic); }

static size_t type(const char *s) { return uart_input(uart, (const u8 *)s, strlen(s)); }

/* Linux autoconfig(): scratch, IER, loopback, FIFO; then the tests that tell a 16550A from its successors. */
static void test_linux_autoconfig(void **unused)
{
	u8 mcr, lcr, status1, status2;

	wr(IER, 0);
	assert_int_equal(rd(IER) & 0x0f, 0);
	wr(IER, 0x0f);
	assert_int_equal(rd(IER) & 0x0f, 0x0f);
	wr(IER, 0);
	mcr = rd(MCR);
	wr(MCR, 0x10 | 0x0a);
	assert_int_equal(rd(MSR) & 0xf0, 0x90);
	wr(MCR, mcr);
	lcr = rd(LCR);
	wr(LCR, 0xbf);
	wr(FCR, 0); /* EFR */
	wr(LCR, 0);
	wr(FCR, 1);
	assert_int_equal(rd(IIR) >> 6, 3); /* 16550A */
	wr(LCR, 0x80);
	assert_int_not_equal(rd(IIR), 0); /* EFR of a 16650 would be 0 */
	wr(LCR, 0xbf);
	assert_int_not_equal(rd(IIR), 0);
	wr(LCR, 0);
	status1 = rd(MCR);
	wr(LCR, 0xe0);
	status2 = rd(IIR);
	if (!((status2 ^ status1) & 0x10)) { /* National's EXCR1 would follow MCR.LOOP */
		wr(LCR, 0);
		wr(MCR, status1 ^ 0x10);
		wr(LCR, 0xe0);
		status2 = rd(IIR);
		wr(LCR, 0);
		wr(MCR, status1);
		assert_false((status2 ^ status1) & 0x10);
	}
	wr(LCR, 0);
	wr(FCR, 0x21);
	assert_int_equal(rd(IIR) >> 5, 6); /* no 64-byte FIFO */
	wr(FCR, 1);
	wr(IER, 0x40);
	assert_int_equal(rd(IER), 0); /* not an XScale UART */
	wr(SCR, 0x5a);
	assert_int_equal(rd(SCR), 0x5a);
	wr(LCR, lcr);
}

/* Linux serial8250_do_startup(): THRE interrupts must come back when they are enabled again. */
static void test_linux_thre_test(void **unused)
{
	wr(MCR, 8);
	wr(IER, 2);
	assert_true(line());
	assert_int_equal(rd(IIR), 0x02);
	assert_int_equal(rd(IIR), 0x01); /* reading it acknowledges */
	assert_false(line());
	wr(IER, 0);
	wr(IER, 2);
	assert_int_equal(rd(IIR), 0x02);
	wr(DATA, 'x');
	assert_true(line());
	wr(IER, 0);
	assert_false(line());
}

static void test_output(void **unused)
{
	const char *text = "hello";

	assert_int_equal(rd(LSR), 0x60);
	for (const char *p = text; *p; p++)
		wr(DATA, (u8)*p);
	assert_int_equal(vm->console_total, 5);
	assert_memory_equal(vm->console, text, 5);
	wr(LCR, 0x83);
	wr(DATA, 0x0c); /* divisor, not data */
	wr(IER, 0x01);
	assert_int_equal(rd(DATA), 0x0c);
	assert_int_equal(rd(IER), 0x01);
	wr(LCR, 3);
	assert_int_equal(rd(IER), 0);
	assert_int_equal(vm->console_total, 5);
}

static void test_input_without_fifo(void **unused)
{
	assert_int_equal(type("ab"), 1);
	assert_int_equal(rd(LSR), 0x61);
	assert_int_equal(type("b"), 0);
	assert_int_equal(rd(DATA), 'a');
	assert_int_equal(rd(LSR), 0x60);
	assert_int_equal(type("b"), 1);
	assert_int_equal(rd(DATA), 'b');
}

static void test_fifo_trigger_and_timeout(void **unused)
{
	wr(LCR, 0x83);
	wr(DATA, 1); /* 115200 */
	wr(IER, 0);
	wr(LCR, 3);
	wr(FCR, 0x81); /* trigger at 8 */
	wr(MCR, 8);
	wr(IER, 1);
	assert_int_equal(type("1234567"), 7);
	assert_false(line());
	vdev_fake_run(vm, VDEV_FAKE_HZ * 39 / 115200);
	assert_false(line());
	vdev_fake_run(vm, VDEV_FAKE_HZ * 2 / 115200);
	assert_true(line());
	assert_int_equal(rd(IIR), 0xcc); /* character timeout */
	assert_int_equal(rd(DATA), '1');
	assert_int_equal(rd(IIR), 0xc1); /* read: starts anew */
	assert_int_equal(type("890"), 3);
	assert_int_equal(rd(IIR), 0xc4); /* trigger level */
	for (const char *p = "234567890"; *p; p++)
		assert_int_equal(rd(DATA), *p);
	assert_int_equal(rd(LSR), 0x60);
	assert_false(line());
	vdev_fake_run(vm, VDEV_FAKE_HZ);
	assert_false(line());
	assert_int_equal(type("0123456789abcdefXYZ"), 16);
	wr(FCR, 0x83); /* clear */
	assert_int_equal(rd(LSR), 0x60);
	assert_false(line());
}

static void test_identification_order(void **unused)
{
	wr(FCR, 1);
	wr(MCR, 0x10);
	for (unsigned i = 0; i < 17; i++)
		wr(DATA, (u8)i); /* loopback: overruns at the 17th */
	assert_int_equal(vm->console_total, 0);
	assert_int_equal(type("x"), 0); /* the outside is cut off */
	wr(MCR, 0x08);
	wr(IER, 0x0f);
	assert_true(line());
	assert_int_equal(rd(IIR), 0xc6); /* line status */
	assert_int_equal(rd(LSR), 0x63);
	assert_int_equal(rd(IIR), 0xc4); /* data */
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(rd(DATA), i);
	assert_int_equal(rd(IIR), 0xc2); /* transmitter empty */
	assert_int_equal(rd(IIR), 0xc0); /* modem status: left loopback */
	assert_int_equal(rd(MSR) & 0xf0, 0xb0);
	assert_int_equal(rd(IIR), 0xc1);
	assert_false(line());
}

static void test_irq_needs_out2(void **unused)
{
	wr(IER, 1);
	type("a");
	assert_false(line());
	wr(MCR, 8);
	assert_true(line());
}

static void test_post_load(void **unused)
{
	u8 *s = vdev_fake_state(uart);
	u64 deadline;

	wr(FCR, 1);
	type("abc");
	deadline = uart->deadline;
	assert_int_not_equal(deadline, VDEV_NEVER);
	uart->deadline = VDEV_NEVER;
	vdev_fake_run(vm, 1000);
	assert_int_equal(uart_type.mig.post_load(uart, NULL), 0);
	assert_int_equal(uart->deadline, deadline); /* a move does not put the timeout off */
	s[8] = 17; /* characters in the FIFO */
	assert_int_equal(uart_type.mig.post_load(uart, NULL), -E_INVAL);
	s[8] = 2;
	s[15] = 0; /* no FIFO but two characters */
	assert_int_equal(uart_type.mig.post_load(uart, NULL), -E_INVAL);
	s[15] = 1;
	assert_int_equal(uart_type.mig.post_load(uart, NULL), 0);
	s[14] = 0x10; /* IER */
	assert_int_equal(uart_type.mig.post_load(uart, NULL), -E_INVAL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_linux_autoconfig), T(test_linux_thre_test), T(test_output), T(test_input_without_fifo),
		T(test_fifo_trigger_and_timeout), T(test_identification_order), T(test_irq_needs_out2),
		T(test_post_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
