/* SPDX-License-Identifier: MIT */
/* VMCS fields (SDM "Field Encoding in VMCS"). One type per width: an encoding does not convert to a value,
 * and a wrong-width access does not compile. */
#pragma once
#include "hv/lib/err.h"

struct vmcs_f16 { u32 enc; };
struct vmcs_f32 { u32 enc; };
struct vmcs_f64 { u32 enc; };
struct vmcs_fnw { u32 enc; }; /* natural width */

#define F16(e) ((struct vmcs_f16){ (e) + 0 * sizeof(char[((e) >> 13 & 3) == 0 ? 1 : -1]) })
#define F64(e) ((struct vmcs_f64){ (e) + 0 * sizeof(char[((e) >> 13 & 3) == 1 ? 1 : -1]) })
#define F32(e) ((struct vmcs_f32){ (e) + 0 * sizeof(char[((e) >> 13 & 3) == 2 ? 1 : -1]) })
#define FNW(e) ((struct vmcs_fnw){ (e) + 0 * sizeof(char[((e) >> 13 & 3) == 3 ? 1 : -1]) })

#define VMCS_VPID F16(0x0000)
#define VMCS_GUEST_SEL(seg) ((struct vmcs_f16){ 0x0800 + 2 * (seg) }) /* enum SEG_* order */
#define VMCS_GUEST_INTR_STATUS F16(0x0810)
#define VMCS_HOST_ES_SEL F16(0x0c00)
#define VMCS_HOST_CS_SEL F16(0x0c02)
#define VMCS_HOST_SS_SEL F16(0x0c04)
#define VMCS_HOST_DS_SEL F16(0x0c06)
#define VMCS_HOST_FS_SEL F16(0x0c08)
#define VMCS_HOST_GS_SEL F16(0x0c0a)
#define VMCS_HOST_TR_SEL F16(0x0c0c)

#define VMCS_MSR_BITMAP F64(0x2004)
#define VMCS_TSC_OFFSET F64(0x2010)
#define VMCS_VIRTUAL_APIC F64(0x2012)
#define VMCS_EPTP F64(0x201a)
#define VMCS_EOI_EXIT(n) ((struct vmcs_f64){ 0x201c + 2 * (n) })
#define VMCS_TSC_MULTIPLIER F64(0x2032)
#define VMCS_GUEST_PA F64(0x2400)
#define VMCS_LINK_POINTER F64(0x2800)
#define VMCS_GUEST_DEBUGCTL F64(0x2802)
#define VMCS_GUEST_PAT F64(0x2804)
#define VMCS_GUEST_EFER F64(0x2806)
#define VMCS_GUEST_PDPTE(n) ((struct vmcs_f64){ 0x280a + 2 * (n) })
#define VMCS_HOST_PAT F64(0x2c00)
#define VMCS_HOST_EFER F64(0x2c02)

#define VMCS_PIN_CTLS F32(0x4000)
#define VMCS_PROC_CTLS F32(0x4002)
#define VMCS_EXCEPTION_BITMAP F32(0x4004)
#define VMCS_PF_MASK F32(0x4006)
#define VMCS_PF_MATCH F32(0x4008)
#define VMCS_CR3_TARGETS F32(0x400a)
#define VMCS_EXIT_CTLS F32(0x400c)
#define VMCS_EXIT_MSR_STORE_COUNT F32(0x400e)
#define VMCS_EXIT_MSR_LOAD_COUNT F32(0x4010)
#define VMCS_ENTRY_CTLS F32(0x4012)
#define VMCS_ENTRY_MSR_LOAD_COUNT F32(0x4014)
#define VMCS_ENTRY_INTR_INFO F32(0x4016)
#define VMCS_ENTRY_ERROR F32(0x4018)
#define VMCS_ENTRY_INST_LEN F32(0x401a)
#define VMCS_TPR_THRESHOLD F32(0x401c)
#define VMCS_PROC2_CTLS F32(0x401e)
#define VMCS_PLE_GAP F32(0x4020)
#define VMCS_PLE_WINDOW F32(0x4022)
#define VMCS_INST_ERROR F32(0x4400)
#define VMCS_EXIT_REASON F32(0x4402)
#define VMCS_EXIT_INTR_INFO F32(0x4404)
#define VMCS_IDT_INFO F32(0x4408)
#define VMCS_IDT_ERROR F32(0x440a)
#define VMCS_EXIT_INST_LEN F32(0x440c)
#define VMCS_EXIT_INST_INFO F32(0x440e)
#define VMCS_GUEST_LIMIT(seg) ((struct vmcs_f32){ 0x4800 + 2 * (seg) })
#define VMCS_GUEST_GDTR_LIMIT F32(0x4810)
#define VMCS_GUEST_IDTR_LIMIT F32(0x4812)
#define VMCS_GUEST_AR(seg) ((struct vmcs_f32){ 0x4814 + 2 * (seg) })
#define VMCS_GUEST_INTERRUPTIBILITY F32(0x4824)
#define VMCS_GUEST_ACTIVITY F32(0x4826)
#define VMCS_GUEST_SYSENTER_CS F32(0x482a)
#define VMCS_PREEMPTION_TIMER F32(0x482e)
#define VMCS_HOST_SYSENTER_CS F32(0x4c00)

