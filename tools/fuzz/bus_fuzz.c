/* SPDX-License-Identifier: MIT */
/* libFuzzer: a whole guest with two vCPUs and all devices, over the fake hardware, whose every VM exit is what the input says:
 * ports, MSRs, MMIO by any instruction, configuration space, IPIs, control registers, virtio rings; between its slices host
 * time passes and the host does what it does (services, console, moves of the guest within itself, resets). Input: operations
 * of one byte (bit 7: of the host; else a slice of a vCPU, and each exit in it one byte more; there bit 7: flags and blocking
 * change before) and what they take. In inputs of odd length the CPU virtualizes APICs.
 * At each VM entry the state must be one that hardware takes; and whatever the guest did, its state moves. */
#include "hv/arch/x86.h"
#include "hv/fake/fake.h"
#include "hv/mm/frame.h"
#include "hv/vdev/devices.h"
#include "hv/vdev/virtio_net.h"
#include "hv/vm/lifecycle.h"
#include "hv/vm/load.h"
#include "hv/vm/vcpu.h"
#include "hv/vmx/vmcs.h"
#include "hv/vmx/vmx.h"
#include "mig/mig.h"
#include "net/net.h"
#include "net/port/port.h"
#include "net/vswitch.h"
#include "tools/fuzz/virtio_input.h"

#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define MIB (1ull << 20)
#define GDT_AT 0x1000
#define TABLES_AT 0x2000 /* two pages */
#define CODE_AT 0x4000
#define DATA_AT 0x5000

enum { X_EXCEPTION = 0, X_TRIPLE_FAULT = 2, X_INT_WINDOW = 7, X_NMI_WINDOW = 8, X_CPUID = 10, X_HLT = 12, X_VMCALL = 18,
       X_CR = 28, X_IO = 30, X_RDMSR = 31, X_WRMSR = 32, X_PAUSE = 40, X_EOI = 45, X_EPT_VIOLATION = 48, X_PREEMPTION = 52,
       X_XSETBV = 55, X_APIC_WRITE = 56 };

static struct input in;
static struct vm *vm;
static unsigned exits_left, moves_left;
static struct { u32 info; u64 rflags; } injected; /* at the last entry, and the flags that it found */
static struct { bool there; unsigned port, size; bool write; u64 val; } next_io; /* the second half of a configuration access */

/* --- what the fakes leave to us --- */

struct stream *net_connect(u32 ip, u16 port, const char *host, const char *alpn, struct error *e) { return NULL; }
void mig_changed(const struct mig_info *info) { }
static u64 entropy;
bool entropy_raw(u64 *out)
{
	*out = ++entropy * 0x9e3779b97f4a7c15ull;
	return true;
}

static bool neighbour_deliver(struct vport *port, const u8 *frame, unsigned len, u16 vlan) { return len <= VSWITCH_FRAME_MAX; }
static const struct vport_ops neighbour_ops = { .deliver = neighbour_deliver };
static struct vport neighbour = { .ops = &neighbour_ops };

/* --- the guest --- */

static u64 deliverable_with_error(unsigned vector)
{
	return BIT(vector) & (BIT(8) | BIT(10) | BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(17));
}

