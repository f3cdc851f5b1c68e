/* SPDX-License-Identifier: MIT */
/* The frame of a virtual device: one file per device holding its state struct, field list and ops.
 * No file-scope mutable data in a device: each VM owns its instances. Time is the guest's own TSC. */
#pragma once
#include "hv/vm/migratable.h"

struct vm;
struct vcpu;
struct vdev;

struct vdev_type {
	struct mig_type mig; /* without fields: the device has no state, and is not registered */
	u32 size;          /* of the whole instance; struct vdev is its first member */
	u32 state_offset;  /* of the migratable state within the instance */
	/* Claims ports/MMIO (bus.h). Called once after the zeroed instance is made; then reset is called. May be NULL. */
	int (*init)(struct vdev *);
	/* Comes with the timer cancelled. */
	void (*reset)(struct vdev *);
	/* Guest TSC has reached dev->deadline (which was set to VDEV_NEVER before the call). */
	void (*timer)(struct vdev *);
	/* Back-end work on the service CPU after vdev_kick(): a bounded turn, FPU free, network may be called. Returns
	 * whether there is more to do (it is then called again next turn). May be NULL. */
	bool (*service)(struct vdev *);
	/* Before a freeze: starts nothing new outside of the guest any more; true when nothing is outstanding there (disk
	 * requests answered or their connection dead). Called again and again. undrain: the move is off, go on. May be NULL. */
	bool (*drain)(struct vdev *);
	void (*undrain)(struct vdev *);
	/* Frees host-only resources; may be NULL. */
	void (*destroy)(struct vdev *);
};

#define VDEV_NEVER (~0ull)

/* MIG_REGISTER() for the description inside a struct vdev_type. */
#define VDEV_REGISTER(type_) MIG_REGISTER_AS(type_, (type_).mig)

struct vdev {
	const struct vdev_type *type;
	struct vm *vm;
	u16 instance;
	u64 deadline;      /* guest TSC at which ops->timer wants to run; set with vdev_arm() only */
	bool kicked;       /* service() is wanted */
};

/* Has service() called soon, on the service CPU. From any CPU. */
void vdev_kick(struct vdev *dev);
/* Devices run under their guest's lock: bus functions, timer, reset, service, drain are called with it held. Others that
 * call into a device (a packet or an answer has come in) take it. Not recursive. */
void vm_lock(struct vm *vm);
void vm_unlock(struct vm *vm);
/* service() of every kicked device of vm; true if there was one. On the service CPU. */
bool vm_service(struct vm *vm);
/* drain() of every device; true when all have drained. undrain after a move that did not happen. */
bool vm_drain(struct vm *vm);
void vm_undrain(struct vm *vm);

/* Sets when timer() is to be called (guest TSC; VDEV_NEVER cancels). Host-only: post_load arms again. */
void vdev_arm(struct vdev *dev, u64 deadline);

/* Port and MMIO ranges. fn gets the absolute port or guest-physical address, size 1/2/4/8, at most width, and *val to fill
 * (read) or use (write). For reads *val comes in as all ones. Accesses never straddle the range's end. */
typedef void (*bus_fn)(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val);
int bus_add_pio(struct vm *vm, struct vdev *dev, u16 base, u16 len, unsigned width, bus_fn fn) __must_check;
int bus_add_mmio(struct vm *vm, struct vdev *dev, gpa_t base, u64 len, unsigned width, bus_fn fn) __must_check;

/* Guest time: the guest's TSC (stands still while the guest is paused; a state with 2^62 or more is refused, so sums of times
 * do not overflow) and its frequency in Hz. */
u64 vm_tsc(const struct vm *vm);
u64 vm_tsc_hz(const struct vm *vm);

/* Interrupt lines. isa_irq 0..15; routed to the PIC and to the IO-APIC (IRQ 0 is GSI 2, as the MADT says). */
void vm_irq_line(struct vm *vm, unsigned isa_irq, bool level);
/* The n-th device of a type, or NULL. */
struct vdev *vm_vdev(struct vm *vm, const struct vdev_type *type, unsigned instance);
/* Something the vCPU should look at before it runs on: pending interrupt, lowered TPR, NMI, ... */
void vcpu_irq_check(struct vcpu *vcpu);
struct vcpu *vm_vcpu(struct vm *vm, unsigned id); /* NULL if there is none */
unsigned vm_vcpu_count(const struct vm *vm);
/* Ends of life asked for by the guest; take effect at the top of the run loop. reason is for people. */
void vm_request_reset(struct vm *vm, const char *reason);
void vm_request_poweroff(struct vm *vm, const char *reason);
/* Its kernel says that it has crashed: it ends as guest-panicked. */
void vm_request_panic(struct vm *vm, const char *reason);
/* Byte out of the guest's first serial port or its virtio console, into its console ring. */
void vm_console_out(struct vm *vm, u8 byte);
/* RTC base: seconds since 1970 UTC at guest TSC 0, taken from the host when the guest is made (migrates with the RTC). */
u64 vm_boot_wall_seconds(const struct vm *vm);
