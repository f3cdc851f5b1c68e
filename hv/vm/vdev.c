/* SPDX-License-Identifier: MIT */
#include "hv/vm/vdev.h"
#include "hv/vm/blk.h"
#include "hv/vdev/devices.h"
#include "hv/vdev/virtio_net.h"
#include "hv/vm/board.h"
#include "hv/vm/sched.h"
#include "hv/vm/vcpu.h"
#include "hv/arch/percpu.h"
#include "hv/mm/frame.h"

struct vdev *vm_vdev(struct vm *vm, const struct vdev_type *type, unsigned instance)
{
	for (unsigned i = 0; i < vm->n_vdevs; i++)
		if (vm->vdevs[i]->type == type && vm->vdevs[i]->instance == instance)
			return vm->vdevs[i];
	return NULL;
}

/* Whose run loop looks after a device's timer: a local APIC's its own vCPU's, all others' vCPU 0's. */
static unsigned keeper(const struct vdev *dev)
{
	return dev->type == &lapic_type ? dev->instance : 0;
}

void vdev_arm(struct vdev *dev, u64 deadline)
{
	struct vm *vm = dev->vm;
	unsigned id = keeper(dev);
	u64 old = dev->deadline, *next = &vm->next_deadline[id];
	struct vcpu *v = vm_vcpu(vm, id);

	dev->deadline = deadline;
	if (deadline < *next) {
		__atomic_store_n(next, deadline, __ATOMIC_SEQ_CST);
		if (v && v != this_cpu()->running)
			vcpu_irq_check(v); /* it may have armed its preemption timer already */
	} else if (old == *next) {
		deadline = VDEV_NEVER;
		for (unsigned i = 0; i < vm->n_vdevs; i++)
			if (keeper(vm->vdevs[i]) == id)
				deadline = MIN(deadline, vm->vdevs[i]->deadline);
		__atomic_store_n(next, deadline, __ATOMIC_SEQ_CST);
	}
}

void board_run_timers(struct vm *vm, unsigned vcpu, u64 now)
{
	for (unsigned i = 0; i < vm->n_vdevs; i++) {
		struct vdev *dev = vm->vdevs[i];

		if (dev->deadline > now || keeper(dev) != vcpu)
			continue;
		vdev_arm(dev, VDEV_NEVER);
		if (dev->type->timer)
			dev->type->timer(dev);
	}
}

void vm_lock(struct vm *vm) { spin_lock(&vm->lock); }
void vm_unlock(struct vm *vm) { spin_unlock(&vm->lock); }

void vdev_kick(struct vdev *dev)
{
	__atomic_store_n(&dev->kicked, true, __ATOMIC_RELEASE);
	__atomic_store_n(&dev->vm->kicked, true, __ATOMIC_SEQ_CST);
	sched_wake_service();
}

bool vm_service(struct vm *vm)
{
	bool more = false;

	if (vm->state != RS_RUNNING)
		return false; /* what is paused may be moving: kicks wait until it runs again */
	if (!__atomic_exchange_n(&vm->kicked, false, __ATOMIC_ACQUIRE))
		return false;
	for (unsigned i = 0; i < vm->n_vdevs; i++) {
		struct vdev *dev = vm->vdevs[i];

		if (!__atomic_exchange_n(&dev->kicked, false, __ATOMIC_ACQUIRE))
			continue;
		vm_lock(vm);
		if (dev->type->service && dev->type->service(dev))
			dev->kicked = more = true;
		vm_unlock(vm);
	}
	if (more)
		vm->kicked = true;
	return true;
}

bool vm_drain(struct vm *vm)
{
	bool done = true;

	vm_lock(vm);
	for (unsigned i = 0; i < vm->n_vdevs; i++)
		if (vm->vdevs[i]->type->drain)
			done &= vm->vdevs[i]->type->drain(vm->vdevs[i]);
	vm_unlock(vm);
	return done;
}

void vm_undrain(struct vm *vm)
{
	vm_lock(vm);
	for (unsigned i = 0; i < vm->n_vdevs; i++)
		if (vm->vdevs[i]->type->undrain)
			vm->vdevs[i]->type->undrain(vm->vdevs[i]);
	vm_unlock(vm);
}

static int add(struct vm *vm, const struct vdev_type *type, unsigned instance, struct error *e)
{
	if (vm->n_vdevs == VM_MAX_VDEVS)
		return error_set(e, E_NOMEM, "guest %s: too many devices", vm->config.name);
	struct vdev *dev = heap_calloc(1, type->size);

	if (!dev)
		return error_set(e, E_NOMEM, "guest %s: no memory for device %s", vm->config.name, type->mig.name);
	dev->type = type;
	dev->vm = vm;
	dev->instance = (u16)instance;
	dev->deadline = VDEV_NEVER;
	vm->vdevs[vm->n_vdevs++] = dev;
	if (type->init && type->init(dev))
		return error_set(e, E_NOMEM, "guest %s: device %s cannot be set up", vm->config.name, type->mig.name);
	return 0;
}

int board_create(struct vm *vm, struct error *e)
{
	static const struct vdev_type *const board[] = {
		&pic_type, &ioapic_type, &pit_type, &rtc_type, &pm_type, &uart_type, &misc_ports_type, &pci_type,
		&virtio_rng_type.vdev, &virtio_console_type.vdev,
	};
	int rc = 0;

	for (unsigned i = 0; !rc && i < vm->config.n_disks; i++) {
		vm->disks[i] = blk_open(vm, i, e);
		if (!vm->disks[i])
			rc = -E_NOENT;
	}
	for (unsigned i = 0; !rc && i < vm->config.vcpus; i++)
		rc = add(vm, &lapic_type, i, e);
	for (unsigned i = 0; !rc && i < ARRAY_SIZE(board); i++)
		rc = add(vm, board[i], 0, e);
	for (unsigned i = 0; !rc && i < vm->config.n_nics; i++)
		rc = add(vm, &virtio_net_type.vdev, i, e);
	for (unsigned i = 0; !rc && i < vm->config.n_disks; i++)
		rc = add(vm, &virtio_blk_type.vdev, i, e);
	return rc;
}

void board_reset(struct vm *vm)
{
	for (unsigned i = 0; i < vm->n_vdevs; i++) {
		vdev_arm(vm->vdevs[i], VDEV_NEVER);
		vm->vdevs[i]->type->reset(vm->vdevs[i]);
	}
}

void board_destroy(struct vm *vm)
{
	for (unsigned i = 0; i < vm->n_vdevs; i++) {
		if (vm->vdevs[i]->type->destroy)
			vm->vdevs[i]->type->destroy(vm->vdevs[i]);
		heap_free(vm->vdevs[i]);
	}
	vm->n_vdevs = vm->n_pio = vm->n_mmio = 0;
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++) {
		if (vm->disks[i])
			vm->disks[i]->ops->close(vm->disks[i]);
		vm->disks[i] = NULL;
	}
}

void vm_irq_line(struct vm *vm, unsigned isa_irq, bool level)
{
	pic_line(vm_vdev(vm, &pic_type, 0), isa_irq, level);
	/* The MADT's interrupt source override: IRQ 0 is wired to pin 2, and nothing else is (IRQ 2 is the cascade). */
	ioapic_line(vm_vdev(vm, &ioapic_type, 0), isa_irq == 0 ? 2 : isa_irq, level);
}
