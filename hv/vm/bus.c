/* SPDX-License-Identifier: MIT */
#include "hv/vm/bus.h"
#include "hv/lib/log.h"

static int add(struct bus_range *ranges, unsigned *n, struct bus_range new)
{
	if (*n == VM_MAX_RANGES)
		return -E_NOMEM;
	for (unsigned i = 0; i < *n; i++)
		if (new.base < ranges[i].base + ranges[i].len && ranges[i].base < new.base + new.len)
			return -E_EXIST;
	ranges[(*n)++] = new;
	return 0;
}

int bus_add_pio(struct vm *vm, struct vdev *dev, u16 base, u16 len, unsigned width, bus_fn fn)
{
	return add(vm->pio, &vm->n_pio, (struct bus_range){ base, len, width, dev, fn });
}

int bus_add_mmio(struct vm *vm, struct vdev *dev, gpa_t base, u64 len, unsigned width, bus_fn fn)
{
	return add(vm->mmio, &vm->n_mmio, (struct bus_range){ base.v, len, width, dev, fn });
}

static bool dispatch(struct bus_range *ranges, unsigned n, u64 addr, unsigned size, bool write, u64 *val)
{
	unsigned half = size / 2;
	bool touched = false;
	u64 low, high;

	if (!write)
		*val = ~0ull;
	for (unsigned i = 0; i < n; i++) {
		struct bus_range *r = &ranges[i];

		if (addr >= r->base + r->len || r->base >= addr + size)
			continue;
		touched = true;
		if (addr < r->base || addr + size > r->base + r->len || size > r->width || size & (size - 1))
			break;
		r->fn(r->dev, addr, size, write, val);
		/* What is used often comes to the front: the search stays short. */
		if (i) {
			struct bus_range t = ranges[i - 1];

			ranges[i - 1] = *r;
			*r = t;
		}
		return true;
	}
	if (!touched)
		return false;
	low = *val;
	high = *val >> 8 * half;
	dispatch(ranges, n, addr, half, write, &low);
	dispatch(ranges, n, addr + half, size - half, write, &high);
	*val = (low & (BIT(8 * half) - 1)) | high << 8 * half;
	return true;
}

bool bus_pio(struct vm *vm, u16 port, unsigned size, bool write, u64 *val)
{
	return dispatch(vm->pio, vm->n_pio, port, size, write, val);
}

bool bus_mmio(struct vm *vm, u64 at, unsigned size, bool write, u64 *val)
{
	return dispatch(vm->mmio, vm->n_mmio, at, size, write, val);
}
