/* SPDX-License-Identifier: MIT */
/*
 * ports: unknown I/O ports read as all ones and swallow writes; string I/O moves each byte.
 * Argument: step=N (60): every Nth port is read.
 */
#include "guest.h"

/* Ports of a PC that may be there, or that do something when touched. */
static bool known(u32 p)
{
	return p < 0x100 || (p >= 0x170 && p < 0x180) || (p >= 0x1f0 && p < 0x200) ||
	       (p >= 0x2e8 && p < 0x400) || (p >= 0x4d0 && p < 0x4d4) || (p >= 0x500 && p < 0x800) ||
	       (p >= 0xaf00 && p < 0xcf00) || (p >= 0xcf8 && p < 0xd00);
}

int main(void)
{
	static const char text[] = "rep outsb to the UART\r\n";
	const char *src = text;
	u64 n = 0, step = arg_u64("step", 60);
	u32 odd = 0, last = 0;
	u8 buf[8] = { 0 }, *dst = buf;
	bool ones = true;

	for (u32 p = 0; p < 0xfffc; p += step) {
		if (known(p))
			continue;
		n++;
		if (inb(p) == 0xff && inw(p) == 0xffff && inl(p) == ~0u)
			continue;
		if (!odd++)
			printf("ports: 0x%x reads 0x%x 0x%x 0x%x\n", p, inb(p), inw(p), inl(p));
		last = p;
	}
	printf("ports: %lu read, %u not all ones, last 0x%x\n", n, odd, last);
	CHECK("ports.ones", !odd, "%u, last 0x%x", odd, last);
	outb(0x80, 1);
	outw(0x1234, 2);
	outl(0x4321, 3);
	CHECK("ports.writes", true, "-");

	n = sizeof(text) - 1;
	while (n) { /* a FIFO load at a time */
		u64 part = n > 16 ? 16 : n;

		n -= part;
		while (!(inb(COM1 + 5) & 0x20))
			pause();
		__asm__ volatile("rep outsb" : "+S"(src), "+c"(part) : "d"(COM1) : "memory");
	}
	CHECK("ports.outs", src == text + sizeof(text) - 1, "RSI is wrong");
	n = 5;
	__asm__ volatile("rep insb" : "+D"(dst), "+c"(n) : "d"(0x1234) : "memory");
	for (int i = 0; i < 5; i++)
		ones &= buf[i] == 0xff;
	CHECK("ports.ins", ones && !buf[5] && dst == buf + 5 && !n, "rest %lu", n);
	dst = buf + 7;
	n = 2;
	__asm__ volatile("std; rep insb; cld" : "+D"(dst), "+c"(n) : "d"(0x1234) : "memory");
	CHECK("ports.ins-down", buf[7] == 0xff && buf[6] == 0xff && !buf[5] && dst == buf + 5,
	      "direction flag");
	return 0;
}
