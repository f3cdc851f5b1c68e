/* SPDX-License-Identifier: MIT */
#include "hv/vm/guest_mem.h"
#include "hv/mm/frame.h"

#include <string.h>

#define LOW_RAM_END (3ull << 30)
#define HIGH_RAM (4ull << 30)
/*
 * Clearing a big guest's memory takes seconds, in which its host would serve nobody. So it is cleared 2 MiB at a time, by
 * the first who writes or, for the guest, touches: until then a piece is cold, reads as zero, and is hidden in the EPT.
 */
#define RAM_COLD 1ull

/* Where the guest's pages end, and where its RAM disks lie, behind its RAM. */
static u64 layout(struct vm *vm, u64 end)
{
	for (u32 i = 0; i < vm->config.n_disks; i++) {
		if (vm->config.disks[i].kind != DISK_RAM)
			continue;
		end = MAX(end, HIGH_RAM);
		vm->disk_base[i] = end;
		end += ALIGN_UP(vm->config.disks[i].bytes, PAGE_2M);
		vm->disk_pages += ALIGN_UP(vm->config.disks[i].bytes, PAGE_2M) >> PAGE_SHIFT;
	}
	return end;
}

int guest_mem_create(struct vm *vm, u64 bytes, struct error *e)
{
	u64 low = MIN(bytes, LOW_RAM_END), ram_end = bytes > LOW_RAM_END ? HIGH_RAM + bytes - LOW_RAM_END : bytes;
	u64 end = layout(vm, ram_end);
	size_t map_bytes = (end >> 21) * sizeof(hpa_t);
	unsigned long long wanted_disks;

	if (bytes + (vm->disk_pages << PAGE_SHIFT) > frame_stats().free || ept_init(&vm->ept))
		goto nomem;
	vm->ram_2m = frame_alloc_bytes(map_bytes);
	if (!vm->ram_2m)
		goto nomem;
	vm->ram_2m_count = end >> 21;
	for (u64 at = 0; at < end; at += PAGE_2M) {
		if (at >= low && at < HIGH_RAM)
			continue;
		hpa_t frame = frame_alloc_2m();

		if (!frame.v)
			goto nomem;
		vm->ram_2m[at >> 21].v = frame.v | RAM_COLD;
		if (at >= ram_end)
			continue; /* a RAM disk */
		vm->ram_bytes += PAGE_2M;
		/* For the tables, so that memory cannot lack later. */
		if (ept_map_2m(&vm->ept, gpa(at), frame))
			goto nomem;
		ept_hide_2m(&vm->ept, gpa(at));
	}
	return 0;
nomem:
	wanted_disks = vm->disk_pages >> (20 - PAGE_SHIFT);
	guest_mem_destroy(vm);
	return error_set(e, E_NOMEM,
			 "guest %s wants %llu MiB, but only %llu MiB are free on this host: stop or move a guest, or lower memory=",
			 vm->config.name, (unsigned long long)(bytes >> 20) + wanted_disks, (unsigned long long)frame_stats().free >> 20);
}

void guest_mem_destroy(struct vm *vm)
{
	dirty_stop(vm);
	for (u64 i = 0; i < vm->ram_2m_count; i++)
		if (vm->ram_2m[i].v)
			frame_free_2m(hpa(vm->ram_2m[i].v & ~RAM_COLD));
	frame_free_bytes(vm->ram_2m, vm->ram_2m_count * sizeof(hpa_t));
	vm->ram_2m = NULL;
	vm->ram_2m_count = vm->ram_bytes = vm->disk_pages = 0;
	ept_destroy(&vm->ept);
}

static u64 ram_2m_end(const struct vm *vm) { return vm->ram_2m_count - (vm->disk_pages >> (21 - PAGE_SHIFT)); }

void guest_mem_clear(struct vm *vm)
{
	for (u64 i = 0; i < ram_2m_end(vm); i++) {
		if (!vm->ram_2m[i].v || vm->ram_2m[i].v & RAM_COLD)
			continue;
		if (vm->dirty) { /* the EPT is split, and the log must know */
			frame_zero_2m(vm->ram_2m[i]);
			memset(&vm->dirty[i * 8], 0xff, 64);
		} else {
			ept_hide_2m(&vm->ept, gpa(i << 21));
			vm->ram_2m[i].v |= RAM_COLD;
		}
	}
	vm->ept_generation++;
}

