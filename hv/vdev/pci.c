/* SPDX-License-Identifier: MIT */
#include "hv/vdev/pci.h"
#include "hv/vdev/devices.h"
#include "hv/vm/vm.h"

#include <string.h>

#define CONFIG_PORT 0xcf8
#define RESET_PORT 0xcf9   /* shares its place with the address register, which takes dwords only */
#define DATA_PORT 0xcfc
#define ADDRESS_ENABLE BIT(31)
#define ADDRESS_WRITABLE 0x80fffffcu

/* Configuration space header, by dword */
#define REG_ID 0x00
#define REG_COMMAND 0x04
#define REG_CLASS 0x08
#define REG_MISC 0x0c
#define REG_BAR0 0x10
#define REG_SUBSYSTEM 0x2c
#define REG_CAP_PTR 0x34
#define REG_INTERRUPT 0x3c
#define REG_MSIX 0x40
#define COMMAND_INTX_DISABLE 0x0400
#define COMMAND_WRITABLE (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | COMMAND_INTX_DISABLE)
#define STATUS_INTX 0x0008
#define STATUS_CAPS 0x0010
#define CAP_MSIX 0x11
#define MSIX_ENABLE 0x8000
#define MSIX_MASK_ALL 0x4000
#define MSIX_MASKED 1u
enum { MSIX_ADDRESS, MSIX_ADDRESS_HI, MSIX_DATA, MSIX_CONTROL, MSIX_WORDS };

/* INTA of slot n is IO-APIC pin 16 + n % 4 and, for guests that use the 8259A, IRQ 10 + n % 2: so says _PRT. */
#define INTX_PIN 16
#define INTX_IRQ 10
#define BRIDGE_VENDOR 0x1b36 /* a bridge of no particular make */
#define BRIDGE_DEVICE 0x0008
#define CLASS_HOST_BRIDGE 0x060000

struct pci_state {
	struct pci_fn_state bridge;
	u64 address; /* CF8h */
};

struct pci {
	struct vdev dev;
	struct pci_state s;
	struct pci_fn fn; /* the bridge itself */
};

static struct pci *pci_of(struct vdev *dev)
{
	return container_of(dev, struct pci, dev);
}

/* --- interrupts --- */

static bool pci_asserts(const struct pci_fn *fn)
{
	return fn->s->intx && !pci_msix_enabled(fn) && !(fn->s->command & COMMAND_INTX_DISABLE);
}

/* The lines are shared: each is the OR of its slots. */
static void pci_update_lines(struct pci_fn *fn)
{
	struct vm *vm = fn->dev->vm;
	struct vdev *ioapic = vm_vdev(vm, &ioapic_type, 0), *pic = vm_vdev(vm, &pic_type, 0);
	bool pin = false, irq = false;

	for (unsigned i = 0; i < PCI_SLOTS; i++) {
		if (!vm->pci[i] || !pci_asserts(vm->pci[i]))
			continue;
		pin |= i % 4 == fn->slot % 4u;
		irq |= i % 2 == fn->slot % 2u;
	}
	if (ioapic)
		ioapic_line(ioapic, INTX_PIN + fn->slot % 4, pin);
	if (pic)
		pic_line(pic, INTX_IRQ + fn->slot % 2, irq);
}

void pci_intx(struct pci_fn *fn, bool level)
{
	if (fn->s->intx == level)
		return;
	fn->s->intx = level;
	pci_update_lines(fn);
}

bool pci_msix_enabled(const struct pci_fn *fn)
{
	return fn->s->msix_enable & MSIX_ENABLE;
}

/* A message is a write to the local APICs' address range (SDM "Message Signalled Interrupts"); what is none is dropped:
 * a device that could write anywhere is no use to a guest. */
static void pci_message(struct vm *vm, u64 address, u32 data)
{
	u32 dest = address >> 12 & 0xff;
	bool logical = address & BIT(2);
	u8 mode = data >> 8 & 7;

	if (address >> 20 != 0xfee || (mode != 0 && mode != 1 && mode != 4))
		return;
	if (mode != 4 && (data & 0xff) < 16)
		return;
	lapic_deliver(vm, dest == 0xff && !logical ? ~0u : dest, logical, mode, (u8)data, false);
}

