/* SPDX-License-Identifier: MIT */
/* libFuzzer: any sequence of port, configuration, MMIO and ring accesses to the PCI bus and the virtio devices on it. Input:
 * operations of one byte, a byte that picks the device, and what the operation takes. The disk's back end answers late and
 * out of order, the card hangs on a switch with somebody else on it. At the end each device's state must be one that its
 * own post_load accepts. */
#include "hv/fake/fake.h"
#include "hv/fake/virtio_fake.h"
#include "hv/vdev/virtio_net.h"
#include "hv/vm/blk.h"
#include "hv/vm/bus.h"
#include "net/vswitch.h"
#include "tools/fuzz/virtio_input.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define DISK_BYTES (1u << 20)
static struct vdev *fuzz_devs[4];

/* --- the disk behind virtio-blk --- */
static struct { struct blk_backend be; struct blk_req *req[BLK_MAX_REQUESTS]; unsigned n; } disk;

static void disk_submit(struct blk_backend *be, struct blk_req *req)
{
	if (disk.n == BLK_MAX_REQUESTS || (u64)req->offset + req->bytes > DISK_BYTES)
		abort();
	disk.req[disk.n++] = req;
	be->wake(be);
}

static void disk_forget(struct blk_backend *be)
{
	disk.n = 0;
}

static void disk_nothing(struct blk_backend *be)
{
}

static bool disk_poll(struct blk_backend *be)
{
	static u8 buf[BLK_MAX_BYTES];
	struct blk_req *req;
	bool ok = true;

	if (!disk.n)
		return false;
	req = disk.req[--disk.n];
	if ((req->op == BLK_READ || req->op == BLK_WRITE) && req->bytes > sizeof(buf))
		abort();
	if (req->op == BLK_READ || req->op == BLK_WRITE)
		ok = be->front->copy(be, req, 0, req->bytes & 512 ? buf : req->op == BLK_READ ? NULL : buf, req->bytes);
	be->front->done(be, req, ok ? 0 : -E_IO);
	return disk.n;
}

static int disk_ready(struct blk_backend *be, struct error *e) { return 1; }
static bool disk_drain(struct blk_backend *be) { return !disk.n; }

static const struct blk_ops disk_ops = {
	.submit = disk_submit, .forget = disk_forget, .poll = disk_poll, .ready = disk_ready, .drain = disk_drain,
	.undrain = disk_nothing, .close = disk_forget,
};

/* --- the neighbour of virtio-net --- */
static bool neighbour_deliver(struct vport *port, const u8 *frame, unsigned len, u16 vlan)
{
	return len <= VSWITCH_FRAME_MAX;
}

static const struct vport_ops neighbour_ops = { .deliver = neighbour_deliver };
static struct vport neighbour = { .ops = &neighbour_ops };

static void make_network(void)
{
	fake_memory(64ul << 20);
	if (n_vnetworks)
		return;
	vnetworks[n_vnetworks++] = (struct vnetwork){ .name = "lan", .sw = vswitch_create() };
	if (vswitch_add(vnetworks[0].sw, &neighbour))
		abort();
}

static void send_frame(struct input *in, struct vm *vm)
{
	u8 frame[VSWITCH_FRAME_MAX] = { 0 };
	unsigned len = 14 + take(in, 2) % (sizeof(frame) - 13);

	memset(frame, take(in, 1) & 1 ? 0xff : 0x52, 6);
	frame[6] = 2; /* the neighbour */
	frame[12] = 8;
	vswitch_input(&neighbour, frame, len);
}

