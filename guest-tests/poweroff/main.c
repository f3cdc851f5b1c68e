/* SPDX-License-Identifier: MIT */
/*
 * poweroff: leaves by ACPI S5, found in the tables as an OS does. Argument: how=button (waits for the power button first) |
 * panic (says by pvpanic that it has crashed, and hangs).
 */
#include "guest.h"

int main(void)
{
	const u8 *fadt = acpi_find("FACP");
	u16 port = acpi_pm1a_control_port();
	u8 type = 0;

	if (!CHECK("poweroff.tables", port && acpi_s5_type(&type), "PM1a_CNT 0x%x", port))
		return 0;
	/* A machine in legacy mode has to be switched to ACPI first. */
	if (!(inw(port) & 1) && acpi_get32(fadt, 48)) {
		outb(acpi_get32(fadt, 48), fadt[52]);
		for (int i = 0; i < 1000 && !(inw(port) & 1); i++)
			pause();
	}
	if (arg_is("how", "panic")) {
		CHECK("panic.events", inb(0x505) == 3, "port 0x505 reads 0x%x", inb(0x505));
		printf("PANIC now\n");
		outb(0x505, 1);
		for (;;)
			pause();
	}
	if (arg_is("how", "button")) {
		u16 events = (u16)acpi_get32(fadt, 56);

		outw(events, 0x100);     /* what was before does not count */
		outw(events + 2, 0x100); /* PWRBTN_EN */
		printf("BUTTON listening\n");
		while (!(inw(events) & 0x100))
			pause();
		printf("BUTTON pressed\n");
	}
	printf("POWEROFF port 0x%x type %u\n", port, type);
	outw(port, type << 10 | BIT(13) | 1);
	delay_us(100000);
	CHECK("poweroff", false, "still running");
	return 0;
}
