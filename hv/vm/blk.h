/* SPDX-License-Identifier: MIT */
/* What a disk is made of: a back end that a block device (virtio_blk.c) gives its requests to. Everything here runs on the
 * service CPU with the guest's lock held, except wake(), which takes no lock. */
#pragma once
#include "hv/config.h"

#define BLK_MAX_REQUESTS 64          /* of one disk at a time */
#define BLK_MAX_BYTES (1u << 20)     /* of one read or write */
#define BLK_MAX_RANGE (32u << 20)    /* of one discard or write of zeroes, bytes */

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_WRITE_ZEROES };

/* A request; the device's from begin to end. The back end refers to it from submit() to done(). */
struct blk_req {
	enum blk_op op;
	bool fua;            /* durable before it is answered */
	bool unmap;          /* BLK_WRITE_ZEROES: the blocks may be given back */
	u32 bytes;           /* multiple of the block size; not 0 but for BLK_FLUSH */
	u64 offset;          /* within the disk, bytes */
};

enum blk_feature { BLK_READ_ONLY = 1, BLK_CAN_FLUSH = 2, BLK_CAN_FUA = 4, BLK_CAN_DISCARD = 8, BLK_CAN_WRITE_ZEROES = 16 };

/* What the guest sees of a disk, fixed from the first time that it is ready. A guest moves only to where it is the same. */
struct blk_info {
	u64 bytes;           /* multiple of 512 */
	u64 hash;            /* of the contents where they cannot change (image), 0 otherwise */
	u32 block;           /* bytes, 512 to 4096 */
	u32 features;        /* enum blk_feature */
};

struct blk_backend;

/* The device above. */
struct blk_front {
	/* Copies bytes of a request's data: out of the guest (BLK_WRITE), into it (BLK_READ; buf NULL: zeroes). False: the guest's
	 * memory is not there. */
	bool (*copy)(struct blk_backend *be, struct blk_req *req, u32 at, void *buf, u32 len);
	/* 0 or -enum err. From within submit() or poll(). */
	void (*done)(struct blk_backend *be, struct blk_req *req, int err);
};

struct blk_ops {
	/* Never fails: done() tells. */
	void (*submit)(struct blk_backend *be, struct blk_req *req);
	/* All requests are the device's again, without done(); what is on its way changes no guest memory any more, and nothing
	 * submitted later overtakes it. */
	void (*forget)(struct blk_backend *be);
	/* A bounded turn: calls done() for what has been answered. True: wants another at once. NULL: nothing to do ever. */
	bool (*poll)(struct blk_backend *be);
	/* 1: info is valid and requests are served; 0: not now, *e (if not NULL) tells why. */
	int (*ready)(struct blk_backend *be, struct error *e);
	/* Sends no new request any more. True when none is unanswered and what was written is durable, or the connection is dead:
	 * from then on nothing at all is sent until undrain(). */
	bool (*drain)(struct blk_backend *be);
	void (*undrain)(struct blk_backend *be);
	void (*close)(struct blk_backend *be);
};

struct blk_backend {
	const struct blk_ops *ops;
	const struct blk_front *front;
	void *owner;                             /* the device's */
	void (*wake)(struct blk_backend *be);    /* poll() is wanted; may come at any time on the service CPU */
	struct blk_info info;
	char name[112];                          /* for people: "nbd://10.0.2.2:10809/root" */
};

struct vm;
/* Opens disk n of vm by its definition; the device then sets front, owner and wake. NULL: *e tells why not. A network disk
 * is not connected yet. */
struct blk_backend *blk_open(struct vm *vm, unsigned n, struct error *e) __must_check;
/* Opens an NBD disk; set by net/ when it is up. NULL: this host has no network. Fills ops, name and private parts. */
extern struct blk_backend *(*blk_nbd_open)(const struct disk_config *cfg, struct error *e);
/* For devices: disk n of vm, its serial number (20 characters, padded with NUL), and what vm_drain() is to say that it waits
 * for. */
struct blk_backend *vm_disk(struct vm *vm, unsigned n);
void vm_disk_serial(const struct vm *vm, unsigned n, u8 out[20]);
void vm_drain_waits(struct vm *vm, unsigned n);
/* Lets the vCPUs run when it is known what all disks are like, and not before. Called again and again. */
void vm_disks_known(struct vm *vm);
/* Whether all disks of vm are there and are what its guest knows (bytes 0: it does not yet). 1: yes, and from now on they are
 * shown as was; 0: not now; negative: they are others. *e tells what is the matter. */
int vm_disks_check(struct vm *vm, const struct blk_info *was, struct error *e) __must_check;
/* Whether a guest that saw `was` may go on with `is`. */
static inline bool blk_info_fits(const struct blk_info *was, const struct blk_info *is)
{
	return was->bytes == is->bytes && was->hash == is->hash && is->block <= was->block &&
	       (was->features & BLK_READ_ONLY) == (is->features & BLK_READ_ONLY) && !(was->features & ~is->features);
}
