/* SPDX-License-Identifier: MIT */
/* The page walk in all paging modes, its faults, and random tables. */
#include "hv/vm/gva.h"
#include "hv/vm/test_vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define P 1ull
#define W 2ull
#define U 4ull
#define PS 0x80ull
#define NX BIT(63)
#define PG (BIT(31) | 1)
#define WP BIT(16)

static struct test_vm *t;

static void put(u64 table, unsigned index, u64 entry)
{
	assert_int_equal(guest_write(&t->vm, gpa(table + 8 * index), &entry, 8), 0);
}

static void put32(u64 table, unsigned index, u32 entry)
{
	assert_int_equal(guest_write(&t->vm, gpa(table + 4 * index), &entry, 4), 0);
}

static void maps(const struct paging *p, u64 va, u32 access, u64 want)
{
	u32 fault = 0xbad;
	u64 out = ~0ull;

	if (!gva_to_gpa(&t->vm, p, va, access, &out, &fault))
		fail_msg("%#lx faults with %#x", (unsigned long)va, fault);
	assert_int_equal(out, want);
}

static void faults(const struct paging *p, u64 va, u32 access, u32 want)
{
	u32 fault = 0xbad;
	u64 out;

	if (gva_to_gpa(&t->vm, p, va, access, &out, &fault))
		fail_msg("%#lx maps to %#lx", (unsigned long)va, (unsigned long)out);
	assert_int_equal(fault, want);
}

static void paging_off(void **state)
{
	struct paging p = { .cr0 = 1, .cr4 = 0x20 };

	maps(&p, 0xfee00030, PF_WRITE | PF_USER, 0xfee00030);
	maps(&p, 0x1fee00030, 0, 0xfee00030);
}

static void long_mode(u64 cr4, u64 top)
{
	struct paging p = { .cr0 = PG | WP, .cr3 = top | 0x18, .cr4 = cr4, .efer = 0xd00 };
	u64 va = 0xffff800000000000;

	put(0x1000, 256, 0x2000 | P | W | U);
	put(0x2000, 0, 0x3000 | P | W | U);
	put(0x2000, 1, 0x40000000 | P | W | PS | 0x1000);  /* 1 GiB, PAT bit set */
	put(0x3000, 0, 0x4000 | P | W | U);
	put(0x3000, 1, 0xfee00000 | P | W | PS | 0x1000); /* 2 MiB */
	put(0x4000, 5, 0x7654321000 | P | W | U | NX);
	put(0x4000, 6, 0x6000 | P | U);
	put(0x4000, 7, 0x7000 | P | W);
	put(0x4000, 8, 0x8000 | W | U);
	maps(&p, va + 0x5abc, PF_WRITE | PF_USER, 0x7654321abc);
	maps(&p, va + 0x2abcde, PF_WRITE, 0xfeeabcde - 0x0);
	maps(&p, va + 0x40000000 + 0x12345678, PF_WRITE, 0x40000000 + 0x12345678);
	faults(&p, va + 0x5000, PF_FETCH, PF_PRESENT | PF_FETCH);
	faults(&p, va + 0x6000, PF_WRITE, PF_PRESENT | PF_WRITE);
	faults(&p, va + 0x6000, PF_WRITE | PF_USER, PF_PRESENT | PF_WRITE | PF_USER);
	maps(&p, va + 0x6000, PF_USER, 0x6000);
	maps(&p, va + 0x6000, PF_FETCH, 0x6000);
	faults(&p, va + 0x7000, PF_USER, PF_PRESENT | PF_USER);
	faults(&p, va + 0x8000, PF_USER, PF_USER);
	faults(&p, va + 0x40000000, PF_USER, PF_PRESENT | PF_USER); /* user right missing higher up */
	faults(&p, va - 0x1000, 0, 0);
	p.cr0 &= ~WP;
	maps(&p, va + 0x6000, PF_WRITE, 0x6000);
	faults(&p, va + 0x6000, PF_WRITE | PF_USER, PF_PRESENT | PF_WRITE | PF_USER);
	p.efer &= ~BIT(11); /* without NXE, the bit is not looked at and fetches are not told apart */
	maps(&p, va + 0x5000, PF_FETCH, 0x7654321000);
	faults(&p, va + 0x8000, PF_FETCH, 0);
	assert_true(gva_canonical(&p, va));
}

static void four_levels(void **state)
{
	struct paging p = { .efer = 0xd00, .cr4 = 0x20 };

	long_mode(0x20, 0x1000);
	assert_true(gva_canonical(&p, 0x7fffffffffff));
	assert_false(gva_canonical(&p, 0x800000000000));
	assert_false(gva_canonical(&p, 0xff7fffffffffffff));
}

