/* SPDX-License-Identifier: MIT */
#include "hv/vm/emulate.h"
#include "hv/arch/x86.h"
#include "hv/lib/log.h"
#include "hv/vm/bus.h"
#include "hv/vm/gva.h"
#include "hv/vm/vcpu.h"
#include "hv/vmx/vmcs.h"

#include <stdio.h>
#include <string.h>

#define AR_DB BIT(14)
#define AR_L BIT(13)
#define AR_UNUSABLE BIT(16)
#define QUAL_LINEAR_ACCESS BIT(8) /* EPT violation: by the access itself, not by the walk of the guest's tables */

/* What one emulated instruction needs to know about the vCPU. */
struct emu {
	struct vcpu *v;
	struct vm *vm;
	struct paging p;
	unsigned mode; /* 16, 32, 64 */
	u32 user;      /* PF_USER if CPL is 3; known once a walk for data is needed */
	bool user_known;
};

/* Guest-physical pieces of an operand: two if it crosses a page. */
struct span { u64 gpa[2]; u8 n[2]; };

static void emu_begin(struct emu *m, struct vcpu *v)
{
	u32 ar = vmcs_read(VMCS_GUEST_AR(SEG_CS));

	m->v = v;
	m->vm = v->vm;
	m->user_known = false;
	paging_get(&m->p);
	m->mode = ar & AR_L && m->p.efer & EFER_LMA ? 64 : ar & AR_DB ? 32 : 16;
}

static u64 size_mask(unsigned size)
{
	return size == 8 ? ~0ull : BIT(8 * size) - 1;
}

/* --- registers --- */

static u64 reg_read(const struct emu *m, u8 reg, unsigned size)
{
	u64 val = m->v->s.gpr[reg & 15];

	return (reg & EMU_REG_HIGH ? val >> 8 : val) & size_mask(size);
}

static void reg_write(struct emu *m, u8 reg, unsigned size, u64 val)
{
	u64 *r = &m->v->s.gpr[reg & 15], now;

	if (reg & EMU_REG_HIGH)
		now = (*r & ~0xff00ull) | (val & 0xff) << 8;
	else if (size >= 4) /* 32-bit results clear the upper half */
		now = val & size_mask(size);
	else
		now = (*r & ~size_mask(size)) | (val & size_mask(size));
	if (reg == VCPU_RSP)
		vcpu_set_rsp(m->v, now);
	else
		*r = now;
}

/* --- addresses --- */

static u64 segment_base(const struct emu *m, u8 seg)
{
	if (m->mode == 64 && seg != SEG_FS && seg != SEG_GS)
		return 0;
	return vmcs_read(VMCS_GUEST_BASE(seg));
}

static u64 linear(const struct emu *m, u8 seg, u64 offset)
{
	u64 at = segment_base(m, seg) + offset;

	return m->mode == 64 ? at : (u32)at;
}

static u64 operand_address(const struct emu *m, const struct emu_inst *i)
{
	u64 at = i->disp;

	if (i->base == EMU_RIP)
		at += m->v->s.rip + i->len;
	else if (i->base != EMU_NONE)
		at += m->v->s.gpr[i->base & 15];
	if (i->index != EMU_NONE)
		at += m->v->s.gpr[i->index & 15] * i->scale;
	return linear(m, i->seg, at & size_mask(i->addr_size));
}

/* --- memory --- */

static void page_fault(struct emu *m, u64 at, u32 error)
{
	write_cr2(m->mode == 64 ? at : (u32)at); /* the guest's CR2 lives in the register */
	vcpu_inject(m->v, VEC_PF, true, error);
}

/* A walk that injects the exception it meets. */
static bool translate_one(struct emu *m, u64 at, u32 access, u64 *out)
{
	u32 fault;

	if (m->mode == 64 && !gva_canonical(&m->p, at)) {
		vcpu_inject(m->v, VEC_GP, true, 0);
		return false;
	}
	if (gva_to_gpa(m->vm, &m->p, at, access, out, &fault))
		return true;
	page_fault(m, at, fault);
	return false;
}

