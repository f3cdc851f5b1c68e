/* SPDX-License-Identifier: MIT */
/* The Linux loader against the stock kernel (if build/linux/vmlinuz is there), made-up headers, cut and flipped files. */
#include "hv/vm/load_linux.h"
#include "hv/vm/load.h"
#include "hv/vm/test_vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#define SETUP 1024 /* one setup sector behind the boot sector */

/* A small valid bzImage: 1 setup sector, 4 KiB of kernel whose byte i is i * 7. */
static u64 image_make(u8 *k)
{
	u64 i;

	memset(k, 0, SETUP);
	k[0x1f1] = 1;
	*(u32 *)(k + 0x1f4) = 4096 / 16;
	*(u16 *)(k + 0x1fe) = 0xaa55;
	k[0x200] = 0xeb, k[0x201] = 0x66;
	memcpy(k + 0x202, "HdrS", 4);
	*(u16 *)(k + 0x206) = 0x20f;
	k[0x211] = 1;
	*(u32 *)(k + 0x22c) = 0x7fffffff;
	*(u16 *)(k + 0x236) = 1;
	*(u32 *)(k + 0x238) = 2047;
	*(u64 *)(k + 0x258) = 16 << 20;
	*(u32 *)(k + 0x260) = 4 << 20;
	for (i = 0; i < 4096; i++)
		k[SETUP + i] = i * 7;
	return SETUP + 4096;
}

static int load(struct test_vm *t, const u8 *k, u64 n, const u8 *initrd, u64 initrd_n, const char *cmdline,
		struct vcpu_state *s, struct error *e)
{
	memset(e, 0, sizeof(*e));
	memset(s, 0x5a, sizeof(*s));
	return linux_load(&t->vm, k, n, initrd, initrd_n, cmdline, s, e);
}

static u64 peek64(struct test_vm *t, u64 at)
{
	u64 v;

	assert_int_equal(guest_read(&t->vm, gpa(at), &v, 8), 0);
	return v;
}

static u32 peek32(struct test_vm *t, u64 at)
{
	return (u32)peek64(t, at);
}

static void loads_what_the_header_says(void **state)
{
	static u8 k[8192], initrd[5000];
	struct test_vm *t = test_vm_make(64 << 20);
	struct vcpu_state s;
	struct error e;
	u64 n = image_make(k), bp, rd, pt;
	char text[32];
	u8 got[5000];
	unsigned i;

	memset(initrd, 0xcd, sizeof(initrd));
	assert_int_equal(load(t, k, n, initrd, sizeof(initrd), "console=ttyS0", &s, &e), 0);
	assert_int_equal(s.rip, (16 << 20) + 0x200);
	assert_int_equal(s.rflags, 2);
	assert_int_equal(s.efer, 0x500);
	assert_true(s.cr0 & BIT(31) && s.cr0 & 1 && s.cr4 == 0x20);
	assert_int_equal(s.seg_sel[SEG_CS], 0x10);
	assert_int_equal(s.seg_sel[SEG_DS], 0x18);
	assert_int_equal(s.seg_ar[SEG_CS], 0xa09b);
	assert_int_equal(peek64(t, s.gdtr_base + 0x10), 0x00af9b000000ffff);
	assert_int_equal(s.gpr[VCPU_RAX], 0);
	assert_int_equal(s.lstar, 0x5a5a5a5a5a5a5a5a); /* not ours: untouched */

	assert_int_equal(guest_read(&t->vm, gpa(16 << 20), got, 4096), 0);
	assert_memory_equal(got, k + SETUP, 4096);
	bp = s.gpr[VCPU_RSI];
	assert_int_equal(peek32(t, bp + 0x202), 0x53726448);
	assert_int_equal(peek64(t, bp + 0x70), 0xe0000);
	assert_int_equal(guest_read(&t->vm, gpa(peek32(t, bp + 0x228)), text, 14), 0);
	assert_string_equal(text, "console=ttyS0");
	rd = peek32(t, bp + 0x218);
	assert_int_equal(peek32(t, bp + 0x21c), sizeof(initrd));
	assert_true(rd % 4096 == 0 && rd >= 20 << 20 && rd + sizeof(initrd) <= 64 << 20);
	assert_int_equal(guest_read(&t->vm, gpa(rd), got, sizeof(got)), 0);
	assert_memory_equal(got, initrd, sizeof(initrd));

	/* e820: RAM, EBDA, BIOS area, RAM; nothing above 4 GiB. */
	assert_int_equal(peek32(t, bp + 0x1e8) & 0xff, 4);
	assert_int_equal(peek64(t, bp + 0x2d0 + 8), 0x9fc00);
	assert_int_equal(peek64(t, bp + 0x2d0 + 40), 0xe0000);
	assert_int_equal(peek32(t, bp + 0x2d0 + 56), 2);
	assert_int_equal(peek64(t, bp + 0x2d0 + 60), 1 << 20);
	assert_int_equal(peek64(t, bp + 0x2d0 + 68), 63 << 20);

	/* Identity map by walking it. */
	for (i = 0; i < 2048; i += 511) {
		pt = peek64(t, s.cr3) & ~0xfffull;
		pt = peek64(t, pt + 8 * (i >> 9)) & ~0xfffull;
		assert_int_equal(peek64(t, pt + 8 * (i & 511)), ((u64)i << 21) | 0x83);
	}
	test_vm_free(t);
}

