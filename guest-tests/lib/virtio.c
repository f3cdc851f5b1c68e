/* SPDX-License-Identifier: MIT */
/* PCI configuration space, and as much of virtio 1.x as a driver needs to begin. */
#include "guest.h"

u32 pci_read(u32 slot, u32 reg)
{
	outl(0xcf8, 0x80000000 | slot << 11 | (reg & 0xfc));
	return inl(0xcfc);
}

u8 pci_read8(u32 slot, u32 reg)
{
	return (u8)(pci_read(slot, reg) >> 8 * (reg & 3));
}

void pci_write(u32 slot, u32 reg, u32 v)
{
	outl(0xcf8, 0x80000000 | slot << 11 | (reg & 0xfc));
	outl(0xcfc, v);
}

static u64 bar(u32 slot, u32 n)
{
	return pci_read(slot, 0x10 + 4 * n) & ~15u;
}

/* "Virtio Structure PCI Capabilities" */
bool virtio_find(struct virtio *d, u32 slot)
{
	*d = (struct virtio){ .slot = slot };
	pci_write(slot, 4, 6);
	for (u32 at = pci_read8(slot, 0x34), n = 0; at && n < 48; at = pci_read8(slot, at + 1), n++) {
		u64 where = bar(slot, pci_read8(slot, at + 4)) + pci_read(slot, at + 8);

		if (pci_read8(slot, at) == 0x11) {
			d->msix_control = at;
			d->msix_table = bar(slot, pci_read(slot, at + 4) & 7) + (pci_read(slot, at + 4) & ~7u);
			d->msix_pba = bar(slot, pci_read(slot, at + 8) & 7) + (pci_read(slot, at + 8) & ~7u);
		} else if (pci_read8(slot, at) == 9) {
			switch (pci_read8(slot, at + 3)) {
			case 1: d->common = where; break;
			case 2:
				d->notify_at = where;
				d->notify_multiplier = pci_read(slot, at + 16);
				break;
			case 3: d->isr = where; break;
			case 4: d->config = where; break;
			}
		}
	}
	return d->common && d->notify_at && d->isr && d->msix_table && d->msix_pba;
}

u8 virtio_status(const struct virtio *d)
{
	return REG(u8, d->common + 20);
}

bool virtio_begin(const struct virtio *d, u32 features)
{
	REG(u8, d->common + 20) = 0;
	while (virtio_status(d))
		;
	REG(u8, d->common + 20) = 1;
	REG(u8, d->common + 20) = 3;
	REG(u32, d->common) = 0;
	features &= REG(u32, d->common + 4);
	REG(u32, d->common + 8) = 0;
	REG(u32, d->common + 12) = features;
	REG(u32, d->common + 8) = 1;
	REG(u32, d->common + 12) = 1;
	REG(u8, d->common + 20) = 11;
	return virtio_status(d) & 8;
}

void virtio_queue(const struct virtio *d, u16 q, const void *desc, volatile void *avail, volatile void *used, u16 size, u16 vector)
{
	u64 at[] = { (u64)desc, (u64)avail, (u64)used };

	REG(u16, d->common + 22) = q;
	REG(u16, d->common + 24) = size;
	REG(u16, d->common + 26) = vector;
	for (u32 i = 0; i < ARRAY_SIZE(at); i++) {
		REG(u32, d->common + 32 + 8 * i) = (u32)at[i];
		REG(u32, d->common + 36 + 8 * i) = 0;
	}
	REG(u16, d->common + 28) = 1;
}

bool virtio_go(const struct virtio *d)
{
	REG(u8, d->common + 20) = 15;
	return virtio_status(d) == 15;
}

u64 virtio_doorbell(const struct virtio *d, u16 q)
{
	REG(u16, d->common + 22) = q;
	return d->notify_at + REG(u16, d->common + 30) * d->notify_multiplier;
}

void virtio_notify(const struct virtio *d, u16 q)
{
	__asm__ volatile("mfence" : : : "memory");
	REG(u16, virtio_doorbell(d, q)) = q;
}

void virtio_msix(const struct virtio *d, u32 i, u32 apic_id, u8 vector, u32 masked)
{
	REG(u32, d->msix_table + 16 * i) = 0xfee00000 | apic_id << 12;
	REG(u32, d->msix_table + 16 * i + 4) = 0;
	REG(u32, d->msix_table + 16 * i + 8) = vector;
	REG(u32, d->msix_table + 16 * i + 12) = masked;
}