/* Translates all of an operand before anything is done with it. */
static bool translate(struct emu *m, u64 at, unsigned size, u32 access, struct span *s)
{
	unsigned first = MIN(size, (unsigned)(PAGE_SIZE - (at & (PAGE_SIZE - 1))));

	if (!m->user_known) {
		m->user = (vmcs_read(VMCS_GUEST_AR(SEG_SS)) >> 5 & 3) == 3 ? PF_USER : 0;
		m->user_known = true;
	}
	s->n[0] = first;
	s->n[1] = size - first;
	return translate_one(m, at, access | m->user, &s->gpa[0]) &&
	       (first == size || translate_one(m, at + first, access | m->user, &s->gpa[1]));
}

/* One piece, which lies in one page: RAM, or a device. */
static void piece_access(struct emu *m, u64 at, unsigned n, bool write, u64 *val)
{
	struct vm *vm = m->vm;

	if (guest_page(vm, at >> PAGE_SHIFT)) {
		if (!write)
			*val = 0;
		if (write ? guest_write(vm, gpa(at), val, n) : guest_read(vm, gpa(at), val, n))
			*val = ~0ull;
	} else if (!vcpu_apic_mmio(m->v, at, n, write, val)) { /* each vCPU finds its own APIC there; all else is the VM's */
		bus_mmio(vm, at, n, write, val);
	}
}

static u64 span_read(struct emu *m, const struct span *s)
{
	u64 lo = 0, hi = 0;

	piece_access(m, s->gpa[0], s->n[0], false, &lo);
	lo &= size_mask(s->n[0]);
	if (!s->n[1])
		return lo;
	piece_access(m, s->gpa[1], s->n[1], false, &hi);
	return lo | (hi & size_mask(s->n[1])) << 8 * s->n[0];
}

static void span_write(struct emu *m, const struct span *s, u64 val)
{
	u64 lo = val & size_mask(s->n[0]), hi;

	piece_access(m, s->gpa[0], s->n[0], true, &lo);
	if (s->n[1]) {
		hi = val >> 8 * s->n[0];
		piece_access(m, s->gpa[1], s->n[1], true, &hi);
	}
}

/* --- fetch and decode --- */

/* Instruction bytes at CS:RIP, zero-filled to 16; returns how many are there. 0: none, or (*fault) a page fault of *code. */
static unsigned fetch(const struct emu *m, u64 bytes[2], bool *fault, u32 *code)
{
	u64 at = linear(m, SEG_CS, m->v->s.rip), where;
	unsigned off = at & (PAGE_SIZE - 1), n;
	const u8 *page;

	bytes[0] = bytes[1] = 0;
	*fault = !gva_to_gpa(m->vm, &m->p, at, PF_FETCH, &where, code);
	page = *fault ? NULL : guest_page(m->vm, where >> PAGE_SHIFT);
	if (!page)
		return 0;
	if (off <= PAGE_SIZE - 16) {
		memcpy(bytes, page + off, 16);
		return 15;
	}
	n = PAGE_SIZE - off;
	memcpy(bytes, page + off, n);
	if (n >= 15)
		return 15;
	if (!gva_to_gpa(m->vm, &m->p, m->mode == 64 ? at + n : (u32)(at + n), PF_FETCH, &where, code))
		return n;
	page = guest_page(m->vm, where >> PAGE_SHIFT);
	if (!page)
		return n;
	memcpy((u8 *)bytes + n, page, 15 - n);
	return 15;
}

