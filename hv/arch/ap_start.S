/* SPDX-License-Identifier: MIT */
/* Where a CPU begins after a start-up IPI: real mode, CS = page of this code, which is copied below 1 MiB. Goes straight
 * to long mode with what struct handover (smp.c) has, two pages further. */
#define HANDOVER 8192
#define H_CR4 HANDOVER
#define H_CR3 (HANDOVER + 4)
#define H_REAL_CR3 (HANDOVER + 8)
#define H_STACK (HANDOVER + 16)
#define H_CPU (HANDOVER + 24)
#define H_ENTRY (HANDOVER + 32)
#define EFER 0xc0000080

	.section .rodata
	.globl ap_start
	.hidden ap_start
	.globl ap_start_end
	.hidden ap_start_end
	.p2align 4
	.code16
ap_start:
	cli
	cld
	mov %cs, %ax
	mov %ax, %ds
	xor %ebx, %ebx
	mov %ax, %bx
	shl $4, %ebx			/* linear address of the page */
	/* The far jumps and the GDT need linear addresses. */
	lea (gdt - ap_start)(%ebx), %eax
	mov %eax, gdtr - ap_start + 2
	lea (long_mode - ap_start)(%ebx), %eax
	mov %eax, far_target - ap_start
	lgdtl gdtr - ap_start
	mov H_CR4, %eax
	mov %eax, %cr4
	mov H_CR3, %eax
	mov %eax, %cr3
	mov $EFER, %ecx
	rdmsr
	or $0x900, %eax			/* LME, NXE */
	wrmsr
	mov $0x80010001, %eax		/* PG, WP, PE: into compatibility mode at once */
	mov %eax, %cr0
	ljmpl *(far_target - ap_start)

	.code64
long_mode:
	mov $0x10, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov %ebx, %ebx
	mov H_REAL_CR3(%rbx), %rax
	mov %rax, %cr3
	mov H_STACK(%rbx), %rsp
	mov H_CPU(%rbx), %rdi
	mov H_ENTRY(%rbx), %rax
	push $0				/* no return address: keeps the stack aligned as after a call */
	jmp *%rax

	.p2align 3
gdt:	.quad 0
	.quad 0x00af9b000000ffff	/* 64-bit code */
	.quad 0x00cf93000000ffff
gdtr:	.word 23
	.long 0
far_target:
	.long 0
	.word 8
ap_start_end:
	.section .note.GNU-stack, "", @progbits
