/* SPDX-License-Identifier: MIT */
/* libFuzzer: any bytes as the state stream of a real guest over the fake hardware. What is accepted must survive being
 * used: timers run, the state is saved again, and what was saved loads. */
#include "mig/state.h"
#include "hv/fake/fake.h"
#include "hv/vm/board.h"
#include "mig/mig.h"
#include "net/net.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define MUST(x) do { if (!(x)) abort(); } while (0)

struct stream *net_connect(u32 ip, u16 port, const char *host, const char *alpn, struct error *e)
{
	return NULL;
}
void mig_changed(const struct mig_info *info) { }

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	static u8 a[STATE_MAX_BYTES], b[STATE_MAX_BYTES];
	static const struct guest_config config = { .name = "g", .memory_bytes = 4ul << 20, .vcpus = 1, .debug_exit = true };
	struct error e = { 0 };
	size_t len_a = 0, len_b = 0;
	struct vm *vm;

	fake_memory(64ul << 20);
	vm = vm_create(&config, &e);
	MUST(vm);
	vm_state_sync(vm);
	if (state_load(vm, data, len, &e)) {
		MUST(e.code && e.text[0]);
		vm_destroy(vm);
		return 0;
	}
	MUST(state_save(vm, a, sizeof(a), &len_a, &e) == 0);
	vm_state_loaded(vm);
	MUST(state_load(vm, a, len_a, &e) == 0);
	MUST(state_save(vm, b, sizeof(b), &len_b, &e) == 0);
	MUST(len_a == len_b && !memcmp(a, b, len_a));
	vm->owner = true;
	vm->state = RS_PAUSED;
	if (vm_resume(vm, &e) == 0) {
		/* Every timer that it armed fires. */
		for (int i = 0; i < 20; i++)
			board_run_timers(vm, 0, vm->next_deadline[0]);
	}
	vm_destroy(vm);
	return 0;
}
