/* SPDX-License-Identifier: MIT */
#include "hv/fake/vdev_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define BASE 0xfec00000ull
static struct vm *vm;
static struct vdev *io, *lapic;

static u32 reg_read(u32 i)
{
	vdev_fake_mmio_write(vm, BASE, i);
	return vdev_fake_mmio_read(vm, BASE + 0x10);
}

static void reg_write(u32 i, u32 val)
{
	vdev_fake_mmio_write(vm, BASE, i);
	vdev_fake_mmio_write(vm, BASE + 0x10, val);
}

static void redir(unsigned pin, u64 val)
{
	reg_write(0x11 + 2 * pin, (u32)(val >> 32));
	reg_write(0x10 + 2 * pin, (u32)val);
}

static int setup(void **unused)
{
	vm = vdev_fake_vm();
	io = vm_vdev(vm, &ioapic_type, 0);
	lapic = vcpu_lapic(vm->vcpus[0]);
	return 0;
}

static int teardown(void **unused)
{
	vdev_fake_free(vm);
	return 0;
}

static int take(void)
{
	int v = lapic_pending(lapic);

	if (v >= 0)
		lapic_ack(lapic, (u8)v);
	return v;
}

static void eoi(void)
{
	lapic_mmio_write(lapic, 0xb0, 0);
}

static void test_registers(void **unused)
{
	assert_int_equal(reg_read(1), 0x00170020); /* 24 pins, EOI register */
	reg_write(0, 0xff000000);
	assert_int_equal(reg_read(0), 0x0f000000);
	assert_int_equal(reg_read(0x10), 0x10000);
	reg_write(0x10, 0xffffffff);
	assert_int_equal(reg_read(0x10), 0x1afff); /* delivery status and remote IRR are read-only */
	reg_write(0x11, 0xffffffff);
	assert_int_equal(reg_read(0x11), 0xff000000);
	assert_int_equal(reg_read(0x10 + 48), 0); /* beyond the last pin */
}

static void test_edge(void **unused)
{
	redir(4, 0x44);
	vm_irq_line(vm, 4, true);
	assert_int_equal(take(), 0x44);
	eoi();
	assert_int_equal(take(), -1); /* one edge, one interrupt */
	vm_irq_line(vm, 4, false);
	vm_irq_line(vm, 4, true);
	assert_int_equal(take(), 0x44);
	eoi();
	/* An edge while masked is lost. */
	vm_irq_line(vm, 4, false);
	redir(4, 0x10044);
	vm_irq_line(vm, 4, true);
	redir(4, 0x44);
	assert_int_equal(take(), -1);
}

static void test_timer_is_gsi_2(void **unused)
{
	redir(0, 0x40);
	redir(2, 0x42);
	vm_irq_line(vm, 0, true);
	assert_int_equal(take(), 0x42);
	eoi();
	assert_int_equal(take(), -1);
}

static void test_level(void **unused)
{
	redir(9, 0x8000 | 0x59);
	vm_irq_line(vm, 9, true);
	assert_int_equal(reg_read(0x22) & 0x4000, 0x4000); /* remote IRR */
	assert_int_equal(lapic_mmio_read(lapic, 0x180 + 0x20), 1u << (0x59 - 0x40)); /* TMR */
	assert_int_equal(take(), 0x59);
	vm_irq_line(vm, 9, false);
	vm_irq_line(vm, 9, true);
	assert_int_equal(take(), -1); /* not before EOI */
	eoi();
	assert_int_equal(take(), 0x59); /* still asserted: comes again */
	vm_irq_line(vm, 9, false);
	eoi();
	assert_int_equal(reg_read(0x22) & 0x4000, 0);
	assert_int_equal(take(), -1);
	/* Asserted while masked: comes with the unmask. */
	redir(9, 0x18059);
	vm_irq_line(vm, 9, true);
	assert_int_equal(take(), -1);
	redir(9, 0x8059);
	assert_int_equal(take(), 0x59);
}

static void test_eoi_register_and_trigger_switch(void **unused)
{
	redir(9, 0x8059);
	vm_irq_line(vm, 9, true);
	vm_irq_line(vm, 9, false);
	vdev_fake_mmio_write(vm, BASE + 0x40, 0x58);
	assert_int_equal(reg_read(0x22) & 0x4000, 0x4000); /* other vector */
	vdev_fake_mmio_write(vm, BASE + 0x40, 0x59);
	assert_int_equal(reg_read(0x22) & 0x4000, 0);
	vm_irq_line(vm, 9, true);
	vm_irq_line(vm, 9, false);
	reg_write(0x22, 0x10059);
	reg_write(0x22, 0x18059);
	assert_int_equal(reg_read(0x22), 0x18059); /* remote IRR went with the level mode */
}

static void test_nmi_and_broadcast(void **unused)
{
	redir(5, 0x400);
	ioapic_line(io, 5, true);
	assert_true(vm->vcpus[0]->s.nmi_pending);
	redir(6, 0xffull << 56 | 0x66); /* physical broadcast */
	ioapic_line(io, 6, true);
	assert_int_equal(take(), 0x66);
	eoi();
	redir(7, 1ull << 56 | 0x67); /* no such CPU */
	ioapic_line(io, 7, true);
	assert_int_equal(take(), -1);
	ioapic_line(io, 24, true); /* no such pin */
}

static void test_post_load(void **unused)
{
	u64 *s = vdev_fake_state(io);

	assert_int_equal(ioapic_type.mig.post_load(io, NULL), 0);
	s[3] = 0x4000; /* remote IRR in edge mode */
	assert_int_equal(ioapic_type.mig.post_load(io, NULL), -E_INVAL);
	s[3] = 1ull << 40;
	assert_int_equal(ioapic_type.mig.post_load(io, NULL), -E_INVAL);
	s[3] = 0xc059;
	assert_int_equal(ioapic_type.mig.post_load(io, NULL), 0);
	s[24] = 1ull << 24; /* lines */
	assert_int_equal(ioapic_type.mig.post_load(io, NULL), -E_INVAL);
	s[24] = 0;
	s[25] = 1ull << 40; /* select */
	assert_int_equal(ioapic_type.mig.post_load(io, NULL), -E_INVAL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_registers), T(test_edge), T(test_timer_is_gsi_2), T(test_level),
		T(test_eoi_register_and_trigger_switch), T(test_nmi_and_broadcast), T(test_post_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
