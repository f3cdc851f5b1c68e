/* SPDX-License-Identifier: MIT */
/* Port F4h: a test guest ends itself with a code. Only where the config says debug-exit=yes. */
#include "hv/vdev/devices.h"
#include "hv/lib/log.h"
#include "hv/vm/vm.h"

#include <stdio.h>

#define DEBUG_EXIT_PORT 0xf4

struct debug_exit_state {
	u32 value; /* last written */
};

struct debug_exit { struct vdev dev; struct debug_exit_state s; };

static void debug_exit_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	struct debug_exit *d = container_of(dev, struct debug_exit, dev);
	char reason[32];

	if (!write) {
		*val = d->s.value;
		return;
	}
	d->s.value = (u32)*val & (u32)(~0ull >> (64 - 8 * MIN(size, 4u)));
	dev->vm->debug_exit_code = (int)d->s.value;
	log_guard();
	snprintf(reason, sizeof(reason), "debug-exit %u", d->s.value);
	vm_request_poweroff(dev->vm, reason);
}

static int debug_exit_init(struct vdev *dev)
{
	return bus_add_pio(dev->vm, dev, DEBUG_EXIT_PORT, 4, 4, debug_exit_io);
}

static void debug_exit_reset(struct vdev *dev)
{
	container_of(dev, struct debug_exit, dev)->s.value = 0;
}

static const struct mig_field debug_exit_fields[] = {
	MIG_U32(1, struct debug_exit_state, value, 1),
};

const struct vdev_type debug_exit_type = {
	.mig = {
		.name = "debug-exit", .version = 1, .min_version = 1, .phase = MIG_PHASE_DEVICE,
		MIG_STATE(struct debug_exit_state, debug_exit_fields),
	},
	.size = sizeof(struct debug_exit), .state_offset = offsetof(struct debug_exit, s),
	.init = debug_exit_init, .reset = debug_exit_reset,
};
VDEV_REGISTER(debug_exit_type);
