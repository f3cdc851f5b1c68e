/* SPDX-License-Identifier: MIT */
#include "hv/arch/acpi.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* Tables are given by address; each is a buffer of exactly its size, so that ASan sees every byte read too many. */
static u8 *rsdp, *xsdt, *fadt, *dsdt, *madt, *mcfg;

static void put(u8 *t, u32 offset, u64 v, u32 width)
{
	memcpy(t + offset, &v, width);
}

static void seal(u8 *t, u32 len, u32 at)
{
	u8 sum = 0;

	t[at] = 0;
	for (u32 i = 0; i < len; i++)
		sum += t[i];
	t[at] = -sum;
}

static u8 *table(const char *signature, u32 len)
{
	u8 *t = calloc(1, len);

	memcpy(t, signature, 4);
	put(t, 4, len, 4);
	return t;
}

/* The tables of a machine like the bench's. */
static int build(void **state)
{
	static const u8 aml[] = { 0x08, '_', 'X', '_', '_', 0x00, 0x08, '_', 'S', '5', '_', 0x12, 0x08, 0x04, 0x0a, 0x05, 0x01,
		0x00, 0x00, 0x00, 0x00 };

	dsdt = table("DSDT", 36 + sizeof(aml));
	memcpy(dsdt + 36, aml, sizeof(aml));
	seal(dsdt, 36 + sizeof(aml), 9);
	fadt = table("FACP", 244);
	put(fadt, 48, 0xb2, 4);
	put(fadt, 52, 0xf1, 1);
	put(fadt, 64, 0x604, 4);
	put(fadt, 76, 0x608, 4);
	put(fadt, 91, 4, 1);
	put(fadt, 112, BIT(8) | BIT(10), 4);
	put(fadt, 140, (uintptr_t)dsdt, 8);
	seal(fadt, 244, 9);
	madt = table("APIC", 44 + 8 + 8 + 12 + 16 + 12);
	put(madt, 36, 0xfee00000, 4);
	put(madt, 44, 0 | 8 << 8, 2);
	put(madt, 48, 1, 4);
	put(madt, 52, 0 | 8 << 8, 2); /* disabled */
	put(madt, 60, 1 | 12 << 8, 2);
	put(madt, 64, 0xfec00000, 4);
	put(madt, 72, 9 | 16 << 8, 2);
	put(madt, 76, 1, 4);
	put(madt, 80, 1, 4);
	put(madt, 88, 5 | 12 << 8, 2);
	put(madt, 92, 0xfee01000, 8);
	seal(madt, 100, 9);
	mcfg = table("MCFG", 60);
	put(mcfg, 44, 0xb0000000, 8);
	put(mcfg, 55, 255, 1);
	seal(mcfg, 60, 9);
	xsdt = table("XSDT", 36 + 4 * 8);
	put(xsdt, 36, (uintptr_t)mcfg, 8);
	put(xsdt, 44, 0, 8); /* a hole */
	put(xsdt, 52, (uintptr_t)fadt, 8);
	put(xsdt, 60, (uintptr_t)madt, 8);
	seal(xsdt, 68, 9);
	rsdp = calloc(1, 36);
	memcpy(rsdp, "RSD PTR ", 8);
	rsdp[15] = 2;
	put(rsdp, 24, (uintptr_t)xsdt, 8);
	return 0;
}

static int drop(void **state)
{
	free(rsdp), free(xsdt), free(fadt), free(dsdt), free(madt), free(mcfg);
	return 0;
}

static void init(void)
{
	acpi_init((uintptr_t)rsdp, ~0ull >> 1);
}

