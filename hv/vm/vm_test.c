/* SPDX-License-Identifier: MIT */
/* A guest's memory, dirty log, clock, CPUID and life, over the fake hardware. */
#include "hv/vm/vm.h"
#include "hv/arch/x86.h"
#include "hv/fake/fake.h"
#include "hv/fake/nvram_fake.h"
#include "hv/mm/frame.h"
#include "hv/vm/cpuid.h"
#include "hv/vm/guest_mem.h"
#include "hv/vm/lifecycle.h"
#include "hv/vm/vcpu.h"
#include "hv/vm/vm_clock.h"
#include "hv/vmx/vmcs.h"
#include "hv/vmx/vmx.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define MIB (1ull << 20)

/* Multiboot, with load addresses: the header alone, at 1 MiB. */
static const u32 tiny_kernel[8] = { 0x1badb002, 0x10000, -(0x1badb002 + 0x10000), 0x100000, 0x100000, 0, 0, 0x100000 };

static struct guest_config config(const char *name, u64 mib)
{
	struct guest_config c = { .memory_bytes = mib * MIB, .vcpus = 1 };

	strcpy(c.name, name);
	strcpy(c.kernel, "kernel");
	return c;
}

static struct vm *make(u64 mib)
{
	struct guest_config c = config("g", mib);
	struct error e = { 0 };
	struct vm *vm = vm_create(&c, &e);

	assert_non_null(vm);
	return vm;
}

static void memory_comes_back(void **state)
{
	struct frame_stats before;
	struct guest_config big = config("big", 1024);
	struct error e = { 0 };

	vm_destroy(make(16)); /* the heap keeps its first arena */
	before = frame_stats();
	for (int i = 0; i < 3; i++)
		vm_destroy(make(16));
	assert_null(vm_create(&big, &e));
	assert_int_equal(e.code, E_NOMEM);
	assert_non_null(strstr(e.text, "big wants 1024 MiB"));
	assert_null(vm_find("big"));
	assert_int_equal(frame_stats().free, before.free);
}

static void names_are_unique(void **state)
{
	struct vm *vm = make(4);
	struct guest_config c = config("g", 4);
	struct error e = { 0 };

	assert_ptr_equal(vm_find("g"), vm);
	assert_null(vm_define(&c, &e));
	assert_int_equal(e.code, E_EXIST);
	vm_destroy(vm);
}

static void places_of_moved_guests_are_reused(void **state)
{
	struct guest_config c = config("g0", 4);
	struct error e = { 0 };

	for (int i = 0; i < VM_MAX; i++) {
		snprintf(c.name, sizeof(c.name), "g%d", i);
		assert_non_null(vm_define(&c, &e));
	}
	strcpy(c.name, "more");
	assert_null(vm_define(&c, &e));
	assert_non_null(strstr(e.text, "as many guests as it can"));
	vm_moved_away(vm_find("g3"), "b", 2);
	vm_moved_away(vm_find("g7"), "b", 2);
	vm_find("g3")->mig = &e; /* not one that a move still needs */
	assert_non_null(vm_define(&c, &e));
	assert_null(vm_find("g7"));
	assert_non_null(vm_find("g3"));
	vm_find("g3")->mig = NULL;
	for (int i = 0; i < VM_MAX; i++)
		vm_destroy(vms[i]);
}

