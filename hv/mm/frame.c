/* SPDX-License-Identifier: MIT */
#include "hv/mm/frame.h"
#include "hv/lib/err.h"

#include <string.h>

/* --- Frames ---
 * Whole free 2 MiB frames are ranges, in a list in the order of addresses that leads through their own first bytes: memory that
 * was never used is not touched, and what is given back is joined with what lies beside it. A frame that is used in 4 KiB
 * pieces is a chunk, with a bitmap; a chunk whose pages are all free again becomes a whole frame. The edges of what
 * frame_add() gives are chunks too. */

#define CHUNK_PAGES 512
#define MAX_CHUNKS 1024 /* 2 GiB for the hypervisor itself */

struct chunk {
	u64 base;
	u32 n_free;
	u64 free[CHUNK_PAGES / 64]; /* 1: free */
};

struct range {
	struct range *next;
	u64 end;
};

static struct range *ranges;
static u64 n_2m;       /* in all ranges */
static u64 guest_2m;   /* given out for guest RAM */
static u64 chunk_free; /* free pages in all chunks */
static u64 given, accounted; /* bytes */
static struct chunk chunks[MAX_CHUNKS]; /* sorted by base */
static u32 n_chunks;
static u32 hint; /* no chunk before it has a free page */

static void zero(void *p, u64 bytes)
{
	u64 n = bytes / 8;

	__asm__ volatile("rep stosq" : "+D"(p), "+c"(n) : "a"(0) : "memory");
}

static u64 start_of(const struct range *r)
{
	return ptr_hpa(r).v;
}

static void give_2m(u64 at, u64 n)
{
	u64 end = at + n * PAGE_2M;
	struct range *before = NULL, *behind, **link = &ranges;

	while (*link && start_of(*link) < at) {
		before = *link;
		link = &before->next;
	}
	behind = *link;
	BUG_ON(at & (PAGE_2M - 1) || (before && before->end > at) || (behind && start_of(behind) < end)); /* freed twice */
	n_2m += n;
	if (behind && start_of(behind) == end) {
		end = behind->end;
		behind = behind->next;
	}
	if (!before || before->end != at)
		before = *link = hpa_ptr(hpa(at));
	*before = (struct range){ behind, end };
}

/* n in a row, from the end of the first range that has them. 0: there is none. */
static u64 take_2m(u64 n)
{
	for (struct range **link = &ranges, *r; (r = *link); link = &r->next) {
		if ((r->end - start_of(r)) / PAGE_2M < n)
			continue;
		n_2m -= n;
		r->end -= n * PAGE_2M;
		if (r->end == start_of(r))
			*link = r->next;
		return r->end;
	}
	return 0;
}

