/* SPDX-License-Identifier: MIT */
/* Page tables beyond the boot map, the free RAM, and a pattern to fill it with. */
#include "guest.h"

#define PAGE_WORDS (PAGE_SIZE / 8)

extern u64 pml4[512];

static u64 tables[32][512] __attribute__((aligned(4096)));
static u32 tables_used;
static u64 template[2 * PAGE_WORDS];

static u64 *new_table(void)
{
	if (tables_used == ARRAY_SIZE(tables)) {
		printf("FAIL map out of page tables\n");
		guest_end();
	}
	return tables[tables_used++];
}

/* The entry of `va` at `level` (1 = 4 KiB, 2 = 2 MiB); splits a 2 MiB page where it must. */
static u64 *entry(u64 va, int level)
{
	u64 *table = pml4;

	for (int l = 4; l > level; l--) {
		u64 *e = &table[va >> (12 + 9 * (l - 1)) & 511];

		if (!(*e & 1)) {
			*e = (u64)new_table() | 3;
		} else if (l == 2 && *e & 0x80) {
			u64 *t = new_table();

			for (u64 i = 0; i < 512; i++)
				t[i] = (*e & ~0x80ull) + i * PAGE_SIZE;
			*e = (u64)t | 3;
		}
		table = (u64 *)(*e & 0x000ffffffffff000);
	}
	return &table[va >> (12 + 9 * (level - 1)) & 511];
}

void map_2m(u64 va, u64 pa, u64 flags)
{
	*entry(va, 2) = pa | flags | 0x83;
	write_cr3(read_cr3());
}

void map_4k(u64 va, u64 pa, u64 flags)
{
	*entry(va, 1) = pa | flags | 3;
	write_cr3(read_cr3());
}

/* Calls fn for [start, end) less everything that the loader put somewhere in it. */
static void without_used(u64 start, u64 end, u32 from, void (*fn)(u64, u64))
{
	for (u32 i = from; i <= boot.module_count && i <= MAX_MODULES; i++) {
		/* The span of the loader's notes comes last: index module_count. */
		bool module = i < boot.module_count && i < MAX_MODULES;
		u64 a = module ? boot.modules[i].start : boot.info_start;
		u64 b = module ? boot.modules[i].end : boot.info_end;

		a &= ~(PAGE_SIZE - 1);
		b = (b + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
		if (b <= start || a >= end)
			continue;
		if (a > start)
			without_used(start, a, i + 1, fn);
		if (b < end)
			without_used(b, end, i + 1, fn);
		return;
	}
	fn(start, end);
}

void for_each_free_ram(void (*fn)(u64 start, u64 end))
{
	for (u32 i = 0; i < boot.ranges; i++) {
		u64 start = boot.map[i].base, end = start + boot.map[i].len;

		if (boot.map[i].type != 1)
			continue;
		if (start < 2ul << 20)
			start = 2ul << 20;
		start = (start + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
		end &= ~(PAGE_SIZE - 1);
		for (u64 va = 4ul << 30; va < end; va += 2ul << 20)
			if (va + (2ul << 20) > start && !(*entry(va, 2) & 1))
				map_2m(va, va, 0);
		if (start < end)
			without_used(start, end, 0, fn);
	}
}

u64 mix64(u64 x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

void pattern_init(void)
{
	for (u32 i = 0; i < ARRAY_SIZE(template); i++)
		template[i] = mix64(i + 1);
}

void pattern_write(u64 page, u64 key)
{
	const u64 *src = template + key % PAGE_WORDS;
	u64 *dst = (u64 *)page, n = PAGE_WORDS - 1;

	*dst++ = key;
	__asm__ volatile("rep movsq" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

int pattern_check(u64 page, u64 key)
{
	const u64 *src = template + key % PAGE_WORDS, *p = (const u64 *)page;
	u64 n = PAGE_WORDS - 1;
	u8 same;

	if (*p++ != key)
		return 0;
	__asm__ volatile("repe cmpsq; sete %3"
			 : "+D"(p), "+S"(src), "+c"(n), "=q"(same) : : "memory", "cc");
	return same ? -1 : (int)(p - (const u64 *)page) - 1;
}
