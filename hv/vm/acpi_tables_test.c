/* SPDX-License-Identifier: MIT */
/* Walks the tables as an OS does: from the RSDP, trusting nothing but signatures, lengths and checksums. With
 * ACPI_DUMP=folder in the environment the tables are also written there, for `iasl -d`. */
#include "hv/vm/acpi_tables.h"
#include "hv/vm/test_vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static struct test_vm *t;

static const u8 *at(u64 a)
{
	assert_in_range(a, ACPI_TABLES_BASE, ACPI_TABLES_END - 1);
	return (const u8 *)guest_page(&t->vm, a >> 12) + (a & 4095);
}

static u32 get32(u64 a)
{
	u32 v;

	memcpy(&v, at(a), 4);
	return v;
}

static u16 get16(u64 a) { return (u16)(*at(a) | *at(a + 1) << 8); }
static u64 get64(u64 a) { return get32(a) | (u64)get32(a + 4) << 32; }

static u8 sum(u64 a, u32 len)
{
	u8 s = 0;

	while (len--)
		s += *at(a++);
	return s;
}

static void dump(const char *name, u64 a, u32 len)
{
	char path[200];
	FILE *f;

	if (!getenv("ACPI_DUMP"))
		return;
	snprintf(path, sizeof(path), "%s/%s.dat", getenv("ACPI_DUMP"), name);
	f = fopen(path, "wb");
	assert_non_null(f);
	for (u32 i = 0; i < len; i++)
		fputc(*at(a + i), f);
	fclose(f);
}

/* Checks header and checksum of a table; returns its length. */
static u32 table(u64 a, const char *signature)
{
	u32 len = get32(a + 4);

	assert_memory_equal(at(a), signature, 4);
	assert_in_range(len, 36, 4096);
	assert_int_equal(sum(a, len), 0);
	dump(signature, a, len);
	return len;
}

static u64 rsdp_xsdt(void)
{
	assert_memory_equal(at(0xe0000), "RSD PTR ", 8);
	assert_int_equal(sum(0xe0000, 20), 0);
	assert_int_equal(sum(0xe0000, 36), 0);
	assert_int_equal(*at(0xe0000 + 15), 2);
	return get64(0xe0000 + 24);
}

static int setup(void **unused)
{
	t = test_vm_make(4 << 20);
	t->vm.config.vcpus = 1;
	return acpi_tables_write(&t->vm, NULL);
}

static int teardown(void **unused)
{
	test_vm_free(t);
	return 0;
}

static void test_roots_agree(void **unused)
{
	u64 xsdt = rsdp_xsdt(), rsdt = get32(0xe0000 + 16);

	assert_int_equal(table(xsdt, "XSDT"), 36 + 16);
	assert_int_equal(table(rsdt, "RSDT"), 36 + 8);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(get64(xsdt + 36 + 8 * i), get32(rsdt + 36 + 4 * i));
}

static void test_fadt(void **unused)
{
	u64 fadt = get64(rsdp_xsdt() + 36);

	assert_int_equal(table(fadt, "FACP"), 268);
	assert_int_equal(get16(fadt + 46), 9);              /* SCI_INT */
	assert_int_equal(get32(fadt + 48), 0);              /* SMI_CMD: always in ACPI mode */
	assert_int_equal(get32(fadt + 56), 0x600);          /* PM1a_EVT_BLK */
	assert_int_equal(get32(fadt + 64), 0x604);          /* PM1a_CNT_BLK */
	assert_int_equal(get32(fadt + 76), 0x608);          /* PM_TMR_BLK */
	assert_true(get16(fadt + 96) > 100 && get16(fadt + 98) > 1000); /* no C2, C3 */
	assert_int_equal(*at(fadt + 108), 0x32);            /* CENTURY */
	assert_int_equal(get16(fadt + 109) & 2, 0);         /* no 8042 */
	assert_int_equal(get32(fadt + 112) & 0x100410, 0x400); /* RESET_REG_SUP, fixed power button, not hardware-reduced */
	assert_int_equal(*at(fadt + 116), 1);               /* RESET_REG: system I/O */
	assert_int_equal(get64(fadt + 120), 0xcf9);
	assert_int_equal(*at(fadt + 128), 6);
	assert_int_equal(get64(fadt + 140), get32(fadt + 40)); /* X_DSDT */
	assert_true(table(get32(fadt + 40), "DSDT") > 36);
	assert_memory_equal(at(get32(fadt + 36)), "FACS", 4);
	assert_int_equal(get32(fadt + 36) % 64, 0);
	dump("FACS", get32(fadt + 36), 64);
}

static void madt_expect(u64 a, u64 end, unsigned vcpus)
{
	unsigned lapics = 0, seen = 0;

	for (; a < end; a += *at(a + 1)) {
		assert_in_range(*at(a + 1), 2, end - a);
		switch (*at(a)) {
		case 0:
			assert_int_equal(*at(a + 3), lapics);
			assert_int_equal(get32(a + 4), 1);
			lapics++;
			break;
		case 1:
			assert_int_equal(get32(a + 4), 0xfec00000);
			assert_int_equal(get32(a + 8), 0);
			seen |= 1;
			break;
		case 2:
			assert_int_equal(get32(a + 4), *at(a + 3) == 0 ? 2 : 9);
			assert_int_equal(get16(a + 8), *at(a + 3) == 0 ? 0 : 0xd);
			seen |= *at(a + 3) == 0 ? 2 : 4;
			break;
		case 4:
			assert_int_equal(*at(a + 5), 1);
			seen |= 8;
			break;
		default:
			fail();
		}
	}
	assert_int_equal(a, end);
	assert_int_equal(lapics, vcpus);
	assert_int_equal(seen, 15);
}

static void test_madt(void **unused)
{
	u64 madt;

	for (unsigned vcpus = 1; vcpus <= VM_MAX_VCPUS; vcpus += VM_MAX_VCPUS - 1) {
		t->vm.config.vcpus = vcpus;
		assert_int_equal(acpi_tables_write(&t->vm, NULL), 0);
		madt = get64(rsdp_xsdt() + 36 + 8);
		madt_expect(madt + 44, madt + table(madt, "APIC"), vcpus);
		assert_int_equal(get32(madt + 36), 0xfee00000);
	}
}

static void test_no_memory(void **unused)
{
	struct error e = { 0 };
	u64 n = t->vm.ram_2m_count;

	t->vm.ram_2m_count = 0;
	assert_int_equal(acpi_tables_write(&t->vm, &e), -E_RANGE);
	assert_non_null(strstr(e.text, "memory="));
	t->vm.ram_2m_count = n;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_roots_agree), T(test_fadt), T(test_madt), T(test_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