/* Index of the first chunk whose base is not below. */
static u32 chunk_find(u64 base)
{
	u32 lo = 0, hi = n_chunks;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (chunks[mid].base < base)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* A chunk with no free pages, inserted in order. NULL: table full. */
static struct chunk *chunk_add(u64 base)
{
	u32 i = chunk_find(base);

	if (n_chunks == MAX_CHUNKS)
		return NULL;
	BUG_ON(i < n_chunks && chunks[i].base == base);
	memmove(&chunks[i + 1], &chunks[i], (n_chunks - i) * sizeof(chunks[0]));
	n_chunks++;
	chunks[i] = (struct chunk){ .base = base };
	hint = MIN(hint, i);
	return &chunks[i];
}

static bool chunk_is_free(const struct chunk *c, u32 page)
{
	return c->free[page / 64] >> (page % 64) & 1;
}

static void chunk_give(struct chunk *c, u32 page, u32 n)
{
	for (u32 i = page; i < page + n; i++) {
		BUG_ON(chunk_is_free(c, i)); /* freed twice */
		c->free[i / 64] |= BIT(i % 64);
	}
	c->n_free += n;
	chunk_free += n;
	hint = MIN(hint, (u32)(c - chunks));
	if (c->n_free == CHUNK_PAGES) {
		u32 i = c - chunks;

		give_2m(c->base, 1);
		chunk_free -= CHUNK_PAGES;
		n_chunks--;
		memmove(c, c + 1, (n_chunks - i) * sizeof(*c));
	}
}

static void *chunk_take(struct chunk *c, u32 page, u32 n)
{
	void *p = hpa_ptr(hpa(c->base + page * PAGE_SIZE));

	for (u32 i = page; i < page + n; i++)
		c->free[i / 64] &= ~BIT(i % 64);
	c->n_free -= n;
	chunk_free -= n;
	zero(p, n * PAGE_SIZE);
	return p;
}

/* First run of n free pages; CHUNK_PAGES if there is none. */
static u32 chunk_run(const struct chunk *c, u32 n)
{
	u32 run = 0;

	for (u32 i = 0; i < CHUNK_PAGES; i++) {
		if (i % 64 == 0 && !c->free[i / 64]) {
			run = 0;
			i += 63;
			continue;
		}
		run = chunk_is_free(c, i) ? run + 1 : 0;
		if (run == n)
			return i + 1 - n;
	}
	return CHUNK_PAGES;
}

void frame_add(hpa_t start, hpa_t end)
{
	u64 at = ALIGN_UP(start.v, PAGE_SIZE), stop = ALIGN_DOWN(end.v, PAGE_SIZE), next;

	for (; at < stop; at = next) {
		u64 base = ALIGN_DOWN(at, PAGE_2M);
		u32 i = chunk_find(base);
		struct chunk *c;

		next = at == base ? ALIGN_DOWN(stop, PAGE_2M) : at;
		if (next > at) {
			give_2m(at, (next - at) / PAGE_2M);
		} else {
			next = MIN(base + PAGE_2M, stop);
			c = i < n_chunks && chunks[i].base == base ? &chunks[i] : chunk_add(base);
			if (!c)
				continue; /* an edge not worth a slot */
			chunk_give(c, (at - base) / PAGE_SIZE, (next - at) / PAGE_SIZE);
		}
		given += next - at;
	}
}

void frame_account(u64 bytes)
{
	accounted += bytes;
}

void *frame_alloc_n(unsigned n)
{
	struct chunk *c;
	u64 base;
	u32 page;

	BUG_ON(!n || n > CHUNK_PAGES);
	while (hint < n_chunks && !chunks[hint].n_free)
		hint++;
	for (u32 i = hint; i < n_chunks; i++) {
		if (chunks[i].n_free < n)
			continue;
		page = chunk_run(&chunks[i], n);
		if (page < CHUNK_PAGES)
			return chunk_take(&chunks[i], page, n);
	}
	if (n_chunks == MAX_CHUNKS)
		return NULL;
	base = take_2m(1);
	if (!base)
		return NULL;
	c = chunk_add(base);
	memset(c->free, 0xff, sizeof(c->free));
	c->n_free = CHUNK_PAGES;
	chunk_free += CHUNK_PAGES;
	return chunk_take(c, 0, n);
}

void *frame_alloc(void)
{
	return frame_alloc_n(1);
}

void frame_free_n(void *p, unsigned n)
{
	u64 at = ptr_hpa(p).v, base = ALIGN_DOWN(at, PAGE_2M);
	u32 page = (at - base) / PAGE_SIZE, i = chunk_find(base);

	if (!p)
		return;
	BUG_ON(at & (PAGE_SIZE - 1) || i == n_chunks || chunks[i].base != base || page + n > CHUNK_PAGES);
	chunk_give(&chunks[i], page, n);
}

void frame_free(void *p)
{
	frame_free_n(p, 1);
}

hpa_t frame_alloc_2m(void)
{
	u64 at = take_2m(1);

	guest_2m += at != 0;
	return hpa(at);
}

void frame_zero_2m(hpa_t a)
{
	zero(hpa_ptr(a), PAGE_2M);
}

void frame_free_2m(hpa_t a)
{
	if (!a.v)
		return;
	BUG_ON(!guest_2m);
	guest_2m--;
	give_2m(a.v, 1);
}

void *frame_alloc_bytes(u64 bytes)
{
	u64 n = ALIGN_UP(bytes, PAGE_2M) / PAGE_2M, at;

	if (!bytes || bytes >> 50)
		return NULL;
	if (bytes <= PAGE_2M)
		return frame_alloc_n((unsigned)(ALIGN_UP(bytes, PAGE_SIZE) / PAGE_SIZE));
	at = take_2m(n);
	if (at)
		zero(hpa_ptr(hpa(at)), n * PAGE_2M);
	return hpa_ptr(hpa(at));
}

void frame_free_bytes(void *p, u64 bytes)
{
	if (p && bytes > PAGE_2M)
		give_2m(ptr_hpa(p).v, ALIGN_UP(bytes, PAGE_2M) / PAGE_2M);
	else
		frame_free_n(p, (unsigned)(ALIGN_UP(bytes, PAGE_SIZE) / PAGE_SIZE));
}

struct frame_stats frame_stats(void)
{
	struct frame_stats s = { .total = given + accounted, .free = n_2m * PAGE_2M + chunk_free * PAGE_SIZE };

	s.hypervisor = s.total - s.free - guest_2m * PAGE_2M;
	return s;
}

/* --- Heap ---
 * Blocks with boundary tags, free ones in lists by size class. Every block has a magic that depends on its address and
 * size, and a canary behind what was asked for: overruns, double frees and wild pointers are found at the next free. */

#define HEAP_MAX (24ul << 20)
#define MAX_ARENAS (HEAP_MAX / PAGE_2M)
#define HEAP_ALIGN 16u
#define MIN_BLOCK 48u
#define N_BINS 18 /* by highest bit of the size, 2^4 .. 2^21 */
#define MAGIC_USED 0x75736564u
#define MAGIC_FREE 0x66726565u
#define CANARY 0x5aa5c33cdeadbea7ull

struct block {
	u32 magic;
	u32 size;      /* bytes with this header, multiple of HEAP_ALIGN */
	u32 prev_size; /* of the block before in the arena, 0: first */
	u32 asked;     /* bytes asked for, while used */
};

/* A free block's payload. */
struct link {
	struct block *next, *prev;
};

static struct block *bins[N_BINS];
static u64 arenas[MAX_ARENAS];
static u32 n_arenas;

static u32 magic(const struct block *b, u32 kind)
{
	return kind ^ (u32)(uintptr_t)b ^ b->size * 0x9e3779b1u ^ b->prev_size ^ (kind == MAGIC_USED ? b->asked * 0x85ebca6bu : 0);
}

static bool is(const struct block *b, u32 kind)
{
	return b->magic == magic(b, kind);
}

static struct link *link_of(struct block *b)
{
	return (struct link *)(b + 1);
}

static struct block *after(struct block *b)
{
	struct block *n = (struct block *)((u8 *)b + b->size);

	/* Arenas are 2 MiB-aligned: the end of one is where the next block would begin. */
	return (uintptr_t)n & (PAGE_2M - 1) ? n : NULL;
}

static u32 bin_of(u32 size)
{
	return MIN(31 - __builtin_clz(size) - 4, N_BINS - 1);
}

static void set_kind(struct block *b, u32 kind)
{
	b->magic = magic(b, kind);
}

static void bin_insert(struct block *b)
{
	struct block **bin = &bins[bin_of(b->size)];

	set_kind(b, MAGIC_FREE);
	*link_of(b) = (struct link){ .next = *bin };
	if (*bin)
		link_of(*bin)->prev = b;
	*bin = b;
}

static void bin_remove(struct block *b)
{
	struct link *l = link_of(b);

	BUG_ON(!is(b, MAGIC_FREE));
	if (l->prev)
		link_of(l->prev)->next = l->next;
	else
		bins[bin_of(b->size)] = l->next;
	if (l->next)
		link_of(l->next)->prev = l->prev;
}

/* Changes a block's size; the block behind must learn of it. */
static void resize(struct block *b, u32 size)
{
	struct block *n;

	b->size = size;
	n = after(b);
	if (n) {
		u32 kind = is(n, MAGIC_FREE) ? MAGIC_FREE : MAGIC_USED;

		BUG_ON(!is(n, kind));
		n->prev_size = size;
		set_kind(n, kind);
	}
}

static struct block *bin_search(u32 size)
{
	for (u32 i = bin_of(size); i < N_BINS; i++)
		for (struct block *b = bins[i]; b; b = link_of(b)->next) {
			BUG_ON(!is(b, MAGIC_FREE));
			if (b->size >= size)
				return b;
		}
	return NULL;
}

static struct block *grow(void)
{
	struct block *b;
	u64 at;

	if (n_arenas == MAX_ARENAS)
		return NULL;
	at = take_2m(1);
	if (!at)
		return NULL;
	arenas[n_arenas++] = at;
	b = hpa_ptr(hpa(at));
	*b = (struct block){ .size = PAGE_2M };
	bin_insert(b);
	return b;
}

static u64 *canary_of(struct block *b)
{
	return (u64 *)((u8 *)(b + 1) + ALIGN_UP(b->asked, 8u));
}

void *heap_calloc(size_t n, size_t size)
{
	size_t bytes;
	struct block *b;
	u32 need;

	if (__builtin_mul_overflow(n, size, &bytes) || bytes > PAGE_2M - 2 * MIN_BLOCK)
		return NULL;
	need = MAX(ALIGN_UP((u32)(sizeof(*b) + ALIGN_UP(bytes, 8ul) + sizeof(u64)), HEAP_ALIGN), MIN_BLOCK);
	b = bin_search(need);
	if (!b)
		b = grow();
	if (!b)
		return NULL;
	bin_remove(b);
	if (b->size - need >= MIN_BLOCK) {
		struct block *rest = (struct block *)((u8 *)b + need);

		*rest = (struct block){ .prev_size = need };
		resize(rest, b->size - need);
		b->size = need;
		bin_insert(rest);
	}
	b->asked = bytes;
	set_kind(b, MAGIC_USED);
	memset(b + 1, 0, ALIGN_UP(bytes, 8ul));
	/* Slack up to 8 bytes is zero and part of the check. */
	*canary_of(b) = CANARY;
	return b + 1;
}

static bool in_arena(const struct block *b)
{
	u64 at = ptr_hpa(b).v;

	for (u32 i = 0; i < n_arenas; i++)
		if (at - arenas[i] < PAGE_2M)
			return true;
	return false;
}

void heap_free(void *p)
{
	struct block *b, *n;

	if (!p)
		return;
	b = (struct block *)p - 1;
	BUG_ON((uintptr_t)p % HEAP_ALIGN || !in_arena(b));
	BUG_ON(!is(b, MAGIC_USED));        /* freed twice, or written over */
	BUG_ON(*canary_of(b) != CANARY);   /* written past its end */
	for (u32 i = b->asked; i % 8; i++)
		BUG_ON(((u8 *)p)[i]);
	n = after(b);
	if (n && is(n, MAGIC_FREE)) {
		bin_remove(n);
		resize(b, b->size + n->size);
	}
	if (b->prev_size) {
		struct block *prev = (struct block *)((u8 *)b - b->prev_size);

		if (is(prev, MAGIC_FREE)) {
			bin_remove(prev);
			b->magic = 0; /* a second free of this address must not find a valid block */
			resize(prev, prev->size + b->size);
			b = prev;
		} else {
			BUG_ON(!is(prev, MAGIC_USED));
		}
	}
	bin_insert(b);
}
