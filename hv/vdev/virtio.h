/* SPDX-License-Identifier: MIT */
/* Virtio 1.x ("Virtual I/O Device (VIRTIO) Version 1.1", OASIS): virtio-pci transport without the legacy interface, split
 * rings. The rings are hostile: descriptors are copied once, every loop is bounded, and a ring that makes no sense sets
 * DEVICE_NEEDS_RESET and is dead until the driver resets the device.
 *
 * How to write a device:
 *	struct foo_state { struct virtio_state v; u32 more; ... };      v first; no padding
 *	struct foo { struct virtio vio; struct foo_state s; ...host-only... };
 *	static const struct mig_field foo_fields[] = { VIRTIO_FIELDS(struct foo_state, 1), MIG_U32(100, ...) };
 *	const struct virtio_type foo_type = {
 *		.vdev = { .mig = { .name = "virtio-foo", .phase = MIG_PHASE_DEVICE, ..., .post_load = virtio_post_load },
 *			  .size = sizeof(struct foo), .state_offset = offsetof(struct foo, s),
 *			  .init = virtio_init, .reset = virtio_reset, .destroy = virtio_destroy, .service = foo_service },
 *		.device_id = ..., .n_queues = ..., ...
 *	};
 *	VIRTIO_REGISTER(foo_type);
 * Devices with more to do in init, reset, post_load or destroy have their own function, which calls the one above. Queue
 * work is done in service(): a notification of the driver is a vdev_kick(). Everything here wants the guest's lock held. */
#pragma once
#include "hv/vdev/pci.h"

#define VIRTIO_MAX_QUEUES 8
#define VIRTQ_MAX_SIZE 256 /* descriptors in a ring, and in a chain */
_Static_assert(PCI_MSIX_VECTORS == VIRTIO_MAX_QUEUES + 1, "one for each queue, one for configuration changes");

/* Device status */
#define VIRTIO_ACKNOWLEDGE 1
#define VIRTIO_DRIVER 2
#define VIRTIO_DRIVER_OK 4
#define VIRTIO_FEATURES_OK 8
#define VIRTIO_NEEDS_RESET 0x40
#define VIRTIO_FAILED 0x80

/* Reserved feature bits; the transport offers these by itself. */
#define VIRTIO_F_INDIRECT_DESC BIT(28)
#define VIRTIO_F_EVENT_IDX BIT(29)
#define VIRTIO_F_VERSION_1 BIT(32)

/* PCI slots: instance n of a type sits at slot + n, the same on every host. */
#define VIRTIO_SLOT_RNG 1
#define VIRTIO_SLOT_CONSOLE 2
#define VIRTIO_SLOT_BLK 4
#define VIRTIO_SLOT_NET 8

struct virtio_state {
	struct pci_fn_state pci;
	u64 driver_features;
	u64 desc[VIRTIO_MAX_QUEUES], avail[VIRTIO_MAX_QUEUES], used[VIRTIO_MAX_QUEUES]; /* guest-physical */
	u32 device_feature_select, driver_feature_select;
	u32 cfg_offset, cfg_length;           /* of the PCI configuration access capability */
	u16 queue_select, config_vector;
	u16 size[VIRTIO_MAX_QUEUES];
	u16 vector[VIRTIO_MAX_QUEUES];
	u16 enabled[VIRTIO_MAX_QUEUES];
	u16 last_avail[VIRTIO_MAX_QUEUES];    /* next entry of the available ring to take */
	u16 used_idx[VIRTIO_MAX_QUEUES];      /* next entry of the used ring to fill */
	u16 signalled[VIRTIO_MAX_QUEUES];     /* used_idx when interrupts were last decided about */
	u8 status, isr, config_generation, cfg_bar;
};
_Static_assert(sizeof(struct virtio_state) % 8 == 0, "no padding in the states that embed it");

/* Takes tags first .. first + 49. The state struct's first member must be `struct virtio_state v`. */
#define VIRTIO_FIELDS(st, first) \
	PCI_FN_FIELDS(st, v.pci, first), \
	MIG_U64((first) + 9, st, v.driver_features, 1), MIG_U64S((first) + 10, st, v.desc, 1), \
	MIG_U64S((first) + 11, st, v.avail, 1), MIG_U64S((first) + 12, st, v.used, 1), \
	MIG_U32((first) + 13, st, v.device_feature_select, 1), MIG_U32((first) + 14, st, v.driver_feature_select, 1), \
	MIG_U32((first) + 15, st, v.cfg_offset, 1), MIG_U32((first) + 16, st, v.cfg_length, 1), \
	MIG_U16((first) + 17, st, v.queue_select, 1), MIG_U16((first) + 18, st, v.config_vector, 1), \
	MIG_U16S((first) + 19, st, v.size, 1), MIG_U16S((first) + 20, st, v.vector, 1), \
	MIG_U16S((first) + 21, st, v.enabled, 1), MIG_U16S((first) + 22, st, v.last_avail, 1), \
	MIG_U16S((first) + 23, st, v.used_idx, 1), MIG_U16S((first) + 24, st, v.signalled, 1), \
	MIG_U8((first) + 25, st, v.status, 1), MIG_U8((first) + 26, st, v.isr, 1), \
	MIG_U8((first) + 27, st, v.config_generation, 1), MIG_U8((first) + 28, st, v.cfg_bar, 1)

struct virtio;

