/* SPDX-License-Identifier: MIT */
#include "hv/fake/vdev_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static struct vm *vm;
static struct vdev *pic;

static int setup(void **unused)
{
	vm = vdev_fake_vm();
	pic = vm_vdev(vm, &pic_type, 0);
	return 0;
}

static int teardown(void **unused)
{
	vdev_fake_free(vm);
	return 0;
}

/* As Linux's init_8259A() does it. */
static void linux_init(u8 icw4)
{
	static const u16 base[2] = { 0x20, 0xa0 };

	vdev_fake_out(vm, 0x21, 1, 0xff);
	for (unsigned c = 0; c < 2; c++) {
		vdev_fake_out(vm, base[c], 1, 0x11);
		vdev_fake_out(vm, base[c] + 1, 1, c ? 0x38 : 0x30);
		vdev_fake_out(vm, base[c] + 1, 1, c ? 2 : 4);
		vdev_fake_out(vm, base[c] + 1, 1, icw4);
	}
	vdev_fake_out(vm, 0x21, 1, 0);
	vdev_fake_out(vm, 0xa1, 1, 0);
}

static void pulse(unsigned irq)
{
	pic_line(pic, irq, true);
	pic_line(pic, irq, false);
}

static void test_probe(void **unused)
{
	/* Linux probe_8259A(): the mask register reads back. */
	vdev_fake_out(vm, 0xa1, 1, 0xff);
	vdev_fake_out(vm, 0x21, 1, 0xfb);
	assert_int_equal(vdev_fake_in(vm, 0x21, 1), 0xfb);
	assert_int_equal(vdev_fake_in(vm, 0xa1, 1), 0xff);
}

static void test_quiet_before_init(void **unused)
{
	for (unsigned i = 0; i < 16; i++)
		pulse(i);
	assert_false(pic_intr(pic));
}

static void test_vectors_and_eoi(void **unused)
{
	linux_init(1);
	pulse(4);
	assert_true(pic_intr(pic));
	assert_true(vm->vcpus[0]->irq_check);
	assert_int_equal(pic_ack(pic), 0x34);
	assert_false(pic_intr(pic));
	pulse(5);
	assert_false(pic_intr(pic)); /* lower than what is in service */
	pulse(1);
	assert_int_equal(pic_ack(pic), 0x31); /* higher */
	vdev_fake_out(vm, 0x20, 1, 0x20); /* non-specific: the highest */
	vdev_fake_out(vm, 0x20, 1, 0x0b);
	assert_int_equal(vdev_fake_in(vm, 0x20, 1), 0x10);
	vdev_fake_out(vm, 0x20, 1, 0x64); /* specific EOI of 4 */
	assert_int_equal(vdev_fake_in(vm, 0x20, 1), 0);
	vdev_fake_out(vm, 0x20, 1, 0x0a);
	assert_int_equal(vdev_fake_in(vm, 0x20, 1), 0x20);
	assert_int_equal(pic_ack(pic), 0x35);
}

static void test_slave(void **unused)
{
	linux_init(1);
	pulse(8);
	assert_int_equal(vdev_fake_in(vm, 0x20, 1), 4); /* IRR of the master shows the cascade */
	assert_int_equal(pic_ack(pic), 0x38);
	pulse(3);
	assert_false(pic_intr(pic)); /* master IR2 in service */
	pulse(1);
	assert_int_equal(pic_ack(pic), 0x31);
	vdev_fake_out(vm, 0x20, 1, 0x61);
	vdev_fake_out(vm, 0xa0, 1, 0x60); /* as Linux: specific EOI of 0 on the slave, of 2 on the master */
	vdev_fake_out(vm, 0x20, 1, 0x62);
	assert_int_equal(pic_ack(pic), 0x33);
}

static void test_mask(void **unused)
{
	linux_init(1);
	vdev_fake_out(vm, 0x21, 1, 0x10);
	pulse(4);
	assert_false(pic_intr(pic));
	vdev_fake_out(vm, 0x21, 1, 0);
	assert_int_equal(pic_ack(pic), 0x34); /* the edge was kept */
}

