/* SPDX-License-Identifier: MIT */
/* int vmx_enter(u64 *gpr, u64 launched): the only way into a guest; it returns like a function. */
#include "asm_offsets.h"
#define VMCS_HOST_RSP 0x6c14

	.text
	.globl vmx_enter
	.hidden vmx_enter
	.globl vmx_exit
	.hidden vmx_exit
vmx_enter:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	push %rdi
	mov $VMCS_HOST_RSP, %eax
	vmwrite %rsp, %rax
	test %rsi, %rsi
	mov GPR_RAX(%rdi), %rax
	mov GPR_RCX(%rdi), %rcx
	mov GPR_RDX(%rdi), %rdx
	mov GPR_RBX(%rdi), %rbx
	mov GPR_RBP(%rdi), %rbp
	mov GPR_RSI(%rdi), %rsi
	mov GPR_R8(%rdi), %r8
	mov GPR_R9(%rdi), %r9
	mov GPR_R10(%rdi), %r10
	mov GPR_R11(%rdi), %r11
	mov GPR_R12(%rdi), %r12
	mov GPR_R13(%rdi), %r13
	mov GPR_R14(%rdi), %r14
	mov GPR_R15(%rdi), %r15
	mov GPR_RDI(%rdi), %rdi
	jnz 1f
	vmlaunch
	jmp 2f
1:	vmresume
2:	/* Only a failed entry comes here. CF: VMfailInvalid, ZF: VMfailValid. */
	mov $1, %eax
	mov $2, %ecx
	cmovz %ecx, %eax
	pop %rdi
	jmp 3f
vmx_exit:
	push %rdi
	mov 8(%rsp), %rdi
	mov %rax, GPR_RAX(%rdi)
	mov %rcx, GPR_RCX(%rdi)
	mov %rdx, GPR_RDX(%rdi)
	mov %rbx, GPR_RBX(%rdi)
	mov %rbp, GPR_RBP(%rdi)
	mov %rsi, GPR_RSI(%rdi)
	mov %r8, GPR_R8(%rdi)
	mov %r9, GPR_R9(%rdi)
	mov %r10, GPR_R10(%rdi)
	mov %r11, GPR_R11(%rdi)
	mov %r12, GPR_R12(%rdi)
	mov %r13, GPR_R13(%rdi)
	mov %r14, GPR_R14(%rdi)
	mov %r15, GPR_R15(%rdi)
	pop GPR_RDI(%rdi)
	add $8, %rsp
	xor %eax, %eax
3:	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	cld
	ret
	.section .note.GNU-stack, "", @progbits
