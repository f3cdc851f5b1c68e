/* SPDX-License-Identifier: MIT */
#include "hv/fake/fake.h"
#include "hv/arch/cpu.h"
#include "hv/arch/x86.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/ept.h"
#include "hv/mm/frame.h"
#include "hv/vm/sched.h"
#include "hv/vm/vcpu.h"
#include "hv/vmx/vmcs.h"
#include "hv/vmx/vmx.h"
#include "net/port/port.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

u64 fake_tsc_now = 1000, fake_invepts, fake_machine_checks, fake_cr2, fake_dr[8];
static u64 fake_msr[32];
static u8 *current_vmcs;
struct vmx_config vmx_config = { .on = true, .proc2 = PROC2_RDTSCP, .tsc_scaling = true };

u64 host_tsc(void) { return fake_tsc_now; }
u64 fake_tsc_hz = FAKE_TSC_HZ;
u64 host_tsc_hz(void) { return fake_tsc_hz; }
u64 now_us(void) { return fake_tsc_now / (FAKE_TSC_HZ / 1000000); }
bool fake_wall_synced;
s64 fake_wall_shift_us;
u64 wall_us(void) { return 1700000000000000 + fake_tsc_now / (FAKE_TSC_HZ / 1000000) + (u64)fake_wall_shift_us; }
u64 wall_seconds(void) { return wall_us() / 1000000; }
bool wall_synced(void) { return fake_wall_synced; }

void log_guard(void) { }
void log_raw(const char *buf, size_t len) { }
bool log_limit_ok(struct log_limit *l) { return true; }

void log_line(enum log_level level, const char *subsys, const char *fmt, ...)
{
	va_list ap;

	if (!getenv("TEST_LOG"))
		return;
	va_start(ap, fmt);
	fprintf(stderr, "%s: ", subsys);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
}

void bug(const char *file, int line, const char *what)
{
	fprintf(stderr, "BUG %s:%d: %s\n", file, line, what);
	abort();
}

void fake_memory(u64 bytes)
{
	static bool done;
	u8 *p;

	if (done)
		return;
	done = true;
	p = mmap(NULL, bytes + PAGE_2M, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		abort();
	p = (u8 *)ALIGN_UP((uintptr_t)p, PAGE_2M);
	frame_add(ptr_hpa(p), ptr_hpa(p + bytes));
}

/* --- CPU --- */
static unsigned msr_slot(u32 msr) { return (msr ^ msr >> 5) & 31; }
u64 rdmsr(u32 msr) { return fake_msr[msr_slot(msr)]; }
void wrmsr(u32 msr, u64 val) { fake_msr[msr_slot(msr)] = val; }
void xsetbv(u32 xcr, u64 val) { }

/* --- VMX: a VMCS is 512 words, by encoding: width, type and index make 9 bits --- */
static u64 *slot(u32 enc)
{
	return (u64 *)(void *)current_vmcs + ((enc >> 13 & 3) << 7 | (enc >> 10 & 3) << 5 | (enc >> 1 & 31));
}
u64 vmcs_raw_read(u32 enc) { return *slot(enc); }
void vmcs_raw_write(u32 enc, u64 v) { *slot(enc) = v; }
void vmx_vmcs_init(void *vmcs) { }
void vmx_vmcs_clear(void *vmcs) { }
void vmx_vmcs_load(void *vmcs) { current_vmcs = vmcs; }
void vmx_vmcs_setup(u64 eptp, u16 vpid, const void *apic_page) { }
u32 vmx_vmcs_set_apicv(bool on) { return on ? (u32)PROC_TPR_SHADOW : 0; }
void vmx_invept(u64 eptp) { fake_invepts++; }
void vmx_invvpid(u16 vpid) { }
void vmx_msr_passthrough(u32 msr, bool read, bool write) { }
__attribute__((weak)) int vmx_enter(u64 *gpr, u64 launched) { return 1; }
const struct host_caps *host_caps(void)
{
	static const struct host_caps caps = { .usable = true };

	return &caps;
}
void cpu_machine_check(void) { fake_machine_checks++; }
void cpu_nmi(void) { }
struct cpu fake_cpu;
struct cpu *cpus[MAX_CPUS] = { &fake_cpu };
u32 n_cpus = 1;
u32 fake_kicks; /* NMIs sent */
void cpu_send_ipi(u32 apic_id, u32 icr) { fake_kicks++; }
void vmx_vmcs_set_cpu(void) { }
__attribute__((weak)) void sched_wake(void) { }
bool fake_others_wait;
__attribute__((weak)) bool sched_others_wait(const struct vcpu *v) { return fake_others_wait; }
__attribute__((weak)) void sched_wake_service(void) { }
__attribute__((weak)) void sched_lock(void) { }
__attribute__((weak)) void sched_unlock(void) { }
__attribute__((weak)) void vm_hold(struct vm *vm) { vm->hold++; }
__attribute__((weak)) void vm_unhold(struct vm *vm) { vm->hold--; }
__attribute__((weak)) void sched_self_migrate(struct vm *vm) { }
u32 cpu_apic_read(u32 offset) { return 0; }
void cpu_apic_eoi(void) { }

/* --- FPU: the image stays in memory; XCR0 as a CPU with AVX-512 would have it --- */
#define FAKE_XCR0 0xe7ull
u64 fpu_guest_xcr0_mask(void) { return FAKE_XCR0; }
void fpu_init(void) { }
void fpu_release(void) { }
void fpu_acquire(struct vcpu *v) { }
void fpu_drop(struct vcpu *v) { }
int fpu_xsetbv(struct vcpu *v, u64 xcr0)
{
	if (!fpu_xcr0_ok(xcr0, FAKE_XCR0))
		return -E_INVAL;
	v->s.xcr0 = xcr0;
	return 0;
}
bool fpu_image_ok(const u8 *xsave, u64 xcr0)
{
	return fpu_xcr0_ok(xcr0, FAKE_XCR0) && !xsave[520];
}

/* --- what the rest of the hypervisor supplies --- */
struct boot_info fake_boot_info;
const struct boot_info *boot_info_get(void) { return &fake_boot_info; }
__attribute__((weak)) const struct boot_file *boot_file(const struct boot_info *bi, const char *name)
{
	for (u32 i = 0; i < bi->n_files; i++)
		if (!strcmp(bi->files[i].name, name))
			return &bi->files[i];
	return NULL;
}
__attribute__((weak)) void vm_state_changed(struct vm *vm) { }

/* Entropy that is the same in each run. */
__attribute__((weak)) bool entropy_raw(u64 *out)
{
	static u64 n;

	*out = ++n * 0x9e3779b97f4a7c15ull;
	return true;
}

/* SDM "EPT Translation Mechanism". */
hpa_t ept_lookup(const struct ept *e, gpa_t at)
{
	const u64 *t = e->root;

	for (int shift = 39; shift >= 12; shift -= 9) {
		u64 entry = t[at.v >> shift & 511], frame = entry & 0x000ffffffffff000ull;

		if (!(entry & 7))
			return hpa(0);
		if (shift == 12)
			return hpa(frame);
		if (shift == 21 && (entry & BIT(7)))
			return hpa((frame & ~(PAGE_2M - 1)) + (at.v & (PAGE_2M - 1) & ~(PAGE_SIZE - 1)));
		t = hpa_ptr(hpa(frame));
	}
	return hpa(0);
}
