/* SPDX-License-Identifier: MIT */
/* Per-CPU data, descriptor tables, exceptions, and bringing the machine from firmware to hypervisor. */
#pragma once
#include "boot/boot_info.h"
#include "hv/arch/caps.h"

/* Selectors in the per-CPU GDT; VM exits load these as the host's (SDM "Loading Host Segment and Descriptor-Table Registers"). */
#define SEL_CODE 0x08
#define SEL_DATA 0x10
#define SEL_TSS 0x18

#define IST_STACK_SIZE 8192u
#define MAIN_STACK_SIZE (256u << 10)

/* SDM "Task Management in 64-bit Mode". */
struct tss {
	u32 reserved0;
	u64 rsp[3];
	u64 reserved1;
	u64 ist[7];
	u64 reserved2;
	u16 reserved3, iopb;
} __packed;

/* Private to its CPU; GS base points here. */
struct cpu {
	struct cpu *self;   /* %gs:0 */
	u32 id;             /* 0 = service CPU */
	u32 apic_id;
	u64 gdt[5];         /* null, code, data, TSS (two slots) */
	struct tss tss;
	u64 stack_top;      /* main stack: HOST_RSP */
	u64 host_xcr0;      /* XCR0 while hypervisor code runs */
	u64 nmi_count;      /* NMIs taken in root operation */
};

static inline struct cpu *this_cpu(void)
{
	struct cpu *c;
	__asm__("mov %%gs:0, %0" : "=r"(c));
	return c;
}

/* What the exception entry code saves, lowest address first. */
struct trap_frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
	u64 vector, error_code;
	u64 rip, cs, rflags, rsp, ss;
};

/* For arch_init(): descriptor tables, FS/GS base, control registers and FPU state of the boot CPU. */
void cpu_init_tables(void);
void cpu_init_state(const struct host_caps *caps);
/* For paging_init(): va of the i-th guard page, 0 after the last. */
u64 cpu_guard_page(unsigned i);
/* The C part of every exception. */
void trap_handle(struct trap_frame *f);

/* First call of hv_main(): log and UART, GDT/IDT/TSS, FPU state, own page tables, frame allocator over bi->free,
 * ACPI, clock, quiet interrupt controllers, capability check (host_caps()). Afterwards all of hv/ may be used. */
void arch_init(struct boot_info *bi);

/* For HOST_GDTR_BASE, HOST_IDTR_BASE, HOST_TR_BASE, HOST_FS_BASE (fake TCB of the C library), HOST_GS_BASE. */
u64 cpu_gdt_base(void);
u64 cpu_idt_base(void);
u64 cpu_tss_base(void);
u64 cpu_fs_base(void);
u64 cpu_gs_base(void);
/* Top of the one stack that the hypervisor runs on (16-byte aligned); a guard page lies below it. */
u64 cpu_main_stack_top(void);
/* Loads GDTR, IDTR and TR with their full limits again; after VMXOFF or where a VM exit's limits (0xffff) disturb. */
void cpu_load_tables(void);

/* The LAPIC of this CPU in whatever mode firmware left it: register offset as in xAPIC MMIO (0x20, 0x80, ...). */
u32 cpu_apic_read(u32 offset);
void cpu_apic_write(u32 offset, u32 val);

/* A machine check while a guest ran is reported like one in the hypervisor, and ends like it: this host stops. */
void cpu_machine_check(void);
/* ACPI S5; then the emulators' own ways; halts if all fail. */
__noreturn void machine_poweroff(void);
/* FADT reset register, port CF9h, keyboard controller, triple fault. */
__noreturn void machine_reset(void);
/* Stops this CPU for good (interrupts off, HLT). */
__noreturn void cpu_stop(void);
