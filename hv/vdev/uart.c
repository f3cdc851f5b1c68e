/* SPDX-License-Identifier: MIT */
/* 16550A at 3F8h, IRQ 4. Output leaves at once, whatever the divisor says. */
#include "hv/vdev/devices.h"
#include "hv/vdev/virtio.h"
#include "hv/lib/clock.h"

#include <string.h>

#define UART_BASE 0x3f8
#define UART_IRQ 4
#define UART_FIFO 16

enum { R_DATA, R_IER, R_IIR, R_LCR, R_MCR, R_LSR, R_MSR, R_SCR }; /* R_IIR is FCR when written */

#define IER_RDA 0x01
#define IER_THRE 0x02
#define IER_RLS 0x04
#define IER_MSR 0x08
#define IIR_NONE 0x01
#define IIR_RLS 0x06
#define IIR_RDA 0x04
#define IIR_TIMEOUT 0x0c
#define IIR_THRE 0x02
#define IIR_MSR 0x00
#define IIR_FIFO 0xc0
#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_WRITABLE 0xc9
#define LCR_DLAB 0x80
#define MCR_DTR 0x01
#define MCR_RTS 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08 /* on a PC: lets the interrupt out */
#define MCR_LOOP 0x10
#define LSR_DR 0x01
#define LSR_OE 0x02
#define LSR_EMPTY 0x60 /* THRE and TEMT */
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80

struct uart_state {
	u64 timeout_at;  /* guest TSC at which waiting characters time out; VDEV_NEVER: not */
	u32 n;           /* characters in rx, oldest first */
	u16 timed_out;   /* they wait below the trigger level */
	u8 ier, fcr, lcr, mcr, msr, scr, dll, dlm;
	u8 overrun;      /* LSR.OE */
	u8 thre_pending; /* transmitter-empty interrupt not yet seen */
	u8 rx[UART_FIFO];
};

struct uart { struct vdev dev; struct uart_state s; };

static struct uart *uart_of(struct vdev *dev)
{
	return container_of(dev, struct uart, dev);
}

static u32 uart_capacity(const struct uart_state *s)
{
	return s->fcr & FCR_ENABLE ? UART_FIFO : 1;
}

static unsigned uart_trigger(const struct uart_state *s)
{
	static const u8 level[4] = { 1, 4, 8, 14 };

	return s->fcr & FCR_ENABLE ? level[s->fcr >> 6] : 1;
}

/* Interrupt identification without the FIFO bits, by priority. */
static u8 uart_pending(const struct uart_state *s)
{
	if ((s->ier & IER_RLS) && s->overrun)
		return IIR_RLS;
	if ((s->ier & IER_RDA) && s->n >= uart_trigger(s))
		return IIR_RDA;
	if ((s->ier & IER_RDA) && s->timed_out)
		return IIR_TIMEOUT;
	if ((s->ier & IER_THRE) && s->thre_pending)
		return IIR_THRE;
	if ((s->ier & IER_MSR) && (s->msr & 0x0f))
		return IIR_MSR;
	return IIR_NONE;
}

