/* SPDX-License-Identifier: MIT */
/* What a driver of virtio devices does, or should not do, by the bytes of an input. */
#pragma once
#include "hv/fake/virtio_fake.h"
#include "tools/fuzz/input.h"

/* Brings a device up, perhaps with MSI-X and with one good request in each queue. */
static inline void input_start(struct input *in, struct vm *vm, struct vdev *dev)
{
	static const u64 features[] = { 0, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC };
	struct virtio_fake d;
	u8 how = (u8)take(in, 1);

	virtio_fake_config_write(vm, virtio_of(dev)->fn.slot, 0x10, 4,
				 (u32)PCI_WINDOW + ((u32)virtio_of(dev)->fn.slot << 20));
	virtio_fake_start(&d, dev, features[how & 3], (u16)(1 << (how >> 2 & 7)));
	if (how & 0x20)
		virtio_fake_msix(&d);
	if (how & 0x40) /* one good request in each queue */
		for (unsigned q = 0; q < virtio_type_of(d.vio)->n_queues; q++) {
			virtio_fake_desc(&d, q, 0, VIRTIO_FAKE_BUFFERS, 64, how & 0x80 ? VQ_WRITE : 0, 0);
			virtio_fake_avail(&d, q, 0);
		}
}

/* Into the rings, mostly; a value that is small is more likely to be one that means something. */
static inline void input_poke(struct input *in, struct vm *vm)
{
	u8 where = (u8)take(in, 1), word = (u8)take(in, 1), what = (u8)take(in, 1);
	unsigned q = (where & 3) % 3;
	u64 at = virtio_fake_ring(q) + (where >> 2 & 3) * 0x1000ull + word * 2ull, val;
	unsigned size = 1u << (what & 3);

	val = what & 4 ? take(in, size) : what >> 3;
	MUST(!guest_write(vm, gpa(at), &val, size));
	/* What was written may be an index: let the available index of the queue be as if it went on by one, too. */
	if (what & 0x80) {
		u16 idx;

		MUST(!guest_read(vm, gpa(virtio_fake_ring(q) + 0x1002), &idx, 2));
		idx++;
		MUST(!guest_write(vm, gpa(virtio_fake_ring(q) + 0x1002), &idx, 2));
	}
}
