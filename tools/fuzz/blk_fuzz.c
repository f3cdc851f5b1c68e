/* SPDX-License-Identifier: MIT */
/* libFuzzer: any requests to a block device over a RAM disk. Input: for each request an operation byte, then type, sector and
 * its buffers. Memory that the guest did not name, and what is not its disk, stays as it was; every good request is answered
 * once. */
#include "hv/fake/fake.h"
#include "hv/fake/virtio_fake.h"
#include "hv/vm/blk.h"
#include "tools/fuzz/input.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define DISK_BASE 0x200000ull
#define DISK_BYTES 0x40000u
#define AROUND 4u /* pages beside the disk that must stay as they are */
#define HEADS VIRTIO_FAKE_BUFFERS
#define BUFFERS (VIRTIO_FAKE_BUFFERS + 0x1000)
#define BUFFERS_END (VIRTIO_FAKE_BUFFERS + 0x21000)

static void request(struct input *in, struct virtio_fake *d, unsigned n, u8 op)
{
	static const u8 types[] = { 0, 1, 4, 8, 11, 13, 0, 1 };
	struct { u32 type, reserved; u64 sector; } head = { .type = op & 8 ? (u32)take(in, 1) : types[op & 7] };
	unsigned first = n * 8 % 128, k = 0, bufs = op >> 4 & 3;
	bool writable = head.type == 0 || head.type == 8;

	head.sector = op & 0x40 ? take(in, 8) : take(in, 2) % (DISK_BYTES / 512 + 2);
	MUST(!guest_write(d->vm, gpa(HEADS + 16 * (first / 8)), &head, sizeof(head)));
	virtio_fake_desc(d, 0, first, HEADS + 16 * (first / 8), op & 0x80 ? (u32)take(in, 1) : 16, VQ_NEXT, (u16)(first + 1));
	for (; k < bufs; k++) {
		u32 n_bytes = (u32)take(in, 2);
		u64 at = BUFFERS + take(in, 2);

		if (n_bytes & 1)
			n_bytes = n_bytes / 512 * 512;
		virtio_fake_desc(d, 0, first + 1 + k, at, MIN(n_bytes, 0x10000u), (u16)(VQ_NEXT | (writable ? VQ_WRITE : 0)),
				 (u16)(first + 2 + k));
	}
	virtio_fake_desc(d, 0, first + 1 + k, BUFFERS_END - 8, 1, VQ_WRITE, 0);
	virtio_fake_avail(d, 0, (u16)first);
}

static u8 mark[PAGE_SIZE];

static bool unchanged(struct vm *vm, u64 from, u64 to)
{
	for (; from < to; from += PAGE_SIZE)
		if (memcmp(guest_page(vm, from >> PAGE_SHIFT), mark, sizeof(mark)))
			return false;
	return true;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	struct input in = { data, data + len };
	static bool memory;
	struct virtio_fake d;
	struct error e = { 0 };
	struct vdev *dev;
	struct vm *vm;
	u32 id, written, asked = 0, answered = 0;

	if (!memory)
		fake_memory(16u << 20);
	memory = true;
	vm = virtio_fake_vm();
	vm->state = RS_RUNNING;
	vm->config.n_disks = 1;
	vm->config.disks[0] = (struct disk_config){ .kind = DISK_RAM, .bytes = DISK_BYTES, .read_only = len && data[0] == 0xff };
	vm->disk_base[0] = DISK_BASE;
	vm->disks[0] = blk_open(vm, 0, &e);
	MUST(vm->disks[0]);
	memset(mark, 0xa5, sizeof(mark));
	for (unsigned i = 0; i < AROUND; i++) {
		MUST(!guest_write(vm, gpa(DISK_BASE - AROUND * PAGE_SIZE + i * PAGE_SIZE), mark, sizeof(mark)));
		MUST(!guest_write(vm, gpa(DISK_BASE + DISK_BYTES + i * PAGE_SIZE), mark, sizeof(mark)));
	}
	dev = vdev_fake_add(vm, &virtio_blk_type.vdev, 0);
	virtio_fake_start(&d, dev, vm->config.disks[0].read_only ? 0 : BIT(9) | BIT(13) | BIT(14), 128);
	for (unsigned n = 0; n < 200 && in.p < in.end; n++) {
		u8 op = (u8)take(&in, 1);

		request(&in, &d, n, op);
		asked++;
		if (n % 8 == 7 || in.p == in.end) {
			virtio_fake_service(vm);
			while (virtio_fake_used(&d, 0, &id, &written))
				answered++;
			if (op & 1) {
				MUST(vm_drain(vm));
				MUST(!virtio_blk_type.vdev.mig.post_load(dev, &e));
				vm_undrain(vm);
			}
		}
		if (virtio_fake_status(&d) & VIRTIO_NEEDS_RESET)
			break;
	}
	virtio_fake_service(vm);
	while (virtio_fake_used(&d, 0, &id, &written))
		answered++;
	MUST(answered == asked || virtio_fake_status(&d) & VIRTIO_NEEDS_RESET);
	MUST(unchanged(vm, DISK_BASE - AROUND * PAGE_SIZE, DISK_BASE));
	MUST(unchanged(vm, DISK_BASE + DISK_BYTES, DISK_BASE + DISK_BYTES + AROUND * PAGE_SIZE));
	vm->disks[0]->ops->close(vm->disks[0]);
	virtio_fake_free(vm);
	return 0;
}