/* SDM "VM-Entry Checks": what a guest that only does what guests can must never bring about. */
static void check_entry(struct vcpu *v)
{
	u32 info = vmcs_read(VMCS_ENTRY_INTR_INFO), block = vmcs_read(VMCS_GUEST_INTERRUPTIBILITY), vector = info & 0xff;
	u64 rflags = vmcs_read(VMCS_GUEST_RFLAGS), cr0 = vmcs_read(VMCS_GUEST_CR0), cr4 = vmcs_read(VMCS_GUEST_CR4);
	u64 efer = vmcs_read(VMCS_GUEST_EFER), pending = vmcs_read(VMCS_GUEST_PENDING_DBG);
	bool protected = cr0 & CR0_PE, lma = efer & EFER_LMA, code64 = vmcs_read(VMCS_GUEST_AR(SEG_CS)) & BIT(13);
	bool single_step = (rflags & RFLAGS_TF) && !(vmcs_read(VMCS_GUEST_DEBUGCTL) & DEBUGCTL_BTF);

	MUST(v->s.activity == 0 && !v->s.event_info);
	if (info & INTR_VALID) {
		MUST(!(info & 0x7ffff000));
		switch (INTR_TYPE(info)) {
		case INTR_EXT: MUST((rflags & RFLAGS_IF) && !(block & (BLOCK_STI | BLOCK_MOV_SS))); break;
		case INTR_NMI: MUST(vector == VEC_NMI && !(block & (BLOCK_STI | BLOCK_MOV_SS | BLOCK_NMI))); break;
		case INTR_HW_EXCEPTION: MUST(vector < 32); break;
		default: MUST(vmcs_read(VMCS_ENTRY_INST_LEN) >= 1 && vmcs_read(VMCS_ENTRY_INST_LEN) <= 15);
		}
		MUST(!!(info & INTR_ERROR_CODE) == (protected && INTR_TYPE(info) == INTR_HW_EXCEPTION && deliverable_with_error(vector)));
	}
	MUST((rflags & 2) && !(rflags & 0xffffffffffc08028ull));
	MUST(!(block & BLOCK_STI) || ((rflags & RFLAGS_IF) && !(block & BLOCK_MOV_SS)));
	if (block & (BLOCK_STI | BLOCK_MOV_SS))
		MUST(!!(pending & DR6_BS) == single_step);
	MUST(!(cr0 & CR0_PG) || protected);
	MUST((cr0 & CR0_NE) && !(cr0 & (CR0_CD | CR0_NW)) && (cr4 & CR4_VMXE) && (cr4 & CR4_MCE));
	MUST(!!(vmcs_read(VMCS_ENTRY_CTLS) & ENTRY_IA32E) == lma && (!lma || ((cr0 & CR0_PG) && (cr4 & CR4_PAE))));
	MUST(!(cr0 & CR0_PG) || lma == !!(efer & EFER_LME));
	MUST(lma || !(cr4 & CR4_PCIDE));
	MUST(code64 || !(vmcs_read(VMCS_GUEST_RIP) >> 32));
}

static int exit_with(u32 reason, u64 qual, u32 inst_len)
{
	vmcs_write(VMCS_EXIT_REASON, reason);
	vmcs_write(VMCS_EXIT_QUALIFICATION, qual);
	vmcs_write(VMCS_EXIT_INST_LEN, inst_len);
	return 0;
}

static int exit_io(struct vcpu *v, unsigned port, unsigned size, bool write, u64 val)
{
	v->s.gpr[VCPU_RAX] = val;
	return exit_with(X_IO, (size - 1) | (write ? 0 : BIT(3)) | (u64)port << 16, 1 + (port > 255));
}

static unsigned any_port(void)
{
	static const u16 ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x40, 0x41, 0x42, 0x43, 0x61, 0x60, 0x64, 0x70, 0x71, 0x92, 0x3f8, 0x3f9,
				     0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3ff, 0x505, 0x600, 0x602, 0x604, 0x608, 0xcf8, 0xcf9, 0xcfc, 0xcfe, 0x80 };
	u8 which = (u8)take(&in, 1);

	return which < 0xe0 ? ports[which % ARRAY_SIZE(ports)] : (unsigned)take(&in, 2);
}

static u32 any_msr(void)
{
	static const u32 msrs[] = { 0x1b, 0x6e0, 0x10, 0x3b, 0x808, 0x80b, 0x80d, 0x80f, 0x828, 0x830, 0x832, 0x835, 0x837, 0x838, 0x839,
				    0x83e, 0x83f, 0x802, 0x810, 0x820, 0x1a0, 0x1d9, 0x2ff, 0x200, 0x250, 0x268, 0x4b564d00, 0x4b564d01,
				    0x17, 0x3a, 0x8b, 0xfe, 0x179 };
	u8 which = (u8)take(&in, 1);

	return which < 0xe0 ? msrs[which % ARRAY_SIZE(msrs)] : (u32)take(&in, 4);
}

static struct virtio *any_virtio(u8 pick)
{
	struct pci_fn *fn = NULL;

	for (unsigned slot = pick % PCI_SLOTS; !fn || !fn->bar_size; slot = (slot + 1) % PCI_SLOTS)
		fn = vm->pci[slot];
	return virtio_of(fn->dev);
}

