/* SPDX-License-Identifier: MIT */
#include "hv/mm/ept.h"
#include "hv/mm/frame.h"

/* SDM "EPT Translation Mechanism": entry bits. */
#define EPT_RWX 7ull
#define EPT_WB (6ull << 3)
#define EPT_IPAT BIT(6)
#define EPT_LARGE BIT(7)
#define EPT_A BIT(8)
#define EPT_D BIT(9)
/* All guest RAM is write-back whatever the guest's PAT says: we read it through write-back mappings, too. */
#define EPT_LEAF (EPT_RWX | EPT_WB | EPT_IPAT)
#define EPT_ADDR 0x000ffffffffff000ull
#define EPTP_WB 6ull
#define EPTP_WALK4 (3ull << 3)
#define EPTP_AD BIT(6)
#define ENTRIES 512u

static u64 *table_of(u64 entry) { return hpa_ptr(hpa(entry & EPT_ADDR)); }

int ept_init(struct ept *e)
{
	*e = (struct ept){ .root = frame_alloc() };
	if (!e->root)
		return -E_NOMEM;
	e->table_pages = 1;
	return 0;
}

/* level 3: PML4 ... 0: page table */
static void free_table(struct ept *e, u64 *t, int level)
{
	for (unsigned i = 0; level > 0 && i < ENTRIES; i++)
		if (t[i] && !(t[i] & EPT_LARGE))
			free_table(e, table_of(t[i]), level - 1);
	frame_free(t);
	e->table_pages--;
}

void ept_destroy(struct ept *e)
{
	if (e->root)
		free_table(e, e->root, 3);
	*e = (struct ept){ 0 };
}

static u64 *next_table(struct ept *e, u64 *slot)
{
	if (!(*slot & EPT_RWX)) {
		u64 *t = frame_alloc();

		if (!t)
			return NULL;
		e->table_pages++;
		*slot = ptr_hpa(t).v | EPT_RWX;
	}
	return table_of(*slot);
}

static int split_pde(struct ept *e, u64 *pde, u64 base, void *ctx)
{
	if (!(*pde & EPT_LARGE))
		return 0;
	u64 *pt = frame_alloc();

	if (!pt)
		return -E_NOMEM;
	e->table_pages++;
	for (u64 i = 0; i < ENTRIES; i++)
		pt[i] = ((*pde & EPT_ADDR & ~(PAGE_2M - 1)) + i * PAGE_SIZE) | EPT_LEAF |
			(*pde & (EPT_A | EPT_D));
	/* A: the leaves may hold D, let the first harvest look. A hidden one stays hidden. */
	*pde = ptr_hpa(pt).v | (*pde & EPT_RWX ? EPT_RWX | EPT_A : 0);
	return 0;
}

int ept_map_2m(struct ept *e, gpa_t at, hpa_t frame)
{
	u64 *t = e->root;

	BUG_ON((at.v | frame.v) & (PAGE_2M - 1));
	BUG_ON(at.v >> 48 || e->split);
	for (int shift = 39; shift > 21; shift -= 9) {
		t = next_table(e, &t[at.v >> shift & 511]);
		if (!t)
			return -E_NOMEM;
	}
	u64 *pde = &t[at.v >> 21 & 511];

	if (*pde)
		return -E_EXIST;
	*pde = frame.v | EPT_LEAF | EPT_LARGE;
	return 0;
}

/* Of what ept_map_2m() mapped. */
static u64 *pde_of(struct ept *e, gpa_t at)
{
	u64 *t = e->root;

	for (int shift = 39; shift > 21; shift -= 9)
		t = table_of(t[at.v >> shift & 511]);
	return &t[at.v >> 21 & 511];
}

void ept_hide_2m(struct ept *e, gpa_t at)
{
	u64 *pde = pde_of(e, at);

	BUG_ON(!(*pde & EPT_LARGE));
	*pde &= ~(EPT_RWX | EPT_A | EPT_D); /* an entry without rights is not present: the CPU ignores the rest of it */
}

void ept_show_2m(struct ept *e, gpa_t at)
{
	u64 *pde = pde_of(e, at);

	/* One store, of the final form: the guest's other vCPUs are walking here, and what they write through a leaf that is
	 * still to be split would not get into the log. */
	__atomic_store_n(pde, *pde | EPT_RWX | EPT_A, __ATOMIC_RELEASE);
}

/* Calls fn for every page-directory entry that is mapped, hidden or not, in address order; stops at the first error. */
static int each_pde(struct ept *e, int (*fn)(struct ept *, u64 *pde, u64 gpa_base, void *), void *ctx)
{
	for (u64 i4 = 0; i4 < ENTRIES; i4++) {
		if (!(e->root[i4] & EPT_RWX))
			continue;
		u64 *pdpt = table_of(e->root[i4]);

		for (u64 i3 = 0; i3 < ENTRIES; i3++) {
			if (!(pdpt[i3] & EPT_RWX))
				continue;
			u64 *pd = table_of(pdpt[i3]);

			for (u64 i2 = 0; i2 < ENTRIES; i2++) {
				if (!pd[i2])
					continue;
				int rc = fn(e, &pd[i2], i4 << 39 | i3 << 30 | i2 << 21, ctx);

				if (rc)
					return rc;
			}
		}
	}
	return 0;
}

int ept_split_all(struct ept *e)
{
	int rc = each_pde(e, split_pde, NULL);

	if (!rc)
		e->split = true;
	return rc;
}

static int join_pde(struct ept *e, u64 *pde, u64 base, void *ctx)
{
	if (*pde & EPT_LARGE)
		return 0;
	u64 *pt = table_of(*pde), dirty = 0;

	for (u64 i = 0; i < ENTRIES; i++)
		dirty |= pt[i] & EPT_D;
	*pde = (pt[0] & EPT_ADDR) | (EPT_LEAF & ~EPT_RWX) | EPT_LARGE | (*pde & EPT_RWX ? EPT_RWX | EPT_A : 0) | dirty;
	frame_free(pt);
	e->table_pages--;
	return 0;
}

void ept_join_all(struct ept *e)
{
	(void)!each_pde(e, join_pde, NULL);
	e->split = false;
}

struct harvest { u64 *bitmap, found; };

static int harvest_pde(struct ept *e, u64 *pde, u64 base, void *ctx)
{
	struct harvest *h = ctx;
	u64 *words = &h->bitmap[base >> PAGE_SHIFT >> 6];

	if (*pde & EPT_LARGE) {
		if (*pde & EPT_D) {
			for (unsigned w = 0; w < ENTRIES / 64; w++)
				words[w] = ~0ull;
			h->found += ENTRIES;
			*pde &= ~EPT_D;
		}
		return 0;
	}
	/* A walk through this entry sets its A bit (SDM "Accessed and Dirty Flags for EPT"): clear A, nothing below
	 * has been touched since. It is cleared together with the D bits, under the same INVEPT. */
	if (!(*pde & EPT_A))
		return 0;
	*pde &= ~EPT_A;
	u64 *pt = table_of(*pde);

	for (unsigned i = 0; i < ENTRIES; i++) {
		if (pt[i] & EPT_D) {
			pt[i] &= ~EPT_D;
			words[i / 64] |= BIT(i % 64);
			h->found++;
		}
	}
	return 0;
}

u64 ept_harvest_dirty(struct ept *e, u64 *bitmap)
{
	struct harvest h = { bitmap, 0 };

	(void)!each_pde(e, harvest_pde, &h);
	return h.found;
}

u64 ept_pointer(const struct ept *e)
{
	return ptr_hpa(e->root).v | EPTP_WB | EPTP_WALK4 | EPTP_AD;
}
