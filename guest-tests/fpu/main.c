/* SPDX-License-Identifier: MIT */
/*
 * fpu: x87, SSE, AVX and whatever else XSAVE knows survive VM exits, and the host's own use of those
 * registers does not show. Arguments: loops=N (200; 0 is for ever), exits=N (20) between checks,
 * line-ms=N (1000): a line "FPU seq=N chk=OK" that often when it runs for ever.
 */
#include "guest.h"

#define MAX_AREA 16384

static u8 image[MAX_AREA] __attribute__((aligned(64)));
static u8 seen[MAX_AREA] __attribute__((aligned(64)));
static u64 mask; /* state components under test; 0: FXSAVE only */
static u64 loop, bad;
static volatile u64 ticks;

static void timer_irq(struct regs *r)
{
	(void)r;
	ticks++;
	apic_eoi();
}

/* Random bytes, other ones in each loop, at [offset, offset + len) of the image. */
static void fill(u32 offset, u32 len)
{
	for (u32 i = 0; i < len; i += 8) {
		u64 v = mix64(loop << 32 ^ (offset + i + 1));

		memcpy(image + offset + i, &v, len - i < 8 ? len - i : 8);
	}
}

/* SDM "XSAVE Area": legacy region, header, then each component where leaf 13 puts it. */
static void make_image(void)
{
	u32 mxcsr = 0x1f80 | (loop & 3) << 13; /* all masked; rounding mode changes */
	u16 fcw = 0x37f | (loop & 3) << 10;

	memset(image, 0, sizeof(image));
	memcpy(image, &fcw, 2);
	image[4] = 0xff; /* all x87 registers in use */
	memcpy(image + 24, &mxcsr, 4);
	for (u32 i = 0; i < 8; i++)
		fill(32 + 16 * i, 10);
	fill(160, 256);
	memcpy(image + 512, &mask, 8);
	for (u32 i = 2; i < 32; i++) {
		struct cpuid c;

		if (!(mask & BIT(i)))
			continue;
		c = cpuid(13, i);
		fill(c.ebx, i == 9 ? 4 : c.eax); /* PKRU: 4 bytes of 8 */
	}
}

static void load(void)
{
	if (mask)
		__asm__ volatile("xrstor64 (%0)" : : "r"(image), "a"(-1), "d"(-1) : "memory");
	else
		__asm__ volatile("fxrstor64 (%0)" : : "r"(image) : "memory");
}

static void store(void)
{
	memset(seen, 0, sizeof(seen));
	if (mask)
		__asm__ volatile("xsave64 (%0)" : : "r"(seen), "a"(-1), "d"(-1) : "memory");
	else
		__asm__ volatile("fxsave64 (%0)" : : "r"(seen) : "memory");
}

static void compare(const char *what, u32 offset, u32 len)
{
	if (!memcmp(image + offset, seen + offset, len))
		return;
	if (!bad++)
		for (u32 i = offset; i < offset + len; i++)
			if (image[i] != seen[i]) {
				printf("FPU BAD loop %lu %s byte %u: 0x%02x, not 0x%02x\n", loop, what,
				       i - offset, seen[i], image[i]);
				break;
			}
}

static void check(void)
{
	compare("fcw", 0, 2);
	compare("ftw", 4, 1);
	compare("mxcsr", 24, 4);
	for (u32 i = 0; i < 8; i++)
		compare("x87", 32 + 16 * i, 10);
	compare("xmm", 160, 256);
	for (u32 i = 2; i < 32; i++) {
		struct cpuid c;

		if (!(mask & BIT(i)))
			continue;
		c = cpuid(13, i);
		compare(i == 2 ? "ymm" : i < 5 ? "mpx" : i < 8 ? "avx-512" : "other", c.ebx,
			i == 9 ? 4 : c.eax);
	}
}

static void exits(u64 n)
{
	while (n--) {
		cpuid(1, 0);
		pm_timer_read();
		mmio_read(APIC_MMIO + APIC_TIMER_CURRENT);
		rdmsr(MSR_APIC_BASE);
		/* Away for a while: the host runs other things. */
		apic_write(APIC_TIMER_INITIAL, 20000);
		ticks = 0;
		while (!ticks)
			wait_interrupt();
	}
}

int main(void)
{
	u64 loops = arg_u64("loops", 200), n = arg_u64("exits", 20), seq = 0;
	u64 period = arg_u64("line-ms", 1000) * tsc_khz(), next = rdtsc() + period;

	if (cpuid(1, 0).ecx & BIT(26)) {
		struct cpuid c = cpuid(13, 0);

		write_cr4(read_cr4() | BIT(18));
		mask = c.eax | (u64)c.edx << 32;
		__asm__ volatile("xsetbv" : : "c"(0), "a"((u32)mask), "d"((u32)(mask >> 32)));
		/* MPX bounds must be canonical to survive; AMX wants a valid palette. */
		mask &= ~(BIT(3) | BIT(4) | BIT(17) | BIT(18));
		if (!CHECK("fpu.area", cpuid(13, 0).ebx <= MAX_AREA, "%u bytes", cpuid(13, 0).ebx))
			return 0;
	}
	printf("fpu: components 0x%lx\n", mask);
	apic_enable(false);
	intr_set(0x40, timer_irq);
	apic_write(APIC_TIMER_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, 0x40);
	for (loop = 1; !loops || loop <= loops; loop++) {
		make_image();
		load();
		exits(n);
		store();
		check();
		if (rdtsc() >= next) {
			next = rdtsc() + period;
			printf("FPU seq=%lu chk=%s\n", ++seq, bad ? "BAD" : "OK");
		}
	}
	CHECK("fpu.kept", !bad, "%lu differences", bad);
	return 0;
}
