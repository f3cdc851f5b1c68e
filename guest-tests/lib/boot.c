/* SPDX-License-Identifier: MIT */
/* From the entry point to main(): the Multiboot information and the arguments. */
#include "guest.h"

struct boot_info boot;

/* Multiboot Specification 0.6.96, "Boot information format". */
struct mb_info {
	u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
	u32 mmap_length, mmap_addr;
};

struct mb_module {
	u32 start, end, string, reserved;
};

struct mb_mmap {
	u32 size; /* of the rest */
	u64 base, len;
	u32 type;
} __attribute__((packed));

/* Widens the span that the loader used for its own notes to us. */
static void span(u64 start, u64 len)
{
	if (!boot.info_end || start < boot.info_start)
		boot.info_start = start;
	if (start + len > boot.info_end)
		boot.info_end = start + len;
}

static void copy_boot_info(const struct mb_info *mb)
{
	boot.flags = mb->flags;
	boot.mem_lower_kb = mb->mem_lower;
	boot.mem_upper_kb = mb->mem_upper;
	span((u64)mb, 116);
	if (mb->flags & BIT(2)) {
		const char *s = (const char *)(u64)mb->cmdline;
		size_t n = strlen(s);

		span((u64)s, n + 1);
		if (n >= sizeof(boot.cmdline))
			n = sizeof(boot.cmdline) - 1;
		memcpy(boot.cmdline, s, n);
	}
	if (mb->flags & BIT(3)) {
		const struct mb_module *m = (const void *)(u64)mb->mods_addr;

		boot.module_count = mb->mods_count;
		span((u64)m, mb->mods_count * sizeof(*m));
		for (u32 i = 0; i < mb->mods_count && i < MAX_MODULES; i++) {
			const char *s = m[i].string ? (const char *)(u64)m[i].string : "";

			boot.modules[i] = (struct module){ m[i].start, m[i].end, s };
			span((u64)s, strlen(s) + 1);
		}
	}
	if (mb->flags & BIT(6)) {
		u64 p = mb->mmap_addr, end = p + mb->mmap_length;

		span(p, mb->mmap_length);
		while (p < end && boot.ranges < MAX_RANGES) {
			const struct mb_mmap *e = (const void *)p;

			boot.map[boot.ranges++] = (struct mem_range){ e->base, e->len, e->type };
			p += e->size + 4;
		}
	}
}

/* The text after "key=" of the last word that begins so (the last wins, as in Linux), or NULL. */
static const char *arg_find(const char *key)
{
	size_t n = strlen(key);
	const char *found = NULL;

	for (const char *p = boot.cmdline; *p; p++) {
		bool start = p == boot.cmdline || p[-1] == ' ';

		if (start && !strncmp(p, key, n) && (p[n] == '=' || p[n] == ' ' || !p[n]))
			found = p + n;
	}
	return found;
}

u64 arg_u64(const char *key, u64 fallback)
{
	const char *p = arg_find(key);
	u32 base = 10;
	u64 v = 0;

	if (!p || *p++ != '=')
		return fallback;
	if (p[0] == '0' && p[1] == 'x') {
		base = 16;
		p += 2;
	}
	for (;; p++) {
		u32 digit = *p >= 'a' && *p <= 'f' ? *p - 'a' + 10u : (u32)(*p - '0');

		if (digit >= base)
			return v;
		v = v * base + digit;
	}
}

bool arg_is(const char *key, const char *value)
{
	const char *p = arg_find(key);
	size_t n;

	if (!p)
		return false;
	if (!value)
		return *p != '=';
	n = strlen(value);
	return *p == '=' && !strncmp(p + 1, value, n) && (!p[n + 1] || p[n + 1] == ' ');
}

/* Argument "wait": main() begins when something is typed, so that a test chooses the moment. */
static void wait_for_input(void)
{
	printf("WAITING\n");
	while (!(inb(COM1 + 5) & 1))
		pause();
	inb(COM1);
}

void guest_start(void);
void guest_start(void)
{
	serial_init();
	intr_init();
	pic_init(); /* firmware may have left lines open, at vectors of exceptions */
	if (entry_state.magic == MULTIBOOT_MAGIC)
		copy_boot_info((const void *)(u64)entry_state.info);
	if (arg_is("wait", NULL))
		wait_for_input();
	main();
	guest_end();
}
