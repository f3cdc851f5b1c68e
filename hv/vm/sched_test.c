/* SPDX-License-Identifier: MIT */
/* Who runs next: sched.c itself, with vCPUs that do nothing but use up their time. */
#include "hv/vm/sched.c"
#include "hv/fake/fake.h"
#include "hv/vm/vm_clock.h"
#include "hv/vmx/vmcs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MIB (1ull << 20)
#define MS (FAKE_TSC_HZ / 1000)
#define X_PREEMPTION 52

bool net_poll(void) { return false; }
bool net_waits(void) { return false; }
bool mig_poll(void) { return false; }
void mig_self(struct vm *vm) { }
void log_poll(void) { }
bool log_pending(void) { return false; }
int vmx_on(struct error *e) { return error_set(e, E_UNSUPPORTED, "locked off"); }
void cpu_sleep(u64 until) { }
bool cpu_wake(struct cpu *c) { return false; }
void machine_poweroff(void) { abort(); }

/* The guest runs until its preemption timer ends it. */
int vmx_enter(u64 *gpr, u64 launched)
{
	fake_tsc_now += vmcs_read(VMCS_PREEMPTION_TIMER);
	vmcs_write(VMCS_EXIT_REASON, X_PREEMPTION);
	return 0;
}

static struct vcpu *make(const char *name, u32 weight)
{
	struct guest_config c = { .memory_bytes = 4 * MIB, .vcpus = 1, .weight = weight };
	struct error e = { 0 };
	struct vm *vm;

	strcpy(c.name, name);
	vm = vm_create(&c, &e);
	assert_non_null(vm);
	vm->owner = true;
	assert_int_equal(vm_resume(vm, &e), 0);
	return vm->vcpus[0];
}

static int setup(void **state)
{
	fake_memory(64 * MIB);
	latest = 0;
	return 0;
}

static int teardown(void **state)
{
	for (unsigned i = 0; i < VM_MAX; i++)
		if (vms[i])
			vm_destroy(vms[i]);
	return 0;
}

/* One turn of a CPU that runs guests. NULL: it would sleep. */
static struct vcpu *turn(void)
{
	u64 until = fake_tsc_now + 100 * MS;
	struct vcpu *v = pick(&until);

	if (v)
		run(v, 4 * MS, until);
	return v;
}

static void time_goes_by_weight(void **state)
{
	struct vcpu *a = make("a", 100), *b = make("b", 300);

	for (unsigned i = 0; i < 400; i++)
		assert_non_null(turn());
	assert_in_range(b->run_tsc, 29 * a->run_tsc / 10, 31 * a->run_tsc / 10);
}

static void short_runs_are_not_free(void **state)
{
	struct vcpu *a = make("a", 1000);

	for (unsigned i = 0; i < 1000; i++)
		charge(a, 999);
	assert_int_equal(a->vruntime, 999);
}

static void years_of_computing_do_not_wrap(void **state)
{
	struct vcpu *a = make("a", 1), *b = make("b", 1);

	charge(a, 6 * 365 * 86400 * FAKE_TSC_HZ);
	charge(b, 365 * 86400 * FAKE_TSC_HZ);
	assert_ptr_equal(turn(), b);
}

static void sleepers_wake_for_their_timers(void **state)
{
	struct vcpu *a = make("a", 100), *b = make("b", 100);
	u64 until = fake_tsc_now + 100 * MS;

	a->s.activity = b->s.activity = 1;
	a->irq_check = b->irq_check = false;
	a->vm->next_deadline[0] = vm_tsc(a->vm) + 7 * MS;
	assert_null(pick(&until));
	assert_int_equal(until, fake_tsc_now + 7 * MS);
	/* b's slice ends when a's timer is due. */
	b->s.activity = 0;
	assert_ptr_equal(turn(), b);
	assert_ptr_equal(turn(), b);
	assert_in_range(fake_tsc_now, until, until + 10);
	assert_ptr_equal(turn(), a);
}

/* A guest from a host with a TSC twice as fast: its milliseconds have twice as many ticks as this host's. */
static void timers_of_scaled_guests_are_not_late(void **state)
{
	struct vcpu *a = make("a", 100);
	u64 until = fake_tsc_now + 100 * MS;

	vm_clock_stop(a->vm);
	a->vm->tsc_mult = 2 * TSC_MULT_ONE;
	vm_clock_start(a->vm);
	a->s.activity = 1;
	a->irq_check = false;
	a->vm->next_deadline[0] = vm_tsc(a->vm) + 7 * 2 * MS;
	assert_null(pick(&until));
	assert_int_equal(until, fake_tsc_now + 7 * MS);
}

/* A guest may halt with a timer that is due in centuries. */
static void far_timers_take_no_time_from_others(void **state)
{
	struct vcpu *a = make("a", 100), *b = make("b", 100);
	u64 before = fake_tsc_now;

	a->s.activity = 1;
	a->irq_check = false;
	a->vm->next_deadline[0] = VDEV_NEVER - 1;
	assert_ptr_equal(turn(), b);
	assert_in_range(fake_tsc_now - before, 4 * MS, 4 * MS + 10);
}

/* What waits in a paused guest waits for vm_resume(): its host sleeps. */
static void kicks_of_a_paused_guest_wake_nobody(void **state)
{
	struct vm *vm = make("a", 100)->vm;
	struct error e = { 0 };

	vm_pause(vm, RS_PAUSED);
	vm->kicked = true;
	assert_false(called());
	assert_int_equal(vm_resume(vm, &e), 0);
	assert_true(called());
}

/* It must not be counted: a host with none that can would start guests and never run them. */
static void a_cpu_without_vmx_does_not_start(void **state)
{
	fake_cpu.started = false;
	sched_run_guests();
	assert_false(fake_cpu.started);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(time_goes_by_weight), TEST(short_runs_are_not_free),
		TEST(years_of_computing_do_not_wrap), TEST(sleepers_wake_for_their_timers),
		TEST(timers_of_scaled_guests_are_not_late),
		TEST(far_timers_take_no_time_from_others), TEST(kicks_of_a_paused_guest_wake_nobody), TEST(a_cpu_without_vmx_does_not_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
