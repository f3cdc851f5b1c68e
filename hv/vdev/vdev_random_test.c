/* SPDX-License-Identifier: MIT */
/* Random guests. (1) A board that is wiped and reloaded from its saved state at random moments behaves exactly like
 * one that is not. (2) Hostile state is refused or harmless, whatever the guest does next. */
#include "hv/fake/virtio_fake.h"
#include "hv/vdev/virtio_net.h"
#include "hv/vm/bus.h"
#include "net/port/port.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static u64 seed;

static u64 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* What the entropy device gives next: the same to both of two twins. */
static u64 entropy;

bool entropy_raw(u64 *out)
{
	*out = ++entropy * 0x9e3779b97f4a7c15ull;
	return true;
}

static struct vm *board(void)
{
	static const struct vdev_type *const rest[] = { &pit_type, &rtc_type, &pm_type, &uart_type, &misc_ports_type,
							&virtio_rng_type.vdev, &virtio_console_type.vdev,
							&virtio_net_type.vdev };
	struct vm *vm = virtio_fake_vm();

	vm->boot_wall_seconds = 1795314600;
	for (unsigned i = 0; i < ARRAY_SIZE(rest); i++)
		vdev_fake_add(vm, rest[i], 0);
	return vm;
}

/* Everything a device does must come from its state: move it field by field into a fresh instance. */
static void reload(struct vm *vm)
{
	u8 *copies[VM_MAX_VDEVS];

	for (unsigned i = 0; i < vm->n_vdevs; i++) {
		struct vdev *d = vm->vdevs[i];
		const struct mig_type *t = &d->type->mig;

		copies[i] = malloc(t->state_size);
		memcpy(copies[i], vdev_fake_state(d), t->state_size);
	}
	for (unsigned i = 0; i < vm->n_vdevs; i++) {
		struct vdev *d = vm->vdevs[i];

		vdev_fake_unplug(d);
		if (d->type->destroy)
			d->type->destroy(d);
		memset(d + 1, 0, d->type->size - sizeof(*d));
		d->deadline = VDEV_NEVER;
		if (d->type->init && d->type->init(d))
			fail_msg("%s: cannot be made again", d->type->mig.name);
		memset(vdev_fake_state(d), 0xa5, d->type->mig.state_size);
		d->type->reset(d);
	}
	for (unsigned i = 0; i < vm->n_vdevs; i++) {
		const struct mig_type *t = &vm->vdevs[i]->type->mig;

		for (unsigned f = 0; f < t->n_fields; f++)
			memcpy((u8 *)vdev_fake_state(vm->vdevs[i]) + t->fields[f].offset, copies[i] + t->fields[f].offset,
			       (size_t)t->fields[f].width * t->fields[f].count);
	}
	for (unsigned i = 0; i < vm->n_vdevs; i++) {
		struct vdev *d = vm->vdevs[i];
		const struct mig_type *t = &d->type->mig;

		if (t->post_load && t->post_load(d, NULL))
			fail_msg("%s: its own state is refused", t->name);
		if (memcmp(copies[i], vdev_fake_state(d), t->state_size))
			fail_msg("%s: loading changed the state", t->name);
		free(copies[i]);
	}
}

struct op { unsigned kind; u16 port; u32 reg, val; u64 ticks; };

static struct op random_op(void)
{
	static const u16 ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x42, 0x43, 0x61, 0x70, 0x71, 0x71, 0x600,
				     0x602, 0x608, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x92, 0x80 };
	static const u16 regs[] = { 0x80, 0xb0, 0xd0, 0xe0, 0xf0, 0x280, 0x300, 0x320, 0x320, 0x350, 0x370, 0x380, 0x390,
				    0x3e0, 0x200, 0xa0 };
	static const u64 steps[] = { 100, 10000, 1000000, 100000000, 3000000000ull };
	struct op o = { .kind = (unsigned)(rnd() % 18), .port = ports[rnd() % ARRAY_SIZE(ports)],
			.reg = regs[rnd() % ARRAY_SIZE(regs)], .val = (u32)rnd(), .ticks = rnd() % steps[rnd() % 5] };

	if (rnd() & 1)
		o.val &= 0xff;
	if (o.port == 0x70)
		o.val %= 16;
	return o;
}

/* One of the things that a driver does, or none should. */
static u64 apply_virtio(struct vm *vm, const struct op *o)
{
	static const u16 fields[] = { 0, 4, 8, 12, 16, 18, 20, 20, 21, 22, 22, 24, 26, 28, 30, 32, 36, 40, 48, 52, 0x1000, 0x2000,
				      0x3000, 0x3004, 0x3ffc, 0x4000, 0x4008, 0x400c, 0x401c, 0x5000, 0x7ffe };
	static const u8 slots[] = { VIRTIO_SLOT_RNG, VIRTIO_SLOT_CONSOLE, VIRTIO_SLOT_NET };
	unsigned slot = slots[(o->reg >> 4) % ARRAY_SIZE(slots)], size = 1u << (o->val >> 8 & 3), field = fields[o->val % ARRAY_SIZE(fields)];
	u64 bar = virtio_of(vm->pci[slot]->dev)->v->pci.bar;
	struct virtio_fake d;
	u16 small = o->val >> 16 & 15;

	switch (o->kind) {
	case 10:
		virtio_fake_config_write(vm, slot, o->val & 0xff & ~3u, MIN(size, 4u), o->val >> 4);
		break;
	case 11: return virtio_fake_config_read(vm, slot, o->val & 0xff & ~3u, MIN(size, 4u));
	case 12:
		virtio_fake_mmio_write(vm, bar + field, size, o->val & 0x800000 ? o->ticks : small);
		break;
	case 13: return virtio_fake_mmio_read(vm, bar + field, size);
	case 14: case 15: /* descriptors and rings */
		for (unsigned i = 0; i < 8; i++) {
			u64 at = virtio_fake_ring(i & 1) + (i & 2 ? 0x1000 + o->val % 20 : o->val % 128);

			if (guest_write(vm, gpa(at & ~1ull), &small, 2))
				fail();
		}
		break;
	case 16:
		if (!(o->val & 0x30)) {
			virtio_fake_start(&d, vm->pci[slot]->dev, o->val & 1 ? 0 : VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC, 8);
			if (o->val & 2)
				virtio_fake_msix(&d);
		}
		break;
	default: /* what a load kicks is served a turn earlier than it would be; so all are, always */
		for (unsigned i = 0; i < vm->n_vdevs; i++)
			if (vm->vdevs[i]->type->service)
				vdev_kick(vm->vdevs[i]);
		return virtio_fake_service(vm);
	}
	return 0;
}