/* Where devices are, or may be. */
static u64 any_address(void)
{
	u8 where = (u8)take(&in, 1);

	switch (where % 8) {
	case 0: case 1: return 0xfee00000 + (take(&in, 1) << 4 & 0xff0) + (where & 0x10 ? where >> 5 : 0);
	case 2: return 0xfec00000 + (where & 0x10 ? 0x10 : 0) + (where >> 5 & 3);
	case 3: case 4: case 5: return any_virtio(where >> 3)->v->pci.bar + (take(&in, 2) & 0x7fff);
	case 6: return PCI_WINDOW + take(&in, 4) % (PCI_WINDOW_END - PCI_WINDOW);
	default: return take(&in, 8) & (BIT(52) - 1);
	}
}

static u64 any_value(unsigned bytes)
{
	u8 kind = (u8)take(&in, 1);

	return kind < 0x60 ? kind : kind < 0xa0 ? 1ull << (kind & 63) : take(&in, bytes);
}

/* An access to memory that is none. RDI points to it, also RSI; the instruction is a usual one, or any bytes. */
static int exit_mmio(struct vcpu *v)
{
	static const char *const forms[] = { "\x89\x07", "\x8b\x07", "\x88\x07", "\x8a\x07", "\x66\x89\x07", "\x66\x8b\x07", "\x48\x89\x07",
					     "\x48\x8b\x07", "\xf0\x0f\xc1\x07", "\x0f\xb6\x07", "\x81\x0f\x01\x02\x03\x04", "\xf3\xab", "\xf3\xa5",
					     "\x87\x07", "\x0f\xb1\x0f", "\xff\x37" };
	u64 base = vmcs_read(VMCS_GUEST_BASE(SEG_CS)), at;
	u8 form = (u8)take(&in, 1), code[16] = { 0 };

	if (form & 0x80)
		for (unsigned i = 0; i < 1 + (form & 7u); i++)
			code[i] = (u8)take(&in, 1);
	else
		strcpy((char *)code, forms[form % ARRAY_SIZE(forms)]);
	at = any_address();
	v->s.gpr[VCPU_RDI] = at;
	v->s.gpr[VCPU_RSI] = form & 0x40 ? DATA_AT : at;
	v->s.gpr[VCPU_RCX] = form & 0x20 ? take(&in, 2) : 4;
	v->s.gpr[VCPU_RAX] = any_value(8);
	if (guest_write(vm, gpa(base + CODE_AT), code, sizeof(code)))
		MUST(base + CODE_AT > vm->ram_bytes - 16);
	vmcs_write(VMCS_GUEST_PA, at);
	return exit_with(X_EPT_VIOLATION, BIT(7) | BIT(8) | 1, 0);
}

/* CF8h now, CFCh next. */
static int exit_config(struct vcpu *v)
{
	u8 how = (u8)take(&in, 1), reg = (u8)take(&in, 1);
	unsigned slot = how & 0x10 ? any_virtio(how)->fn.slot : how & 15;

	next_io.there = true;
	next_io.size = 1u << (how >> 5) % 3;
	next_io.port = 0xcfc + (next_io.size == 1 ? reg & 3 : next_io.size == 2 ? reg & 2 : 0);
	next_io.write = how & 0x80;
	next_io.val = next_io.write ? any_value(4) : 0;
	return exit_io(v, 0xcf8, 4, true, 0x80000000u | slot << 11 | (reg & 0xfc));
}

static int exit_ipi(struct vcpu *v)
{
	u8 a = (u8)take(&in, 1), b = (u8)take(&in, 1);
	u64 dest = a & 0x80 ? 0xff : a >> 5 & 3, icr = (u64)b | (a & 7) << 8 | (a & 8 ? 0x800 : 0) | (a & 0x10 ? 0x4000 : 0) |
		   (take(&in, 1) & 3) << 18;

	if (lapic_base(v->lapic) & BIT(10)) {
		v->s.gpr[VCPU_RCX] = 0x830;
		v->s.gpr[VCPU_RAX] = icr;
		v->s.gpr[VCPU_RDX] = dest;
		return exit_with(X_WRMSR, 0, 2);
	}
	lapic_mmio_write(v->lapic, 0x310, (u32)dest << 24);
	lapic_mmio_write(v->lapic, 0x300, (u32)icr);
	return exit_with(X_PREEMPTION, 0, 0);
}

