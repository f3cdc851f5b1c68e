/* SPDX-License-Identifier: MIT */
/* Guest FPU state stays in the registers across exits: hv/ is compiled without vector instructions. It is saved
 * when somebody is about to use them (services, log formatting) or another guest runs. */
#include "hv/vm/vcpu.h"
#include "hv/arch/caps.h"
#include "hv/arch/percpu.h"
#include "hv/arch/x86.h"
#include "hv/lib/log.h"

#include <string.h>

static u64 host_xcr0, guest_mask;
extern void (*log_guard_hook)(void);

#define XSAVE_HEADER 512 /* XSTATE_BV, XCOMP_BV, 48 reserved bytes (SDM "XSAVE Header") */
#define MXCSR_DEFAULT 0x1f80
#define MXCSR_RESERVED 0xffff0000u

u64 fpu_guest_xcr0_mask(void)
{
	return guest_mask;
}

void fpu_init(void)
{
	host_xcr0 = host_caps()->xcr0;
	guest_mask = host_xcr0 & (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512);
	log_guard_hook = fpu_release;
}

static void xsave(u8 *area, u64 mask)
{
	__asm__ volatile("xsave64 (%0)" : : "r"(area), "a"((u32)mask), "d"((u32)(mask >> 32)) : "memory");
}

static void xrstor(const u8 *area, u64 mask)
{
	__asm__ volatile("xrstor64 (%0)" : : "r"(area), "a"((u32)mask), "d"((u32)(mask >> 32)) : "memory");
}

void fpu_release(void)
{
	struct vcpu *v = this_cpu()->fpu_owner;

	if (!v)
		return;
	this_cpu()->fpu_owner = NULL;
	/* Under the host's XCR0, so that state of components that the guest has switched off is kept too. */
	xsetbv(0, host_xcr0);
	xsave(v->xsave_area, host_xcr0);
	u32 mxcsr = MXCSR_DEFAULT;

	__asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
}

void fpu_acquire(struct vcpu *v)
{
	if (this_cpu()->fpu_owner == v)
		return;
	fpu_release();
	xsetbv(0, host_xcr0);
	xrstor(v->xsave_area, host_xcr0);
	xsetbv(0, v->s.xcr0);
	this_cpu()->fpu_owner = v;
}

void fpu_drop(struct vcpu *v)
{
	if (this_cpu()->fpu_owner == v)
		fpu_release();
}

int fpu_xsetbv(struct vcpu *v, u64 xcr0)
{
	if (!fpu_xcr0_ok(xcr0, guest_mask))
		return -E_INVAL;
	v->s.xcr0 = xcr0;
	if (this_cpu()->fpu_owner == v)
		xsetbv(0, xcr0);
	return 0;
}

bool fpu_image_ok(const u8 *image, u64 xcr0)
{
	u32 mxcsr;
	u64 header[8];

	memcpy(&mxcsr, image + 24, 4);
	memcpy(header, image + XSAVE_HEADER, sizeof(header));
	for (unsigned i = 1; i < 8; i++)
		if (header[i])
			return false;
	return !(mxcsr & MXCSR_RESERVED) && !(header[0] & ~guest_mask) && fpu_xcr0_ok(xcr0, guest_mask);
}
