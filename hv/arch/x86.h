/* SPDX-License-Identifier: MIT */
/* Instructions and architectural numbers of the CPU, under the SDM's names. Not for code that runs in host tests:
 * there hv/fake/include/hv/arch/x86.h comes first. */
#pragma once
#include "hv/lib/err.h"

/* --- Control registers, flags (SDM "Control Registers", "EFLAGS Register") --- */
#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)
#define CR4_VME BIT(0)
#define CR4_PVI BIT(1)
#define CR4_TSD BIT(2)
#define CR4_DE BIT(3)
#define CR4_PSE BIT(4)
#define CR4_PAE BIT(5)
#define CR4_MCE BIT(6)
#define CR4_PGE BIT(7)
#define CR4_PCE BIT(8)
#define CR4_OSFXSR BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP BIT(11)
#define CR4_LA57 BIT(12)
#define CR4_VMXE BIT(13)
#define CR4_FSGSBASE BIT(16)
#define CR4_PCIDE BIT(17)
#define CR4_OSXSAVE BIT(18)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)
#define CR4_PKE BIT(22)
#define CR4_CET BIT(23)
#define RFLAGS_FIXED BIT(1)
#define RFLAGS_TF BIT(8)
#define RFLAGS_IF BIT(9)
#define RFLAGS_DF BIT(10)
#define RFLAGS_RF BIT(16)
#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NXE BIT(11)
#define DR6_B 0xfull
#define DR6_BD BIT(13)
#define DR6_BS BIT(14)
#define DR7_GD BIT(13)
#define DEBUGCTL_BTF BIT(1)
#define XCR0_X87 BIT(0)
#define XCR0_SSE BIT(1)
#define XCR0_AVX BIT(2)
#define XCR0_OPMASK BIT(5)
#define XCR0_ZMM_HI256 BIT(6)
#define XCR0_HI16_ZMM BIT(7)
#define XCR0_AVX512 (XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM)

/* --- Exception vectors (SDM "Exception and Interrupt Reference") --- */
enum {
	VEC_DE = 0, VEC_DB = 1, VEC_NMI = 2, VEC_BP = 3, VEC_OF = 4, VEC_BR = 5, VEC_UD = 6, VEC_NM = 7, VEC_DF = 8,
	VEC_TS = 10, VEC_NP = 11, VEC_SS = 12, VEC_GP = 13, VEC_PF = 14, VEC_MF = 16, VEC_AC = 17, VEC_MC = 18,
	VEC_XM = 19, VEC_VE = 20, VEC_CP = 21,
};

/* --- MSRs (SDM "Model-Specific Registers") --- */
enum {
	MSR_IA32_TIME_STAMP_COUNTER = 0x10,
	MSR_IA32_PLATFORM_ID = 0x17,
	MSR_IA32_APIC_BASE = 0x1b,
	MSR_IA32_FEATURE_CONTROL = 0x3a,
	MSR_IA32_TSC_ADJUST = 0x3b,
	MSR_IA32_BIOS_SIGN_ID = 0x8b,
	MSR_IA32_MTRRCAP = 0xfe,
	MSR_IA32_SYSENTER_CS = 0x174,
	MSR_IA32_SYSENTER_ESP = 0x175,
	MSR_IA32_SYSENTER_EIP = 0x176,
	MSR_IA32_MCG_CAP = 0x179,
	MSR_IA32_MCG_STATUS = 0x17a,
	MSR_IA32_MISC_ENABLE = 0x1a0,
	MSR_IA32_DEBUGCTL = 0x1d9,
	MSR_IA32_PAT = 0x277,
	MSR_IA32_MTRR_DEF_TYPE = 0x2ff,
	MSR_IA32_VMX_BASIC = 0x480,
	MSR_IA32_VMX_PINBASED_CTLS = 0x481,
	MSR_IA32_VMX_PROCBASED_CTLS = 0x482,
	MSR_IA32_VMX_EXIT_CTLS = 0x483,
	MSR_IA32_VMX_ENTRY_CTLS = 0x484,
	MSR_IA32_VMX_MISC = 0x485,
	MSR_IA32_VMX_CR0_FIXED0 = 0x486,
	MSR_IA32_VMX_CR0_FIXED1 = 0x487,
	MSR_IA32_VMX_CR4_FIXED0 = 0x488,
	MSR_IA32_VMX_CR4_FIXED1 = 0x489,
	MSR_IA32_VMX_PROCBASED_CTLS2 = 0x48b,
	MSR_IA32_VMX_EPT_VPID_CAP = 0x48c,
	MSR_IA32_VMX_TRUE_PINBASED_CTLS = 0x48d,
	MSR_IA32_VMX_TRUE_PROCBASED_CTLS = 0x48e,
	MSR_IA32_VMX_TRUE_EXIT_CTLS = 0x48f,
	MSR_IA32_VMX_TRUE_ENTRY_CTLS = 0x490,
	MSR_IA32_TSC_DEADLINE = 0x6e0,
	MSR_X2APIC_BASE = 0x800,
	MSR_IA32_EFER = 0xc0000080,
	MSR_IA32_STAR = 0xc0000081,
	MSR_IA32_LSTAR = 0xc0000082,
	MSR_IA32_CSTAR = 0xc0000083,
	MSR_IA32_FMASK = 0xc0000084,
	MSR_IA32_FS_BASE = 0xc0000100,
	MSR_IA32_GS_BASE = 0xc0000101,
	MSR_IA32_KERNEL_GS_BASE = 0xc0000102,
	MSR_IA32_TSC_AUX = 0xc0000103,
};
#define PAT_RESET 0x0007040600070406ull /* IA32_PAT after power-on */
#define APIC_LVT_MASKED BIT(16)         /* in the entries of the local APIC's vector table and of the I/O APIC */
#define FEATURE_CONTROL_LOCK BIT(0)
#define FEATURE_CONTROL_VMX_OUTSIDE_SMX BIT(2)
#define APIC_BASE_BSP BIT(8)
#define APIC_BASE_X2APIC BIT(10)
#define APIC_BASE_ENABLE BIT(11)

