/* SPDX-License-Identifier: MIT */
/* The 8259A pair of a PC: master at 20h, slave at A0h on its IR2, edge/level control at 4D0h/4D1h. */
#include "hv/vdev/devices.h"

struct pic_state { /* index 0: master, 1: slave */
	u8 lines[2];          /* inputs as they are now */
	u8 irr[2], isr[2], imr[2], elcr[2];
	u8 vector[2];         /* ICW2 */
	u8 lowest[2];         /* input of lowest priority; rotation moves it */
	u8 icw[2];            /* next initialization word: 2, 3, 4; 0: operating */
	u8 icw4[2], single[2];/* ICW1: ICW4 will come; no ICW3 */
	u8 read_isr[2], poll[2], special_mask[2];
	u8 auto_eoi[2], rotate_auto[2], special_nested[2];
};

struct pic { struct vdev dev; struct pic_state s; };

#define ELCR_MASTER 0xf8 /* timer, keyboard and cascade are always edge */
#define ELCR_SLAVE 0xde  /* so are RTC and coprocessor */

static struct pic *pic_of(struct vdev *dev)
{
	return container_of(dev, struct pic, dev);
}

/* Rank 0 is the most urgent; 8 if no bit is set. */
static unsigned pic_rank(const struct pic_state *s, unsigned c, u8 bits)
{
	for (unsigned r = 0; r < 8; r++)
		if (bits & BIT((s->lowest[c] + 1 + r) & 7))
			return r;
	return 8;
}

static unsigned pic_ranked(const struct pic_state *s, unsigned c, unsigned rank)
{
	return (s->lowest[c] + 1 + rank) & 7;
}

static int pic_request(const struct pic_state *s, unsigned c);

static u8 pic_irr(const struct pic_state *s, unsigned c)
{
	/* IR2 of the master is the slave's INTR output, never a line of its own. */
	if (c == 0)
		return (s->irr[0] & ~4) | (pic_request(s, 1) >= 0 ? 4 : 0);
	return s->irr[1];
}

/* Input that makes chip c raise INTR, or -1. */
static int pic_request(const struct pic_state *s, unsigned c)
{
	u8 busy = s->isr[c];
	unsigned rank = pic_rank(s, c, pic_irr(s, c) & ~s->imr[c]);

	if (s->special_mask[c])
		busy &= ~s->imr[c];
	if (s->special_nested[c] && c == 0)
		busy &= ~4;
	if (rank == 8 || rank >= pic_rank(s, c, busy))
		return -1;
	return (int)pic_ranked(s, c, rank);
}

static void pic_changed(struct pic *p)
{
	struct vcpu *v = vm_vcpu(p->dev.vm, 0);

	if (v && pic_request(&p->s, 0) >= 0)
		vcpu_irq_check(v);
}

void pic_line(struct vdev *dev, unsigned irq, bool level)
{
	struct pic *p = pic_of(dev);
	unsigned c = (irq >> 3) & 1;
	u8 bit = (u8)BIT(irq & 7), was = p->s.lines[c] & bit;

	if (irq > 15 || irq == 2)
		return;
	if (level)
		p->s.lines[c] |= bit;
	else
		p->s.lines[c] &= ~bit;
	if (p->s.elcr[c] & bit)
		p->s.irr[c] = (p->s.irr[c] & ~bit) | (level ? bit : 0);
	else if (level && !was)
		p->s.irr[c] |= bit;
	pic_changed(p);
}

bool pic_intr(struct vdev *dev)
{
	return pic_request(&pic_of(dev)->s, 0) >= 0;
}

/* INTA for one chip: the input taken; 7 without an in-service bit if the request has gone (spurious). */
static unsigned pic_take(struct pic_state *s, unsigned c)
{
	int irq = pic_request(s, c);
	u8 bit;

	if (irq < 0)
		return 7;
	bit = (u8)BIT(irq);
	if (!(s->elcr[c] & bit))
		s->irr[c] &= ~bit;
	if (!s->auto_eoi[c])
		s->isr[c] |= bit;
	else if (s->rotate_auto[c])
		s->lowest[c] = (u8)irq;
	return (unsigned)irq;
}