static void step(struct input *in, struct vm *vm)
{
	u8 op = (u8)take(in, 1), pick = (u8)take(in, 1);
	struct vdev *dev = fuzz_devs[pick % 4];
	struct pci_fn *fn = &virtio_of(dev)->fn;
	u64 val = 0, at;
	unsigned size = 1u << (pick >> 2 & 3);

	switch (op % 16) {
	case 0: input_start(in, vm, dev); break;
	case 1: case 2:
		at = take(in, 1);
		if (op % 16 == 1)
			virtio_fake_config_write(vm, pick & 16 ? fn->slot : pick >> 5, (unsigned)at, MIN(size, 4u), (u32)take(in, 4));
		else
			virtio_fake_config_read(vm, pick & 16 ? fn->slot : pick >> 5, (unsigned)at, MIN(size, 4u));
		break;
	case 3:
		at = fn->s->bar + (take(in, 2) & 0x7fff);
		virtio_fake_mmio_write(vm, at, size, take(in, size));
		break;
	case 4:
		virtio_fake_mmio_read(vm, fn->s->bar + (take(in, 2) & 0x7fff), size);
		break;
	case 5: case 6: input_poke(in, vm); break;
	case 7:
		virtio_fake_mmio_write(vm, fn->s->bar + 0x3000 + 4 * (pick >> 4), 2, 0);
		if (op & 0x80)
			vdev_kick(dev);
		for (unsigned i = 0; i < 8 && vm_service(vm); i++)
			;
		break;
	case 8: vdev_fake_run(vm, take(in, 4)); break;
	case 9:
		at = take(in, 4);
		val = take(in, 4);
		bus_mmio(vm, at, size, pick & 32, &val);
		break;
	case 10:
		vm_console_in(vm, (const u8 *)"typed", pick % 6);
		break;
	case 11: send_frame(in, vm); break;
	case 12: vswitch_poll(); break;
	case 13:
		if (pick & 16)
			vm_drain(vm);
		else
			vm_undrain(vm);
		break;
	default:
		at = 0xcf8 + take(in, 1) % 8;
		val = take(in, 4);
		bus_pio(vm, (u16)at, MIN(size, 4u), pick & 32, &val);
	}
	int vector = lapic_pending(vcpu_lapic(vm->vcpus[0]));

	if (vector >= 0) {
		if (vector < 16)
			abort();
		lapic_ack(vcpu_lapic(vm->vcpus[0]), (u8)vector);
		lapic_mmio_write(vcpu_lapic(vm->vcpus[0]), 0xb0, 0);
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	struct input in = { data, data + len };
	struct vm *vm;

	make_network();
	vm = virtio_fake_vm();

	fuzz_devs[0] = vdev_fake_add(vm, &virtio_rng_type.vdev, 0);
	fuzz_devs[1] = vdev_fake_add(vm, &virtio_console_type.vdev, 0);
	vm->owner = true;
	strcpy(vm->config.name, "g");
	vm->config.n_nics = vm->config.n_disks = 1;
	strcpy(vm->config.nics[0].network, "lan");
	memset(vm->config.nics[0].mac, 0x52, 6);
	disk.n = 0;
	disk.be = (struct blk_backend){
		.ops = &disk_ops, .name = "fuzz",
		.info = { DISK_BYTES, 0, 512, BLK_CAN_FLUSH | BLK_CAN_FUA | BLK_CAN_DISCARD | BLK_CAN_WRITE_ZEROES },
	};
	vm->disks[0] = &disk.be;
	fuzz_devs[2] = vdev_fake_add(vm, &virtio_net_type.vdev, 0);
	fuzz_devs[3] = vdev_fake_add(vm, &virtio_blk_type.vdev, 0);
	vdev_fake_add(vm, &uart_type, 0);
	vdev_fake_add(vm, &pm_type, 0);
	lapic_mmio_write(vcpu_lapic(vm->vcpus[0]), 0xf0, 0x1ff);
	vswitch_poll(); /* it is seen to be up */
	for (unsigned i = 0; i < 400 && in.p < in.end; i++)
		step(&in, vm);
	for (unsigned i = 0; i < vm->n_vdevs; i++) {
		const struct mig_type *t = &vm->vdevs[i]->type->mig;

		if (t->post_load && t->post_load(vm->vdevs[i], NULL))
			abort();
	}
	virtio_fake_free(vm);
	return 0;
}
