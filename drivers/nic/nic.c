/* SPDX-License-Identifier: MIT */
#include "drivers/nic/nic.h"

static struct nic *opened[PCI_MAX_CARDS]; /* by card number */

struct nic *nic_open(unsigned n, struct error *e)
{
	const struct pci_device *d = pci_card(n);
	unsigned have = 0;

	if (!d) {
		while (pci_card(have))
			have++;
		error_set(e, E_NOENT, "there is no network card %u: this host has %u, counted from 0 in PCI order", n, have);
		return NULL;
	}
	if (!opened[n])
		opened[n] = e1000_probe(d, e);
	if (!opened[n])
		error_set(e, E_UNSUPPORTED, "no driver for the network card %04x:%04x at %02x:%02x.%u. Godwit drives up to %u Intel "
			"8254x cards (PRO/1000; in emulators 'e1000')", d->vendor, d->device, d->bus, d->dev, d->fn, NIC_MAX);
	return opened[n];
}

struct nic *nic_open_at(u8 bus, u8 dev, u8 fn, unsigned *n, struct error *e)
{
	const struct pci_device *d;

	for (*n = 0; (d = pci_card(*n)); (*n)++)
		if (d->bus == bus && d->dev == dev && d->fn == fn)
			return nic_open(*n, e);
	error_set(e, E_NOENT, "there is no network card at PCI address %02x:%02x.%u", bus, dev, fn);
	return NULL;
}

struct nic *nic_find(unsigned *n, struct error *e)
{
	for (*n = 0; pci_card(*n); (*n)++) {
		struct error why = { 0 };
		struct nic *nic = nic_open(*n, &why);

		if (nic)
			return nic;
		*e = why;
	}
	if (!*n)
		error_set(e, E_NOENT, "no network card found on PCI");
	return NULL;
}
