/* SPDX-License-Identifier: MIT */
#include "hv/vdev/pci.h"
#include "hv/fake/virtio_fake.h"
#include "hv/vm/bus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define SLOT VIRTIO_SLOT_CONSOLE
#define COMMAND 4
#define BAR 0x10
#define MSIX 0x40

static struct vm *vm;
static struct vdev *con;
static struct virtio_fake drv;

static u32 rd(unsigned reg, unsigned size) { return virtio_fake_config_read(vm, SLOT, reg, size); }
static void wr(unsigned reg, unsigned size, u32 val) { virtio_fake_config_write(vm, SLOT, reg, size, val); }

static int setup(void **unused)
{
	vm = virtio_fake_vm();
	con = vdev_fake_add(vm, &virtio_console_type.vdev, 0);
	lapic_mmio_write(vcpu_lapic(vm->vcpus[0]), 0xf0, 0x1ff);
	return 0;
}

static int teardown(void **unused)
{
	virtio_fake_free(vm);
	return 0;
}

static void test_mechanism(void **unused)
{
	u64 val;

	assert_int_equal(virtio_fake_config_read(vm, 0, 0, 4), 0x00081b36);
	assert_int_equal(virtio_fake_config_read(vm, 0, 8, 4) >> 8, 0x060000);
	assert_int_equal(virtio_fake_config_read(vm, 0, BAR, 4), 0);
	virtio_fake_config_write(vm, 0, BAR, 4, 0xffffffff);
	assert_int_equal(virtio_fake_config_read(vm, 0, BAR, 4), 0);
	assert_int_equal(virtio_fake_config_read(vm, 7, 0, 4), 0xffffffff); /* an empty slot */
	assert_int_equal(rd(0, 4), 0x10431af4);
	assert_int_equal(rd(2, 2), 0x1043);
	assert_int_equal(rd(1, 1), 0x1a);
	assert_int_equal(rd(8, 4), 0x07800001);
	/* Other functions and buses have nothing; nor has a cleared enable bit. */
	val = 0x80000000 | SLOT << 11 | 1 << 8;
	bus_pio(vm, 0xcf8, 4, true, &val);
	assert_int_equal(vdev_fake_in(vm, 0xcfc, 4), 0xffffffff);
	val = 0x80010000 | SLOT << 11;
	bus_pio(vm, 0xcf8, 4, true, &val);
	assert_int_equal(vdev_fake_in(vm, 0xcfc, 4), 0xffffffff);
	val = SLOT << 11;
	bus_pio(vm, 0xcf8, 4, true, &val);
	assert_int_equal(vdev_fake_in(vm, 0xcfc, 4), 0xffffffff);
	/* The address register takes dwords only, as kernels probe. */
	vdev_fake_out(vm, 0xcf8, 4, 0x80000000);
	vdev_fake_out(vm, 0xcfb, 1, 1);
	assert_int_equal(vdev_fake_in(vm, 0xcf8, 4), 0x80000000);
	vdev_fake_out(vm, 0xcf8, 4, 0xffffffff);
	assert_int_equal(vdev_fake_in(vm, 0xcf8, 4), 0x80fffffc);
	/* Read-only registers are. */
	for (unsigned reg = 0; reg < 0x100; reg += 4) {
		u32 was = rd(reg, 4);

		if (reg == COMMAND || reg == BAR || reg == 0xc || reg == 0x3c || reg == MSIX || reg >= 0x94)
			continue;
		wr(reg, 4, ~was);
		assert_int_equal(rd(reg, 4), was);
	}
	wr(0x3c, 1, 0x5a);
	assert_int_equal(rd(0x3c, 2), 0x015a); /* INTA */
}