static void test_good(void **state)
{
	init();
	const struct acpi_facts *a = acpi_facts();

	assert_int_equal(a->pm_timer_port, 0x608);
	assert_true(a->pm_timer_32bit);
	assert_int_equal(a->pm1a_cnt, 0x604);
	assert_int_equal(a->smi_cmd, 0xb2);
	assert_int_equal(a->acpi_enable, 0xf1);
	assert_true(a->have_s5);
	assert_int_equal(a->s5_typ_a, 5);
	assert_int_equal(a->s5_typ_b, 1);
	assert_int_equal(a->n_cpus, 2);
	assert_int_equal(a->n_ioapics, 1);
	assert_int_equal(a->ioapic[0], 0xfec00000);
}

static void test_absent(void **state)
{
	acpi_init(0, ~0ull >> 1);
	assert_int_equal(acpi_facts()->n_cpus, 1);
	assert_int_equal(acpi_facts()->pm_timer_port, 0);
	/* Tables beyond what is mapped are not touched. */
	acpi_init((uintptr_t)rsdp, PAGE_SIZE);
	assert_int_equal(acpi_facts()->pm_timer_port, 0);
	rsdp[0] = 'X';
	init();
	assert_int_equal(acpi_facts()->pm_timer_port, 0);
}

static void test_checksum(void **state)
{
	fadt[100] ^= 1;
	init();
	assert_int_equal(acpi_facts()->pm_timer_port, 0);
	assert_int_equal(acpi_facts()->n_cpus, 2);
	madt[40] ^= 1;
	init();
	assert_int_equal(acpi_facts()->n_cpus, 1);
}

/* Firmware that lists a CPU in both of its forms, or names no CPU at all. */
static void test_cpus(void **state)
{
	init();
	assert_int_equal(acpi_facts()->apic_id[0], 0);
	assert_int_equal(acpi_facts()->apic_id[1], 1);
	put(madt, 76, 0, 4);
	seal(madt, 100, 9);
	init();
	assert_int_equal(acpi_facts()->n_cpus, 1);
	put(madt, 76, 0xffffffff, 4);
	seal(madt, 100, 9);
	init();
	assert_int_equal(acpi_facts()->n_cpus, 1);
	put(madt, 55, 0xff, 1);
	put(madt, 56, 1, 4);
	seal(madt, 100, 9);
	init();
	assert_int_equal(acpi_facts()->n_cpus, 1);
}

/* Tables cut to every length, with their checksum right, and every byte of the MADT's entries changed. */
static void test_hostile(void **state)
{
	u8 **tables[] = { &fadt, &madt, &mcfg, &dsdt };
	const u32 lens[] = { 244, 100, 60, 57 };
	const u32 slots[] = { 52, 60, 36, 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(tables); i++)
		for (u32 len = 36; len < lens[i]; len++) {
			u8 *cut = malloc(len);

			memcpy(cut, *tables[i], len);
			put(cut, 4, len, 4);
			seal(cut, len, 9);
			if (slots[i]) {
				put(xsdt, slots[i], (uintptr_t)cut, 8);
				seal(xsdt, 68, 9);
			} else {
				put(fadt, 140, (uintptr_t)cut, 8);
				seal(fadt, 244, 9);
			}
			init();
			free(cut);
			if (slots[i]) {
				put(xsdt, slots[i], (uintptr_t)*tables[i], 8);
				seal(xsdt, 68, 9);
			} else {
				put(fadt, 140, (uintptr_t)dsdt, 8);
				seal(fadt, 244, 9);
			}
		}
	for (u32 at = 44; at < 100; at++)
		for (u32 v = 0; v < 256; v++) {
			u8 old = madt[at];

			madt[at] = v;
			seal(madt, 100, 9);
			init();
			assert_true(acpi_facts()->n_ioapics <= ACPI_MAX_IOAPICS && acpi_facts()->n_cpus);
			madt[at] = old;
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_good, build, drop),
		cmocka_unit_test_setup_teardown(test_absent, build, drop),
		cmocka_unit_test_setup_teardown(test_checksum, build, drop),
		cmocka_unit_test_setup_teardown(test_cpus, build, drop),
		cmocka_unit_test_setup_teardown(test_hostile, build, drop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
