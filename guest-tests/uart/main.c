/* SPDX-License-Identifier: MIT */
/*
 * uart: COM1 is a 16550A as drivers know it: scratch and divisor registers, FIFOs, loopback, modem
 * lines, and interrupts through the IO-APIC. Argument: echo (then it echoes what is typed, line by
 * line, until "quit").
 */
#include "guest.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

#define VEC 0x44

static volatile u32 hits, idents;

static u8 get(int reg) { return inb(COM1 + reg); }
static void put(int reg, u8 v) { outb(COM1 + reg, v); }

static void uart_irq(struct regs *r)
{
	u8 id = get(IIR);

	(void)r;
	hits++;
	if (!(id & 1))
		idents |= 1 << (id >> 1 & 7);
	apic_eoi();
}

static void settle(u32 us)
{
	u64 end = rdtsc() + us * tsc_khz() / 1000;

	while (rdtsc() < end)
		__asm__ volatile("sti; nop; nop; pause; cli" : : : "memory");
}

/* A byte takes 87 us on the wire, in loopback as well. */
static void loop_byte(u8 v)
{
	put(DATA, v);
	delay_us(150);
}

/* printf() in loopback would talk to itself: collect first, claim afterwards. */
static void check_loopback(void)
{
	u8 msr[2], lsr[4], data[17], iir[3];
	bool same = true;

	while (!(get(LSR) & 0x40)) /* let the last line go out */
		pause();
	put(FCR, 7);
	put(MCR, 0x10);
	msr[0] = get(MSR);
	put(MCR, 0x1f);
	msr[1] = get(MSR);
	lsr[0] = get(LSR);
	loop_byte(0x5a);
	lsr[1] = get(LSR);
	data[16] = get(DATA);
	lsr[2] = get(LSR);
	put(IER, 1);
	for (u8 i = 0; i < 16; i++)
		loop_byte(0xa0 + i);
	iir[0] = get(IIR);
	for (u8 i = 0; i < 16; i++) {
		data[i] = get(DATA);
		same &= data[i] == 0xa0 + i;
	}
	iir[1] = get(IIR);
	for (u8 i = 0; i < 20; i++)
		loop_byte(i);
	lsr[3] = get(LSR);
	iir[2] = get(IIR);
	put(FCR, 7);
	put(IER, 0);
	put(MCR, 3);
	get(MSR);
	CHECK("loop.modem", !(msr[0] & 0xf0) && (msr[1] & 0xf0) == 0xf0, "0x%x 0x%x", msr[0], msr[1]);
	CHECK("loop.byte", !(lsr[0] & 1) && lsr[1] & 1 && data[16] == 0x5a && !(lsr[2] & 1),
	      "LSR 0x%x 0x%x 0x%x data 0x%x", lsr[0], lsr[1], lsr[2], data[16]);
	CHECK("loop.fifo", same, "16 bytes did not come back in order");
	/* 0xcc, a character timeout, says the same; one that is left over harms nobody. */
	CHECK("loop.iir-data", (iir[0] & 0xc7) == 0xc4 && (iir[1] & 0xcf) != 0xc4, "0x%x 0x%x", iir[0],
	      iir[1]);
	CHECK("loop.overrun", lsr[3] & 2, "LSR 0x%x after 20 bytes", lsr[3]);
}

static void check_registers(void)
{
	u8 scr[2], div[2], ier;

	put(SCR, 0x55);
	scr[0] = get(SCR);
	put(SCR, 0xaa);
	scr[1] = get(SCR);
	put(LCR, 0x83);
	put(DATA, 0x34);
	put(IER, 0x12);
	div[0] = get(DATA);
	div[1] = get(IER);
	put(DATA, 1);
	put(IER, 0);
	put(LCR, 3);
	put(IER, 0xff);
	ier = get(IER);
	put(IER, 0);
	CHECK("uart.scratch", scr[0] == 0x55 && scr[1] == 0xaa, "0x%x 0x%x", scr[0], scr[1]);
	CHECK("uart.divisor", div[0] == 0x34 && div[1] == 0x12, "0x%x 0x%x", div[0], div[1]);
	CHECK("uart.ier", ier == 0x0f, "0x%x", ier);
	CHECK("uart.lcr", get(LCR) == 3, "0x%x", get(LCR));
	put(FCR, 0);
	scr[0] = get(IIR);
	put(FCR, 1);
	scr[1] = get(IIR);
	put(FCR, 7);
	CHECK("uart.16550a", !(scr[0] & 0xc0) && (scr[1] & 0xc0) == 0xc0, "0x%x 0x%x", scr[0], scr[1]);
}

static void check_interrupts(void)
{
	u32 first, more, again, kinds;

	apic_enable(false);
	intr_set(VEC, uart_irq);
	ioapic_route(acpi_isa_pin(4), VEC, false);
	put(MCR, 0x0b); /* OUT2 lets the interrupt out */
	settle(1000);
	/* No printing before the end: it would cause interrupts of its own. */
	hits = idents = 0;
	put(IER, 2); /* an empty transmitter asks at once */
	settle(2000);
	first = hits;
	kinds = idents;
	hits = 0;
	settle(2000);
	more = hits;
	put(DATA, '.');
	settle(2000);
	again = hits - more;
	put(IER, 0);
	put(FCR, 7);
	CHECK("irq.transmit", first >= 1 && kinds & BIT(1), "%u interrupts, kinds 0x%x", first,
	      kinds);
	CHECK("irq.transmit-once", !more, "%u more", more);
	CHECK("irq.transmit-again", again >= 1, "%u interrupts", again);
	ioapic_route(acpi_isa_pin(4), VEC, true);
	put(MCR, 3);
}

static void echo(void)
{
	static char line[80];
	u32 n = 0;

	printf("UART echo\n");
	ioapic_route(acpi_isa_pin(4), VEC, false);
	put(MCR, 0x0b);
	put(IER, 1);
	for (;;) {
		char c;

		while (!(get(LSR) & 1))
			wait_interrupt(); /* only what is typed ends this */
		c = get(DATA);
		if (c != '\r' && c != '\n') {
			if (n < sizeof(line) - 1)
				line[n++] = c;
			continue;
		}
		line[n] = 0;
		printf("ECHO %s\n", line);
		if (n == 4 && !strncmp(line, "quit", 4))
			return;
		n = 0;
	}
}

int main(void)
{
	check_registers();
	check_loopback();
	check_interrupts();
	if (arg_is("echo", NULL))
		echo();
	return 0;
}
