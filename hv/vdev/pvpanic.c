/* SPDX-License-Identifier: MIT */
/* pvpanic (QEMU's "PVPANIC DEVICE"): port 505h, ACPI QEMU0001. Reading tells which events it takes; writing reports one. */
#include "hv/vdev/devices.h"
#include "hv/lib/log.h"
#include "hv/vm/vm.h"

#define PVPANIC_PORT 0x505
#define PANICKED 0x01
#define CRASH_LOADED 0x02 /* panicked, and a crash kernel takes over: it shall run */

struct pvpanic_state {
	u8 last; /* event reported last */
};

struct pvpanic { struct vdev dev; struct pvpanic_state s; };

static void pvpanic_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	struct pvpanic *p = container_of(dev, struct pvpanic, dev);

	if (!write) {
		*val = PANICKED | CRASH_LOADED;
		return;
	}
	p->s.last = *val & (PANICKED | CRASH_LOADED);
	if (*val & PANICKED)
		vm_request_panic(dev->vm, "its kernel panicked, and said so (pvpanic); the console has its last words");
	else if (*val & CRASH_LOADED)
		log_guest(LOG_INFO, "guest", "%s: its kernel panicked; its crash kernel takes over", dev->vm->config.name);
}

static int pvpanic_init(struct vdev *dev)
{
	return bus_add_pio(dev->vm, dev, PVPANIC_PORT, 1, 1, pvpanic_io);
}

static void pvpanic_reset(struct vdev *dev)
{
	container_of(dev, struct pvpanic, dev)->s.last = 0;
}

static const struct mig_field pvpanic_fields[] = {
	MIG_U8(1, struct pvpanic_state, last, 1),
};

const struct vdev_type pvpanic_type = {
	.mig = {
		.name = "pvpanic", .version = 1, .min_version = 1, .phase = MIG_PHASE_DEVICE, .absent_ok = true,
		MIG_STATE(struct pvpanic_state, pvpanic_fields),
	},
	.size = sizeof(struct pvpanic), .state_offset = offsetof(struct pvpanic, s),
	.init = pvpanic_init, .reset = pvpanic_reset,
};
VDEV_REGISTER(pvpanic_type);
