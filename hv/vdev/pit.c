/* SPDX-License-Identifier: MIT */
/* 8254 timer: channel 0 to IRQ 0, channel 2 gated and read through port 61h. */
#include "hv/vdev/devices.h"
#include "hv/lib/clock.h"

#define PIT_HZ 1193182u
#define PIT_CHANNELS 3
#define PIT_MIN_TICKS (PIT_HZ / 20000) /* least time between interrupts */
#define PORT61_GATE2 0x01
#define PORT61_WRITABLE 0x0f
#define PORT61_REFRESH 0x10
#define PORT61_OUT2 0x20
#define PIT_REFRESH_TICKS 18 /* refresh request toggles every 15 us */
#define STATUS_OUT 0x80
#define STATUS_NULL 0x40

/* Times are in PIT ticks since guest TSC 0, computed from the TSC: nothing adds up, nothing drifts. */
struct pit_state {
	u64 start[PIT_CHANNELS];   /* when the running count was loaded */
	u64 stopped[PIT_CHANNELS]; /* ticks counted when the gate closed */
	u64 irq_tick;              /* next rise of channel 0's output; VDEV_NEVER: none */
	u32 count[PIT_CHANNELS];   /* 1..65536 */
	u16 latch[PIT_CHANNELS], port61;
	u8 mode[PIT_CHANNELS], bcd[PIT_CHANNELS];
	u8 access[PIT_CHANNELS];   /* 1 low byte, 2 high byte, 3 both */
	u8 loaded[PIT_CHANNELS];   /* a count was written since the mode was set */
	u8 started[PIT_CHANNELS];  /* and it runs (modes 1 and 5 wait for the gate) */
	u8 gate[PIT_CHANNELS];
	u8 low[PIT_CHANNELS];      /* first byte of a count written in two */
	u8 write_high[PIT_CHANNELS], read_high[PIT_CHANNELS]; /* which byte comes next */
	u8 latched[PIT_CHANNELS];  /* bytes of latch still to be read */
	u8 status[PIT_CHANNELS], status_latched[PIT_CHANNELS];
};

struct pit { struct vdev dev; struct pit_state s; };

static struct pit *pit_of(struct vdev *dev)
{
	return container_of(dev, struct pit, dev);
}

static u64 pit_now(const struct pit *p)
{
	return muldiv64(vm_tsc(p->dev.vm), PIT_HZ, vm_tsc_hz(p->dev.vm));
}

static bool pit_periodic(const struct pit_state *s, unsigned c)
{
	return s->mode[c] == 2 || s->mode[c] == 3;
}

static u64 pit_elapsed(const struct pit *p, unsigned c)
{
	u64 now = pit_now(p);

	if (!p->s.gate[c] && p->s.mode[c] != 1 && p->s.mode[c] != 5)
		return p->s.stopped[c];
	return now > p->s.start[c] ? now - p->s.start[c] : 0;
}

static bool pit_out(const struct pit *p, unsigned c)
{
	const struct pit_state *s = &p->s;
	u64 d = pit_elapsed(p, c), n = s->count[c];

	if (!s->started[c])
		return s->mode[c] != 0;
	switch (s->mode[c]) {
	case 0: case 1: return d >= n;
	case 2: return !s->gate[c] || d % n != n - 1 || n == 1;
	case 3: return !s->gate[c] || d % n < (n + 1) / 2;
	default: return d != n; /* 4, 5: low for one tick */
	}
}

static u16 pit_to_bcd(u32 v)
{
	return (u16)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12);
}

static u16 pit_counter(const struct pit *p, unsigned c)
{
	const struct pit_state *s = &p->s;
	u64 d = pit_elapsed(p, c), n = s->count[c];
	u32 wrap = s->bcd[c] ? 10000 : 65536, v;

	if (!s->started[c])
		v = (u32)n;
	else if (s->mode[c] == 2)
		v = (u32)(n - d % n);
	else if (s->mode[c] == 3) /* counts by two, twice per period */
		v = (u32)(n - 2 * (d % n) % n) & ~1u;
	else
		v = (u32)((n + wrap - d % wrap) % wrap);
	return s->bcd[c] ? pit_to_bcd(v % 10000) : (u16)v;
}

/* --- IRQ 0 --- */

static void pit_arm(struct pit *p, u64 tick)
{
	p->s.irq_tick = tick;
	/* Rounded up: then pit_now() is there, too. */
	vdev_arm(&p->dev, tick == VDEV_NEVER ? tick : muldiv64(tick, vm_tsc_hz(p->dev.vm), PIT_HZ) + 1);
}

