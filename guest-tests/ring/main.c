/* SPDX-License-Identifier: MIT */
/*
 * ring: split rings at their edges, on the virtio console: chains without a byte, direct, indirect, with links that jump,
 * of as many descriptors as there are; notifications that the device asks for, interrupts that it is asked for or not;
 * requests that lie in the ring before it is told, also through a move; indices that go round at 65536. The guest's own
 * console goes this way, in chains of many pieces, and what is typed comes in buffers that were posted long before.
 * Arguments: turns=N or loop (loop.c); direct: without EVENT_IDX and indirect descriptors.
 */
#include "guest.h"

#define SLOT 2
#define SIZE 64
#define RX 0
#define TX 1
#define BATCH 24u
#define VEC_RX 0x51
#define VEC_TX 0x52

static struct virtio dev;
static VRING(SIZE) rings[2];
static u16 seen[2];
static volatile u32 irqs[2];
static bool direct;
static u32 rounds; /* times that the index has gone round */
static struct vring_desc tables[BATCH][SIZE] __attribute__((aligned(16)));
static char typed[SIZE][4];
static char said[512];

static void on_rx(struct regs *r) { (void)r; irqs[RX]++; apic_eoi(); }
static void on_tx(struct regs *r) { (void)r; irqs[TX]++; apic_eoi(); }

/* Puts heads into the ring, all at once, and does not tell. */
static void offer(u32 q, const u16 *heads, u32 n)
{
	for (u32 i = 0; i < n; i++)
		rings[q].avail.ring[(u16)(rings[q].avail.idx + i) % SIZE] = heads[i];
	__asm__ volatile("" : : : "memory");
	rings[q].avail.idx += (u16)n;
	__asm__ volatile("mfence" : : : "memory");
}

/* ---- the guest's console ---- */

#define SAY_HEAD 48 /* behind those of a batch */

/* A line in pieces with empty ones between them, in an indirect table; or in sixteen descriptors of the ring. */
static void say(const char *text, u32 len)
{
	static struct vring_desc table[SIZE] __attribute__((aligned(16)));
	struct vring_desc *d = direct ? rings[TX].desc : table;
	u32 piece = len / (direct ? 16 : SIZE / 2) + 1, n = direct ? SAY_HEAD : 0;

	memcpy(said, text, len);
	for (u32 at = 0; at < len; at += piece) {
		d[n] = (struct vring_desc){ (u64)said + at, len - at < piece ? len - at : piece, VRING_NEXT, (u16)(n + 1) };
		n++;
		if (!direct) {
			d[n] = (struct vring_desc){ 0, 0, VRING_NEXT, (u16)(n + 1) };
			n++;
		}
	}
	d[n - 1].flags = 0;
	if (!direct)
		rings[TX].desc[SAY_HEAD] = (struct vring_desc){ (u64)table, n * 16, VRING_INDIRECT, 0 };
	rings[TX].avail.flags = 1; /* looks for itself */
	rings[TX].avail.event = (u16)(seen[TX] - 1);
	offer(TX, &(u16){ SAY_HEAD }, 1);
	virtio_notify(&dev, TX);
	seen[TX]++;
	while (rings[TX].used.idx != seen[TX])
		pause();
}

static void post(u16 i)
{
	/* Room for one byte, behind a descriptor without any. */
	rings[RX].desc[2 * i] = (struct vring_desc){ 0, 0, VRING_WRITE | VRING_NEXT, (u16)(2 * i + 1) };
	rings[RX].desc[2 * i + 1] = (struct vring_desc){ (u64)typed[i], 1, VRING_WRITE, 0 };
	offer(RX, &(u16){ 2 * i }, 1);
}

static int hear(void)
{
	u32 id, len;
	char c;

	if (rings[RX].used.idx == seen[RX])
		return -1;
	id = rings[RX].used.ring[seen[RX] % SIZE].id;
	len = rings[RX].used.ring[seen[RX]++ % SIZE].len;
	if (!CHECK("ring.input", !(id & 1) && id < SIZE && len == 1, "head %u, %u bytes", id, len))
		return -1;
	c = typed[id / 2][0];
	post((u16)(id / 2));
	virtio_notify(&dev, RX);
	return c;
}

/* ---- requests without a byte ---- */

