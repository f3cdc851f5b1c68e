/* SPDX-License-Identifier: MIT */
/* Who runs where and when. The first CPU goes round the services; the others, or the first in between if it is the only
 * one, run the vCPU that has had the least time for its weight. */
#pragma once
#include "hv/config.h"

struct vcpu;
struct vm;

/* On the first CPU. Never returns, except that it powers the machine off when [debug] quit-when-idle says so and all guests
 * are dead. */
__noreturn void sched_run(const struct config *c);
/* On every other CPU. */
void sched_run_guests(void);
/* A vCPU has become runnable, or its timer is due earlier than before: a CPU that sleeps looks for work. From any CPU. */
void sched_wake(void);
/* Whether a vCPU other than v is runnable and on no CPU. */
bool sched_others_wait(const struct vcpu *v);
/* The services have work. From any CPU. */
void sched_wake_service(void);
/* mig_self(), for hv/vm/lifecycle.c, which knows nothing of mig/. */
void sched_self_migrate(struct vm *vm);
/* Guards the list of guests against a CPU that looks for one to run. */
void sched_lock(void);
void sched_unlock(void);