/* Sends what is pending and not masked. A message is a write by the device, so it wants bus mastering. */
static void pci_msix_flush(struct pci_fn *fn)
{
	struct pci_fn_state *s = fn->s;

	if ((s->msix_enable & (MSIX_ENABLE | MSIX_MASK_ALL)) != MSIX_ENABLE || !pci_is_master(fn))
		return;
	for (unsigned v = 0; v < fn->msix_vectors; v++) {
		const u32 *entry = &s->msix[MSIX_WORDS * v];

		if (!(s->msix_pending & BIT(v)) || (entry[MSIX_CONTROL] & MSIX_MASKED))
			continue;
		s->msix_pending &= ~(u32)BIT(v);
		pci_message(fn->dev->vm, entry[MSIX_ADDRESS] | (u64)entry[MSIX_ADDRESS_HI] << 32, entry[MSIX_DATA]);
	}
}

void pci_msix_send(struct pci_fn *fn, u16 vector)
{
	if (!pci_msix_enabled(fn) || vector >= fn->msix_vectors)
		return;
	fn->s->msix_pending |= (u32)BIT(vector);
	pci_msix_flush(fn);
}

/* "MSI-X Table": accesses are dwords or qwords, aligned; others are undefined: ignored here. */
static void pci_msix_table(struct pci_fn *fn, u32 offset, unsigned size, bool write, u64 *val)
{
	static const u32 writable[MSIX_WORDS] = { ~3u, ~0u, ~0u, MSIX_MASKED };

	if (size < 4 || offset % size)
		return;
	for (unsigned i = 0, n = offset / 4; i < size && n < MSIX_WORDS * fn->msix_vectors; i += 4, n++) {
		if (!write)
			*val |= (u64)fn->s->msix[n] << 8 * i;
		else
			fn->s->msix[n] = (u32)(*val >> 8 * i) & writable[n % MSIX_WORDS];
	}
	if (write)
		pci_msix_flush(fn);
}

/* --- memory window --- */

static void pci_bar(struct pci_fn *fn, u32 offset, unsigned size, bool write, u64 *val)
{
	u32 page = ALIGN_DOWN(offset, 0x1000u), at = offset - page;

	if (!write)
		*val = 0;
	if (at + size > 0x1000)
		return;
	if (fn->msix_vectors && page == fn->msix_table)
		pci_msix_table(fn, at, size, write, val);
	else if (!fn->msix_vectors || page != fn->msix_pba)
		fn->bar_fn(fn->dev, offset, size, write, val);
	else if (!write && at < 8)
		*val = (u64)fn->s->msix_pending >> 8 * at;
}

static void pci_mmio(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	for (unsigned i = 0; i < PCI_SLOTS; i++) {
		struct pci_fn *fn = dev->vm->pci[i];

		if (!fn || !(fn->s->command & PCI_COMMAND_MEMORY) || addr - fn->s->bar >= fn->bar_size ||
		    addr - fn->s->bar + size > fn->bar_size)
			continue;
		pci_bar(fn, (u32)(addr - fn->s->bar), size, write, val);
		return;
	}
}

/* --- configuration space --- */

static bool in_caps(const struct pci_fn *fn, unsigned reg)
{
	return reg >= PCI_CAPS && reg < PCI_CAPS + fn->caps_len;
}

