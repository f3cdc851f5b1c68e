/* SPDX-License-Identifier: MIT */
/* libFuzzer: any bytes as a Linux kernel. First byte: size of the initrd, in pages. */
#include "hv/vm/load_linux.h"
#include "hv/vm/load.h"
#include "hv/vm/test_vm.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define MUST(x) do { if (!(x)) abort(); } while (0)
#define RAM (32ull << 20)

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	static struct vcpu_state s;
	static struct test_vm *t;
	static u8 initrd[255 * 4096];
	struct error e = { 0 };
	u8 rd[4];
	u32 at, n;

	if (!t)
		t = test_vm_make(RAM);
	if (!len)
		return 0;
	n = data[0] * 4096;
	if (linux_load(&t->vm, data + 1, len - 1, n ? initrd : NULL, n, "console=ttyS0", &s, &e)) {
		MUST(e.code && e.text[0]);
		return 0;
	}
	MUST(!e.code && s.rip >= 1 << 20 && s.rip < RAM);
	MUST(!guest_read(&t->vm, gpa(s.gpr[VCPU_RSI] + 0x218), rd, 4));
	at = load_u32(rd);
	MUST(!n || (at >= s.rip && at + n <= RAM)); /* above the kernel, in RAM */
	return 0;
}
