/* SPDX-License-Identifier: MIT */
/*
 * unmapped: touches guest-physical addresses where nothing is, and prints what it got. On a PC reads
 * give all ones and writes vanish; a host may also stop the guest, and the test list says which.
 * Arguments: op=read|write|exec|table (read), addr=A (0xd0000000).
 */
#include "guest.h"

#define WINDOW 0x40000000ul

int main(void)
{
	u64 addr = arg_u64("addr", 0xd0000000), va = addr;

	if (addr >= 4ul << 30) {
		va = WINDOW;
		map_2m(WINDOW, addr & ~0x1ffffful, 0);
		va += addr & 0x1fffff;
	}
	printf("UNMAPPED 0x%lx\n", addr);
	if (arg_is("op", "write")) {
		mmio_write(va, 0x12345678);
		printf("UNMAPPED write went on, reads 0x%x\n", mmio_read(va));
		CHECK("unmapped.write", true, "-");
	} else if (arg_is("op", "exec")) {
		((void (*)(void))va)();
		CHECK("unmapped.exec", false, "returned");
	} else if (arg_is("op", "table")) {
		printf("UNMAPPED page tables\n");
		write_cr3(addr);
		CHECK("unmapped.table", false, "still runs");
	} else {
		u8 b = *(volatile u8 *)va;
		u16 w = *(volatile u16 *)va;
		u32 l = *(volatile u32 *)va;
		u64 q = *(volatile u64 *)va;

		printf("UNMAPPED read 0x%x 0x%x 0x%x 0x%lx\n", b, w, l, q);
		CHECK("unmapped.read", b == 0xff && w == 0xffff && l == ~0u && q == ~0ull,
		      "not all ones");
	}
	return 0;
}
