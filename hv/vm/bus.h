/* SPDX-License-Identifier: MIT */
/* Dispatch of guest port and MMIO accesses to the devices that claimed them (bus_add_pio, bus_add_mmio in vdev.h). */
#pragma once
#include "hv/vm/vm.h"

/* One access of 1 to 4 bytes (ports; MMIO: 8). As a chipset does, one that is wider than its device takes, or that crosses the
 * end of a range, is done in parts, from the lowest address up. What nobody claims reads as ones, and writes to it are dropped;
 * false if that is all of it. */
bool bus_pio(struct vm *vm, u16 port, unsigned size, bool write, u64 *val);
bool bus_mmio(struct vm *vm, u64 gpa, unsigned size, bool write, u64 *val);