/* What the guest sees of one operation. */
static u64 apply(struct vm *vm, const struct op *o)
{
	struct vdev *l = vcpu_lapic(vm->vcpus[0]), *pic = vm_vdev(vm, &pic_type, 0);
	u64 seen = 0;
	int v;

	switch (o->kind) {
	case 0: case 1: vdev_fake_out(vm, o->port, 1, o->val); break;
	case 2: seen = vdev_fake_in(vm, o->port, 1); break;
	case 3: lapic_mmio_write(l, o->reg, o->val); break;
	case 4: seen = lapic_mmio_read(l, o->reg); break;
	case 5:
		vdev_fake_mmio_write(vm, 0xfec00000, 0x10 + o->reg % 48);
		vdev_fake_mmio_write(vm, 0xfec00010, o->reg & 1 ? o->val & 0xff000000 : o->val & 0x1ffff);
		break;
	case 6: seen = uart_input(vm_vdev(vm, &uart_type, 0), (const u8 *)"typed in", o->val % 9); break;
	case 7:
		if (lapic_msr_write(l, 0x6e0, vm->paused_tsc + o->val))
			fail();
		break;
	case 8: case 9: vdev_fake_run(vm, o->ticks); break;
	default: seen = apply_virtio(vm, o);
	}
	v = lapic_pending(l);
	if (v >= 0 && (o->val & 2))
		lapic_ack(l, (u8)v);
	seen |= (u64)(u32)v << 32;
	if (pic_intr(pic) && (o->val & 4))
		seen += (u64)pic_ack(pic) << 16;
	return seen;
}

static void test_reloaded_twin(void **unused)
{
	unsigned up = 0, printed = 0;

	for (unsigned round = 0; round < 200; round++) {
		struct vm *a, *b;

		seed = 0x9e3779b97f4a7c15ull + round;
		a = board();
		b = board();
		for (unsigned i = 0; i < 500; i++) {
			struct op o = random_op();
			u64 x, y;

			if (rnd() % 4 == 0)
				reload(b);
			u64 same = entropy;

			x = apply(a, &o);
			entropy = same;
			y = apply(b, &o);
			if (x != y)
				fail_msg("round %u step %u: kind %u port %#x reg %#x val %#x: %#llx, reloaded %#llx", round, i,
					 o.kind, o.port, o.reg, o.val, (unsigned long long)x, (unsigned long long)y);
		}
		for (unsigned i = 0; i < a->n_vdevs; i++)
			if (memcmp(vdev_fake_state(a->vdevs[i]), vdev_fake_state(b->vdevs[i]),
				   a->vdevs[i]->type->mig.state_size))
				fail_msg("round %u: %s differs at the end", round, a->vdevs[i]->type->mig.name);
		if (memcmp(guest_page(a, 0), guest_page(b, 0), VIRTIO_FAKE_BUFFERS) || a->console_total != b->console_total)
			fail_msg("round %u: memory or console differs at the end", round);
		up += virtio_ready(virtio_of(a->pci[1]->dev)) + virtio_ready(virtio_of(a->pci[2]->dev));
		printed += a->console_total > 0;
		virtio_fake_free(a);
		virtio_fake_free(b);
	}
	assert_true(up > 20 && printed > 20); /* the drivers got somewhere */
}

static bool poison(struct vdev *d)
{
	const struct mig_type *t = &d->type->mig;
	u8 *state = vdev_fake_state(d), *copy = malloc(t->state_size);
	bool ok;

	memcpy(copy, state, t->state_size);
	for (unsigned n = t->n_fields ? 1 + (unsigned)(rnd() % 4) : 0; n; n--) {
		const struct mig_field *f = &t->fields[rnd() % t->n_fields];
		u64 v = rnd() % 4 ? rnd() >> rnd() % 64 : rnd() & 1 ? 0 : ~0ull;

		memcpy(state + f->offset + f->width * (rnd() % f->count), &v, f->width);
	}
	ok = !t->post_load || !t->post_load(d, NULL);
	if (!ok)
		memcpy(state, copy, t->state_size);
	free(copy);
	return ok;
}

static void test_hostile_state(void **unused)
{
	unsigned taken = 0, refused = 0;

	for (unsigned round = 0; round < 2000; round++) {
		struct vm *vm;

		seed = 0xd1b54a32d192ed03ull + round;
		vm = board();
		vm->paused_tsc = rnd() % BIT(60) >> rnd() % 60;
		for (unsigned i = 0; i < 30; i++) {
			struct op o = random_op();

			apply(vm, &o);
			if (poison(vm->vdevs[rnd() % vm->n_vdevs]))
				taken++;
			else
				refused++;
		}
		virtio_fake_free(vm);
	}
	assert_true(taken > 1000 && refused > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reloaded_twin),
		cmocka_unit_test(test_hostile_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
