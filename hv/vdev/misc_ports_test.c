/* SPDX-License-Identifier: MIT */
#include "hv/fake/vdev_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct vm *vm;

static int setup(void **unused)
{
	vm = vdev_fake_vm();
	vm->config.debug_exit = true;
	vdev_fake_add(vm, &misc_ports_type, 0);
	return 0;
}

static int teardown(void **unused)
{
	vdev_fake_free(vm);
	return 0;
}

static void test_keyboard_reset(void **unused)
{
	assert_int_equal(vdev_fake_in(vm, 0x64, 1), 0xff); /* nobody home */
	assert_int_equal(vdev_fake_in(vm, 0x60, 1), 0xff);
	vdev_fake_out(vm, 0x64, 1, 0xaa);
	assert_false(vm->want_reset);
	vdev_fake_out(vm, 0x64, 1, 0xfe);
	assert_true(vm->want_reset);
}

static void test_port_92(void **unused)
{
	vdev_fake_out(vm, 0x92, 1, 0);
	assert_int_equal(vdev_fake_in(vm, 0x92, 1), 2); /* A20 is always open */
	assert_false(vm->want_reset);
	vdev_fake_out(vm, 0x92, 1, 3);
	assert_true(vm->want_reset);
}

static void test_pvpanic(void **unused)
{
	assert_int_equal(vdev_fake_in(vm, 0x505, 1), 3);
	vdev_fake_out(vm, 0x505, 1, 0xfc);
	vdev_fake_out(vm, 0x505, 1, 2); /* its crash kernel runs on */
	assert_int_equal(vm->state, RS_RUNNING);
	vdev_fake_out(vm, 0x505, 1, 1);
	assert_int_equal(vm->state, RS_GUEST_PANICKED);
}

static void test_debug_exit(void **unused)
{
	vdev_fake_out(vm, 0xf4, 1, 0xffffff21);
	assert_int_equal(vm->debug_exit_code, 0x21);
	assert_true(vm->want_poweroff);
	vdev_fake_out(vm, 0xf4, 2, 0xffff4321);
	assert_int_equal(vm->debug_exit_code, 0x4321);
	vdev_fake_out(vm, 0xf4, 4, 0);
	assert_int_equal(vm->debug_exit_code, 0);
}

static void test_debug_exit_is_asked_for(void **unused)
{
	struct vm *other = vdev_fake_vm();

	vdev_fake_add(other, &misc_ports_type, 0);
	vdev_fake_out(other, 0xf4, 1, 1);
	assert_int_equal(other->debug_exit_code, -1);
	assert_false(other->want_poweroff);
	vdev_fake_free(other);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_keyboard_reset), T(test_port_92), T(test_pvpanic), T(test_debug_exit), T(test_debug_exit_is_asked_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
