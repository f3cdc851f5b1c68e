/* SPDX-License-Identifier: MIT */
/* Block device ("Block Device" in the virtio specification): one queue over a back end (hv/vm/blk.h). Requests that were taken
 * from the ring and not answered yet are state: after a move the target reads their chains again and carries them out. That
 * is right because each does the same when it is done twice, and the guest waits for it until it is answered. */
#include "hv/vdev/virtio.h"
#include "hv/vm/blk.h"

#include <string.h>

#define SECTOR 512u
#define HEADER 16u
#define QUEUE_SIZE 128
#define SIZE_MAX_BYTES 8192u                            /* of a segment ... */
#define SEG_MAX (QUEUE_SIZE - 2u)                       /* ... and so many: less than BLK_MAX_BYTES in all */
_Static_assert(SIZE_MAX_BYTES * SEG_MAX <= BLK_MAX_BYTES, "a back end takes what the driver may ask for");
#define TURN_REQUESTS 128u
#define TURN_BYTES (8u << 20) /* a RAM disk does it at once, and meanwhile nobody else is served */
#define ID_BYTES 20u

#define F_SIZE_MAX BIT(1)
#define F_SEG_MAX BIT(2)
#define F_RO BIT(5)
#define F_BLK_SIZE BIT(6)
#define F_FLUSH BIT(9)
#define F_DISCARD BIT(13)
#define F_WRITE_ZEROES BIT(14)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
#define RANGE_UNMAP 1u

struct virtio_blk_state {
	struct virtio_state v;
	u64 n_taken;
	u16 taken[BLK_MAX_REQUESTS]; /* heads, in the order in which they came */
};

struct request {
	struct blk_req req;
	bool used;
	struct virtq_chain chain;
};

struct virtio_blk {
	struct virtio vio;
	struct virtio_blk_state s;
	bool forget;   /* the back end still has requests from before a reset */
	bool redo;     /* what is taken is not with the back end */
	bool draining;
	struct request requests[BLK_MAX_REQUESTS];
};

static struct virtio_blk *blk_of(struct virtio *vio) { return container_of(vio, struct virtio_blk, vio); }
static struct blk_backend *backend(struct virtio_blk *b) { return vm_disk(b->vio.dev.vm, b->vio.dev.instance); }

/* --- configuration --- */

static u64 virtio_blk_features(struct virtio *vio)
{
	u32 has = backend(blk_of(vio))->info.features;

	return F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | (has & BLK_READ_ONLY ? F_RO : 0) | (has & BLK_CAN_FLUSH ? F_FLUSH : 0) |
	       (has & BLK_CAN_DISCARD && !(has & BLK_READ_ONLY) ? F_DISCARD : 0) |
	       (has & BLK_CAN_WRITE_ZEROES && !(has & BLK_READ_ONLY) ? F_WRITE_ZEROES : 0);
}

struct virtio_blk_config {
	u64 capacity;
	u32 size_max, seg_max, geometry, blk_size;
	u8 physical_block_exp, alignment_offset;
	u16 min_io_size;
	u32 opt_io_size;
	u8 writeback, unused0;
	u16 num_queues;
	u32 max_discard_sectors, max_discard_seg, discard_sector_alignment;
	u32 max_write_zeroes_sectors, max_write_zeroes_seg;
	u8 write_zeroes_may_unmap, unused1[3];
};
_Static_assert(offsetof(struct virtio_blk_config, max_discard_sectors) == 36 && sizeof(struct virtio_blk_config) % 8 == 0, "as in the specification");
#define CONFIG_BYTES 60

static void virtio_blk_config_read(struct virtio *vio, u8 *config)
{
	const struct blk_info *info = &backend(blk_of(vio))->info;
	struct virtio_blk_config c = {
		.capacity = info->bytes / SECTOR, .size_max = SIZE_MAX_BYTES, .seg_max = SEG_MAX, .blk_size = info->block,
		.num_queues = 1, .max_discard_sectors = BLK_MAX_RANGE / SECTOR, .max_discard_seg = 1,
		.discard_sector_alignment = info->block / SECTOR, .max_write_zeroes_sectors = BLK_MAX_RANGE / SECTOR,
		.max_write_zeroes_seg = 1, .write_zeroes_may_unmap = 1,
	};

	memcpy(config, &c, CONFIG_BYTES);
}