static u32 pci_config_dword(const struct pci_fn *fn, unsigned reg)
{
	const struct pci_fn_state *s = fn->s;
	u32 val;

	switch (reg) {
	case REG_ID: return fn->vendor | (u32)fn->device << 16;
	case REG_COMMAND: return s->command | (u32)((s->intx ? STATUS_INTX : 0) | (fn->msix_vectors || fn->caps_len ? STATUS_CAPS : 0)) << 16;
	case REG_CLASS: return fn->revision | fn->class_code << 8;
	case REG_MISC: return s->cache_line | (u32)s->latency_timer << 8;
	case REG_BAR0: return s->bar;
	case REG_SUBSYSTEM: return fn->subsystem_vendor | (u32)fn->subsystem << 16;
	case REG_CAP_PTR: return fn->msix_vectors ? REG_MSIX : fn->caps_len ? PCI_CAPS : 0;
	case REG_INTERRUPT: return s->interrupt_line | (fn->bar_size ? 1u : 0) << 8; /* INTA */
	case REG_MSIX:
		return fn->msix_vectors ? CAP_MSIX | (fn->caps_len ? PCI_CAPS : 0) << 8 |
			(u32)(s->msix_enable | (fn->msix_vectors - 1)) << 16 : 0;
	case REG_MSIX + 4: return fn->msix_table; /* BIR 0 */
	case REG_MSIX + 8: return fn->msix_pba;
	}
	if (!in_caps(fn, reg))
		return 0;
	memcpy(&val, fn->caps + reg - PCI_CAPS, 4);
	return val;
}

static void pci_set_command(struct pci_fn *fn, u16 command)
{
	u16 old = fn->s->command;

	fn->s->command = command & COMMAND_WRITABLE;
	pci_update_lines(fn);
	if (!((old ^ command) & (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)))
		return;
	pci_msix_flush(fn);
	if (fn->command_changed)
		fn->command_changed(fn->dev);
}

/* One to four bytes inside of a dword. */
static void pci_config_write(struct pci_fn *fn, unsigned reg, unsigned size, u32 val)
{
	struct pci_fn_state *s = fn->s;
	unsigned shift = 8 * (reg & 3);
	u32 mask = (size == 4 ? ~0u : (1u << 8 * size) - 1) << shift;
	u32 merged = (pci_config_dword(fn, reg & ~3u) & ~mask) | (val << shift & mask);

	switch (reg & ~3u) {
	case REG_COMMAND:
		pci_set_command(fn, (u16)merged);
		break;
	case REG_MISC:
		s->cache_line = (u8)merged;
		s->latency_timer = (u8)(merged >> 8);
		break;
	case REG_BAR0:
		s->bar = fn->bar_size ? merged & ~(fn->bar_size - 1) : 0;
		break;
	case REG_INTERRUPT:
		s->interrupt_line = (u8)merged;
		break;
	case REG_MSIX:
		if (!fn->msix_vectors)
			break;
		s->msix_enable = (u16)(merged >> 16) & (MSIX_ENABLE | MSIX_MASK_ALL);
		pci_update_lines(fn);
		pci_msix_flush(fn);
		break;
	default:
		if (fn->config_fn && in_caps(fn, reg))
			fn->config_fn(fn->dev, reg, size, true, &val);
	}
}

static u32 pci_config_read(struct pci_fn *fn, unsigned reg, unsigned size)
{
	u32 val = pci_config_dword(fn, reg & ~3u) >> 8 * (reg & 3);

	if (fn->config_fn && in_caps(fn, reg))
		fn->config_fn(fn->dev, reg, size, false, &val);
	return val;
}

/* "Configuration Mechanism #1": one bus, function 0 only. */
static struct pci_fn *pci_selected(const struct pci *p)
{
	u64 a = p->s.address;

	return (a & ADDRESS_ENABLE) && !(a >> 16 & 0xff) && !(a >> 8 & 7) ? p->dev.vm->pci[a >> 11 & 31] : NULL;
}

static void pci_address_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	struct pci *p = pci_of(dev);
	struct vdev *pm;

	if (addr == RESET_PORT && size == 1) {
		pm = vm_vdev(dev->vm, &pm_type, 0);
		if (pm)
			pm_reset_control(pm, write, val);
	} else if (addr == CONFIG_PORT && size == 4) {
		if (write)
			p->s.address = *val & ADDRESS_WRITABLE;
		else
			*val = p->s.address;
	}
}

static void pci_data_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	struct pci *p = pci_of(dev);
	struct pci_fn *fn = pci_selected(p);
	unsigned reg = (p->s.address & 0xfc) + ((unsigned)addr - DATA_PORT);

	if (!fn)
		return;
	if (write)
		pci_config_write(fn, reg, size, (u32)*val);
	else
		*val = pci_config_read(fn, reg, size) & (~0ull >> (64 - 8 * size));
}

/* --- functions --- */

