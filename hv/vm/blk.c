/* SPDX-License-Identifier: MIT */
#include "hv/vm/blk.h"
#include "boot/boot_info.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "hv/vm/load.h"
#include "hv/vm/sched.h"
#include "hv/vm/vm.h"

#include <stdio.h>
#include <string.h>

struct blk_backend *(*blk_nbd_open)(const struct disk_config *cfg, struct error *e);

/* A disk in memory: an image of the boot disk, or pages of the guest that it has no mapping of, so that they move with it. */
struct mem_disk {
	struct blk_backend be;
	struct vm *vm;
	u64 base;            /* RAM disk: guest-physical */
	const u8 *image;     /* NULL: RAM disk */
};

static bool ram_copy(struct mem_disk *d, struct blk_req *req)
{
	u8 buf[4096];

	for (u32 at = 0, n; at < req->bytes; at += n) {
		gpa_t gpa_at = gpa(d->base + req->offset + at);

		n = MIN(req->bytes - at, (u32)sizeof(buf));
		switch (req->op) {
		case BLK_READ:
			if (guest_read(d->vm, gpa_at, buf, n) || !d->be.front->copy(&d->be, req, at, buf, n))
				return false;
			break;
		case BLK_WRITE:
			if (!d->be.front->copy(&d->be, req, at, buf, n) || guest_write(d->vm, gpa_at, buf, n))
				return false;
			break;
		default:
			if (!at)
				memset(buf, 0, sizeof(buf));
			if (guest_write(d->vm, gpa_at, buf, n))
				return false;
		}
	}
	return true;
}

static void mem_submit(struct blk_backend *be, struct blk_req *req)
{
	struct mem_disk *d = container_of(be, struct mem_disk, be);
	bool ok = req->op == BLK_FLUSH;

	if (!ok && !d->image)
		ok = ram_copy(d, req);
	else if (req->op == BLK_READ)
		ok = be->front->copy(be, req, 0, (void *)(d->image + req->offset), req->bytes);
	be->front->done(be, req, ok ? 0 : -E_IO);
}

static void mem_nothing(struct blk_backend *be)
{
}

static bool mem_drain(struct blk_backend *be)
{
	return true;
}

static int mem_ready(struct blk_backend *be, struct error *e)
{
	return 1;
}

static void mem_close(struct blk_backend *be)
{
	heap_free(container_of(be, struct mem_disk, be));
}

static const struct blk_ops mem_ops = {
	.submit = mem_submit, .forget = mem_nothing, .ready = mem_ready, .drain = mem_drain, .undrain = mem_nothing,
	.close = mem_close,
};

/* Tells images of the same length apart; not a defence. */
static u64 image_hash(const u8 *p, u64 len)
{
	u64 h = len, w;

	for (; len >= 8; p += 8, len -= 8) {
		memcpy(&w, p, 8);
		h = (h ^ w) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 29;
	}
	for (; len; len--)
		h = (h ^ *p++) * 0x9e3779b97f4a7c15ull;
	return h ? h : 1;
}

static struct mem_disk *mem_open(struct vm *vm, unsigned n, struct error *e)
{
	const struct disk_config *cfg = &vm->config.disks[n];
	const struct boot_file *f = NULL;
	struct mem_disk *d;

	if (cfg->kind == DISK_IMAGE) {
		f = boot_info_get() ? boot_file(boot_info_get(), cfg->image) : NULL;
		if (f && f->error[0]) {
			error_set(e, E_NOENT, "disk %u of guest %s: %s", n, vm->config.name, f->error);
			return NULL;
		}
		if (!f || !f->data) {
			error_set(e, E_NOENT, "disk %u of guest %s: %s is not on this host. Copy the file to the folder godwit of its boot disk, "
				  "name it in disk= of a guest in its godwit.conf and restart the host", n, vm->config.name, cfg->image);
			return NULL;
		}
		if (f->size < 512) {
			error_set(e, E_INVAL, "disk %u of guest %s: %s has less than 512 bytes", n, vm->config.name, cfg->image);
			return NULL;
		}
	}
	d = heap_calloc(1, sizeof(*d));
	if (!d) {
		error_set(e, E_NOMEM, "disk %u of guest %s: no memory", n, vm->config.name);
		return NULL;
	}
	d->vm = vm;
	d->be.ops = &mem_ops;
	d->be.info.block = 512;
	log_guard();
	if (f) {
		d->image = f->data;
		d->be.info.bytes = ALIGN_DOWN(f->size, 512ull);
		d->be.info.hash = image_hash(f->data, d->be.info.bytes);
		d->be.info.features = BLK_READ_ONLY;
		snprintf(d->be.name, sizeof(d->be.name), "image:%s", cfg->image);
	} else {
		d->base = vm->disk_base[n];
		d->be.info.bytes = cfg->bytes;
		d->be.info.features = BLK_CAN_FLUSH | BLK_CAN_FUA | BLK_CAN_DISCARD | BLK_CAN_WRITE_ZEROES |
			(cfg->read_only ? BLK_READ_ONLY : 0);
		snprintf(d->be.name, sizeof(d->be.name), "ram:%lluM", (unsigned long long)cfg->bytes >> 20);
	}
	return d;
}

