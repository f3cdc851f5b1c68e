/* SPDX-License-Identifier: MIT */
/* Physical PCI through configuration mechanism #1 (PCI Local Bus Specification 3.0, "Configuration Mechanism #1").
 * Scanned once at start; devices are described by what firmware assigned. */
#pragma once
#include "hv/lib/types.h"

#define PCI_MAX_DEVICES 64
#define PCI_MAX_BARS 6

struct pci_bar {
	u64 base;  /* port number or physical address; 0: not assigned */
	u64 size;  /* bytes; 0: not there */
	bool io;
};

struct pci_device {
	u8 bus, dev, fn;
	u8 class, subclass, prog_if;
	u16 vendor, device;
	struct pci_bar bars[PCI_MAX_BARS]; /* a 64-bit BAR takes two entries, the second one empty */
};

/* Walks all buses that bridges lead to. Returns the number of functions found. */
unsigned pci_init(void);
/* The i-th function found, in bus order; NULL at the end. */
const struct pci_device *pci_device(unsigned i);
/* Lets the device decode its BARs and master the bus; INTx off, we poll. */
void pci_enable(const struct pci_device *d);
u32 pci_read32(const struct pci_device *d, u8 reg);
void pci_write32(const struct pci_device *d, u8 reg, u32 val);
