/* SPDX-License-Identifier: MIT */
#include "hv/vmx/event.h"
#include "hv/vmx/vmx.h"

struct event event_reinject(u32 idt_info, u32 idt_error, u32 inst_len)
{
	struct event ev = { 0 };

	if (!(idt_info & INTR_VALID))
		return ev;
	/* Bit 12 is undefined in the vectoring field and must be 0 on entry. */
	ev.info = idt_info & ~(u32)BIT(12);
	if (idt_info & INTR_ERROR_CODE)
		ev.error = idt_error;
	switch (INTR_TYPE(idt_info)) {
	case INTR_SOFT_INT:
	case INTR_PRIV_SW:
	case INTR_SW_EXCEPTION:
		ev.len = inst_len;
	}
	return ev;
}

/* Contributory exceptions: #DE #TS #NP #SS #GP (and #CP). */
static bool contributory(u32 v) { return v == 0 || (v >= 10 && v <= 13) || v == 21; }

struct event event_exception(struct event pending, u8 vector, bool has_error, u32 error, bool *triple)
{
	struct event ev = { .info = (u32)(INTR_VALID | INTR_HW_EXCEPTION << 8) | vector };

	*triple = false;
	if ((pending.info & INTR_VALID) && INTR_TYPE(pending.info) == INTR_HW_EXCEPTION) {
		u32 first = pending.info & 0xff;

		if (first == 8) {
			*triple = true;
			return (struct event){ 0 };
		}
		if ((contributory(first) && contributory(vector)) ||
		    (first == 14 && (contributory(vector) || vector == 14))) {
			ev.info = (u32)(INTR_VALID | INTR_ERROR_CODE | INTR_HW_EXCEPTION << 8) | 8;
			return ev;
		}
	}
	if (has_error) {
		ev.info |= INTR_ERROR_CODE;
		ev.error = error;
	}
	return ev;
}