/* The instruction at RIP, from the cache if its bytes are still those. NULL: cannot be had; *fault: an exception was injected. */
static const struct emu_inst *decode(struct emu *m, bool *fault)
{
	struct emu_cache *c = &m->v->emu_cache;
	__typeof__(&c->e[0]) e = &c->e[(m->v->s.rip ^ m->v->s.rip >> 5) % EMU_CACHE_ENTRIES];
	u64 bytes[2];
	u32 code;
	unsigned n = fetch(m, bytes, fault, &code);

	/* The CPU has fetched this already. If it cannot be found now, the guest changed its tables without a flush and may
	 * get the fault that a flush would have given it. */
	if (*fault)
		page_fault(m, linear(m, SEG_CS, m->v->s.rip), code);
	if (!n)
		return NULL;
	if (e->mode == m->mode && !((bytes[0] ^ e->bytes[0]) & e->mask[0]) && !((bytes[1] ^ e->bytes[1]) & e->mask[1]) &&
	    e->inst.len <= n)
		return &e->inst;
	e->mode = 0; /* empty until it is whole */
	if (!emulate_decode((const u8 *)bytes, n, m->mode, &e->inst))
		return NULL;
	e->mask[0] = e->inst.len >= 8 ? ~0ull : BIT(8 * e->inst.len) - 1;
	e->mask[1] = e->inst.len > 8 ? BIT(8 * (e->inst.len - 8)) - 1 : 0;
	e->bytes[0] = bytes[0];
	e->bytes[1] = bytes[1];
	e->mode = m->mode;
	return &e->inst;
}

/* --- string instructions --- */

/* Registers of a string instruction, whose width is the address size. */
static u64 string_reg(const struct emu *m, u8 reg, unsigned addr_size)
{
	return m->v->s.gpr[reg] & size_mask(addr_size);
}

static void string_step(struct emu *m, u8 reg, unsigned addr_size, unsigned size)
{
	u64 step = m->v->s.rflags & RFLAGS_DF ? -(u64)size : size;

	reg_write(m, reg, addr_size, m->v->s.gpr[reg] + step);
}

/* Another element to do? Counts it, and *inst_len becomes 0 if RIP has to stay for more. */
static bool string_next(struct emu *m, bool rep, unsigned addr_size, unsigned done, u32 *inst_len)
{
	if (!rep)
		return done == 0;
	if (string_reg(m, VCPU_RCX, addr_size) == 0)
		return false;
	if (done < EMU_REP_MAX)
		return true;
	*inst_len = 0;
	return false;
}

static void string_count(struct emu *m, bool rep, unsigned addr_size)
{
	if (rep)
		reg_write(m, VCPU_RCX, addr_size, m->v->s.gpr[VCPU_RCX] - 1);
}

static enum emu_result run_string(struct emu *m, const struct emu_inst *i, u32 *inst_len)
{
	bool rep = i->flags & EMU_REP, from = i->op != EMU_STOS, to = i->op != EMU_LODS;
	struct span src, dst;
	unsigned done;
	u64 val;

	for (done = 0; string_next(m, rep, i->addr_size, done, inst_len); done++) {
		if (from && !translate(m, linear(m, i->seg, string_reg(m, VCPU_RSI, i->addr_size)), i->size, 0, &src))
			return EMU_FAULT;
		if (to && !translate(m, linear(m, SEG_ES, string_reg(m, VCPU_RDI, i->addr_size)), i->size, PF_WRITE, &dst))
			return EMU_FAULT;
		val = from ? span_read(m, &src) : reg_read(m, VCPU_RAX, i->size);
		if (to)
			span_write(m, &dst, val);
		else
			reg_write(m, VCPU_RAX, i->size, val);
		if (from)
			string_step(m, VCPU_RSI, i->addr_size, i->size);
		if (to)
			string_step(m, VCPU_RDI, i->addr_size, i->size);
		string_count(m, rep, i->addr_size);
	}
	return EMU_OK;
}

/* SDM "Limit Checking": 64-bit mode has none; expand-down data is not told apart from an unusable segment. */
static bool limit_ok(const struct emu *m, u8 seg, u64 offset, unsigned size)
{
	u32 ar;

	if (m->mode == 64)
		return true;
	ar = vmcs_read(VMCS_GUEST_AR(seg));
	if (ar & AR_UNUSABLE)
		return false;
	if ((ar & 0xc) == 4) /* data, expand-down */
		return offset > vmcs_read(VMCS_GUEST_LIMIT(seg)) && offset + size - 1 <= (ar & AR_DB ? 0xffffffff : 0xffff);
	return offset + size - 1 <= vmcs_read(VMCS_GUEST_LIMIT(seg));
}

