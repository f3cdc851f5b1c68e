/* SPDX-License-Identifier: MIT */
/* Leftovers of a PC that kernels touch: POST code port 80h, the reset command of a keyboard controller that is
 * otherwise absent (64h), port 92h. */
#include "hv/vdev/devices.h"

#define POST_PORT 0x80
#define KBD_PORT 0x64
#define KBD_PULSE_RESET 0xfe
#define SYSTEM_A_PORT 0x92
#define SYSTEM_A_RESET 0x01
#define SYSTEM_A_A20 0x02 /* always open */

struct misc_ports_state {
	u8 post, system_a;
};

struct misc_ports { struct vdev dev; struct misc_ports_state s; };

static struct misc_ports *misc_ports_of(struct vdev *dev)
{
	return container_of(dev, struct misc_ports, dev);
}

static void misc_ports_post(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	if (write)
		misc_ports_of(dev)->s.post = (u8)*val;
	else
		*val = misc_ports_of(dev)->s.post;
}

/* Reads stay all ones. */
static void misc_ports_kbd(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	if (write && (u8)*val == KBD_PULSE_RESET)
		vm_request_reset(dev->vm, "keyboard controller reset (64h)");
}

static void misc_ports_system_a(struct vdev *dev, u64 addr, unsigned size, bool write, u64 *val)
{
	struct misc_ports *m = misc_ports_of(dev);

	if (!write) {
		*val = m->s.system_a;
		return;
	}
	if (*val & SYSTEM_A_RESET)
		vm_request_reset(dev->vm, "fast reset (92h)");
	m->s.system_a = ((u8)*val & ~SYSTEM_A_RESET) | SYSTEM_A_A20;
}

static int misc_ports_init(struct vdev *dev)
{
	int r = bus_add_pio(dev->vm, dev, POST_PORT, 1, 1, misc_ports_post);

	if (!r)
		r = bus_add_pio(dev->vm, dev, KBD_PORT, 1, 1, misc_ports_kbd);
	return r ? r : bus_add_pio(dev->vm, dev, SYSTEM_A_PORT, 1, 1, misc_ports_system_a);
}

static void misc_ports_reset(struct vdev *dev)
{
	misc_ports_of(dev)->s = (struct misc_ports_state){ .system_a = SYSTEM_A_A20 };
}

static int misc_ports_post_load(void *owner, struct error *e)
{
	const struct misc_ports_state *s = &misc_ports_of(owner)->s;

	return (s->system_a & (SYSTEM_A_RESET | SYSTEM_A_A20)) == SYSTEM_A_A20 ? 0 : -E_INVAL;
}

static const struct mig_field misc_ports_fields[] = {
	MIG_U8(1, struct misc_ports_state, post, 1),
	MIG_U8(2, struct misc_ports_state, system_a, 1),
};

const struct vdev_type misc_ports_type = {
	.mig = {
		.name = "misc-ports", .version = 1, .min_version = 1, .phase = MIG_PHASE_DEVICE,
		MIG_STATE(struct misc_ports_state, misc_ports_fields), .post_load = misc_ports_post_load,
	},
	.size = sizeof(struct misc_ports), .state_offset = offsetof(struct misc_ports, s),
	.init = misc_ports_init, .reset = misc_ports_reset,
};
VDEV_REGISTER(misc_ports_type);
