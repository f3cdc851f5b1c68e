/* SPDX-License-Identifier: MIT */
#include "hv/fake/vdev_fake.h"
#include "hv/vm/bus.h"

#include <stdlib.h>
#include <string.h>

struct vdev *vdev_fake_add(struct vm *vm, const struct vdev_type *type, unsigned instance)
{
	struct vdev *d = calloc(1, type->size);

	if (!d || vm->n_vdevs == VM_MAX_VDEVS)
		abort();
	d->type = type;
	d->vm = vm;
	d->instance = (u16)instance;
	d->deadline = VDEV_NEVER;
	vm->vdevs[vm->n_vdevs++] = d;
	if (type->init && type->init(d))
		abort();
	type->reset(d);
	return d;
}

static unsigned drop(struct bus_range *ranges, unsigned n, const struct vdev *dev)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < n; i++)
		if (ranges[i].dev != dev)
			ranges[kept++] = ranges[i];
	return kept;
}

void vdev_fake_unplug(struct vdev *dev)
{
	dev->vm->n_pio = drop(dev->vm->pio, dev->vm->n_pio, dev);
	dev->vm->n_mmio = drop(dev->vm->mmio, dev->vm->n_mmio, dev);
}

struct vm *vdev_fake_vm(void)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	struct vcpu *v = calloc(1, sizeof(*v));

	if (!vm || !v)
		abort();
	vm->console = calloc(1, CONSOLE_RING_BYTES);
	vm->tsc_hz = VDEV_FAKE_HZ;
	vm->tsc_mult = BIT(48);
	vm->state = RS_RUNNING;
	vm->debug_exit_code = -1;
	memset(vm->next_deadline, 0xff, sizeof(vm->next_deadline));
	v->vm = vm;
	vm->vcpus[0] = v;
	vm->n_vcpus = 1;
	v->lapic = vdev_fake_add(vm, &lapic_type, 0);
	vdev_fake_add(vm, &ioapic_type, 0);
	vdev_fake_add(vm, &pic_type, 0);
	return vm;
}

void vdev_fake_free(struct vm *vm)
{
	for (unsigned i = 0; i < vm->n_vdevs; i++) {
		if (vm->vdevs[i]->type->destroy)
			vm->vdevs[i]->type->destroy(vm->vdevs[i]);
		free(vm->vdevs[i]);
	}
	free(vm->console);
	free(vm->vcpus[0]);
	free(vm);
}

static struct vdev *vdev_fake_due(struct vm *vm, u64 until)
{
	struct vdev *best = NULL;

	for (unsigned i = 0; i < vm->n_vdevs; i++)
		if (vm->vdevs[i]->deadline <= until && vm->vdevs[i]->deadline != VDEV_NEVER &&
		    (!best || vm->vdevs[i]->deadline < best->deadline))
			best = vm->vdevs[i];
	return best;
}

void vdev_fake_run(struct vm *vm, u64 ticks)
{
	u64 end = vm->paused_tsc + ticks;
	struct vdev *d;

	while ((d = vdev_fake_due(vm, end))) {
		vm->paused_tsc = MAX(vm->paused_tsc, d->deadline);
		d->deadline = VDEV_NEVER;
		d->type->timer(d);
	}
	vm->paused_tsc = end;
}

void vdev_fake_jump(struct vm *vm, u64 ticks)
{
	struct vdev *d;

	vm->paused_tsc += ticks;
	while ((d = vdev_fake_due(vm, vm->paused_tsc))) {
		d->deadline = VDEV_NEVER;
		d->type->timer(d);
	}
}

u32 vdev_fake_in(struct vm *vm, u16 port, unsigned size)
{
	u64 val;

	bus_pio(vm, port, size, false, &val);
	return (u32)(val & (~0ull >> (64 - 8 * size)));
}

void vdev_fake_out(struct vm *vm, u16 port, unsigned size, u32 val)
{
	u64 v = val;

	bus_pio(vm, port, size, true, &v);
}

u32 vdev_fake_mmio_read(struct vm *vm, u64 at)
{
	u64 val;

	bus_mmio(vm, at, 4, false, &val);
	return (u32)val;
}

void vdev_fake_mmio_write(struct vm *vm, u64 at, u32 val)
{
	u64 v = val;

	bus_mmio(vm, at, 4, true, &v);
}

unsigned vdev_fake_interrupt(struct vm *vm)
{
	struct vdev *lapic = vcpu_lapic(vm->vcpus[0]);
	int v = lapic_pending(lapic);

	if (v < 0)
		return 0;
	lapic_ack(lapic, (u8)v);
	lapic_mmio_write(lapic, 0xb0, 0);
	return (unsigned)v;
}

void *vdev_fake_state(struct vdev *dev)
{
	return (char *)dev + dev->type->state_offset;
}
