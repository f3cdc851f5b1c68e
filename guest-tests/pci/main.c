/* SPDX-License-Identifier: MIT */
/*
 * pci: the PCI bus and its virtio entropy device. Configuration space, BAR sizing and relocation, MSI-X with its masks,
 * INTA, a split ring in use, and rings that make no sense: the device has to say so, and work again after a reset.
 * Arguments: loops=N (300) requests in a row; direct: without EVENT_IDX and indirect descriptors; turns=N or loop: MSI-X
 * only, over and over (loop.c), held with a message pending behind a mask.
 */
#include "guest.h"

#define RNG_SLOT 1
#define VEC_QUEUE 0x51
#define VEC_CONFIG 0x52
#define VEC_INTA 0x53
#define VEC_OTHER 0x72
#define INTA_PIN (16 + RNG_SLOT % 4)
#define SIZE 8 /* of the ring */

static struct virtio dev;
static volatile u32 queue_irqs, queue_irq_vector, queue_irq_cpu, config_irqs, inta_irqs, inta_isr;
static VRING(SIZE) ring;
static struct vring_desc table[4] __attribute__((aligned(16)));
static u8 buffer[4096] __attribute__((aligned(4096)));
static u16 seen;

static u32 config(u32 slot, u32 fn, u32 reg)
{
	outl(0xcf8, 0x80000000 | slot << 11 | fn << 8 | (reg & 0xfc));
	return inl(0xcfc);
}

static u32 cfg(u32 reg) { return pci_read(RNG_SLOT, reg); }
static void cfg_write(u32 reg, u32 v) { pci_write(RNG_SLOT, reg, v); }

static void on_queue(struct regs *r)
{
	queue_irq_vector = (u32)r->vector;
	queue_irq_cpu = smp_self();
	queue_irqs++;
	apic_eoi();
}

static void on_config(struct regs *r) { (void)r; config_irqs++; apic_eoi(); }
static void on_inta(struct regs *r)
{
	(void)r;
	inta_isr = REG(u8, dev.isr); /* lowers it */
	inta_irqs++;
	apic_eoi();
}

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
	CHECK("pci-entropy", cfg(0) == 0x10441af4 && pci_read8(RNG_SLOT, 8) >= 1, "id %x revision %u", cfg(0), pci_read8(RNG_SLOT, 8));
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
	CHECK("bar-off", REG(u32, first) == ~0u, "decodes though disabled: %x", REG(u32, first));
	cfg_write(0x10, 0xd0000000);
	cfg_write(4, 6);
	CHECK("bar-moved", REG(u16, 0xd0000000 + 18) == 1 && REG(u16, first + 18) == 0xffff, "queues %u, at the old place %x",
	      REG(u16, 0xd0000000 + 18), REG(u16, first + 18));
}

static u8 status(void) { return virtio_status(&dev); }
static void msix_entry(u32 i, u8 vector, u32 masked) { virtio_msix(&dev, i, 0, vector, masked); }

static bool start(bool msix)
{
	if (!virtio_begin(&dev, arg_is("direct", NULL) ? 0 : VIRTIO_INDIRECT | VIRTIO_EVENT_IDX))
		return false;
	memset(&ring, 0, sizeof(ring));
	seen = 0;
	cfg_write(dev.msix_control, msix ? 0x80000000 : 0);
	REG(u16, dev.common + 16) = msix ? 1 : VIRTIO_NO_VECTOR;
	VIRTIO_QUEUE(&dev, 0, &ring, msix ? 0 : VIRTIO_NO_VECTOR);
	return virtio_go(&dev);
}

static void submit(u16 head)
{
	ring.avail.ring[ring.avail.idx % SIZE] = head;
	__asm__ volatile("" : : : "memory");
	ring.avail.idx++;
	virtio_notify(&dev, 0);
}