static void maps_ram_above_4g(void **state)
{
	struct mem_range map[MEM_MAP_MAX];
	struct vm vm = { .ram_bytes = 5ull << 30 };

	assert_int_equal(load_mem_map(&vm, map), 5);
	assert_int_equal(map[3].base + map[3].len, 3ull << 30);
	assert_int_equal(map[4].base, 4ull << 30);
	assert_int_equal(map[4].len, 2ull << 30);
}

static void refuses(u32 off, unsigned width, u64 val, enum err code, const char *text)
{
	static u8 k[8192];
	struct test_vm *t = test_vm_make(64 << 20);
	struct vcpu_state s;
	struct error e;
	u64 n = image_make(k);

	memcpy(k + off, &val, width);
	assert_int_equal(load(t, k, n, NULL, 0, "", &s, &e), -(int)code);
	assert_int_equal(e.code, code);
	if (!strstr(e.text, text) || !strstr(e.text, "vmlinuz"))
		fail_msg("error text: %s", e.text);
	test_vm_free(t);
}

static void refuses_bad_headers(void **state)
{
	refuses(0x202, 4, 0, E_INVAL, "not a Linux bzImage");
	refuses(0x1fe, 2, 0, E_INVAL, "not a Linux bzImage");
	refuses(0x206, 2, 0x20b, E_UNSUPPORTED, "2.11");
	refuses(0x211, 1, 0, E_UNSUPPORTED, "zImage");
	refuses(0x236, 2, 0, E_UNSUPPORTED, "32-bit");
	refuses(0x1f4, 4, 0x101, E_INVAL, "cut short");
	refuses(0x1f4, 4, 0xffffffff, E_INVAL, "cut short");
	refuses(0x1f4, 4, 0, E_INVAL, "no kernel");
	refuses(0x1f1, 1, 0, E_INVAL, "cut short"); /* 0 means 4 */
	refuses(0x258, 8, ~0ull, E_INVAL, "outside 1 MiB..3 GiB");
	refuses(0x258, 8, 0x7000, E_INVAL, "outside 1 MiB..3 GiB");
	refuses(0x258, 8, (3ull << 30) - 4096, E_RANGE, "cannot fit");
	refuses(0x260, 4, 0xffffffff, E_RANGE, "cannot fit");
	refuses(0x260, 4, 60 << 20, E_RANGE, "memory=76M");
}

static void refuses_too_little_memory(void **state)
{
	static u8 k[8192], initrd[3 << 20];
	struct test_vm *t = test_vm_make(22 << 20);
	struct vcpu_state s;
	struct error e;
	u64 n = image_make(k);

	assert_int_equal(load(t, k, n, NULL, 0, "", &s, &e), 0);
	assert_int_equal(load(t, k, n, initrd, 2 << 20, "", &s, &e), 0);
	assert_int_equal(load(t, k, n, initrd, sizeof(initrd), "", &s, &e), -E_RANGE);
	assert_non_null(strstr(e.text, "initrd.gz"));
	assert_non_null(strstr(e.text, "memory=24M"));
	/* The kernel may want the initrd low. */
	*(u32 *)(k + 0x22c) = (21 << 20) - 1;
	assert_int_equal(load(t, k, n, initrd, 2 << 20, "", &s, &e), -E_RANGE);
	assert_non_null(strstr(e.text, "smaller initrd"));
	assert_int_equal(load(t, k, n, initrd, 1 << 20, "", &s, &e), 0);
	assert_true(peek32(t, s.gpr[VCPU_RSI] + 0x218) + (1 << 20) <= 21 << 20);
	assert_int_equal(load(t, k, n, initrd, ~0ull - 100, "", &s, &e), -E_RANGE);
	test_vm_free(t);
}

