/* SPDX-License-Identifier: MIT */
/* The Multiboot loader: made-up ELF32, ELF64 and a.out-kludge kernels, malformed ones, cut and flipped ones; and the
 * choice of the loader by content. */
#include "hv/vm/load_multiboot.h"
#include "hv/vm/load.h"
#include "hv/vm/test_vm.h"

#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define FILE_BYTES 0x3000
#define TEXT_OFF 0x1000

static void header_put(u8 *k, u32 at, u32 flags)
{
	u32 h[3] = { 0x1badb002, flags, -(0x1badb002u + flags) };

	memcpy(k + at, h, sizeof(h));
}

/* Two segments: 0x1000 bytes at 1 MiB from offset 0x1000; 0x800 bytes + 0x1800 of bss at 2 MiB from 0x2000. */
static void elf32_make(u8 *k)
{
	Elf32_Ehdr h = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1 }, .e_type = ET_EXEC, .e_machine = EM_386,
			 .e_entry = 0x100020, .e_phoff = 64, .e_phentsize = sizeof(Elf32_Phdr), .e_phnum = 3 };
	Elf32_Phdr p[3] = {
		{ .p_type = PT_NOTE, .p_offset = ~0u, .p_filesz = ~0u },
		{ .p_type = PT_LOAD, .p_offset = 0x1000, .p_vaddr = 0x100000, .p_paddr = 0x100000, .p_filesz = 0x1000, .p_memsz = 0x1000 },
		{ .p_type = PT_LOAD, .p_offset = 0x2000, .p_vaddr = 0xc0200000, .p_paddr = 0x200000, .p_filesz = 0x800, .p_memsz = 0x2000 },
	};
	unsigned i;

	for (i = 0; i < FILE_BYTES; i++)
		k[i] = 0x80 | i;
	memcpy(k, &h, sizeof(h));
	memcpy(k + 64, p, sizeof(p));
	header_put(k, TEXT_OFF, 3);
}

static void elf64_make(u8 *k)
{
	Elf64_Ehdr h = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1 }, .e_type = ET_EXEC, .e_machine = EM_X86_64,
			 .e_entry = 0xffffffff80100020, .e_phoff = 64, .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1 };
	Elf64_Phdr p = { .p_type = PT_LOAD, .p_offset = 0x1000, .p_vaddr = 0xffffffff80100000, .p_paddr = 0x100000,
			 .p_filesz = 0x1000, .p_memsz = 0x1000 };

	memset(k, 0x33, FILE_BYTES);
	memcpy(k, &h, sizeof(h));
	memcpy(k + 64, &p, sizeof(p));
	header_put(k, TEXT_OFF + 4, 2);
}

static int load(struct test_vm *t, const u8 *k, u64 n, struct vcpu_state *s, struct error *e)
{
	memset(e, 0, sizeof(*e));
	memset(s, 0x5a, sizeof(*s));
	return multiboot_load(&t->vm, k, n, NULL, 0, "a=1 b", s, e);
}

static u32 peek(struct test_vm *t, u64 at)
{
	u32 v;

	assert_int_equal(guest_read(&t->vm, gpa(at), &v, 4), 0);
	return v;
}

static const char *text(struct test_vm *t, u64 at)
{
	static char s[64];

	assert_int_equal(guest_read(&t->vm, gpa(at), s, sizeof(s) - 1), 0);
	return s;
}

