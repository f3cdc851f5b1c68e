/* SPDX-License-Identifier: MIT */
/* lwIP's heap. Nearly everything is either a short frame or a full one, so there are two classes with free lists;
 * both work in constant time however long the queues are. Slabs are kept once taken; their number is capped. */
#include "net/port/port.h"
#include "hv/mm/frame.h"
#include <string.h>

#define SLAB_PAGES 16
#define SLABS_MAX 64 /* 4 MiB: all that control clients can hold, and several moves */

struct block {
	size_t class; /* index, or the size of a heap block */
};
#define HEADER 16 /* keeps user data aligned; a free block's next pointer follows it */

static const size_t class_size[] = { 256, 1664 };
static struct { struct block *free; } classes[ARRAY_SIZE(class_size)];
static unsigned slabs;
static size_t used;

static bool slab_add(unsigned c)
{
	u8 *p = slabs < SLABS_MAX ? frame_alloc_n(SLAB_PAGES) : NULL;
	size_t step = HEADER + class_size[c];

	if (!p)
		return false;
	slabs++;
	for (size_t at = 0; at + step <= SLAB_PAGES * PAGE_SIZE; at += step) {
		struct block *b = (struct block *)(p + at);

		b->class = c;
		*(struct block **)(p + at + HEADER) = classes[c].free;
		classes[c].free = b;
	}
	return true;
}

void *net_mem_alloc(size_t size)
{
	for (unsigned c = 0; c < ARRAY_SIZE(class_size); c++) {
		struct block *b;

		if (size > class_size[c])
			continue;
		if (!classes[c].free && !slab_add(c))
			return NULL;
		b = classes[c].free;
		classes[c].free = *(struct block **)((u8 *)b + HEADER);
		used += class_size[c];
		return (u8 *)b + HEADER;
	}
	struct block *b = size <= PAGE_SIZE * 16 ? heap_calloc(1, HEADER + size) : NULL;

	if (!b)
		return NULL;
	b->class = size;
	used += size;
	return (u8 *)b + HEADER;
}

void *net_mem_calloc(size_t n, size_t size)
{
	void *p = n && size > PAGE_SIZE * 16 / n ? NULL : net_mem_alloc(n * size);

	if (p)
		memset(p, 0, n * size);
	return p;
}

void net_mem_free(void *p)
{
	struct block *b = (struct block *)((u8 *)p - HEADER);

	if (!p)
		return;
	if (b->class >= ARRAY_SIZE(class_size)) {
		used -= b->class;
		heap_free(b);
		return;
	}
	used -= class_size[b->class];
	*(struct block **)p = classes[b->class].free;
	classes[b->class].free = b;
}

size_t net_mem_used(void)
{
	return used;
}