/* Request i of a batch, in one of the forms that a chain can have; each uses two descriptors of the ring at most. */
static u16 build(u32 i, u32 form)
{
	struct vring_desc *d = rings[TX].desc, *t = tables[i];
	u16 head = (u16)(2 * i + (form & 1)), other = (u16)(2 * i + !(form & 1));

	switch (direct ? form % 2 : form % 4) {
	case 0:
		d[head] = (struct vring_desc){ (u64)said, 0, 0, 0xffff };
		return head;
	case 1: /* links that go back */
		d[head] = (struct vring_desc){ (u64)said, 0, VRING_NEXT, other };
		d[other] = (struct vring_desc){ ~0ull, 0, 0, 0 };
		return head;
	case 2: /* every entry of the largest table, from both ends by turns */
		for (u32 k = 0; k < SIZE; k++) {
			u32 at = k & 1 ? SIZE - 1 - k / 2 : k / 2, next = (k + 1) & 1 ? SIZE - 1 - (k + 1) / 2 : (k + 1) / 2;

			t[at] = (struct vring_desc){ 0, 0, (u16)(k == SIZE - 1 ? 0 : VRING_NEXT), (u16)next };
		}
		d[head] = (struct vring_desc){ (u64)t, SIZE * 16, VRING_INDIRECT, 0 };
		return head;
	default: /* a descriptor of the ring, and then a table of one */
		t[0] = (struct vring_desc){ 0, 0, 0, 0 };
		d[other] = (struct vring_desc){ (u64)t, 16, VRING_INDIRECT, 0 };
		d[head] = (struct vring_desc){ (u64)said, 0, VRING_NEXT, other };
		return head;
	}
}

/* So many at once: all come back, each once, with no byte written; the interrupt comes if it was asked for. */
static void batch(u32 n, u32 form, bool want, bool hold)
{
	u64 sent = 0, back = 0;
	u32 before, wrong = 0;
	u16 heads[BATCH];

	for (u32 i = 0; i < n; i++) {
		heads[i] = build(i, form + i);
		sent |= BIT(heads[i]);
	}
	before = irqs[TX];
	rings[TX].avail.flags = !want;
	rings[TX].avail.event = (u16)(seen[TX] + (want ? n - 1 : 0xffff)); /* after the last, or one that has long been */
	CHECK("ring.asks", WAIT(direct ? !rings[TX].used.flags : rings[TX].used.event == rings[TX].avail.idx),
	      "flags %u, event index %u instead of %u", rings[TX].used.flags, rings[TX].used.event, rings[TX].avail.idx);
	offer(TX, heads, n);
	if (hold) { /* a word by this console now would tell the device */
		console_out = NULL;
		console_in = NULL;
		loop_hold();
		console_out = say;
		console_in = hear;
	}
	virtio_notify(&dev, TX);
	CHECK("ring.used", WAIT(rings[TX].used.idx == (u16)(seen[TX] + n)), "used index %u instead of %u", rings[TX].used.idx,
	      (u16)(seen[TX] + n));
	rounds += (u16)(seen[TX] + n) < seen[TX];
	for (u32 i = 0; i < n; i++, seen[TX]++) {
		u32 id = rings[TX].used.ring[seen[TX] % SIZE].id;

		wrong += id >= SIZE || rings[TX].used.ring[seen[TX] % SIZE].len;
		back |= BIT(id % SIZE);
	}
	CHECK("ring.elements", !wrong && back == sent, "%u wrong, heads %lx instead of %lx", wrong, back, sent);
	if (direct)
		delay_us(200); /* its look at the flag may be yet to come */
	CHECK("ring.interrupt", WAIT(irqs[TX] == before + want), "%u instead of %u", irqs[TX] - before, want);
}

static bool start(void)
{
	u32 id = smp_cpu[0].apic_id;

	if (!CHECK("ring.device", pci_read(SLOT, 0) == 0x10431af4 && virtio_find(&dev, SLOT), "id %x", pci_read(SLOT, 0)))
		return false;
	CHECK("ring.features", virtio_begin(&dev, direct ? 0 : VIRTIO_INDIRECT | VIRTIO_EVENT_IDX), "status %x", virtio_status(&dev));
	pci_write(SLOT, dev.msix_control, 0x80000000);
	virtio_msix(&dev, RX, id, VEC_RX, 0);
	virtio_msix(&dev, TX, id, VEC_TX, 0);
	VIRTIO_QUEUE(&dev, RX, &rings[RX], RX);
	VIRTIO_QUEUE(&dev, TX, &rings[TX], TX);
	if (!CHECK("ring.start", virtio_go(&dev), "status %x", virtio_status(&dev)))
		return false;
	for (u16 i = 0; i < SIZE / 2; i++)
		post(i);
	virtio_notify(&dev, RX);
	virtio_notify(&dev, TX); /* nothing yet: now it asks for more */
	delay_us(1000);
	return true;
}

int main(void)
{
	direct = arg_is("direct", NULL);
	apic_enable(false);
	smp_cpus();
	intr_set(VEC_RX, on_rx);
	intr_set(VEC_TX, on_tx);
	if (!start())
		return 0;
	console_out = say;
	console_in = hear;
	for (u32 turn = 0; loop_turn(); turn++) {
		batch(BATCH, turn, turn & 1, true);
		for (u32 i = 1; i < 8; i++)
			batch(1 + (turn + i * 5) % BATCH, turn + i, i & 1, false);
	}
	/* The indices have to go round once at least. */
	loop_on = true;
	for (u32 i = 0; !rounds && !guest_failures(); i++)
		batch(BATCH, i & ~2u, i % 16 == 0, false);
	loop_on = false;
	CHECK("ring.round", rounds, "the index has not gone round");
	CHECK("ring.well", !(virtio_status(&dev) & VIRTIO_NEEDS_RESET), "status %x", virtio_status(&dev));
	return 0;
}
