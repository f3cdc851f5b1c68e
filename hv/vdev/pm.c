/* SPDX-License-Identifier: MIT */
/* ACPI fixed hardware (ACPI "ACPI Hardware Specification"): PM1a event and control blocks, 32-bit PM timer,
 * fixed power button; and the reset control register CF9h. The machine is always in ACPI mode. */
#include "hv/vdev/devices.h"
#include "hv/lib/clock.h"

#define PM_HZ 3579545u
#define PM_LEN 12
#define PM1_STS 0
#define PM1_EN 2
#define PM1_CNT 4
#define PM_TMR 8

#define STS_TMR 0x0001
#define STS_PWRBTN 0x0100
#define STS_WRITABLE 0x8731 /* one clears: TMR, BM, GBL, PWRBTN, SLPBTN, RTC, WAK */
#define EN_WRITABLE 0x0721
#define SCI_EVENTS (STS_TMR | 0x0020 | STS_PWRBTN | 0x0200 | 0x0400)
#define CNT_SCI_EN 0x0001
#define CNT_WRITABLE 0x1c02 /* SLP_TYP, BM_RLD */
#define CNT_SLP_EN 0x2000
#define CNT_SLP_TYP(v) ((v) >> 10 & 7)
#define SLP_TYP_S5 5        /* as \_S5 in the DSDT says */
#define RESET_CPU 0x04
#define RESET_WRITABLE 0x0e

struct pm_state {
	u64 seen_tick;  /* timer value up to which TMR_STS is worked out */
	u16 sts, en, cnt;
	u16 reset_control;
};

struct pm { struct vdev dev; struct pm_state s; };

static struct pm *pm_of(struct vdev *dev)
{
	return container_of(dev, struct pm, dev);
}

static u64 pm_tick(const struct pm *p)
{
	return muldiv64(vm_tsc(p->dev.vm), PM_HZ, vm_tsc_hz(p->dev.vm));
}

static void pm_arm(struct pm *p)
{
	bool wanted = (p->s.en & STS_TMR) && !(p->s.sts & STS_TMR);

	vdev_arm(&p->dev, wanted ? muldiv64(((p->s.seen_tick >> 31) + 1) << 31, vm_tsc_hz(p->dev.vm), PM_HZ) + 1 : VDEV_NEVER);
}

/* TMR_STS tells that bit 31 of the timer has changed. */
static void pm_update(struct pm *p)
{
	u64 tick = pm_tick(p);

	if (tick >> 31 != p->s.seen_tick >> 31)
		p->s.sts |= STS_TMR;
	p->s.seen_tick = tick;
	vm_irq_line(p->dev.vm, PM_SCI_IRQ, p->s.sts & p->s.en & SCI_EVENTS);
	pm_arm(p);
}

bool pm_power_button(struct vdev *dev)
{
	struct pm *p = pm_of(dev);

	if (!(p->s.en & STS_PWRBTN))
		return false;
	p->s.sts |= STS_PWRBTN;
	pm_update(p);
	return true;
}

static void pm_write_control(struct pm *p, u16 val)
{
	p->s.cnt = (val & CNT_WRITABLE) | CNT_SCI_EN;
	if ((val & CNT_SLP_EN) && CNT_SLP_TYP(val) == SLP_TYP_S5)
		vm_request_poweroff(p->dev.vm, "ACPI power off");
}

static void pm_read(struct pm *p, unsigned off, unsigned size, u64 *val)
{
	u32 image[PM_LEN / 4 + 1] = { p->s.sts | (u32)p->s.en << 16, p->s.cnt, (u32)pm_tick(p), 0 };
	u64 both = image[off / 4] | (u64)image[off / 4 + 1] << 32;

	*val = both >> (off % 4 * 8) & (~0ull >> (64 - 8 * size));
}

static void pm_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	struct pm *p = pm_of(dev);
	unsigned off = (unsigned)addr - PM_BASE;
	u16 cnt = p->s.cnt;
	bool control = false;

	if (off < PM_TMR) /* kernels read the timer often */
		pm_update(p);
	if (!write) {
		pm_read(p, off, size, val);
		return;
	}
	for (unsigned i = 0; i < size; i++) { /* registers may be written in any pieces */
		unsigned reg = (off + i) & ~1u, shift = (off + i) % 2 * 8;
		u16 mask = (u16)(0xff << shift), v = (u16)((*val >> (8 * i) & 0xff) << shift);

		if (reg == PM1_STS) {
			p->s.sts &= ~(v & STS_WRITABLE);
		} else if (reg == PM1_EN) {
			p->s.en = ((p->s.en & ~mask) | v) & EN_WRITABLE;
		} else if (reg == PM1_CNT) {
			cnt = (cnt & ~mask) | v;
			control = true;
		}
	}
	if (control)
		pm_write_control(p, cnt);
	pm_update(p);
}

void pm_reset_control(struct vdev *dev, bool write, u64 *val)
{
	struct pm *p = pm_of(dev);

	if (!write) {
		*val = p->s.reset_control;
		return;
	}
	if (*val & RESET_CPU)
		vm_request_reset(dev->vm, "reset control register (CF9h)");
	p->s.reset_control = *val & RESET_WRITABLE & ~RESET_CPU; /* the reset clears it again */
}

static void pm_timer(struct vdev *dev)
{
	pm_update(pm_of(dev));
}

static int pm_init(struct vdev *dev)
{
	return bus_add_pio(dev->vm, dev, PM_BASE, PM_LEN, 4, pm_io);
}

static void pm_reset(struct vdev *dev)
{
	struct pm *p = pm_of(dev);

	p->s = (struct pm_state){ .seen_tick = pm_tick(p), .cnt = CNT_SCI_EN };
}

static int pm_post_load(void *owner, struct error *e)
{
	struct pm *p = pm_of(owner);
	const struct pm_state *s = &p->s;

	if (s->seen_tick > pm_tick(p) || (s->sts & ~STS_WRITABLE) || (s->en & ~EN_WRITABLE) ||
	    (s->cnt & ~CNT_WRITABLE) != CNT_SCI_EN || (s->reset_control & ~(RESET_WRITABLE & ~RESET_CPU)))
		return -E_INVAL;
	pm_arm(p); /* the line itself is part of PIC and IO-APIC */
	return 0;
}

static const struct mig_field pm_fields[] = {
	MIG_U64(1, struct pm_state, seen_tick, 1),
	MIG_U16(2, struct pm_state, sts, 1),
	MIG_U16(3, struct pm_state, en, 1),
	MIG_U16(4, struct pm_state, cnt, 1),
	MIG_U16(5, struct pm_state, reset_control, 1),
};

const struct vdev_type pm_type = {
	.mig = {
		.name = "pm", .version = 1, .min_version = 1, .phase = MIG_PHASE_TIMER,
		MIG_STATE(struct pm_state, pm_fields), .post_load = pm_post_load,
	},
	.size = sizeof(struct pm), .state_offset = offsetof(struct pm, s),
	.init = pm_init, .reset = pm_reset, .timer = pm_timer,
};
VDEV_REGISTER(pm_type);
