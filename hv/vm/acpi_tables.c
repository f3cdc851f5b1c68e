/* SPDX-License-Identifier: MIT */
/* Layouts: ACPI "ACPI Software Programming Model". */
#include "hv/vm/acpi_tables.h"
#include "hv/vdev/devices.h"

#include <string.h>

#include "dsdt_aml.h"

struct acpi_header {
	char signature[4];
	u32 length;
	u8 revision, checksum;
	char oem_id[6], oem_table_id[8];
	u32 oem_revision;
	char creator_id[4];
	u32 creator_revision;
} __packed;

struct acpi_gas { /* Generic Address Structure */
	u8 space, bit_width, bit_offset, access_size;
	u64 address;
} __packed;

struct acpi_rsdp {
	char signature[8];
	u8 checksum;
	char oem_id[6];
	u8 revision;
	u32 rsdt;
	u32 length;
	u64 xsdt;
	u8 extended_checksum, reserved[3];
} __packed;

struct acpi_facs {
	char signature[4];
	u32 length, hardware_signature, waking_vector, global_lock, flags;
	u64 x_waking_vector;
	u8 version, reserved[31];
} __packed;

struct acpi_rsdt { struct acpi_header h; u32 table[2]; } __packed;
struct acpi_xsdt { struct acpi_header h; u64 table[2]; } __packed;

struct acpi_fadt { /* revision 5 */
	struct acpi_header h;
	u32 firmware_ctrl, dsdt;
	u8 reserved0, preferred_pm_profile;
	u16 sci_int;
	u32 smi_cmd;
	u8 acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	u32 pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk, pm2_cnt_blk, pm_tmr_blk, gpe0_blk, gpe1_blk;
	u8 pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_blk_len, gpe1_blk_len, gpe1_base, cst_cnt;
	u16 p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
	u8 duty_offset, duty_width, day_alrm, mon_alrm, century;
	u16 iapc_boot_arch;
	u8 reserved1;
	u32 flags;
	struct acpi_gas reset_reg;
	u8 reset_value;
	u16 arm_boot_arch;
	u8 minor_version;
	u64 x_firmware_ctrl, x_dsdt;
	struct acpi_gas x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk, x_pm2_cnt_blk, x_pm_tmr_blk,
		x_gpe0_blk, x_gpe1_blk, sleep_control, sleep_status;
} __packed;
_Static_assert(sizeof(struct acpi_fadt) == 268, "FADT of ACPI 5.0");

#define FADT_WBINVD BIT(0)
#define FADT_PROC_C1 BIT(2)
#define FADT_SLP_BUTTON BIT(5) /* no fixed sleep button */
#define FADT_FIX_RTC BIT(6)    /* the RTC does not wake through fixed hardware */
#define FADT_TMR_VAL_EXT BIT(8)
#define FADT_RESET_REG_SUP BIT(10)
#define FADT_HEADLESS BIT(12)
#define BOOT_ARCH_LEGACY_DEVICES 0x01
#define BOOT_ARCH_NO_VGA 0x04 /* bit 1, "8042 present", stays 0 */
#define RTC_CENTURY 0x32

struct acpi_madt_lapic { u8 type, length, processor, apic_id; u32 flags; } __packed;
struct acpi_madt_ioapic { u8 type, length, id, reserved; u32 address, gsi_base; } __packed;
struct acpi_madt_override { u8 type, length, bus, source; u32 gsi; u16 flags; } __packed;
struct acpi_madt_nmi { u8 type, length, processor; u16 flags; u8 lint; } __packed;
struct acpi_madt {
	struct acpi_header h;
	u32 lapic_address, flags;
	struct acpi_madt_ioapic ioapic;
	struct acpi_madt_override timer, sci;
	struct acpi_madt_nmi nmi;
	struct acpi_madt_lapic lapic[VM_MAX_VCPUS];
} __packed;
#define MADT_PCAT_COMPAT 1
#define MADT_LEVEL_HIGH 0x0d
#define MADT_ALL_PROCESSORS 0xff

/* Everything but the DSDT, as it lies in guest memory. */
struct acpi_image {
	struct acpi_rsdp rsdp;
	u8 align[28];
	struct acpi_facs facs; /* 64-byte aligned */
	struct acpi_rsdt rsdt;
	struct acpi_xsdt xsdt;
	struct acpi_fadt fadt;
	struct acpi_madt madt;
} __packed;
_Static_assert(offsetof(struct acpi_image, facs) == 64, "FACS alignment");

#define ACPI_DSDT_OFFSET 1024
_Static_assert(sizeof(struct acpi_image) <= ACPI_DSDT_OFFSET, "the DSDT follows");
_Static_assert(ACPI_TABLES_BASE + ACPI_DSDT_OFFSET + sizeof(dsdt_aml_code) <= ACPI_TABLES_END, "room for the DSDT");

static u32 acpi_at(size_t offset)
{
	return (u32)(ACPI_TABLES_BASE + offset);
}
#define AT(member) acpi_at(offsetof(struct acpi_image, member))

static u8 acpi_checksum(const void *p, size_t len)
{
	const u8 *b = p;
	u8 sum = 0;

	while (len--)
		sum += *b++;
	return (u8)-sum;
}

static void acpi_header(struct acpi_header *h, const char *signature, u8 revision, u32 length)
{
	memcpy(h->signature, signature, 4);
	h->length = length;
	h->revision = revision;
	memcpy(h->oem_id, "GODWIT", 6);
	memcpy(h->oem_table_id, "GODWIT\0\0", 8);
	h->oem_revision = 1;
	memcpy(h->creator_id, "GDWT", 4);
	h->creator_revision = 1;
}