static void test_bar(void **unused)
{
	u32 first = rd(BAR, 4);
	u64 val = 0;

	assert_int_equal(first, PCI_WINDOW + (SLOT << 20));
	assert_true(bus_mmio(vm, first + 18, 2, false, &val));
	assert_int_equal(val, ~0ull); /* not decoded yet */
	wr(COMMAND, 2, 0xffff);
	assert_int_equal(rd(COMMAND, 2), 0x0406);
	assert_int_equal(virtio_fake_mmio_read(vm, first + 18, 2), 2);
	/* Sizing, as kernels do it. */
	wr(BAR, 4, 0xffffffff);
	assert_int_equal(rd(BAR, 4), 0xffff8000);
	assert_int_equal(virtio_fake_mmio_read(vm, first + 18, 2), 0xffff);
	/* Relocation, byte by byte even. */
	wr(BAR, 4, 0xd0000000);
	wr(BAR + 2, 1, 0x12);
	assert_int_equal(rd(BAR, 4), 0xd0120000);
	assert_int_equal(virtio_fake_mmio_read(vm, 0xd0120000 + 18, 2), 2);
	assert_int_equal(virtio_fake_mmio_read(vm, first + 18, 2), 0xffff);
	/* Not over its end, nor outside of the bridge's window, nor over RAM and the APICs. */
	assert_int_equal(virtio_fake_mmio_read(vm, 0xd0120000 + 0x7ffe, 4), 0xffffffff);
	wr(BAR, 4, 0xfe000000);
	assert_false(bus_mmio(vm, 0xfe000012, 2, false, &val));
	wr(BAR, 4, 0);
	assert_false(bus_mmio(vm, 0x12, 2, false, &val));
	wr(BAR, 4, 0xfec00000);
	assert_int_equal(virtio_fake_mmio_read(vm, 0xfec00000, 4), 0);
	/* Two at the same address: one answers, nobody is hurt. */
	vdev_fake_add(vm, &virtio_rng_type.vdev, 0);
	virtio_fake_config_write(vm, VIRTIO_SLOT_RNG, COMMAND, 2, 6);
	wr(BAR, 4, virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, BAR, 4));
	assert_int_equal(virtio_fake_mmio_read(vm, rd(BAR, 4) + 18, 2), 1);
}

