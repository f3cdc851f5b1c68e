/* SPDX-License-Identifier: MIT */
/* Descriptions of state that moves with a guest. One field list drives save, load, dump and tests;
 * mig/ iterates over what is registered and never names a device. Wire: see docs/PROTOCOL.md. */
#pragma once
#include "hv/lib/err.h"

struct mig_field {
	const char *name;
	u16 tag;          /* unique within its type, never reused */
	u8 width;         /* bytes of one element: 1, 2, 4, 8 */
	u8 since;         /* first version of the type that has it */
	u32 count;        /* elements */
	u32 offset;       /* in the state struct */
};

/* Kinds in the order in which they are saved and loaded. */
enum mig_phase { MIG_PHASE_CLOCK, MIG_PHASE_IRQCHIP, MIG_PHASE_TIMER, MIG_PHASE_DEVICE, MIG_PHASE_VCPU };

struct mig_type {
	const char *name;        /* on the wire; at most 15 characters */
	u16 version, min_version; /* written; oldest that loads */
	u16 phase;               /* enum mig_phase */
	u16 n_fields;
	u32 state_size;
	const struct mig_field *fields;
	/* After all fields of all instances are loaded, by phase: checks every range (the stream is hostile) and rebuilds
	 * host-only state. owner: struct vdev * or struct vcpu *. 0, or negative; *e only if there is more to say than that
	 * such values cannot be. May be NULL. */
	int (*post_load)(void *owner, struct error *e);
};

/* The element type is checked at compile time; arrays of that type are taken whole. */
#define MIG_SCALAR_(tag_, st, m, since_, type) { .name = #m, .tag = (tag_), .width = sizeof(type), .since = (since_), \
	.count = 1 + 0 * sizeof(char[__builtin_types_compatible_p(__typeof__(((st *)0)->m), type) ? 1 : -1]), \
	.offset = offsetof(st, m) }
#define MIG_ARRAY_(tag_, st, m, since_, type) { .name = #m, .tag = (tag_), .width = sizeof(type), .since = (since_), \
	.count = sizeof(((st *)0)->m) / sizeof(type) + 0 * sizeof(char[ \
		__builtin_types_compatible_p(__typeof__(((st *)0)->m[0]), type) ? 1 : -1]), \
	.offset = offsetof(st, m) }
#define MIG_U8(tag, st, m, since) MIG_SCALAR_(tag, st, m, since, u8)
#define MIG_U16(tag, st, m, since) MIG_SCALAR_(tag, st, m, since, u16)
#define MIG_U32(tag, st, m, since) MIG_SCALAR_(tag, st, m, since, u32)
#define MIG_U64(tag, st, m, since) MIG_SCALAR_(tag, st, m, since, u64)
#define MIG_U8S(tag, st, m, since) MIG_ARRAY_(tag, st, m, since, u8)
#define MIG_U16S(tag, st, m, since) MIG_ARRAY_(tag, st, m, since, u16)
#define MIG_U32S(tag, st, m, since) MIG_ARRAY_(tag, st, m, since, u32)
#define MIG_U64S(tag, st, m, since) MIG_ARRAY_(tag, st, m, since, u64)

/* In the initializer of a struct mig_type: the state struct and the list of its fields. */
#define MIG_STATE(st, list) .state_size = sizeof(st), .fields = (list), .n_fields = ARRAY_SIZE(list)

/* Registration: a table of pointers in one section; the linker supplies the bounds. State structs have no padding. */
#define MIG_REGISTER(type_) MIG_REGISTER_AS(type_, type_)
#define MIG_REGISTER_AS(name_, type_) static const struct mig_type *const mig_reg_##name_ \
	__attribute__((used, section("migratable"))) = &(type_)
extern const struct mig_type *const __start_migratable[], *const __stop_migratable[];

/* One thing of a guest that has such a state. */
struct mig_instance {
	const struct mig_type *type;
	u16 instance;  /* vCPU number, or the n-th device of that type */
	void *state;   /* struct of type->state_size */
	void *owner;   /* passed to post_load */
};
