/* SPDX-License-Identifier: MIT */
/* What the fixed ACPI hardware does not tell: how to power off, and the legacy devices. */
DefinitionBlock ("", "DSDT", 2, "GODWIT", "GODWIT", 1)
{
	Name (\_S5, Package () { 5, 5, 0, 0 }) /* SLP_TYP: SLP_TYP_S5 in hv/vdev/pm.c */

	Scope (\_SB)
	{
		Device (COM1)
		{
			Name (_HID, EisaId ("PNP0501")) /* 16550A-compatible serial port */
			Name (_UID, 1)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x03F8, 0x03F8, 1, 8)
				IRQNoFlags () { 4 }
			})
		}

		Device (RTC)
		{
			Name (_HID, EisaId ("PNP0B00")) /* real-time clock */
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0070, 0x0070, 1, 2)
				IRQNoFlags () { 8 }
			})
		}

		Device (TIMR)
		{
			Name (_HID, EisaId ("PNP0100")) /* 8254 */
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0040, 0x0040, 1, 4)
				IRQNoFlags () { 0 }
			})
		}
	}
}