/* --- requests --- */

static struct request *request_new(struct virtio_blk *b)
{
	for (unsigned i = 0; i < BLK_MAX_REQUESTS; i++)
		if (!b->requests[i].used) {
			b->requests[i].used = true;
			return &b->requests[i];
		}
	return NULL;
}

static void answer(struct virtio_blk *b, struct request *r, u8 status)
{
	u32 written = 1;
	u64 i = 0;

	r->used = false;
	while (i < b->s.n_taken && b->s.taken[i] != r->chain.head)
		i++;
	if (i < b->s.n_taken) {
		b->s.n_taken--;
		memmove(&b->s.taken[i], &b->s.taken[i + 1], (b->s.n_taken - i) * sizeof(b->s.taken[0]));
		b->s.taken[b->s.n_taken] = 0;
	}
	if (virtq_write(&b->vio, &r->chain, r->chain.in_len - 1, &status, 1))
		return;
	if (status == S_OK)
		written = (u32)r->chain.in_len;
	virtq_push(&b->vio, 0, r->chain.head, written);
}

static bool front_copy(struct blk_backend *be, struct blk_req *req, u32 at, void *buf, u32 len)
{
	static const u8 zeroes[4096];
	struct request *r = container_of(req, struct request, req);
	struct virtio *vio = &((struct virtio_blk *)be->owner)->vio;

	if (req->op == BLK_WRITE)
		return !virtq_read(vio, &r->chain, HEADER + at, buf, len);
	if (buf)
		return !virtq_write(vio, &r->chain, at, buf, len);
	for (u32 n; len; at += n, len -= n) {
		n = MIN(len, (u32)sizeof(zeroes));
		if (virtq_write(vio, &r->chain, at, zeroes, n))
			return false;
	}
	return true;
}

static void front_done(struct blk_backend *be, struct blk_req *req, int err)
{
	answer(be->owner, container_of(req, struct request, req), err ? S_IOERR : S_OK);
}

static const struct blk_front front = { front_copy, front_done };

static void front_wake(struct blk_backend *be)
{
	vdev_kick(&((struct virtio_blk *)be->owner)->vio.dev);
}

static int get_id(struct virtio_blk *b, struct request *r)
{
	u8 id[ID_BYTES];

	if (r->chain.in_len - 1 < ID_BYTES)
		return S_IOERR;
	vm_disk_serial(b->vio.dev.vm, b->vio.dev.instance, id);
	return virtq_write(&b->vio, &r->chain, 0, id, sizeof(id)) ? S_IOERR : S_OK;
}

/* Checks that it lies on the disk and fits its blocks. */
static int in_disk(const struct blk_info *info, struct blk_req *q, u64 sector, u64 bytes, u32 max)
{
	if (bytes % SECTOR || bytes > max || sector > info->bytes / SECTOR || bytes / SECTOR > info->bytes / SECTOR - sector)
		return S_IOERR;
	q->offset = sector * SECTOR;
	q->bytes = (u32)bytes;
	return q->offset % info->block || bytes % info->block ? S_IOERR : S_OK;
}

static int parse_range(struct virtio_blk *b, struct request *r, u32 type)
{
	const struct blk_info *info = &backend(b)->info;
	struct { u64 sector; u32 sectors, flags; } range;
	bool discard = type == T_DISCARD;

	if (!virtio_has(&b->vio, discard ? F_DISCARD : F_WRITE_ZEROES))
		return S_UNSUPP;
	if (r->chain.out_len != HEADER + sizeof(range) || virtq_read(&b->vio, &r->chain, HEADER, &range, sizeof(range)))
		return S_IOERR;
	if (range.flags & ~(discard ? 0 : RANGE_UNMAP))
		return S_UNSUPP;
	r->req.op = discard ? BLK_DISCARD : BLK_WRITE_ZEROES;
	r->req.unmap = range.flags & RANGE_UNMAP;
	return in_disk(info, &r->req, range.sector, (u64)range.sectors * SECTOR, BLK_MAX_RANGE);
}

