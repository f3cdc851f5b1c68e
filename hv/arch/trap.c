/* SPDX-License-Identifier: MIT */
/* Exceptions in the hypervisor itself. But for a few instructions that may fault (EX_FIXUP) they are our bugs. */
#include "hv/arch/cpu.h"
#include "hv/arch/x86.h"
#include "hv/lib/log.h"

extern const u8 ImageBase[], _text[], _etext[];
extern const u8 cpu_sleep_hlt[];
extern bool cpu_stopping;
void (*cpu_kick_hook)(void);
extern const s32 _ex_table[][2], _ex_table_end[][2];

static const char *const vector_names[32] = {
	"#DE divide error", "#DB debug", "NMI", "#BP breakpoint", "#OF overflow", "#BR bound", "#UD invalid opcode",
	"#NM device not available", "#DF double fault", "coprocessor overrun", "#TS invalid TSS", "#NP segment not present",
	"#SS stack fault", "#GP general protection", "#PF page fault", "reserved", "#MF x87 error", "#AC alignment",
	"#MC machine check", "#XM SIMD error", "#VE virtualization", "#CP control protection",
};

/* Where an instruction at rip that may fault continues, or 0. */
static u64 find_fixup(u64 rip)
{
	for (const s32 (*e)[2] = _ex_table; e < _ex_table_end; e++)
		if ((uintptr_t)&(*e)[0] + (*e)[0] == rip)
			return (uintptr_t)&(*e)[1] + (*e)[1];
	return 0;
}

static void dump(const struct trap_frame *f)
{
	const u64 base = (uintptr_t)ImageBase, text = (uintptr_t)_text, etext = (uintptr_t)_etext;
	const char *name = f->vector < 32 && vector_names[f->vector] ? vector_names[f->vector] : "interrupt";
	const struct cpu *c = this_cpu();
	u64 low = c->stack_low;
	unsigned shown = 0;

	log_err("cpu", "EXCEPTION %llu (%s) error %#llx in the hypervisor, CPU %u; this host stops",
		(unsigned long long)f->vector, name, (unsigned long long)f->error_code, c->id);
	if (f->rip >= text && f->rip < etext)
		log_err("cpu", "rip image+%#llx (addr2line -e godwit.elf)", (unsigned long long)(f->rip - base));
	log_err("cpu", "rip %016llx cs %04llx rflags %08llx rsp %016llx ss %04llx cr2 %016llx", (unsigned long long)f->rip,
		(unsigned long long)f->cs, (unsigned long long)f->rflags, (unsigned long long)f->rsp,
		(unsigned long long)f->ss, (unsigned long long)read_cr2());
	log_err("cpu", "rax %016llx rbx %016llx rcx %016llx rdx %016llx", (unsigned long long)f->rax,
		(unsigned long long)f->rbx, (unsigned long long)f->rcx, (unsigned long long)f->rdx);
	log_err("cpu", "rsi %016llx rdi %016llx rbp %016llx r8  %016llx", (unsigned long long)f->rsi,
		(unsigned long long)f->rdi, (unsigned long long)f->rbp, (unsigned long long)f->r8);
	log_err("cpu", "r9  %016llx r10 %016llx r11 %016llx r12 %016llx", (unsigned long long)f->r9,
		(unsigned long long)f->r10, (unsigned long long)f->r11, (unsigned long long)f->r12);
	log_err("cpu", "r13 %016llx r14 %016llx r15 %016llx cr3 %016llx", (unsigned long long)f->r13,
		(unsigned long long)f->r14, (unsigned long long)f->r15, (unsigned long long)read_cr3());
	if (f->rsp < low && f->rsp + PAGE_SIZE >= low)
		log_err("cpu", "the main stack (%llu KiB) has overflowed", (unsigned long long)(c->stack_top - low) >> 10);
	/* Return addresses on the main stack, as far as words on it look like it. */
	for (u64 sp = ALIGN_UP(f->rsp, 8); sp >= low && sp + 8 <= c->stack_top && shown < 16; sp += 8) {
		u64 w = *(const u64 *)sp;

		if (w >= text && w < etext) {
			log_err("cpu", "  [rsp+%#llx] image+%#llx", (unsigned long long)(sp - f->rsp),
				(unsigned long long)(w - base));
			shown++;
		}
	}
}

void trap_handle(struct trap_frame *f)
{
	static bool dying;
	u64 fixup;

	if (f->vector == VEC_NMI) {
		/* A kick, or a stray NMI; nothing may be logged here. */
		if (cpu_stopping)
			cpu_stop();
		/* It came after the last look at what is pending: the entry that follows must end at once. */
		if (this_cpu()->running && cpu_kick_hook)
			cpu_kick_hook();
		return;
	}
	if (f->vector >= 32) {
		/* The end of a sleep; or a source that firmware left on and nobody masks, which is no reason to stop. */
		if (f->vector != VEC_SPURIOUS)
			cpu_apic_eoi();
		f->rip += f->rip == (uintptr_t)cpu_sleep_hlt; /* it was to end that sleep */
		return;
	}
	if (f->vector == VEC_GP) {
		fixup = find_fixup(f->rip);
		if (fixup) {
			f->rip = fixup;
			return;
		}
	}
	if (__atomic_test_and_set(&dying, __ATOMIC_SEQ_CST))
		cpu_stop(); /* the report itself faulted, or another CPU reports */
	cpu_stop_others();
	dump(f);
	log_flush();
	cpu_stop();
}