static void test_start(void)
{
	REG(u8, dev.common + 20) = 0;
	CHECK("reset", status() == 0, "status %x", status());
	REG(u8, dev.common + 20) = 3;
	REG(u32, dev.common + 8) = 1;
	REG(u32, dev.common + 12) = 0;
	REG(u8, dev.common + 20) = 11;
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
			ring.desc[head] = (struct vring_desc){ (u64)buffer, 16, VRING_WRITE | VRING_NEXT, (u16)((head + 1) % SIZE) };
			ring.desc[(head + 1) % SIZE] = (struct vring_desc){ (u64)buffer + 16, 48, VRING_WRITE, 0 };
		} else {
			table[0] = (struct vring_desc){ (u64)buffer, 40, VRING_WRITE | VRING_NEXT, 2 };
			table[2] = (struct vring_desc){ (u64)buffer + 40, 24, VRING_WRITE, 0 };
			ring.desc[head] = (struct vring_desc){ (u64)table, 48, VRING_INDIRECT, 0 };
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

	ring.desc[0] = (struct vring_desc){ (u64)buffer, 8, VRING_WRITE, 0 };
	msix_entry(0, VEC_QUEUE, 1);
	ring.avail.event = seen;
	submit(0);
	CHECK("masked-used", taken(0, 8), "used index %u", ring.used.idx);
	delay_us(2000);
	WAIT(queue_irqs != irqs || (REG(u32, dev.msix_pba) & 1));
	CHECK("masked-pending", queue_irqs == irqs && (REG(u32, dev.msix_pba) & 1), "%u interrupts, pending %x", queue_irqs - irqs,
	      REG(u32, dev.msix_pba));
	REG(u32, dev.msix_table + 12) = 0;
	CHECK("unmasked", WAIT(queue_irqs == irqs + 1) && !(REG(u32, dev.msix_pba) & 1), "%u interrupts, pending %x", queue_irqs - irqs,
	      REG(u32, dev.msix_pba));
}

static void test_inta(void)
{
	CHECK("inta-start", start(false), "status %x", status());
	ioapic_write(0x10 + 2 * INTA_PIN + 1, apic_read(APIC_ID) & 0xff000000);
	ioapic_write(0x10 + 2 * INTA_PIN, VEC_INTA | 0x8000); /* level */
	ring.desc[0] = (struct vring_desc){ (u64)buffer, 8, VRING_WRITE, 0 };
	for (u32 i = 1; i <= 3; i++) {
		ring.avail.event = seen;
		submit(0);
		CHECK("inta-used", taken(0, 8), "used index %u", ring.used.idx);
		CHECK("inta", WAIT(inta_irqs == i) && inta_isr == 1, "%u interrupts instead of %u, ISR %x", inta_irqs, i, inta_isr);
	}
	ioapic_write(0x10 + 2 * INTA_PIN, 0x10000);
}

/* Each case is set up, submitted, and has to end in VIRTIO_NEEDS_RESET with a configuration interrupt. */
static void test_hostile(void)
{
	static const char *const names[] = { "hostile-loop", "hostile-head", "hostile-next", "hostile-buffer", "hostile-index",
					     "hostile-table" };

	for (u32 i = 0; i < ARRAY_SIZE(names); i++) {
		u32 irqs = config_irqs;
		u16 head = 0;

		CHECK("hostile-start", start(true), "%s: status %x", names[i], status());
		ring.desc[0] = (struct vring_desc){ (u64)buffer, 8, VRING_WRITE, 0 };
		switch (i) {
		case 0: ring.desc[0] = (struct vring_desc){ (u64)buffer, 8, VRING_WRITE | VRING_NEXT, 0 }; break;
		case 1: head = SIZE; break;
		case 2: ring.desc[0] = (struct vring_desc){ (u64)buffer, 8, VRING_WRITE | VRING_NEXT, 0x8000 }; break;
		case 3: ring.desc[0] = (struct vring_desc){ 0xfffffffffffffffc, 64, VRING_WRITE, 0 }; break;
		case 4: ring.avail.idx = 0x4000; break;
		case 5: ring.desc[0] = (struct vring_desc){ (u64)table, 24, VRING_INDIRECT, 0 }; break;
		}
		submit(head);
		CHECK(names[i], WAIT(status() & VIRTIO_NEEDS_RESET), "status %x", status());
		CHECK("hostile-interrupt", WAIT(config_irqs == irqs + 1), "%u interrupts", config_irqs - irqs);
		CHECK("hostile-unused", ring.used.idx == 0, "used index %u", ring.used.idx);
	}
	/* A request that goes on being changed; wherever it lands, nobody is hurt. */
	CHECK("hostile-start", start(true), "status %x", status());
	for (u32 i = 0; i < 200; i++) {
		u64 x = mix64(i + 1);

		ring.desc[x % SIZE] = (struct vring_desc){ x & 0x100 ? x >> 20 : (u64)buffer, (u32)(x >> 40) & 0xfff, (u16)(x >> 56) & 7,
						     (u16)(x >> 16) % SIZE };
		submit((u16)(x >> 32) % SIZE);
		if (status() & VIRTIO_NEEDS_RESET)
			start(true);
	}
}

