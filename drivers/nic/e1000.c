/* SPDX-License-Identifier: MIT */
/* Intel 82540EM and its siblings ("PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual"), with
 * legacy descriptors and without interrupts. Register names are the manual's. */
#include "drivers/nic/nic.h"
#include "hv/arch/paging.h"
#include "hv/arch/x86.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include <stdio.h>
#include <string.h>

#define REGS_BYTES (128u << 10) /* of BAR 0, in all models */
#define CTRL 0x0000
#define CTRL_ASDE BIT(5)
#define CTRL_SLU BIT(6)
#define CTRL_RST BIT(26)
#define STATUS 0x0008
#define STATUS_LU BIT(1)
#define STATUS_LAN_B BIT(2) /* the second port of a 82546 */
#define EERD 0x0014
#define EERD_START BIT(0)
#define EERD_DONE BIT(4)
#define ICR 0x00c0
#define IMC 0x00d8
#define RCTL 0x0100
#define RCTL_EN BIT(1)
#define RCTL_UPE BIT(3)
#define RCTL_MPE BIT(4)
#define RCTL_BAM BIT(15)
#define RCTL_SECRC BIT(26) /* BSIZE 0 = 2048 bytes; LPE off, so frames above 1522 bytes are dropped by the card */
#define TCTL 0x0400
#define TCTL_EN BIT(1)
#define TCTL_PSP BIT(3)
#define TCTL_CT (0x0fu << 4)
#define TCTL_COLD (0x40u << 12)
#define TIPG 0x0410
#define TIPG_IEEE (10u | 8u << 10 | 6u << 20) /* manual, "Transmit IPG Register", for copper */
#define RDBAL 0x2800
#define RDBAH 0x2804
#define RDLEN 0x2808
#define RDH 0x2810
#define RDT 0x2818
#define TDBAL 0x3800
#define TDBAH 0x3804
#define TDLEN 0x3808
#define TDH 0x3810
#define TDT 0x3818
#define MTA 0x5200 /* 128 words */
#define RAL0 0x5400
#define RAH0 0x5404
#define RAH_AV BIT(31)

#define RING 256u        /* descriptors each way; a multiple of 8 */
#define BUFFER 2048u
#define BATCH 32u        /* buffers given back to the card at once */

struct rx_desc {
	u64 addr;
	u16 length, checksum;
	u8 status, errors;
	u16 special;
} __packed;
#define RX_DD BIT(0)
#define RX_EOP BIT(1)

struct tx_desc {
	u64 addr;
	u16 length;
	u8 cso, cmd, status, css;
	u16 special;
} __packed;
#define TX_EOP BIT(0)
#define TX_IFCS BIT(1)
#define TX_RS BIT(3)
#define TX_DD BIT(0)

struct e1000 {
	struct nic nic;
	volatile u8 *regs;
	volatile struct rx_desc *rx; /* one 4 KiB frame each */
	volatile struct tx_desc *tx;
	u8 *rx_buffers, *tx_buffers;
	u32 rx_next;    /* next descriptor to look at */
	u32 rx_given;   /* last RDT written; the card owns up to, not including, it */
	u32 tx_next;    /* next descriptor to fill */
	u32 tx_told;    /* last TDT written */
	u32 tx_clean;   /* oldest one not known to be sent */
};

static struct e1000 cards[NIC_MAX];
static unsigned n_cards;

static u32 reg_read(struct e1000 *c, u32 reg) { return mmio_read32(c->regs + reg); }
static void reg_write(struct e1000 *c, u32 reg, u32 val) { mmio_write32(c->regs + reg, val); }

/* Word of the serial EEPROM that holds the MAC address and more; false if it does not answer. */
static bool eeprom_read(struct e1000 *c, u8 word, u16 *out)
{
	u64 end = now_us() + 10000;

	reg_write(c, EERD, EERD_START | (u32)word << 8);
	do {
		u32 v = reg_read(c, EERD);

		if (v & EERD_DONE) {
			*out = v >> 16;
			return true;
		}
		cpu_pause();
	} while (now_us() < end);
	return false;
}

static bool mac_usable(const u8 mac[6])
{
	u8 any = 0;

	for (int i = 0; i < 6; i++)
		any |= mac[i];
	return any && !(mac[0] & 1);
}

static bool mac_read(struct e1000 *c)
{
	u8 *mac = c->nic.mac;
	bool ok = true;
	u32 low, high;

	for (u8 i = 0; i < 3 && ok; i++) {
		u16 w = 0;

		ok = eeprom_read(c, i, &w);
		mac[2 * i] = (u8)w;
		mac[2 * i + 1] = w >> 8;
	}
	if (ok && mac_usable(mac)) {
		if (reg_read(c, STATUS) & STATUS_LAN_B)
			mac[5] ^= 1; /* both ports read the first one's (manual, "Ethernet Address (Words 00h-02h)") */
		return true;
	}
	/* No EEPROM: firmware may have left the address in the first receive filter. */
	low = reg_read(c, RAL0);
	high = reg_read(c, RAH0);
	memcpy(mac, &low, 4);
	memcpy(mac + 4, &high, 2);
	return mac_usable(mac);
}