static struct acpi_gas acpi_port(u16 port, u8 bits)
{
	return (struct acpi_gas){ .space = 1, .bit_width = bits, .access_size = bits / 16 + 1, .address = port };
}

static void acpi_fill_fadt(struct acpi_fadt *f)
{
	acpi_header(&f->h, "FACP", 5, sizeof(*f));
	f->firmware_ctrl = AT(facs); /* the 32-bit one only: having both is an error */
	f->dsdt = acpi_at(ACPI_DSDT_OFFSET);
	f->x_dsdt = f->dsdt;
	f->sci_int = PM_SCI_IRQ;
	f->pm1a_evt_blk = PM_BASE;
	f->pm1a_cnt_blk = PM_BASE + 4;
	f->pm_tmr_blk = PM_BASE + 8;
	f->pm1_evt_len = 4;
	f->pm1_cnt_len = 2;
	f->pm_tmr_len = 4;
	f->p_lvl2_lat = f->p_lvl3_lat = 0xffff; /* no C2, no C3 */
	f->century = RTC_CENTURY;
	f->iapc_boot_arch = BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_NO_VGA;
	f->flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC | FADT_TMR_VAL_EXT |
		   FADT_RESET_REG_SUP | FADT_HEADLESS;
	f->reset_reg = acpi_port(0xcf9, 8);
	f->reset_value = 6;
	f->x_pm1a_evt_blk = acpi_port(PM_BASE, 32);
	f->x_pm1a_evt_blk.access_size = 2; /* two registers of 16 bits */
	f->x_pm1a_cnt_blk = acpi_port(PM_BASE + 4, 16);
	f->x_pm_tmr_blk = acpi_port(PM_BASE + 8, 32);
	f->h.checksum = acpi_checksum(f, sizeof(*f));
}

static void acpi_fill_madt(struct acpi_madt *m, u32 vcpus)
{
	u32 len = (u32)(offsetof(struct acpi_madt, lapic) + vcpus * sizeof(m->lapic[0]));

	acpi_header(&m->h, "APIC", 3, len);
	m->lapic_address = 0xfee00000;
	m->flags = MADT_PCAT_COMPAT;
	m->ioapic = (struct acpi_madt_ioapic){ 1, sizeof(m->ioapic), 0, 0, 0xfec00000, 0 };
	m->timer = (struct acpi_madt_override){ 2, sizeof(m->timer), 0, 0, 2, 0 };
	m->sci = (struct acpi_madt_override){ 2, sizeof(m->sci), 0, PM_SCI_IRQ, PM_SCI_IRQ, MADT_LEVEL_HIGH };
	m->nmi = (struct acpi_madt_nmi){ 4, sizeof(m->nmi), MADT_ALL_PROCESSORS, 0, 1 };
	for (u32 i = 0; i < vcpus; i++)
		m->lapic[i] = (struct acpi_madt_lapic){ 0, sizeof(m->lapic[i]), (u8)i, (u8)i, 1 };
	m->h.checksum = acpi_checksum(m, len);
}

static void acpi_fill(struct acpi_image *a, u32 vcpus)
{
	*a = (struct acpi_image){ .facs = { .signature = "FACS", .length = sizeof(a->facs), .version = 2 } };
	acpi_fill_fadt(&a->fadt);
	acpi_fill_madt(&a->madt, vcpus);
	acpi_header(&a->rsdt.h, "RSDT", 1, sizeof(a->rsdt));
	acpi_header(&a->xsdt.h, "XSDT", 1, sizeof(a->xsdt));
	a->rsdt.table[0] = AT(fadt);
	a->rsdt.table[1] = AT(madt);
	a->xsdt.table[0] = AT(fadt);
	a->xsdt.table[1] = AT(madt);
	a->rsdt.h.checksum = acpi_checksum(&a->rsdt, sizeof(a->rsdt));
	a->xsdt.h.checksum = acpi_checksum(&a->xsdt, sizeof(a->xsdt));
	memcpy(a->rsdp.signature, "RSD PTR ", 8);
	memcpy(a->rsdp.oem_id, "GODWIT", 6);
	a->rsdp.revision = 2;
	a->rsdp.rsdt = AT(rsdt);
	a->rsdp.xsdt = AT(xsdt);
	a->rsdp.length = sizeof(a->rsdp);
	a->rsdp.checksum = acpi_checksum(&a->rsdp, 20); /* the ACPI 1.0 part */
	a->rsdp.extended_checksum = acpi_checksum(&a->rsdp, sizeof(a->rsdp));
}

int acpi_tables_write(struct vm *vm, struct error *e)
{
	struct acpi_image a;
	int r;

	acpi_fill(&a, MIN(vm->config.vcpus, (u32)VM_MAX_VCPUS));
	r = guest_write(vm, gpa(ACPI_TABLES_BASE), &a, sizeof(a));
	if (!r)
		r = guest_write(vm, gpa(ACPI_TABLES_BASE + ACPI_DSDT_OFFSET), dsdt_aml_code, sizeof(dsdt_aml_code));
	if (r)
		return error_set(e, (enum err)-r, "guest %s: no memory at %#llx for the ACPI tables; give it memory=4M or more",
				 vm->config.name, ACPI_TABLES_BASE);
	return 0;
}
