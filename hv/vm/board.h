/* SPDX-License-Identifier: MIT */
/* The set of devices of a guest. */
#pragma once
#include "hv/vm/vm.h"

/* Makes all devices of the board. On error what was made stays for board_destroy(). */
int board_create(struct vm *vm, struct error *e) __must_check;
void board_reset(struct vm *vm);
void board_destroy(struct vm *vm);
/* Calls timer() of every device that this vCPU looks after and whose deadline (guest TSC) has come. */
void board_run_timers(struct vm *vm, unsigned vcpu, u64 now);
