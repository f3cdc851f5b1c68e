/* SPDX-License-Identifier: MIT */
/* MC146818 real-time clock and 128 bytes of CMOS RAM at ports 70h/71h, IRQ 8. The time is the guest's clock
 * plus an offset; flags are worked out when somebody looks, timers run only for enabled interrupts. */
#include "hv/vdev/devices.h"
#include "hv/lib/clock.h"
#include "hv/lib/wall.h"

#define RTC_IRQ 8
#define CMOS_BYTES 128

enum { RTC_SECONDS, RTC_SECONDS_ALARM, RTC_MINUTES, RTC_MINUTES_ALARM, RTC_HOURS, RTC_HOURS_ALARM, RTC_WEEKDAY,
       RTC_DAY, RTC_MONTH, RTC_YEAR, RTC_A, RTC_B, RTC_C, RTC_D, RTC_CENTURY = 0x32 };

#define A_UIP 0x80
#define A_DIVIDER 0x70
#define A_DIVIDER_RUN 0x20 /* 32,768 Hz time base, running */
#define B_SET 0x80
#define B_PIE 0x40
#define B_AIE 0x20
#define B_UIE 0x10
#define B_BINARY 0x04
#define B_24H 0x02
#define C_IRQF 0x80
#define C_PF 0x40
#define C_AF 0x20
#define C_UF 0x10
#define D_VALID 0x80
#define HOUR_PM 0x80
#define ALARM_ANY 0xc0

#define SECOND_US 1000000ull
#define UIP_US (244 + 1984) /* update cycle, and how long before it UIP warns */
#define DAY_SECONDS 86400ull
#define YEAR_10000 315569520000ull

struct rtc_state {
	u64 offset_us; /* RTC time (us since year 0) minus guest time; wraps */
	u64 seen_us;   /* RTC time up to which update and alarm flags are worked out */
	u64 seen_tick; /* the same for the periodic flag, in 1/32768 s of guest time */
	u64 select;    /* port 70h */
	u8 cmos[CMOS_BYTES]; /* time bytes are current only while the clock is stopped */
};

struct rtc { struct vdev dev; struct rtc_state s; };

static struct rtc *rtc_of(struct vdev *dev)
{
	return container_of(dev, struct rtc, dev);
}

static u64 rtc_guest_us(const struct rtc *r)
{
	return muldiv64(vm_tsc(r->dev.vm), SECOND_US, vm_tsc_hz(r->dev.vm));
}

static u64 rtc_now_us(const struct rtc *r)
{
	return r->s.offset_us + rtc_guest_us(r);
}

static u64 rtc_now_tick(const struct rtc *r)
{
	return muldiv64(vm_tsc(r->dev.vm), 32768, vm_tsc_hz(r->dev.vm));
}

static bool rtc_in_reset(const struct rtc *r)
{
	return (r->s.cmos[RTC_A] & A_DIVIDER) != A_DIVIDER_RUN;
}

static bool rtc_stopped(const struct rtc *r)
{
	return rtc_in_reset(r) || (r->s.cmos[RTC_B] & B_SET);
}

/* --- Calendar --- */