enum emu_result emulate_string_io(struct vcpu *v, u64 qual, u32 info, u32 *inst_len)
{
	/* SDM tables "Exit Qualification for I/O Instructions" and "Format of the VM-Exit Instruction-Information Field as Used
	 * for INS and OUTS" */
	unsigned size = (qual & 7) + 1, addr_size = 2u << (info >> 7 & 3), done;
	bool in = qual & BIT(3), rep = qual & BIT(5);
	u8 seg = in ? SEG_ES : info >> 15 & 7, reg = in ? VCPU_RDI : VCPU_RSI;
	u16 port = (u16)(qual >> 16);
	struct emu m;

	if (addr_size > 8 || seg > SEG_GS || (size != 1 && size != 2 && size != 4))
		return EMU_UNSUPPORTED;
	emu_begin(&m, v);
	for (done = 0; string_next(&m, rep, addr_size, done, inst_len); done++) {
		u64 offset = string_reg(&m, reg, addr_size), val = 0;
		struct span s;

		/* Here nothing has checked the operand yet: the exit comes first. */
		if (!limit_ok(&m, seg, offset, size)) {
			vcpu_inject(v, seg == SEG_SS ? VEC_SS : VEC_GP, true, 0);
			return EMU_FAULT;
		}
		if (!translate(&m, linear(&m, seg, offset), size, in ? PF_WRITE : 0, &s))
			return EMU_FAULT;
		if (in) {
			bus_pio(v->vm, port, size, false, &val);
			span_write(&m, &s, val);
		} else {
			val = span_read(&m, &s);
			bus_pio(v->vm, port, size, true, &val);
		}
		string_step(&m, reg, addr_size, size);
		string_count(&m, rep, addr_size);
	}
	return EMU_OK;
}

/* --- everything else --- */

static u64 sign_extend(u64 val, unsigned size)
{
	unsigned shift = 64 - 8 * size;

	return (u64)((s64)(val << shift) >> shift);
}

static enum emu_result run_stack(struct emu *m, const struct emu_inst *i)
{
	struct vcpu *v = m->v;
	unsigned width = m->mode == 64 ? 8 : vmcs_read(VMCS_GUEST_AR(SEG_SS)) & AR_DB ? 4 : 2;
	u64 old = v->s.gpr[VCPU_RSP], now, mask = size_mask(width);
	struct span mem, stack;
	bool ok;

	now = i->op == EMU_PUSH ? old - i->size : old + i->size;
	now = (old & ~mask) | (now & mask);
	if (i->op == EMU_PUSH) {
		if (!translate(m, operand_address(m, i), i->size, 0, &mem) ||
		    !translate(m, linear(m, SEG_SS, now & mask), i->size, PF_WRITE, &stack))
			return EMU_FAULT;
		span_write(m, &stack, span_read(m, &mem));
	} else {
		if (!translate(m, linear(m, SEG_SS, old & mask), i->size, 0, &stack))
			return EMU_FAULT;
		v->s.gpr[VCPU_RSP] = now; /* POP computes its operand's address with RSP already moved */
		ok = translate(m, operand_address(m, i), i->size, PF_WRITE, &mem);
		v->s.gpr[VCPU_RSP] = old;
		if (!ok)
			return EMU_FAULT;
		span_write(m, &mem, span_read(m, &stack));
	}
	vcpu_set_rsp(v, now);
	return EMU_OK;
}