static int exit_other(struct vcpu *v)
{
	static const u8 reasons[] = { X_CPUID, X_HLT, X_VMCALL, X_XSETBV, 1, 7, 8, 9, 11, 13, 15, 20, 29, 33, 34, 36, 39, 50, 53, 54, 76, X_PAUSE, X_EOI,
				      X_TRIPLE_FAULT, X_EXCEPTION, X_CPUID, X_HLT, X_CR, X_CR, X_CR };
	u8 which = (u8)take(&in, 1);
	u32 reason = which < 0xf0 ? reasons[which % ARRAY_SIZE(reasons)] : (u8)take(&in, 1);
	u64 qual = 0;

	if (reason == 41)
		reason = X_PREEMPTION; /* a machine check is not the guest's doing */
	if (reason == X_CR) {
		qual = take(&in, 1) & 0xff;
		qual = (qual & 0x30) | (qual & 8 ? 8 : qual & 4 ? 4 : 0) | VCPU_RBX << 8 | take(&in, 1) << 16;
		v->s.gpr[VCPU_RBX] = vmcs_read(qual & 4 ? VMCS_GUEST_CR4 : VMCS_GUEST_CR0) ^ any_value(8);
	} else if (reason == X_EXCEPTION) {
		static const u8 vectors[] = { VEC_DB, VEC_AC, VEC_NMI, VEC_DB };
		u8 vector = vectors[take(&in, 1) & 3];

		qual = take(&in, 2);
		if (vector != VEC_NMI && qual & 0x10) { /* while something was being delivered */
			bool ours = injected.info & INTR_VALID;

			vmcs_write(VMCS_IDT_INFO, ours ? injected.info : (u32)INTR_VALID | INTR_SOFT_INT << 8 | 0x80);
			vmcs_write(VMCS_IDT_ERROR, 0);
			if (ours) { /* nothing has run since the entry */
				vmcs_write(VMCS_GUEST_RFLAGS, injected.rflags);
				vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, vmcs_read(VMCS_GUEST_INTERRUPTIBILITY) & (u32)BLOCK_NMI);
				vmcs_write(VMCS_GUEST_PENDING_DBG, 0);
			}
		}
		qual &= DR6_BS | 15;
		vmcs_write(VMCS_EXIT_INTR_INFO, (u32)INTR_VALID | (vector == VEC_NMI ? INTR_NMI : INTR_HW_EXCEPTION) << 8 | vector |
			   (vector == VEC_AC ? (u32)INTR_ERROR_CODE : 0));
	} else {
		v->s.gpr[VCPU_RAX] = any_value(4);
		v->s.gpr[VCPU_RCX] = take(&in, 1) & 7;
		v->s.gpr[VCPU_RDX] = 0;
	}
	return exit_with(reason, qual, 2);
}

/* --- a CPU that delivers interrupts by itself (SDM "Virtual-Interrupt Delivery") --- */

static u32 *apic_reg(struct vcpu *v, u32 offset) { return (u32 *)v->apic_page + offset / 4; }

static u32 apic_highest(struct vcpu *v, u32 offset)
{
	for (u32 i = 256; i-- > 16;)
		if (*apic_reg(v, offset + i / 32 * 16) & 1u << i % 32)
			return i;
	return 0;
}

static u32 apic_status(struct vcpu *v) { return apic_highest(v, 0x100) << 8 | apic_highest(v, 0x200); }

static void apic_flip(struct vcpu *v, u32 offset, u32 vector)
{
	*apic_reg(v, offset + vector / 32 * 16) ^= 1u << vector % 32;
	vmcs_write(VMCS_GUEST_INTR_STATUS, (u16)apic_status(v));
}

static void apic_enter(struct vcpu *v)
{
	u32 rvi = apic_highest(v, 0x200), svi = apic_highest(v, 0x100);

	MUST(vmcs_read(VMCS_PROC_CTLS) & PROC_TPR_SHADOW);
	MUST(vmcs_read(VMCS_GUEST_INTR_STATUS) == apic_status(v));
	MUST(!(*apic_reg(v, 0x80) & ~0xffu) && !(*apic_reg(v, 0x100) & 0xffff) && !(*apic_reg(v, 0x200) & 0xffff));
	if (injected.info & INTR_VALID || !(vmcs_read(VMCS_GUEST_RFLAGS) & RFLAGS_IF) ||
	    (vmcs_read(VMCS_PROC_CTLS) & PROC_INTERRUPT_WINDOW) || (rvi & 0xf0) <= MAX(svi & 0xf0, *apic_reg(v, 0x80) & 0xf0))
		return;
	apic_flip(v, 0x200, rvi);
	apic_flip(v, 0x100, rvi);
	vmcs_write(VMCS_GUEST_RFLAGS, vmcs_read(VMCS_GUEST_RFLAGS) & ~(RFLAGS_IF | RFLAGS_TF));
}

