/* SPDX-License-Identifier: MIT */
#include "mig/ram.h"
#include "hv/mm/frame.h"

/* Keeps XXH3's inner loop in registers: 0.7 instructions a byte instead of 1.04. */
#ifndef __clang__
#pragma GCC optimize ("O3")
#endif
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <cpuid.h>

int ram_init(struct ram *r, struct vm *vm, bool source)
{
	*r = (struct ram){ .vm = vm, .chunks = guest_gfn_end(vm) >> 9, .todo_words = source ? guest_gfn_end(vm) / 64 : 0 };
	r->hash = frame_alloc_bytes(r->chunks * sizeof(*r->hash));
	if (!r->hash)
		goto nomem;
	if (source) {
		r->todo = frame_alloc_bytes(r->todo_words * sizeof(*r->todo));
		if (!r->todo)
			goto nomem;
	}
	for (u64 i = 0; i < r->chunks; i++) {
		if (!guest_page(vm, i << 9))
			continue;
		r->hash[i] = frame_alloc();
		if (!r->hash[i])
			goto nomem;
	}
	return 0;
nomem:
	ram_free(r);
	return -E_NOMEM;
}

void ram_free(struct ram *r)
{
	for (u64 i = 0; r->hash && i < r->chunks; i++)
		if (r->hash[i])
			frame_free(r->hash[i]);
	if (r->hash)
		frame_free_bytes(r->hash, r->chunks * sizeof(*r->hash));
	if (r->todo)
		frame_free_bytes(r->todo, r->todo_words * sizeof(*r->todo));
	*r = (struct ram){ 0 };
}

void ram_mark_all(struct ram *r)
{
	u64 gfn = 0;

	for (; (gfn = guest_next_gfn(r->vm, gfn)) != ~0ull; gfn++)
		r->todo[gfn / 64] |= BIT(gfn % 64);
	r->todo_pages = guest_ram_pages(r->vm);
	r->cursor = 0;
}

void ram_harvest(struct ram *r)
{
	r->todo_pages += dirty_harvest(r->vm, r->todo);
	r->cursor = 0;
}

u64 ram_take(struct ram *r)
{
	for (u64 w = r->cursor / 64; w < r->todo_words; w++) {
		u64 bits = r->todo[w];

		while (bits) {
			u64 gfn = w * 64 + (u64)__builtin_ctzll(bits);

			bits &= bits - 1;
			r->todo[w] = bits;
			r->todo_pages--;
			r->cursor = gfn;
			/* A log may have bits for the hole below 4 GiB. */
			if (guest_page(r->vm, gfn))
				return gfn;
		}
	}
	r->cursor = r->todo_words * 64;
	return ~0ull;
}

bool ram_is_zero(const void *page)
{
	const u64 *p = page;
	u64 n = PAGE_SIZE / 8;
	bool zero;

	/* One instruction per word, and most pages differ in the first few. */
	__asm__("repe scasq" : "+D"(p), "+c"(n), "=@cce"(zero) : "a"(0ull), "m"(*(const u8 (*)[PAGE_SIZE])page));
	return zero;
}

#ifndef __clang__
static bool has_avx2(void)
{
	u32 eax, ebx, ecx, edx;

	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE) || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) ||
	    !(ebx & bit_AVX2))
		return false;
	__asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
	return (eax & 6) == 6; /* SSE and AVX state */
}
#endif

u64 ram_hash(const void *page)
{
#ifndef __clang__
	static int avx2 = -1;

	if (avx2 < 0)
		avx2 = has_avx2();
	if (avx2)
		return ram_hash_avx2(page);
#endif
	return XXH3_64bits(page, PAGE_SIZE);
}

u64 ram_hash_bytes(const void *p, size_t len)
{
	return XXH3_64bits(p, len);
}

u64 ram_hash_of_zero(void)
{
	static const u64 zero[PAGE_SIZE / 8];
	static u64 hash;

	if (!hash)
		hash = ram_hash(zero);
	return hash;
}

u64 ram_mix(u64 hash, u64 gfn)
{
	u64 m = hash ^ (gfn + 1) * 0x9e3779b97f4a7c15ull;

	m = (m ^ m >> 32) * 0xd6e8feb86659fd93ull;
	m = (m ^ m >> 32) * 0xd6e8feb86659fd93ull;
	m ^= m >> 32;
	return m ? m : 1;
}

static u64 *slot(const struct ram *r, u64 gfn)
{
	BUG_ON(gfn >> 9 >= r->chunks || !r->hash[gfn >> 9]);
	return &r->hash[gfn >> 9][gfn & 511];
}

bool ram_note(struct ram *r, u64 gfn, u64 hash)
{
	u64 *s = slot(r, gfn), old = *s;

	*s = ram_mix(hash, gfn);
	/* The fold is kept up as pages go, so that the freeze does not pay for it. */
	r->fold += *s - old;
	r->noted += !old;
	return old != 0;
}

u64 ram_noted(const struct ram *r, u64 gfn)
{
	return *slot(r, gfn);
}

int ram_verify_step(struct ram *r, unsigned pages, u64 *bad_gfn)
{
	while (pages--) {
		u64 gfn = guest_next_gfn(r->vm, r->verify_gfn), m;
		const void *page;

		if (gfn == ~0ull)
			return 1;
		page = guest_page(r->vm, gfn);
		m = ram_mix(ram_is_zero(page) ? ram_hash_of_zero() : ram_hash(page), gfn);
		if (m != *slot(r, gfn)) {
			*bad_gfn = gfn;
			return -E_STATE;
		}
		r->verify_gfn = gfn + 1;
	}
	return 0;
}
