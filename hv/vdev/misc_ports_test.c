/* SPDX-License-Identifier: MIT */
/* misc_ports and debug_exit */
#include "hv/fake/vdev_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct vm *vm;

static int setup(void **unused)
{
	vm = vdev_fake_vm();
	vdev_fake_add(vm, &misc_ports_type, 0);
	vdev_fake_add(vm, &debug_exit_type, 0);
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

static void test_post(void **unused)
{
	vdev_fake_out(vm, 0x80, 1, 0x42);
	assert_int_equal(vdev_fake_in(vm, 0x80, 1), 0x42);
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

static void test_post_load(void **unused)
{
	struct vdev *m = vm_vdev(vm, &misc_ports_type, 0);
	u8 *s = vdev_fake_state(m);

	assert_int_equal(misc_ports_type.mig.post_load(m, NULL), 0);
	s[1] = 1;
	assert_int_equal(misc_ports_type.mig.post_load(m, NULL), -E_INVAL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_keyboard_reset), T(test_port_92), T(test_post), T(test_debug_exit), T(test_post_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