/* EOI, TPR, self-IPI. Not 0: it exits. */
static u32 apic_use(struct vcpu *v, u8 how, u64 *qual)
{
	u32 svi = apic_highest(v, 0x100);

	*qual = svi;
	switch (how & 3) {
	case 0:
		if (!svi)
			return 0;
		apic_flip(v, 0x100, svi);
		return vmcs_read(VMCS_EOI_EXIT(svi / 64)) & BIT(svi % 64) ? X_EOI : 0;
	case 1:
		*apic_reg(v, 0x80) = how & 0xf0;
		return 0;
	}
	*apic_reg(v, 0x3f0) = how;
	*qual = 0x3f0;
	if (how < 16)
		return X_APIC_WRITE;
	if (!(*apic_reg(v, 0x200 + how / 32 * 16) & 1u << how % 32))
		apic_flip(v, 0x200, how);
	return 0;
}

/* What it does without an exit: flags, blocking, the end of an NMI's handler. */
static void run_freely(struct vcpu *v, u8 how)
{
	u64 flags = vmcs_read(VMCS_GUEST_RFLAGS) & ~(RFLAGS_IF | RFLAGS_TF);
	u32 block = vmcs_read(VMCS_GUEST_INTERRUPTIBILITY) & (u32)BLOCK_NMI;

	if (how & 1)
		flags |= RFLAGS_IF;
	if (how & 2)
		flags |= RFLAGS_TF;
	if ((how & 5) == 5)
		block |= BLOCK_STI;
	else if (how & 8)
		block |= BLOCK_MOV_SS;
	if (how & 0x10)
		block &= ~(u32)BLOCK_NMI;
	vmcs_write(VMCS_GUEST_RFLAGS, flags);
	vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, block);
	vmcs_write(VMCS_GUEST_PENDING_DBG, (how & 2) && block & (BLOCK_STI | BLOCK_MOV_SS) &&
		   !(vmcs_read(VMCS_GUEST_DEBUGCTL) & DEBUGCTL_BTF) ? DR6_BS : 0);
}

/* The hardware has delivered what was injected. */
static void deliver(struct vcpu *v)
{
	u32 info = vmcs_read(VMCS_ENTRY_INTR_INFO), block = vmcs_read(VMCS_GUEST_INTERRUPTIBILITY) & (u32)BLOCK_NMI;

	injected.info = info;
	injected.rflags = vmcs_read(VMCS_GUEST_RFLAGS);
	vmcs_write(VMCS_IDT_INFO, 0);
	vmcs_write(VMCS_ENTRY_INTR_INFO, 0);
	vmcs_write(VMCS_GUEST_PENDING_DBG, 0);
	vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, block);
	if (!(info & INTR_VALID))
		return;
	vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, INTR_TYPE(info) == INTR_NMI ? (u32)BLOCK_NMI : block);
	vmcs_write(VMCS_GUEST_RFLAGS, vmcs_read(VMCS_GUEST_RFLAGS) & ~(RFLAGS_IF | RFLAGS_TF));
}

/* SDM "Interrupt-Window Exiting" and "NMI-Window Exiting": what was waited for can be injected now. */
static bool window_opens(struct vcpu *v)
{
	u32 ctls = vmcs_read(VMCS_PROC_CTLS), block = vmcs_read(VMCS_GUEST_INTERRUPTIBILITY);

	return ((ctls & PROC_NMI_WINDOW) && !block) ||
	       ((ctls & PROC_INTERRUPT_WINDOW) && (vmcs_read(VMCS_GUEST_RFLAGS) & RFLAGS_IF) && !(block & (BLOCK_STI | BLOCK_MOV_SS)));
}

/* A slice over: enough time for the deadline to be over. */
static int slice_ends(void)
{
	fake_tsc_now += 1000000;
	return exit_with(X_PREEMPTION, 0, 0);
}

