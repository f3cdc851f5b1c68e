/* SPDX-License-Identifier: MIT */
/* "Virtio Over PCI Bus", without the legacy interface. */
#include "hv/vdev/virtio.h"
#include "hv/lib/log.h"
#include "hv/vm/vm.h"

#include <string.h>

#define VENDOR 0x1af4
#define DEVICE_BASE 0x1040 /* + device ID of virtio */
#define SUBSYSTEM 0x1100

/* The BAR, page by page */
#define BAR_BYTES 0x8000
#define AT_COMMON 0x0000
#define AT_ISR 0x1000
#define AT_CONFIG 0x2000
#define AT_NOTIFY 0x3000
#define AT_MSIX 0x4000
#define AT_PBA 0x5000
#define NOTIFY_MULTIPLIER 4

/* "Virtio Structure PCI Capabilities" */
#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_ISR 3
#define CAP_DEVICE 4
#define CAP_PCI 5
#define CAP(next, len, type, at, bytes) 9, next, len, type, 0, 0, 0, 0, LE32(at), LE32(bytes)
#define LE32(v) (u8)(v), (u8)((v) >> 8), (u8)((v) >> 16), (u8)((v) >> 24)
#define PCI_ACCESS 0x94 /* where the last one, the access window, lies */
#define PCI_ACCESS_BAR (PCI_ACCESS + 4)
#define PCI_ACCESS_OFFSET (PCI_ACCESS + 8)
#define PCI_ACCESS_LENGTH (PCI_ACCESS + 12)
#define PCI_ACCESS_DATA (PCI_ACCESS + 16)

static const u8 caps[] = {
	/* 50h */ CAP(0x60, 16, CAP_COMMON, AT_COMMON, 0x1000),
	/* 60h */ CAP(0x70, 16, CAP_ISR, AT_ISR, 0x1000),
	/* 70h */ CAP(0x80, 16, CAP_DEVICE, AT_CONFIG, 0x1000),
	/* 80h */ CAP(PCI_ACCESS, 20, CAP_NOTIFY, AT_NOTIFY, 0x1000), LE32(NOTIFY_MULTIPLIER),
	/* 94h */ CAP(0, 20, CAP_PCI, 0, 0), LE32(0),
};
_Static_assert(sizeof(caps) == PCI_ACCESS_DATA + 4 - PCI_CAPS, "capabilities are where they say");

/* Common configuration structure layout */
enum {
	C_DEVICE_FEATURE_SELECT = 0, C_DEVICE_FEATURE = 4, C_DRIVER_FEATURE_SELECT = 8, C_DRIVER_FEATURE = 12, C_CONFIG_VECTOR = 16,
	C_NUM_QUEUES = 18, C_STATUS = 20, C_GENERATION = 21, C_QUEUE_SELECT = 22, C_QUEUE_SIZE = 24, C_QUEUE_VECTOR = 26,
	C_QUEUE_ENABLE = 28, C_QUEUE_NOTIFY_OFF = 30, C_QUEUE_DESC = 32, C_QUEUE_DRIVER = 40, C_QUEUE_DEVICE = 48, C_END = 56,
};
#define ISR_QUEUE 1
#define ISR_CONFIG 2
#define STATUS_BITS (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK | VIRTIO_FEATURES_OK | VIRTIO_FAILED)
#define ADDRESS_END BIT(52) /* no guest-physical address lies higher */

static u64 offered(struct virtio *vio)
{
	const struct virtio_type *t = virtio_type_of(vio);

	return (t->get_features ? t->get_features(vio) : t->features) | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX |
	       VIRTIO_F_VERSION_1;
}

bool virtio_ready(const struct virtio *vio)
{
	return (vio->v->status & (VIRTIO_DRIVER_OK | VIRTIO_NEEDS_RESET)) == VIRTIO_DRIVER_OK && pci_is_master(&vio->fn);
}

void virtio_signal(struct virtio *vio, u16 vector, u8 isr)
{
	if (pci_msix_enabled(&vio->fn)) {
		pci_msix_send(&vio->fn, vector);
		return;
	}
	vio->v->isr |= isr;
	pci_intx(&vio->fn, true);
}

void virtio_config_changed(struct virtio *vio)
{
	vio->v->config_generation++;
	if (vio->v->status & VIRTIO_DRIVER_OK)
		virtio_signal(vio, vio->v->config_vector, ISR_CONFIG);
}

