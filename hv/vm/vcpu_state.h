/* SPDX-License-Identifier: MIT */
/* All of a vCPU's architectural state, in the form that migrates. No padding. */
#pragma once
#include "hv/lib/types.h"

#define VCPU_XSAVE_BYTES 4096 /* standard (not compacted) format: x87, SSE, AVX, AVX-512, PKRU fit */

/* In the order of the encoding: exit qualifications have these numbers, and vmx_enter.S counts on it. */
enum { VCPU_RAX, VCPU_RCX, VCPU_RDX, VCPU_RBX, VCPU_RSP, VCPU_RBP, VCPU_RSI, VCPU_RDI,
       VCPU_R8, VCPU_R9, VCPU_R10, VCPU_R11, VCPU_R12, VCPU_R13, VCPU_R14, VCPU_R15, VCPU_NGPR };
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_COUNT };

/* SDM "Guest Non-Register State"; the numbers are the VMCS's. */
enum { ACTIVITY_ACTIVE = 0, ACTIVITY_HLT = 1, ACTIVITY_WAIT_SIPI = 3 };

struct vcpu_state {
	u64 gpr[VCPU_NGPR]; /* rsp included */
	u64 rip, rflags, cr0, cr2, cr3, cr4, xcr0, dr[4], dr6, dr7;
	u64 seg_base[SEG_COUNT], gdtr_base, idtr_base;
	u64 efer, star, lstar, cstar, fmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip;
	u64 pat, tsc_aux, tsc_adjust, misc_enable, mtrr_def_type, mtrr_fixed[11], mtrr_var[16], debugctl, spec_ctrl;
	u64 pdpte[4];         /* PAE paging */
	u64 pending_dbg;      /* pending debug exceptions */
	u32 seg_limit[SEG_COUNT], seg_ar[SEG_COUNT];
	u16 seg_sel[SEG_COUNT];
	u32 gdtr_limit, idtr_limit;
	u32 interruptibility, activity;
	u32 event_info, event_error, event_len; /* VM-entry event still to be injected (0: none) */
	u32 nmi_pending;
	u32 init_pending, sipi_pending; /* sipi_pending: 0, or 100h + vector */
	u8 xsave[VCPU_XSAVE_BYTES];
};
