/* SPDX-License-Identifier: MIT */
#include "hv/vm/emulate.h"

/* The CPU itself is the best model of its flags: each operation is run natively in its width, with the guest's carry in.
 * LAHF and SETO fetch the flags without touching the stack. */
#define FLAGS_AH 0xd5u /* SF ZF AF PF CF */
#define FLAG_OF BIT(11)

#define RUN2(T, ins) do { \
	T d_ = (T)dst; \
	__asm__("btl $0, %k3\n\t" ins " %2, %0\n\tlahf\n\tseto %%al" \
		: "+r"(d_), "=&a"(ax) : "r"((T)src), "r"((u32)*rflags) : "cc"); \
	out = d_; \
} while (0)
#define RUN1(T, ins) do { \
	T d_ = (T)dst; \
	__asm__("btl $0, %k2\n\t" ins " %0\n\tlahf\n\tseto %%al" : "+r"(d_), "=&a"(ax) : "r"((u32)*rflags) : "cc"); \
	out = d_; \
} while (0)
#define BY_SIZE(RUN, ins) do { \
	switch (size) { \
	case 1: RUN(u8, ins); break; \
	case 2: RUN(u16, ins); break; \
	case 4: RUN(u32, ins); break; \
	default: RUN(u64, ins); break; \
	} \
} while (0)

u64 emulate_alu(enum emu_alu_op op, unsigned size, u64 dst, u64 src, u64 *rflags)
{
	u32 ax = 0;
	u64 out = 0, bit = BIT(src & (8 * size - 1));

	switch (op) {
	case EMU_ADD: BY_SIZE(RUN2, "add"); break;
	case EMU_OR: BY_SIZE(RUN2, "or"); break;
	case EMU_ADC: BY_SIZE(RUN2, "adc"); break;
	case EMU_SBB: BY_SIZE(RUN2, "sbb"); break;
	case EMU_AND: BY_SIZE(RUN2, "and"); break;
	case EMU_CMP:
	case EMU_SUB: BY_SIZE(RUN2, "sub"); break;
	case EMU_XOR: BY_SIZE(RUN2, "xor"); break;
	case EMU_TEST: BY_SIZE(RUN2, "and"); break;
	case EMU_INC: BY_SIZE(RUN1, "inc"); break;
	case EMU_DEC: BY_SIZE(RUN1, "dec"); break;
	case EMU_NEG: BY_SIZE(RUN1, "neg"); break;
	case EMU_BT: case EMU_BTS: case EMU_BTR: case EMU_BTC: /* only CF; the others are undefined or unchanged */
		*rflags = (*rflags & ~1ull) | !!(dst & bit);
		return op == EMU_BTS ? dst | bit : op == EMU_BTR ? dst & ~bit : op == EMU_BTC ? dst ^ bit : dst;
	case EMU_NOT: /* no flags */
		return ~dst & (size == 8 ? ~0ull : BIT(8 * size) - 1);
	}
	*rflags = (*rflags & ~(u64)(FLAGS_AH | FLAG_OF)) | (ax >> 8 & FLAGS_AH) | (ax & 1 ? FLAG_OF : 0);
	return out;
}
