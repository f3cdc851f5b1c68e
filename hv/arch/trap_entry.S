/* SPDX-License-Identifier: MIT */
/* Exception entries: 256 stubs of 16 bytes. Every vector has an IST stack, so red zones of library code are safe. */
	.text
	.globl trap_stubs
	.p2align 4
trap_stubs:
	vec = 0
	.rept 256
	.p2align 4
	/* SDM "Exception and Interrupt Reference": #DF #TS #NP #SS #GP #PF #AC #CP push an error code themselves. */
	.if vec == 8 || (vec >= 10 && vec <= 14) || vec == 17 || vec == 21
	.else
	pushq $0
	.endif
	pushq $vec
	jmp trap_common
	vec = vec + 1
	.endr

	.p2align 4
trap_common:
	push %rax
	push %rbx
	push %rcx
	push %rdx
	push %rsi
	push %rdi
	push %rbp
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	mov %rsp, %rdi
	/* The CPU aligned RSP to 16 and pushed 5 words, we 2 + 15: 22 words keep it aligned for the call. */
	call trap_handle
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rbp
	pop %rdi
	pop %rsi
	pop %rdx
	pop %rcx
	pop %rbx
	pop %rax
	add $16, %rsp
	iretq

	.section .note.GNU-stack, "", @progbits
