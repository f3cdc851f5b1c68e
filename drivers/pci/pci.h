/* SPDX-License-Identifier: MIT */
/* Physical PCI through configuration mechanism #1 (PCI Local Bus Specification 3.0, "Configuration Mechanism #1"). Only network
 * cards are looked for, and no other device is written to: what firmware's SMIs may use must go on decoding its addresses. */
#pragma once
#include "hv/lib/types.h"

#define PCI_MAX_CARDS 64

struct pci_device {
	u8 bus, dev, fn;
	u16 vendor, device;
};

/* The n-th network card of the machine in the order of bus, device and function; NULL past the last one. The first call looks
 * for them. */
const struct pci_device *pci_card(unsigned n);
/* The physical address of the memory that BAR 0 stands for, as firmware assigned it; 0: none. */
u64 pci_bar0(const struct pci_device *d);
/* Lets the device decode its BARs and master the bus; INTx off, we poll. */
void pci_enable(const struct pci_device *d);
