/* SPDX-License-Identifier: MIT */
/* lwIP's heap. Everything is either a short frame or at most a full one (nothing is larger than the MTU), so there are two
 * classes of blocks in slabs, both of which work in constant time however long the queues are. Their number is capped; empty
 * ones go back, but for one. */
#include "net/port/port.h"
#include "hv/lib/err.h"
#include "hv/mm/frame.h"
#include <string.h>

#define SLAB_PAGES 16
/* 16 MiB. A frame of 250 bytes takes a block of 1664, so a window of 64 KiB costs up to 0.6 MB if its owner does not let us
 * read: 24 connections from outside, and disks and moves still get on. */
#define SLABS_MAX 256
#define HEADER 16 /* before the user's data; keeps it aligned */

struct block { struct slab *slab; };

/* At the start of its pages. In its class's list while it has free blocks. */
struct slab {
	struct slab *next, *prev;
	struct block *free; /* a free block's next pointer follows its header */
	u32 used, class;
};

static struct {
	struct slab *partial;
	u32 empty; /* of those in the list */
} classes[2];
static const size_t class_size[] = { 256, 1664 };
static unsigned slabs;
static size_t used;

static void link_slab(struct slab *s)
{
	s->prev = NULL;
	s->next = classes[s->class].partial;
	if (s->next)
		s->next->prev = s;
	classes[s->class].partial = s;
}

static void unlink_slab(struct slab *s)
{
	if (s->next)
		s->next->prev = s->prev;
	if (s->prev)
		s->prev->next = s->next;
	else
		classes[s->class].partial = s->next;
}

static void put(struct slab *s, struct block *b)
{
	*(struct block **)((u8 *)b + HEADER) = s->free;
	s->free = b;
}

static bool slab_add(u32 class)
{
	struct slab *s = slabs < SLABS_MAX ? frame_alloc_n(SLAB_PAGES) : NULL;
	size_t step = HEADER + class_size[class];

	if (!s)
		return false;
	slabs++;
	s->class = class;
	for (size_t at = ALIGN_UP(sizeof(*s), HEADER); at + step <= SLAB_PAGES * PAGE_SIZE; at += step) {
		struct block *b = (struct block *)((u8 *)s + at);

		b->slab = s;
		put(s, b);
	}
	link_slab(s);
	classes[class].empty++;
	return true;
}

static void *slab_take(struct slab *s)
{
	struct block *b = s->free;

	if (!s->used++)
		classes[s->class].empty--;
	s->free = *(struct block **)((u8 *)b + HEADER);
	if (!s->free)
		unlink_slab(s);
	used += class_size[s->class];
	return (u8 *)b + HEADER;
}

static void slab_give(struct slab *s, struct block *b)
{
	used -= class_size[s->class];
	if (!s->free)
		link_slab(s);
	put(s, b);
	if (--s->used)
		return;
	if (!classes[s->class].empty) {
		classes[s->class].empty = 1;
		return;
	}
	unlink_slab(s);
	frame_free_n(s, SLAB_PAGES);
	slabs--;
}

void *net_mem_alloc(size_t size)
{
	for (u32 c = 0; c < ARRAY_SIZE(class_size); c++)
		if (size <= class_size[c])
			return classes[c].partial || slab_add(c) ? slab_take(classes[c].partial) : NULL;
	return NULL;
}

void *net_mem_calloc(size_t n, size_t size)
{
	void *p = n && size > SIZE_MAX / n ? NULL : net_mem_alloc(n * size);

	if (p)
		memset(p, 0, n * size);
	return p;
}

void net_mem_free(void *p)
{
	struct block *b = (struct block *)((u8 *)p - HEADER);

	if (p)
		slab_give(b->slab, b);
}

size_t net_mem_used(void)
{
	return used;
}
