/* SPDX-License-Identifier: MIT */
/*
 * disk: its virtio disks. Random blocks are written with what tells block and generation, eight requests at a time, and read
 * back; flush, write-zeroes, identification; requests that no disk can do. The generation of each block is kept in memory, so
 * one that is lost, stale or in the wrong place is found, also after a move.
 * Arguments: disks=N (1), loops=N (200; 0: for ever, a line after each 100), paced: a short rest between rounds;
 * turns=N or loop: as loop.c does it, held with eight requests in the ring; bench: instead of all that, what N (loops) requests of
 * 4 KiB take, one at a time and 32 at a time: "BENCH diskN.KIND.depthN.ticks=N per_s=N".
 */
#include "guest.h"

#define FIRST_SLOT 4
#define MAX_DISKS 4
#define SIZE 128
#define DEPTH 8
#define MAX_DEPTH 32 /* of bench */
#define VEC_DISK 0x50
#define BLOCK 4096u
#define MAX_BLOCKS 2048u
enum { IN, OUT, FLUSH = 4, GET_ID = 8, ZEROES = 13 };

struct disk {
	VRING(SIZE) ring;
	struct { u32 type, reserved; u64 sector; } head[MAX_DEPTH];
	volatile u8 status[MAX_DEPTH];
	u64 buf[MAX_DEPTH][BLOCK / 8] __attribute__((aligned(4096)));
	u16 generation[MAX_BLOCKS];
	struct virtio dev;
	u32 blocks;
	u16 seen;
	bool ok;
} __attribute__((aligned(4096)));
static struct disk disks[MAX_DISKS];

/* interrupts: else it looks for itself. */
static void start(struct disk *d, u32 slot, bool interrupts)
{
	CHECK("disk", pci_read(slot, 0) == 0x10421af4, "slot %u: id %x", slot, pci_read(slot, 0));
	if (!CHECK("capabilities", virtio_find(&d->dev, slot) && d->dev.config, "%lx %lx %lx", d->dev.common, d->dev.notify_at,
		   d->dev.config))
		return;
	virtio_begin(&d->dev, VIRTIO_FLUSH | VIRTIO_ZEROES);
	d->ring.avail.flags = !interrupts;
	VIRTIO_QUEUE(&d->dev, 0, &d->ring, interrupts ? 0 : VIRTIO_NO_VECTOR);
	d->ok = virtio_go(&d->dev);
	d->blocks = REG(u32, d->dev.config) / (BLOCK / 512);
	d->ok = CHECK("start", d->ok && d->blocks > DEPTH, "status %x, %u blocks", virtio_status(&d->dev), d->blocks);
	if (d->blocks > MAX_BLOCKS)
		d->blocks = MAX_BLOCKS;
}

/* Request n (of MAX_DEPTH): head, data if any, status. */
static void submit(struct disk *d, u32 n, u32 type, u64 sector, u32 len)
{
	u16 i = (u16)(4 * n);

	d->head[n].type = type;
	d->head[n].sector = sector;
	d->status[n] = 0xee;
	d->ring.desc[i] = (struct vring_desc){ (u64)&d->head[n], 16, VRING_NEXT, (u16)(len ? i + 1 : i + 2) };
	d->ring.desc[i + 1] = (struct vring_desc){ (u64)d->buf[n], len, VRING_NEXT, (u16)(i + 2) };
	if (type == IN || type == GET_ID)
		d->ring.desc[i + 1].flags |= VRING_WRITE;
	d->ring.desc[i + 2] = (struct vring_desc){ (u64)&d->status[n], 1, VRING_WRITE, 0 };
	d->ring.avail.ring[d->ring.avail.idx % SIZE] = i;
	__asm__ volatile("" : : : "memory");
	d->ring.avail.idx++;
}

/* As CHECK, but says something only if it is not so. */
#define QUIET(name, cond, ...) ((cond) || CHECK(name, false, __VA_ARGS__))

/* Until n have been answered. A server may be away: up to a minute. */
static bool finish(struct disk *d, u32 n)
{
	u64 end = rdtsc() + tsc_khz() * 60000;

	virtio_notify(&d->dev, 0);
	d->seen += (u16)n;
	while (d->ring.used.idx != d->seen && rdtsc() < end)
		pause();
	return QUIET("answered", d->ring.used.idx == d->seen, "used index %u instead of %u", d->ring.used.idx, d->seen);
}

static u8 one(struct disk *d, u32 type, u64 sector, u32 len)
{
	submit(d, 0, type, sector, len);
	return finish(d, 1) ? d->status[0] : 0xff;
}

static u64 word(u32 block, u16 generation, u32 i) { return generation ? mix64((u64)block << 32 | (u64)generation << 16 | i) : 0; }

