/* SPDX-License-Identifier: MIT */
/* Fixed-width integers, opaque address types and the few macros everything uses. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;

/* Addresses do not convert into each other or into integers by accident. */
typedef struct { u64 v; } gpa_t; /* guest-physical */
typedef struct { u64 v; } gva_t; /* guest-linear */
typedef struct { u64 v; } hpa_t; /* host-physical; host memory is identity-mapped, see hpa_ptr() */

static inline gpa_t gpa(u64 v) { return (gpa_t){ v }; }
static inline gva_t gva(u64 v) { return (gva_t){ v }; }
static inline hpa_t hpa(u64 v) { return (hpa_t){ v }; }
/* The hypervisor maps physical memory one to one (in host tests an "hpa" is simply a pointer). */
static inline void *hpa_ptr(hpa_t a) { return (void *)(uintptr_t)a.v; }
static inline hpa_t ptr_hpa(const void *p) { return (hpa_t){ (uintptr_t)p }; }

#define PAGE_SIZE 4096ul
#define PAGE_SHIFT 12
#define PAGE_2M (2ul << 20)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ({ __typeof__(a) a_ = (a); __typeof__(b) b_ = (b); a_ < b_ ? a_ : b_; })
#define MAX(a, b) ({ __typeof__(a) a_ = (a); __typeof__(b) b_ = (b); a_ > b_ ? a_ : b_; })
#define ALIGN_DOWN(x, a) ((x) & ~((__typeof__(x))(a) - 1))
#define ALIGN_UP(x, a) ALIGN_DOWN((x) + ((a) - 1), a)
#define BIT(n) (1ull << (n))
#define container_of(p, type, member) ((type *)((char *)(p) - offsetof(type, member)))
#define __must_check __attribute__((warn_unused_result))
#define __printf(f, a) __attribute__((format(printf, f, a)))
#define __packed __attribute__((packed))
#define __noreturn __attribute__((noreturn))