static void warm_up(struct vm *vm, u64 i)
{
	hpa_t frame = hpa(vm->ram_2m[i].v & ~RAM_COLD);

	frame_zero_2m(frame);
	/* Not before it is zero: a page may be read for a move meanwhile. */
	__atomic_store_n(&vm->ram_2m[i].v, frame.v, __ATOMIC_RELEASE);
	if (i < ram_2m_end(vm))
		ept_show_2m(&vm->ept, gpa(i << 21));
}

bool guest_mem_touch(struct vm *vm, gpa_t at)
{
	u64 i = at.v >> 21;

	if (i >= ram_2m_end(vm) || !vm->ram_2m[i].v)
		return false;
	if (vm->ram_2m[i].v & RAM_COLD) /* else another vCPU was faster */
		warm_up(vm, i);
	return true;
}

static bool is_cold(const struct vm *vm, u64 at)
{
	return __atomic_load_n(&vm->ram_2m[at >> 21].v, __ATOMIC_ACQUIRE) & RAM_COLD;
}

/* The bytes of what is not cold. */
static u8 *ram_at(const struct vm *vm, u64 at)
{
	return (u8 *)hpa_ptr(vm->ram_2m[at >> 21]) + (at & (PAGE_2M - 1));
}

/* The whole range is checked before the first byte is touched. */
static bool is_ram(const struct vm *vm, u64 at, size_t len)
{
	if (at + len < at)
		return false;
	for (u64 a = ALIGN_DOWN(at, PAGE_2M); a < at + len; a += PAGE_2M)
		if (a >> 21 >= vm->ram_2m_count || !vm->ram_2m[a >> 21].v)
			return false;
	return true;
}

/* A small aligned access is a single one: another vCPU may be at it (ring indexes of virtio). */
static void copy(void *to, const void *from, size_t n)
{
	if (n == 2 && !(((uintptr_t)to | (uintptr_t)from) & 1))
		*(volatile u16 *)to = *(const volatile u16 *)from;
	else if (n == 4 && !(((uintptr_t)to | (uintptr_t)from) & 3))
		*(volatile u32 *)to = *(const volatile u32 *)from;
	else if (n == 8 && !(((uintptr_t)to | (uintptr_t)from) & 7))
		*(volatile u64 *)to = *(const volatile u64 *)from;
	else
		memcpy(to, from, n);
}

int guest_read(struct vm *vm, gpa_t at, void *buf, size_t len)
{
	if (!is_ram(vm, at.v, len))
		return -E_RANGE;
	for (size_t done = 0, n; done < len; done += n) {
		n = MIN(len - done, PAGE_2M - ((at.v + done) & (PAGE_2M - 1)));
		if (is_cold(vm, at.v + done))
			memset((u8 *)buf + done, 0, n);
		else
			copy((u8 *)buf + done, ram_at(vm, at.v + done), n);
	}
	return 0;
}

int guest_write(struct vm *vm, gpa_t at, const void *buf, size_t len)
{
	if (!is_ram(vm, at.v, len))
		return -E_RANGE;
	for (size_t done = 0, n; done < len; done += n) {
		n = MIN(len - done, PAGE_2M - ((at.v + done) & (PAGE_2M - 1)));
		if (is_cold(vm, at.v + done))
			warm_up(vm, (at.v + done) >> 21);
		copy(ram_at(vm, at.v + done), (const u8 *)buf + done, n);
	}
	if (vm->dirty)
		for (u64 gfn = at.v >> PAGE_SHIFT; len && gfn <= (at.v + len - 1) >> PAGE_SHIFT; gfn++)
			dirty_mark(vm, gfn);
	return 0;
}

const void *guest_page(const struct vm *vm, u64 gfn)
{
	static const u8 zero[PAGE_SIZE];

	if (gfn >= vm->ram_2m_count << 9 || !vm->ram_2m[gfn >> 9].v)
		return NULL;
	return is_cold(vm, gfn << PAGE_SHIFT) ? zero : ram_at(vm, gfn << PAGE_SHIFT);
}

u64 guest_next_gfn(const struct vm *vm, u64 gfn)
{
	for (; gfn < vm->ram_2m_count << 9; gfn = ALIGN_DOWN(gfn, 512ull) + 512)
		if (vm->ram_2m[gfn >> 9].v)
			return gfn;
	return ~0ull;
}

u64 guest_gfn_end(const struct vm *vm) { return vm->ram_2m_count << 9; }
u64 guest_ram_pages(const struct vm *vm) { return (vm->ram_bytes >> PAGE_SHIFT) + vm->disk_pages; }