/* Makes a request for the back end of the chain; if the answer is clear without it, that. -1: nothing is. */
static int parse(struct virtio_blk *b, struct request *r)
{
	const struct blk_info *info = &backend(b)->info;
	struct { u32 type, reserved; u64 sector; } head;
	int status;

	if (virtq_read(&b->vio, &r->chain, 0, &head, sizeof(head)))
		return S_IOERR;
	r->req = (struct blk_req){ .fua = !virtio_has(&b->vio, F_FLUSH) };
	if (info->features & BLK_READ_ONLY && (head.type == T_OUT || head.type == T_DISCARD || head.type == T_WRITE_ZEROES))
		return S_IOERR;
	switch (head.type) {
	case T_IN:
		r->req.op = BLK_READ;
		status = in_disk(info, &r->req, head.sector, r->chain.in_len - 1, BLK_MAX_BYTES);
		break;
	case T_OUT:
		r->req.op = BLK_WRITE;
		status = in_disk(info, &r->req, head.sector, r->chain.out_len - HEADER, BLK_MAX_BYTES);
		break;
	case T_DISCARD:
	case T_WRITE_ZEROES:
		status = parse_range(b, r, head.type);
		break;
	case T_FLUSH:
		r->req.op = BLK_FLUSH;
		return info->features & BLK_CAN_FLUSH ? -1 : S_OK;
	case T_GET_ID:
		return get_id(b, r);
	default:
		return S_UNSUPP;
	}
	return status != S_OK || !r->req.bytes ? status : -1;
}

static void start(struct virtio_blk *b, struct request *r)
{
	int status = r->chain.in_len ? parse(b, r) : virtio_broken(&b->vio, "a request without room for its status");

	if (!virtio_ready(&b->vio))
		r->used = false; /* or its memory is not there */
	else if (status >= 0)
		answer(b, r, (u8)status);
	else
		backend(b)->ops->submit(backend(b), &r->req);
}

/* Nothing of the requests is with the back end any more; what the driver still waits for is done anew when it may be. */
static void recall(struct virtio_blk *b)
{
	backend(b)->ops->forget(backend(b));
	for (unsigned i = 0; i < BLK_MAX_REQUESTS; i++)
		b->requests[i].used = false;
	b->forget = false;
	b->redo = b->s.n_taken;
}

static void redo(struct virtio_blk *b)
{
	u16 heads[BLK_MAX_REQUESTS];
	u64 n = b->s.n_taken;

	b->redo = false;
	memcpy(heads, b->s.taken, sizeof(heads));
	for (u64 i = 0; i < n; i++) {
		struct request *r = request_new(b);

		BUG_ON(!r);
		if (virtq_chain_at(&b->vio, 0, heads[i], &r->chain)) {
			r->used = false;
			return; /* the ring is broken */
		}
		start(b, r);
	}
}

static bool take(struct virtio_blk *b)
{
	u64 bytes = 0;

	for (unsigned n = 0; b->s.n_taken < BLK_MAX_REQUESTS; n++) {
		struct request *r;

		if (n == TURN_REQUESTS || bytes >= TURN_BYTES)
			return true;
		r = request_new(b);
		if (!r)
			return false;
		if (virtq_pop(&b->vio, 0, &r->chain) <= 0) {
			r->used = false;
			return false;
		}
		b->s.taken[b->s.n_taken++] = r->chain.head;
		start(b, r);
		bytes += r->req.bytes;
	}
	return false;
}

/* What the back end has done meanwhile. */
static bool look(struct virtio_blk *b)
{
	struct blk_backend *be = backend(b);
	bool more;

	/* Bus mastering is what a kernel forbids before another one starts, which then has the memory. */
	if (b->forget || !virtio_ready(&b->vio))
		recall(b);
	more = be->ops->poll && be->ops->poll(be);
	if (!virtio_ready(&b->vio)) /* what has been answered was in an impossible place */
		recall(b);
	return more;
}

