/* SPDX-License-Identifier: MIT */
/* libFuzzer: any bytes as a Multiboot kernel. First byte: number of modules (the same bytes again), in its low bits. */
#include "hv/vm/load_multiboot.h"
#include "hv/vm/load.h"
#include "hv/vm/test_vm.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define MUST(x) do { if (!(x)) abort(); } while (0)
#define RAM (4ull << 20)

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	static struct vcpu_state s;
	static struct test_vm *t;
	struct mb_module mods[4];
	struct error e = { 0 };
	u8 info[28], mod[16];
	unsigned i, n;

	if (!t)
		t = test_vm_make(RAM);
	if (!len)
		return 0;
	n = data[0] & 3;
	data++, len--;
	for (i = 0; i < n; i++)
		mods[i] = (struct mb_module){ data, len, "module a b" };
	if (multiboot_load(&t->vm, data, len, mods, n, "args", &s, &e)) {
		MUST(e.code && e.text[0]);
		return 0;
	}
	MUST(!e.code && s.rip < RAM && s.gpr[VCPU_RAX] == 0x2badb002 && multiboot_probe(data, len));
	MUST(!guest_read(&t->vm, gpa(s.gpr[VCPU_RBX]), info, sizeof(info)));
	MUST(load_u32(info + 20) == n);
	for (i = 0; i < n; i++) {
		MUST(!guest_read(&t->vm, gpa(load_u32(info + 24) + 16 * i), mod, sizeof(mod)));
		MUST(load_u32(mod) % 4096 == 0 && load_u32(mod) >= 1 << 20 && load_u32(mod + 4) <= RAM);
		MUST(load_u32(mod + 4) - load_u32(mod) == len);
	}
	return 0;
}
