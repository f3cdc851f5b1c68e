/* SPDX-License-Identifier: MIT */
#include "hv/vm/gva.h"
#include "hv/arch/x86.h"
#include "hv/vmx/vmcs.h"

#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_U BIT(2)
#define PTE_PS BIT(7)
#define PTE_ADDR 0x000ffffffffff000ull

void paging_get(struct paging *p)
{
	unsigned i;

	p->cr0 = vmcs_read(VMCS_GUEST_CR0);
	p->cr3 = vmcs_read(VMCS_GUEST_CR3);
	p->cr4 = vmcs_read(VMCS_GUEST_CR4);
	p->efer = vmcs_read(VMCS_GUEST_EFER);
	/* PAE paging uses the PDPTEs that MOV to CR3 loaded, not those in memory now (SDM "PDPTE Registers"). */
	if (p->cr0 & CR0_PG && p->cr4 & CR4_PAE && !(p->efer & EFER_LMA))
		for (i = 0; i < 4; i++)
			p->pdpte[i] = vmcs_read(VMCS_GUEST_PDPTE(i));
}

bool gva_canonical(const struct paging *p, u64 va)
{
	unsigned shift = p->cr4 & CR4_LA57 ? 64 - 57 : 64 - 48;

	return !(p->efer & EFER_LMA) || (u64)((s64)(va << shift) >> shift) == va;
}

/* No translation: the error code of the page fault. PF_PRESENT in why: it was the rights (or reserved bits), not the P bit. */
static bool fails(const struct paging *p, u32 access, u32 why, u32 *fault)
{
	/* The I/D flag is reported only where instruction fetches can be forbidden. */
	bool fetch_told = (p->cr4 & CR4_PAE && p->efer & EFER_NXE) || p->cr4 & CR4_SMEP;

	*fault = why | (access & (PF_WRITE | PF_USER)) | (fetch_told ? access & PF_FETCH : 0);
	return false;
}

static bool rights_ok(const struct paging *p, u32 access, u64 rights, bool nx)
{
	if (access & PF_USER && !(rights & PTE_U))
		return false;
	if (access & PF_WRITE && !(rights & PTE_W) && (access & PF_USER || p->cr0 & CR0_WP))
		return false;
	return !(access & PF_FETCH && nx && p->efer & EFER_NXE);
}

/* SDM "32-Bit Paging" */
static bool walk32(struct vm *vm, const struct paging *p, u32 va, u32 access, u64 *out, u32 *fault)
{
	u64 table = p->cr3 & 0xfffff000, rights = PTE_U | PTE_W;
	unsigned level;

	for (level = 2; level; level--) {
		const u32 *t = guest_page(vm, table >> PAGE_SHIFT);
		u32 e;

		if (!t)
			return fails(p, access, PF_PRESENT | PF_RSVD, fault);
		e = __atomic_load_n(&t[va >> (level == 2 ? 22 : 12) & 1023], __ATOMIC_RELAXED);
		if (!(e & PTE_P))
			return fails(p, access, 0, fault);
		rights &= e;
		table = e & 0xfffff000;
		if (level == 2 && e & PTE_PS && p->cr4 & CR4_PSE) {
			/* PSE-36: bits 20:13 are address bits 39:32 */
			table = (e & 0xffc00000) | (u64)(e >> 13 & 0xff) << 32 | (va & 0x3ff000);
			break;
		}
	}
	if (!rights_ok(p, access, rights, false))
		return fails(p, access, PF_PRESENT, fault);
	*out = table | (va & 0xfff);
	return true;
}

bool gva_to_gpa(struct vm *vm, const struct paging *p, u64 va, u32 access, u64 *out, u32 *fault)
{
	u64 table, e, low, rights = PTE_U | PTE_W;
	unsigned level, shift;
	bool nx = false;

	if (!(p->efer & EFER_LMA))
		va = (u32)va;
	if (!(p->cr0 & CR0_PG)) {
		*out = va;
		return true;
	}
	if (!(p->cr4 & CR4_PAE))
		return walk32(vm, p, va, access, out, fault);
	if (p->efer & EFER_LMA) {
		table = p->cr3 & PTE_ADDR;
		level = p->cr4 & CR4_LA57 ? 5 : 4;
	} else {
		e = p->pdpte[va >> 30 & 3];
		if (!(e & PTE_P))
			return fails(p, access, 0, fault);
		table = e & PTE_ADDR;
		level = 2;
	}
	for (;; level--) {
		const u64 *t = guest_page(vm, table >> PAGE_SHIFT);

		shift = 3 + 9 * level;
		if (!t)
			return fails(p, access, PF_PRESENT | PF_RSVD, fault);
		e = __atomic_load_n(&t[va >> shift & 511], __ATOMIC_RELAXED);
		if (!(e & PTE_P))
			return fails(p, access, 0, fault);
		rights &= e;
		nx |= e >> 63;
		if (level == 1)
			break;
		if (e & PTE_PS) {
			if (level <= 3)
				break;
			return fails(p, access, PF_PRESENT | PF_RSVD, fault);
		}
		table = e & PTE_ADDR;
	}
	if (!rights_ok(p, access, rights, nx))
		return fails(p, access, PF_PRESENT, fault);
	low = BIT(shift) - 1;
	*out = (e & PTE_ADDR & ~low) | (va & low);
	return true;
}
