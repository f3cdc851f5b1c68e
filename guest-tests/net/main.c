/* SPDX-License-Identifier: MIT */
/*
 * net: its virtio network card, with a guest of the same kind on the same switch. One answers for ever, the other (`ask`) sends
 * frames and wants them back unchanged, one at a time, then sends as fast as it can and asks how many have come.
 * Arguments: ask; frames=N (200) of the first kind, flood=N (2000) of the second. Prints "BENCH ping.BYTES.ticks=N per_s=N" for
 * the way there and back, and "BENCH flood.BYTES.ticks=N per_s=N lost=N" by what came and the receiver's clock.
 */
#include "guest.h"

#define SLOT 8
#define VEC_NET 0x50
#define FRAME 1514u
#define SMALL 64u
#define HEADER 12u /* virtio_net_hdr: all zero without offloads */
enum { RX, TX, QUEUES };
enum { HELLO = 1, PING, FLOOD, END, ANSWER = 0x80 };

/* IEEE Std 802, "Local Experimental Ethertype". */
#define ETHERTYPE 0xb588
struct frame {
	u8 header[HEADER];
	u8 to[6], from[6];
	u16 ethertype, kind;
	u64 number;        /* of END's answer: frames of the flood that came, */
	u64 ticks;         /* from the first of them to the last */
	u8 data[FRAME - 32];
} __attribute__((packed));

