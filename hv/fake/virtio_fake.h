/* SPDX-License-Identifier: MIT */
/* Test fixture: the driver's side of PCI and virtio, on a guest of vdev_fake.h. What it does to the rings is what the test
 * says, right or wrong. */
#pragma once
#include "hv/fake/vdev_fake.h"
#include "hv/vdev/virtio.h"

#define VIRTIO_FAKE_RAM (4u << 20)
#define VIRTIO_FAKE_RINGS 0x10000ull  /* queue q: descriptors at + q * 0x4000, available + 0x1000, used + 0x2000 */
#define VIRTIO_FAKE_BUFFERS 0x100000ull /* for the test's own use, to the end of RAM */
#define VQ_NEXT 1
#define VQ_WRITE 2
#define VQ_INDIRECT 4

struct virtio_fake {
	struct vm *vm;
	struct virtio *vio;
	u64 bar;
	u16 size;                       /* of each queue */
	u16 avail_idx[VIRTIO_MAX_QUEUES], used_seen[VIRTIO_MAX_QUEUES];
};

/* vdev_fake_vm() with VIRTIO_FAKE_RAM bytes of RAM and a PCI bus. Freed with virtio_fake_free(). */
struct vm *virtio_fake_vm(void);
void virtio_fake_free(struct vm *vm);

u32 virtio_fake_config_read(struct vm *vm, unsigned slot, unsigned reg, unsigned size);
void virtio_fake_config_write(struct vm *vm, unsigned slot, unsigned reg, unsigned size, u32 val);
u64 virtio_fake_mmio_read(struct vm *vm, u64 at, unsigned size);
void virtio_fake_mmio_write(struct vm *vm, u64 at, unsigned size, u64 val);

/* Brings the device up with these features (and VERSION_1), all its queues of that size, MSI-X off. */
void virtio_fake_start(struct virtio_fake *d, struct vdev *dev, u64 features, u16 size);
/* MSI-X on, each queue q and the configuration (last) with vector 0x40 + index. */
void virtio_fake_msix(struct virtio_fake *d);
u8 virtio_fake_status(struct virtio_fake *d);
u64 virtio_fake_ring(unsigned q);
void virtio_fake_desc(struct virtio_fake *d, unsigned q, unsigned i, u64 addr, u32 len, u16 flags, u16 next);
/* Puts head into the available ring, and notifies. */
void virtio_fake_avail(struct virtio_fake *d, unsigned q, u16 head);
void virtio_fake_notify(struct virtio_fake *d, unsigned q);
/* Takes an element from the used ring, if there is a new one. */
bool virtio_fake_used(struct virtio_fake *d, unsigned q, u32 *id, u32 *len);
/* service() as often as the device is kicked; returns how often. */
unsigned virtio_fake_service(struct vm *vm);