u8 pic_ack(struct vdev *dev)
{
	struct pic *p = pic_of(dev);
	bool slave = pic_request(&p->s, 0) == 2;
	unsigned inner = slave ? pic_take(&p->s, 1) : 0; /* before the master's: its IR2 is derived from this */
	unsigned irq;

	if (slave) {
		if (!p->s.auto_eoi[0])
			p->s.isr[0] |= 4;
		else if (p->s.rotate_auto[0])
			p->s.lowest[0] = 2;
		irq = p->s.vector[1] | inner;
	} else {
		irq = p->s.vector[0] | pic_take(&p->s, 0);
	}
	pic_changed(p);
	return (u8)irq;
}

static void pic_ocw2(struct pic_state *s, unsigned c, u8 val)
{
	unsigned irq = val & 7, rank;
	bool rotate = val & 0x80;

	switch (val >> 5) {
	case 0: case 4: /* rotate in automatic EOI mode: clear, set */
		s->rotate_auto[c] = rotate;
		break;
	case 1: case 5: /* non-specific EOI; inputs masked in special mask mode are left alone */
		rank = pic_rank(s, c, s->special_mask[c] ? s->isr[c] & ~s->imr[c] : s->isr[c]);
		if (rank == 8)
			break;
		irq = pic_ranked(s, c, rank);
		/* fallthrough */
	case 3: case 7: /* specific EOI */
		s->isr[c] &= ~BIT(irq);
		if (rotate)
			s->lowest[c] = (u8)irq;
		break;
	case 6: /* set priority */
		s->lowest[c] = (u8)irq;
		break;
	}
}

static void pic_command(struct pic_state *s, unsigned c, u8 val)
{
	if (val & 0x10) { /* ICW1 */
		s->icw[c] = 2;
		s->icw4[c] = val & 1;
		s->single[c] = (val >> 1) & 1;
		s->imr[c] = s->isr[c] = 0;
		s->irr[c] &= s->elcr[c]; /* edges must come anew */
		s->lowest[c] = 7;
		s->read_isr[c] = s->poll[c] = s->special_mask[c] = 0;
		s->auto_eoi[c] = s->rotate_auto[c] = s->special_nested[c] = 0;
	} else if (val & 8) { /* OCW3 */
		s->poll[c] = (val >> 2) & 1;
		if (val & 2)
			s->read_isr[c] = val & 1;
		if (val & 0x40)
			s->special_mask[c] = (val >> 5) & 1;
	} else {
		pic_ocw2(s, c, val);
	}
}

static void pic_data(struct pic_state *s, unsigned c, u8 val)
{
	switch (s->icw[c]) {
	case 2:
		s->vector[c] = val & 0xf8;
		s->icw[c] = s->single[c] ? (s->icw4[c] ? 4 : 0) : 3;
		break;
	case 3: /* how the chips are wired is fixed */
		s->icw[c] = s->icw4[c] ? 4 : 0;
		break;
	case 4:
		s->auto_eoi[c] = (val >> 1) & 1;
		s->special_nested[c] = (val >> 4) & 1;
		s->icw[c] = 0;
		break;
	default:
		s->imr[c] = val;
	}
}

static u8 pic_read(struct pic_state *s, unsigned c, bool data)
{
	if (s->poll[c]) { /* the read is the acknowledge */
		bool any = pic_request(s, c) >= 0;

		s->poll[c] = 0;
		return any ? (u8)(0x80 | pic_take(s, c)) : 0;
	}
	if (data)
		return s->imr[c];
	return s->read_isr[c] ? s->isr[c] : pic_irr(s, c);
}

