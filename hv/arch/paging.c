/* SPDX-License-Identifier: MIT */
#include "hv/arch/paging.h"
#include "hv/arch/cpu.h"
#include "hv/arch/x86.h"
#include "hv/mm/frame.h"

#include <string.h>

/* SDM "4-Level Paging". */
#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_PWT BIT(3)
#define PTE_PCD BIT(4)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_PS BIT(7)
#define PTE_NX BIT(63)
#define PTE_ADDR 0x000ffffffffff000ull
#define RAM (PTE_P | PTE_W | PTE_A | PTE_D | PTE_NX)
/* PAT entry 3 (PCD and PWT): UC, whatever the MTRRs say. */
#define MMIO (RAM | PTE_PCD | PTE_PWT)
#define MAP_END BIT(47) /* canonical lower half of 4-level paging */

extern const u8 ImageBase[], _text[], _etext[], _erodata[], _end[];

static u64 *root; /* PML4 */
static u64 pool, pool_pages;
static bool page_1g;

static u64 *new_table(void)
{
	u64 *t;

	if (!pool_pages)
		return frame_alloc();
	t = (u64 *)pool;
	pool += PAGE_SIZE;
	pool_pages--;
	memset(t, 0, PAGE_SIZE);
	return t;
}

static u64 level_size(int level)
{
	return 1ull << (12 + 9 * level); /* 0: 4 KiB, 1: 2 MiB, 2: 1 GiB, 3: 512 GiB */
}

/* The entry for va at that level, splitting larger pages on the way down. NULL: no memory. */
static u64 *entry(u64 va, int level)
{
	u64 *t = root;

	for (int l = 3; l > level; l--) {
		u64 *e = &t[va >> (12 + 9 * l) & 511];

		if (!(*e & PTE_P) || *e & PTE_PS) {
			u64 *sub = new_table();

			if (!sub)
				return NULL;
			if (*e & PTE_P) {
				/* Same rights and memory type; bit 7 is PS above and PAT (unused) at the last level. */
				u64 step = level_size(l - 1), leaf = l - 1 ? *e : *e & ~PTE_PS;

				for (u64 i = 0; i < 512; i++)
					sub[i] = leaf + i * step;
			}
			*e = (uintptr_t)sub | PTE_P | PTE_W | PTE_A;
		}
		t = (u64 *)(*e & PTE_ADDR);
	}
	return &t[va >> (12 + 9 * level) & 511];
}

/* Sets [start, end) to the identity with these flags (0: absent), in the largest pages that do not undo a split. */
static int map_range(u64 start, u64 end, u64 flags)
{
	while (start < end) {
		int level = page_1g ? 2 : 1;
		u64 *e;

		for (;; level--) {
			if (start & (level_size(level) - 1) || end - start < level_size(level))
				continue;
			e = entry(start, level);
			if (!e)
				return -E_NOMEM;
			if (!level || !(*e & PTE_P) || *e & PTE_PS)
				break;
		}
		*e = flags ? start | flags | (level ? PTE_PS : 0) : 0;
		start += level_size(level);
	}
	return 0;
}

static void load(void)
{
	write_cr3(read_cr3()); /* no global pages: flushes all */
}

void paging_init(const struct boot_info *bi)
{
	u64 top;
	int err;

	pool = bi->table_pool;
	pool_pages = bi->table_pages;
	page_1g = host_caps()->page_1g;
	root = new_table();
	BUG_ON(!root);
	err = map_range(0, bi->phys_end, RAM);
	err = err ?: map_range(0, PAGE_SIZE, 0);
	err = err ?: map_range((uintptr_t)ImageBase, (uintptr_t)_text, PTE_P | PTE_A | PTE_NX);
	err = err ?: map_range((uintptr_t)_text, (uintptr_t)_etext, PTE_P | PTE_A);
	err = err ?: map_range((uintptr_t)_etext, (uintptr_t)_erodata, PTE_P | PTE_A | PTE_NX);
	for (unsigned i = 0; cpu_guard_page(i); i++)
		err = err ?: map_range(cpu_guard_page(i), cpu_guard_page(i) + PAGE_SIZE, 0);
	BUG_ON(err); /* the pool was made for exactly this */

	wrmsr(MSR_IA32_EFER, (rdmsr(MSR_IA32_EFER) | EFER_NXE) & ~EFER_SCE);
	wrmsr(MSR_IA32_PAT, PAT_RESET);
	top = (uintptr_t)root;
	if (read_cr4() & CR4_LA57) {
		/* Firmware chose 5-level paging, which cannot be left in 64-bit mode. */
		u64 *pml5 = new_table();

		BUG_ON(!pml5);
		pml5[0] = top | PTE_P | PTE_W | PTE_A;
		top = (uintptr_t)pml5;
	}
	write_cr4(read_cr4() & ~CR4_PGE); /* drops firmware's global translations */
	write_cr3(top);
}

int paging_map_mmio(hpa_t at, u64 len)
{
	u64 start = ALIGN_DOWN(at.v, PAGE_SIZE), end = at.v + len;
	int err;

	if (!len || end < at.v || end > MAP_END || end > BIT(host_caps()->phys_bits))
		return -E_RANGE;
	err = map_range(start, ALIGN_UP(end, PAGE_SIZE), MMIO);
	load();
	return err;
}

int paging_protect(u64 start, u64 end, enum paging_kind kind)
{
	static const u64 flags[] = { [PAGING_NONE] = 0, [PAGING_DATA] = RAM, [PAGING_CODE] = PTE_P | PTE_A, [PAGING_FIRMWARE] = RAM & ~PTE_NX };
	int err = map_range(start, end, flags[kind]);

	load();
	return err;
}
