/* SPDX-License-Identifier: MIT */
#include "hv/fake/virtio_fake.h"
#include "hv/vm/bus.h"

#include <stdlib.h>

struct vm *virtio_fake_vm(void)
{
	struct vm *vm = vdev_fake_vm();

	vm->ram_2m_count = VIRTIO_FAKE_RAM / PAGE_2M;
	vm->ram_bytes = VIRTIO_FAKE_RAM;
	vm->ram_2m = calloc(vm->ram_2m_count, sizeof(hpa_t));
	for (u64 i = 0; i < vm->ram_2m_count; i++)
		vm->ram_2m[i] = ptr_hpa(calloc(1, PAGE_2M));
	vdev_fake_add(vm, &pci_type, 0);
	return vm;
}

void virtio_fake_free(struct vm *vm)
{
	for (u64 i = 0; i < vm->ram_2m_count; i++)
		free(hpa_ptr(vm->ram_2m[i]));
	free(vm->ram_2m);
	vdev_fake_free(vm);
}

static u64 mask(unsigned size)
{
	return ~0ull >> (64 - 8 * size);
}

u32 virtio_fake_config_read(struct vm *vm, unsigned slot, unsigned reg, unsigned size)
{
	u64 val = 0x80000000u | slot << 11 | (reg & 0xfc);

	bus_pio(vm, 0xcf8, 4, true, &val);
	bus_pio(vm, (u16)(0xcfc + (reg & 3)), size, false, &val);
	return (u32)(val & mask(size));
}

void virtio_fake_config_write(struct vm *vm, unsigned slot, unsigned reg, unsigned size, u32 v)
{
	u64 val = 0x80000000u | slot << 11 | (reg & 0xfc);

	bus_pio(vm, 0xcf8, 4, true, &val);
	val = v & mask(size);
	bus_pio(vm, (u16)(0xcfc + (reg & 3)), size, true, &val);
}

u64 virtio_fake_mmio_read(struct vm *vm, u64 at, unsigned size)
{
	u64 val;

	bus_mmio(vm, at, size, false, &val);
	return val & mask(size);
}

void virtio_fake_mmio_write(struct vm *vm, u64 at, unsigned size, u64 val)
{
	val &= mask(size);
	bus_mmio(vm, at, size, true, &val);
}

static void poke(struct virtio_fake *d, u64 at, const void *buf, size_t len)
{
	if (guest_write(d->vm, gpa(at), buf, len))
		abort();
}

u64 virtio_fake_ring(unsigned q)
{
	return VIRTIO_FAKE_RINGS + q * 0x4000ull;
}

void virtio_fake_start(struct virtio_fake *d, struct vdev *dev, u64 features, u16 size)
{
	struct vm *vm = dev->vm;
	static const u8 zero[0x3000];

	*d = (struct virtio_fake){ .vm = vm, .vio = virtio_of(dev), .size = size };
	d->bar = virtio_fake_config_read(vm, d->vio->fn.slot, 0x10, 4);
	virtio_fake_config_write(vm, d->vio->fn.slot, 4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	virtio_fake_mmio_write(vm, d->bar + 20, 1, 0);
	virtio_fake_mmio_write(vm, d->bar + 20, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	features |= VIRTIO_F_VERSION_1;
	for (unsigned i = 0; i < 2; i++) {
		virtio_fake_mmio_write(vm, d->bar + 8, 4, i);
		virtio_fake_mmio_write(vm, d->bar + 12, 4, features >> 32 * i);
	}
	virtio_fake_mmio_write(vm, d->bar + 20, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	for (unsigned q = 0; q < virtio_type_of(d->vio)->n_queues; q++) {
		u64 ring = virtio_fake_ring(q);

		poke(d, ring, zero, sizeof(zero));
		virtio_fake_mmio_write(vm, d->bar + 22, 2, q);
		virtio_fake_mmio_write(vm, d->bar + 24, 2, size);
		virtio_fake_mmio_write(vm, d->bar + 32, 8, ring);
		virtio_fake_mmio_write(vm, d->bar + 40, 4, ring + 0x1000);
		virtio_fake_mmio_write(vm, d->bar + 44, 4, 0);
		virtio_fake_mmio_write(vm, d->bar + 48, 8, ring + 0x2000);
		virtio_fake_mmio_write(vm, d->bar + 28, 2, 1);
	}
	virtio_fake_mmio_write(vm, d->bar + 20, 1,
			       VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
}

void virtio_fake_msix(struct virtio_fake *d)
{
	unsigned n = virtio_type_of(d->vio)->n_queues;

	for (unsigned i = 0; i <= n; i++) {
		u64 entry = d->bar + 0x4000 + 16 * i;

		virtio_fake_mmio_write(d->vm, entry, 4, 0xfee00000);
		virtio_fake_mmio_write(d->vm, entry + 4, 4, 0);
		virtio_fake_mmio_write(d->vm, entry + 8, 4, 0x40 + i);
		virtio_fake_mmio_write(d->vm, entry + 12, 4, 0);
		if (i < n) {
			virtio_fake_mmio_write(d->vm, d->bar + 22, 2, i);
			virtio_fake_mmio_write(d->vm, d->bar + 26, 2, i);
		}
	}
	virtio_fake_mmio_write(d->vm, d->bar + 16, 2, n);
	virtio_fake_config_write(d->vm, d->vio->fn.slot, 0x42, 2, 0x8000);
}

u8 virtio_fake_status(struct virtio_fake *d)
{
	return (u8)virtio_fake_mmio_read(d->vm, d->bar + 20, 1);
}

void virtio_fake_desc(struct virtio_fake *d, unsigned q, unsigned i, u64 addr, u32 len, u16 flags, u16 next)
{
	struct { u64 addr; u32 len; u16 flags, next; } desc = { addr, len, flags, next };

	poke(d, virtio_fake_ring(q) + 16 * i, &desc, sizeof(desc));
}

void virtio_fake_notify(struct virtio_fake *d, unsigned q)
{
	virtio_fake_mmio_write(d->vm, d->bar + 0x3000 + 4 * q, 2, q);
}

void virtio_fake_avail(struct virtio_fake *d, unsigned q, u16 head)
{
	u64 ring = virtio_fake_ring(q) + 0x1000;

	poke(d, ring + 4 + 2 * (d->avail_idx[q]++ % d->size), &head, 2);
	poke(d, ring + 2, &d->avail_idx[q], 2);
	virtio_fake_notify(d, q);
}

bool virtio_fake_used(struct virtio_fake *d, unsigned q, u32 *id, u32 *len)
{
	u64 ring = virtio_fake_ring(q) + 0x2000;
	u32 elem[2];
	u16 idx;

	if (guest_read(d->vm, gpa(ring + 2), &idx, 2))
		abort();
	if (idx == d->used_seen[q])
		return false;
	if (guest_read(d->vm, gpa(ring + 4 + 8 * (d->used_seen[q]++ % d->size)), elem, 8))
		abort();
	*id = elem[0];
	*len = elem[1];
	return true;
}

unsigned virtio_fake_service(struct vm *vm)
{
	unsigned n = 0;

	while (vm_service(vm) && n < 10000)
		n++;
	return n;
}
