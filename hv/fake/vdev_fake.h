/* SPDX-License-Identifier: MIT */
/* Test fixture: a guest with one vCPU and no memory, whose clock the test turns by hand. */
#pragma once
#include "hv/vdev/devices.h"
#include "hv/vm/vcpu.h"
#include "hv/vm/vm.h"

#define VDEV_FAKE_HZ 1000000000ull

/* A guest with vCPU 0 and its LAPIC, IO-APIC and PIC; guest TSC 0 and standing still. Freed with vdev_fake_free(). */
struct vm *vdev_fake_vm(void);
void vdev_fake_free(struct vm *vm);
/* Makes a device: zeroed, init, reset. Owned by vm. */
struct vdev *vdev_fake_add(struct vm *vm, const struct vdev_type *type, unsigned instance);
/* Takes its ports and MMIO ranges from a device, so that it can be made again. */
void vdev_fake_unplug(struct vdev *dev);
/* Moves the guest TSC forward, running due timers in order at their own time. */
void vdev_fake_run(struct vm *vm, u64 ticks);
/* Jumps forward first and runs due timers after: what a guest sees that was not scheduled for a while. */
void vdev_fake_jump(struct vm *vm, u64 ticks);
/* Port access as the guest makes it; unclaimed ports read all ones. */
u32 vdev_fake_in(struct vm *vm, u16 port, unsigned size);
void vdev_fake_out(struct vm *vm, u16 port, unsigned size, u32 val);
/* 32-bit MMIO access through the bus. */
u32 vdev_fake_mmio_read(struct vm *vm, u64 at);
void vdev_fake_mmio_write(struct vm *vm, u64 at, u32 val);
/* Takes the pending interrupt of highest priority from vCPU 0's local APIC, with its EOI: the vector, or 0. */
unsigned vdev_fake_interrupt(struct vm *vm);
/* The migratable state of a device. */
void *vdev_fake_state(struct vdev *dev);
