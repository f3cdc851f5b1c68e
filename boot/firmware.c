/* SPDX-License-Identifier: MIT */
/* UEFI variables hold what must survive a restart of the host. Read here; written later by hv/arch/nvram.c. */
#include "boot/boot.h"
#include "hv/arch/nvram.h"

#include <string.h>

/* UEFI, "EFI_RT_PROPERTIES_TABLE": which services work after ExitBootServices. */
#define RT_PROPERTIES_TABLE_GUID { 0xeb66918a, 0x7eef, 0x402a, { 0x84, 0x2e, 0x93, 0x1d, 0x21, 0xc3, 0x8a, 0xe9 } }
#define RT_SET_VARIABLE 0x40
struct rt_properties { UINT16 version, length; UINT32 supported; };

const void *boot_table(const EFI_GUID *guid)
{
	for (UINTN i = 0; i < boot_st->NumberOfTableEntries; i++)
		if (!memcmp(&boot_st->ConfigurationTable[i].VendorGuid, guid, sizeof(*guid)))
			return boot_st->ConfigurationTable[i].VendorTable;
	return NULL;
}

void boot_records_load(struct boot_info *bi)
{
	static const EFI_GUID properties_guid = RT_PROPERTIES_TABLE_GUID;
	const struct rt_properties *properties = boot_table(&properties_guid);
	EFI_RUNTIME_SERVICES *rt = boot_st->RuntimeServices;

	if (!bi->config.keep_records) {
		strcpy(bi->firmware.why, "records=no in godwit.conf");
		return;
	}
	for (u32 i = 0; i < KEEP_SLOTS; i++) {
		EFI_GUID guid = NVRAM_GUID;
		u16 name[NVRAM_NAME_CHARS];
		UINTN len = KEEP_RECORD_BYTES;
		EFI_STATUS st;

		nvram_name(i, name);
		st = rt->GetVariable(name, &guid, NULL, &len, keep->slots[i].bytes);
		if (st == EFI_NOT_FOUND)
			continue;
		if (st == EFI_UNSUPPORTED) {
			strcpy(bi->firmware.why, "it has no variables");
			return;
		}
		/* What cannot be read is not for us to overwrite either. */
		keep->slots[i].len = EFI_ERROR(st) ? KEEP_UNREADABLE : (u16)len;
	}
	if (!properties || properties->supported & RT_SET_VARIABLE) /* without the table all work */
		bi->firmware.set_variable = (uintptr_t)rt->SetVariable;
	else
		strcpy(bi->firmware.why, "it writes no variables once an operating system runs");
}
