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
#define PCI_BUS_NUMBERS 0x18

#define COMMAND_IO BIT(0)
#define COMMAND_MEMORY BIT(1)
#define COMMAND_MASTER BIT(2)
#define COMMAND_INTX_OFF BIT(10)

static struct pci_device devices[PCI_MAX_DEVICES];
static unsigned n_devices;
static u8 seen_bus[256 / 8];

u32 pci_read32(const struct pci_device *d, u8 reg)
{
	outl(CONFIG_ADDRESS, 1u << 31 | (u32)d->bus << 16 | (u32)d->dev << 11 | (u32)d->fn << 8 | (reg & 0xfc));
	return inl(CONFIG_DATA);
}

void pci_write32(const struct pci_device *d, u8 reg, u32 val)
{
	outl(CONFIG_ADDRESS, 1u << 31 | (u32)d->bus << 16 | (u32)d->dev << 11 | (u32)d->fn << 8 | (reg & 0xfc));
	outl(CONFIG_DATA, val);
}

/* The lower half is the command; ones written to the status half would clear its bits. */
static void command_set(const struct pci_device *d, u16 command)
{
	pci_write32(d, PCI_COMMAND, command);
}

static void bars_read(struct pci_device *d)
{
	u16 command = (u16)pci_read32(d, PCI_COMMAND);

	/* While sizes are probed, the device must not answer at the probe's addresses. */
	command_set(d, command & (u16)~(COMMAND_IO | COMMAND_MEMORY));
	for (unsigned i = 0; i < PCI_MAX_BARS; i++) {
		u8 reg = (u8)(PCI_BAR0 + 4 * i);
		struct pci_bar *b = &d->bars[i];
		u32 old = pci_read32(d, reg), mask;
		u64 size;

		pci_write32(d, reg, ~0u);
		mask = pci_read32(d, reg);
		pci_write32(d, reg, old);
		if (!mask)
			continue;
		b->io = mask & 1;
		if (b->io) {
			b->base = old & 0xfffc;
			b->size = (u16)~(mask & 0xfffc) + 1u;
			continue;
		}
		b->base = old & ~0xfu;
		size = 0xffffffff00000000 | (mask & ~0xfu);
		if ((mask >> 1 & 3) == 2 && i + 1 < PCI_MAX_BARS) { /* 64 bits */
			u32 high = pci_read32(d, reg + 4);

			pci_write32(d, reg + 4, ~0u);
			size = (u64)pci_read32(d, reg + 4) << 32 | (mask & ~0xfu);
			pci_write32(d, reg + 4, high);
			b->base |= (u64)high << 32;
			i++;
		}
		b->size = ~size + 1;
	}
	command_set(d, command);
}

static void bus_scan(u8 bus);

static void function_scan(u8 bus, u8 dev, u8 fn)
{
	struct pci_device d = { .bus = bus, .dev = dev, .fn = fn };
	u32 id = pci_read32(&d, PCI_ID), class = pci_read32(&d, PCI_CLASS);
	u8 header = pci_read32(&d, PCI_HEADER_TYPE) >> 16 & 0x7f;

	if ((u16)id == 0xffff)
		return;
	d.vendor = (u16)id;
	d.device = id >> 16;
	d.class = class >> 24;
	d.subclass = class >> 16 & 0xff;
	d.prog_if = class >> 8 & 0xff;
	if (header == 0)
		bars_read(&d);
	if (n_devices < PCI_MAX_DEVICES)
		devices[n_devices++] = d;
	else
		log_warn("pci", "more than %u devices; %02x:%02x.%u is ignored", PCI_MAX_DEVICES, bus, dev, fn);
	if (header == 1 && d.class == 6 && d.subclass == 4)
		bus_scan(pci_read32(&d, PCI_BUS_NUMBERS) >> 8 & 0xff);
}

static void bus_scan(u8 bus)
{
	if (seen_bus[bus / 8] & 1 << bus % 8)
		return; /* also ends loops that broken bridges make */
	seen_bus[bus / 8] |= (u8)(1 << bus % 8);
	for (u8 dev = 0; dev < 32; dev++) {
		struct pci_device d = { .bus = bus, .dev = dev };
		unsigned n = pci_read32(&d, PCI_HEADER_TYPE) & 0x800000 ? 8 : 1;

		for (u8 fn = 0; fn < n; fn++)
			function_scan(bus, dev, fn);
	}
}

unsigned pci_init(void)
{
	struct pci_device host = { 0 };

	if (n_devices)
		return n_devices;
	/* Several host bridges are functions of 00:00; function n leads to bus n. */
	if (pci_read32(&host, PCI_HEADER_TYPE) & 0x800000 && pci_read32(&host, PCI_ID) != ~0u) {
		for (u8 fn = 0; fn < 8; fn++) {
			host.fn = fn;
			if (pci_read32(&host, PCI_ID) != ~0u && pci_read32(&host, PCI_CLASS) >> 16 == 0x0600)
				bus_scan(fn);
		}
	}
	bus_scan(0);
	return n_devices;
}

const struct pci_device *pci_device(unsigned i)
{
	return i < n_devices ? &devices[i] : NULL;
}

void pci_enable(const struct pci_device *d)
{
	u16 command = (u16)pci_read32(d, PCI_COMMAND);

	command_set(d, (u16)(command | COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_OFF));
}
