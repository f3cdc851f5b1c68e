/* SPDX-License-Identifier: MIT */
/* Console device, one port (hvc0). Its output goes where the UART's goes. What is typed goes to the one of the two that the
 * guest has written to last: a guest that never writes to hvc0 does not notice that it is there. */
#include "hv/vdev/virtio.h"

#define RX 0
#define TX 1
#define TURN_BYTES 1024u
#define TURN_REQUESTS 64u

struct virtio_console_state {
	struct virtio_state v;
	u64 sent;   /* bytes of the request at the head of the transmit queue that are out already */
	u64 active; /* 1: the guest's last output came from here */
};

struct virtio_console {
	struct virtio vio;
	struct virtio_console_state s;
};

static struct virtio_console *virtio_console_of(struct vdev *dev)
{
	return container_of(dev, struct virtio_console, vio.dev);
}

static struct vdev *virtio_console_find(struct vm *vm)
{
	return vm_vdev(vm, &virtio_console_type.vdev, 0);
}

/* Writes out up to max bytes of the request; returns how many, or negative. */
static int virtio_console_write(struct virtio_console *con, const struct virtq_chain *chain, u32 max)
{
	u64 end = MIN(chain->out_len, con->s.sent + max);
	u32 done = 0;

	while (con->s.sent < end) {
		u8 buf[64];
		u32 n = (u32)MIN(end - con->s.sent, (u64)sizeof(buf));

		if (virtq_read(&con->vio, chain, con->s.sent, buf, n))
			return -E_PROTO;
		for (u32 i = 0; i < n; i++)
			vm_console_out(con->vio.dev.vm, buf[i]);
		con->s.sent += n;
		con->s.active = 1;
		done += n;
	}
	return (int)done;
}

static bool virtio_console_service(struct vdev *dev)
{
	struct virtio_console *con = virtio_console_of(dev);
	struct virtio *vio = &con->vio;
	struct virtq_chain chain;
	u32 left = TURN_BYTES;
	bool more = false;

	for (unsigned i = 0; !more && virtq_pop(vio, TX, &chain) > 0; i++) {
		int n = virtio_console_write(con, &chain, left);

		if (n < 0)
			break;
		left -= (u32)n;
		if (con->s.sent < chain.out_len) {
			virtq_unpop(vio, TX, 1);
			more = true;
			break;
		}
		con->s.sent = 0;
		virtq_push(vio, TX, chain.head, 0);
		more = !left || i == TURN_REQUESTS;
	}
	virtq_interrupt(vio, TX);
	return more;
}

bool virtio_console_active(struct vm *vm)
{
	struct vdev *dev = virtio_console_find(vm);

	return dev && virtio_console_of(dev)->s.active && virtio_ready(&virtio_console_of(dev)->vio);
}

void virtio_console_yield(struct vm *vm)
{
	struct vdev *dev = virtio_console_find(vm);

	if (dev)
		virtio_console_of(dev)->s.active = 0;
}

size_t virtio_console_input(struct vm *vm, const u8 *buf, size_t len)
{
	struct vdev *dev = virtio_console_find(vm);
	struct virtio *vio = &virtio_console_of(dev)->vio;
	struct virtq_chain chain;
	size_t done = 0;

	for (unsigned i = 0; i < TURN_REQUESTS && done < len && virtq_pop(vio, RX, &chain) > 0; i++) {
		size_t n = MIN(len - done, chain.in_len);

		if (virtq_write(vio, &chain, 0, buf + done, n))
			break;
		virtq_push(vio, RX, chain.head, (u32)n);
		done += n;
	}
	virtq_interrupt(vio, RX);
	return done;
}

static void virtio_console_device_reset(struct virtio *vio)
{
	struct virtio_console *con = virtio_console_of(&vio->dev);

	con->s.sent = con->s.active = 0;
}

static int virtio_console_post_load(void *owner, struct error *e)
{
	return virtio_console_of(owner)->s.active > 1 ? -E_INVAL : virtio_post_load(owner, e);
}

static const struct mig_field virtio_console_fields[] = {
	VIRTIO_FIELDS(struct virtio_console_state, 1),
	MIG_U64(100, struct virtio_console_state, sent, 1),
	MIG_U64(101, struct virtio_console_state, active, 1),
};

const struct virtio_type virtio_console_type = {
	.vdev = {
		.mig = {
			.name = "virtio-console", .version = 1, .min_version = 1, .phase = MIG_PHASE_DEVICE,
			MIG_STATE(struct virtio_console_state, virtio_console_fields), .post_load = virtio_console_post_load,
		},
		.size = sizeof(struct virtio_console), .state_offset = offsetof(struct virtio_console, s),
		.init = virtio_init, .reset = virtio_reset, .destroy = virtio_destroy, .service = virtio_console_service,
	},
	.device_id = 3, .slot = VIRTIO_SLOT_CONSOLE, .class_code = 0x078000, .n_queues = 2, .queue_size = 64, .config_len = 12,
	.device_reset = virtio_console_device_reset,
};
VIRTIO_REGISTER(virtio_console_type);
