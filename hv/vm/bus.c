/* SPDX-License-Identifier: MIT */
#include "hv/vm/bus.h"
#include "hv/lib/log.h"

static int add(struct bus_range *ranges, unsigned *n, u64 base, u64 len, struct vdev *dev, bus_fn fn)
{
	if (*n == VM_MAX_RANGES)
		return -E_NOMEM;
	for (unsigned i = 0; i < *n; i++)
		if (base < ranges[i].base + ranges[i].len && ranges[i].base < base + len)
			return -E_EXIST;
	ranges[(*n)++] = (struct bus_range){ base, len, dev, fn };
	return 0;
}

int bus_add_pio(struct vm *vm, struct vdev *dev, u16 base, u16 len, bus_fn fn)
{
	return add(vm->pio, &vm->n_pio, base, len, dev, fn);
}

int bus_add_mmio(struct vm *vm, struct vdev *dev, gpa_t base, u64 len, bus_fn fn)
{
	return add(vm->mmio, &vm->n_mmio, base.v, len, dev, fn);
}

static bool dispatch(struct bus_range *ranges, unsigned n, u64 addr, unsigned size, bool write, u64 *val)
{
	if (!write)
		*val = ~0ull;
	for (unsigned i = 0; i < n; i++) {
		struct bus_range *r = &ranges[i];

		if (addr - r->base < r->len && addr - r->base + size <= r->len) {
			r->fn(r->dev, addr, size, write, val);
			/* What is used often comes to the front: the search stays short. */
			if (i) {
				struct bus_range t = ranges[i - 1];

				ranges[i - 1] = *r;
				*r = t;
			}
			return true;
		}
	}
	return false;
}

bool bus_pio(struct vm *vm, u16 port, unsigned size, bool write, u64 *val)
{
	return dispatch(vm->pio, vm->n_pio, port, size, write, val);
}

bool bus_mmio(struct vm *vm, u64 at, unsigned size, bool write, u64 *val)
{
	return dispatch(vm->mmio, vm->n_mmio, at, size, write, val);
}