static void uart_update(struct uart *u)
{
	vm_irq_line(u->dev.vm, UART_IRQ, uart_pending(&u->s) != IIR_NONE && (u->s.mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2);
}

/* Fewer characters than the trigger level are reported after four character times without a change. */
static void uart_arm_timeout(struct uart *u)
{
	u64 divisor = MAX(u->s.dll | u->s.dlm << 8, 1);

	u->s.timed_out = 0;
	u->s.timeout_at = VDEV_NEVER;
	if (u->s.n && (u->s.fcr & FCR_ENABLE))
		u->s.timeout_at = vm_tsc(u->dev.vm) + muldiv64(vm_tsc_hz(u->dev.vm), 40 * divisor, 115200);
	vdev_arm(&u->dev, u->s.timeout_at);
}

static void uart_timer(struct vdev *dev)
{
	struct uart *u = uart_of(dev);

	u->s.timeout_at = VDEV_NEVER;
	u->s.timed_out = u->s.n != 0;
	uart_update(u);
}

static void uart_receive(struct uart *u, u8 byte)
{
	if (u->s.n == uart_capacity(&u->s))
		u->s.overrun = 1;
	else
		u->s.rx[u->s.n++] = byte;
	uart_arm_timeout(u);
}

size_t uart_input(struct vdev *dev, const u8 *buf, size_t len)
{
	struct uart *u = uart_of(dev);
	size_t n = 0;

	if (u->s.mcr & MCR_LOOP)
		return 0;
	while (n < len && u->s.n < uart_capacity(&u->s))
		uart_receive(u, buf[n++]);
	uart_update(u);
	return n;
}

/* Modem inputs: a terminal that is always there, or our own outputs in loopback. */
static void uart_update_msr(struct uart *u)
{
	u8 m = u->s.mcr, was = u->s.msr & 0xf0, is = MSR_CTS | MSR_DSR | MSR_DCD;

	if (m & MCR_LOOP)
		is = (m & MCR_RTS ? MSR_CTS : 0) | (m & MCR_DTR ? MSR_DSR : 0) | (m & MCR_OUT1 ? MSR_RI : 0) |
		     (m & MCR_OUT2 ? MSR_DCD : 0);
	/* Delta bits sit four below; ring indicator has its one when it ends. */
	u->s.msr = is | (u->s.msr & 0x0f) | (((was ^ is) & ~MSR_RI) >> 4) | ((was & ~is & MSR_RI) >> 4);
}

static u8 uart_read(struct uart *u, unsigned reg)
{
	struct uart_state *s = &u->s;
	u8 v;

	switch (reg) {
	case R_DATA:
		if (s->lcr & LCR_DLAB)
			return s->dll;
		v = s->rx[0];
		if (s->n) {
			s->n--;
			memmove(s->rx, s->rx + 1, UART_FIFO - 1);
		}
		uart_arm_timeout(u);
		return v;
	case R_IER:
		return s->lcr & LCR_DLAB ? s->dlm : s->ier;
	case R_IIR:
		v = uart_pending(s);
		if (v == IIR_THRE)
			s->thre_pending = 0;
		return v | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
	case R_LCR:
		return s->lcr;
	case R_MCR:
		return s->mcr;
	case R_LSR:
		v = LSR_EMPTY | (s->n ? LSR_DR : 0) | (s->overrun ? LSR_OE : 0);
		s->overrun = 0;
		return v;
	case R_MSR:
		v = s->msr;
		s->msr &= 0xf0;
		return v;
	default:
		return s->scr;
	}
}

static void uart_write_fcr(struct uart *u, u8 val)
{
	struct uart_state *s = &u->s;

	if (((s->fcr ^ val) & FCR_ENABLE) || (val & FCR_CLEAR_RX)) {
		s->n = 0;
		uart_arm_timeout(u);
	}
	s->fcr = val & FCR_ENABLE ? val & FCR_WRITABLE : 0;
}

static void uart_transmit(struct vm *vm, u8 byte)
{
	vm_console_out(vm, byte);
	virtio_console_yield(vm); /* what is typed comes here again */
}

static void uart_write(struct uart *u, unsigned reg, u8 val)
{
	struct uart_state *s = &u->s;

	switch (reg) {
	case R_DATA:
		if (s->lcr & LCR_DLAB) {
			s->dll = val;
			break;
		}
		if (s->mcr & MCR_LOOP)
			uart_receive(u, val);
		else
			uart_transmit(u->dev.vm, val);
		s->thre_pending = 1; /* sent already */
		break;
	case R_IER:
		if (s->lcr & LCR_DLAB) {
			s->dlm = val;
			break;
		}
		if ((val & IER_THRE) && !(s->ier & IER_THRE))
			s->thre_pending = 1; /* Linux tests for this before it trusts the interrupt */
		s->ier = val & 0x0f;
		break;
	case R_IIR: uart_write_fcr(u, val); break;
	case R_LCR: s->lcr = val; break;
	case R_MCR:
		s->mcr = val & 0x1f;
		uart_update_msr(u);
		break;
	case R_SCR: s->scr = val; break;
	}
}

static void uart_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	struct uart *u = uart_of(dev);
	unsigned reg = (unsigned)addr - UART_BASE;

	if (write)
		uart_write(u, reg, (u8)*val);
	else
		*val = uart_read(u, reg);
	uart_update(u);
}

static int uart_init(struct vdev *dev)
{
	return bus_add_pio(dev->vm, dev, UART_BASE, 8, 1, uart_io);
}

static void uart_reset(struct vdev *dev)
{
	uart_of(dev)->s = (struct uart_state){ .timeout_at = VDEV_NEVER, .msr = MSR_CTS | MSR_DSR | MSR_DCD,
					       .dll = 1 };
}

static int uart_post_load(void *owner, struct error *e)
{
	struct uart *u = uart_of(owner);
	const struct uart_state *s = &u->s;

	if (s->ier > 0x0f || s->mcr > 0x1f || (s->fcr & ~FCR_WRITABLE) || (s->fcr && !(s->fcr & FCR_ENABLE)) ||
	    s->overrun > 1 || s->thre_pending > 1 || s->timed_out > 1 || s->n > uart_capacity(s))
		return -E_INVAL;
	vdev_arm(&u->dev, s->timeout_at);
	return 0;
}

static const struct mig_field uart_fields[] = {
	MIG_U64(1, struct uart_state, timeout_at, 1),
	MIG_U32(2, struct uart_state, n, 1),
	MIG_U16(3, struct uart_state, timed_out, 1),
	MIG_U8(4, struct uart_state, ier, 1),
	MIG_U8(5, struct uart_state, fcr, 1),
	MIG_U8(6, struct uart_state, lcr, 1),
	MIG_U8(7, struct uart_state, mcr, 1),
	MIG_U8(8, struct uart_state, msr, 1),
	MIG_U8(9, struct uart_state, scr, 1),
	MIG_U8(10, struct uart_state, dll, 1),
	MIG_U8(11, struct uart_state, dlm, 1),
	MIG_U8(12, struct uart_state, overrun, 1),
	MIG_U8(13, struct uart_state, thre_pending, 1),
	MIG_U8S(14, struct uart_state, rx, 1),
};

const struct vdev_type uart_type = {
	.mig = {
		.name = "uart", .version = 1, .min_version = 1, .phase = MIG_PHASE_DEVICE,
		MIG_STATE(struct uart_state, uart_fields), .post_load = uart_post_load,
	},
	.size = sizeof(struct uart), .state_offset = offsetof(struct uart, s),
	.init = uart_init, .reset = uart_reset, .timer = uart_timer,
};
VDEV_REGISTER(uart_type);
