/* SPDX-License-Identifier: MIT */
/*
 * disk: its virtio disks. Random blocks are written with what tells block and generation, eight requests at a time, and read
 * back; flush, write-zeroes, identification; requests that no disk can do. The generation of each block is kept in memory, so
 * one that is lost, stale or in the wrong place is found, also after a move.
 * Arguments: disks=N (1), loops=N (200; 0: for ever, a line after each 100), paced: a short rest between rounds.
 */
#include "guest.h"

#define FIRST_SLOT 4
#define MAX_DISKS 4
#define SIZE 32
#define DEPTH 8
#define BLOCK 4096u
#define MAX_BLOCKS 2048u
enum { IN, OUT, FLUSH = 4, GET_ID = 8, ZEROES = 13 };
enum { NEXT = 1, WRITE = 2 };

struct desc { u64 addr; u32 len; u16 flags, next; };
struct disk {
	struct desc desc[SIZE];
	struct { volatile u16 flags, idx, ring[SIZE], event; } avail __attribute__((aligned(64)));
	struct { volatile u16 flags, idx; volatile struct { u32 id, len; } ring[SIZE]; volatile u16 event; } used __attribute__((aligned(64)));
	struct { u32 type, reserved; u64 sector; } head[DEPTH];
	volatile u8 status[DEPTH];
	u64 buf[DEPTH][BLOCK / 8] __attribute__((aligned(4096)));
	u16 generation[MAX_BLOCKS];
	u64 common, notify_at, config;
	u32 blocks, notify_multiplier;
	u16 seen;
	bool ok;
} __attribute__((aligned(4096)));
static struct disk disks[MAX_DISKS];

#define R(type, at) (*(volatile type *)(u64)(at))

static u32 cfg(u32 slot, u32 reg)
{
	outl(0xcf8, 0x80000000 | slot << 11 | (reg & 0xfc));
	return inl(0xcfc);
}

static u8 cfg8(u32 slot, u32 reg) { return (u8)(cfg(slot, reg) >> 8 * (reg & 3)); }

static void find(struct disk *d, u32 slot)
{
	u64 bar = cfg(slot, 0x10) & ~15u;

	outl(0xcf8, 0x80000000 | slot << 11 | 4);
	outl(0xcfc, 6);
	for (u32 at = cfg8(slot, 0x34), n = 0; at && n < 48; at = cfg8(slot, at + 1), n++) {
		if (cfg8(slot, at) != 9)
			continue;
		switch (cfg8(slot, at + 3)) {
		case 1: d->common = bar + cfg(slot, at + 8); break;
		case 2:
			d->notify_at = bar + cfg(slot, at + 8);
			d->notify_multiplier = cfg(slot, at + 16);
			break;
		case 4: d->config = bar + cfg(slot, at + 8); break;
		}
	}
}

static void start(struct disk *d, u32 slot)
{
	u32 low;

	CHECK("disk", cfg(slot, 0) == 0x10421af4, "slot %u: id %x", slot, cfg(slot, 0));
	find(d, slot);
	if (!CHECK("capabilities", d->common && d->notify_at && d->config, "%lx %lx %lx", d->common, d->notify_at, d->config))
		return;
	R(u8, d->common + 20) = 0;
	R(u8, d->common + 20) = 3;
	R(u32, d->common) = 0;
	low = R(u32, d->common + 4) & (1u << 9 | 1u << 14);
	R(u32, d->common + 8) = 0;
	R(u32, d->common + 12) = low;
	R(u32, d->common + 8) = 1;
	R(u32, d->common + 12) = 1;
	R(u8, d->common + 20) = 11;
	R(u16, d->common + 16) = 0xffff;
	R(u16, d->common + 22) = 0;
	R(u16, d->common + 24) = SIZE;
	R(u16, d->common + 26) = 0xffff;
	R(u32, d->common + 32) = (u32)(u64)d->desc;
	R(u32, d->common + 36) = 0;
	R(u32, d->common + 40) = (u32)(u64)&d->avail;
	R(u32, d->common + 44) = 0;
	R(u32, d->common + 48) = (u32)(u64)&d->used;
	R(u32, d->common + 52) = 0;
	d->avail.flags = 1; /* looks for itself */
	R(u16, d->common + 28) = 1;
	R(u8, d->common + 20) = 15;
	d->blocks = R(u32, d->config) / (BLOCK / 512);
	d->ok = CHECK("start", R(u8, d->common + 20) == 15 && d->blocks > DEPTH, "status %x, %u blocks", R(u8, d->common + 20),
		      d->blocks);
	if (d->blocks > MAX_BLOCKS)
		d->blocks = MAX_BLOCKS;
}

/* Request n (of DEPTH): head, data if any, status. */
static void submit(struct disk *d, u32 n, u32 type, u64 sector, u32 len)
{
	u16 i = (u16)(4 * n);

	d->head[n].type = type;
	d->head[n].sector = sector;
	d->status[n] = 0xee;
	d->desc[i] = (struct desc){ (u64)&d->head[n], 16, NEXT, (u16)(len ? i + 1 : i + 2) };
	d->desc[i + 1] = (struct desc){ (u64)d->buf[n], len, (u16)(NEXT | (type == IN || type == GET_ID ? WRITE : 0)), (u16)(i + 2) };
	d->desc[i + 2] = (struct desc){ (u64)&d->status[n], 1, WRITE, 0 };
	d->avail.ring[d->avail.idx % SIZE] = i;
	__asm__ volatile("" : : : "memory");
	d->avail.idx++;
}

/* As CHECK, but says something only if it is not so. */
#define QUIET(name, cond, ...) ((cond) || CHECK(name, false, __VA_ARGS__))

/* Until n have been answered. A server may be away: up to a minute. */
static bool finish(struct disk *d, u32 n)
{
	u64 end = rdtsc() + tsc_khz() * 60000;

	__asm__ volatile("mfence" : : : "memory");
	R(u16, d->notify_at + R(u16, d->common + 30) * d->notify_multiplier) = 0;
	d->seen += (u16)n;
	while (d->used.idx != d->seen && rdtsc() < end)
		pause();
	return QUIET("answered", d->used.idx == d->seen, "used index %u instead of %u", d->used.idx, d->seen);
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

int main(void)
{
	u64 n_disks = arg_u64("disks", 1), loops = arg_u64("loops", 200);
	bool good = true, paced = arg_is("paced", NULL);

	for (u32 i = 0; i < n_disks && i < MAX_DISKS; i++) {
		start(&disks[i], FIRST_SLOT + i);
		if (!disks[i].ok)
			return 0;
	}
	for (u64 n = 0; good && (!loops || n < loops); n++) {
		for (u32 i = 0; good && i < n_disks; i++)
			good = round(&disks[i], n);
		if (good && n % 100 == 99)
			printf("DISK round=%lu\n", n + 1);
		if (paced)
			delay_us(2000);
	}
	for (u32 i = 0; good && i < n_disks; i++)
		others(&disks[i]);
	return 0;
}
