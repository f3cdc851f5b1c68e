/* SPDX-License-Identifier: MIT */
#include "hv/vm/emulate.h"
#include "hv/vm/vcpu_state.h"

#include <Zydis/Zydis.h>

/* Register operand -> emu_inst.reg and its size in bytes (0: not a general-purpose register). */
static unsigned reg_code(ZydisRegister r, u8 *code)
{
	static const struct { u16 first, last; u8 code, size; } kinds[] = {
		{ ZYDIS_REGISTER_RAX, ZYDIS_REGISTER_R15, VCPU_RAX, 8 }, { ZYDIS_REGISTER_EAX, ZYDIS_REGISTER_R15D, VCPU_RAX, 4 },
		{ ZYDIS_REGISTER_AX, ZYDIS_REGISTER_R15W, VCPU_RAX, 2 }, { ZYDIS_REGISTER_AL, ZYDIS_REGISTER_BL, VCPU_RAX, 1 },
		{ ZYDIS_REGISTER_AH, ZYDIS_REGISTER_BH, EMU_REG_HIGH, 1 }, { ZYDIS_REGISTER_SPL, ZYDIS_REGISTER_R15B, VCPU_RSP, 1 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		if (r >= kinds[i].first && r <= kinds[i].last)
			return *code = kinds[i].code + (r - kinds[i].first), kinds[i].size;
	return 0;
}

static bool address_reg(ZydisRegister r, u8 *code)
{
	if (r == ZYDIS_REGISTER_NONE)
		*code = EMU_NONE;
	else if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
		*code = EMU_RIP;
	else
		return reg_code(r, code) >= 2;
	return true;
}

static bool set_memory(struct emu_inst *i, const ZydisDecodedOperand *m)
{
	if (m->mem.type != ZYDIS_MEMOP_TYPE_MEM || m->mem.segment < ZYDIS_REGISTER_ES || m->mem.segment > ZYDIS_REGISTER_GS)
		return false;
	i->seg = m->mem.segment - ZYDIS_REGISTER_ES; /* Zydis and SEG_* agree on the order: that of the encoding */
	i->size = m->size / 8;
	i->scale = m->mem.scale;
	i->disp = m->mem.disp.has_displacement ? (u64)m->mem.disp.value : 0;
	return address_reg(m->mem.base, &i->base) && address_reg(m->mem.index, &i->index) &&
	       (i->size == 1 || i->size == 2 || i->size == 4 || i->size == 8);
}

/* Sets the operand beside the memory operand: a register or an immediate. */
static bool set_other(struct emu_inst *i, const ZydisDecodedOperand *o)
{
	if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		i->reg_size = reg_code(o->reg.value, &i->reg);
		return i->reg_size;
	}
	if (o->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return false;
	i->reg = EMU_NONE;
	i->imm = o->imm.value.u;
	return true;
}

/* String instructions: their operands are implied. */
static bool set_string(struct emu_inst *i, u8 op, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops)
{
	unsigned k;

	i->op = op;
	i->size = in->opcode & 1 ? in->operand_width / 8 : 1;
	i->seg = SEG_ES;
	for (k = 0; k < in->operand_count; k++) /* the source's segment can be overridden, ES:DI cannot */
		if (ops[k].type == ZYDIS_OPERAND_TYPE_MEMORY && ops[k].mem.segment >= ZYDIS_REGISTER_ES &&
		    ops[k].mem.segment <= ZYDIS_REGISTER_GS && ops[k].actions & ZYDIS_OPERAND_ACTION_MASK_READ)
			i->seg = ops[k].mem.segment - ZYDIS_REGISTER_ES;
	/* SDM "REP/REPE/REPZ/REPNE/REPNZ": for these, F2 repeats like F3. */
	for (k = 0; k < in->raw.prefix_count; k++)
		if (in->raw.prefixes[k].value == 0xf2 || in->raw.prefixes[k].value == 0xf3)
			i->flags |= EMU_REP;
	return true;
}

static bool mnemonic_alu(ZydisMnemonic m, u8 *alu)
{
	static const u16 mnemonics[] = { /* by enum emu_alu_op */
		[EMU_ADD] = ZYDIS_MNEMONIC_ADD, [EMU_OR] = ZYDIS_MNEMONIC_OR, [EMU_ADC] = ZYDIS_MNEMONIC_ADC,
		[EMU_SBB] = ZYDIS_MNEMONIC_SBB, [EMU_AND] = ZYDIS_MNEMONIC_AND, [EMU_SUB] = ZYDIS_MNEMONIC_SUB,
		[EMU_XOR] = ZYDIS_MNEMONIC_XOR, [EMU_CMP] = ZYDIS_MNEMONIC_CMP, [EMU_TEST] = ZYDIS_MNEMONIC_TEST,
		[EMU_INC] = ZYDIS_MNEMONIC_INC, [EMU_DEC] = ZYDIS_MNEMONIC_DEC, [EMU_NEG] = ZYDIS_MNEMONIC_NEG,
		[EMU_NOT] = ZYDIS_MNEMONIC_NOT, [EMU_BT] = ZYDIS_MNEMONIC_BT, [EMU_BTS] = ZYDIS_MNEMONIC_BTS,
		[EMU_BTR] = ZYDIS_MNEMONIC_BTR, [EMU_BTC] = ZYDIS_MNEMONIC_BTC,
	};

	for (*alu = 0; *alu < ARRAY_SIZE(mnemonics); ++*alu)
		if (mnemonics[*alu] == m)
			return true;
	return false;
}

static bool convert(struct emu_inst *i, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops)
{
	const ZydisDecodedOperand *mem, *other;

	if (in->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return false;
	switch (in->mnemonic) { /* by opcode, since an SSE instruction is called MOVSD as well */
	case ZYDIS_MNEMONIC_STOSB: case ZYDIS_MNEMONIC_STOSW: case ZYDIS_MNEMONIC_STOSD: case ZYDIS_MNEMONIC_STOSQ:
		return set_string(i, EMU_STOS, in, ops);
	case ZYDIS_MNEMONIC_LODSB: case ZYDIS_MNEMONIC_LODSW: case ZYDIS_MNEMONIC_LODSD: case ZYDIS_MNEMONIC_LODSQ:
		return set_string(i, EMU_LODS, in, ops);
	case ZYDIS_MNEMONIC_MOVSB: case ZYDIS_MNEMONIC_MOVSW: case ZYDIS_MNEMONIC_MOVSD: case ZYDIS_MNEMONIC_MOVSQ:
		if (in->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
			return false;
		return set_string(i, EMU_MOVS, in, ops);
	default:
		break;
	}
	if (in->operand_count_visible < 1)
		return false;
	mem = ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY ? &ops[0] : &ops[1];
	other = mem == &ops[0] ? &ops[1] : &ops[0];
	if (in->operand_count_visible == 1)
		mem = &ops[0];
	if (mem->type != ZYDIS_OPERAND_TYPE_MEMORY || !set_memory(i, mem))
		return false;
	if (in->operand_count_visible == 1) {
		switch (in->mnemonic) {
		case ZYDIS_MNEMONIC_PUSH: i->op = EMU_PUSH; return true;
		case ZYDIS_MNEMONIC_POP: i->op = EMU_POP; return true;
		case ZYDIS_MNEMONIC_INC: case ZYDIS_MNEMONIC_DEC: case ZYDIS_MNEMONIC_NEG: case ZYDIS_MNEMONIC_NOT:
			i->op = EMU_UNARY;
			return mnemonic_alu(in->mnemonic, &i->alu);
		default:
			return false;
		}
	}
	if (in->operand_count_visible != 2 || !set_other(i, other))
		return false;
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVNTI:
		i->op = mem == &ops[0] ? EMU_STORE : EMU_LOAD;
		return true;
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
		i->flags |= EMU_SIGNED;
		/* fall through */
	case ZYDIS_MNEMONIC_MOVZX:
		i->op = EMU_LOAD;
		return true;
	case ZYDIS_MNEMONIC_XCHG:
		i->op = EMU_XCHG;
		return true;
	case ZYDIS_MNEMONIC_XADD:
		i->op = EMU_XADD;
		return true;
	case ZYDIS_MNEMONIC_CMPXCHG:
		i->op = EMU_CMPXCHG;
		return true;
	case ZYDIS_MNEMONIC_BT: case ZYDIS_MNEMONIC_BTS: case ZYDIS_MNEMONIC_BTR: case ZYDIS_MNEMONIC_BTC:
		if (i->reg != EMU_NONE)
			return false; /* a bit number in a register may point outside of the operand */
		/* fall through */
	default:
		i->op = mem == &ops[0] ? EMU_ALU_TO_MEM : EMU_ALU_TO_REG;
		return mnemonic_alu(in->mnemonic, &i->alu);
	}
}

bool emulate_decode(const u8 *bytes, unsigned n, unsigned mode, struct emu_inst *out)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction in;
	ZydisDecoder decoder;
	ZyanStatus st;

	if (mode == 64)
		st = ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	else if (mode == 32)
		st = ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	else
		st = ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
	if (!ZYAN_SUCCESS(st) || !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, n, &in, ops)))
		return false;
	__builtin_memset(out, 0, sizeof(*out));
	out->reg = out->base = out->index = EMU_NONE;
	out->len = in.length;
	out->addr_size = in.address_width / 8;
	return convert(out, &in, ops);
}