struct virtio_type {
	struct vdev_type vdev;        /* first */
	u16 device_id;                /* 1 network, 2 block, 3 console, 4 entropy */
	u8 slot;                      /* of instance 0 */
	u32 class_code;               /* PCI, 24 bits: 0x020000 Ethernet, 0x010000 SCSI storage, ... */
	u16 n_queues;                 /* at most VIRTIO_MAX_QUEUES */
	u16 queue_size;               /* what is offered: a power of two, at most VIRTQ_MAX_SIZE */
	u32 config_len;               /* device-specific configuration, at most 256; 0: none */
	u64 features;                 /* offered, without the reserved ones */
	/* What this instance offers, if that differs from one to the next; may be NULL. */
	u64 (*get_features)(struct virtio *vio);
	/* Fills the whole device-specific configuration (config_len bytes, zeroed before). NULL: all zero. What the driver writes
	 * there is dropped. */
	void (*config_read)(struct virtio *vio, u8 *config);
	/* The driver (status 0) or the machine resets the device: requests under way are forgotten and must not touch
	 * the rings any more. May be NULL. Called from virtio_reset(), too. */
	void (*device_reset)(struct virtio *vio);
};

#define VIRTIO_REGISTER(type_) MIG_REGISTER_AS(type_, (type_).vdev.mig)

struct virtio {
	struct vdev dev;              /* first */
	struct virtio_state *v;       /* the first member of the device's state */
	struct pci_fn fn;
};

static inline struct virtio *virtio_of(struct vdev *dev) { return container_of(dev, struct virtio, dev); }
static inline const struct virtio_type *virtio_type_of(const struct virtio *vio)
{
	return container_of(vio->dev.type, struct virtio_type, vdev);
}

extern const struct virtio_type virtio_blk_type, virtio_rng_type, virtio_console_type;

/* --- virtio_console.c --- */
/* Whether the guest's last output came from its virtio console: then input goes there, else to the UART. */
bool virtio_console_active(struct vm *vm);
/* The UART has written something. */
void virtio_console_yield(struct vm *vm);
/* Bytes typed; only if virtio_console_active(). Returns how many were taken. */
size_t virtio_console_input(struct vm *vm, const u8 *buf, size_t len);

/* --- for the ops of struct vdev_type --- */
int virtio_init(struct vdev *dev) __must_check;
void virtio_reset(struct vdev *dev);
void virtio_destroy(struct vdev *dev);
/* owner: struct vdev *. Checks the transport's part; kicks the device, so that service() looks at its rings again. */
int virtio_post_load(void *owner, struct error *e) __must_check;

/* The driver is up and the rings may be used: DRIVER_OK, not NEEDS_RESET, bus master enabled. */
bool virtio_ready(const struct virtio *vio);
static inline bool virtio_has(const struct virtio *vio, u64 feature) { return vio->v->driver_features & feature; }
/* Sets DEVICE_NEEDS_RESET and tells the driver; why is for the host's log (rate-limited). Returns -E_PROTO. */
int virtio_broken(struct virtio *vio, const char *why);
/* The device-specific configuration has changed. */
void virtio_config_changed(struct virtio *vio);

/* Interrupts the driver: the vector if MSI-X is on, else INTA with these bits of the ISR status (1: queue, 2: configuration).
 * virtq_interrupt() and virtio_config_changed() decide when. */
void virtio_signal(struct virtio *vio, u16 vector, u8 isr);

/* --- virtq.c: split rings --- */
struct virtq_seg { u64 gpa; u32 len; };

/* One request of the driver: buffers the device reads, then buffers it writes. Segments of length 0 are left out. Their
 * addresses are not checked yet: virtq_read() and virtq_write() do that. */
struct virtq_chain {
	u16 head;
	u16 links;                    /* descriptors read for it, but for that of an indirect table: what it has cost */
	u16 n_out, n_in;              /* seg[0..n_out) readable, seg[n_out..n_out + n_in) writable */
	u64 out_len, in_len;          /* bytes of each kind */
	struct virtq_seg seg[VIRTQ_MAX_SIZE];
};

/* Takes the next request. 1: taken; 0: none (the driver will notify about the next), or not ready; negative: the ring is
 * broken, DEVICE_NEEDS_RESET was set. */
int virtq_pop(struct virtio *vio, unsigned q, struct virtq_chain *chain) __must_check;
/* Gives the last n taken requests back, as if they had not been taken. Only if none of the later ones was pushed. */
void virtq_unpop(struct virtio *vio, unsigned q, unsigned n);
/* Reads again the chain that starts at head (a request that was taken before a move). 0 or negative, as virtq_pop(). */
int virtq_chain_at(struct virtio *vio, unsigned q, u16 head, struct virtq_chain *chain) __must_check;
/* len bytes at offset of the readable (writable) part. -E_RANGE: the chain is shorter than that, nothing was copied;
 * -E_PROTO: its memory is no RAM, DEVICE_NEEDS_RESET was set. */
int virtq_read(struct virtio *vio, const struct virtq_chain *chain, u64 offset, void *buf, size_t len) __must_check;
int virtq_write(struct virtio *vio, const struct virtq_chain *chain, u64 offset, const void *buf, size_t len) __must_check;
/* Puts the request into the used ring; written: bytes at the start of its writable part that were filled. */
void virtq_push(struct virtio *vio, unsigned q, u16 head, u32 written);
/* After one or more virtq_push(): interrupts the driver unless it does not want that. */
void virtq_interrupt(struct virtio *vio, unsigned q);
