/* SPDX-License-Identifier: MIT */
/*
 * spin: never gives its CPU back by itself; the host has to stay alive, stop it and move it.
 * Argument: how=cli (interrupts off, default) | sti | hlt (halted with interrupts off) | cpuid
 * (one exit after another) | nmi-window (a MOV SS in front of each jump) | compute: works without an exit of its own, and says
 * which share of its time it did not get, rounds=N times (0: for ever):
 *	SPIN lost-ppm=N piece=N ms=N
 * A round is 4096 equal pieces of work, and most of them are too short to be interrupted: those that take hardly more than the
 * median. What all took above the mean of those is lost. (Not above the median itself: in an emulator of several CPUs pieces
 * also differ by what the other CPUs do.) hz=N (0): with a periodic timer interrupt, as a kernel has one; that is lost, too.
 */
#include "guest.h"

#define VEC_TICK 0x50
#define PIECES 4096u

static u32 took[PIECES];

static void on_tick(struct regs *r)
{
	(void)r;
	apic_eoi();
}

/* A few thousand instructions. */
static void piece(void)
{
	u64 n = 1000;

	__asm__ volatile("1: imul $0x5bd1e995, %%rax, %%rax; xor %%rcx, %%rax; dec %%rcx; jnz 1b" : "+c"(n) : : "rax");
}

/* Ticks that all n of v would take if none had been interrupted. Sorts them (Shell). */
static u64 undisturbed(u32 *v, u32 n)
{
	u64 sum = 0;
	u32 i;

	for (u32 gap = n / 2; gap; gap /= 2)
		for (i = gap; i < n; i++) {
			u32 x = v[i], k = i;

			for (; k >= gap && v[k - gap] > x; k -= gap)
				v[k] = v[k - gap];
			v[k] = x;
		}
	for (i = 0; i < n && v[i] <= v[n / 2] + v[n / 2] / 32; i++)
		sum += v[i];
	return sum * n / i;
}

static int compute(void)
{
	u64 rounds = arg_u64("rounds", 0), hz = arg_u64("hz", 0), start = 0, last = 0, now, need = 0;

	apic_enable(apic_has_x2apic());
	if (hz) {
		intr_set(VEC_TICK, on_tick);
		apic_write(APIC_TIMER_DIVIDE, 0xb);
		apic_write(APIC_LVT_TIMER, VEC_TICK | APIC_PERIODIC);
		apic_write(APIC_TIMER_INITIAL, (u32)(tsc_khz() * 1000 / hz));
		sti();
	}
	for (u64 i = 0; (!rounds || i < rounds) && need <= last - start; i++) {
		start = last = rdtsc();
		for (u32 k = 0; k < PIECES; k++, last = now) {
			piece();
			now = rdtsc();
			took[k] = (u32)(now - last);
		}
		need = undisturbed(took, PIECES);
		printf("SPIN lost-ppm=%lu piece=%lu ms=%lu\n", 1000000 - need * 1000000 / (last - start), need / PIECES,
		       tsc_us(last - start) / 1000);
	}
	CHECK("spin.time", need && need <= last - start, "%lu ticks for what needs %lu", last - start, need);
	return 0;
}

int main(void)
{
	printf("SPIN\n");
	if (arg_is("how", "hlt"))
		__asm__ volatile("cli; 1: hlt; jmp 1b");
	else if (arg_is("how", "compute"))
		return compute();
	else if (arg_is("how", "sti"))
		__asm__ volatile("sti; 1: jmp 1b");
	else if (arg_is("how", "cpuid"))
		__asm__ volatile("cli; 1: xor %%eax, %%eax; cpuid; jmp 1b" : : : "eax", "ebx", "ecx",
				 "edx");
	else if (arg_is("how", "nmi-window"))
		__asm__ volatile("cli; mov %%ss, %%eax; 1: mov %%eax, %%ss; jmp 1b" : : : "eax");
	else
		__asm__ volatile("cli; 1: jmp 1b");
	return 0;
}
