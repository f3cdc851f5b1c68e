/* SPDX-License-Identifier: MIT */
/*
 * Where a start-up IPI sends an application processor: copied to SMP_TRAMPOLINE. Records the state
 * it finds (SDM "MP Initialization Protocol Algorithm"), goes to long mode with the page tables and
 * the GDT of entry.S, takes the next number and the stack that belongs to it.
 */
	.section .rodata
	.globl smp_trampoline
	.globl smp_trampoline_end
	.globl smp_record
	.globl smp_next
	.p2align 4
	.code16
smp_trampoline:
	cli
	cld
	mov %cs, %bx
	mov %bx, %ds
	mov %cr0, %eax
	mov %eax, record_cr0 - smp_trampoline
	mov %bx, record_cs - smp_trampoline
	mov $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
	mov %eax, %cr4
	mov $pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx /* IA32_EFER: LME */
	rdmsr
	or $0x100, %eax
	wrmsr
	lgdtl gdtr - smp_trampoline
	mov $0x80010033, %eax /* PG, WP, NE, ET, MP, PE */
	mov %eax, %cr0
	ljmpl $8, $smp_long_mode
	.p2align 2
gdtr:	.word 23
	.long gdt
smp_record:
record_cr0: .long 0xffffffff
record_cs: .long 0
smp_trampoline_end:

	.text
	.code64
smp_long_mode:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	/* One at a time is started, so a plain variable says who this is. */
	mov smp_next, %edi
	mov %edi, %eax
	inc %eax
	shl $14, %eax /* SMP_STACK */
	add $smp_stacks, %eax
	mov %rax, %rsp
	xor %ebp, %ebp
	fninit
	call smp_main
	ud2

	.section .bss
	.align 4
smp_next: .skip 4
	.section .note.GNU-stack, "", @progbits
