/* SPDX-License-Identifier: MIT */
/* The few ACPI facts that the tests need, read without an interpreter. */
#include "guest.h"

u32 acpi_get32(const u8 *table, u32 offset)
{
	return table[offset] | table[offset + 1] << 8 | table[offset + 2] << 16 |
	       (u32)table[offset + 3] << 24;
}

static u64 get64(const u8 *p)
{
	return acpi_get32(p, 0) | (u64)acpi_get32(p, 4) << 32;
}

static u8 sum(const u8 *p, u32 n)
{
	u8 s = 0;

	while (n--)
		s += *p++;
	return s;
}

static const u8 *find_rsdp(void)
{
	for (u64 a = 0xe0000; a < 0x100000; a += 16)
		if (!memcmp((void *)a, "RSD PTR ", 8) && !sum((void *)a, 20))
			return (void *)a;
	return NULL;
}

const u8 *acpi_find(const char *signature)
{
	const u8 *rsdp = find_rsdp(), *root;
	bool wide;

	if (!rsdp)
		return NULL;
	wide = rsdp[15] >= 2 && get64(rsdp + 24);
	root = (const u8 *)(wide ? get64(rsdp + 24) : acpi_get32(rsdp, 16));
	for (u32 i = 36; i < acpi_get32(root, 4); i += wide ? 8 : 4) {
		const u8 *t = (const u8 *)(wide ? get64(root + i) : acpi_get32(root, i));

		if (!memcmp(t, signature, 4) && !sum(t, acpi_get32(t, 4)))
			return t;
	}
	return NULL;
}

u32 acpi_isa_pin(u32 irq)
{
	const u8 *madt = acpi_find("APIC");

	for (u32 i = 44; madt && i + 2 <= acpi_get32(madt, 4) && madt[i + 1]; i += madt[i + 1])
		if (madt[i] == 2 && madt[i + 2] == 0 && madt[i + 3] == irq)
			return acpi_get32(madt, i + 4);
	return irq;
}

u16 acpi_pm_timer_port(void)
{
	const u8 *fadt = acpi_find("FACP");

	return fadt ? acpi_get32(fadt, 76) : 0;
}

u16 acpi_pm1a_control_port(void)
{
	const u8 *fadt = acpi_find("FACP");

	return fadt ? acpi_get32(fadt, 64) : 0;
}

/* AML: Name (_S5_, Package {SLP_TYPa, ...}) is 08 "_S5_" 12 length count element... */
bool acpi_s5_type(u8 *type)
{
	const u8 *fadt = acpi_find("FACP"), *dsdt, *p, *end;

	if (!fadt)
		return false;
	dsdt = (const u8 *)(u64)acpi_get32(fadt, 40);
	if (!dsdt)
		dsdt = (const u8 *)get64(fadt + 140);
	end = dsdt + acpi_get32(dsdt, 4);
	for (p = dsdt + 36; p + 12 < end; p++) {
		if (memcmp(p, "_S5_\x12", 5))
			continue;
		p += 5;
		p += (*p >> 6) + 2; /* package length (1..4 bytes), element count */
		if (*p == 0x0a)     /* byte prefix; 0 and 1 are opcodes of the same value */
			p++;
		*type = *p;
		return true;
	}
	return false;
}