struct blk_backend *blk_open(struct vm *vm, unsigned n, struct error *e)
{
	const struct disk_config *cfg = &vm->config.disks[n];
	struct mem_disk *d;

	if (cfg->kind != DISK_NBD) {
		d = mem_open(vm, n, e);
		return d ? &d->be : NULL;
	}
	if (blk_nbd_open)
		return blk_nbd_open(cfg, e);
	error_set(e, E_IO, "disk %u of guest %s is on the network, and this host has none; its console says why", n, vm->config.name);
	return NULL;
}

struct blk_backend *vm_disk(struct vm *vm, unsigned n)
{
	return n < CONFIG_MAX_DISKS ? vm->disks[n] : NULL;
}

void vm_disk_serial(const struct vm *vm, unsigned n, u8 out[20])
{
	char text[64] = "";

	log_guard();
	if (n < vm->config.n_disks)
		snprintf(text, sizeof(text), "%s", vm->config.disks[n].serial);
	if (!text[0])
		snprintf(text, sizeof(text), "%.17s-%u", vm->config.name, n);
	memset(out, 0, 20);
	memcpy(out, text, MIN(strlen(text), (size_t)20));
}

void vm_drain_waits(struct vm *vm, unsigned n)
{
	snprintf(vm->drain_why, sizeof(vm->drain_why), "its disk %u has requests that %.112s does not answer", n, vm->disks[n]->name);
}

void vm_disks_known(struct vm *vm)
{
	bool wait = false;
	struct error why = { 0 };

	for (u32 i = 0; i < vm->config.n_disks; i++) {
		if (vm->disks[i]->info.bytes)
			continue;
		wait = true;
		vm->disks[i]->ops->ready(vm->disks[i], &why);
		snprintf(vm->reason, sizeof(vm->reason), "waits for its disk %u: %.200s", i, why.text);
	}
	if (vm->disks_wait == wait)
		return;
	vm->disks_wait = wait;
	if (wait)
		return;
	vm->reason[0] = 0;
	sched_wake();
}

int vm_disks_check(struct vm *vm, const struct blk_info *was, struct error *e)
{
	u32 n = vm->config.n_disks, away = n; /* the first that is not there yet */
	struct error why = { 0 };

	for (u32 i = 0; i < n; i++) {
		struct blk_backend *be = vm->disks[i];
		struct error now = { 0 };

		/* A guest that does not run has nobody else who would. All of them: they connect side by side. */
		if (be->ops->poll) {
			vm_lock(vm);
			be->ops->poll(be);
			vm_unlock(vm);
		}
		if (be->ops->ready(be, &now) <= 0) {
			if (away == n) {
				away = i;
				why = now;
			}
			continue;
		}
		if (!was[i].bytes)
			continue;
		if (!blk_info_fits(&was[i], &be->info))
			return error_set(e, E_STATE, "disk %u of guest %s (%.80s) is another one here than where it comes from (%llu bytes%s, "
					 "not %llu bytes%s, or other contents, or it can do less): make both hosts see the same",
					 i, vm->config.name, be->name, (unsigned long long)be->info.bytes,
					 be->info.features & BLK_READ_ONLY ? ", read-only" : "", (unsigned long long)was[i].bytes,
					 was[i].features & BLK_READ_ONLY ? ", read-only" : "");
		be->info = was[i];
	}
	if (away < n) {
		error_set(e, E_IO, "disk %u of guest %s: %.200s", away, vm->config.name, why.text);
		return 0;
	}
	vm->disks_wait = false;
	return 1;
}
