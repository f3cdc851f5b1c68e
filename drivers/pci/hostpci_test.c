/* SPDX-License-Identifier: MIT */
/* pci.c of the host (hv/vdev has another one). The configuration ports lead to a machine with two sockets and a chipset full of functions. */
#define outl hw_outl
#define inl hw_inl
#include "hv/arch/x86.h"
#undef outl
#undef inl

static void outl(u16 port, u32 v);
static u32 inl(u16 port);
#include "drivers/pci/pci.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static u32 address, command, written[8], n_written;

static u32 function(u32 bus, u32 dev, u32 fn, u32 reg)
{
	bool chipset = bus == 0x7f || bus == 0; /* 256 functions each */
	bool dual = bus == 0x81 && dev == 2 && fn < 2;
	bool single = bus == 0x81 && dev == 3 && !(fn & 3); /* it does not look at all of the function's number */

	if (!chipset && !dual && !single)
		return ~0u;
	switch (reg) {
	case PCI_ID: return chipset ? 0x12348086 : dual ? 0x10798086 : 0x100e8086;
	case PCI_COMMAND: return 0xffff0000 | command;
	case PCI_CLASS: return chipset ? 0x08800000 : 0x02000000;
	case PCI_HEADER_TYPE: return chipset || dual ? HEADER_MANY_FUNCTIONS : 0;
	case PCI_BAR0: return chipset ? 0xe001 : dual ? 0xc0000004 | fn << 20 : 0xd0000000;
	case PCI_BAR0 + 4: return 0x12;
	default: return 0;
	}
}

static void outl(u16 port, u32 v)
{
	if (port == CONFIG_ADDRESS)
		address = v;
	else
		written[n_written++ % ARRAY_SIZE(written)] = v;
}

static u32 inl(u16 port)
{
	assert_int_equal(port, CONFIG_DATA);
	assert_true(address >> 31);
	return function(address >> 16 & 0xff, address >> 11 & 31, address >> 8 & 7, address & 0xff);
}

static void test_cards(void **state)
{
	const struct pci_device *a = pci_card(0), *b = pci_card(1), *c = pci_card(2);

	assert_null(pci_card(3));
	assert_true(a && a->bus == 0x81 && a->dev == 2 && a->fn == 0 && a->vendor == 0x8086 && a->device == 0x1079);
	assert_true(b && b->bus == 0x81 && b->dev == 2 && b->fn == 1);
	assert_true(c && c->bus == 0x81 && c->dev == 3 && c->fn == 0 && c->device == 0x100e);
	assert_int_equal(pci_bar0(a), 0x12c0000000);
	assert_int_equal(pci_bar0(b), 0x12c0100000);
	assert_int_equal(pci_bar0(c), 0xd0000000);
	assert_int_equal(pci_bar0(&(struct pci_device){ 0 }), 0);
	/* Nothing has been written to anything. */
	assert_int_equal(n_written, 0);
	command = 0x0140;
	pci_enable(c);
	assert_int_equal(n_written, 1);
	assert_int_equal(written[0], 0x0547);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_cards) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