int pci_add(struct pci_fn *fn, unsigned slot)
{
	struct vm *vm = fn->dev->vm;

	if (slot >= PCI_SLOTS || vm->pci[slot])
		return -E_EXIST;
	fn->slot = (u8)slot;
	vm->pci[slot] = fn;
	return 0;
}

void pci_remove(struct pci_fn *fn)
{
	if (fn->dev && fn->dev->vm->pci[fn->slot] == fn)
		fn->dev->vm->pci[fn->slot] = NULL;
}

/* BARs as firmware would have placed them: 1 MiB for each slot. */
void pci_fn_reset(struct pci_fn *fn)
{
	*fn->s = (struct pci_fn_state){
		.bar = fn->bar_size ? (u32)PCI_WINDOW + ((u32)fn->slot << 20) : 0,
		.interrupt_line = fn->bar_size ? INTX_IRQ + fn->slot % 2 : 0,
	};
	for (unsigned v = 0; v < PCI_MSIX_VECTORS; v++)
		fn->s->msix[MSIX_WORDS * v + MSIX_CONTROL] = MSIX_MASKED;
	pci_update_lines(fn);
}

int pci_fn_post_load(const struct pci_fn *fn)
{
	const struct pci_fn_state *s = fn->s;
	bool bad = (fn->bar_size ? s->bar & (fn->bar_size - 1) : s->bar) || (s->command & ~COMMAND_WRITABLE) ||
		   (s->msix_enable & ~(MSIX_ENABLE | MSIX_MASK_ALL)) || (s->msix_enable && !fn->msix_vectors) ||
		   s->msix_pending >> fn->msix_vectors || s->intx > 1 || (s->intx && !fn->bar_size);

	for (unsigned v = 0; v < PCI_MSIX_VECTORS; v++)
		bad |= (s->msix[MSIX_WORDS * v + MSIX_CONTROL] & ~MSIX_MASKED) || (s->msix[MSIX_WORDS * v + MSIX_ADDRESS] & 3);
	return bad ? -E_INVAL : 0;
}

/* --- the bridge --- */

static int pci_init(struct vdev *dev)
{
	struct pci *p = pci_of(dev);
	int r;

	p->fn = (struct pci_fn){ .dev = dev, .s = &p->s.bridge, .vendor = BRIDGE_VENDOR, .device = BRIDGE_DEVICE,
				 .class_code = CLASS_HOST_BRIDGE };
	r = bus_add_pio(dev->vm, dev, CONFIG_PORT, 4, 4, pci_address_io);
	if (!r)
		r = bus_add_pio(dev->vm, dev, DATA_PORT, 4, 4, pci_data_io);
	if (!r)
		r = bus_add_mmio(dev->vm, dev, gpa(PCI_WINDOW), PCI_WINDOW_END - PCI_WINDOW, 8, pci_mmio);
	return r ? r : pci_add(&p->fn, 0);
}

static void pci_reset(struct vdev *dev)
{
	struct pci *p = pci_of(dev);

	p->s = (struct pci_state){ 0 };
	pci_fn_reset(&p->fn);
}

static void pci_destroy(struct vdev *dev)
{
	pci_remove(&pci_of(dev)->fn);
}

static int pci_post_load(void *owner, struct error *e)
{
	struct pci *p = pci_of(owner);

	return p->s.address & ~(u64)ADDRESS_WRITABLE ? -E_INVAL : pci_fn_post_load(&p->fn);
}

static const struct mig_field pci_fields[] = {
	PCI_FN_FIELDS(struct pci_state, bridge, 1),
	MIG_U64(PCI_FN_FIELD_COUNT + 1, struct pci_state, address, 1),
};

const struct vdev_type pci_type = {
	.mig = {
		.name = "pci", .version = 1, .min_version = 1, .phase = MIG_PHASE_DEVICE,
		MIG_STATE(struct pci_state, pci_fields), .post_load = pci_post_load,
	},
	.size = sizeof(struct pci), .state_offset = offsetof(struct pci, s),
	.init = pci_init, .reset = pci_reset, .destroy = pci_destroy,
};
VDEV_REGISTER(pci_type);