static void test_level(void **unused)
{
	linux_init(1);
	vdev_fake_out(vm, 0x4d1, 1, 0xff);
	assert_int_equal(vdev_fake_in(vm, 0x4d1, 1), 0xde);
	vdev_fake_out(vm, 0x4d0, 1, 0xff);
	assert_int_equal(vdev_fake_in(vm, 0x4d0, 1), 0xf8);
	pic_line(pic, 9, true);
	assert_int_equal(pic_ack(pic), 0x39);
	assert_false(pic_intr(pic));
	vdev_fake_out(vm, 0xa0, 1, 0x61);
	vdev_fake_out(vm, 0x20, 1, 0x62);
	assert_int_equal(pic_ack(pic), 0x39); /* still asserted */
	pic_line(pic, 9, false);
	vdev_fake_out(vm, 0xa0, 1, 0x61);
	vdev_fake_out(vm, 0x20, 1, 0x62);
	assert_false(pic_intr(pic));
}

static void test_spurious(void **unused)
{
	linux_init(1);
	vdev_fake_out(vm, 0x4d0, 1, 0x20);
	pic_line(pic, 5, true);
	assert_true(pic_intr(pic));
	pic_line(pic, 5, false); /* gone between INTR and the acknowledge */
	assert_int_equal(pic_ack(pic), 0x37);
	vdev_fake_out(vm, 0x20, 1, 0x0b);
	assert_int_equal(vdev_fake_in(vm, 0x20, 1), 0);
}

static void test_auto_eoi_and_rotation(void **unused)
{
	linux_init(3);
	vdev_fake_out(vm, 0x20, 1, 0x80); /* rotate in automatic EOI mode */
	pulse(3);
	pulse(5);
	assert_int_equal(pic_ack(pic), 0x33);
	pulse(3); /* now the lowest */
	assert_int_equal(pic_ack(pic), 0x35);
	assert_int_equal(pic_ack(pic), 0x33);
	linux_init(1);
	vdev_fake_out(vm, 0x20, 1, 0xc4); /* set priority: 4 lowest, 5 highest */
	pulse(0);
	pulse(5);
	assert_int_equal(pic_ack(pic), 0x35);
	vdev_fake_out(vm, 0x20, 1, 0xa0); /* EOI and rotate */
	pulse(5);
	pulse(6);
	assert_int_equal(pic_ack(pic), 0x36);
}

static void test_special_mask(void **unused)
{
	linux_init(1);
	pulse(2 + 1);
	assert_int_equal(pic_ack(pic), 0x33);
	pulse(6);
	assert_false(pic_intr(pic));
	vdev_fake_out(vm, 0x21, 1, 0x08);
	vdev_fake_out(vm, 0x20, 1, 0x68);
	assert_int_equal(pic_ack(pic), 0x36); /* all but the masked input get through */
	vdev_fake_out(vm, 0x20, 1, 0x20);
	vdev_fake_out(vm, 0x20, 1, 0x0b);
	assert_int_equal(vdev_fake_in(vm, 0x20, 1), 0x08);
}

static void test_poll(void **unused)
{
	linux_init(1);
	vdev_fake_out(vm, 0x20, 1, 0x0c);
	assert_int_equal(vdev_fake_in(vm, 0x20, 1), 0);
	pulse(6);
	vdev_fake_out(vm, 0x20, 1, 0x0c);
	assert_int_equal(vdev_fake_in(vm, 0x20, 1), 0x86);
	vdev_fake_out(vm, 0x20, 1, 0x0b);
	assert_int_equal(vdev_fake_in(vm, 0x20, 1), 0x40);
}

static void test_post_load(void **unused)
{
	u8 *s = vdev_fake_state(pic), keep;

	linux_init(1);
	assert_int_equal(pic_type.mig.post_load(pic, NULL), 0);
	for (unsigned i = 0; i < pic_type.mig.n_fields; i++) {
		const struct mig_field *f = &pic_type.mig.fields[i];

		if (f->tag <= 4)
			continue; /* lines, IRR, ISR, IMR may hold anything */
		keep = s[f->offset + 1];
		s[f->offset + 1] = 0xff;
		assert_int_equal(pic_type.mig.post_load(pic, NULL), -E_INVAL);
		s[f->offset + 1] = keep;
	}
	assert_int_equal(pic_type.mig.post_load(pic, NULL), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_probe), T(test_quiet_before_init), T(test_vectors_and_eoi), T(test_slave), T(test_mask),
		T(test_level), T(test_spurious), T(test_auto_eoi_and_rotation), T(test_special_mask), T(test_poll),
		T(test_post_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
