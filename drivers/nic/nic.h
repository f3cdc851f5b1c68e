/* SPDX-License-Identifier: MIT */
/* Network cards, polled. Frames are Ethernet without FCS, 14..1518 bytes (1514 and an 802.1Q tag). */
#pragma once
#include "drivers/pci/pci.h"
#include "hv/lib/err.h"

#define NIC_FRAME_MAX 1518
#define NIC_MAX 8

struct nic;

struct nic_ops {
	/* A buffer of NIC_FRAME_MAX bytes for the next frame, NULL while the ring is full. */
	u8 *(*tx_buffer)(struct nic *);
	/* Queues len bytes of that buffer. */
	void (*tx_commit)(struct nic *, unsigned len);
	/* The oldest received frame; 0: none. It stays valid until rx_done(). */
	unsigned (*rx_frame)(struct nic *, const u8 **data);
	void (*rx_done)(struct nic *);
	/* Tells the card what was queued and taken; call once per turn, it is the expensive part. */
	void (*flush)(struct nic *);
	/* Takes every frame that passes by, whatever its destination: the card becomes the uplink of a switch. */
	void (*promiscuous)(struct nic *);
	bool (*link_up)(struct nic *);
};

struct nic {
	const struct nic_ops *ops;
	char name[40];      /* for messages */
	u8 mac[6];
};

/* The n-th network card by PCI order, reset and running at the first call for it; cards without a driver count, so that
 * numbers do not depend on what this version drives. NULL with *e. */
struct nic *nic_open(unsigned n, struct error *e) __must_check;
/* The same for the card at that PCI address. *n: its number. */
struct nic *nic_open_at(u8 bus, u8 dev, u8 fn, unsigned *n, struct error *e) __must_check;
/* The first card that a driver knows. *n: its number. NULL with *e. */
struct nic *nic_find(unsigned *n, struct error *e) __must_check;

/* --- drivers --- */
/* Takes the device if it is an Intel 8254x. NULL with *e set if it is and does not work, NULL with *e empty if it is not. */
struct nic *e1000_probe(const struct pci_device *d, struct error *e) __must_check;
