/* SPDX-License-Identifier: MIT */
/* Console output, claims and the verdict. */
#include "guest.h"

#include <stdarg.h>

static char line[512];
static u32 used;
static u32 failures, passes;

void serial_init(void)
{
	outb(COM1 + 1, 0);    /* no interrupts */
	outb(COM1 + 3, 0x80); /* divisor latch */
	outb(COM1 + 0, 1);    /* 115200 */
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 3);    /* 8N1 */
	outb(COM1 + 2, 7);    /* FIFOs on and empty */
	outb(COM1 + 4, 3);    /* DTR, RTS */
}

void (*console_out)(const char *text, u32 len);
int (*console_in)(void);

/* An empty transmitter takes 16 bytes: one status read per FIFO load keeps exits few. */
static void flush(void)
{
	for (u32 i = 0; i < used && !console_out; i++) {
		if (i % 16 == 0)
			for (u32 spin = 0; spin < 1000000 && !(inb(COM1 + 5) & 0x20); spin++)
				pause();
		outb(COM1, line[i]);
	}
	if (console_out)
		console_out(line, used);
	used = 0;
}

static void put(char c)
{
	if (c == '\n')
		put('\r');
	line[used++] = c;
	if (c == '\n' || used == sizeof(line))
		flush();
}

static void put_number(u64 v, u32 base, u32 width, char pad, bool negative)
{
	char digits[24];
	u32 n = 0;

	do {
		digits[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	if (negative)
		digits[n++] = '-';
	for (; width > n; width--)
		put(pad);
	while (n)
		put(digits[--n]);
}

static void vprintf(const char *fmt, va_list ap)
{
	for (; *fmt; fmt++) {
		char pad = ' ';
		u32 width = 0;
		bool wide = false;
		const char *s;
		s64 v;

		if (*fmt != '%') {
			put(*fmt);
			continue;
		}
		if (*++fmt == '0')
			pad = *fmt++;
		while (*fmt >= '0' && *fmt <= '9')
			width = width * 10 + *fmt++ - '0';
		if (*fmt == 'l') {
			wide = true;
			fmt++;
		}
		switch (*fmt) {
		case 's':
			for (s = va_arg(ap, const char *); *s; s++)
				put(*s);
			break;
		case 'c':
			put(va_arg(ap, int));
			break;
		case 'd':
			v = wide ? va_arg(ap, s64) : va_arg(ap, int);
			put_number(v < 0 ? -(u64)v : (u64)v, 10, width, pad, v < 0);
			break;
		case 'u':
			put_number(wide ? va_arg(ap, u64) : va_arg(ap, u32), 10, width, pad, false);
			break;
		case 'x':
			put_number(wide ? va_arg(ap, u64) : va_arg(ap, u32), 16, width, pad, false);
			break;
		default:
			put(*fmt);
		}
	}
}

void printf(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
}

bool guest_check(bool ok, const char *name, const char *file, int line_no, const char *fmt, ...)
{
	va_list ap;

	if (ok) {
		passes++;
		if (!loop_on)
			printf("PASS %s\n", name);
		return true;
	}
	failures++;
	printf("FAIL %s %s:%d ", name, file, line_no);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	return false;
}

u32 guest_failures(void)
{
	return failures;
}

void guest_skip(const char *name, const char *reason)
{
	if (arg_is("strict", NULL)) {
		failures++;
		printf("FAIL %s cannot be tried: %s\n", name, reason);
	} else {
		printf("SKIP %s %s\n", name, reason);
	}
}

void guest_end(void)
{
	/* A guest that claimed nothing has proven nothing. */
	bool ok = !failures && passes;

	cli();
	printf("%u passed, %u failed\n", passes, failures);
	printf("GUEST %s\n", ok ? "PASS" : "FAIL");
	outb(DEBUG_EXIT_PORT, ok ? 0 : 1);
	for (;;)
		__asm__ volatile("cli; hlt");
}

void *memset(void *dst, int c, size_t n)
{
	void *d = dst;

	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return dst;
}

void *memcpy(void *dst, const void *src, size_t n)
{
	void *d = dst;

	__asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n) : : "memory");
	return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const u8 *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

size_t strlen(const char *s)
{
	const char *p = s;

	while (*p)
		p++;
	return p - s;
}

int strncmp(const char *a, const char *b, size_t n)
{
	for (; n; n--, a++, b++)
		if (*a != *b || !*a)
			return (u8)*a - (u8)*b;
	return 0;
}
