/* SPDX-License-Identifier: MIT */
/*
 * The tiny library under the test guests: Multiboot entry, console, faults, interrupts, ACPI, time.
 *
 * A guest is one main.c with a main(). It is entered by entry.S in long mode, identity-mapped below
 * 4 GiB, interrupts off, all of them caught by an IDT of ours. It makes claims with CHECK() and
 * returns; the library then prints the verdict and leaves through the debug-exit port.
 * Nothing here allocates, and nothing uses floating-point or vector registers.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

#define PAGE_SIZE 4096ul
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n) (1ull << (n))
#define DEBUG_EXIT_PORT 0xf4
#define COM1 0x3f8

/* ---- what the loader handed over (boot.c) ---- */

#define MULTIBOOT_MAGIC 0x2badb002u

/* The state at the entry point, recorded by entry.S before it changes anything. */
struct entry_state {
	u32 magic, info; /* EAX and EBX */
	u32 cr0, eflags, cs, ds, ss;
};
extern struct entry_state entry_state;

struct mem_range {
	u64 base, len;
	u32 type; /* 1 is RAM */
};

struct module {
	u32 start, end; /* physical; end is one past the last byte */
	const char *args;
};

#define MAX_RANGES 32
#define MAX_MODULES 8

/* The Multiboot information, copied out of the loader's memory before main(). */
struct boot_info {
	u32 flags;
	u32 mem_lower_kb, mem_upper_kb;
	char cmdline[1024];
	struct mem_range map[MAX_RANGES];
	u32 ranges;
	struct module modules[MAX_MODULES];
	u32 module_count; /* as the loader said; at most MAX_MODULES are in modules[] */
	u32 info_start, info_end; /* around everything the loader wrote for us, modules left out */
};
extern struct boot_info boot;

/* The value of word "key=VALUE" of the command line as a number (0x allowed), or `fallback`. */
u64 arg_u64(const char *key, u64 fallback);
/* Whether word "key=value" is there; with value NULL, whether the word "key" is. */
bool arg_is(const char *key, const char *value);

extern char _image_start[], _image_end[]; /* guest.ld: everything loaded, and .bss */

/* ---- console and verdict (print.c) ---- */

void serial_init(void);
/* Prints at once, in whole FIFO loads; %s %c %d %u %x %lu %lx %ld with width and 0, %% */
__attribute__((format(printf, 1, 2))) void printf(const char *fmt, ...);

/*
 * Claim: prints "PASS name" (not within a loop) or "FAIL name file:line message". The message says what
 * was seen. Returns the condition.
 */
#define CHECK(name, cond, ...)                                                                   \
	({                                                                                       \
		bool ok_ = (cond); /* first: the message may be about its effects */             \
		guest_check(ok_, name, __FILE__, __LINE__, __VA_ARGS__);                         \
	})
__attribute__((format(printf, 5, 6))) bool guest_check(bool ok, const char *name, const char *file,
						       int line, const char *fmt, ...);
/* How many claims were wrong so far. */
u32 guest_failures(void);
/* Where the console is, if not at COM1: out() gets whole lines or 512 bytes, in() gives a byte or -1. */
extern void (*console_out)(const char *text, u32 len);
extern int (*console_in)(void);
/* "SKIP name reason": cannot be tried here. With the argument "strict" it is a failure. */
void guest_skip(const char *name, const char *reason);
/* Prints GUEST PASS or GUEST FAIL and leaves; without a debug-exit port, halts for ever. */
__attribute__((noreturn)) void guest_end(void);

