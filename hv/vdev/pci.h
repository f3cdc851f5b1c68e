/* SPDX-License-Identifier: MIT */
/* The guests' PCI bus: one host bridge (00:00.0), single-function devices on bus 0, one 32-bit memory BAR each, MSI-X or
 * INTA. Register names are those of the PCI Local Bus Specification 3.0. */
#pragma once
#include "hv/vm/vdev.h"

#define PCI_SLOTS 32
/* Guest-physical window that the bridge forwards; BARs elsewhere are not decoded. The DSDT says the same. */
#define PCI_WINDOW 0xc0000000ull
#define PCI_WINDOW_END 0xfe000000ull
#define PCI_MSIX_VECTORS 9
#define PCI_NO_VECTOR 0xffff

#define PCI_COMMAND_MEMORY 0x0002
#define PCI_COMMAND_MASTER 0x0004

/* What of a function's configuration and MSI-X table moves. No padding. */
struct pci_fn_state {
	u32 msix[PCI_MSIX_VECTORS * 4];     /* "MSI-X Table": address, its upper half, data, control of each vector */
	u32 msix_pending;                   /* bit per vector */
	u32 bar;
	u16 command;
	u16 msix_enable;                    /* message control: enable and function mask */
	u8 interrupt_line, cache_line, latency_timer;
	u8 intx;                            /* what the device wants of INTA: 0 or 1 */
};

#define PCI_FN_FIELDS(st, m, first) \
	MIG_U32S((first), st, m.msix, 1), MIG_U32((first) + 1, st, m.msix_pending, 1), \
	MIG_U32((first) + 2, st, m.bar, 1), MIG_U16((first) + 3, st, m.command, 1), \
	MIG_U16((first) + 4, st, m.msix_enable, 1), MIG_U8((first) + 5, st, m.interrupt_line, 1), \
	MIG_U8((first) + 6, st, m.cache_line, 1), MIG_U8((first) + 7, st, m.latency_timer, 1), \
	MIG_U8((first) + 8, st, m.intx, 1)
#define PCI_FN_FIELD_COUNT 9

/* A function, host-only. The owner of s and dev fills all but slot before pci_add(). */
struct pci_fn {
	struct vdev *dev;
	struct pci_fn_state *s;
	u16 vendor, device, subsystem_vendor, subsystem;
	u8 revision;
	u32 class_code;            /* 24 bits */
	u8 slot;
	u32 bar_size;              /* power of two >= 4096; 0: no BAR */
	u16 msix_vectors;          /* 0: no MSI-X */
	u32 msix_table, msix_pba;  /* offsets in the BAR, each alone in its page */
	const u8 *caps;            /* vendor capabilities, lie at PCI_CAPS; the last one's next pointer is 0 */
	unsigned caps_len;         /* multiple of 4 */
	/* Access to the BAR outside of the MSI-X table and PBA; never crosses a 4 KiB page. For reads *val comes in as 0. */
	void (*bar_fn)(struct vdev *dev, u32 offset, unsigned size, bool write, u64 *val);
	/* Configuration space at or above PCI_CAPS, one to four bytes in one dword; may be NULL. A read comes in with what the
	 * capability bytes say, and may change it. */
	void (*config_fn)(struct vdev *dev, unsigned reg, unsigned size, bool write, u32 *val);
	/* Bus mastering or memory decoding was switched; may be NULL. */
	void (*command_changed)(struct vdev *dev);
};
#define PCI_CAPS 0x50 /* MSI-X is at 0x40 */

extern const struct vdev_type pci_type;

/* Puts fn into slot (1..31) of its guest's bus; it must live as long as the device. -E_EXIST if the slot is taken. */
int pci_add(struct pci_fn *fn, unsigned slot) __must_check;
/* Takes it off again (before the device is freed). */
void pci_remove(struct pci_fn *fn);
/* As after a bus reset. */
void pci_fn_reset(struct pci_fn *fn);
/* Sends MSI-X vector (PCI_NO_VECTOR: none); masked: it becomes pending. Nothing if MSI-X is not enabled. */
void pci_msix_send(struct pci_fn *fn, u16 vector);
bool pci_msix_enabled(const struct pci_fn *fn);
/* Level of INTA; counts only while MSI-X is off and INTx not disabled. */
void pci_intx(struct pci_fn *fn, bool level);
/* The guest may (bus master) have the device reach memory. */
static inline bool pci_is_master(const struct pci_fn *fn) { return fn->s->command & PCI_COMMAND_MASTER; }
/* Checks every range. -E_INVAL. */
int pci_fn_post_load(const struct pci_fn *fn) __must_check;