/* Channel 0 was set up anew: its output now, and when it rises next. */
static void pit_schedule(struct pit *p)
{
	const struct pit_state *s = &p->s;

	vm_irq_line(p->dev.vm, 0, pit_out(p, 0));
	if (!s->started[0])
		pit_arm(p, VDEV_NEVER);
	else if (s->mode[0] == 4)
		pit_arm(p, s->start[0] + s->count[0] + 1);
	else
		pit_arm(p, s->start[0] + s->count[0]);
}

static void pit_timer(struct vdev *dev)
{
	struct pit *p = pit_of(dev);
	u64 now = pit_now(p), at = p->s.irq_tick, n = p->s.count[0], from;

	if (now < at) {
		pit_arm(p, at);
		return;
	}
	/* However many periods have gone by, the line can only have one more edge to show. */
	vm_irq_line(dev->vm, 0, false);
	vm_irq_line(dev->vm, 0, true);
	/* A count of a few ticks must not keep this host busy: what falls in the next 50 us is skipped. */
	from = n < PIT_MIN_TICKS ? now + PIT_MIN_TICKS : now;
	pit_arm(p, pit_periodic(&p->s, 0) ? at + ((from - at) / n + 1) * n : VDEV_NEVER);
}

/* --- Registers --- */

static void pit_load(struct pit *p, unsigned c, u16 raw)
{
	struct pit_state *s = &p->s;
	u32 n = raw;

	if (s->bcd[c])
		n = (raw & 15) + (raw >> 4 & 15) * 10 + (raw >> 8 & 15) * 100 + (raw >> 12) * 1000u;
	if (!n)
		n = s->bcd[c] ? 10000 : 65536;
	s->count[c] = n;
	s->loaded[c] = 1;
	if (s->mode[c] == 1 || s->mode[c] == 5)
		return; /* waits for the gate to rise */
	s->start[c] = pit_now(p);
	s->stopped[c] = 0;
	s->started[c] = 1;
	if (c == 0)
		pit_schedule(p);
}

static void pit_write_count(struct pit *p, unsigned c, u8 val)
{
	struct pit_state *s = &p->s;

	if (s->access[c] == 1) {
		pit_load(p, c, val);
	} else if (s->access[c] == 2) {
		pit_load(p, c, (u16)(val << 8));
	} else if (!s->write_high[c]) {
		s->low[c] = val;
		s->write_high[c] = 1;
		if (s->mode[c] == 0) { /* the first byte stops the count */
			s->started[c] = 0;
			if (c == 0)
				pit_schedule(p);
		}
	} else {
		s->write_high[c] = 0;
		pit_load(p, c, (u16)(val << 8 | s->low[c]));
	}
}

static u8 pit_read_count(struct pit *p, unsigned c)
{
	struct pit_state *s = &p->s;
	u16 v;
	bool high;

	if (s->status_latched[c]) {
		s->status_latched[c] = 0;
		return s->status[c];
	}
	v = s->latched[c] ? s->latch[c] : pit_counter(p, c);
	if (s->latched[c])
		s->latched[c]--;
	high = s->access[c] == 2 || (s->access[c] == 3 && s->read_high[c]);
	if (s->access[c] == 3)
		s->read_high[c] ^= 1;
	return (u8)(high ? v >> 8 : v);
}

static void pit_latch_count(struct pit *p, unsigned c)
{
	if (p->s.latched[c])
		return; /* a latched count stays until it is read */
	p->s.latch[c] = pit_counter(p, c);
	p->s.latched[c] = p->s.access[c] == 3 ? 2 : 1;
	p->s.read_high[c] = 0;
}

static void pit_control(struct pit *p, u8 val)
{
	struct pit_state *s = &p->s;
	unsigned c = val >> 6, mode = val >> 1 & 7;

	if (c == 3) { /* read-back */
		for (c = 0; c < PIT_CHANNELS; c++) {
			if (!(val & BIT(c + 1)))
				continue;
			if (!(val & 0x20))
				pit_latch_count(p, c);
			if (!(val & 0x10) && !s->status_latched[c]) {
				s->status[c] = (u8)((pit_out(p, c) ? STATUS_OUT : 0) | (s->loaded[c] ? 0 : STATUS_NULL) |
						    s->access[c] << 4 | s->mode[c] << 1 | s->bcd[c]);
				s->status_latched[c] = 1;
			}
		}
		return;
	}
	if (!(val & 0x30)) {
		pit_latch_count(p, c);
		return;
	}
	s->access[c] = val >> 4 & 3;
	s->mode[c] = (u8)(mode > 5 ? mode - 4 : mode);
	s->bcd[c] = val & 1;
	s->loaded[c] = s->started[c] = 0;
	s->write_high[c] = s->read_high[c] = s->latched[c] = s->status_latched[c] = 0;
	if (c == 0)
		pit_schedule(p);
}

static void pit_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	struct pit *p = pit_of(dev);
	unsigned c = addr & 3;

	if (write && c == 3)
		pit_control(p, (u8)*val);
	else if (write)
		pit_write_count(p, c, (u8)*val);
	else if (c != 3)
		*val = pit_read_count(p, c);
}