void *memset(void *dst, int c, size_t n);
void *memcpy(void *dst, const void *src, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strncmp(const char *a, const char *b, size_t n);

/* ---- instructions ---- */

#define DEFINE_IO(suffix, type)                                                                  \
	static inline type in##suffix(u16 port)                                                  \
	{                                                                                        \
		type v;                                                                          \
		__asm__ volatile("in" #suffix " %1, %0" : "=a"(v) : "Nd"(port) : "memory");      \
		return v;                                                                        \
	}                                                                                        \
	static inline void out##suffix(u16 port, type v)                                         \
	{                                                                                        \
		__asm__ volatile("out" #suffix " %0, %1" : : "a"(v), "Nd"(port) : "memory");     \
	}
DEFINE_IO(b, u8)
DEFINE_IO(w, u16)
DEFINE_IO(l, u32)
#undef DEFINE_IO

static inline u64 rdtsc(void)
{
	u32 lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

static inline u64 rdmsr(u32 msr)
{
	u32 lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");
	return (u64)hi << 32 | lo;
}

static inline void wrmsr(u32 msr, u64 v)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

struct cpuid {
	u32 eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(u32 leaf, u32 sub)
{
	struct cpuid r;

	__asm__ volatile("cpuid"
			 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
			 : "a"(leaf), "c"(sub) : "memory");
	return r;
}

#define DEFINE_CR(n)                                                                             \
	static inline u64 read_cr##n(void)                                                       \
	{                                                                                        \
		u64 v;                                                                           \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                   \
		return v;                                                                        \
	}                                                                                        \
	static inline void write_cr##n(u64 v)                                                    \
	{                                                                                        \
		__asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory");                       \
	}
DEFINE_CR(0)
DEFINE_CR(2)
DEFINE_CR(3)
DEFINE_CR(4)
DEFINE_CR(8)
#undef DEFINE_CR

static inline void sti(void) { __asm__ volatile("sti" : : : "memory"); }
static inline void cli(void) { __asm__ volatile("cli" : : : "memory"); }
static inline void pause(void) { __asm__ volatile("pause" : : : "memory"); }
/* Waits for one interrupt; no interrupt can slip in between STI and HLT. Returns with IF=0. */
static inline void wait_interrupt(void) { __asm__ volatile("sti; hlt; cli" : : : "memory"); }

static inline u32 mmio_read(u64 addr) { return *(volatile u32 *)addr; }
static inline void mmio_write(u64 addr, u32 v) { *(volatile u32 *)addr = v; }

/* ---- faults and interrupts (intr.c) ---- */

struct regs {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
	u64 vector, error, rip, cs, rflags, rsp, ss;
};

enum { VEC_UD = 6, VEC_GP = 13, VEC_PF = 14, VEC_NONE = -1 };

void intr_init(void);
/* Loads the IDT of intr_init() on another CPU. */
void intr_load(void);
/* `fn` is called with interrupts off and has to do the EOI; NULL makes the vector fatal again. */
void intr_set(u8 vector, void (*fn)(struct regs *));

/*
 * TRY runs one piece of assembly and gives the vector of the exception it raised, or VEC_NONE.
 * Operands as with asm volatile; the caller must not count on outputs after a fault.
 */
extern volatile u64 fault_fixup; /* where to go on after a fault; 0: faults are fatal */
extern volatile int fault_vector;
extern volatile u64 fault_error;
#define TRY(code, outputs, inputs, ...)                                                          \
	({                                                                                       \
		fault_vector = VEC_NONE;                                                         \
		__asm__ volatile("movq $771f, fault_fixup\n\t" code "\n771:\tmovq $0, fault_fixup" \
				 : outputs : inputs : "memory", "cc", ##__VA_ARGS__);            \
		fault_vector;                                                                    \
	})
#define ARGS(...) __VA_ARGS__ /* groups several operands into one argument of TRY */

/* 0 .. or the vector; *v is unchanged after a fault. */
int try_rdmsr(u32 msr, u64 *v);
int try_wrmsr(u32 msr, u64 v);

enum apic_reg {
	APIC_ID = 0x20, APIC_VERSION = 0x30, APIC_TPR = 0x80, APIC_PPR = 0xa0, APIC_EOI = 0xb0,
	APIC_LDR = 0xd0, APIC_DFR = 0xe0, APIC_SVR = 0xf0, APIC_ISR = 0x100, APIC_IRR = 0x200,
	APIC_ESR = 0x280, APIC_ICR = 0x300, APIC_ICR_HIGH = 0x310, APIC_LVT_TIMER = 0x320,
	APIC_LVT_LINT0 = 0x350, APIC_LVT_LINT1 = 0x360, APIC_LVT_ERROR = 0x370,
	APIC_TIMER_INITIAL = 0x380, APIC_TIMER_CURRENT = 0x390, APIC_TIMER_DIVIDE = 0x3e0,
};
enum { APIC_MASKED = 1 << 16, APIC_PERIODIC = 1 << 17, APIC_TSC_DEADLINE = 2 << 17 };
enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, APIC_BASE_EXTD = 1 << 10, APIC_BASE_EN = 1 << 11 };
#define APIC_MMIO 0xfee00000ul
#define IOAPIC_MMIO 0xfec00000ul

bool apic_has_x2apic(void);
bool apic_has_tsc_deadline(void);
/* Software-enables the local APIC in xAPIC or x2APIC mode; everything in the LVT is masked. */
void apic_enable(bool x2apic);
/* Registers by their xAPIC offset, in whichever mode is on. */
u32 apic_read(enum apic_reg reg);
void apic_write(enum apic_reg reg, u32 v);
static inline void apic_eoi(void) { apic_write(APIC_EOI, 0); }

/* The 8259 pair at vectors 0x20 and 0x28, all lines masked. */
void pic_init(void);
void pic_mask(u32 irq, bool masked);
void pic_eoi(u32 irq);

u32 ioapic_read(u8 reg);
void ioapic_write(u8 reg, u32 v);
u32 ioapic_pins(void);
/* Edge, active high, fixed, to this CPU's APIC; `masked` keeps it quiet. */
void ioapic_route(u32 pin, u8 vector, bool masked);

/* ---- other CPUs (smp.c) ----
 * CPU 0 is the boot CPU. TRY is for one CPU at a time; printf() and CHECK() are for CPU 0. */

#define SMP_MAX 8
struct smp_cpu {
	u32 apic_id;
	bool x2apic;              /* mode to come up in: the boot CPU's */
	volatile u32 starts;      /* times that it has come up */
	void (*volatile job)(u32); /* what it works on; NULL: nothing */
};
extern struct smp_cpu smp_cpu[SMP_MAX];
/* CPUs in the MADT, at most SMP_MAX. To be called before all that follows. */
u32 smp_cpus(void);
/* Number of the CPU that this runs on: no exit, and right in interrupt handlers, too. */
u32 smp_self(void);
/* Sends an IPI: destination, low word of the ICR. Uses the mode that the local APIC is in. */
void smp_icr(u32 dest, u32 low);
/* INIT, and a moment to let it arrive. */
void smp_init(u32 i);
/* Start-up IPI: true when CPU i is up, with interrupts off, its local APIC enabled, waiting for jobs. */
bool smp_sipi(u32 i);
/* Both. */
bool smp_boot(u32 i);
/* Whether CPUs without a job halt, with interrupts on; smp_start_job() then wakes them. */
extern volatile bool smp_doze;
/* Gets CPU i out of HLT, if no task priority from 0xf0 on keeps it there. */
void smp_wake(u32 i);
/* CR0 and CS that the CPU started last had at its first instruction. */
void smp_state(u32 *cr0, u32 *cs);
/* Spins until *what is at least that, or the time is over. */
bool smp_wait(volatile u32 *what, u32 atleast, u64 us);
/* Has CPU i call fn(i); waits for its end; or both for all CPUs, this one among them. False: not in time. */
void smp_start_job(u32 i, void (*fn)(u32));
bool smp_wait_job(u32 i, u64 us);
bool smp_all(void (*fn)(u32), u64 us);

/* ---- ACPI (acpi.c) ---- */

/* The first table with that signature and a right checksum, or NULL. */
const u8 *acpi_find(const char *signature);
/* IO-APIC pin of an ISA interrupt, by the MADT's overrides. */
u32 acpi_isa_pin(u32 irq);
u16 acpi_pm_timer_port(void);
u16 acpi_pm1a_control_port(void);
/* SLP_TYP of S5 for PM1a; false if the DSDT has no \_S5 package that we can read. */
bool acpi_s5_type(u8 *type);
u32 acpi_get32(const u8 *table, u32 offset);

/* ---- time (time.c) ---- */

#define PM_TIMER_HZ 3579545u
u32 pm_timer_read(void);
/* TSC ticks per millisecond, measured once against the PM timer. */
u64 tsc_khz(void);
/* Microseconds between two TSC values. */
u64 tsc_us(u64 ticks);
void delay_us(u64 us);
/* Interrupts on, until the condition holds or a second has passed; then off. Whether it holds. */
#define WAIT(cond)                                                                               \
	({                                                                                       \
		u64 end_ = rdtsc() + tsc_khz() * 1000;                                           \
		sti();                                                                           \
		while (!(cond) && rdtsc() < end_)                                                \
			pause();                                                                 \
		cli();                                                                           \
		(cond);                                                                          \
	})
/* Channel 0 of the PIT: mode 0 (once) or 2 (rate); the counter is at most 65535. */
void pit_start(u8 mode, u32 counter);

/* Ticks of the local APIC timer per millisecond at divide-by-1, measured once; it has to be enabled. */
u64 apic_timer_khz(void);
/* Halts, with interrupts on; afterwards they are off. Takes this CPU's APIC timer; for a task priority below 0xe0. */
void sleep_us(u64 us);

/* ---- a property over and over (loop.c) ----
 * A guest with the argument "loop" goes on until it is told to end, so that it can be moved in the middle, and checks at
 * every turn. Typed characters: q ends it; h has it stop where a move hurts most, until g. */

/* Whether it is to be a loop: "loop", or turns=N for so many. */
bool loop_asked(void);
/* Begins a turn; false: time to end. Every line-ms=N (100) a line LOOP seq=N turns=N tsc=N chk=OK, or BAD after a wrong
 * claim. After 20 of those it ends by itself. */
bool loop_turn(void);
/* For where a move hurts most: sleeps for four milliseconds or, after an h, says HOLD and sleeps until g. */
void loop_hold(void);
/* Between turns; loop_hold() was told to hold. */
extern volatile bool loop_on, loop_holding;

/* ---- PCI and virtio (virtio.c) ---- */

u32 pci_read(u32 slot, u32 reg);
u8 pci_read8(u32 slot, u32 reg);
void pci_write(u32 slot, u32 reg, u32 v);

struct virtio {
	u32 slot, notify_multiplier;
	u32 msix_control; /* the capability: its upper half is the message control */
	u64 common, notify_at, isr, config, msix_table, msix_pba;
};
struct vring_desc { u64 addr; u32 len; u16 flags, next; };
enum { VRING_NEXT = 1, VRING_WRITE = 2, VRING_INDIRECT = 4 };
enum { VIRTIO_NEEDS_RESET = 0x40 };
enum { VIRTIO_FLUSH = 1 << 9, VIRTIO_ZEROES = 1 << 14, VIRTIO_INDIRECT = 1 << 28, VIRTIO_EVENT_IDX = 1 << 29 };
#define VIRTIO_NO_VECTOR 0xffff
/* A split ring: the event index follows the entries, so the device has to be told this size. */
#define VRING(size)                                                                              \
	struct {                                                                                 \
		struct vring_desc desc[size];                                                    \
		struct { volatile u16 flags, idx, ring[size], event; } avail __attribute__((aligned(64))); \
		struct {                                                                         \
			volatile u16 flags, idx;                                                 \
			volatile struct { u32 id, len; } ring[size];                             \
			volatile u16 event;                                                      \
		} used __attribute__((aligned(64)));                                             \
	} __attribute__((aligned(4096)))
#define REG(type, at) (*(volatile type *)(u64)(at))

/* Finds the capabilities of the device in that slot, with memory and bus mastering on; false: something is missing. */
bool virtio_find(struct virtio *d, u32 slot);
u8 virtio_status(const struct virtio *d);
/* "Device Initialization" up to FEATURES_OK, with those of the low features that it offers, and VERSION_1; then queues,
 * then virtio_go(). False: the device does not agree. */
bool virtio_begin(const struct virtio *d, u32 features);
void virtio_queue(const struct virtio *d, u16 q, const void *desc, volatile void *avail, volatile void *used, u16 size, u16 vector);
#define VIRTIO_QUEUE(d, q, r, vector) \
	virtio_queue(d, q, (r)->desc, &(r)->avail, &(r)->used, ARRAY_SIZE((r)->desc), vector)
bool virtio_go(const struct virtio *d);
void virtio_notify(const struct virtio *d, u16 q);
/* Where that is written to, for who does it often. */
u64 virtio_doorbell(const struct virtio *d, u16 q);
/* Writes a vector's MSI-X entry: to this local APIC. */
void virtio_msix(const struct virtio *d, u32 i, u32 apic_id, u8 vector, u32 masked);

/* ---- memory (mem.c) ---- */

/* Maps pages of 2 MiB or 4 KiB; `flags` are the page-table bits besides P and W. */
enum { PTE_PWT = 8, PTE_PCD = 16 };
void map_2m(u64 va, u64 pa, u64 flags);
void map_4k(u64 va, u64 pa, u64 flags);
/* Calls fn(first page, one past the last) for every piece of RAM above 2 MiB that nothing is in. */
void for_each_free_ram(void (*fn)(u64 start, u64 end));
/*
 * The test pattern of a page: words that depend on `key`, cheap to write and to compare (string
 * instructions), different for each key.
 */
void pattern_init(void);
void pattern_write(u64 page, u64 key);
/* Index of the first wrong word, or -1. */
int pattern_check(u64 page, u64 key);
u64 mix64(u64 x);

int main(void);
