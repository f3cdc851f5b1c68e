/* SPDX-License-Identifier: MIT */
/* Stands in for hv/main.c in build/selftest.efi: proves the machine layer on the bench and powers off. The verdict is the
 * last line, "selftest: PASS" or "selftest: FAIL". */
#include "boot/boot_info.h"
#include "hv/arch/acpi.h"
#include "hv/arch/cpu.h"
#include "hv/arch/paging.h"
#include "hv/arch/x86.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"

#include <string.h>

static unsigned failures;

static void check(bool good, const char *what)
{
	if (!good)
		failures++;
	log_info("selftest", "%s %s", good ? "ok  " : "FAIL", what);
}

/* True if a read (or write of what is there) at that address takes a page fault: by walking the tables as the CPU would. */
static u64 pte_of(u64 va)
{
	u64 e = read_cr3();

	for (int l = read_cr4() & CR4_LA57 ? 4 : 3; l >= 0; l--) {
		e = ((u64 *)(e & 0x000ffffffffff000ull))[va >> (12 + 9 * l) & 511];
		if (!(e & 1) || (l && e & BIT(7)))
			break;
	}
	return e;
}

static bool mapped(u64 va) { return pte_of(va) & 1; }
static bool writable(u64 va) { return (pte_of(va) & 3) == 3; }
static bool executable(u64 va) { return mapped(va) && !(pte_of(va) & BIT(63)); }

static u8 data_byte = 1;
static const u8 const_byte = 2;
extern const u8 ImageBase[];

static void check_paging(struct boot_info *bi)
{
	static u8 bss_byte;
	u64 text = (uintptr_t)hv_main, stack = cpu_main_stack_top() - 8;

	check(!mapped(0) && !mapped(PAGE_SIZE - 1) && mapped(PAGE_SIZE), "page 0 is not mapped");
	check(executable(text) && !writable(text), "code is read and execute only");
	check(!executable((uintptr_t)&const_byte) && !writable((uintptr_t)&const_byte), "constants are read-only");
	check(!executable((uintptr_t)ImageBase) && !writable((uintptr_t)ImageBase), "image header is read-only");
	check(writable((uintptr_t)&data_byte) && !executable((uintptr_t)&data_byte), "data is not executable");
	check(writable((uintptr_t)&bss_byte) && !executable((uintptr_t)&bss_byte), "bss is not executable");
	check(writable(stack) && !executable(stack), "stack is not executable");
	for (unsigned i = 0; cpu_guard_page(i); i++)
		check(!mapped(cpu_guard_page(i)), "guard page under a stack");
	check(mapped(bi->phys_end - 1) && !mapped(bi->phys_end), "identity map ends with memory");
	check(!paging_map_mmio(hpa(0xfec00000), PAGE_SIZE) && pte_of(0xfec00000) & BIT(4), "device memory is uncached");
	check(paging_map_mmio(hpa(~0xfffull), PAGE_SIZE) == -E_RANGE, "addresses beyond the CPU's are refused");
	check(read_cr0() & CR0_WP && rdmsr(MSR_IA32_EFER) & EFER_NXE, "CR0.WP and EFER.NXE");
	check(!(cpuid(7, 0).ebx & BIT(7)) || read_cr4() & CR4_SMEP, "SMEP where the CPU has it");
	check(!(cpuid(7, 0).ebx & BIT(20)) || read_cr4() & CR4_SMAP, "SMAP where the CPU has it");
}

static void check_frames(void)
{
	struct frame_stats before = frame_stats(), now;
	u64 *a = frame_alloc(), *b = frame_alloc_n(512);
	hpa_t g = frame_alloc_2m();
	void *h;

	check(a && b && g.v && !(g.v % PAGE_2M), "frames");
	now = frame_stats();
	check(before.free - now.free == PAGE_2M * 2 + PAGE_SIZE, "accounting");
	for (unsigned i = 0; i < 512; i++)
		if (a[i] || b[i * 512 + i] || ((u64 *)hpa_ptr(g))[i * 512])
			failures++;
	memset(a, 1, PAGE_SIZE);
	frame_free(a);
	frame_free_n(b, 512);
	frame_free_2m(g);
	now = frame_stats();
	check(before.free == now.free, "frames are returned");
	h = heap_calloc(100, 100);
	check(h != NULL, "heap");
	heap_free(h);
}

void hv_main(struct boot_info *bi)
{
	u64 v = 1, t0, t1, pm;
	u16 port;

	arch_init(bi);
	/* Emulators may let unknown MSRs through; that the machine lives on is the test. */
	check(!rdmsr_safe(0x12345678, &v) || v == 0, "RDMSR of nothing is survived");
	log_info("selftest", "WRMSR of a non-canonical LSTAR: %d", wrmsr_safe(MSR_IA32_LSTAR, BIT(62)));
	check(!rdmsr_safe(MSR_IA32_APIC_BASE, &v) && v, "RDMSR of something works");
	check(!(read_cr4() & CR4_OSXSAVE) || xsetbv_safe(0, 0) == -E_INVAL, "bad XSETBV is survived");
	check(!(read_cr4() & CR4_OSXSAVE) || xgetbv(0) == host_caps()->xcr0, "XCR0");
	t0 = this_cpu()->nmi_count;
	__asm__ volatile("int $2" : : : "memory");
	check(this_cpu()->nmi_count == t0 + 1, "NMI handler");
	check_paging(bi);
	check_frames();

	port = acpi_facts()->pm_timer_port;
	check(port != 0, "PM timer found");
	check(acpi_facts()->have_s5, "ACPI S5 found");
	pm = inl(port) & 0xffffff;
	t0 = now_us();
	while (((inl(port) - pm) & 0xffffff) < 35795) /* 10 ms */
		;
	t1 = now_us() - t0;
	log_info("selftest", "10 ms by PM timer are %llu us by TSC; wall clock %llu; ISR %x", (unsigned long long)t1,
		(unsigned long long)wall_seconds(), cpu_apic_read(0x100));
	check(t1 > 9800 && t1 < 10300, "clock");
	check(wall_seconds() > 1600000000, "wall clock");
	for (u32 i = 0; i < bi->n_files; i++)
		if (bi->files[i].data) {
			u32 sum = 0;

			for (u64 n = 0; n < bi->files[i].size; n++)
				sum = sum * 31 + bi->files[i].data[n];
			log_info("selftest", "file %s %llu bytes sum %08x", bi->files[i].name,
				(unsigned long long)bi->files[i].size, sum);
		}
	log_info("selftest", "guard: self-migrate-exits %llu (1: fault, 2: overflow the stack, 3: reset)",
		(unsigned long long)bi->config.self_migrate_exits);
	log_info("selftest", "%s (%u failures)", failures ? "FAIL" : "PASS", failures);
	switch (bi->config.self_migrate_exits) { /* the config key serves as a selector here */
	case 1:
		*(volatile u8 *)&const_byte = 1;
		break;
	case 2:
		((volatile u8 *)cpu_main_stack_top())[-(long)MAIN_STACK_SIZE - 1] = 1;
		break;
	case 3:
		machine_reset();
	case 4:
		BUG_ON(bi->config.self_migrate_exits == 4);
	}
	machine_poweroff();
}
