/* SPDX-License-Identifier: MIT */
/* What happens to an event whose delivery was cut short by a VM exit. Pure. */
#pragma once
#include "hv/lib/types.h"

/* An event to inject at the next entry; info 0: none. */
struct event { u32 info, error, len; };

/* Builds the event to re-inject from the IDT-vectoring fields of an exit (SDM "Information for VM Exits That Occur
 * During Event Delivery"). inst_len: VM-exit instruction length, used for software events. */
struct event event_reinject(u32 idt_info, u32 idt_error, u32 inst_len);
/* The event that results when exception vector (with error code) meets pending: double fault rules of SDM
 * "Interrupt 8—Double Fault Exception". *triple is set on a triple fault. */
struct event event_exception(struct event pending, u8 vector, bool has_error, u32 error, bool *triple);