/* --- MSRs, CPUID, TSC --- */
static inline u64 rdmsr(u32 msr)
{
	u32 lo, hi;
	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (u64)hi << 32 | lo;
}

static inline void wrmsr(u32 msr, u64 val)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)val), "d"((u32)(val >> 32)) : "memory");
}

/* An instruction at 1b that takes #GP continues at 3f instead; see trap_handle(). */
#define EX_FIXUP ".pushsection .ex_table,\"a\"\n.long 1b - ., 3b - .\n.popsection\n"

/* 0, or -E_UNSUPPORTED where WRMSR takes #GP. */
static inline int __must_check wrmsr_safe(u32 msr, u64 val)
{
	int bad;
	__asm__ volatile("mov $1, %0\n1: wrmsr\nxor %0, %0\n3:\n" EX_FIXUP
		: "=&r"(bad) : "c"(msr), "a"((u32)val), "d"((u32)(val >> 32)) : "cc", "memory");
	return bad ? -E_UNSUPPORTED : 0;
}

static inline void xsetbv(u32 xcr, u64 val)
{
	__asm__ volatile("xsetbv" : : "c"(xcr), "a"((u32)val), "d"((u32)(val >> 32)) : "memory");
}

struct cpuid_regs { u32 eax, ebx, ecx, edx; };

static inline struct cpuid_regs cpuid(u32 leaf, u32 subleaf)
{
	struct cpuid_regs r;
	__asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
	return r;
}

static inline u64 rdtsc(void)
{
	u32 lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

/* RDTSC that does not run before what comes before it. */
static inline u64 rdtsc_ordered(void)
{
	u32 lo, hi;
	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

static inline void cpu_pause(void) { __asm__ volatile("pause"); }
static inline void cpu_cli(void) { __asm__ volatile("cli" : : : "memory"); }
static inline void cpu_hlt(void) { __asm__ volatile("hlt" : : : "memory"); }

/* --- Control registers --- */
#define X86_CR_(n) \
	static inline u64 read_cr##n(void) { u64 v; __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory"); return v; } \
	static inline void write_cr##n(u64 v) { __asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory"); }
X86_CR_(0)
X86_CR_(2)
X86_CR_(3)
X86_CR_(4)
X86_CR_(8)
#undef X86_CR_

#define X86_DR_(n) \
	static inline u64 read_dr##n(void) { u64 v; __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v)); return v; } \
	static inline void write_dr##n(u64 v) { __asm__ volatile("mov %0, %%dr" #n : : "r"(v)); }
X86_DR_(0)
X86_DR_(1)
X86_DR_(2)
X86_DR_(3)
X86_DR_(6)
X86_DR_(7)
#undef X86_DR_

/* --- Descriptor tables and selectors --- */
struct desc_ptr { u16 limit; u64 base; } __packed;

static inline void lgdt(const struct desc_ptr *p) { __asm__ volatile("lgdt %0" : : "m"(*p) : "memory"); }
static inline void lidt(const struct desc_ptr *p) { __asm__ volatile("lidt %0" : : "m"(*p) : "memory"); }
static inline void lldt(u16 sel) { __asm__ volatile("lldt %0" : : "r"(sel) : "memory"); }
static inline void ltr(u16 sel) { __asm__ volatile("ltr %0" : : "r"(sel) : "memory"); }
static inline u16 read_cs(void) { u16 v; __asm__ volatile("mov %%cs, %0" : "=r"(v)); return v; }
static inline u16 read_ss(void) { u16 v; __asm__ volatile("mov %%ss, %0" : "=r"(v)); return v; }

/* --- Ports --- */
static inline void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory"); }
static inline void outw(u16 port, u16 v) { __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory"); }
static inline void outl(u16 port, u32 v) { __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory"); }
static inline u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory"); return v; }
static inline u16 inw(u16 port) { u16 v; __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory"); return v; }
static inline u32 inl(u16 port) { u32 v; __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory"); return v; }

/* --- Memory-mapped registers: exactly one access of that width --- */
static inline u32 mmio_read32(const volatile void *p) { return *(const volatile u32 *)p; }
static inline void mmio_write32(volatile void *p, u32 v) { *(volatile u32 *)p = v; }
static inline void mem_barrier(void) { __asm__ volatile("mfence" : : : "memory"); }
