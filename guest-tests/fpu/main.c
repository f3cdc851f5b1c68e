/* SPDX-License-Identifier: MIT */
/*
 * fpu: x87, SSE, AVX and whatever else XSAVE knows survive VM exits and moves on every CPU, and the host's own use of those
 * registers does not show. Every second CPU has AVX-512 off in XCR0. Arguments: turns=N or loop (loop.c; it is held with the
 * registers loaded), exits=N (20) between checks.
 */
#include "guest.h"

#define MAX_AREA 16384

struct cpu {
	u8 image[MAX_AREA] __attribute__((aligned(64)));
	u8 seen[MAX_AREA] __attribute__((aligned(64)));
	u64 mask; /* state components under test; 0: FXSAVE only */
	u64 xcr0;
	u64 loop;
	volatile u64 checks, bad;
	/* The first that was wrong. */
	const char *what;
	u64 in_loop;
	u32 byte;
	u8 is, should;
};
static struct cpu cpus[SMP_MAX];
static u32 n_cpus;
static u64 n_exits;
static volatile bool stop;

/* Random bytes, other ones in each loop and on each CPU, at [offset, offset + len) of the image. */
static void fill(struct cpu *c, u32 offset, u32 len)
{
	for (u32 i = 0; i < len; i += 8) {
		u64 v = mix64((u64)(c - cpus) << 56 ^ c->loop << 32 ^ (offset + i + 1));

		memcpy(c->image + offset + i, &v, len - i < 8 ? len - i : 8);
	}
}

/* SDM "XSAVE Area": legacy region, header, then each component where leaf 13 puts it. */
static void make_image(struct cpu *c)
{
	u32 mxcsr = 0x1f80 | (c->loop & 3) << 13; /* all masked; rounding mode changes */
	u16 fcw = 0x37f | (c->loop & 3) << 10;

	memset(c->image, 0, sizeof(c->image));
	memcpy(c->image, &fcw, 2);
	c->image[4] = 0xff; /* all x87 registers in use */
	memcpy(c->image + 24, &mxcsr, 4);
	for (u32 i = 0; i < 8; i++)
		fill(c, 32 + 16 * i, 10);
	fill(c, 160, 256);
	memcpy(c->image + 512, &c->mask, 8);
	for (u32 i = 2; i < 32; i++) {
		struct cpuid leaf;

		if (!(c->mask & BIT(i)))
			continue;
		leaf = cpuid(13, i);
		fill(c, leaf.ebx, i == 9 ? 4 : leaf.eax); /* PKRU: 4 bytes of 8 */
	}
}

static void load(struct cpu *c)
{
	if (c->mask)
		__asm__ volatile("xrstor64 (%0)" : : "r"(c->image), "a"(-1), "d"(-1) : "memory");
	else
		__asm__ volatile("fxrstor64 (%0)" : : "r"(c->image) : "memory");
}

static void store(struct cpu *c)
{
	memset(c->seen, 0, sizeof(c->seen));
	if (c->mask)
		__asm__ volatile("xsave64 (%0)" : : "r"(c->seen), "a"(-1), "d"(-1) : "memory");
	else
		__asm__ volatile("fxsave64 (%0)" : : "r"(c->seen) : "memory");
}

static void compare(struct cpu *c, const char *what, u32 offset, u32 len)
{
	for (u32 i = offset; i < offset + len; i++) {
		if (c->image[i] == c->seen[i])
			continue;
		if (!c->bad) {
			c->what = what;
			c->in_loop = c->loop;
			c->byte = i - offset;
			c->is = c->seen[i];
			c->should = c->image[i];
		}
		c->bad++;
		return;
	}
}

static void check_xcr0(struct cpu *c)
{
	u32 lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	memcpy(c->seen, &(u64){ (u64)hi << 32 | lo }, 8);
	memcpy(c->image, &c->xcr0, 8);
	compare(c, "xcr0", 0, 8);
}

static void check(struct cpu *c)
{
	compare(c, "fcw", 0, 2);
	compare(c, "ftw", 4, 1);
	compare(c, "mxcsr", 24, 4);
	for (u32 i = 0; i < 8; i++)
		compare(c, "x87", 32 + 16 * i, 10);
	compare(c, "xmm", 160, 256);
	for (u32 i = 2; i < 32; i++) {
		struct cpuid leaf;

		if (!(c->mask & BIT(i)))
			continue;
		leaf = cpuid(13, i);
		compare(c, i == 2 ? "ymm" : i < 5 ? "mpx" : i < 8 ? "avx-512" : "other", leaf.ebx, i == 9 ? 4 : leaf.eax);
	}
	if (c->mask)
		check_xcr0(c);
	c->checks++;
}

static void exits(void)
{
	for (u64 i = 0; i < n_exits; i++) {
		cpuid(1, 0);
		pm_timer_read();
		apic_read(APIC_TIMER_CURRENT);
		rdmsr(MSR_APIC_BASE);
		sleep_us(20); /* the host runs other things */
	}
}

static void prepare(struct cpu *c)
{
	struct cpuid leaf = cpuid(13, 0);

	if (!(cpuid(1, 0).ecx & BIT(26)))
		return;
	c->xcr0 = leaf.eax | (u64)leaf.edx << 32;
	if ((c - cpus) & 1)
		c->xcr0 &= ~(BIT(5) | BIT(6) | BIT(7));
	write_cr4(read_cr4() | BIT(18));
	__asm__ volatile("xsetbv" : : "c"(0), "a"((u32)c->xcr0), "d"((u32)(c->xcr0 >> 32)));
	/* MPX bounds must be canonical to survive; AMX wants a valid palette. */
	c->mask = c->xcr0 & ~(BIT(3) | BIT(4) | BIT(17) | BIT(18));
}

static void turn(struct cpu *c)
{
	c->loop++;
	make_image(c);
	load(c);
	exits();
	if (c == cpus)
		loop_hold();
	else
		while (loop_holding)
			sleep_us(2000);
	store(c);
	check(c);
}

static void job(u32 self)
{
	prepare(&cpus[self]);
	while (!stop)
		turn(&cpus[self]);
}

int main(void)
{
	n_exits = arg_u64("exits", 20);
	apic_enable(false);
	apic_timer_khz();
	n_cpus = smp_cpus();
	for (u32 i = 1; i < n_cpus; i++)
		if (!CHECK("fpu.cpus", smp_boot(i), "CPU %u does not come up", i))
			return 0;
	prepare(cpus);
	if (!CHECK("fpu.area", !cpus[0].mask || cpuid(13, 0).ebx <= MAX_AREA, "%u bytes", cpuid(13, 0).ebx))
		return 0;
	printf("fpu: components 0x%lx\n", cpus[0].mask);
	for (u32 i = 1; i < n_cpus; i++)
		smp_start_job(i, job);
	while (loop_turn()) {
		turn(cpus);
		for (u32 i = 0; i < n_cpus; i++) {
			struct cpu *c = &cpus[i];

			CHECK("fpu.kept", !c->bad, "CPU %u: %lu times, first in loop %lu %s byte %u: 0x%02x, not 0x%02x", i, c->bad,
			      c->in_loop, c->what, c->byte, c->is, c->should);
		}
	}
	stop = true;
	for (u32 i = 0; i < n_cpus; i++)
		CHECK("fpu.checked", (!i || smp_wait_job(i, 3000000)) && cpus[i].checks, "CPU %u: %lu checks", i, cpus[i].checks);
	return 0;
}