static bool round(struct disk *d, u64 n)
{
	u32 block[DEPTH], first = (u32)(mix64(n * 3 + 1) % d->blocks);
	bool write = n % 3 != 2;

	for (u32 k = 0; k < DEPTH; k++) {
		block[k] = (first + k * (d->blocks / DEPTH)) % d->blocks;
		if (write)
			for (u32 i = 0; i < BLOCK / 8; i++)
				d->buf[k][i] = word(block[k], (u16)(d->generation[block[k]] + 1), i);
		submit(d, k, write ? OUT : IN, block[k] * (u64)(BLOCK / 512), BLOCK);
	}
	if (loop_on)
		loop_hold(); /* they are in the ring, and the disk was not told */
	if (!finish(d, DEPTH))
		return false;
	for (u32 k = 0; k < DEPTH; k++) {
		u32 bad = 0;

		if (!QUIET("status", d->status[k] == 0, "round %lu, block %u: status %u", n, block[k], d->status[k]))
			return false;
		d->generation[block[k]] += write;
		for (u32 i = 0; !write && i < BLOCK / 8; i++)
			bad += d->buf[k][i] != word(block[k], d->generation[block[k]], i);
		if (!QUIET("data", !bad, "round %lu, block %u: %u words are wrong", n, block[k], bad))
			return false;
	}
	return n % 7 || QUIET("flush", one(d, FLUSH, 0, 0) == 0, "status %u", d->status[0]);
}

static void others(struct disk *d)
{
	struct { u64 sector; u32 sectors, flags; } *range = (void *)d->buf[0];

	CHECK("identification", one(d, GET_ID, 0, 20) == 0 && ((char *)d->buf[0])[0], "status %u", d->status[0]);
	CHECK("beyond", one(d, IN, ~0ull / 512, BLOCK) == 1, "status %u", d->status[0]);
	CHECK("unknown", one(d, 99, 0, 0) == 2, "status %u", d->status[0]);
	range->sector = 0;
	range->sectors = BLOCK / 512;
	range->flags = 0;
	CHECK("zeroes", one(d, ZEROES, 0, 16) == 0, "status %u", d->status[0]);
	d->generation[0] = 0;
	d->buf[0][5] = 1;
	CHECK("zeroed", one(d, IN, 0, BLOCK) == 0 && !d->buf[0][0] && !d->buf[0][5], "status %u", d->status[0]);
}

static void on_interrupt(struct regs *r)
{
	(void)r;
	apic_eoi();
}

/* That many requests for random blocks, depth of them at any time, halted while there is nothing to do: as a driver would.
 * Returns the ticks that one took. */
static u64 work(struct disk *d, u32 type, u32 depth, u32 count)
{
	u64 at = rdtsc(), doorbell = virtio_doorbell(&d->dev, 0), ticks;
	u32 sent = 0, bad = 0;

	for (u32 done = 0; done < count;) {
		bool more = false;

		for (; sent < depth; sent++, more = true)
			submit(d, sent, type, mix64(sent) % d->blocks * (BLOCK / 512), BLOCK);
		for (; d->ring.used.idx != d->seen; done++) {
			u32 n = d->ring.used.ring[d->seen++ % SIZE].id / 4;

			bad += d->status[n] != 0;
			if (sent < count) {
				submit(d, n, type, mix64(sent) % d->blocks * (BLOCK / 512), BLOCK);
				sent++;
				more = true;
			}
		}
		__asm__ volatile("mfence" : : : "memory");
		if (more && !(d->ring.used.flags & 1))
			REG(u16, doorbell) = 0;
		if (done < count && d->ring.used.idx == d->seen)
			wait_interrupt();
	}
	ticks = (rdtsc() - at) / count;
	CHECK("bench.status", !bad, "%u of %u requests failed", bad, count);
	return ticks;
}

static void measure(struct disk *d, u32 number, u32 type, u32 depth, u32 count)
{
	u64 ticks = work(d, type, depth, count);

	printf("BENCH disk%u.%s.depth%u.ticks=%lu per_s=%lu\n", number, type == IN ? "read" : "write", depth, ticks,
	       tsc_khz() * 1000 / ticks);
}

static void bench(struct disk *d, u32 number, u32 count)
{
	intr_set(VEC_DISK, on_interrupt);
	virtio_msix(&d->dev, 0, 0, VEC_DISK, 0);
	pci_write(d->dev.slot, d->dev.msix_control, 0x80000000);
	work(d, OUT, MAX_DEPTH, count); /* what is touched for the first time may cost more */
	for (u32 depth = 1; depth <= MAX_DEPTH; depth += MAX_DEPTH - 1) {
		measure(d, number, IN, depth, count);
		measure(d, number, OUT, depth, count);
	}
}

int main(void)
{
	u64 n_disks = arg_u64("disks", 1), loops = arg_u64("loops", 200);
	bool good = true, paced = arg_is("paced", NULL), loop = loop_asked(), measures = arg_is("bench", NULL);

	for (u32 i = 0; i < n_disks && i < MAX_DISKS; i++) {
		start(&disks[i], FIRST_SLOT + i, measures);
		if (!disks[i].ok)
			return 0;
	}
	apic_enable(measures && apic_has_x2apic());
	for (u32 i = 0; measures && i < n_disks && i < MAX_DISKS; i++)
		bench(&disks[i], i, (u32)loops);
	if (measures)
		return 0;
	for (u64 n = 0; good && (loop ? loop_turn() : !loops || n < loops); n++) {
		for (u32 i = 0; good && i < n_disks; i++)
			good = round(&disks[i], n);
		if (good && !loop && n % 100 == 99)
			printf("DISK round=%lu\n", n + 1);
		if (paced)
			delay_us(2000);
	}
	for (u32 i = 0; good && i < n_disks; i++)
		others(&disks[i]);
	return 0;
}