int vmx_enter(u64 *gpr, u64 launched)
{
	struct vcpu *v = container_of(gpr, struct vcpu, s.gpr[0]);
	unsigned size;
	bool write;
	u8 op;

	check_entry(v);
	deliver(v);
	if (v->apicv)
		apic_enter(v);
	fake_tsc_now += 100;
	vmcs_write(VMCS_GUEST_RIP, CODE_AT);
	if (window_opens(v))
		return exit_with(vmcs_read(VMCS_GUEST_RFLAGS) & RFLAGS_IF ? X_INT_WINDOW : X_NMI_WINDOW, 0, 0);
	if (next_io.there) {
		next_io.there = false;
		return exit_io(v, next_io.port, next_io.size, next_io.write, next_io.val);
	}
	if (in.p >= in.end || !exits_left--)
		return slice_ends();
	op = (u8)take(&in, 1);
	size = 1u << (op >> 5 & 3) % 3;
	write = op & 0x10;
	if (op & 0x80)
		run_freely(v, (u8)take(&in, 1));
	switch (op & 15) {
	case 0: case 1: {
		unsigned port = any_port();

		return exit_io(v, port, size, write, write ? any_value(size) : 0);
	}
	case 2: {
		unsigned port = any_port();

		v->s.gpr[write ? VCPU_RSI : VCPU_RDI] = take(&in, 1) & 1 ? any_address() : DATA_AT;
		v->s.gpr[VCPU_RCX] = take(&in, 2);
		vmcs_write(VMCS_EXIT_INST_INFO, (u32)(2u << 7 | SEG_DS << 15));
		return exit_with(X_IO, (size - 1) | (write ? 0 : BIT(3)) | BIT(4) | BIT(5) | (u64)port << 16, 2);
	}
	case 3: case 4: {
		u64 val;

		v->s.gpr[VCPU_RCX] = any_msr();
		val = write ? any_value(8) : 0;
		v->s.gpr[VCPU_RAX] = (u32)val;
		v->s.gpr[VCPU_RDX] = val >> 32;
		return exit_with(write ? X_WRMSR : X_RDMSR, 0, 2);
	}
	case 5: case 6: case 7: return exit_mmio(v);
	case 8: return exit_config(v);
	case 9: return exit_ipi(v);
	case 10: return exit_other(v);
	case 11: input_poke(&in, vm); break;
	case 12: input_start(&in, vm, &any_virtio(op >> 4)->dev); break;
	case 13: {
		struct virtio *vio = any_virtio(op >> 4);

		virtio_fake_mmio_write(vm, vio->v->pci.bar + 0x3000 + 4 * (take(&in, 1) & 3), 2, 0);
		break;
	}
	case 14:
		if (write && v->apicv) {
			u64 qual;
			u32 reason = apic_use(v, (u8)take(&in, 1), &qual);

			if (reason)
				return exit_with(reason, qual, 2);
		} else {
			run_freely(v, (u8)take(&in, 1));
		}
		break;
	default: fake_tsc_now += take(&in, 2) << (op >> 4 << 1);
	}
	return exit_with(X_PREEMPTION, 0, 0);
}

/* --- the host --- */

static void send_frame(void)
{
	u8 frame[VSWITCH_FRAME_MAX] = { 0 };
	unsigned len = 14 + take(&in, 2) % (sizeof(frame) - 13);

	memset(frame, take(&in, 1) & 1 ? 0xff : 0x52, 6);
	frame[6] = 2; /* the neighbour */
	frame[12] = 8;
	vswitch_input(&neighbour, frame, len);
	vswitch_poll();
}

static void move(void)
{
	if (vm->state != RS_RUNNING || vm->attention || !moves_left)
		return;
	moves_left--; /* they take longest */
	mig_self(vm);
	if (vm_is_dead(vm)) {
		fprintf(stderr, "%s\n", vm->reason);
		abort();
	}
}

/* What it is now could move: a target would take it. */
static void check_state(void)
{
	struct mig_instance inst;
	struct error e = { 0 };

	vm_state_sync(vm);
	for (unsigned i = 0; vm_mig_instance(vm, i, &inst); i++)
		if (inst.type->post_load && inst.type->post_load(inst.owner, &e)) {
			fprintf(stderr, "%s.%u: %s\n", inst.type->name, inst.instance, e.text);
			abort();
		}
}