static void pic_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	struct pic *p = pic_of(dev);
	unsigned c = addr >= 0xa0;

	if (!write)
		*val = pic_read(&p->s, c, addr & 1);
	else if (addr & 1)
		pic_data(&p->s, c, (u8)*val);
	else
		pic_command(&p->s, c, (u8)*val);
	pic_changed(p);
}

static void pic_elcr_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	struct pic *p = pic_of(dev);
	unsigned c = addr & 1;

	if (!write) {
		*val = p->s.elcr[c];
		return;
	}
	p->s.elcr[c] = (u8)*val & (c ? ELCR_SLAVE : ELCR_MASTER);
	p->s.irr[c] = (p->s.irr[c] & ~p->s.elcr[c]) | (p->s.lines[c] & p->s.elcr[c]);
	pic_changed(p);
}

static int pic_init(struct vdev *dev)
{
	int r = bus_add_pio(dev->vm, dev, 0x20, 2, 1, pic_io);

	if (!r)
		r = bus_add_pio(dev->vm, dev, 0xa0, 2, 1, pic_io);
	return r ? r : bus_add_pio(dev->vm, dev, 0x4d0, 2, 1, pic_elcr_io);
}

/* As firmware leaves it: vectors 08h and 70h, all masked, the interrupts of PCI (10 and 11) by level. */
static void pic_reset(struct vdev *dev)
{
	pic_of(dev)->s = (struct pic_state){ .vector = { 0x08, 0x70 }, .imr = { 0xff, 0xff }, .lowest = { 7, 7 },
					     .elcr = { 0, 0x0c } };
}

static int pic_post_load(void *owner, struct error *e)
{
	const struct pic_state *s = &pic_of(owner)->s;

	for (unsigned c = 0; c < 2; c++)
		if (s->lowest[c] > 7 || (s->vector[c] & 7) || s->icw[c] > 4 || s->icw[c] == 1 ||
		    (s->elcr[c] & ~(c ? ELCR_SLAVE : ELCR_MASTER)) ||
		    ((s->irr[c] ^ s->lines[c]) & s->elcr[c]) ||
		    (s->icw4[c] | s->single[c] | s->read_isr[c] | s->poll[c] | s->special_mask[c] |
		     s->auto_eoi[c] | s->rotate_auto[c] | s->special_nested[c]) > 1)
			return -E_INVAL;
	return 0;
}

static const struct mig_field pic_fields[] = {
	MIG_U8S(1, struct pic_state, lines, 1),
	MIG_U8S(2, struct pic_state, irr, 1),
	MIG_U8S(3, struct pic_state, isr, 1),
	MIG_U8S(4, struct pic_state, imr, 1),
	MIG_U8S(5, struct pic_state, elcr, 1),
	MIG_U8S(6, struct pic_state, vector, 1),
	MIG_U8S(7, struct pic_state, lowest, 1),
	MIG_U8S(8, struct pic_state, icw, 1),
	MIG_U8S(9, struct pic_state, icw4, 1),
	MIG_U8S(10, struct pic_state, single, 1),
	MIG_U8S(11, struct pic_state, read_isr, 1),
	MIG_U8S(12, struct pic_state, poll, 1),
	MIG_U8S(13, struct pic_state, special_mask, 1),
	MIG_U8S(14, struct pic_state, auto_eoi, 1),
	MIG_U8S(15, struct pic_state, rotate_auto, 1),
	MIG_U8S(16, struct pic_state, special_nested, 1),
};

const struct vdev_type pic_type = {
	.mig = {
		.name = "pic", .version = 1, .min_version = 1, .phase = MIG_PHASE_IRQCHIP,
		MIG_STATE(struct pic_state, pic_fields), .post_load = pic_post_load,
	},
	.size = sizeof(struct pic), .state_offset = offsetof(struct pic, s),
	.init = pic_init, .reset = pic_reset,
};
VDEV_REGISTER(pic_type);
