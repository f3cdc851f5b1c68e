/* SPDX-License-Identifier: MIT */
/*
 * pci: the PCI bus and its virtio entropy device. Configuration space, BAR sizing and relocation, MSI-X with its masks,
 * INTA, a split ring in use, and rings that make no sense: the device has to say so, and work again after a reset.
 * Arguments: loops=N (300) requests in a row; direct: without EVENT_IDX and indirect descriptors.
 */
#include "guest.h"

#define RNG_SLOT 1
#define VEC_QUEUE 0x51
#define VEC_CONFIG 0x52
#define VEC_INTA 0x53
#define INTA_PIN (16 + RNG_SLOT % 4)
#define SIZE 8 /* of the ring */
#define NEEDS_RESET 0x40

static u64 common, isr, notify_at, msix_table, msix_pba;
static u16 notify_multiplier;
static volatile u32 queue_irqs, config_irqs, inta_irqs, inta_isr;

struct desc { u64 addr; u32 len; u16 flags, next; };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
static struct {
	struct desc desc[SIZE];
	struct { volatile u16 flags, idx, ring[SIZE], event; } avail __attribute__((aligned(64)));
	struct { volatile u16 flags, idx; volatile struct { u32 id, len; } ring[SIZE]; volatile u16 event; } used __attribute__((aligned(64)));
} __attribute__((aligned(4096))) ring;
static struct desc table[4] __attribute__((aligned(16)));
static u8 buffer[4096] __attribute__((aligned(4096)));
static u16 seen;

static u32 config(u32 slot, u32 fn, u32 reg)
{
	outl(0xcf8, 0x80000000 | slot << 11 | fn << 8 | (reg & 0xfc));
	return inl(0xcfc);
}

static u32 cfg(u32 reg) { return config(RNG_SLOT, 0, reg); }
static u8 cfg8(u32 reg) { return (u8)(cfg(reg) >> 8 * (reg & 3)); }

static void cfg_write(u32 reg, u32 v)
{
	outl(0xcf8, 0x80000000 | RNG_SLOT << 11 | (reg & 0xfc));
	outl(0xcfc, v);
}

#define R(type, at) (*(volatile type *)(u64)(at))

static void on_queue(struct regs *r) { (void)r; queue_irqs++; apic_eoi(); }
static void on_config(struct regs *r) { (void)r; config_irqs++; apic_eoi(); }
static void on_inta(struct regs *r)
{
	(void)r;
	inta_isr = R(u8, isr); /* lowers it */
	inta_irqs++;
	apic_eoi();
}

/* Interrupts on, until the condition holds or half a second has passed. */
#define WAIT(cond) ({                                                                            \
		u64 end_ = rdtsc() + tsc_khz() * 500;                                            \
		sti();                                                                           \
		while (!(cond) && rdtsc() < end_)                                                \
			pause();                                                                 \
		cli();                                                                           \
		(cond);                                                                          \
	})

static void test_scan(void)
{
	u32 found = 0, stray = 0;

	CHECK("pci-bridge", config(0, 0, 8) >> 8 == 0x060000, "class of 00:00.0 is %x", config(0, 0, 8) >> 8);
	for (u32 slot = 1; slot < 32; slot++) {
		if (config(slot, 0, 0) != ~0u)
			found |= 1u << slot;
		for (u32 fn = 1; fn < 8; fn++)
			stray += config(slot, fn, 0) != ~0u;
	}
	CHECK("pci-devices", (found & 6) == 6 && !stray, "slots %x, functions above 0: %u", found, stray);
	CHECK("pci-entropy", cfg(0) == 0x10441af4 && cfg8(8) >= 1, "id %x revision %u", cfg(0), cfg8(8));
	outl(0xcf8, 0);
	CHECK("pci-disabled", inl(0xcfc) == ~0u, "reads %x", inl(0xcfc));
	outb(0xcf9, 0); /* the reset register in the middle of the address register */
	CHECK("pci-reset-register", inl(0xcf8) == 0 && inb(0xcf9) == 0, "%x %x", inl(0xcf8), inb(0xcf9));
}

static void test_bar(void)
{
	u32 first = cfg(0x10), size;

	cfg_write(4, 0);
	cfg_write(0x10, ~0u);
	size = -(cfg(0x10) & ~15u);
	CHECK("bar-size", size >= 4096 && !(size & (size - 1)) && !(cfg(0x10) & 15), "%x", cfg(0x10));
	cfg_write(0x10, first);
	CHECK("bar-off", R(u32, first) == ~0u, "decodes though disabled: %x", R(u32, first));
	cfg_write(0x10, 0xd0000000);
	cfg_write(4, 6);
	CHECK("bar-moved", R(u16, 0xd0000000 + 18) == 1 && R(u16, first + 18) == 0xffff, "queues %u, at the old place %x",
	      R(u16, 0xd0000000 + 18), R(u16, first + 18));
}