static struct virtio dev;
#define RING 128
static VRING(RING) ring[QUEUES];
static u64 doorbell[QUEUES];
static u16 seen[QUEUES];
static struct frame rx[RING] __attribute__((aligned(4096))), tx[RING] __attribute__((aligned(4096)));
static u8 mac[6], peer[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
static u32 tx_next, tx_free = RING;

static void on_interrupt(struct regs *r)
{
	(void)r;
	apic_eoi();
}

static void add(u32 q, u32 head, void *at, u32 bytes, u16 flags)
{
	ring[q].desc[head] = (struct vring_desc){ (u64)at, bytes, flags, 0 };
	ring[q].avail.ring[ring[q].avail.idx % RING] = (u16)head;
	__asm__ volatile("" : : : "memory");
	ring[q].avail.idx++;
}

static void notify(u32 q)
{
	__asm__ volatile("mfence" : : : "memory");
	if (!(ring[q].used.flags & 1))
		REG(u16, doorbell[q]) = (u16)q;
}

/* The next used one. */
static bool take(u32 q, u32 *head, u32 *len)
{
	if (ring[q].used.idx == seen[q])
		return false;
	*head = ring[q].used.ring[seen[q] % RING].id;
	*len = ring[q].used.ring[seen[q]++ % RING].len;
	return true;
}

static void rx_give(u32 i)
{
	add(RX, i, &rx[i], HEADER + FRAME, VRING_WRITE);
}

static bool start(void)
{
	if (!CHECK("net", pci_read(SLOT, 0) == 0x10411af4 && virtio_find(&dev, SLOT) && virtio_begin(&dev, BIT(5)), "id %x",
		   pci_read(SLOT, 0)))
		return false;
	virtio_msix(&dev, 0, 0, VEC_NET, 0);
	pci_write(SLOT, dev.msix_control, 0x80000000);
	ring[TX].avail.flags = 1; /* what is sent needs no interrupt */
	for (u16 q = 0; q < QUEUES; q++) {
		VIRTIO_QUEUE(&dev, q, &ring[q], 0);
		doorbell[q] = virtio_doorbell(&dev, q);
	}
	if (!CHECK("start", virtio_go(&dev), "status %x", virtio_status(&dev)))
		return false;
	for (u32 i = 0; i < 6; i++)
		mac[i] = REG(u8, dev.config + i);
	for (u32 i = 0; i < RING; i++)
		rx_give(i);
	notify(RX);
	return true;
}

static void tx_reclaim(void)
{
	u32 head, len;

	while (take(TX, &head, &len))
		tx_free++;
}

/* Waits until there is room; the bytes after the first words say where they are. */
static void send(u16 kind, u64 number, u64 ticks, u32 bytes)
{
	struct frame *f = &tx[tx_next];

	for (tx_reclaim(); !tx_free; tx_reclaim()) {
		notify(TX);
		pause();
	}
	memcpy(f->to, peer, 6);
	memcpy(f->from, mac, 6);
	f->ethertype = ETHERTYPE;
	f->kind = kind;
	f->number = number;
	f->ticks = ticks;
	for (u32 i = 0; i < bytes - 32; i += 97)
		f->data[i] = (u8)(number + i);
	add(TX, tx_next, f, HEADER + bytes, 0);
	tx_next = (tx_next + 1) % RING;
	tx_free--;
}

/* The next frame for us, halted until it comes; NULL after ms. It is to be given back. */
static struct frame *receive(u32 *i, u32 *len, u64 ms)
{
	u64 end = rdtsc() + ms * tsc_khz();

	for (;;) {
		while (take(RX, i, len)) {
			*len -= HEADER;
			if (*len >= SMALL && rx[*i].ethertype == ETHERTYPE)
				return &rx[*i];
			rx_give(*i);
		}
		if (rdtsc() >= end)
			return NULL;
		wait_interrupt();
	}
}

static void answer_for_ever(void)
{
	u64 first = 0, last = 0, came = 0;
	u32 i, len;

	for (;;) {
		struct frame *f = receive(&i, &len, 3600000);

		if (!f)
			continue;
		memcpy(peer, f->from, 6);
		switch (f->kind) {
		case HELLO:
		case PING:
			send(f->kind | ANSWER, f->number, 0, len);
			break;
		case FLOOD:
			last = rdtsc();
			if (!came++)
				first = last;
			break;
		case END:
			send(END | ANSWER, came, last - first, SMALL);
			came = 0;
			break;
		}
		rx_give(i);
		notify(RX);
		notify(TX);
	}
}

/* Sends that and waits for the answer to it; false: there is none in time, or it is wrong. */
static bool ask(u16 kind, u64 number, u32 bytes, u64 ms, struct frame *answer)
{
	struct frame *f;
	u32 i, len, bad = 0;

	send(kind, number, 0, bytes);
	notify(TX);
	while ((f = receive(&i, &len, ms))) {
		bool ours = f->kind == (kind | ANSWER) && (kind != PING || f->number == number);

		if (ours)
			memcpy(answer, f, sizeof(*f));
		rx_give(i);
		notify(RX);
		if (!ours)
			continue;
		for (i = 0; kind == PING && i < bytes - 32; i += 97)
			bad += answer->data[i] != (u8)(number + i);
		return len == bytes && !bad;
	}
	return false;
}

static struct frame answer;

static void ping(u32 bytes, u64 frames)
{
	u64 at = rdtsc(), n = 0;

	while (n < frames && ask(PING, n, bytes, 5000, &answer))
		n++;
	at = (rdtsc() - at) / frames;
	if (CHECK("ping", n == frames, "frame %lu of %u bytes: no answer or a wrong one", n, bytes))
		printf("BENCH ping.%u.ticks=%lu per_s=%lu\n", bytes, at, tsc_khz() * 1000 / at);
}

static void flood(u32 bytes, u64 frames)
{
	bool answered = false;
	u64 ticks;

	for (u64 n = 0; n < frames; n++) {
		send(FLOOD, n, 0, bytes);
		if (n % 16 == 15)
			notify(TX);
	}
	notify(TX);
	delay_us(20000); /* what is in between arrives */
	for (u32 i = 0; !answered && i < 10; i++)
		answered = ask(END, 0, SMALL, 500, &answer);
	if (!CHECK("flood", answered && answer.number > 1 && answer.number <= frames, "answered %u, %lu of %lu came", answered,
		   answer.number, frames))
		return;
	ticks = answer.ticks / (answer.number - 1);
	printf("BENCH flood.%u.ticks=%lu per_s=%lu lost=%lu\n", bytes, ticks, tsc_khz() * 1000 / ticks, frames - answer.number);
}

int main(void)
{
	bool found = false;

	apic_enable(apic_has_x2apic());
	intr_set(VEC_NET, on_interrupt);
	/* 20 times a second it looks whether it has waited long enough. */
	apic_write(APIC_TIMER_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, VEC_NET | APIC_PERIODIC);
	apic_write(APIC_TIMER_INITIAL, (u32)(50 * tsc_khz()));
	if (!start())
		return 0;
	printf("NET %x:%x:%x:%x:%x:%x\n", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	if (!arg_is("ask", NULL))
		answer_for_ever();
	for (u32 i = 0; !found && i < 100; i++)
		found = ask(HELLO, i, SMALL, 200, &answer);
	if (!CHECK("peer", found, "nobody answers"))
		return 0;
	memcpy(peer, answer.from, 6);
	ping(SMALL, arg_u64("frames", 200));
	ping(FRAME, arg_u64("frames", 200));
	flood(SMALL, arg_u64("flood", 2000));
	flood(FRAME, arg_u64("flood", 2000));
	return 0;
}
