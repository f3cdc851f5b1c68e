/* SPDX-License-Identifier: MIT */
/*
 * Multiboot entry: 32-bit protected mode, paging off. Records what it was given, builds an identity
 * map of the first 4 GiB from 2 MiB pages, and goes on in long mode. The same code serves the
 * 32-bit ELF and the ELF64, because Multiboot enters both in the same way.
 */
#define MB_FLAGS 3 /* modules on page boundaries, memory information wanted */

	.section .multiboot, "a"
	.align 4
	.long 0x1badb002, MB_FLAGS, -(0x1badb002 + MB_FLAGS)

	.section .bss
	.align 4096
	.globl pml4
pml4:	.skip 4096
pdpt:	.skip 4096
pd:	.skip 4 * 4096
stack:	.skip 64 * 1024
stack_top:

	.section .data
	.align 16
	.globl gdt
gdt:	.quad 0
	.quad 0x00af9b000000ffff /* 0x08: 64-bit code */
	.quad 0x00cf93000000ffff /* 0x10: data */
gdt_end:
gdtr32:	.word gdt_end - gdt - 1
	.long gdt
	.globl entry_state
	.align 8
entry_state:
	.skip 28

	.text
	.code32
	.globl _start
_start:
	mov %eax, entry_state
	mov %ebx, entry_state + 4
	mov $stack_top, %esp
	mov %cr0, %eax
	mov %eax, entry_state + 8
	pushf
	pop %eax
	mov %eax, entry_state + 12
	mov %cs, %eax
	mov %eax, entry_state + 16
	mov %ds, %eax
	mov %eax, entry_state + 20
	mov %ss, %eax
	mov %eax, entry_state + 24
	cli
	cld

	movl $pdpt + 3, pml4
	mov $pd + 3, %eax
	xor %ecx, %ecx
1:	mov %eax, pdpt(, %ecx, 8)
	add $4096, %eax
	inc %ecx
	cmp $4, %ecx
	jne 1b
	/* Present, writable, 2 MiB; the last GiB holds the devices and is not cached. */
	mov $0x83, %eax
	xor %ecx, %ecx
2:	cmp $3 * 512, %ecx
	jb 3f
	or $0x18, %eax
3:	mov %eax, pd(, %ecx, 8)
	add $0x200000, %eax
	inc %ecx
	cmp $4 * 512, %ecx
	jne 2b

	mov $pml4, %eax
	mov %eax, %cr3
	mov %cr4, %eax
	or $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
	mov %eax, %cr4
	mov $0xc0000080, %ecx /* IA32_EFER: LME */
	rdmsr
	or $0x100, %eax
	wrmsr
	mov %cr0, %eax
	and $~0x6000000c, %eax /* CD, NW, TS, EM off */
	or $0x80010022, %eax   /* PG, WP, NE, MP on */
	mov %eax, %cr0
	lgdt gdtr32
	ljmp $8, $4f

	.code64
4:	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov $stack_top, %rsp
	fninit
	xor %ebp, %ebp
	call guest_start
	ud2

	/* One stub of 16 bytes per vector; those without an error code push a zero. */
	.align 16
	.globl intr_stubs
intr_stubs:
	.set vector, 0
	.rept 256
	.align 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	push $0
	.endif
	pushq $vector
	jmp intr_common
	.set vector, vector + 1
	.endr

intr_common:
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
	mov %rsp, %rdi
	mov %rsp, %rbp
	and $-16, %rsp
	cld
	call intr_dispatch
	mov %rbp, %rsp
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
