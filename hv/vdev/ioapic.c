/* SPDX-License-Identifier: MIT */
/* I/O APIC: 24 pins at FEC00000h, version 20h (with EOI register). */
#include "hv/vdev/devices.h"

#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_PINS 24
#define IOAPIC_VERSION 0x20
#define REG_SELECT 0x00
#define REG_WINDOW 0x10
#define REG_EOI 0x40

/* Redirection table entry */
#define RTE_MODE(r) (((r) >> 8) & 7)
#define RTE_LOGICAL BIT(11)
#define RTE_REMOTE_IRR BIT(14)
#define RTE_LEVEL BIT(15)
#define RTE_MASKED BIT(16)
#define RTE_DEST(r) ((u32)((r) >> 56))
#define RTE_WRITABLE (0xff00000000000000ull | 0x1afffull) /* all but delivery status and remote IRR */

struct ioapic_state {
	u64 redir[IOAPIC_PINS];
	u64 lines;  /* pins asserted now (after polarity) */
	u32 id;     /* register 0 */
	u32 select; /* IOREGSEL */
};

struct ioapic { struct vdev dev; struct ioapic_state s; };

static struct ioapic *ioapic_of(struct vdev *dev)
{
	return container_of(dev, struct ioapic, dev);
}

static void ioapic_send(struct ioapic *io, unsigned pin)
{
	u64 r = io->s.redir[pin];
	unsigned mode = RTE_MODE(r);
	bool level = (r & RTE_LEVEL) && mode <= 1; /* the other modes are edge whatever the entry says */
	u32 dest = RTE_DEST(r);

	if (level)
		io->s.redir[pin] |= RTE_REMOTE_IRR;
	if (dest == 0xff && !(r & RTE_LOGICAL))
		dest = ~0u; /* broadcast, in x2APIC's width too */
	lapic_deliver(io->dev.vm, dest, r & RTE_LOGICAL, (u8)mode, (u8)r, level);
}

/* A level pin sends while asserted and not yet accepted. */
static void ioapic_service(struct ioapic *io, unsigned pin)
{
	u64 r = io->s.redir[pin];

	if ((io->s.lines & BIT(pin)) && (r & RTE_LEVEL) && !(r & (RTE_MASKED | RTE_REMOTE_IRR)))
		ioapic_send(io, pin);
}

void ioapic_line(struct vdev *dev, unsigned pin, bool level)
{
	struct ioapic *io = ioapic_of(dev);
	u64 bit = BIT(pin & 31);
	bool was;

	if (pin >= IOAPIC_PINS)
		return;
	was = io->s.lines & bit;
	io->s.lines = level ? io->s.lines | bit : io->s.lines & ~bit;
	if (!level)
		return;
	if (io->s.redir[pin] & RTE_LEVEL)
		ioapic_service(io, pin);
	else if (!was && !(io->s.redir[pin] & RTE_MASKED)) /* an edge on a masked pin is lost, as in the 82093AA */
		ioapic_send(io, pin);
}

static void ioapic_eoi_one(struct ioapic *io, u8 vector)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		u64 r = io->s.redir[pin];

		if ((u8)r != vector || !(r & RTE_REMOTE_IRR))
			continue;
		io->s.redir[pin] &= ~RTE_REMOTE_IRR;
		ioapic_service(io, pin);
	}
}

void ioapic_eoi(struct vm *vm, u8 vector)
{
	struct vdev *dev = vm_vdev(vm, &ioapic_type, 0);

	if (dev)
		ioapic_eoi_one(ioapic_of(dev), vector);
}

static u32 ioapic_read(const struct ioapic_state *s)
{
	u32 i = s->select;

	if (i == 0)
		return s->id;
	if (i == 1)
		return IOAPIC_VERSION | (IOAPIC_PINS - 1) << 16;
	if (i == 2)
		return s->id; /* arbitration ID follows the ID */
	if (i >= 0x10 && i < 0x10 + 2 * IOAPIC_PINS)
		return (u32)(s->redir[(i - 0x10) / 2] >> (i & 1 ? 32 : 0));
	return 0;
}

static void ioapic_write(struct ioapic *io, u32 val)
{
	u32 i = io->s.select;
	unsigned pin = (i - 0x10) / 2;
	u64 r;

	if (i == 0)
		io->s.id = val & 0x0f000000;
	if (i < 0x10 || pin >= IOAPIC_PINS)
		return;
	r = io->s.redir[pin];
	r = i & 1 ? (r & 0xffffffff) | (u64)val << 32 : (r & ~0xffffffffull) | val;
	r = (r & RTE_WRITABLE) | (io->s.redir[pin] & RTE_REMOTE_IRR);
	if (!(r & RTE_LEVEL))
		r &= ~RTE_REMOTE_IRR; /* Linux clears a stuck bit by switching to edge and back */
	io->s.redir[pin] = r;
	ioapic_service(io, pin);
}

static void ioapic_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	struct ioapic *io = ioapic_of(dev);
	u64 reg = addr - IOAPIC_BASE;

	if (!write)
		*val = reg == REG_SELECT ? io->s.select : reg == REG_WINDOW ? ioapic_read(&io->s) : 0;
	else if (reg == REG_SELECT)
		io->s.select = (u8)*val;
	else if (reg == REG_WINDOW)
		ioapic_write(io, (u32)*val);
	else if (reg == REG_EOI)
		ioapic_eoi_one(io, (u8)*val);
}

static int ioapic_init(struct vdev *dev)
{
	return bus_add_mmio(dev->vm, dev, gpa(IOAPIC_BASE), PAGE_SIZE, 4, ioapic_io);
}

static void ioapic_reset(struct vdev *dev)
{
	struct ioapic *io = ioapic_of(dev);

	io->s = (struct ioapic_state){ 0 };
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->s.redir[pin] = RTE_MASKED;
}

static int ioapic_post_load(void *owner, struct error *e)
{
	const struct ioapic_state *s = &ioapic_of(owner)->s;
	bool bad = s->lines >> IOAPIC_PINS || (s->id & ~0x0f000000u) || s->select > 0xff;

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		u64 r = s->redir[pin];

		bad |= (r & ~(RTE_WRITABLE | RTE_REMOTE_IRR)) || ((r & RTE_REMOTE_IRR) && !(r & RTE_LEVEL));
	}
	return bad ? -E_INVAL : 0;
}

static const struct mig_field ioapic_fields[] = {
	MIG_U64S(1, struct ioapic_state, redir, 1),
	MIG_U64(2, struct ioapic_state, lines, 1),
	MIG_U32(3, struct ioapic_state, id, 1),
	MIG_U32(4, struct ioapic_state, select, 1),
};

const struct vdev_type ioapic_type = {
	.mig = {
		.name = "ioapic", .version = 1, .min_version = 1, .phase = MIG_PHASE_IRQCHIP,
		MIG_STATE(struct ioapic_state, ioapic_fields), .post_load = ioapic_post_load,
	},
	.size = sizeof(struct ioapic), .state_offset = offsetof(struct ioapic, s),
	.init = ioapic_init, .reset = ioapic_reset,
};
VDEV_REGISTER(ioapic_type);
