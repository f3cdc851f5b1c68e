/* SPDX-License-Identifier: MIT */
#include "drivers/nic/nic.h"

struct nic *nic_find(struct error *e)
{
	const struct pci_device *d, *unknown = NULL;

	pci_init();
	for (unsigned i = 0; (d = pci_device(i)); i++) {
		struct nic *nic;

		if (d->class != 2)
			continue;
		nic = e1000_probe(d, e);
		if (nic)
			return nic;
		unknown = d;
	}
	if (unknown)
		error_set(e, E_UNSUPPORTED, "no driver for the network card %04x:%04x at %02x:%02x.%u. Godwit drives Intel 8254x "
			"cards (PRO/1000; in emulators 'e1000')", unknown->vendor, unknown->device, unknown->bus, unknown->dev,
			unknown->fn);
	else
		error_set(e, E_NOENT, "no network card found on PCI");
	return NULL;
}