static void find_capabilities(void)
{
	u64 bar = cfg(0x10) & ~15u;

	for (u32 at = cfg8(0x34), n = 0; at && n < 48; at = cfg8(at + 1), n++) {
		u32 off = (u32)bar + cfg(at + 8);

		if (cfg8(at) == 0x11) {
			msix_table = bar + (cfg(at + 4) & ~7u);
			msix_pba = bar + (cfg(at + 8) & ~7u);
		} else if (cfg8(at) == 9) {
			switch (cfg8(at + 3)) {
			case 1: common = off; break;
			case 2: notify_at = off; notify_multiplier = (u16)cfg(at + 16); break;
			case 3: isr = off; break;
			}
		}
	}
	CHECK("capabilities", common && notify_at && isr && msix_table && msix_pba, "%lx %lx %lx %lx %lx", common, notify_at, isr,
	      msix_table, msix_pba);
}

static u8 status(void) { return R(u8, common + 20); }

static void msix_entry(u32 i, u8 vector, u32 masked)
{
	R(u32, msix_table + 16 * i) = 0xfee00000;
	R(u32, msix_table + 16 * i + 4) = 0;
	R(u32, msix_table + 16 * i + 8) = vector;
	R(u32, msix_table + 16 * i + 12) = masked;
}

/* As "Device Initialization" has it. */
static bool start(bool msix)
{
	u32 low = arg_is("direct", NULL) ? 0 : 1u << 28 | 1u << 29;

	R(u8, common + 20) = 0;
	while (status())
		;
	memset(&ring, 0, sizeof(ring));
	seen = 0;
	R(u8, common + 20) = 1;
	R(u8, common + 20) = 3;
	R(u32, common + 8) = 0;
	R(u32, common + 12) = low;
	R(u32, common + 8) = 1;
	R(u32, common + 12) = 1;
	R(u8, common + 20) = 11;
	if (!(status() & 8))
		return false;
	cfg_write(0x40, msix ? 0x80000000 : 0);
	R(u16, common + 16) = msix ? 1 : 0xffff;
	R(u16, common + 22) = 0;
	R(u16, common + 24) = SIZE;
	R(u16, common + 26) = msix ? 0 : 0xffff;
	R(u32, common + 32) = (u32)(u64)ring.desc;
	R(u32, common + 36) = 0;
	R(u32, common + 40) = (u32)(u64)&ring.avail;
	R(u32, common + 44) = 0;
	R(u32, common + 48) = (u32)(u64)&ring.used;
	R(u32, common + 52) = 0;
	R(u16, common + 28) = 1;
	R(u8, common + 20) = 15;
	return status() == 15;
}

static void submit(u16 head)
{
	ring.avail.ring[ring.avail.idx % SIZE] = head;
	__asm__ volatile("" : : : "memory");
	ring.avail.idx++;
	__asm__ volatile("mfence" : : : "memory");
	R(u16, notify_at + R(u16, common + 30) * notify_multiplier) = 0;
}

static void test_start(void)
{
	R(u8, common + 20) = 0;
	CHECK("reset", status() == 0, "status %x", status());
	R(u8, common + 20) = 3;
	R(u32, common + 8) = 1;
	R(u32, common + 12) = 0;
	R(u8, common + 20) = 11;
	CHECK("features-refused", !(status() & 8), "status %x without VERSION_1", status());
	msix_entry(0, VEC_QUEUE, 0);
	msix_entry(1, VEC_CONFIG, 0);
	CHECK("start", start(true), "status %x", status());
}

static bool taken(u16 head, u32 len)
{
	if (!WAIT(ring.used.idx != seen))
		return false;
	return ring.used.ring[seen % SIZE].id == head && ring.used.ring[seen++ % SIZE].len == len;
}

static void test_requests(void)
{
	u64 loops = arg_u64("loops", 300), words = 0, equal = 0, last = 0;
	bool direct = arg_is("direct", NULL), good = true;

	for (u64 i = 0; good && i < loops; i++) {
		u16 head = i % SIZE;
		u32 irqs = queue_irqs;

		memset(buffer, 0, 64);
		if (direct || i % 2) {
			ring.desc[head] = (struct desc){ (u64)buffer, 16, WRITE | NEXT, (u16)((head + 1) % SIZE) };
			ring.desc[(head + 1) % SIZE] = (struct desc){ (u64)buffer + 16, 48, WRITE, 0 };
		} else {
			table[0] = (struct desc){ (u64)buffer, 40, WRITE | NEXT, 2 };
			table[2] = (struct desc){ (u64)buffer + 40, 24, WRITE, 0 };
			ring.desc[head] = (struct desc){ (u64)table, 48, INDIRECT, 0 };
		}
		ring.avail.event = seen; /* an interrupt for each */
		submit(head);
		good = CHECK("request", taken(head, 64), "request %lu: used index %u, status %x", i, ring.used.idx, status());
		good = good && CHECK("request-interrupt", WAIT(queue_irqs == irqs + 1), "request %lu: %u interrupts", i,
				     queue_irqs - irqs);
		for (u32 w = 0; w < 8; w++) {
			u64 v = *(volatile u64 *)(buffer + 8 * w);

			words |= v;
			equal += v == last;
			last = v;
		}
	}
	CHECK("random", words == ~0ull && equal < 2, "all bits seen %lx, %lu repetitions", words, equal);
}

