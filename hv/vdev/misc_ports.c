/* SPDX-License-Identifier: MIT */
/* Ports without a memory, so that none of this moves: the reset command of a keyboard controller that is otherwise absent
 * (64h), port 92h, pvpanic (505h; QEMU's "PVPANIC DEVICE", ACPI QEMU0001), and where the config says debug-exit=yes a port by
 * which a test guest ends itself with a code (F4h). */
#include "hv/vdev/devices.h"
#include "hv/lib/log.h"
#include "hv/vm/vm.h"

#include <stdio.h>

#define KBD_PORT 0x64
#define KBD_PULSE_RESET 0xfe
#define SYSTEM_A_PORT 0x92
#define SYSTEM_A_RESET 0x01
#define SYSTEM_A_A20 0x02 /* always open */
#define DEBUG_EXIT_PORT 0xf4
#define PVPANIC_PORT 0x505
#define PANICKED 0x01
#define CRASH_LOADED 0x02 /* panicked, and a crash kernel takes over: it shall run */

/* Reads stay all ones. */
static void kbd_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	if (write && (u8)*val == KBD_PULSE_RESET)
		vm_request_reset(dev->vm, "keyboard controller reset (64h)");
}

static void system_a_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	if (!write)
		*val = SYSTEM_A_A20;
	else if (*val & SYSTEM_A_RESET)
		vm_request_reset(dev->vm, "fast reset (92h)");
}

static void debug_exit_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	u32 code = (u32)(*val & ~0ull >> (64 - 8 * size));
	char reason[32];

	if (!write)
		return;
	dev->vm->debug_exit_code = (int)code;
	log_guard();
	snprintf(reason, sizeof(reason), "debug-exit %u", code);
	vm_request_poweroff(dev->vm, reason);
}

/* Reading tells which events it takes; writing reports one. */
static void pvpanic_io(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	if (!write)
		*val = PANICKED | CRASH_LOADED;
	else if (*val & PANICKED)
		vm_request_panic(dev->vm, "its kernel panicked, and said so (pvpanic); the console has its last words");
	else if (*val & CRASH_LOADED)
		log_guest(LOG_INFO, "guest", "%s: its kernel panicked; its crash kernel takes over", dev->vm->config.name);
}

static int misc_ports_init(struct vdev *dev)
{
	int r = bus_add_pio(dev->vm, dev, KBD_PORT, 1, 1, kbd_io);

	if (!r)
		r = bus_add_pio(dev->vm, dev, SYSTEM_A_PORT, 1, 1, system_a_io);
	if (!r)
		r = bus_add_pio(dev->vm, dev, PVPANIC_PORT, 1, 1, pvpanic_io);
	if (!r && dev->vm->config.debug_exit)
		r = bus_add_pio(dev->vm, dev, DEBUG_EXIT_PORT, 4, 4, debug_exit_io);
	return r;
}

static void misc_ports_reset(struct vdev *dev)
{
}

const struct vdev_type misc_ports_type = {
	.mig.name = "misc-ports", .size = sizeof(struct vdev), .init = misc_ports_init, .reset = misc_ports_reset,
};
