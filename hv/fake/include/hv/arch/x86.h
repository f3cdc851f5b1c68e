/* SPDX-License-Identifier: MIT */
/* Shadow of hv/arch/x86.h in host tests: the same names and numbers; what only ring 0 may do is faked (hv/fake/fake.c). */
#pragma once
#define rdmsr hw_rdmsr
#define wrmsr hw_wrmsr
#define wrmsr_safe hw_wrmsr_safe
#define xsetbv hw_xsetbv
#define read_cr2 hw_read_cr2
#define write_cr2 hw_write_cr2
#define read_dr0 hw_read_dr0
#define write_dr0 hw_write_dr0
#define read_dr1 hw_read_dr1
#define write_dr1 hw_write_dr1
#define read_dr2 hw_read_dr2
#define write_dr2 hw_write_dr2
#define read_dr3 hw_read_dr3
#define write_dr3 hw_write_dr3
#define read_dr6 hw_read_dr6
#define write_dr6 hw_write_dr6
#include_next "hv/arch/x86.h"
#undef rdmsr
#undef wrmsr
#undef wrmsr_safe
#undef xsetbv
#undef read_cr2
#undef write_cr2
#undef read_dr0
#undef write_dr0
#undef read_dr1
#undef write_dr1
#undef read_dr2
#undef write_dr2
#undef read_dr3
#undef write_dr3
#undef read_dr6
#undef write_dr6

/* Registers that the vCPU code swaps; indexed by what they are. */
u64 rdmsr(u32 msr);
void wrmsr(u32 msr, u64 val);
void xsetbv(u32 xcr, u64 val);
extern u64 fake_cr2, fake_dr[8];
static inline u64 read_cr2(void) { return fake_cr2; }
static inline void write_cr2(u64 v) { fake_cr2 = v; }
#define FAKE_DR(n) \
	static inline u64 read_dr##n(void) { return fake_dr[n]; } \
	static inline void write_dr##n(u64 v) { fake_dr[n] = v; }
FAKE_DR(0)
FAKE_DR(1)
FAKE_DR(2)
FAKE_DR(3)
FAKE_DR(6)
#undef FAKE_DR