int virtio_broken(struct virtio *vio, const char *why)
{
	if (!(vio->v->status & VIRTIO_NEEDS_RESET)) {
		vio->v->status |= VIRTIO_NEEDS_RESET;
		log_guest(LOG_WARN, "guest", "%s: %s.%u needs a reset by its driver: %s", vio->dev.vm->config.name,
			  vio->dev.type->mig.name, vio->dev.instance, why);
		virtio_config_changed(vio);
	}
	return -E_PROTO;
}

/* --- reset, by the driver and by the machine --- */

static void reset_transport(struct virtio *vio)
{
	struct virtio_state *v = vio->v;
	struct pci_fn_state pci = v->pci;

	*v = (struct virtio_state){ .pci = pci, .config_vector = PCI_NO_VECTOR };
	v->pci.msix_pending = 0;
	for (unsigned q = 0; q < VIRTIO_MAX_QUEUES; q++) {
		v->size[q] = q < virtio_type_of(vio)->n_queues ? virtio_type_of(vio)->queue_size : 0;
		v->vector[q] = PCI_NO_VECTOR;
	}
	pci_intx(&vio->fn, false);
	if (virtio_type_of(vio)->device_reset)
		virtio_type_of(vio)->device_reset(vio);
}

void virtio_reset(struct vdev *dev)
{
	struct virtio *vio = virtio_of(dev);

	pci_fn_reset(&vio->fn);
	reset_transport(vio);
}

/* --- common configuration --- */

static bool features_acceptable(struct virtio *vio)
{
	u64 f = vio->v->driver_features;

	return !(f & ~offered(vio)) && (f & VIRTIO_F_VERSION_1);
}

/* "Device Initialization": bits are only ever added, and none before its time. */
static void write_status(struct virtio *vio, u8 val)
{
	struct virtio_state *v = vio->v;
	u8 old = v->status;

	if (!val) {
		reset_transport(vio);
		return;
	}
	v->status |= val & STATUS_BITS;
	if (!(old & VIRTIO_FEATURES_OK) && !features_acceptable(vio))
		v->status &= ~VIRTIO_FEATURES_OK;
	if (!(v->status & VIRTIO_FEATURES_OK))
		v->status &= ~VIRTIO_DRIVER_OK;
	if (v->status & ~old & VIRTIO_DRIVER_OK)
		vdev_kick(&vio->dev);
}

static bool queue_fits(struct virtio *vio, unsigned q)
{
	const struct virtio_state *v = vio->v;
	u16 n = v->size[q];

	return n && !(n & (n - 1)) && n <= virtio_type_of(vio)->queue_size && !(v->desc[q] % 16) && !(v->avail[q] % 2) &&
	       !(v->used[q] % 4) && (v->desc[q] | v->avail[q] | v->used[q]) < ADDRESS_END;
}

static void enable_queue(struct virtio *vio, unsigned q)
{
	struct virtio_state *v = vio->v;

	if (v->enabled[q] || !(v->status & VIRTIO_FEATURES_OK))
		return;
	if (!queue_fits(vio, q)) {
		virtio_broken(vio, "a queue has an impossible size or address");
		return;
	}
	v->enabled[q] = 1;
	v->last_avail[q] = v->used_idx[q] = v->signalled[q] = 0;
	vdev_kick(&vio->dev);
}

static u16 valid_vector(struct virtio *vio, u64 val)
{
	return val < vio->fn.msix_vectors ? (u16)val : PCI_NO_VECTOR;
}

static void put(u8 *image, unsigned at, u64 val, unsigned size)
{
	memcpy(image + at, &val, size);
}

static void common_read(struct virtio *vio, u8 *image)
{
	const struct virtio_state *v = vio->v;
	unsigned q = v->queue_select;

	put(image, C_DEVICE_FEATURE_SELECT, v->device_feature_select, 4);
	put(image, C_DEVICE_FEATURE, v->device_feature_select < 2 ? offered(vio) >> 32 * v->device_feature_select : 0, 4);
	put(image, C_DRIVER_FEATURE_SELECT, v->driver_feature_select, 4);
	put(image, C_DRIVER_FEATURE, v->driver_feature_select < 2 ? v->driver_features >> 32 * v->driver_feature_select : 0, 4);
	put(image, C_CONFIG_VECTOR, v->config_vector, 2);
	put(image, C_NUM_QUEUES, virtio_type_of(vio)->n_queues, 2);
	put(image, C_STATUS, v->status, 1);
	put(image, C_GENERATION, v->config_generation, 1);
	put(image, C_QUEUE_SELECT, q, 2);
	if (q >= virtio_type_of(vio)->n_queues)
		return; /* size 0: there is no such queue */
	put(image, C_QUEUE_SIZE, v->size[q], 2);
	put(image, C_QUEUE_VECTOR, v->vector[q], 2);
	put(image, C_QUEUE_ENABLE, v->enabled[q], 2);
	put(image, C_QUEUE_NOTIFY_OFF, q, 2);
	put(image, C_QUEUE_DESC, v->desc[q], 8);
	put(image, C_QUEUE_DRIVER, v->avail[q], 8);
	put(image, C_QUEUE_DEVICE, v->used[q], 8);
}

