/* SPDX-License-Identifier: MIT */
/* Firmware's tables are believed about addresses, but every length is checked before it is used. */
#include "hv/arch/acpi.h"
#include "hv/lib/log.h"

#include <string.h>

static struct acpi_facts facts;
static u64 limit; /* tables must lie below: what is mapped */

/* ACPI "System Description Table Header". */
struct sdt {
	char signature[4];
	u32 length;
	u8 revision, checksum;
	char oem_id[6], oem_table_id[8];
	u32 oem_revision, creator_id, creator_revision;
} __packed;

static u64 get(const void *table, u32 offset, u32 width)
{
	u64 v = 0;

	memcpy(&v, (const u8 *)table + offset, width);
	return v;
}

static bool sum_ok(const void *p, u64 len)
{
	u8 sum = 0;

	for (u64 i = 0; i < len; i++)
		sum += ((const u8 *)p)[i];
	return !sum;
}

/* The table at that address if it has that signature (NULL: any), lies in mapped memory and its checksum is right. */
static const struct sdt *table_at(u64 at, const char *signature)
{
	const struct sdt *t = (const struct sdt *)(uintptr_t)at;

	if (at < PAGE_SIZE || at + sizeof(*t) > limit || at + sizeof(*t) < at)
		return NULL;
	if (t->length < sizeof(*t) || t->length > limit - at || (signature && memcmp(t->signature, signature, 4)))
		return NULL;
	return sum_ok(t, t->length) ? t : NULL;
}

static const struct sdt *find_table(u64 rsdp, const char *signature)
{
	const struct sdt *dir = NULL;
	u32 width = 8;

	if (rsdp < PAGE_SIZE || rsdp + 36 > limit || memcmp((void *)(uintptr_t)rsdp, "RSD PTR ", 8))
		return NULL;
	if (get((void *)(uintptr_t)rsdp, 15, 1) >= 2)
		dir = table_at(get((void *)(uintptr_t)rsdp, 24, 8), "XSDT");
	if (!dir) {
		dir = table_at(get((void *)(uintptr_t)rsdp, 16, 4), "RSDT");
		width = 4;
	}
	if (!dir)
		return NULL;
	for (u32 o = sizeof(*dir); o + width <= dir->length; o += width) {
		const struct sdt *t = table_at(get(dir, o, width), signature);

		if (t)
			return t;
	}
	return NULL;
}

/* A package element that is a small integer constant (ACPI "Data Objects Encoding"). Returns bytes taken, 0: something else. */
static u32 aml_byte(const u8 *p, const u8 *end, u8 *out)
{
	if (p < end && *p <= 1) { /* ZeroOp, OneOp */
		*out = *p;
		return 1;
	}
	if (p + 1 < end && *p == 0x0a) { /* BytePrefix */
		*out = p[1];
		return 2;
	}
	return 0;
}

/* Looks for Name (_S5_, Package () { SLP_TYPa, SLP_TYPb, ... }) without interpreting AML: every firmware has it in this form. */
static void find_s5(const struct sdt *dsdt)
{
	const u8 *p = (const u8 *)dsdt + sizeof(*dsdt), *end = (const u8 *)dsdt + dsdt->length;

	for (; p + 10 < end; p++) {
		const u8 *q = p + 4;
		u32 n;

		if (memcmp(p, "_S5_", 4) || (p[-1] != 0x08 && !(p[-1] == '\\' && p[-2] == 0x08)) || *q++ != 0x12)
			continue;
		q += (*q >> 6) + 2; /* PkgLength and NumElements */
		n = aml_byte(q, end, &facts.s5_typ_a);
		if (n && aml_byte(q + n, end, &facts.s5_typ_b)) {
			facts.have_s5 = true;
			return;
		}
	}
}

static void read_fadt(const struct sdt *t)
{
	u32 flags;
	u64 dsdt = 0;
	const struct sdt *d;

	if (t->length < 116)
		return;
	flags = get(t, 112, 4);
	facts.smi_cmd = get(t, 48, 4);
	facts.acpi_enable = get(t, 52, 1);
	facts.pm1a_cnt = get(t, 64, 4);
	facts.pm1b_cnt = get(t, 68, 4);
	if (get(t, 91, 1) == 4)
		facts.pm_timer_port = get(t, 76, 4);
	facts.pm_timer_32bit = flags & BIT(8); /* TMR_VAL_EXT */
	if (t->length >= 148)
		dsdt = get(t, 140, 8);
	d = table_at(dsdt ? dsdt : get(t, 40, 4), "DSDT");
	if (d)
		find_s5(d);
}

/* Some firmware lists a CPU both with its APIC id and with its x2APIC id: to start it twice would reset it while it runs. */
static void add_cpu(u32 *cpus, u32 apic_id)
{
	for (u32 i = 0; i < MIN(*cpus, (u32)ACPI_MAX_CPUS); i++)
		if (facts.apic_id[i] == apic_id)
			return;
	if (*cpus < ACPI_MAX_CPUS)
		facts.apic_id[*cpus] = apic_id;
	++*cpus;
}

static void read_madt(const struct sdt *t)
{
	u32 len, cpus = 0;

	if (t->length < 44)
		return;
	for (u32 o = 44; o + 2 <= t->length; o += len) {
		len = get(t, o + 1, 1);
		if (len < 2 || len > t->length - o)
			break;
		switch (get(t, o, 1)) {
		case 0: /* processor local APIC */
			if (len >= 8 && get(t, o + 4, 4) & 1 && get(t, o + 3, 1) != 0xff) /* all ones: nobody's, the broadcast */
				add_cpu(&cpus, get(t, o + 3, 1));
			break;
		case 1: /* I/O APIC */
			if (len >= 12 && facts.n_ioapics < ACPI_MAX_IOAPICS)
				facts.ioapic[facts.n_ioapics++] = get(t, o + 4, 4);
			break;
		case 9: /* processor local x2APIC */
			if (len >= 16 && get(t, o + 8, 4) & 1 && get(t, o + 4, 4) != 0xffffffff)
				add_cpu(&cpus, get(t, o + 4, 4));
			break;
		}
	}
	facts.n_cpus = MAX(cpus, 1u);
}

void acpi_init(u64 rsdp, u64 mapped_end)
{
	const struct sdt *t;

	memset(&facts, 0, sizeof(facts));
	facts.n_cpus = 1;
	limit = mapped_end;
	t = find_table(rsdp, "FACP");
	if (t)
		read_fadt(t);
	else
		log_warn("acpi", "no fixed ACPI description table (FADT): no PM timer, no power-off. Update the firmware.");
	t = find_table(rsdp, "APIC");
	if (t)
		read_madt(t);
}

const struct acpi_facts *acpi_facts(void)
{
	return &facts;
}
