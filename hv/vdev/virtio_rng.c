/* SPDX-License-Identifier: MIT */
/* Entropy device: what the host's own generator gives, and of that no more than RATE. */
#include "hv/vdev/virtio.h"
#include "net/port/port.h"

#define TURN_BYTES 2048u      /* at most so much ... */
#define TURN_HZ 100           /* ... in such a fraction of a second */
#define REQUEST_COST 64u      /* what the smallest request counts */

struct virtio_rng_state {
	struct virtio_state v;
	u64 next_at; /* guest TSC of the next turn; a reset changes nothing about that */
};

struct virtio_rng {
	struct virtio vio;
	struct virtio_rng_state s;
};

static struct virtio_rng *virtio_rng_of(struct vdev *dev)
{
	return container_of(dev, struct virtio_rng, vio.dev);
}

/* Bytes written; less than len: the generator did not deliver; negative: broken. */
static int virtio_rng_fill(struct virtio *vio, const struct virtq_chain *chain, u32 len)
{
	u32 done = 0;
	u64 word;

	for (; done < len && entropy_raw(&word); done += sizeof(word))
		if (virtq_write(vio, chain, done, &word, MIN((u32)sizeof(word), len - done)))
			return -E_PROTO;
	return (int)MIN(done, len);
}

static bool virtio_rng_service(struct vdev *dev)
{
	struct virtio_rng *rng = virtio_rng_of(dev);
	struct virtio *vio = &rng->vio;
	u64 now = vm_tsc(dev->vm), turn = vm_tsc_hz(dev->vm) / TURN_HZ;
	struct virtq_chain chain;
	u32 left = TURN_BYTES;

	if (now < rng->s.next_at) {
		vdev_arm(dev, rng->s.next_at);
		return false;
	}
	while (left && virtq_pop(vio, 0, &chain) > 0) {
		u32 want = (u32)MIN(chain.in_len, (u64)left);
		int got = virtio_rng_fill(vio, &chain, want);

		if (got < 0)
			break;
		if (want && !got) { /* later, perhaps */
			virtq_unpop(vio, 0, 1);
			left = 0;
			break;
		}
		virtq_push(vio, 0, chain.head, (u32)got);
		left -= MIN(MAX(want, REQUEST_COST), left);
	}
	virtq_interrupt(vio, 0);
	if (!left) {
		rng->s.next_at = now + turn;
		vdev_arm(dev, rng->s.next_at);
	}
	return false;
}

static int virtio_rng_post_load(void *owner, struct error *e)
{
	struct vdev *dev = owner;

	if (virtio_rng_of(dev)->s.next_at > vm_tsc(dev->vm) + vm_tsc_hz(dev->vm))
		return -E_INVAL;
	return virtio_post_load(owner, e); /* service() arms the timer again */
}

static const struct mig_field virtio_rng_fields[] = {
	VIRTIO_FIELDS(struct virtio_rng_state, 1),
	MIG_U64(100, struct virtio_rng_state, next_at, 1),
};

const struct virtio_type virtio_rng_type = {
	.vdev = {
		.mig = {
			.name = "virtio-rng", .version = 1, .min_version = 1, .phase = MIG_PHASE_DEVICE,
			MIG_STATE(struct virtio_rng_state, virtio_rng_fields), .post_load = virtio_rng_post_load,
		},
		.size = sizeof(struct virtio_rng), .state_offset = offsetof(struct virtio_rng, s),
		.init = virtio_init, .reset = virtio_reset, .destroy = virtio_destroy,
		.timer = vdev_kick, .service = virtio_rng_service,
	},
	.device_id = 4, .slot = VIRTIO_SLOT_RNG, .class_code = 0x00ff00, .n_queues = 1, .queue_size = 64,
};
VIRTIO_REGISTER(virtio_rng_type);