static void loads_elf32(void **state)
{
	static u8 k[FILE_BYTES], got[0x2000];
	struct test_vm *t = test_vm_make(8 << 20);
	struct vcpu_state s;
	struct error e;
	u64 i;
	u32 info, at, sum = 0;

	memset(hpa_ptr(t->vm.ram_2m[1]), 0xee, PAGE_2M); /* bss must be cleared, RAM may be used */
	elf32_make(k);
	assert_int_equal(load(t, k, sizeof(k), &s, &e), 0);
	assert_int_equal(s.rip, 0x100020);
	assert_int_equal(s.gpr[VCPU_RAX], 0x2badb002);
	assert_int_equal(s.cr0 & 0x80000001, 1);
	assert_int_equal(s.efer | s.cr4, 0);
	assert_int_equal(s.seg_ar[SEG_CS], 0xc09b);
	assert_int_equal(s.seg_ar[SEG_SS], 0xc093);
	assert_int_equal(s.seg_limit[SEG_DS], 0xffffffff);
	assert_int_equal(s.rflags, 2);
	assert_int_equal(guest_read(&t->vm, gpa(0x100000), got, 0x1000), 0);
	assert_memory_equal(got, k + 0x1000, 0x1000);
	assert_int_equal(guest_read(&t->vm, gpa(0x200000), got, 0x2000), 0);
	assert_memory_equal(got, k + 0x2000, 0x800);
	for (i = 0x800; i < 0x2000; i++)
		assert_int_equal(got[i], 0);
	assert_int_equal(peek(t, 0x202000), 0xeeeeeeee);

	info = s.gpr[VCPU_RBX];
	assert_int_equal(peek(t, info), 0x24d);
	assert_int_equal(peek(t, info + 4), 639);
	assert_int_equal(peek(t, info + 8), 7 * 1024);
	assert_string_equal(text(t, peek(t, info + 16)), "vmlinuz a=1 b");
	assert_int_equal(peek(t, info + 20), 0);
	assert_string_equal(text(t, peek(t, info + 64)), "Godwit");
	for (at = peek(t, info + 48); at < peek(t, info + 48) + peek(t, info + 44); at += peek(t, at) + 4)
		if (peek(t, at + 20) == 1)
			sum += peek(t, at + 12);
	assert_int_equal(sum, 0x9fc00 + (7 << 20));
	test_vm_free(t);
}

static void loads_elf64_linked_high(void **state)
{
	static u8 k[FILE_BYTES];
	struct test_vm *t = test_vm_make(4 << 20);
	struct vcpu_state s;
	struct error e;

	elf64_make(k);
	assert_int_equal(load(t, k, sizeof(k), &s, &e), 0);
	assert_int_equal(s.rip, 0x100020);
	assert_int_equal(s.efer, 0);
	assert_int_equal(s.seg_ar[SEG_CS], 0xc09b); /* 32-bit, as boot loaders do */
	assert_int_equal(peek(t, 0x100004), 0x1badb002);
	test_vm_free(t);
}

static void loads_aout(void **state)
{
	/* header_addr, load_addr, load_end, bss_end, entry; the header lies at file offset 0x100 */
	static const struct { u32 a[5]; bool ok; const char *text; } c[] = {
		{ { 0x200080, 0x200000, 0x200400, 0x200800, 0x200010 }, true, "" },
		{ { 0x200080, 0x200080, 0, 0, 0x200090 }, true, "" },
		{ { 0x200080, 0x200081, 0, 0, 0x200090 }, false, "load address" },
		{ { 0x200180, 0x200000, 0, 0, 0x200090 }, false, "load address" },
		{ { 0x200080, 0x200000, 0x210000, 0, 0x200090 }, false, "cut short" },
		{ { 0x200080, 0x200000, 0x1fff00, 0, 0x200090 }, false, "out of order" },
		{ { 0x200080, 0x200000, 0x200400, 0x200300, 0x200090 }, false, "out of order" },
		{ { 0x200080, 0x200000, 0x200400, 0x200800, 0x200800 }, false, "entry point" },
		{ { 0x200080, 0x200000, 0x200400, 0xb0000000, 0x200010 }, false, "memory=2816M" },
		{ { 0x200080, 0x200000, 0x200400, 0xc0000001, 0x200010 }, false, "beyond 3 GiB" },
		{ { 0xfffff080, 0xfffff000, 0, 0, 0xfffff010 }, false, "beyond 3 GiB" },
		{ { 0x8f080, 0x8f000, 0x8f100, 0x90001, 0x8f010 }, false, "overlaps" },
		{ { 0x9f080, 0x9f000, 0x9f100, 0x9fc01, 0x9f010 }, false, "overlaps" },
		{ { 0xfff80, 0xfff00, 0x100000, 0, 0xfff10 }, false, "overlaps" },
		{ { 0x1080, 0x1000, 0x1400, 0x1800, 0x1010 }, true, "" },
	};
	static u8 k[0x2000];
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(c); i++) {
		struct test_vm *t = test_vm_make(4 << 20);
		struct vcpu_state s;
		struct error e;
		int r;

		memset(k, 0x77, sizeof(k));
		header_put(k, 0x100, BIT(16) | 7);
		memcpy(k + 0x10c, c[i].a, sizeof(c[i].a));
		r = load(t, k, sizeof(k), &s, &e);
		if ((r == 0) != c[i].ok || (r && !strstr(e.text, c[i].text)))
			fail_msg("case %u: %d %s", i, r, e.text);
		if (!r) {
			assert_int_equal(s.rip, c[i].a[4]);
			assert_int_equal(peek(t, c[i].a[0]), 0x1badb002);
		}
		test_vm_free(t);
	}
}