static bool virtio_blk_service(struct vdev *dev)
{
	struct virtio_blk *b = blk_of(virtio_of(dev));
	bool more = look(b);

	vm_disks_known(dev->vm);
	if (!b->draining && virtio_ready(&b->vio)) {
		if (b->redo)
			redo(b);
		more |= take(b);
	}
	virtq_interrupt(&b->vio, 0);
	return more;
}

static bool virtio_blk_drain(struct vdev *dev)
{
	struct virtio_blk *b = blk_of(virtio_of(dev));

	b->draining = true;
	look(b);
	virtq_interrupt(&b->vio, 0);
	if (!backend(b)->ops->drain(backend(b))) {
		vm_drain_waits(dev->vm, dev->instance);
		return false;
	}
	/* Whatever is left was never sent, or its answer is lost: it moves, or is done anew here. */
	recall(b);
	return true;
}

static void virtio_blk_undrain(struct vdev *dev)
{
	struct virtio_blk *b = blk_of(virtio_of(dev));

	b->draining = false;
	backend(b)->ops->undrain(backend(b));
	vdev_kick(dev);
}

/* From any CPU: the back end is told in the next turn. */
static void virtio_blk_device_reset(struct virtio *vio)
{
	struct virtio_blk *b = blk_of(vio);

	b->s.n_taken = 0;
	memset(b->s.taken, 0, sizeof(b->s.taken));
	b->forget = true;
	b->redo = false;
	vdev_kick(&vio->dev);
}

static int virtio_blk_init(struct vdev *dev)
{
	struct virtio_blk *b = blk_of(virtio_of(dev));
	struct blk_backend *be = backend(b);

	be->front = &front;
	be->owner = b;
	be->wake = front_wake;
	vm_disks_known(dev->vm);
	vdev_kick(dev);
	return virtio_init(dev);
}

static int virtio_blk_post_load(void *owner, struct error *e)
{
	struct virtio_blk *b = blk_of(virtio_of(owner));
	bool bad = b->s.n_taken > BLK_MAX_REQUESTS || (b->s.n_taken && !b->s.v.enabled[0]);

	for (u64 i = 0; !bad && i < BLK_MAX_REQUESTS; i++)
		bad = i < b->s.n_taken ? b->s.taken[i] >= b->s.v.size[0] : b->s.taken[i] != 0;
	if (bad)
		return -E_INVAL;
	b->redo = b->s.n_taken;
	return virtio_post_load(owner, e);
}

static const struct mig_field virtio_blk_fields[] = {
	VIRTIO_FIELDS(struct virtio_blk_state, 1),
	MIG_U64(100, struct virtio_blk_state, n_taken, 1),
	MIG_U16S(101, struct virtio_blk_state, taken, 1),
};

const struct virtio_type virtio_blk_type = {
	.vdev = {
		.mig = {
			.name = "virtio-blk", .version = 1, .min_version = 1, .phase = MIG_PHASE_DEVICE,
			MIG_STATE(struct virtio_blk_state, virtio_blk_fields), .post_load = virtio_blk_post_load,
		},
		.size = sizeof(struct virtio_blk), .state_offset = offsetof(struct virtio_blk, s),
		.init = virtio_blk_init, .reset = virtio_reset, .destroy = virtio_destroy,
		.service = virtio_blk_service, .drain = virtio_blk_drain, .undrain = virtio_blk_undrain,
	},
	.device_id = 2, .slot = VIRTIO_SLOT_BLK, .class_code = 0x010000, .n_queues = 1, .queue_size = QUEUE_SIZE,
	.config_len = CONFIG_BYTES, .get_features = virtio_blk_features, .config_read = virtio_blk_config_read,
	.device_reset = virtio_blk_device_reset,
};
VIRTIO_REGISTER(virtio_blk_type);
