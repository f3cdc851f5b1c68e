/* SPDX-License-Identifier: MIT */
/* How fast the TSC runs. */
#pragma once
#include "hv/lib/types.h"

/* TSC frequency in Hz, from the ACPI PM timer and CPUID leaf 15H; takes about 20 ms. Needs acpi_init(). */
u64 tsc_calibrate(void);