static void refuses_malformed_elf(void **state)
{
	static const struct { u32 off, width; u64 val; const char *text; } c[] = {
		/* ELF32: the file header, then the second of three program headers at 64 + 32 */
		{ 4, 1, 3, "little-endian" }, { 5, 1, 2, "little-endian" }, { 18, 2, 40, "not for x86" }, { 0, 1, 0, "not an ELF" },
		{ 28, 4, ~0u, "program headers" }, { 28, 4, FILE_BYTES - 95, "program headers" }, { 42, 2, 31, "program headers" },
		{ 44, 2, 0, "program headers" }, { 44, 2, 0xffff, "program headers" }, { 24, 4, 0x300000, "entry point" },
		{ 96 + 4, 4, ~0u, "cut short" }, { 96 + 4, 4, FILE_BYTES, "cut short" }, { 96 + 16, 4, ~0u, "larger in the file" },
		{ 96 + 20, 4, 0xfff, "larger in the file" }, { 96 + 20, 4, 0x7fffffff, "memory=2050M" },
		{ 96 + 20, 4, ~0u, "beyond 3 GiB" }, { 96 + 12, 4, ~0u, "beyond 3 GiB" }, { 96 + 12, 4, 0x8f001, "overlaps" },
		{ 96 + 12, 4, 0x91fff, "overlaps" }, { 96 + 12, 4, 0x9ec01, "overlaps" }, { 96 + 12, 4, 0xfffff, "overlaps" },
		{ 96 + 12, 4, 0x7ff001, "memory=10M" },
	};
	static u8 k[FILE_BYTES];
	struct vcpu_state s;
	struct error e;
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(c); i++) {
		struct test_vm *t = test_vm_make(8 << 20);

		elf32_make(k);
		memcpy(k + c[i].off, &c[i].val, c[i].width);
		if (load(t, k, sizeof(k), &s, &e) >= 0 || !strstr(e.text, c[i].text) || !strstr(e.text, "vmlinuz"))
			fail_msg("case %u: %s", i, e.text);
		test_vm_free(t);
	}
}

static void refuses_overflowing_elf64(void **state)
{
	static const struct { u32 off; u64 val; const char *text; } c[] = {
		{ 32, ~0ull, "program headers" }, { 32, ~0ull - 55, "program headers" },
		{ 64 + 8, ~0ull, "cut short" }, { 64 + 8, ~0ull - 0xfff, "cut short" }, { 64 + 24, ~0ull, "beyond 3 GiB" },
		{ 64 + 24, ~0ull - 0xfff, "beyond 3 GiB" }, { 64 + 40, ~0ull, "beyond 3 GiB" }, { 64 + 32, ~0ull, "larger in the file" },
		{ 64 + 16, 0x7f00000000000000, "entry point" },
	};
	static u8 k[FILE_BYTES];
	struct test_vm *t = test_vm_make(4 << 20);
	struct vcpu_state s;
	struct error e;
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(c); i++) {
		elf64_make(k);
		memcpy(k + c[i].off, &c[i].val, 8);
		if (load(t, k, sizeof(k), &s, &e) >= 0 || !strstr(e.text, c[i].text))
			fail_msg("case %u: %s", i, e.text);
	}
	test_vm_free(t);
}