static void pit_gate2(struct pit *p, bool gate)
{
	struct pit_state *s = &p->s;
	u8 mode = s->mode[2];

	if (gate == s->gate[2])
		return;
	if (!gate) {
		s->stopped[2] = pit_elapsed(p, 2);
	} else if (s->loaded[2] && (mode == 0 || mode == 4)) {
		s->start[2] = pit_now(p) - MIN(s->stopped[2], pit_now(p)); /* goes on where it stopped */
	} else if (s->loaded[2]) {
		s->start[2] = pit_now(p); /* the rising gate starts a new count */
		s->stopped[2] = 0;
		s->started[2] = 1;
	}
	s->gate[2] = gate;
}

static void pit_port61(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	struct pit *p = pit_of(dev);

	if (write) {
		p->s.port61 = (u8)*val & PORT61_WRITABLE;
		pit_gate2(p, *val & PORT61_GATE2);
		return;
	}
	*val = p->s.port61 | (pit_now(p) / PIT_REFRESH_TICKS & 1 ? PORT61_REFRESH : 0) |
	       (pit_out(p, 2) ? PORT61_OUT2 : 0);
}

/* --- Frame --- */

static int pit_init(struct vdev *dev)
{
	int r = bus_add_pio(dev->vm, dev, 0x40, 4, 1, pit_io);

	return r ? r : bus_add_pio(dev->vm, dev, 0x61, 1, 1, pit_port61);
}

static void pit_reset(struct vdev *dev)
{
	struct pit *p = pit_of(dev);

	p->s = (struct pit_state){ .irq_tick = VDEV_NEVER, .gate = { 1, 1, 0 } };
	for (unsigned c = 0; c < PIT_CHANNELS; c++) {
		p->s.mode[c] = 3;
		p->s.access[c] = 3;
		p->s.count[c] = 65536;
	}
}

static int pit_post_load(void *owner, struct error *e)
{
	struct pit *p = pit_of(owner);
	const struct pit_state *s = &p->s;
	u64 now = pit_now(p);
	bool bad = (s->port61 & ~PORT61_WRITABLE) || !s->gate[0] || !s->gate[1] || s->gate[2] != (s->port61 & PORT61_GATE2);

	for (unsigned c = 0; c < PIT_CHANNELS; c++)
		bad |= s->start[c] > now || s->stopped[c] > now || s->count[c] < 1 || s->count[c] > 65536 ||
		       s->mode[c] > 5 || s->bcd[c] > 1 || s->access[c] < 1 || s->access[c] > 3 || s->loaded[c] > 1 ||
		       s->started[c] > s->loaded[c] || s->gate[c] > 1 || s->write_high[c] > 1 ||
		       s->read_high[c] > 1 || s->latched[c] > 2 || s->status_latched[c] > 1;
	if (bad || (s->irq_tick != VDEV_NEVER && s->irq_tick > now + s->count[0] + PIT_MIN_TICKS))
		return -E_INVAL;
	pit_arm(p, s->irq_tick);
	return 0;
}

static const struct mig_field pit_fields[] = {
	MIG_U64S(1, struct pit_state, start, 1),
	MIG_U64S(2, struct pit_state, stopped, 1),
	MIG_U64(3, struct pit_state, irq_tick, 1),
	MIG_U32S(4, struct pit_state, count, 1),
	MIG_U16S(5, struct pit_state, latch, 1),
	MIG_U8S(6, struct pit_state, mode, 1),
	MIG_U8S(7, struct pit_state, bcd, 1),
	MIG_U8S(8, struct pit_state, access, 1),
	MIG_U8S(9, struct pit_state, loaded, 1),
	MIG_U8S(10, struct pit_state, started, 1),
	MIG_U8S(11, struct pit_state, gate, 1),
	MIG_U8S(12, struct pit_state, low, 1),
	MIG_U8S(13, struct pit_state, write_high, 1),
	MIG_U8S(14, struct pit_state, read_high, 1),
	MIG_U8S(15, struct pit_state, latched, 1),
	MIG_U8S(16, struct pit_state, status, 1),
	MIG_U8S(17, struct pit_state, status_latched, 1),
	MIG_U16(18, struct pit_state, port61, 1),
};

const struct vdev_type pit_type = {
	.mig = {
		.name = "pit", .version = 1, .min_version = 1, .phase = MIG_PHASE_TIMER,
		MIG_STATE(struct pit_state, pit_fields), .post_load = pit_post_load,
	},
	.size = sizeof(struct pit), .state_offset = offsetof(struct pit, s),
	.init = pit_init, .reset = pit_reset, .timer = pit_timer,
};
VDEV_REGISTER(pit_type);
