/* SPDX-License-Identifier: MIT */
/* The firmware phase: read everything, leave boot services, enter the hypervisor. */
#include "boot/boot.h"
#include "hv/arch/cpu.h"
#include "hv/arch/x86.h"
#include "hv/lib/wall.h"

#include <string.h>

EFI_SYSTEM_TABLE *boot_st;
extern u8 ImageBase[], _end[];
static struct boot_info boot_info;
static u64 firmware_fs;

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *st);

static void read_clock(struct boot_info *bi)
{
	EFI_TIME t;

	bi->tsc_at_wall = rdtsc();
	if (EFI_ERROR(boot_st->RuntimeServices->GetTime(&t, NULL)) || t.Year < 1970 || t.Month < 1 || t.Month > 12 ||
	    t.Day < 1 || t.Day > 31) {
		boot_say("Firmware has no valid clock; certificates cannot be checked for age. Set date and time in firmware set-up.");
		return;
	}
	bi->tsc_at_wall = rdtsc();
	bi->wall_seconds = (wall_days(t.Year, t.Month, t.Day) - WALL_EPOCH_DAYS) * 86400 + t.Hour * 3600 + t.Minute * 60 + t.Second;
	/* UEFI, "GetTime()": local time = UTC - TimeZone (minutes); 2047 = unspecified, taken as UTC. */
	if (t.TimeZone != 2047)
		bi->wall_seconds += t.TimeZone * 60;
}

static void find_rsdp(struct boot_info *bi)
{
	static const EFI_GUID acpi20 = ACPI_20_TABLE_GUID, acpi10 = ACPI_TABLE_GUID;
	const void *rsdp = boot_table(&acpi20);

	bi->rsdp = (uintptr_t)(rsdp ? rsdp : boot_table(&acpi10));
}

static void say_cpu(void)
{
	struct host_caps caps;

	cpu_check(&caps);
	boot_say("CPU: %s", caps.cpu_name);
	if (caps.usable) {
		boot_say("VT-x: usable");
		return;
	}
	boot_say("VT-x: NOT usable, no guest can run on this machine. Missing:");
	for (u32 i = 0; i < caps.n_missing; i++)
		boot_say("  - %s", caps.missing[i]);
	boot_say("%s", caps.remedy);
}

static __noreturn void enter(struct boot_info *bi)
{
	__asm__ volatile("mov %0, %%rsp\n\txor %%ebp, %%ebp\n\tcall *%2\n\tud2"
		: : "r"(cpu_main_stack_top()), "D"(bi), "r"(hv_main) : "memory");
	__builtin_unreachable();
}

/* Back to firmware. */
static EFI_STATUS give_up(EFI_STATUS status, const char *why)
{
	boot_say("%s", why);
	wrmsr(MSR_IA32_FS_BASE, firmware_fs);
	return status;
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *st)
{
	struct boot_info *bi = &boot_info;

	bi->tsc_at_entry = rdtsc();
	boot_st = st;
	/* The C library finds its thread block through FS; firmware neither uses nor changes it. */
	firmware_fs = rdmsr(MSR_IA32_FS_BASE);
	wrmsr(MSR_IA32_FS_BASE, cpu_boot_fs_base());
	st->BootServices->SetWatchdogTimer(0, 0, 0, NULL);

	boot_say("Godwit hypervisor");
	bi->boot_bytes = (u64)(_end - ImageBase);
	say_cpu();
	if (!cpu_has_nx())
		return give_up(EFI_UNSUPPORTED, "This CPU has no no-execute pages (NX), or firmware has switched them off. Godwit does not"
			" run without: enable \"Execute Disable\" in firmware set-up.");
	read_clock(bi);
	find_rsdp(bi);
	boot_files_load(image, bi);
	if (!boot_memory_prepare(bi))
		return give_up(EFI_OUT_OF_RESOURCES, "Not enough memory to start Godwit. Use a machine with more memory, or smaller guest"
			" images.");
	boot_say("Leaving firmware; the log goes on at the serial port (COM1, 115200 8N1).");
	if (!boot_memory_exit(image, bi))
		return give_up(EFI_ABORTED, "Firmware refused ExitBootServices. Update the firmware, or disable devices that are not needed.");
	cpu_cli();
	enter(bi);
}