static bool reset(struct e1000 *c)
{
	u64 end;

	reg_write(c, IMC, ~0u);
	reg_write(c, RCTL, 0);
	reg_write(c, TCTL, 0);
	reg_write(c, CTRL, reg_read(c, CTRL) | CTRL_RST);
	/* The manual forbids access for 1 us; the bit clears itself. */
	end = now_us() + 20;
	while (now_us() < end)
		cpu_pause();
	end = now_us() + 100000;
	while (reg_read(c, CTRL) & CTRL_RST) {
		if (now_us() > end)
			return false;
		cpu_pause();
	}
	reg_write(c, IMC, ~0u);
	(void)reg_read(c, ICR);
	return true;
}

static int rings_alloc(struct e1000 *c)
{
	c->rx = frame_alloc_n(1);
	c->tx = frame_alloc_n(1);
	c->rx_buffers = frame_alloc_n(RING * BUFFER / PAGE_SIZE);
	c->tx_buffers = frame_alloc_n(RING * BUFFER / PAGE_SIZE);
	return c->rx && c->tx && c->rx_buffers && c->tx_buffers ? 0 : -E_NOMEM;
}

static void start(struct e1000 *c)
{
	u32 low, high = 0;
	u64 at;

	memcpy(&low, c->nic.mac, 4);
	memcpy(&high, c->nic.mac + 4, 2);
	/* Some models come out of reset with an empty address filter, whatever the EEPROM says. */
	reg_write(c, RAL0, low);
	reg_write(c, RAH0, high | RAH_AV);
	for (u32 i = 0; i < 128; i++)
		reg_write(c, MTA + 4 * i, 0);
	reg_write(c, CTRL, (reg_read(c, CTRL) | CTRL_SLU | CTRL_ASDE));

	for (u32 i = 0; i < RING; i++)
		c->rx[i].addr = ptr_hpa(c->rx_buffers + i * BUFFER).v;
	at = ptr_hpa((void *)(uintptr_t)c->rx).v;
	reg_write(c, RDBAL, (u32)at);
	reg_write(c, RDBAH, at >> 32);
	reg_write(c, RDLEN, RING * sizeof(struct rx_desc));
	reg_write(c, RDH, 0);
	/* Head == tail means none left, so one descriptor always stays ours. */
	c->rx_given = RING - 1;
	reg_write(c, RDT, c->rx_given);
	at = ptr_hpa((void *)(uintptr_t)c->tx).v;
	reg_write(c, TDBAL, (u32)at);
	reg_write(c, TDBAH, at >> 32);
	reg_write(c, TDLEN, RING * sizeof(struct tx_desc));
	reg_write(c, TDH, 0);
	reg_write(c, TDT, 0);
	mem_barrier();
	reg_write(c, TIPG, TIPG_IEEE);
	reg_write(c, TCTL, TCTL_EN | TCTL_PSP | TCTL_CT | TCTL_COLD);
	reg_write(c, RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC);
}

/* --- struct nic_ops --- */

static void tx_reclaim(struct e1000 *c)
{
	while (c->tx_clean != c->tx_told && (c->tx[c->tx_clean].status & TX_DD))
		c->tx_clean = (c->tx_clean + 1) % RING;
}

static void tx_tell(struct e1000 *c)
{
	if (c->tx_told == c->tx_next)
		return;
	__asm__ volatile("" : : : "memory"); /* descriptors first: stores stay in order on x86 */
	c->tx_told = c->tx_next;
	reg_write(c, TDT, c->tx_told);
}

static u8 *e1000_tx_buffer(struct nic *nic)
{
	struct e1000 *c = container_of(nic, struct e1000, nic);

	tx_reclaim(c);
	if ((c->tx_next + 1) % RING == c->tx_clean) {
		tx_tell(c);
		tx_reclaim(c);
	}
	if ((c->tx_next + 1) % RING == c->tx_clean)
		return NULL;
	return c->tx_buffers + c->tx_next * BUFFER;
}

static void e1000_tx_commit(struct nic *nic, unsigned len)
{
	struct e1000 *c = container_of(nic, struct e1000, nic);
	volatile struct tx_desc *d = &c->tx[c->tx_next];

	BUG_ON(len > NIC_FRAME_MAX);
	/* The card pads to 60 bytes only if told to, so it is done here; the buffer may hold an older frame's bytes. */
	if (len < 60) {
		memset(c->tx_buffers + c->tx_next * BUFFER + len, 0, 60 - len);
		len = 60;
	}
	d->addr = ptr_hpa(c->tx_buffers + c->tx_next * BUFFER).v;
	d->length = (u16)len;
	d->cso = d->css = 0;
	d->special = 0;
	d->status = 0;
	d->cmd = TX_EOP | TX_IFCS | TX_RS;
	c->tx_next = (c->tx_next + 1) % RING;
}

