/* SPDX-License-Identifier: MIT */
/* Per-CPU data, descriptor tables, exceptions, and bringing the machine from firmware to hypervisor. */
#pragma once
#include "boot/boot_info.h"
#include "hv/arch/caps.h"
#include "hv/arch/percpu.h"

/* Selectors in the per-CPU GDT; VM exits load these as the host's (SDM "Loading Host Segment and Descriptor-Table Registers"). */
#define SEL_CODE 0x08
#define SEL_DATA 0x10
#define SEL_TSS 0x18

#define IST_STACK_SIZE 8192u
#define MAIN_STACK_SIZE (256u << 10)

/* What the exception entry code saves, lowest address first. */
struct trap_frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
	u64 vector, error_code;
	u64 rip, cs, rflags, rsp, ss;
};

/* For arch_init(): descriptor tables, FS/GS base of the boot CPU. */
void cpu_init_tables(void);
/* Makes the descriptor tables of c, whose stacks (main, then N_IST exception stacks, each above a guard page) lie at
 * the addresses given: AP_STACKS_BYTES in all for another CPU. */
#define CPU_N_IST 7
#define AP_STACK_SIZE (32u << 10)
#define AP_STACKS_BYTES (PAGE_SIZE + AP_STACK_SIZE + CPU_N_IST * (PAGE_SIZE + IST_STACK_SIZE))
void cpu_make(struct cpu *c, u32 id, u64 stack_low, u64 stack_top, u64 first_ist);
/* Loads c's tables and bases into the CPU that this runs on. */
void cpu_load(struct cpu *c);
/* Control registers and FPU state of this CPU. */
void cpu_init_state(const struct host_caps *caps);
/* Sends an IPI: low word of the ICR (SDM "Interrupt Command Register (ICR)") to one CPU. */
void cpu_send_ipi(u32 apic_id, u32 icr);
#define ICR_NMI 0x4400u
#define ICR_INIT 0x4500u
#define ICR_STARTUP 0x4600u
#define ICR_WAKE (0x4000u | VEC_WAKE)
/* Vectors of interrupts that only end a cpu_sleep(). */
#define VEC_WAKE 0xf0
#define VEC_TIMER 0xf1
#define VEC_SPURIOUS 0xff
/* Prepares this CPU's local APIC: enabled, nothing in service, timer in TSC-deadline mode where the CPU has it. */
void cpu_apic_init(void);
/* Sleeps until host TSC deadline or until another CPU wakes this one (cpu_wake()); the caller has set this_cpu()->idle
 * and then looked once more for work. Returns at once where there is no TSC-deadline timer. */
void cpu_sleep(u64 deadline_tsc);
/* Wakes a CPU that sleeps or is about to; false if somebody else just did. */
bool cpu_wake(struct cpu *c);
/* Stops all other CPUs for good; for the end of this host. */
void cpu_stop_others(void);

/* --- smp.c --- */
/* Starts the other CPUs of the MADT (SDM "MP Initialization"), one after the other; each calls entry() on its own stack and
 * tables, which sets this_cpu()->started when the next may start, and does not return. One where it returns without, and one
 * whose TSC differs from the boot CPU's, are left out. trampoline: a page below 1 MiB that is ours; 0: only the boot CPU is used. */
void smp_start(u64 trampoline, void (*entry)(void));
/* For paging_init(): va of the i-th guard page, 0 after the last. */
u64 cpu_guard_page(unsigned i);
/* Called by the NMI handler while a guest is about to run on this CPU: makes the entry that follows end at once. */
extern void (*cpu_kick_hook)(void);
/* The C part of every exception. */
void trap_handle(struct trap_frame *f);

/* First call of hv_main(): log and UART, GDT/IDT/TSS, FPU state, own page tables, ACPI, clock, quiet interrupt controllers,
 * frame allocator over bi->free, capability check (host_caps()). Afterwards all of hv/ may be used. */
void arch_init(struct boot_info *bi);

/* FS base for the C library (its fake thread block) in the firmware phase. */
u64 cpu_boot_fs_base(void);
/* Of this CPU, for HOST_GDTR_BASE, HOST_IDTR_BASE, HOST_TR_BASE. */
u64 cpu_gdt_base(void);
u64 cpu_idt_base(void);
u64 cpu_tss_base(void);
/* Top of the boot CPU's stack (16-byte aligned); a guard page lies below it. */
u64 cpu_main_stack_top(void);
/* The LAPIC of this CPU in whatever mode firmware left it: register offset as in xAPIC MMIO (0x20, 0x80, ...). */
u32 cpu_apic_read(u32 offset);
/* The interrupt in service is done. */
void cpu_apic_eoi(void);

/* A machine check while a guest ran is reported like one in the hypervisor, and ends like it: this host stops. */
void cpu_machine_check(void);
/* An NMI that ended a guest's time slice is handled like one in the hypervisor. */
void cpu_nmi(void);
/* ACPI S5; then the emulators' own ways; halts if all fail. */
__noreturn void machine_poweroff(void);
/* Stops this CPU for good (interrupts off, HLT). */
__noreturn void cpu_stop(void);