static void run_rmw(struct emu *m, const struct emu_inst *i, const struct span *s)
{
	u64 mem = span_read(m, s), flags = m->v->s.rflags, src, out;

	switch (i->op) {
	case EMU_ALU_TO_MEM:
		src = i->reg == EMU_NONE ? i->imm : reg_read(m, i->reg, i->size);
		out = emulate_alu(i->alu, i->size, mem, src, &flags);
		if (!emulate_alu_reads(i->alu))
			span_write(m, s, out);
		break;
	case EMU_ALU_TO_REG:
		out = emulate_alu(i->alu, i->size, reg_read(m, i->reg, i->size), mem, &flags);
		if (!emulate_alu_reads(i->alu))
			reg_write(m, i->reg, i->size, out);
		break;
	case EMU_UNARY:
		span_write(m, s, emulate_alu(i->alu, i->size, mem, 0, &flags));
		break;
	case EMU_XCHG:
		src = reg_read(m, i->reg, i->size);
		span_write(m, s, src);
		reg_write(m, i->reg, i->size, mem);
		break;
	case EMU_XADD:
		out = emulate_alu(EMU_ADD, i->size, mem, reg_read(m, i->reg, i->size), &flags);
		span_write(m, s, out);
		reg_write(m, i->reg, i->size, mem);
		break;
	case EMU_CMPXCHG:
		src = reg_read(m, VCPU_RAX, i->size);
		emulate_alu(EMU_CMP, i->size, src, mem, &flags);
		if (src == mem) {
			span_write(m, s, reg_read(m, i->reg, i->size));
		} else {
			span_write(m, s, mem); /* the write cycle happens either way */
			reg_write(m, VCPU_RAX, i->size, mem);
		}
		break;
	}
	if (flags != m->v->s.rflags)
		vcpu_set_rflags(m->v, flags);
}

static bool writes_memory(const struct emu_inst *i)
{
	switch (i->op) {
	case EMU_LOAD:
	case EMU_ALU_TO_REG:
		return false;
	case EMU_ALU_TO_MEM:
		return !emulate_alu_reads(i->alu);
	default:
		return true;
	}
}

enum emu_result emulate_mmio(struct vcpu *v, gpa_t fault_gpa, u32 *inst_len)
{
	const struct emu_inst *i;
	struct span s;
	struct emu m;
	bool fault;
	u64 at, val;

	if (!(vmcs_read(VMCS_EXIT_QUALIFICATION) & QUAL_LINEAR_ACCESS))
		return EMU_UNSUPPORTED; /* the guest's page tables are not in RAM */
	emu_begin(&m, v);
	i = decode(&m, &fault);
	if (!i)
		return fault ? EMU_FAULT : EMU_UNSUPPORTED;
	*inst_len = i->len;
	if (i->op == EMU_STOS || i->op == EMU_LODS || i->op == EMU_MOVS)
		return run_string(&m, i, inst_len);
	if (i->op == EMU_PUSH || i->op == EMU_POP)
		return run_stack(&m, i);

	/* One memory operand. The CPU has walked to it already, unless it crosses a page. */
	at = operand_address(&m, i);
	if ((at & (PAGE_SIZE - 1)) + i->size <= PAGE_SIZE && ((at ^ fault_gpa.v) & (PAGE_SIZE - 1)) == 0)
		s = (struct span){ { fault_gpa.v }, { i->size } };
	else if (!translate(&m, at, i->size, writes_memory(i) ? PF_WRITE : 0, &s))
		return EMU_FAULT;
	if (i->op == EMU_LOAD) {
		val = span_read(&m, &s);
		reg_write(&m, i->reg, i->reg_size, i->flags & EMU_SIGNED ? sign_extend(val, i->size) : val);
	} else if (i->op == EMU_STORE) {
		span_write(&m, &s, i->reg == EMU_NONE ? i->imm : reg_read(&m, i->reg, i->size));
	} else {
		run_rmw(&m, i, &s);
	}
	return EMU_OK;
}

void emulate_describe(struct vcpu *v, char *buf, size_t size)
{
	u64 len = 0, bytes[2];
	struct emu m;
	unsigned n;
	bool fault;
	u32 code;

	if (!size)
		return;
	log_guard();
	emu_begin(&m, v);
	n = fetch(&m, bytes, &fault, &code);
	len = snprintf(buf, size, "rip=%#llx mode=%u bytes=", (unsigned long long)v->s.rip, m.mode);
	for (unsigned k = 0; k < n && len < size; k++)
		len += snprintf(buf + len, size - len, "%02x ", ((u8 *)bytes)[k]);
}