static void finds_the_header(void **state)
{
	static u8 k[16384];

	assert_false(multiboot_probe(k, sizeof(k)));
	header_put(k, 8192 - 12, 0);
	assert_true(multiboot_probe(k, sizeof(k)));
	assert_true(multiboot_probe(k, 8192));
	assert_false(multiboot_probe(k, 8191));
	memset(k, 0, sizeof(k));
	header_put(k, 8192 - 8, 0); /* sticks out of the first 8 KiB */
	assert_false(multiboot_probe(k, sizeof(k)));
	memset(k, 0, sizeof(k));
	header_put(k, 2, 0); /* not aligned */
	assert_false(multiboot_probe(k, sizeof(k)));
	header_put(k, 4, 3);
	k[12]++;
	assert_false(multiboot_probe(k, sizeof(k)));
}

static void refuses_unknown_demands(void **state)
{
	static u8 k[FILE_BYTES];
	struct test_vm *t = test_vm_make(4 << 20);
	struct vcpu_state s;
	struct error e;

	elf32_make(k);
	header_put(k, TEXT_OFF, 0x8003);
	assert_int_equal(load(t, k, sizeof(k), &s, &e), -E_UNSUPPORTED);
	header_put(k, TEXT_OFF, 0xff0e0007); /* those above bit 15 are optional */
	assert_int_equal(load(t, k, sizeof(k), &s, &e), 0);
	test_vm_free(t);
}

static void places_modules(void **state)
{
	static u8 k[FILE_BYTES], a[5000], b[1], got[5000];
	struct mb_module m[2] = { { a, sizeof(a), "mod a" }, { b, sizeof(b), "b" } };
	struct test_vm *t = test_vm_make(4 << 20);
	char longer[9000];
	struct vcpu_state s;
	struct error e = { 0 };
	u32 info, mods;

	memset(a, 0xaa, sizeof(a));
	elf32_make(k);
	assert_int_equal(multiboot_load(&t->vm, k, sizeof(k), m, 2, "", &s, &e), 0);
	info = s.gpr[VCPU_RBX];
	assert_string_equal(text(t, peek(t, info + 16)), "vmlinuz");
	assert_int_equal(peek(t, info + 20), 2);
	mods = peek(t, info + 24);
	assert_int_equal(peek(t, mods), 0x202000); /* behind the kernel's bss */
	assert_int_equal(peek(t, mods + 4), 0x202000 + 5000);
	assert_string_equal(text(t, peek(t, mods + 8)), "mod a");
	assert_int_equal(peek(t, mods + 16), 0x204000);
	assert_int_equal(peek(t, mods + 20), 0x204001);
	assert_int_equal(guest_read(&t->vm, gpa(0x202000), got, 5000), 0);
	assert_memory_equal(got, a, 5000);

	m[0].size = 2 << 20; /* never read: does not fit */
	assert_int_equal(multiboot_load(&t->vm, k, sizeof(k), m, 2, "", &s, &e), -E_RANGE);
	assert_non_null(strstr(e.text, "module mod a"));
	assert_non_null(strstr(e.text, "memory=") );
	memset(&e, 0, sizeof(e));
	m[0].size = ~0ull;
	assert_int_equal(multiboot_load(&t->vm, k, sizeof(k), m, 2, "", &s, &e), -E_RANGE);
	memset(&e, 0, sizeof(e));
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	assert_int_equal(multiboot_load(&t->vm, k, sizeof(k), NULL, 0, longer, &s, &e), -E_RANGE);
	assert_non_null(strstr(e.text, "Shorten"));
	test_vm_free(t);
}

