/* SPDX-License-Identifier: MIT */
/*
 * hello: the guest starts as the Multiboot Specification says ("Machine state", "Boot information
 * format"). Arguments: expect-modules=N, sum=S (32-bit sum of the bytes of module 0),
 * ram-mb=N (RAM in the map, within 1 MiB), args (then first=one and last=0x2a have to be there too).
 */
#include "guest.h"

static u8 zero[16384]; /* .bss: the loader has to clear it */

static void check_entry(void)
{
	const struct entry_state *e = &entry_state;
	u32 dirt = 0;

	CHECK("entry.magic", e->magic == MULTIBOOT_MAGIC, "eax 0x%x", e->magic);
	CHECK("entry.protected", (e->cr0 & 1) && !(e->cr0 & BIT(31)), "cr0 0x%x", e->cr0);
	CHECK("entry.eflags", !(e->eflags & (BIT(17) | BIT(9))), "eflags 0x%x", e->eflags);
	CHECK("entry.segments", e->cs != e->ds && (e->ds & 0xfff8) && (e->ss & 0xfff8),
	      "cs 0x%x ds 0x%x ss 0x%x", e->cs, e->ds, e->ss);
	for (u32 i = 0; i < sizeof(zero); i++)
		dirt |= zero[i];
	CHECK("entry.bss", !dirt, "not zero");
	CHECK("entry.a20", *(volatile u32 *)0x100000 == 0x1badb002, "header not at 1 MiB");
}

static void check_map(void)
{
	u64 ram = 0, top = 0, want = arg_u64("ram-mb", 0);
	bool sane = boot.ranges > 0, image = false;

	CHECK("map.present", boot.flags & BIT(6), "flags 0x%x", boot.flags);
	for (u32 i = 0; i < boot.ranges; i++) {
		const struct mem_range *r = &boot.map[i];

		printf("map 0x%010lx-0x%010lx type %u\n", r->base, r->base + r->len, r->type);
		sane &= r->len && r->base + r->len > r->base && r->type;
		for (u32 k = 0; k < i; k++)
			sane &= r->base + r->len <= boot.map[k].base ||
				r->base >= boot.map[k].base + boot.map[k].len;
		if (r->type != 1)
			continue;
		ram += r->len;
		if (r->base + r->len > top)
			top = r->base + r->len;
		image |= r->base <= (u64)_image_start && r->base + r->len >= (u64)_image_end;
	}
	CHECK("map.sane", sane, "empty, overlapping or type 0 ranges");
	CHECK("map.image", image, "the guest is not in RAM of the map");
	CHECK("map.mem-info", (boot.flags & 1) && boot.mem_upper_kb > 0,
	      "flags 0x%x upper %u", boot.flags, boot.mem_upper_kb);
	if (want)
		CHECK("map.size", ram >> 20 <= want && (ram >> 20) + 1 >= want, "%lu MiB", ram >> 20);
	if (top >= 4ul << 20) {
		/* The last page of RAM is really there. */
		volatile u64 *last = (u64 *)(top - 8);
		u64 old = *last;

		*last = 0x5aa55aa512345678;
		CHECK("map.last-word", top > 4ul << 30 || *last == 0x5aa55aa512345678, "0x%lx", *last);
		*last = old;
	}
}

static void check_modules(void)
{
	u64 want = arg_u64("expect-modules", 0), sum = arg_u64("sum", ~0ull);
	bool sane = true;

	CHECK("modules.count", boot.module_count == want, "%u, not %lu", boot.module_count, want);
	for (u32 i = 0; i < boot.module_count && i < MAX_MODULES; i++) {
		const struct module *m = &boot.modules[i];

		printf("module 0x%x-0x%x '%s'\n", m->start, m->end, m->args);
		sane &= m->end > m->start && !(m->start % PAGE_SIZE) &&
			(m->start >= (u64)_image_end || m->end <= (u64)_image_start);
		if (i == 0 && sum != ~0ull) {
			u32 s = 0;

			for (u64 p = m->start; p < m->end; p++)
				s += *(u8 *)p;
			CHECK("modules.content", s == sum, "sum %u, not %lu", s, sum);
		}
	}
	CHECK("modules.place", sane, "empty, not page-aligned, or over the guest");
}

int main(void)
{
	printf("hello from a Multiboot guest, command line '%s'\n", boot.cmdline);
	check_entry();
	CHECK("cmdline.present", boot.flags & BIT(2), "flags 0x%x", boot.flags);
	if (arg_is("args", NULL))
		CHECK("cmdline.args", arg_is("first", "one") && arg_u64("last", 0) == 0x2a, "'%s'",
		      boot.cmdline);
	check_map();
	check_modules();
	return 0;
}
