/* SPDX-License-Identifier: MIT */
/*
 * spin: never gives its CPU back by itself; the host has to stay alive, stop it and move it.
 * Argument: how=cli (interrupts off, default) | sti | hlt (halted with interrupts off) | cpuid
 * (one exit after another) | nmi-window (a MOV SS in front of each jump).
 */
#include "guest.h"

int main(void)
{
	printf("SPIN\n");
	if (arg_is("how", "hlt"))
		__asm__ volatile("cli; 1: hlt; jmp 1b");
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
