/* SPDX-License-Identifier: MIT */
/* Instructions that the hardware leaves to us: accesses to emulated MMIO, and INS/OUTS. Decoded by Zydis; what is
 * decoded is kept, since drivers poll. */
#pragma once
#include "hv/vm/vm.h"

struct vcpu;

/* A decoded instruction, as far as execution needs it (emulate_decode.c). */
struct emu_inst {
	u8 op;         /* enum emu_op */
	u8 alu;        /* enum emu_alu_op */
	u8 size;       /* of the memory operand, bytes */
	u8 reg_size;   /* of the register operand, bytes; LOAD extends to it */
	u8 reg;        /* register operand: VCPU_*, or EMU_REG_HIGH | n for AH.., or EMU_NONE: imm instead */
	u8 base, index; /* VCPU_*, EMU_RIP or EMU_NONE */
	u8 scale;
	u8 seg;        /* SEG_* */
	u8 addr_size;  /* bytes */
	u8 len;
	u8 flags;      /* EMU_SIGNED, EMU_REP */
	u8 pad[4];
	u64 disp, imm;
};
#define EMU_NONE 0xff
#define EMU_RIP 0xfe
#define EMU_REG_HIGH 0x40
#define EMU_SIGNED BIT(0)
#define EMU_REP BIT(1)
enum emu_op { EMU_LOAD = 1, EMU_STORE, EMU_ALU_TO_MEM, EMU_ALU_TO_REG, EMU_UNARY, EMU_XCHG, EMU_XADD, EMU_CMPXCHG, EMU_STOS,
	      EMU_LODS, EMU_MOVS, EMU_PUSH, EMU_POP };
enum emu_alu_op { EMU_ADD, EMU_OR, EMU_ADC, EMU_SBB, EMU_AND, EMU_SUB, EMU_XOR, EMU_CMP, EMU_TEST, EMU_INC, EMU_DEC, EMU_NEG,
		  EMU_NOT, EMU_BT, EMU_BTS, EMU_BTR, EMU_BTC };

/* Decoded instructions of one vCPU, found by RIP. An entry counts only if the bytes at RIP, read anew from guest memory,
 * and the mode are those that were decoded: nothing has to be invalidated, ever. Zeroed = empty. Not part of the guest's
 * state. */
#define EMU_CACHE_ENTRIES 16
struct emu_cache {
	struct { u64 bytes[2], mask[2]; u32 mode, pad; struct emu_inst inst; } e[EMU_CACHE_ENTRIES];
};

enum emu_result {
	EMU_OK,          /* done: vcpu_advance(v, *inst_len). A length of 0: more to do (rep), enter the guest again at the same RIP */
	EMU_FAULT,       /* an exception has been injected (and CR2 set): do not advance */
	EMU_UNSUPPORTED, /* the caller kills the VM; emulate_describe() says what it was */
};

/* Executes the instruction at RIP that exited with an EPT violation at fault_gpa. Uses the current VMCS and the copies of
 * rip, rsp and rflags in v->s. Side effects only with EMU_OK or, for repeated string instructions, whole elements before. */
enum emu_result emulate_mmio(struct vcpu *v, gpa_t fault_gpa, u32 *inst_len);
/* Executes INS or OUTS after an I/O exit. qual: exit qualification; info: VM-exit instruction information; *inst_len comes
 * in as the VM-exit instruction length. At most EMU_REP_MAX elements at a time. */
enum emu_result emulate_string_io(struct vcpu *v, u64 qual, u32 info, u32 *inst_len);
#define EMU_REP_MAX 256
/* "rip=... mode=64 bytes=8b 07 ..." for the person who reads why a guest died. */
void emulate_describe(struct vcpu *v, char *buf, size_t size);

/* --- emulate_decode.c --- */
/* Decodes up to n <= 15 bytes; mode 16, 32 or 64. False: not an instruction that we execute (or not all of it is there). */
bool emulate_decode(const u8 *bytes, unsigned n, unsigned mode, struct emu_inst *out);

/* --- emulate_alu.c --- */
/* Whether the operation only sets flags. */
static inline bool emulate_alu_reads(u8 op) { return op == EMU_CMP || op == EMU_TEST || op == EMU_BT; }
/* dst op src (only dst for INC, DEC, NEG, NOT) in size bytes; *rflags gets the arithmetic flags. Returns the result
 * (of CMP: dst - src; of TEST: dst & src). Bits above size are ignored and zero in the result. */
u64 emulate_alu(enum emu_alu_op op, unsigned size, u64 dst, u64 src, u64 *rflags);
