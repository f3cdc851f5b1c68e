/* SPDX-License-Identifier: MIT */
/* Compiled to assembly only: the Makefile turns these lines into build/gen/asm_offsets.h. */
#include "hv/vm/vcpu_state.h"

#define DEF(name, v) __asm__ volatile("#DEF " #name " %0" : : "i"(v))
void asm_offsets(void);
void asm_offsets(void)
{
	DEF(GPR_RAX, 8 * VCPU_RAX);
	DEF(GPR_RCX, 8 * VCPU_RCX);
	DEF(GPR_RDX, 8 * VCPU_RDX);
	DEF(GPR_RBX, 8 * VCPU_RBX);
	DEF(GPR_RBP, 8 * VCPU_RBP);
	DEF(GPR_RSI, 8 * VCPU_RSI);
	DEF(GPR_RDI, 8 * VCPU_RDI);
	DEF(GPR_R8, 8 * VCPU_R8);
	DEF(GPR_R9, 8 * VCPU_R9);
	DEF(GPR_R10, 8 * VCPU_R10);
	DEF(GPR_R11, 8 * VCPU_R11);
	DEF(GPR_R12, 8 * VCPU_R12);
	DEF(GPR_R13, 8 * VCPU_R13);
	DEF(GPR_R14, 8 * VCPU_R14);
	DEF(GPR_R15, 8 * VCPU_R15);
}