#define VMCS_CR0_MASK FNW(0x6000)
#define VMCS_CR4_MASK FNW(0x6002)
#define VMCS_CR0_SHADOW FNW(0x6004)
#define VMCS_CR4_SHADOW FNW(0x6006)
#define VMCS_EXIT_QUALIFICATION FNW(0x6400)
#define VMCS_GUEST_CR0 FNW(0x6800)
#define VMCS_GUEST_CR3 FNW(0x6802)
#define VMCS_GUEST_CR4 FNW(0x6804)
#define VMCS_GUEST_BASE(seg) ((struct vmcs_fnw){ 0x6806 + 2 * (seg) })
#define VMCS_GUEST_GDTR_BASE FNW(0x6816)
#define VMCS_GUEST_IDTR_BASE FNW(0x6818)
#define VMCS_GUEST_DR7 FNW(0x681a)
#define VMCS_GUEST_RSP FNW(0x681c)
#define VMCS_GUEST_RIP FNW(0x681e)
#define VMCS_GUEST_RFLAGS FNW(0x6820)
#define VMCS_GUEST_PENDING_DBG FNW(0x6822)
#define VMCS_GUEST_SYSENTER_ESP FNW(0x6824)
#define VMCS_GUEST_SYSENTER_EIP FNW(0x6826)
#define VMCS_HOST_CR0 FNW(0x6c00)
#define VMCS_HOST_CR3 FNW(0x6c02)
#define VMCS_HOST_CR4 FNW(0x6c04)
#define VMCS_HOST_FS_BASE FNW(0x6c06)
#define VMCS_HOST_GS_BASE FNW(0x6c08)
#define VMCS_HOST_TR_BASE FNW(0x6c0a)
#define VMCS_HOST_GDTR_BASE FNW(0x6c0c)
#define VMCS_HOST_IDTR_BASE FNW(0x6c0e)
#define VMCS_HOST_SYSENTER_ESP FNW(0x6c10)
#define VMCS_HOST_SYSENTER_EIP FNW(0x6c12)
#define VMCS_HOST_RSP FNW(0x6c14)
#define VMCS_HOST_RIP FNW(0x6c16)

/* Raw access to the current VMCS. Failure means a field that this CPU lacks: our bug (see vmcs_access.h). */
#include "hv/vmx/vmcs_access.h"

static inline u16 vmcs_read16(struct vmcs_f16 f) { return (u16)vmcs_raw_read(f.enc); }
static inline u32 vmcs_read32(struct vmcs_f32 f) { return (u32)vmcs_raw_read(f.enc); }
static inline u64 vmcs_read64(struct vmcs_f64 f) { return vmcs_raw_read(f.enc); }
static inline u64 vmcs_readnw(struct vmcs_fnw f) { return vmcs_raw_read(f.enc); }
static inline void vmcs_write16(struct vmcs_f16 f, u16 v) { vmcs_raw_write(f.enc, v); }
static inline void vmcs_write32(struct vmcs_f32 f, u32 v) { vmcs_raw_write(f.enc, v); }
static inline void vmcs_write64(struct vmcs_f64 f, u64 v) { vmcs_raw_write(f.enc, v); }
static inline void vmcs_writenw(struct vmcs_fnw f, u64 v) { vmcs_raw_write(f.enc, v); }

#define vmcs_read(f) _Generic((f), struct vmcs_f16: vmcs_read16, struct vmcs_f32: vmcs_read32, \
	struct vmcs_f64: vmcs_read64, struct vmcs_fnw: vmcs_readnw)(f)
#define vmcs_write(f, v) _Generic((f), struct vmcs_f16: vmcs_write16, struct vmcs_f32: vmcs_write32, \
	struct vmcs_f64: vmcs_write64, struct vmcs_fnw: vmcs_writenw)((f), (v))