static void five_levels(void **state)
{
	struct paging p = { .efer = 0xd00, .cr4 = 0x1020 };

	put(0x9000, 511, 0x1000 | P | W | U);
	long_mode(0x1020, 0x9000);
	assert_true(gva_canonical(&p, 0x800000000000));
	assert_false(gva_canonical(&p, 0x0100000000000000));
}

static void pae(void **state)
{
	struct paging p = { .cr0 = PG | WP, .cr3 = 0x1000, .cr4 = 0x20, .efer = 0x800,
			    .pdpte = { 0, 0x2000 | P, 0x3000, 0xfffff000 | P } };

	put(0x2000, 3, 0xfee00000 | P | W | PS);
	put(0x2000, 4, 0x4000 | P | W);
	put(0x4000, 511, 0x123456000 | P | W);
	maps(&p, 0x40600000 + 0x30, PF_WRITE, 0xfee00030);
	maps(&p, 0xdead000040800000 + 0x1ff123, PF_WRITE, 0x123456123);
	faults(&p, 0x40800000, PF_WRITE, PF_WRITE);
	faults(&p, 0x00600000, 0, 0);
	faults(&p, 0x80600000, 0, 0);
	faults(&p, 0xc0600000, 0, PF_PRESENT | PF_RSVD); /* tables outside of RAM */
}

static void legacy(void **state)
{
	struct paging p = { .cr0 = PG | WP, .cr3 = 0x1018, .cr4 = 0x10 };

	put32(0x1000, 1, 0x2000 | P | W | U);
	put32(0x2000, 1023, 0xfec00000 | P | W);
	put32(0x2000, 1022, 0x5000 | P | U);
	put32(0x1000, 2, 0xfec00000 | P | W | PS | 3 << 13); /* 4 MiB at 0x3fec00000: PSE-36 */
	put32(0x1000, 3, 0xe0000000 | P);
	maps(&p, 0x7ff123, PF_WRITE, 0xfec00123);
	maps(&p, 0x8abcde, PF_WRITE, 0x3fecabcde);
	faults(&p, 0x7ff123, PF_USER, PF_PRESENT | PF_USER);
	faults(&p, 0x7fe123, PF_WRITE, PF_PRESENT | PF_WRITE);
	faults(&p, 0x7fd123, PF_WRITE, PF_WRITE);
	faults(&p, 0xc00000, 0, PF_PRESENT | PF_RSVD);
	p.cr4 = 0; /* PS means nothing now: 0xfec06000 is no table in RAM */
	faults(&p, 0x8abcde, 0, PF_PRESENT | PF_RSVD);
}

static void survives_reserved_and_wild_tables(void **state)
{
	struct paging p = { .cr0 = PG, .cr3 = 0x1000, .cr4 = 0x20, .efer = 0xd00 };
	u64 rnd = 1, out, entry;
	u32 fault;
	unsigned i, mapped = 0;

	put(0x1000, 0, 0x2000 | P | PS); /* reserved at this level */
	faults(&p, 0, 0, PF_PRESENT | PF_RSVD);
	put(0x1000, 0, 0x1000 | P); /* a table that is its own table: ends all the same */
	maps(&p, 0x8, 0, 0x1008);
	p.cr3 = 0xffffffffff000;
	faults(&p, 0, 0, PF_PRESENT | PF_RSVD);
	for (i = 0; i < 8 << 9; i++) {
		rnd = rnd * 6364136223846793005 + 1442695040888963407;
		entry = rnd >> 11 & 0x1f ? (rnd >> 30 & 7) << 12 | (rnd & 0xff) | P : rnd;
		put(0, i, entry);
	}
	for (i = 0; i < 100000; i++) {
		rnd = rnd * 6364136223846793005 + 1442695040888963407;
		p.cr3 = rnd >> 20 & 0x7000;
		p.cr4 = 0x20 | (rnd >> 60 & 1) << 12;
		p.efer = rnd >> 61 & 1 ? 0xd00 : 0x800;
		if (rnd >> 62 & 1)
			p.cr4 &= ~0x20ull, p.efer = 0;
		p.pdpte[0] = p.pdpte[3] = p.cr3 | 1;
		mapped += gva_to_gpa(&t->vm, &p, rnd ^ rnd << 32, rnd & 0x16, &out, &fault);
	}
	assert_true(mapped > 1000 && mapped < 99000);
}

static int make(void **state)
{
	t = test_vm_make(4 << 20);
	return 0;
}

static int unmake(void **state)
{
	test_vm_free(t);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(paging_off, make, unmake), cmocka_unit_test_setup_teardown(four_levels, make, unmake),
		cmocka_unit_test_setup_teardown(five_levels, make, unmake), cmocka_unit_test_setup_teardown(pae, make, unmake),
		cmocka_unit_test_setup_teardown(legacy, make, unmake),
		cmocka_unit_test_setup_teardown(survives_reserved_and_wild_tables, make, unmake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