static void refuses_long_command_line(void **state)
{
	static u8 k[8192];
	struct test_vm *t = test_vm_make(64 << 20);
	struct vcpu_state s;
	struct error e;
	u64 n = image_make(k);

	*(u32 *)(k + 0x238) = 5;
	assert_int_equal(load(t, k, n, NULL, 0, "12345", &s, &e), 0);
	assert_int_equal(load(t, k, n, NULL, 0, "123456", &s, &e), -E_RANGE);
	assert_non_null(strstr(e.text, "cmdline="));
	test_vm_free(t);
}

/* Every length up to the whole: an error with a text, or (whole) success. Exact-size copies let ASan see overreads. */
static void survives_truncation(void **state)
{
	static u8 k[8192];
	struct test_vm *t = test_vm_make(64 << 20);
	u64 n = image_make(k), i;
	struct vcpu_state s;
	struct error e;

	for (i = 0; i <= n; i += i < 1100 || i > n - 20 ? 1 : 97) {
		u8 *c = malloc(i ?: 1);
		int r;

		memcpy(c, k, i);
		r = load(t, c, i, NULL, 0, "x", &s, &e);
		assert_int_equal(r == 0, i == n);
		if (r)
			assert_true(e.code == -r && strlen(e.text) > 20);
		free(c);
	}
	test_vm_free(t);
}

static void survives_flips(void **state)
{
	static u8 k[8192], c[8192];
	struct test_vm *t = test_vm_make(32 << 20);
	u64 n = image_make(k);
	unsigned i, j, seed = 1, loaded = 0;
	struct vcpu_state s;
	struct error e;

	for (i = 0; i < 20000; i++) {
		memcpy(c, k, n);
		for (j = 0; j < 1 + i % 4; j++) {
			seed = seed * 1103515245 + 12345;
			c[0x1f1 + (seed >> 8) % 0x80] ^= seed >> 24;
		}
		if (load(t, c, n, k, 100, "x", &s, &e) == 0) {
			loaded++;
			assert_true(s.rip >= 1 << 20 && s.rip < 32 << 20);
		} else {
			assert_true(e.text[0]);
		}
	}
	assert_true(loaded > 100 && loaded < 19900);
	test_vm_free(t);
}

static void loads_stock_kernel(void **state)
{
	FILE *f = fopen("build/linux/vmlinuz", "rb");
	struct test_vm *t;
	struct vcpu_state s;
	struct error e;
	u8 *k, got[64];
	long n;

	if (!f) {
		print_message("no build/linux/vmlinuz (tools/deps.sh kernel)\n");
		skip();
	}
	fseek(f, 0, SEEK_END);
	n = ftell(f);
	rewind(f);
	k = malloc(n);
	assert_int_equal(fread(k, 1, n, f), n);
	fclose(f);
	t = test_vm_make(128 << 20);
	if (load(t, k, n, k, 1000, "console=ttyS0", &s, &e))
		fail_msg("%s", e.text);
	assert_int_equal(guest_read(&t->vm, gpa(s.rip), got, sizeof(got)), 0);
	assert_memory_equal(got, k + (k[0x1f1] + 1) * 512 + 0x200, sizeof(got));
	assert_true(load(t, k, n - n / 3, NULL, 0, "", &s, &e) < 0);
	assert_non_null(strstr(e.text, "cut short"));
	test_vm_free(t);
	t = test_vm_make(16 << 20);
	assert_int_equal(load(t, k, n, NULL, 0, "", &s, &e), -E_RANGE);
	print_message("%s\n", e.text);
	test_vm_free(t);
	free(k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loads_what_the_header_says), cmocka_unit_test(maps_ram_above_4g),
		cmocka_unit_test(refuses_bad_headers), cmocka_unit_test(refuses_too_little_memory),
		cmocka_unit_test(refuses_long_command_line), cmocka_unit_test(survives_truncation),
		cmocka_unit_test(survives_flips), cmocka_unit_test(loads_stock_kernel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
