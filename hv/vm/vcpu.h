/* SPDX-License-Identifier: MIT */
/* A virtual CPU and its run loop. Invariant: at the top of the loop all guest state is in the VMCS, in
 * struct vcpu_state, or in device state; a vCPU pauses only there. */
#pragma once
#include "hv/vm/vcpu_state.h"
#include "hv/vm/vm.h"

struct vmexit;

struct vcpu {
	struct vcpu_state s;      /* gprs, xsave, cr2, drs and MSRs that the VMCS does not hold are live here */
	struct vm *vm;
	unsigned id;
	struct vdev *lapic;
	void *vmcs;               /* VMCS region frame */
	bool launched, loaded;    /* VMLAUNCH done; s -> VMCS done */
	bool irq_check;           /* see vcpu_irq_check() */
	bool halted;
	u64 exit_counts[80];
	u64 run_tsc;              /* host ticks spent in the guest */
};

/* Makes vCPU id of vm at reset state. -E_NOMEM */
int vcpu_create(struct vm *vm, unsigned id) __must_check;
void vcpu_destroy(struct vcpu *v);
/* Power-on state as the SDM has it, "Processor State After Reset". */
void vcpu_reset(struct vcpu *v);
/* Runs the guest until host TSC deadline, or it halts, pauses, dies. true: it halted and wants to sleep until vm->next_deadline. */
bool vcpu_run(struct vcpu *v, u64 deadline_tsc);
/* Copies VMCS-held state into v->s / back. */
void vcpu_sync_state(struct vcpu *v);
void vcpu_load_state(struct vcpu *v);
/* The only place that moves RIP: past the exiting instruction; clears STI/MOV-SS blocking, honours TF. */
void vcpu_advance(struct vcpu *v, u32 inst_len);
/* Queues an exception for the next entry. */
void vcpu_inject(struct vcpu *v, u8 vector, bool has_error, u32 error);
#define VECTOR_GP 13
#define VECTOR_UD 6
