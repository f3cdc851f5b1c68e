/* SPDX-License-Identifier: MIT */
/* libFuzzer: any instruction in any mode on any registers and page tables, which is what a guest can do to the emulator.
 * Input: flags, reported offset (2 bytes), count of page-table pokes, 16 bytes of code, 16 register choices (3 bytes each),
 * pokes (index 2 bytes, entry 8 bytes each). */
#include "hv/vm/emulate.h"
#include "hv/vm/gva.h"
#include "hv/vm/test_vm.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define MUST(x) do { if (!(x)) abort(); } while (0)
#define MMIO 0xfee00000ull
#define FIXED (4 + 16 + 48)

static u8 device_bytes[4096];

static void device(struct vdev *dev, u64 at, unsigned size, bool write, u64 *val)
{
	u8 *p = device_bytes + (at & 0xfff);

	MUST(size == 1 || size == 2 || size == 4 || size == 8);
	MUST((at & 0xfff) + size <= sizeof(device_bytes));
	memcpy(write ? p : (u8 *)val, write ? (u8 *)val : p, size);
}

static void put(struct test_vm *t, u64 at, u64 entry)
{
	MUST(!guest_write(&t->vm, gpa(at), &entry, 8));
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	static const unsigned modes[] = { 16, 32, 64, 64 };
	static struct test_vm *t;
	static struct vcpu v;
	const u8 *p = data + FIXED;
	unsigned mode, i, pokes;
	enum emu_result r;
	char what[120];
	u64 code_at, cr3;
	u32 inst_len;

	if (len < FIXED)
		return 0;
	mode = modes[data[0] & 3];
	cr3 = data[0] & 4 || mode == 64 ? 0x1000 : 0;
	if (!t) {
		t = test_vm_make(2 << 20);
		t->vm.mmio[0] = (struct bus_range){ MMIO, 4096, 8, NULL, device };
		t->vm.pio[0] = (struct bus_range){ 0x3f8, 8, 4, NULL, device };
		t->vm.n_mmio = t->vm.n_pio = 1;
	} else {
		test_vcpu_free(&v);
	}
	test_vcpu_init(&v, &t->vm, mode, cr3);
	/* Linear 0..2 MiB is RAM, 0x200000 the device, 0x201000 RAM, the rest not there; tables in 0x1000..0x5fff. */
	memset((u8 *)guest_page(&t->vm, 1), 0, 0x5000);
	if (mode == 64) {
		put(t, 0x1000, 0x2007), put(t, 0x2000, 0x3007);
		put(t, 0x3000, 0x87), put(t, 0x3008, 0x4007);
		put(t, 0x4000, MMIO | 7), put(t, 0x4008, 0x8007);
	} else {
		put(t, 0x1000, 0x87);
		vmcs_write(VMCS_GUEST_CR4, data[0] & 8 ? 0x30 : 0x10);
		vmcs_write(VMCS_GUEST_PDPTE(0), 0x3001);
	}
	code_at = 0x10000 + (data[0] & 0x10 ? 0xff0 + (data[0] >> 5) * 2 : 0);
	MUST(!guest_write(&t->vm, gpa(code_at), data + 4, 16));
	v.s.rip = code_at;
	for (i = 0; i < 16; i++) {
		const u8 *q = data + 20 + 3 * i;
		u64 val = q[1] | (u64)q[2] << 8;

		v.s.gpr[i] = q[0] & 1 ? 0x200000 + val % 0x1800 : q[0] & 2 ? MMIO + val : q[0] & 4 ? ~val : val << (q[0] >> 3 & 63);
	}
	v.s.rflags = 2 | (data[3] & 0xd5) | (data[2] & 4 ? 0x400 : 0);
	pokes = MIN((len - FIXED) / 10, (size_t)data[3]);
	for (i = 0; i < pokes; i++, p += 10) {
		u64 entry;

		memcpy(&entry, p + 2, 8);
		put(t, 0x1000 + (p[0] | (u64)p[1] << 8) % 0x5000 / 8 * 8, entry);
	}
	if (data[2] & 0x80) {
		inst_len = 2;
		r = emulate_string_io(&v, (u64)0x3f8 << 16 | (data[1] & 0x3f) | BIT(4), (data[2] & 3) << 7 | (u32)data[4] << 15, &inst_len);
	} else {
		r = emulate_mmio(&v, gpa(MMIO | ((data[1] | data[2] << 8) & 0xfff)), &inst_len);
	}
	MUST(r == EMU_OK || r == EMU_FAULT || r == EMU_UNSUPPORTED);
	MUST(r != EMU_OK || inst_len <= 15);
	MUST((r == EMU_FAULT) == !!(v.s.event_info & INTR_VALID));
	emulate_describe(&v, what, sizeof(what));
	MUST(strlen(what) < sizeof(what));
	return 0;
}
