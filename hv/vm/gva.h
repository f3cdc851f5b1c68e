/* SPDX-License-Identifier: MIT */
/* The guest's own paging: linear to guest-physical addresses, for whatever acts on the guest's behalf. The guest's
 * page tables are hostile; they are read through guest_page() only. */
#pragma once
#include "hv/vm/vm.h"

/* Page-fault error code bits (SDM "Interrupt 14—Page-Fault Exception (#PF)"); as access rights: what is wanted. */
#define PF_PRESENT BIT(0)
#define PF_WRITE BIT(1)
#define PF_USER BIT(2)
#define PF_RSVD BIT(3)
#define PF_FETCH BIT(4)

/* The registers that govern paging. */
struct paging { u64 cr0, cr3, cr4, efer, pdpte[4]; };

/* Of the vCPU whose VMCS is current. pdpte[] is filled for PAE paging only. */
void paging_get(struct paging *p);
/* Whether the address has the form that these page tables can translate (always, outside of 64-bit mode). */
bool gva_canonical(const struct paging *p, u64 va);
/* Walks the tables for one byte at va; access: PF_WRITE, PF_USER, PF_FETCH. Checks present, writable, user, NX and CR0.WP,
 * not SMEP, SMAP and protection keys; sets no A and D bits. True: *out; false: *fault is the error code for #PF. */
bool gva_to_gpa(struct vm *vm, const struct paging *p, u64 va, u32 access, u64 *out, u32 *fault);
