/* SPDX-License-Identifier: MIT */
/* The virtual devices of the board and the calls between them and the vCPU loop. */
#pragma once
#include "hv/vm/vdev.h"

extern const struct vdev_type lapic_type, ioapic_type, pic_type, pit_type, rtc_type, pm_type, uart_type, misc_ports_type;
/* The PCI bus and virtio: pci.h, virtio.h. */

/* --- lapic.c: local APIC, xAPIC at apic base and x2APIC MSRs (SDM "Advanced Programmable Interrupt Controller"). instance = vCPU id --- */
/* Highest-priority deliverable vector (above PPR), or -1. */
int lapic_pending(struct vdev *lapic);
/* CPU takes that vector: IRR -> ISR. */
void lapic_ack(struct vdev *lapic, u8 vector);
/* Whether an ExtINT from the PIC gets through (APIC disabled globally, or LVT0/virtual wire unmasked in ExtINT mode). */
bool lapic_accepts_extint(struct vdev *lapic);
/* MMIO register access at offset 0..0xff0 (xAPIC), 32-bit. */
u32 lapic_mmio_read(struct vdev *lapic, u32 offset);
void lapic_mmio_write(struct vdev *lapic, u32 offset, u32 val);
/* x2APIC MSRs 0x800..0x8ff, IA32_APIC_BASE and IA32_TSC_DEADLINE (in terms of vm_tsc(), so without
 * IA32_TSC_ADJUST). -E_INVAL: the access takes #GP. */
int lapic_msr_read(struct vdev *lapic, u32 msr, u64 *val) __must_check;
int lapic_msr_write(struct vdev *lapic, u32 msr, u64 val) __must_check;
/* CR8 (TPR bits 7:4). */
u8 lapic_cr8(struct vdev *lapic);
void lapic_set_cr8(struct vdev *lapic, u8 cr8);
/* A message from the IO-APIC or an IPI: delivers to all matching vCPUs of vm. mode: 0 fixed 1 lowest 2 SMI 4 NMI 5 INIT 6 SIPI 7 ExtINT. */
void lapic_deliver(struct vm *vm, u32 dest, bool logical, u8 mode, u8 vector, bool level);
/* INIT: as after reset, but for the APIC ID and IA32_APIC_BASE (SDM "Local APIC State After It Receives an INIT-Deassert IPI"). */
void lapic_init_reset(struct vdev *lapic);
/* --- the CPU's virtual-interrupt delivery, for a vCPU with a virtual-APIC page (SDM "APIC Virtualization and Virtual
 * Interrupts"), which lapic_set_page() tells --- */
void lapic_set_page(struct vdev *lapic, void *page);
/* Whether the CPU is to look after it: there is a page, and the guest is in x2APIC mode. */
bool lapic_uses_page(struct vdev *lapic);
/* Before an entry, if lapic_uses_page(): all that has come goes into the page. *status: guest interrupt status (RVI, SVI);
 * *tmr: the vectors whose EOI must exit (256 bits), NULL if they are the same as before. True if the CPU is going to take an
 * interrupt as soon as its flags allow. */
bool lapic_push(struct vdev *lapic, u32 *status, const u32 **tmr);
/* What is in the page comes back: the device's state is whole, until the next push. The guest must be out. */
void lapic_pull(struct vdev *lapic);
/* The guest has written the register at offset in the page (APIC-write exit). */
void lapic_written(struct vdev *lapic, u32 offset);
/* Current APIC base MSR: MMIO page address and whether xAPIC MMIO is on. */
u64 lapic_base(struct vdev *lapic);

/* --- ioapic.c --- */
void ioapic_line(struct vdev *ioapic, unsigned pin, bool level);
void ioapic_eoi(struct vm *vm, u8 vector);

/* --- pic.c: 8259A pair --- */
void pic_line(struct vdev *pic, unsigned irq, bool level);
/* INTR output high? and acknowledge cycle: returns the vector. */
bool pic_intr(struct vdev *pic);
u8 pic_ack(struct vdev *pic);

/* --- uart.c: 16550A at 0x3f8, IRQ 4 --- */
/* Bytes typed at the console. Returns how many were taken (FIFO). */
size_t uart_input(struct vdev *uart, const u8 *buf, size_t len);

/* --- pm.c: ACPI PM1a event/control, PM timer, power button, reset register --- */
#define PM_BASE 0x600 /* PM1a_EVT 0x600..3, PM1a_CNT 0x604..5, PM_TMR 0x608..b */
#define PM_SCI_IRQ 9
/* Presses it. false: nobody in the guest would hear it (the event is not enabled), and nothing is done. */
bool pm_power_button(struct vdev *pm);
/* Reset control register (CF9h), which lies inside of a register of the PCI bridge (pci.c). */
void pm_reset_control(struct vdev *pm, bool write, u64 *val);

/* --- vCPU side services that the LAPIC needs (hv/vm/vcpu.c; fake in tests) --- */
struct vdev *vcpu_lapic(struct vcpu *vcpu);
void vcpu_nmi(struct vcpu *vcpu);
void vcpu_init(struct vcpu *vcpu);
void vcpu_sipi(struct vcpu *vcpu, u8 vector);
unsigned vcpu_id(const struct vcpu *vcpu);