/* Halves of 64-bit fields are written as dwords, or the whole at once. */
static void put_address(u64 *field, unsigned offset, unsigned size, u64 val)
{
	if (size == 8 && !(offset & 7))
		*field = val;
	else if (size == 4 && !(offset & 3))
		memcpy((u8 *)field + (offset & 7), &val, 4);
}

static void queue_write(struct virtio *vio, unsigned offset, unsigned size, u64 val)
{
	struct virtio_state *v = vio->v;
	unsigned q = v->queue_select;

	if (q >= virtio_type_of(vio)->n_queues)
		return;
	if (offset == C_QUEUE_VECTOR && size == 2)
		v->vector[q] = valid_vector(vio, val);
	else if (offset == C_QUEUE_ENABLE && size == 2 && val == 1)
		enable_queue(vio, q);
	if (v->enabled[q])
		return;
	if (offset == C_QUEUE_SIZE && size == 2)
		v->size[q] = (u16)val;
	else if (offset >= C_QUEUE_DEVICE && offset < C_END)
		put_address(&v->used[q], offset, size, val);
	else if (offset >= C_QUEUE_DRIVER)
		put_address(&v->avail[q], offset, size, val);
	else if (offset >= C_QUEUE_DESC)
		put_address(&v->desc[q], offset, size, val);
}

/* "The driver MUST access each field using the natural width": other widths are dropped. */
static void common_write(struct virtio *vio, unsigned offset, unsigned size, u64 val)
{
	struct virtio_state *v = vio->v;
	unsigned shift = v->driver_feature_select * 32;

	if (offset == C_DEVICE_FEATURE_SELECT && size == 4) {
		v->device_feature_select = (u32)val;
	} else if (offset == C_DRIVER_FEATURE_SELECT && size == 4) {
		v->driver_feature_select = (u32)val;
	} else if (offset == C_DRIVER_FEATURE && size == 4) {
		if (v->driver_feature_select < 2 && !(v->status & VIRTIO_FEATURES_OK))
			v->driver_features = (v->driver_features & ~(0xffffffffull << shift)) | (u64)(u32)val << shift;
	} else if (offset == C_CONFIG_VECTOR && size == 2) {
		v->config_vector = valid_vector(vio, val);
	} else if (offset == C_STATUS && size == 1) {
		write_status(vio, (u8)val);
	} else if (offset == C_QUEUE_SELECT && size == 2) {
		v->queue_select = (u16)val;
	} else if (offset >= C_QUEUE_SIZE) {
		queue_write(vio, offset, size, val);
	}
}

/* --- the BAR --- */

static void common_io(struct virtio *vio, unsigned offset, unsigned size, bool write, u64 *val)
{
	u8 image[C_END + 8] = { 0 };

	if (write) {
		common_write(vio, offset, size, *val);
		return;
	}
	if (offset >= C_END)
		return;
	common_read(vio, image);
	memcpy(val, image + offset, size);
}

static void config_read(struct virtio *vio, unsigned offset, unsigned size, u64 *val)
{
	const struct virtio_type *t = virtio_type_of(vio);
	u8 image[256 + 8] = { 0 };

	if (offset >= t->config_len)
		return;
	if (t->config_read)
		t->config_read(vio, image);
	memcpy(val, image + offset, MIN(size, t->config_len - offset));
}

static void bar_io(struct vdev *dev, u32 offset, unsigned size, bool write, u64 *val)
{
	struct virtio *vio = virtio_of(dev);
	unsigned in_page = offset & 0xfff;

	switch (offset & ~0xfffu) {
	case AT_COMMON:
		common_io(vio, in_page, size, write, val);
		break;
	case AT_ISR:
		if (!write && !in_page) { /* reading it acknowledges */
			*val = vio->v->isr;
			vio->v->isr = 0;
			pci_intx(&vio->fn, false);
		}
		break;
	case AT_CONFIG:
		if (!write)
			config_read(vio, in_page, size, val);
		break;
	case AT_NOTIFY:
		if (write && in_page / NOTIFY_MULTIPLIER < virtio_type_of(vio)->n_queues && virtio_ready(vio))
			vdev_kick(dev);
		break;
	}
}