static unsigned e1000_rx_frame(struct nic *nic, const u8 **data)
{
	struct e1000 *c = container_of(nic, struct e1000, nic);

	for (;;) {
		volatile struct rx_desc *d = &c->rx[c->rx_next];
		u16 len;

		if (!(d->status & RX_DD))
			return 0;
		__asm__ volatile("" : : : "memory"); /* the rest is read after DD; loads stay in order on x86 */
		len = d->length;
		if ((d->status & RX_EOP) && !d->errors && len >= 14 && len <= NIC_FRAME_MAX) {
			*data = c->rx_buffers + c->rx_next * BUFFER;
			return len;
		}
		log_guest(LOG_WARN, "nic", "%s: dropped a frame of %u bytes (status %x, errors %x)", nic->name, len, d->status,
			d->errors);
		nic->ops->rx_done(nic);
	}
}

static void rx_give(struct e1000 *c)
{
	/* All up to the one before rx_next; that one stays ours. */
	u32 tail = (c->rx_next + RING - 1) % RING;

	if (tail == c->rx_given)
		return;
	__asm__ volatile("" : : : "memory"); /* stores stay in order on x86 */
	c->rx_given = tail;
	reg_write(c, RDT, tail);
}

static void e1000_rx_done(struct nic *nic)
{
	struct e1000 *c = container_of(nic, struct e1000, nic);

	c->rx[c->rx_next].status = 0;
	c->rx_next = (c->rx_next + 1) % RING;
	if ((c->rx_next + RING - 1 - c->rx_given) % RING >= BATCH)
		rx_give(c);
}

static void e1000_flush(struct nic *nic)
{
	struct e1000 *c = container_of(nic, struct e1000, nic);

	rx_give(c);
	tx_tell(c);
}

static void e1000_promiscuous(struct nic *nic)
{
	struct e1000 *c = container_of(nic, struct e1000, nic);

	reg_write(c, RCTL, reg_read(c, RCTL) | RCTL_UPE | RCTL_MPE);
}

static bool e1000_link_up(struct nic *nic)
{
	return reg_read(container_of(nic, struct e1000, nic), STATUS) & STATUS_LU;
}

static const struct nic_ops e1000_ops = {
	.tx_buffer = e1000_tx_buffer, .tx_commit = e1000_tx_commit, .rx_frame = e1000_rx_frame, .rx_done = e1000_rx_done,
	.flush = e1000_flush, .promiscuous = e1000_promiscuous, .link_up = e1000_link_up,
};

/* Copper models with the same registers and EERD layout. */
static const struct { u16 device; const char *name; } models[] = {
	{ 0x100e, "82540EM" }, { 0x1015, "82540EM" }, { 0x1016, "82540EP" }, { 0x1017, "82540EP" }, { 0x101e, "82540EP" },
	{ 0x100f, "82545EM" }, { 0x1026, "82545GM" }, { 0x1010, "82546EB" }, { 0x1079, "82546GB" },
};

struct nic *e1000_probe(const struct pci_device *d, struct error *e)
{
	const char *model = NULL;
	struct e1000 *c;
	const u8 *m;
	u64 at;

	for (unsigned i = 0; i < ARRAY_SIZE(models); i++)
		if (d->vendor == 0x8086 && d->device == models[i].device)
			model = models[i].name;
	if (!model || n_cards == NIC_MAX)
		return NULL;
	c = &cards[n_cards];
	m = c->nic.mac;
	log_guard();
	snprintf(c->nic.name, sizeof(c->nic.name), "Intel %s at %02x:%02x.%u", model, d->bus, d->dev, d->fn);
	at = pci_bar0(d);
	if (!at) {
		error_set(e, E_IO, "network card %s: firmware gave it no memory for its registers", c->nic.name);
		return NULL;
	}
	/* Above all RAM, where nothing is mapped yet, firmware may have put it too. */
	if (paging_map_mmio(hpa(at), REGS_BYTES)) {
		error_set(e, E_IO, "network card %s: its registers at %#llx cannot be reached", c->nic.name,
			  (unsigned long long)at);
		return NULL;
	}
	pci_enable(d);
	c->regs = hpa_ptr(hpa(at));
	c->nic.ops = &e1000_ops;
	if (!reset(c)) {
		error_set(e, E_IO, "network card %s does not come out of its reset", c->nic.name);
	} else if (!mac_read(c)) {
		error_set(e, E_IO, "network card %s has no usable MAC address", c->nic.name);
	} else if (rings_alloc(c)) {
		error_set(e, E_NOMEM, "no memory for the rings of network card %s", c->nic.name);
	} else {
		start(c);
		n_cards++;
		log_info("nic", "%s, MAC %02x:%02x:%02x:%02x:%02x:%02x", c->nic.name, m[0], m[1], m[2], m[3], m[4], m[5]);
		return &c->nic;
	}
	return NULL;
}
