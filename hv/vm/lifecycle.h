/* SPDX-License-Identifier: MIT */
/* The part of guest life that only the hypervisor's main and scheduler call; the rest is in vm.h. */
#pragma once
#include "hv/vm/vm.h"

/* Takes the host's name and the [debug] settings. */
void lifecycle_init(const struct config *c);
/* After vm_define() at boot: the state that is on record of a guest that has been moved, here or away. false: that may be lost. */
bool vm_recall(struct vm *vm) __must_check;
/* Carries out what the guest asked for (reset, power-off), frees what a dead guest held. Between slices only. */
void lifecycle_poll(struct vm *vm);
