/* SPDX-License-Identifier: MIT */
/* Dispatch of guest port and MMIO accesses to the devices that claimed them (bus_add_pio, bus_add_mmio in vdev.h). */
#pragma once
#include "hv/vm/vm.h"

/* One access of size 1, 2 or 4 (ports; 8 for MMIO). Returns false if nobody claims it: a read then gives all ones
 * in *val, a write is dropped. An access that straddles the end of a range counts as unclaimed. */
bool bus_pio(struct vm *vm, u16 port, unsigned size, bool write, u64 *val);
bool bus_mmio(struct vm *vm, u64 gpa, unsigned size, bool write, u64 *val);