/* "PCI configuration access capability": a window to the BAR for those who cannot map it. */
static void window_io(struct virtio *vio, unsigned size, bool write, u32 *val)
{
	const struct virtio_state *v = vio->v;
	u64 wide = write ? *val : 0;

	if (!write)
		*val = 0;
	if (v->cfg_bar || v->cfg_length != size || (size != 1 && size != 2 && size != 4) || v->cfg_offset % size ||
	    v->cfg_offset >= AT_MSIX)
		return;
	bar_io(&vio->dev, v->cfg_offset, size, write, &wide);
	if (!write)
		*val = (u32)wide;
}

static void config_space_io(struct vdev *dev, unsigned reg, unsigned size, bool write, u32 *val)
{
	struct virtio *vio = virtio_of(dev);
	struct virtio_state *v = vio->v;
	u32 *field = reg >= PCI_ACCESS_LENGTH ? &v->cfg_length : &v->cfg_offset;

	if (reg == PCI_ACCESS_DATA) {
		window_io(vio, size, write, val);
	} else if (reg == PCI_ACCESS_BAR && write) {
		v->cfg_bar = (u8)*val;
	} else if ((reg & ~3u) == PCI_ACCESS_BAR && !write) {
		*val |= reg == PCI_ACCESS_BAR ? v->cfg_bar : 0;
	} else if (reg >= PCI_ACCESS_OFFSET && reg < PCI_ACCESS_DATA) {
		if (write)
			memcpy((u8 *)field + (reg & 3), val, size);
		else
			*val = *field >> 8 * (reg & 3);
	}
}

/* --- for the devices --- */

int virtio_init(struct vdev *dev)
{
	struct virtio *vio = virtio_of(dev);
	const struct virtio_type *t = virtio_type_of(vio);

	BUG_ON(t->n_queues > VIRTIO_MAX_QUEUES || t->queue_size > VIRTQ_MAX_SIZE || t->config_len > 256);
	vio->v = (struct virtio_state *)((u8 *)dev + dev->type->state_offset);
	vio->fn = (struct pci_fn){
		.dev = dev, .s = &vio->v->pci, .vendor = VENDOR, .device = DEVICE_BASE + t->device_id, .subsystem_vendor = VENDOR,
		.subsystem = SUBSYSTEM, .revision = 1, .class_code = t->class_code, .bar_size = BAR_BYTES,
		.msix_vectors = t->n_queues + 1u, .msix_table = AT_MSIX, .msix_pba = AT_PBA, .caps = caps, .caps_len = sizeof(caps),
		.bar_fn = bar_io, .config_fn = config_space_io, .command_changed = vdev_kick,
	};
	return pci_add(&vio->fn, t->slot + dev->instance);
}

void virtio_destroy(struct vdev *dev)
{
	pci_remove(&virtio_of(dev)->fn);
}

static bool queue_possible(struct virtio *vio, unsigned q)
{
	const struct virtio_state *v = vio->v;

	if (v->enabled[q] > 1 || (v->vector[q] != PCI_NO_VECTOR && v->vector[q] >= vio->fn.msix_vectors))
		return false;
	if (q >= virtio_type_of(vio)->n_queues)
		return !v->enabled[q];
	return !v->enabled[q] || queue_fits(vio, q);
}

int virtio_post_load(void *owner, struct error *e)
{
	struct virtio *vio = virtio_of(owner);
	const struct virtio_state *v = vio->v;
	bool bad = (v->status & ~(STATUS_BITS | VIRTIO_NEEDS_RESET)) || v->isr > (ISR_QUEUE | ISR_CONFIG) ||
		   ((v->status & VIRTIO_FEATURES_OK) && !features_acceptable(vio)) ||
		   ((v->status & VIRTIO_DRIVER_OK) && !(v->status & VIRTIO_FEATURES_OK)) ||
		   (v->config_vector != PCI_NO_VECTOR && v->config_vector >= vio->fn.msix_vectors);

	for (unsigned q = 0; q < VIRTIO_MAX_QUEUES; q++)
		bad |= !queue_possible(vio, q);
	if (bad)
		return -E_INVAL;
	vdev_kick(&vio->dev);
	return pci_fn_post_load(&vio->fn);
}
