/* SPDX-License-Identifier: MIT */
/* What the fixed ACPI hardware does not tell: how to power off, the PCI bus, and the legacy devices. */
DefinitionBlock ("", "DSDT", 2, "GODWIT", "GODWIT", 1)
{
	Name (\_S5, Package () { 5, 5, 0, 0 }) /* SLP_TYP: SLP_TYP_S5 in hv/vdev/pm.c */

	Name (PICM, 0) /* 1: the kernel uses the IO-APIC */
	Method (\_PIC, 1)
	{
		PICM = Arg0
	}

	Scope (\_SB)
	{
		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A03")) /* PCI bus; hv/vdev/pci.c */
			Name (_UID, 0)
			Name (_BBN, 0)
			Name (_CRS, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0, 0, 1)
				IO (Decode16, 0x0CF8, 0x0CF8, 1, 8)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
					0, 0xC0000000, 0xFDFFFFFF, 0, 0x3E000000)
			})
			Name (APRT, Package ()
			{
				Package () { 0x0001FFFF, 0, 0, 17 },
				Package () { 0x0002FFFF, 0, 0, 18 },
				Package () { 0x0003FFFF, 0, 0, 19 },
				Package () { 0x0004FFFF, 0, 0, 16 },
				Package () { 0x0005FFFF, 0, 0, 17 },
				Package () { 0x0006FFFF, 0, 0, 18 },
				Package () { 0x0007FFFF, 0, 0, 19 },
				Package () { 0x0008FFFF, 0, 0, 16 },
				Package () { 0x0009FFFF, 0, 0, 17 },
				Package () { 0x000AFFFF, 0, 0, 18 },
				Package () { 0x000BFFFF, 0, 0, 19 }
			})
			Name (LPRT, Package ()
			{
				Package () { 0x0001FFFF, 0, 0, 11 },
				Package () { 0x0002FFFF, 0, 0, 10 },
				Package () { 0x0003FFFF, 0, 0, 11 },
				Package () { 0x0004FFFF, 0, 0, 10 },
				Package () { 0x0005FFFF, 0, 0, 11 },
				Package () { 0x0006FFFF, 0, 0, 10 },
				Package () { 0x0007FFFF, 0, 0, 11 },
				Package () { 0x0008FFFF, 0, 0, 10 },
				Package () { 0x0009FFFF, 0, 0, 11 },
				Package () { 0x000AFFFF, 0, 0, 10 },
				Package () { 0x000BFFFF, 0, 0, 11 }
			})
			Method (_PRT, 0)
			{
				If (PICM)
				{
					Return (APRT)
				}
				Return (LPRT)
			}
		}

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

		Device (PEVT)
		{
			Name (_HID, "QEMU0001") /* pvpanic; hv/vdev/misc_ports.c */
			Name (_STA, 0x0F)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0505, 0x0505, 1, 1)
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
