/* SPDX-License-Identifier: MIT */
/*
 * reboot: resets the machine. Each start prints "REBOOT start how=...", so a test counts those.
 * Argument: how=kbd (8042, default) | cf9 | fadt (ACPI reset register) | triple.
 */
#include "guest.h"

int main(void)
{
	const u8 *fadt = acpi_find("FACP");
	const char *how = arg_is("how", "cf9") ? "cf9" : arg_is("how", "fadt") ? "fadt" :
			  arg_is("how", "triple") ? "triple" : "kbd";

	printf("REBOOT start how=%s\n", how);
	if (arg_is("how", "cf9")) {
		outb(0xcf9, 2);
		outb(0xcf9, 6);
	} else if (arg_is("how", "fadt")) {
		/* RESET_REG_SUP, and a register in I/O space. */
		if (!CHECK("reboot.fadt", fadt && acpi_get32(fadt, 4) > 128 &&
			   acpi_get32(fadt, 112) & BIT(10) && fadt[116] == 1, "no reset register"))
			return 0;
		outb(acpi_get32(fadt, 120), fadt[128]);
	} else if (arg_is("how", "triple")) {
		struct {
			u16 limit;
			u64 base;
		} __attribute__((packed)) none = { 0, 0 };

		__asm__ volatile("lidt %0; ud2" : : "m"(none));
	} else {
		outb(0x64, 0xfe);
	}
	delay_us(100000);
	CHECK("reboot", false, "still running after %s", how);
	return 0;
}