static void guest_memory_is_bounded(void **state)
{
	struct vm *vm = make(4);
	u8 buf[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, out[8];

	assert_int_equal(guest_write(vm, gpa(2 * MIB - 4), buf, 8), 0); /* across two frames */
	assert_int_equal(guest_read(vm, gpa(2 * MIB - 4), out, 8), 0);
	assert_memory_equal(buf, out, 8);
	assert_int_equal(guest_write(vm, gpa(4 * MIB - 4), buf, 8), -E_RANGE);
	assert_int_equal(guest_read(vm, gpa(4 * MIB - 4), out, 4), 0);
	assert_int_equal(out[0], 0); /* nothing of the refused write arrived */
	assert_int_equal(guest_read(vm, gpa(~0ull - 3), out, 8), -E_RANGE);
	assert_null(guest_page(vm, 1024));
	assert_null(guest_page(vm, ~0ull >> 12));
	assert_null(guest_page(vm, ~0ull));
	assert_int_equal(guest_next_gfn(vm, 0), 0);
	assert_int_equal(guest_next_gfn(vm, 1023), 1023);
	assert_int_equal(guest_next_gfn(vm, 1024), ~0ull);
	assert_int_equal(guest_ram_pages(vm), 1024);
	vm_destroy(vm);
}

/* The CPU has VT-x, but VMXON failed: the host serves its console, and says no. */
static void no_guest_where_vmx_is_off(void **state)
{
	struct guest_config c = { .memory_bytes = 4 * MIB, .vcpus = 1, .name = "g", .kernel = "kernel" };
	struct error e = { 0 };

	vmx_config.on = false;
	assert_null(vm_create(&c, &e));
	vmx_config.on = true;
	assert_string_equal(e.text, "guest g cannot run on this host: it lacks usable VT-x");
}

static void a_missing_image_says_why(void **state)
{
	struct guest_config c = { .memory_bytes = 4 * MIB, .vcpus = 1, .name = "g", .kernel = "kernel", .n_disks = 1,
				  .disks = { { .kind = DISK_IMAGE, .image = "root.img" } } };
	struct error e = { 0 };

	assert_null(vm_create(&c, &e));
	assert_non_null(strstr(e.text, "disk 0 of guest g: root.img is not on this host. Copy"));
	e = (struct error){ 0 };
	fake_boot_info.n_files = 1;
	fake_boot_info.files[0] = (struct boot_file){ .name = "root.img", .error = "no memory for file \\godwit\\root.img" };
	assert_null(vm_create(&c, &e));
	fake_boot_info.n_files = 0;
	assert_string_equal(e.text, "disk 0 of guest g: no memory for file \\godwit\\root.img");
}

/* Memory is cleared piece by piece, when it is first touched. */
static void guest_memory_is_cold_at_first(void **state)
{
	struct vm *vm = make(4);
	const u8 *page = guest_page(vm, 0);
	u64 generation = vm->ept_generation;
	u8 junk[16];

	memset(hpa_ptr(hpa(vm->ram_2m[1].v & ~1ull)), 0xa5, PAGE_2M); /* of the guest that had it before */
	assert_int_equal(ept_lookup(&vm->ept, gpa(0)).v, 0);
	assert_int_equal(page[4095], 0);
	assert_int_equal(guest_read(vm, gpa(2 * MIB - 8), junk, 16), 0);
	assert_int_equal(junk[15], 0);
	assert_int_equal(ept_lookup(&vm->ept, gpa(2 * MIB)).v, 0);
	/* Written by us; touched by the guest, twice, as two vCPUs may. */
	assert_int_equal(guest_write(vm, gpa(0), "a", 1), 0);
	assert_int_equal(ept_lookup(&vm->ept, gpa(0)).v, vm->ram_2m[0].v);
	assert_true(guest_mem_touch(vm, gpa(3 * MIB)));
	assert_true(guest_mem_touch(vm, gpa(3 * MIB)));
	assert_false(guest_mem_touch(vm, gpa(4 * MIB)));
	assert_int_equal(ept_lookup(&vm->ept, gpa(2 * MIB)).v, vm->ram_2m[1].v);
	assert_memory_equal(guest_page(vm, 512 + 511), page, PAGE_SIZE);
	/* A reset takes it away again. */
	guest_mem_clear(vm);
	assert_int_not_equal(vm->ept_generation, generation);
	assert_int_equal(ept_lookup(&vm->ept, gpa(0)).v, 0);
	assert_int_equal(*(const u8 *)guest_page(vm, 0), 0);
	/* In a move it stays, and the log knows. */
	assert_int_equal(guest_write(vm, gpa(0), "a", 1), 0);
	assert_int_equal(dirty_start(vm), 0);
	guest_mem_clear(vm);
	assert_int_equal(*(const u8 *)guest_page(vm, 0), 0);
	u64 bitmap[16] = { 0 };

	assert_int_equal(dirty_harvest(vm, bitmap), 512);
	vm_destroy(vm);
}

static void dirty_log_sees_our_writes_and_the_guests(void **state)
{
	struct vm *vm = make(4);
	u64 bitmap[16] = { 0 }, *pt;
	struct frame_stats before = frame_stats();

	assert_int_equal(dirty_start(vm), 0);
	u64 generation = vm->ept_generation;

	assert_int_equal(dirty_harvest(vm, bitmap), 0);
	/* Ours: both pages that a write touches. */
	assert_int_equal(guest_write(vm, gpa(5 * PAGE_SIZE - 1), "ab", 2), 0);
	generation = vm->ept_generation;
	assert_int_equal(dirty_harvest(vm, bitmap), 2);
	assert_int_not_equal(vm->ept_generation, generation); /* or the CPU would not set D again */
	assert_int_equal(bitmap[0], 3 << 4);
	assert_int_equal(dirty_harvest(vm, bitmap), 0);
	/* The guest's: D in the leaf, A above it. What it touches now for the first time is mapped in small pages. */
	struct frame_stats during = frame_stats();

	assert_true(guest_mem_touch(vm, gpa(2 * MIB)));
	assert_int_equal(frame_stats().free, during.free); /* frames are CPU 0's business, and this may be another */
	assert_int_equal(dirty_harvest(vm, bitmap), 0);
	pt = hpa_ptr(hpa(vm->ept.root[0] & ~0xfffull));
	pt = hpa_ptr(hpa(pt[0] & 0x000ffffffffff000ull));
	pt[1] |= BIT(8);
	pt = hpa_ptr(hpa(pt[1] & 0x000ffffffffff000ull));
	pt[3] |= BIT(8) | BIT(9);
	assert_int_equal(dirty_harvest(vm, bitmap), 1);
	assert_int_equal(bitmap[8], BIT(3));
	/* Counted once, even if it is dirty again before it was sent. */
	assert_int_equal(guest_write(vm, gpa(2 * MIB + 3 * PAGE_SIZE), "a", 1), 0);
	assert_int_equal(dirty_harvest(vm, bitmap), 0);
	dirty_stop(vm);
	assert_int_equal(frame_stats().free, before.free);
	assert_false(vm->ept.split);
	vm_destroy(vm);
}

static void clock_stands_still_while_paused(void **state)
{
	struct vm *vm = make(4);
	struct vm_clock_state s;
	struct error e = { 0 };
	u64 t0;

	fake_tsc_now = 50000;
	assert_int_equal(vm_tsc(vm), 0);
	vm_clock_start(vm);
	fake_tsc_now += 1000;
	assert_int_equal(vm_tsc(vm), 1000);
	vm_clock_stop(vm);
	fake_tsc_now += 1000000;
	assert_int_equal(vm_tsc(vm), 1000);
	vm_clock_start(vm);
	fake_tsc_now += 5;
	assert_int_equal(vm_tsc(vm), 1005);
	/* A guest that was made on a host half as fast: its TSC runs at its own rate. */
	vm_clock_save(vm, &s);
	s.tsc_hz = FAKE_TSC_HZ / 2;
	vm_clock_stop(vm);
	assert_int_equal(vm_clock_load(vm, &s, &e), 0);
	vm_clock_start(vm);
	t0 = vm_tsc(vm);
	fake_tsc_now += 2000000;
	assert_in_range(vm_tsc(vm) - t0, 999999, 1000001);
	vmx_config.tsc_scaling = false;
	assert_int_equal(vm_clock_load(vm, &s, &e), -E_UNSUPPORTED);
	vmx_config.tsc_scaling = true;
	vm_destroy(vm);
}

static void only_the_owner_runs_it(void **state)
{
	struct vm *vm = make(4);
	struct error e = { 0 };

	assert_int_equal(vm_resume(vm, &e), -E_STATE);
	vm->owner = true;
	assert_int_equal(vm_resume(vm, &e), 0);
	assert_int_equal(vm->state, RS_RUNNING);
	vm_pause(vm, RS_PAUSED);
	assert_int_equal(vm->state, RS_PAUSED);
	vm_moved_away(vm, "b", 7);
	assert_false(vm_is_populated(vm));
	assert_int_equal(vm->epoch, 7);
	e = (struct error){ 0 };
	assert_int_equal(vm_start(vm, &e), -E_STATE);
	assert_non_null(strstr(e.text, "host b (epoch 7)"));
	vm_destroy(vm);
}

/* What a restart of the host makes of a guest that was given away, and of one that was here. */
static void recalled_after_a_restart(void **state)
{
	struct guest_config c = config("g", 4);
	char peer[NAME_MAX_LEN];
	struct error e = { 0 };
	struct vm *vm;
	u64 epoch;

	fake_boot_info.n_files = 1;
	strcpy(fake_boot_info.files[0].name, "kernel");
	fake_boot_info.files[0].data = (const u8 *)tiny_kernel;
	fake_boot_info.files[0].size = sizeof(tiny_kernel);
	for (int i = 0; i < 4; i++) {
		memset(&fake_nvram, 0, sizeof(fake_nvram));
		fake_nvram_restart();
		keep->damaged = i == 3;
		if (i == 1)
			assert_int_equal(keep_given("g", "b", 5, &e), 0);
		if (i == 2)
			assert_int_equal(keep_here("g", 5, &e), 0);
		vm = vm_define(&c, &e);
		assert_non_null(vm);
		assert_int_equal(vm_recall(vm), i != 3);
		assert_int_equal(vm->state, i == 0 || i == 3 ? RS_PRELAUNCH : i == 1 ? RS_POSTMIGRATE : RS_SHUTDOWN);
		assert_int_equal(vm->owner, i == 2);
		assert_int_equal(vm_start(vm, &e), i == 1 ? -E_STATE : 0);
		if (i == 1) { /* as guest-start with force does */
			assert_non_null(strstr(e.text, "host b (epoch 5)"));
			vm->state = RS_SHUTDOWN;
			assert_int_equal(vm_start(vm, NULL), 0);
		}
		assert_int_equal(vm->epoch, i == 1 || i == 2 ? 6 : 1);
		/* Only what has moved, or may have, is on record. */
		assert_int_equal(keep_owner("g", peer, &epoch), i ? KEEP_HERE : KEEP_NONE);
		if (i)
			assert_int_equal(epoch, vm->epoch);
		vm_destroy(vm);
	}
	keep->damaged = false;
	fake_boot_info.n_files = 0;
}

static void the_guest_asks_and_the_scheduler_does(void **state)
{
	struct vm *vm = make(4);
	struct frame_stats before;
	struct error e = { 0 };

	vm->owner = true;
	assert_int_equal(vm_resume(vm, &e), 0);
	before = frame_stats();
	vm_request_poweroff(vm, "S5");
	assert_int_equal(vm->state, RS_RUNNING); /* not on the guest's stack */
	assert_true(vm->attention);
	lifecycle_poll(vm);
	assert_int_equal(vm->state, RS_SHUTDOWN);
	assert_string_equal(vm->reason, "S5");
	assert_false(vm_is_populated(vm));
	assert_true(frame_stats().free > before.free);
	vm_destroy(vm);
}

/* A guest in a loop of resets must not take the host's time. */
static void resets_are_rationed(void **state)
{
	struct guest_config c = config("g", 4);
	struct vm *vm = vm_define(&c, &(struct error){ 0 });
	struct error e = { 0 };

	assert_non_null(vm);
	fake_boot_info.n_files = 1;
	strcpy(fake_boot_info.files[0].name, "kernel");
	fake_boot_info.files[0].data = (const u8 *)tiny_kernel;
	fake_boot_info.files[0].size = sizeof(tiny_kernel);
	assert_int_equal(vm_start(vm, &e), 0);
	vm_request_reset(vm, "test");
	lifecycle_poll(vm); /* the fake's clock stands still: it took no time */
	assert_false(vm->attention);
	vm->reset_after = fake_tsc_now + 100;
	vm_request_reset(vm, "test");
	lifecycle_poll(vm);
	assert_true(vm->want_reset && vm->attention); /* not yet, and it does not run */
	assert_int_equal(vm->state, RS_RUNNING);
	fake_tsc_now += 100;
	lifecycle_poll(vm);
	assert_false(vm->want_reset || vm->attention);
	/* What it asked for is not lost when it is paused meanwhile. */
	vm->reset_after = fake_tsc_now + 100;
	vm_request_reset(vm, "test");
	vm->vcpus[0]->s.gpr[VCPU_RCX] = 77;
	vm_pause(vm, RS_PAUSED);
	assert_int_equal(vm->state, RS_PAUSED);
	assert_false(vm->want_reset);
	assert_int_equal(vm->vcpus[0]->s.gpr[VCPU_RCX], 0);
	/* And a reset does not make it run. */
	assert_int_equal(vm_reset(vm, &e), 0);
	assert_int_equal(vm->state, RS_PAUSED);
	assert_false(vm->clock_running);
	assert_int_equal(vm_resume(vm, &e), 0);
	assert_int_equal(vm_reset(vm, &e), 0);
	assert_true(vm->state == RS_RUNNING && vm->clock_running);
	fake_boot_info.n_files = 0;
	vm_destroy(vm);
}

static void vcpu_state_survives_hardware(void **state)
{
	struct vm *vm = make(4);
	struct vcpu *v = vm->vcpus[0];
	static struct vcpu_state want;

	v->s.cr4 = CR4_PAE;
	v->s.efer = EFER_LME | EFER_LMA;
	v->s.cr0 = CR0_PG | CR0_PE | CR0_ET | CR0_CD;
	v->s.lstar = 0x1234;
	v->s.dr[2] = 77;
	v->s.xsave[1000] = 9;
	v->s.interruptibility = 1;
	want = v->s;
	vcpu_load_state(v);
	/* Hardware keeps NE, VMXE and MCE on and caching enabled; the guest sees what it wrote. */
	assert_int_equal(vmcs_read(VMCS_GUEST_CR4), CR4_PAE | CR4_VMXE | CR4_MCE);
	assert_int_equal(vmcs_read(VMCS_GUEST_CR0), CR0_PG | CR0_PE | CR0_ET | CR0_NE);
	memset(&v->s.rip, 0xee, sizeof(v->s.rip));
	vcpu_sync_state(v);
	assert_memory_equal(&v->s, &want, sizeof(want));
	assert_int_equal(vcpu_write_cr4(v, CR4_PAE | CR4_VMXE), -E_INVAL);
	assert_int_equal(vcpu_write_cr4(v, 0), -E_INVAL); /* PAE off in long mode */
	assert_int_equal(vcpu_write_cr0(v, CR0_PG), -E_INVAL);
	assert_int_equal(vcpu_write_cr0(v, CR0_PE | CR0_NW), -E_INVAL);
	vm_destroy(vm);
}

/* What the CPU still holds of a vCPU must not come on top of a state that was loaded meanwhile: on a fresh target, and
 * after a sync. */
static void loaded_state_is_not_overwritten(void **state)
{
	struct guest_config c = { .name = "smp", .memory_bytes = 4 * MIB, .vcpus = 3 };
	struct error e = { 0 };
	struct vm *vm = vm_create(&c, &e);

	assert_non_null(vm);
	for (u64 round = 1; round <= 2; round++) {
		for (unsigned i = 0; i < 3; i++) {
			vm->vcpus[i]->s.lstar = 1000 * round + i;
			vm->vcpus[i]->s.dr[1] = 2000 * round + i;
		}
		vm_state_loaded(vm);
		vm_state_sync(vm);
		for (unsigned i = 0; i < 3; i++) {
			assert_int_equal(vm->vcpus[i]->s.lstar, 1000 * round + i);
			assert_int_equal(vm->vcpus[i]->s.dr[1], 2000 * round + i);
		}
	}
	vm_destroy(vm);
}

static void cpuid_shows_no_more_than_it_should(void **state)
{
	struct vm *vm = make(4);
	struct vcpu *v = vm->vcpus[0];
	u8 buf[2048];
	struct error e = { 0 };
	int len;

	v->s.gpr[VCPU_RAX] = 1;
	v->s.gpr[VCPU_RCX] = 0;
	cpuid_exit(v);
	assert_false(v->s.gpr[VCPU_RCX] & BIT(5));  /* VMX */
	assert_true(v->s.gpr[VCPU_RCX] & BIT(31));  /* hypervisor */
	v->s.gpr[VCPU_RAX] = 0x12345678;
	cpuid_exit(v);
	assert_int_equal(v->s.gpr[VCPU_RAX] | v->s.gpr[VCPU_RBX] | v->s.gpr[VCPU_RCX] | v->s.gpr[VCPU_RDX], 0);
	/* A guest that saw a bit which this host has not is refused by name. */
	len = vm_cpu_compat_save(vm, buf, sizeof(buf));
	assert_true(len > 0);
	assert_int_equal(vm_cpu_compat_check(buf, (size_t)len, &e), 0);
	for (u32 i = 0; i < vm->cpuid.n; i++)
		if (vm->cpuid.leaf[i] == 7)
			vm->cpuid.edx[i] |= BIT(24); /* AMX */
	len = vm_cpu_compat_save(vm, buf, sizeof(buf));
	assert_int_equal(vm_cpu_compat_check(buf, (size_t)len, &e), -E_UNSUPPORTED);
	assert_non_null(strstr(e.text, "lacks CPUID 0x7.0 EDX bit 24, which the guest was shown"));
	e = (struct error){ 0 };
	assert_int_equal(vm_cpu_compat_check(buf, (size_t)len - 1, &e), -E_PROTO);
	memset(buf, 0xff, sizeof(buf));
	e = (struct error){ 0 };
	assert_true(vm_cpu_compat_check(buf, (size_t)len, &e) < 0);
	vm_destroy(vm);
}

static void a_baseline_is_what_the_guest_sees(void **state)
{
	struct guest_config c = { .name = "b", .memory_bytes = 4 * MIB, .vcpus = 1, .cpu = "x86-64-v2" };
	struct error e = { 0 };
	struct vm *vm = vm_create(&c, &e);

	assert_non_null(vm);
	assert_int_equal(cpuid_guest(vm, 1, 0, 2) & ~(BIT(31) | BIT(24) | BIT(21)), /* what Godwit adds */
			 BIT(0) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(23));
	assert_int_equal(cpuid_guest(vm, 0xd, 0, 0), 0);
	assert_int_equal(cpuid_xcr0_mask(vm), 1);
	assert_false(cpuid_cr4_mask(vm) & BIT(18)); /* OSXSAVE */
	vm_destroy(vm);
	e = (struct error){ 0 };
	strcpy(c.cpu, "x86-64-v9");
	assert_null(vm_create(&c, &e));
	assert_non_null(strstr(e.text, "no CPU baseline"));
}

static int setup(void **state)
{
	fake_memory(64 * MIB);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_comes_back), cmocka_unit_test(names_are_unique),
		cmocka_unit_test(places_of_moved_guests_are_reused),
		cmocka_unit_test(guest_memory_is_bounded), cmocka_unit_test(no_guest_where_vmx_is_off), cmocka_unit_test(a_missing_image_says_why),
		cmocka_unit_test(guest_memory_is_cold_at_first), cmocka_unit_test(dirty_log_sees_our_writes_and_the_guests),
		cmocka_unit_test(clock_stands_still_while_paused), cmocka_unit_test(only_the_owner_runs_it),
		cmocka_unit_test(the_guest_asks_and_the_scheduler_does), cmocka_unit_test(resets_are_rationed),
		cmocka_unit_test(recalled_after_a_restart),
		cmocka_unit_test(vcpu_state_survives_hardware),
		cmocka_unit_test(loaded_state_is_not_overwritten),
		cmocka_unit_test(cpuid_shows_no_more_than_it_should), cmocka_unit_test(a_baseline_is_what_the_guest_sees),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