static void test_msix(void **unused)
{
	struct pci_fn *fn = &virtio_of(con)->fn;
	u64 table, pba;

	assert_int_equal(rd(0x34, 1), MSIX);
	assert_int_equal(rd(MSIX, 4), 0x00025011); /* three vectors */
	pci_msix_send(fn, 0);
	assert_int_equal(fn->s->msix_pending, 0); /* off */
	virtio_fake_start(&drv, con, 0, 8);
	virtio_fake_msix(&drv);
	table = drv.bar + rd(MSIX + 4, 4);
	pba = drv.bar + rd(MSIX + 8, 4);
	assert_int_equal(virtio_fake_mmio_read(vm, table + 16, 8), 0xfee00000);
	assert_int_equal(virtio_fake_mmio_read(vm, table + 24, 8), 0x41);
	pci_msix_send(fn, 1);
	assert_int_equal(vdev_fake_interrupt(vm), 0x41);
	pci_msix_send(fn, 3);
	pci_msix_send(fn, PCI_NO_VECTOR);
	assert_int_equal(vdev_fake_interrupt(vm), 0);
	/* Masked by vector: pending until unmasked, once. */
	virtio_fake_mmio_write(vm, table + 16 + 12, 4, 1);
	pci_msix_send(fn, 1);
	pci_msix_send(fn, 1);
	assert_int_equal(vdev_fake_interrupt(vm), 0);
	assert_int_equal(virtio_fake_mmio_read(vm, pba, 8), 2);
	virtio_fake_mmio_write(vm, pba, 4, 0); /* read-only */
	virtio_fake_mmio_write(vm, table + 16 + 8, 4, 0x77); /* the data may change meanwhile */
	virtio_fake_mmio_write(vm, table + 16 + 12, 4, 0);
	assert_int_equal(vdev_fake_interrupt(vm), 0x77);
	assert_int_equal(vdev_fake_interrupt(vm), 0);
	assert_int_equal(virtio_fake_mmio_read(vm, pba, 4), 0);
	/* Masked as a whole; not without bus mastering. */
	wr(MSIX + 2, 2, 0xc000);
	assert_int_equal(rd(MSIX + 2, 2), 0xc002);
	pci_msix_send(fn, 2);
	pci_msix_send(fn, 0);
	assert_int_equal(vdev_fake_interrupt(vm), 0);
	wr(MSIX + 2, 2, 0x8000);
	assert_int_equal(vdev_fake_interrupt(vm), 0x42);
	assert_int_equal(vdev_fake_interrupt(vm), 0x40);
	wr(COMMAND, 2, 2);
	pci_msix_send(fn, 1);
	wr(MSIX + 2, 2, 0xc000);
	pci_msix_send(fn, 0);
	wr(MSIX + 2, 2, 0x8000); /* neither mask lets it out */
	virtio_fake_mmio_write(vm, table + 12, 4, 0);
	assert_int_equal(virtio_fake_mmio_read(vm, pba, 4), 3);
	assert_int_equal(vdev_fake_interrupt(vm), 0);
	wr(COMMAND, 2, 6);
	assert_int_equal(vdev_fake_interrupt(vm), 0x77);
	assert_int_equal(vdev_fake_interrupt(vm), 0x40);
	/* Not to an APIC; delivery modes and vectors that no message has. */
	virtio_fake_mmio_write(vm, table, 4, 0x1000);
	pci_msix_send(fn, 0);
	virtio_fake_mmio_write(vm, table, 8, 0x1fee00000);
	pci_msix_send(fn, 0);
	virtio_fake_mmio_write(vm, table, 8, 0xfee00000);
	for (unsigned mode = 2; mode < 8; mode++)
		if (mode != 4) {
			virtio_fake_mmio_write(vm, table + 8, 4, mode << 8 | 0x55);
			pci_msix_send(fn, 0);
		}
	virtio_fake_mmio_write(vm, table + 8, 4, 15);
	pci_msix_send(fn, 0);
	assert_int_equal(vdev_fake_interrupt(vm), 0);
	/* Broadcast, in x2APIC mode too. */
	virtio_fake_mmio_write(vm, table + 8, 4, 0x61);
	virtio_fake_mmio_write(vm, table, 4, 0xfeeff003);
	assert_int_equal(virtio_fake_mmio_read(vm, table, 4), 0xfeeff000);
	pci_msix_send(fn, 0);
	assert_int_equal(vdev_fake_interrupt(vm), 0x61);
	/* Odd accesses are ignored; so is what lies behind the table. */
	virtio_fake_mmio_write(vm, table + 1, 2, 0x1234);
	virtio_fake_mmio_write(vm, table + 2, 4, 0x12345678);
	virtio_fake_mmio_write(vm, table + 4, 8, ~0ull);
	virtio_fake_mmio_write(vm, table + 48, 8, ~0ull);
	virtio_fake_mmio_write(vm, table + 0xff8, 8, ~0ull);
	assert_int_equal(virtio_fake_mmio_read(vm, table, 8), 0xfeeff000);
	assert_int_equal(virtio_fake_mmio_read(vm, table + 48, 4), 0);
	assert_int_equal(virtio_fake_mmio_read(vm, table + 0xffc, 8), 0);
}

static bool pin(unsigned n)
{
	vdev_fake_mmio_write(vm, 0xfec00000, 0x10 + 2 * n);
	vdev_fake_mmio_write(vm, 0xfec00010, 0x8000 | (0x50 + n)); /* level */
	bool up = vdev_fake_interrupt(vm) == 0x50 + n;

	vdev_fake_mmio_write(vm, 0xfec00010, 0x10000);
	while (vdev_fake_interrupt(vm))
		;
	return up;
}