static void host(u8 op)
{
	static u64 bitmap[BIT(20) / 64 + 64];
	struct error e = { 0 };

	switch (op & 15) {
	case 0: case 1: vm_service(vm); break;
	case 2: vm_console_in(vm, (const u8 *)"typed in", op >> 4 & 7); break;
	case 3: send_frame(); break;
	case 4: case 5: move(); break;
	case 6: pm_power_button(vm_vdev(vm, &pm_type, 0)); break;
	case 7:
		vm_pause(vm, RS_PAUSED);
		fake_tsc_now += take(&in, 4);
		if (vm->state == RS_PAUSED)
			MUST(!vm_resume(vm, &e));
		break;
	case 8:
		if (!vm->dirty)
			MUST(!dirty_start(vm));
		else if (op & 0x40)
			dirty_stop(vm);
		else if (vm->dirty_words <= ARRAY_SIZE(bitmap))
			dirty_harvest(vm, bitmap);
		break;
	case 9: vm_drain(vm); break;
	case 10: vm_undrain(vm); break;
	case 11: vswitch_poll(); break;
	default: fake_tsc_now += take(&in, 3) << (op >> 4 & 7) * 3; break;
	}
}

/* 64-bit code in identity-mapped memory: what a kernel is. A second vCPU that it starts begins in real mode. */
static void enter_long_mode(void)
{
	struct vcpu_state *s = &vm->vcpus[0]->s;
	u64 tables[2][512] = { { (TABLES_AT + 0x1000) | 3 } };

	for (unsigned i = 0; i < 512; i++)
		tables[1][i] = (u64)i << 30 | 0x83;
	MUST(!guest_write(vm, gpa(TABLES_AT), tables, sizeof(tables)));
	MUST(!load_flat_segments(vm, s, gpa(GDT_AT), true));
	s->cr0 = CR0_PG | CR0_NE | CR0_ET | CR0_PE;
	s->cr3 = TABLES_AT;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LMA | EFER_LME;
	vcpu_load_state(vm->vcpus[0]);
}

static void make(void)
{
	/* Multiboot, with load addresses: the header alone, at 1 MiB. */
	static const u32 kernel[8] = { 0x1badb002, 0x10000, -(0x1badb002 + 0x10000), 0x100000, 0x100000, 0, 0, 0x100000 };
	static const u8 image[16384];
	static struct guest_config c = {
		.name = "g", .kernel = "kernel", .memory_bytes = 2 * MIB, .vcpus = 2, .n_disks = 1, .n_nics = 1,
		.disks[0] = { .kind = DISK_IMAGE, .image = "image", .read_only = true },
		.nics[0] = { .network = "lan", .mac = { 0x52, 0x52, 0x52, 0x52, 0x52, 0x52 } },
	};
	struct error e = { 0 };

	fake_memory(64 * MIB);
	if (!n_vnetworks) {
		vnetworks[n_vnetworks++] = (struct vnetwork){ .name = "lan", .sw = vswitch_create() };
		MUST(!vswitch_add(vnetworks[0].sw, &neighbour));
		fake_boot_info.files[fake_boot_info.n_files++] = (struct boot_file){ "kernel", (const u8 *)kernel, sizeof(kernel) };
		fake_boot_info.files[fake_boot_info.n_files++] = (struct boot_file){ "image", image, sizeof(image) };
	}
	fake_tsc_now = 1000;
	entropy = 0;
	next_io.there = false;
	moves_left = 8;
	vm = vm_define(&c, &e);
	MUST(vm && !vm_start(vm, &e));
	if (vmx_config.apicv) /* as Linux does, or it takes long to be found */
		MUST(!lapic_msr_write(vm->vcpus[0]->lapic, 0x1b, lapic_base(vm->vcpus[0]->lapic) | BIT(10)));
	enter_long_mode();
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	static u64 free_before;
	u64 deadline;

	in = (struct input){ data, data + len };
	vmx_config.apicv = len & 1;
	make();
	for (unsigned i = 0; i < 300 && in.p < in.end && !vm_is_dead(vm); i++) {
		u8 op = (u8)take(&in, 1);
		struct vcpu *v = vm->vcpus[op & 1];

		if (op & 0x80) {
			host(op);
		} else if (vcpu_runnable(v) && !vm->attention) {
			exits_left = 1 + (op >> 1 & 31);
			deadline = fake_tsc_now + 100 * exits_left;
			vcpu_run(v, deadline);
			vcpu_put(v);
		} else {
			fake_tsc_now += 1000;
		}
		lifecycle_poll(vm);
	}
	if (vm_is_dead(vm))
		MUST(vm->reason[0]);
	else
		check_state();
	vm_destroy(vm);
	/* The heap keeps what it has grown by; guests give all back. */
	if (free_before)
		MUST(frame_stats().free + 64 >= free_before);
	else
		free_before = frame_stats().free;
	return 0;
}