/* A message is held back by the vector's mask or by the function's, its bit pending; where it goes, and with which vector, is
 * decided in the meantime. It comes once. */
static void prove_msix(void)
{
	u32 n = smp_cpus();

	smp_doze = true;
	intr_set(VEC_OTHER, on_queue);
	for (u32 i = 1; i < n; i++)
		CHECK("msix.cpus", smp_boot(i), "CPU %u does not come up", i);
	msix_entry(1, VEC_CONFIG, 0);
	CHECK("start", start(true), "status %x", status());
	ring.desc[0] = (struct vring_desc){ (u64)buffer, 8, VRING_WRITE, 0 };
	for (u32 turn = 0; loop_turn(); turn++) {
		u32 to = turn % n, irqs = queue_irqs, whole = turn & 2, entry[4];
		u8 vector = turn & 4 ? VEC_QUEUE : VEC_OTHER;

		msix_entry(0, VEC_CONFIG, !whole);
		if (whole)
			cfg_write(dev.msix_control, 0xc0000000);
		ring.avail.event = seen;
		submit(0);
		CHECK("msix.used", taken(0, 8), "used index %u", ring.used.idx);
		WAIT(REG(u32, dev.msix_pba) & 1);
		loop_hold();
		CHECK("msix.pending", queue_irqs == irqs && !config_irqs && REG(u32, dev.msix_pba) == 1,
		      "%u and %u interrupts, pending %x", queue_irqs - irqs, config_irqs, REG(u32, dev.msix_pba));
		for (u32 i = 0; i < ARRAY_SIZE(entry); i++)
			entry[i] = REG(u32, dev.msix_table + 4 * i);
		CHECK("msix.registers", entry[0] == 0xfee00000 && !entry[1] && entry[2] == VEC_CONFIG && entry[3] == !whole &&
		      cfg(dev.msix_control) >> 30 == (whole ? 3 : 2), "%x %x %x %x, control %x", entry[0], entry[1], entry[2], entry[3],
		      cfg(dev.msix_control) >> 16);
		if (whole) {
			virtio_msix(&dev, 0, smp_cpu[to].apic_id, vector, 0);
			CHECK("msix.masked", queue_irqs == irqs, "%u interrupts", queue_irqs - irqs);
			cfg_write(dev.msix_control, 0x80000000);
		} else {
			virtio_msix(&dev, 0, smp_cpu[to].apic_id, vector, 1);
			CHECK("msix.masked", queue_irqs == irqs, "%u interrupts", queue_irqs - irqs);
			virtio_msix(&dev, 0, smp_cpu[to].apic_id, vector, 0);
		}
		for (u32 i = 1; i <= 2; i++) {
			CHECK("msix.comes", WAIT(queue_irqs == irqs + i) && !REG(u32, dev.msix_pba), "%u interrupts, pending %x",
			      queue_irqs - irqs, REG(u32, dev.msix_pba));
			CHECK("msix.where", queue_irq_cpu == to && queue_irq_vector == vector, "CPU %u, vector %x, not %u, %x",
			      queue_irq_cpu, queue_irq_vector, to, vector);
			if (i == 2)
				break;
			ring.avail.event = seen; /* and one that nothing holds back */
			submit(0);
			CHECK("msix.used", taken(0, 8), "used index %u", ring.used.idx);
		}
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
	if (!CHECK("capabilities", virtio_find(&dev, RNG_SLOT), "%lx %lx %lx %lx %lx", dev.common, dev.notify_at, dev.isr,
		   dev.msix_table, dev.msix_pba))
		return 0;
	if (loop_asked()) {
		prove_msix();
		return 0;
	}
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