static void test_msix_mask(void)
{
	u32 irqs = queue_irqs;

	ring.desc[0] = (struct desc){ (u64)buffer, 8, WRITE, 0 };
	msix_entry(0, VEC_QUEUE, 1);
	ring.avail.event = seen;
	submit(0);
	CHECK("masked-used", taken(0, 8), "used index %u", ring.used.idx);
	delay_us(2000);
	WAIT(queue_irqs != irqs || (R(u32, msix_pba) & 1));
	CHECK("masked-pending", queue_irqs == irqs && (R(u32, msix_pba) & 1), "%u interrupts, pending %x", queue_irqs - irqs,
	      R(u32, msix_pba));
	R(u32, msix_table + 12) = 0;
	CHECK("unmasked", WAIT(queue_irqs == irqs + 1) && !(R(u32, msix_pba) & 1), "%u interrupts, pending %x", queue_irqs - irqs,
	      R(u32, msix_pba));
}

static void test_inta(void)
{
	CHECK("inta-start", start(false), "status %x", status());
	ioapic_write(0x10 + 2 * INTA_PIN + 1, apic_read(APIC_ID) & 0xff000000);
	ioapic_write(0x10 + 2 * INTA_PIN, VEC_INTA | 0x8000); /* level */
	ring.desc[0] = (struct desc){ (u64)buffer, 8, WRITE, 0 };
	for (u32 i = 1; i <= 3; i++) {
		ring.avail.event = seen;
		submit(0);
		CHECK("inta-used", taken(0, 8), "used index %u", ring.used.idx);
		CHECK("inta", WAIT(inta_irqs == i) && inta_isr == 1, "%u interrupts instead of %u, ISR %x", inta_irqs, i, inta_isr);
	}
	ioapic_write(0x10 + 2 * INTA_PIN, 0x10000);
}

/* Each case is set up, submitted, and has to end in NEEDS_RESET with a configuration interrupt. */
static void test_hostile(void)
{
	static const char *const names[] = { "hostile-loop", "hostile-head", "hostile-next", "hostile-buffer", "hostile-index",
					     "hostile-table" };

	for (u32 i = 0; i < ARRAY_SIZE(names); i++) {
		u32 irqs = config_irqs;
		u16 head = 0;

		CHECK("hostile-start", start(true), "%s: status %x", names[i], status());
		ring.desc[0] = (struct desc){ (u64)buffer, 8, WRITE, 0 };
		switch (i) {
		case 0: ring.desc[0] = (struct desc){ (u64)buffer, 8, WRITE | NEXT, 0 }; break;
		case 1: head = SIZE; break;
		case 2: ring.desc[0] = (struct desc){ (u64)buffer, 8, WRITE | NEXT, 0x8000 }; break;
		case 3: ring.desc[0] = (struct desc){ 0xfffffffffffffffc, 64, WRITE, 0 }; break;
		case 4: ring.avail.idx = 0x4000; break;
		case 5: ring.desc[0] = (struct desc){ (u64)table, 24, INDIRECT, 0 }; break;
		}
		submit(head);
		CHECK(names[i], WAIT(status() & NEEDS_RESET), "status %x", status());
		CHECK("hostile-interrupt", WAIT(config_irqs == irqs + 1), "%u interrupts", config_irqs - irqs);
		CHECK("hostile-unused", ring.used.idx == 0, "used index %u", ring.used.idx);
	}
	/* A request that goes on being changed; wherever it lands, nobody is hurt. */
	CHECK("hostile-start", start(true), "status %x", status());
	for (u32 i = 0; i < 200; i++) {
		u64 x = mix64(i + 1);

		ring.desc[x % SIZE] = (struct desc){ x & 0x100 ? x >> 20 : (u64)buffer, (u32)(x >> 40) & 0xfff, (u16)(x >> 56) & 7,
						     (u16)(x >> 16) % SIZE };
		submit((u16)(x >> 32) % SIZE);
		if (status() & NEEDS_RESET)
			start(true);
	}
}

int main(void)
{
	apic_enable(false);
	intr_set(VEC_QUEUE, on_queue);
	intr_set(VEC_CONFIG, on_config);
	intr_set(VEC_INTA, on_inta);
	test_scan();
	test_bar();
	find_capabilities();
	if (!common || !notify_at)
		return 0;
	test_start();
	test_requests();
	test_msix_mask();
	test_inta();
	test_hostile();
	CHECK("end", start(true), "status %x", status());
	sti(); /* what the last ones left behind */
	delay_us(1000);
	cli();
	test_requests();
	return 0;
}