static u8 rtc_encode(const struct rtc *r, u64 v)
{
	return (u8)(r->s.cmos[RTC_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

/* A register's value within [min, max], whatever the guest wrote. */
static u64 rtc_decode(const struct rtc *r, u8 v, u64 min, u64 max)
{
	u64 n = r->s.cmos[RTC_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);

	return MIN(MAX(n, min), max);
}

static u8 rtc_encode_hour(const struct rtc *r, u64 h)
{
	if (r->s.cmos[RTC_B] & B_24H)
		return rtc_encode(r, h);
	return rtc_encode(r, h % 12 ? h % 12 : 12) | (h >= 12 ? HOUR_PM : 0);
}

static u64 rtc_decode_hour(const struct rtc *r, u8 v)
{
	if (r->s.cmos[RTC_B] & B_24H)
		return rtc_decode(r, v, 0, 23);
	return rtc_decode(r, v & ~HOUR_PM, 1, 12) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* Time -> registers. */
static void rtc_to_registers(struct rtc *r, u64 us)
{
	u64 seconds = us / SECOND_US, day = seconds / DAY_SECONDS, tod = seconds % DAY_SECONDS, y, m;
	u8 *c = r->s.cmos;

	y = MIN(day / 365, 9999ul);
	while (wall_days(y, 1, 1) > day)
		y -= MAX((wall_days(y, 1, 1) - day) / 366, 1ul);
	m = 12;
	while (wall_days(y, m, 1) > day)
		m--;
	c[RTC_SECONDS] = rtc_encode(r, tod % 60);
	c[RTC_MINUTES] = rtc_encode(r, tod / 60 % 60);
	c[RTC_HOURS] = rtc_encode_hour(r, tod / 3600);
	c[RTC_WEEKDAY] = rtc_encode(r, (day + 6) % 7 + 1); /* 0000-01-01 was a Saturday; Sunday is 1 */
	c[RTC_DAY] = rtc_encode(r, day - wall_days(y, m, 1) + 1);
	c[RTC_MONTH] = rtc_encode(r, m);
	c[RTC_YEAR] = rtc_encode(r, y % 100);
	c[RTC_CENTURY] = (u8)(y / 1000 << 4 | y / 100 % 10);
}

/* Registers -> seconds since year 0. */
static u64 rtc_from_registers(const struct rtc *r)
{
	const u8 *c = r->s.cmos;
	u64 century = MIN((c[RTC_CENTURY] >> 4) * 10u + (c[RTC_CENTURY] & 15), 99u);
	u64 year = century * 100 + rtc_decode(r, c[RTC_YEAR], 0, 99);

	return wall_days(year, rtc_decode(r, c[RTC_MONTH], 1, 12), rtc_decode(r, c[RTC_DAY], 1, 31)) * DAY_SECONDS +
	       rtc_decode_hour(r, c[RTC_HOURS]) * 3600 + rtc_decode(r, c[RTC_MINUTES], 0, 59) * 60 +
	       rtc_decode(r, c[RTC_SECONDS], 0, 59);
}

/* Sets the running clock to the registers; us: how far into the second it is. */
static void rtc_set_time(struct rtc *r, u64 us)
{
	r->s.offset_us = rtc_from_registers(r) * SECOND_US + us - rtc_guest_us(r);
	r->s.seen_us = rtc_now_us(r);
}

/* --- Interrupts --- */

/* First second after `after` that matches the alarm registers; VDEV_NEVER: none. */
static u64 rtc_next_alarm(const struct rtc *r, u64 after)
{
	const u8 *c = r->s.cmos;
	u64 t = after + 1, end = t + DAY_SECONDS;

	/* What no clock ever shows would be searched for all day. */
	if ((c[RTC_MINUTES_ALARM] < ALARM_ANY && rtc_encode(r, rtc_decode(r, c[RTC_MINUTES_ALARM], 0, 59)) !=
	     c[RTC_MINUTES_ALARM]) ||
	    (c[RTC_SECONDS_ALARM] < ALARM_ANY && rtc_encode(r, rtc_decode(r, c[RTC_SECONDS_ALARM], 0, 59)) !=
	     c[RTC_SECONDS_ALARM]))
		return VDEV_NEVER;
	while (t <= end) {
		u64 tod = t % DAY_SECONDS;

		if (c[RTC_HOURS_ALARM] < ALARM_ANY && rtc_encode_hour(r, tod / 3600) != c[RTC_HOURS_ALARM])
			t += 3600 - tod % 3600;
		else if (c[RTC_MINUTES_ALARM] < ALARM_ANY && rtc_encode(r, tod / 60 % 60) != c[RTC_MINUTES_ALARM])
			t += 60 - tod % 60;
		else if (c[RTC_SECONDS_ALARM] < ALARM_ANY && rtc_encode(r, tod % 60) != c[RTC_SECONDS_ALARM])
			t++;
		else
			return t;
	}
	return VDEV_NEVER;
}

/* Periodic interrupt's period in 1/32768 s; 0: off. */
static u64 rtc_period(const struct rtc *r)
{
	unsigned rate = r->s.cmos[RTC_A] & 15;

	if (!rate || rtc_in_reset(r))
		return 0;
	return BIT(rate <= 2 ? rate + 6 : rate - 1);
}

/* Sets the flags that time has earned, and the interrupt line. */
static void rtc_update(struct rtc *r)
{
	u8 *c = r->s.cmos;
	u64 now = rtc_now_us(r), tick = rtc_now_tick(r), period = rtc_period(r);

	if (!rtc_stopped(r)) {
		if (now / SECOND_US > r->s.seen_us / SECOND_US)
			c[RTC_C] |= C_UF;
		if (rtc_next_alarm(r, r->s.seen_us / SECOND_US) <= now / SECOND_US)
			c[RTC_C] |= C_AF;
	}
	if (period && tick / period > r->s.seen_tick / period)
		c[RTC_C] |= C_PF;
	r->s.seen_us = now;
	r->s.seen_tick = tick;
	if (c[RTC_C] & c[RTC_B] & (C_PF | C_AF | C_UF)) /* enables and flags have the same bits */
		c[RTC_C] |= C_IRQF;
	else
		c[RTC_C] &= ~C_IRQF;
	vm_irq_line(r->dev.vm, RTC_IRQ, c[RTC_C] & C_IRQF);
}

static void rtc_arm(struct rtc *r)
{
	u64 hz = vm_tsc_hz(r->dev.vm), at = VDEV_NEVER, us = VDEV_NEVER, period = rtc_period(r), second;
	u8 b = r->s.cmos[RTC_B];

	if (!(r->s.cmos[RTC_C] & C_IRQF)) { /* else the guest reads C first, and that comes here again */
		if ((b & B_PIE) && period)
			at = muldiv64((r->s.seen_tick / period + 1) * period, hz, 32768) + 1;
		second = r->s.seen_us / SECOND_US;
		if (!rtc_stopped(r) && (b & B_UIE))
			us = (second + 1) * SECOND_US;
		else if (!rtc_stopped(r) && (b & B_AIE) && rtc_next_alarm(r, second) != VDEV_NEVER)
			us = rtc_next_alarm(r, second) * SECOND_US;
		if (us != VDEV_NEVER)
			at = MIN(at, muldiv64(us - r->s.offset_us, hz, SECOND_US) + 1);
	}
	vdev_arm(&r->dev, at);
}

static void rtc_timer(struct vdev *dev)
{
	struct rtc *r = rtc_of(dev);

	rtc_update(r);
	rtc_arm(r);
}

/* --- Registers --- */

static bool rtc_is_time(u8 reg)
{
	return (reg <= RTC_YEAR && (reg == RTC_SECONDS || reg == RTC_MINUTES || reg == RTC_HOURS || reg >= RTC_WEEKDAY)) ||
	       reg == RTC_CENTURY;
}

/* A or B is written: the clock may stop (registers hold) or start (from the registers). */
static void rtc_control(struct rtc *r, u8 reg, u8 val)
{
	bool stopped = rtc_stopped(r), reset = rtc_in_reset(r);
	u64 us = rtc_now_us(r);

	if (!stopped)
		rtc_to_registers(r, us); /* in the format that was valid so far */
	r->s.cmos[reg] = val;
	if (!stopped || rtc_stopped(r))
		return;
	/* Out of divider reset the first update comes after half a second; SET alone leaves the divider running. */
	rtc_set_time(r, reset ? SECOND_US / 2 : us % SECOND_US);
}

static void rtc_write(struct rtc *r, u8 val)
{
	u8 reg = (u8)r->s.select;

	rtc_update(r);
	if (reg == RTC_A) {
		rtc_control(r, reg, val & ~A_UIP);
	} else if (reg == RTC_B) {
		rtc_control(r, reg, val & B_SET ? val & ~B_UIE : val); /* SET clears UIE */
	} else if (rtc_is_time(reg) && !rtc_stopped(r)) {
		rtc_to_registers(r, rtc_now_us(r));
		r->s.cmos[reg] = val;
		rtc_set_time(r, rtc_now_us(r) % SECOND_US);
	} else if (reg != RTC_C && reg != RTC_D) {
		r->s.cmos[reg] = val;
	}
	rtc_update(r);
	rtc_arm(r);
}

static u8 rtc_read(struct rtc *r)
{
	u8 reg = (u8)r->s.select, val;
	u64 us = rtc_now_us(r) % SECOND_US;

	if (rtc_is_time(reg) && !rtc_stopped(r))
		rtc_to_registers(r, rtc_now_us(r));
	val = r->s.cmos[reg];
	if (reg == RTC_A && !rtc_stopped(r) && us >= SECOND_US - UIP_US)
		val |= A_UIP;
	if (reg == RTC_C) {
		rtc_update(r);
		val = r->s.cmos[RTC_C];
		r->s.cmos[RTC_C] = 0;
		rtc_update(r);
		rtc_arm(r);
	}
	return val;
}

static void rtc_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	struct rtc *r = rtc_of(dev);

	if (addr & 1) {
		if (write)
			rtc_write(r, (u8)*val);
		else
			*val = rtc_read(r);
	} else if (write) {
		r->s.select = *val & (CMOS_BYTES - 1); /* bit 7 would mask NMI */
	}
}

/* --- Frame --- */

static int rtc_init(struct vdev *dev)
{
	struct rtc *r = rtc_of(dev);

	r->s.offset_us = (WALL_EPOCH_DAYS * DAY_SECONDS + vm_boot_wall_seconds(dev->vm)) * SECOND_US;
	r->s.cmos[RTC_A] = A_DIVIDER_RUN | 6; /* 1024 Hz */
	r->s.cmos[RTC_B] = B_24H;
	r->s.cmos[RTC_D] = D_VALID;
	return bus_add_pio(dev->vm, dev, 0x70, 2, 1, rtc_io);
}

/* Time and RAM have a battery. */
static void rtc_reset(struct vdev *dev)
{
	struct rtc *r = rtc_of(dev);

	r->s.cmos[RTC_B] &= ~(B_PIE | B_AIE | B_UIE);
	r->s.cmos[RTC_C] = 0;
	r->s.select = 0;
	r->s.seen_us = rtc_now_us(r);
	r->s.seen_tick = rtc_now_tick(r);
}

static int rtc_post_load(void *owner, struct error *e)
{
	struct rtc *r = rtc_of(owner);
	const struct rtc_state *s = &r->s;
	u64 now = rtc_now_us(r);

	if (now >= 2 * YEAR_10000 * SECOND_US || s->seen_us > now || s->seen_us - s->offset_us > rtc_guest_us(r) ||
	    s->seen_tick > rtc_now_tick(r) || s->select >= CMOS_BYTES || (s->cmos[RTC_A] & A_UIP) ||
	    (s->cmos[RTC_C] & 0x0f) || s->cmos[RTC_D] != D_VALID)
		return -E_INVAL;
	rtc_arm(r);
	return 0;
}

static const struct mig_field rtc_fields[] = {
	MIG_U64(1, struct rtc_state, offset_us, 1),
	MIG_U64(2, struct rtc_state, seen_us, 1),
	MIG_U64(3, struct rtc_state, seen_tick, 1),
	MIG_U64(4, struct rtc_state, select, 1),
	MIG_U8S(5, struct rtc_state, cmos, 1),
};

const struct vdev_type rtc_type = {
	.mig = {
		.name = "rtc", .version = 1, .min_version = 1, .phase = MIG_PHASE_TIMER,
		MIG_STATE(struct rtc_state, rtc_fields), .post_load = rtc_post_load,
	},
	.size = sizeof(struct rtc), .state_offset = offsetof(struct rtc, s),
	.init = rtc_init, .reset = rtc_reset, .timer = rtc_timer,
};
VDEV_REGISTER(rtc_type);
