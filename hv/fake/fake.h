/* SPDX-License-Identifier: MIT */
/* The hardware layer as host tests see it. */
#pragma once
#include "boot/boot_info.h"

/* Host TSC; 1 GHz. Tests move it by hand. */
extern u64 fake_tsc_now;
#define FAKE_TSC_HZ 1000000000ull
extern u64 fake_tsc_hz; /* what host_tsc_hz() says; the clock stays as it is */
/* Whether the wall clock is one that time servers vouch for, and how far it is off 1,700,000,000 s plus the TSC. */
extern bool fake_wall_synced;
extern s64 fake_wall_shift_us;
/* Gives the frame allocator that much memory (multiple of 2 MiB), once per process. */
void fake_memory(u64 bytes);
/* What boot_info_get() returns; tests put image files there. */
extern struct boot_info fake_boot_info;
/* What the EPT has at a guest-physical address (4 KiB granularity), or {0}. */
struct ept;
hpa_t ept_lookup(const struct ept *e, gpa_t at);
/* Counts INVEPTs, to see that dirty logging asks for them. */
extern u64 fake_invepts;
/* What sched_others_wait() says. */
extern bool fake_others_wait;
/* Counts machine checks handed to the host. */
extern u64 fake_machine_checks;
