/* SPDX-License-Identifier: MIT */
/* int vmx_enter(u64 *gpr, u64 launched): the only way into a guest; it returns like a function. gpr[] has the order of the
 * encoding (hv/vm/vcpu_state.h): RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15. */
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
	mov 0*8(%rdi), %rax
	mov 1*8(%rdi), %rcx
	mov 2*8(%rdi), %rdx
	mov 3*8(%rdi), %rbx
	mov 5*8(%rdi), %rbp
	mov 6*8(%rdi), %rsi
	.irp n, 8, 9, 10, 11, 12, 13, 14, 15
	mov \n*8(%rdi), %r\n
	.endr
	mov 7*8(%rdi), %rdi
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
	mov %rax, 0*8(%rdi)
	mov %rcx, 1*8(%rdi)
	mov %rdx, 2*8(%rdi)
	mov %rbx, 3*8(%rdi)
	mov %rbp, 5*8(%rdi)
	mov %rsi, 6*8(%rdi)
	.irp n, 8, 9, 10, 11, 12, 13, 14, 15
	mov %r\n, \n*8(%rdi)
	.endr
	pop 7*8(%rdi)
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