static void test_intx(void **unused)
{
	struct vdev *rng = vdev_fake_add(vm, &virtio_rng_type.vdev, 0), *pic = vm_vdev(vm, &pic_type, 0);
	struct virtio *blk_place;

	wr(COMMAND, 2, 6);
	pci_intx(&virtio_of(con)->fn, true);
	assert_true(pin(16 + SLOT));
	assert_int_equal(rd(6, 2), 0x18); /* interrupt status, capabilities */
	vdev_fake_out(vm, 0x21, 1, 0xfb);
	vdev_fake_out(vm, 0xa1, 1, 0xf3);
	assert_true(pic_intr(pic)); /* and IRQ 10 */
	pci_intx(&virtio_of(rng)->fn, true);
	assert_true(pin(16 + VIRTIO_SLOT_RNG));
	wr(COMMAND, 2, 0x406);
	assert_int_equal(rd(6, 2), 0x18);
	vdev_fake_out(vm, 0xa1, 1, 0xfb);
	assert_false(pic_intr(pic)); /* 10 is down, 11 still up */
	vdev_fake_out(vm, 0xa1, 1, 0xf7);
	assert_true(pic_intr(pic));
	wr(COMMAND, 2, 6);
	vdev_fake_out(vm, 0xa1, 1, 0xfb);
	assert_true(pic_intr(pic));
	/* MSI-X silences it, without losing it. */
	wr(MSIX + 2, 2, 0x8000);
	assert_false(pic_intr(pic));
	wr(MSIX + 2, 2, 0);
	assert_true(pic_intr(pic));
	/* Shared: up while one of the two is. */
	blk_place = virtio_of(con);
	pci_remove(&blk_place->fn);
	assert_int_equal(pci_add(&blk_place->fn, VIRTIO_SLOT_RNG + 4), 0);
	pci_intx(&blk_place->fn, false);
	pci_intx(&blk_place->fn, true);
	pci_intx(&virtio_of(rng)->fn, false);
	assert_true(pin(16 + VIRTIO_SLOT_RNG));
	pci_intx(&blk_place->fn, false);
	assert_false(pin(16 + VIRTIO_SLOT_RNG));
	assert_int_equal(pci_add(&blk_place->fn, VIRTIO_SLOT_RNG), -E_EXIST);
	assert_int_equal(pci_add(&blk_place->fn, 32), -E_EXIST);
}

static void test_post_load(void **unused)
{
	struct pci_fn_state *s = &virtio_of(con)->v->pci, good;
	struct error e = { 0 };

	virtio_fake_start(&drv, con, 0, 8);
	virtio_fake_msix(&drv);
	good = *s;
	assert_int_equal(virtio_post_load(con, &e), 0);
#define BAD(change) do { *s = good; change; assert_int_equal(virtio_post_load(con, NULL), -E_INVAL); *s = good; } while (0)
	BAD(s->bar |= 0x1000);
	BAD(s->command |= 1);
	BAD(s->msix_enable |= 1);
	BAD(s->msix_pending = 8);
	BAD(s->msix[8 * 4 + 3] = 2);
	BAD(s->msix[0] |= 1);
	BAD(s->intx = 2);
	assert_int_equal(virtio_post_load(con, NULL), 0);
}

static void test_board_without(void **unused)
{
	struct vdev *pci = vm_vdev(vm, &pci_type, 0);
	u64 val;

	vdev_fake_unplug(pci);
	assert_false(bus_pio(vm, 0xcf8, 4, false, &val));
	assert_false(bus_pio(vm, 0xcfc, 1, false, &val));
	assert_false(bus_mmio(vm, PCI_WINDOW, 4, false, &val));
	assert_true(bus_mmio(vm, 0xfec00000, 4, false, &val));
	assert_int_equal(pci->type->init(pci), -E_EXIST); /* the bridge itself is still in its slot */
	vdev_fake_unplug(pci);
	pci->type->destroy(pci);
	assert_int_equal(pci->type->init(pci), 0);
	assert_int_equal(rd(0, 4), 0x10431af4);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_mechanism), T(test_bar), T(test_msix), T(test_intx), T(test_post_load), T(test_board_without),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
