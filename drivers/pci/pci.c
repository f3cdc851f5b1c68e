/* SPDX-License-Identifier: MIT */
#include "drivers/pci/pci.h"
#include "hv/arch/x86.h"
#include "hv/lib/log.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA 0xcfc

/* Configuration space header. */
#define PCI_ID 0x00
#define PCI_COMMAND 0x04 /* and status in the upper half */
#define PCI_CLASS 0x08
#define PCI_HEADER_TYPE 0x0c /* bits 23:16 */
#define PCI_BAR0 0x10

#define CLASS_NETWORK 2
#define HEADER_MANY_FUNCTIONS BIT(23)
#define COMMAND_IO BIT(0)
#define COMMAND_MEMORY BIT(1)
#define COMMAND_MASTER BIT(2)
#define COMMAND_INTX_OFF BIT(10)
#define BAR_IO BIT(0)
#define BAR_TYPE 7u
#define BAR_MEMORY64 4u

static struct pci_device cards[PCI_MAX_CARDS];
static unsigned n_cards;

static u32 read32(const struct pci_device *d, u8 reg)
{
	outl(CONFIG_ADDRESS, 1u << 31 | (u32)d->bus << 16 | (u32)d->dev << 11 | (u32)d->fn << 8 | reg);
	return inl(CONFIG_DATA);
}

static void write32(const struct pci_device *d, u8 reg, u32 val)
{
	outl(CONFIG_ADDRESS, 1u << 31 | (u32)d->bus << 16 | (u32)d->dev << 11 | (u32)d->fn << 8 | reg);
	outl(CONFIG_DATA, val);
}

/* Every bus is asked: a machine with several sockets has buses that no bridge of bus 0 leads to. */
static void scan(void)
{
	for (unsigned at = 0; at < 256 * 32 * 8; at++) {
		struct pci_device d = { .bus = (u8)(at >> 8), .dev = at >> 3 & 31, .fn = at & 7 };
		u32 id = read32(&d, PCI_ID);

		d.vendor = (u16)id;
		d.device = id >> 16;
		if (d.vendor != 0xffff && read32(&d, PCI_CLASS) >> 24 == CLASS_NETWORK) {
			if (n_cards == PCI_MAX_CARDS) {
				log_warn("pci", "more than %u network cards; those from %02x:%02x.%u on are ignored", PCI_MAX_CARDS, d.bus,
					 d.dev, d.fn);
				return;
			}
			cards[n_cards++] = d;
		}
		if (!d.fn && (d.vendor == 0xffff || !(read32(&d, PCI_HEADER_TYPE) & HEADER_MANY_FUNCTIONS)))
			at += 7;
	}
}

const struct pci_device *pci_card(unsigned n)
{
	static bool scanned;

	if (!scanned)
		scan();
	scanned = true;
	return n < n_cards ? &cards[n] : NULL;
}

u64 pci_bar0(const struct pci_device *d)
{
	u32 low = read32(d, PCI_BAR0);
	u64 high = (low & BAR_TYPE) == BAR_MEMORY64 ? read32(d, PCI_BAR0 + 4) : 0;

	return low & BAR_IO ? 0 : high << 32 | (low & ~0xfu);
}

void pci_enable(const struct pci_device *d)
{
	/* The lower half is the command; ones written to the status half would clear its bits. */
	u16 command = (u16)read32(d, PCI_COMMAND);

	write32(d, PCI_COMMAND, command | COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_OFF);
}