static void survives_truncation(void **state)
{
	static u8 k[FILE_BYTES];
	struct test_vm *t = test_vm_make(4 << 20);
	struct vcpu_state s;
	struct error e;
	u64 i;

	elf32_make(k);
	for (i = 0; i <= 0x2800; i += i < 256 || i > 0x27f0 ? 1 : 13) {
		u8 *c = malloc(i ?: 1);
		int r;

		memcpy(c, k, i);
		r = load(t, c, i, &s, &e);
		assert_int_equal(r == 0, i == 0x2800);
		if (r)
			assert_true(e.code == -r && strlen(e.text) > 20);
		free(c);
	}
	test_vm_free(t);
}

static void survives_flips(void **state)
{
	static u8 k[FILE_BYTES], c[FILE_BYTES];
	struct test_vm *t = test_vm_make(4 << 20);
	unsigned i, j, seed = 1, loaded = 0;
	struct vcpu_state s;
	struct error e;

	for (i = 0; i < 20000; i++) {
		i & 1 ? elf32_make(k) : elf64_make(k);
		memcpy(c, k, sizeof(c));
		for (j = 0; j < 1 + i % 4; j++) {
			seed = seed * 1103515245 + 12345;
			c[(seed >> 8) % 200] ^= 1 << (seed >> 28);
		}
		if (load(t, c, sizeof(c), &s, &e) == 0) {
			loaded++;
			assert_true(s.rip < 4 << 20);
		} else {
			assert_true(e.text[0]);
		}
	}
	assert_true(loaded > 100 && loaded < 19900);
	test_vm_free(t);
}

static void chooses_by_content(void **state)
{
	static u8 elf[FILE_BYTES], junk[512], gz[512] = { 0x1f, 0x8b };
	const struct boot_info *bi = boot_info_get();
	struct boot_info *w = (struct boot_info *)bi;
	struct test_vm *t = test_vm_make(4 << 20);
	struct guest_config *c = &t->vm.config;
	struct vcpu_state s;
	struct error e;

	elf32_make(elf);
	memset(w, 0, sizeof(*w));
	w->files[0] = (struct boot_file){ .name = "elf", .data = elf, .size = sizeof(elf) };
	w->files[1] = (struct boot_file){ .name = "junk", .data = junk, .size = sizeof(junk) };
	w->files[2] = (struct boot_file){ .name = "gz", .data = gz, .size = sizeof(gz) };
	w->files[3] = (struct boot_file){ .name = "lost", .error = "not found on the ESP" };
	w->n_files = 4;
#define TRY(kernel_, initrd_, module_, result, text_) do { \
	memset(&e, 0, sizeof(e)); \
	strcpy(c->kernel, kernel_); \
	strcpy(c->initrd, initrd_); \
	strcpy(c->modules[0], module_); \
	c->n_modules = !!*module_; \
	assert_int_equal(guest_image_load(&t->vm, &s, &e), result); \
	if (!strstr(e.text, text_)) \
		fail_msg("%s", e.text); \
} while (0)
	TRY("elf", "", "", 0, "");
	TRY("elf", "", "junk x y", 0, "");
	assert_int_equal(peek(t, s.gpr[VCPU_RBX] + 20), 1);
	TRY("elf", "junk", "", -E_INVAL, "module= instead");
	TRY("elf", "", "lost x", -E_NOENT, "module= of [guest g1]: not found");
	TRY("lost", "", "", -E_NOENT, "kernel= of [guest g1]: not found on the ESP");
	TRY("what", "", "", -E_NOENT, "what: no such file");
	TRY("junk", "", "", -E_INVAL, "junk is neither a Linux bzImage nor a Multiboot 1 ELF");
	TRY("gz", "", "", -E_INVAL, "gunzip");
	memset(elf + TEXT_OFF, 0, 12);
	TRY("elf", "", "", -E_INVAL, "use the bzImage");
	test_vm_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loads_elf32), cmocka_unit_test(loads_elf64_linked_high), cmocka_unit_test(loads_aout),
		cmocka_unit_test(refuses_malformed_elf), cmocka_unit_test(refuses_overflowing_elf64),
		cmocka_unit_test(finds_the_header), cmocka_unit_test(refuses_unknown_demands), cmocka_unit_test(places_modules),
		cmocka_unit_test(survives_truncation), cmocka_unit_test(survives_flips), cmocka_unit_test(chooses_by_content),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
