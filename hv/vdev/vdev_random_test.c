/* SPDX-License-Identifier: MIT */
/* Random guests. (1) A board that is wiped and reloaded from its saved state at random moments behaves exactly like
 * one that is not. (2) Hostile state is refused or harmless, whatever the guest does next. */
#include "hv/fake/vdev_fake.h"

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

static struct vm *board(void)
{
	static const struct vdev_type *const rest[] = { &pit_type, &rtc_type, &pm_type, &uart_type, &misc_ports_type,
							&debug_exit_type };
	struct vm *vm = vdev_fake_vm();

	vm->boot_wall_seconds = 1795314600;
	for (unsigned i = 0; i < ARRAY_SIZE(rest); i++)
		vdev_fake_add(vm, rest[i], 0);
	return vm;
}

/* Everything a device does must come from its state: move it field by field into a fresh instance. */
static void reload(struct vm *vm)
{
	for (unsigned i = 0; i < vm->n_vdevs; i++) {
		struct vdev *d = vm->vdevs[i];
		const struct mig_type *t = &d->type->mig;
		u8 *copy = malloc(t->state_size), *state = vdev_fake_state(d);

		memcpy(copy, state, t->state_size);
		memset(d + 1, 0xa5, d->type->size - sizeof(*d));
		d->deadline = VDEV_NEVER;
		d->type->reset(d);
		for (unsigned f = 0; f < t->n_fields; f++)
			memcpy(state + t->fields[f].offset, copy + t->fields[f].offset,
			       (size_t)t->fields[f].width * t->fields[f].count);
		if (t->post_load && t->post_load(d, NULL))
			fail_msg("%s: its own state is refused", t->name);
		if (memcmp(copy, state, t->state_size))
			fail_msg("%s: loading changed the state", t->name);
		free(copy);
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
	struct op o = { .kind = (unsigned)(rnd() % 10), .port = ports[rnd() % ARRAY_SIZE(ports)],
			.reg = regs[rnd() % ARRAY_SIZE(regs)], .val = (u32)rnd(), .ticks = rnd() % steps[rnd() % 5] };

	if (rnd() & 1)
		o.val &= 0xff;
	if (o.port == 0x70)
		o.val %= 16;
	return o;
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
	default: vdev_fake_run(vm, o->ticks);
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
			x = apply(a, &o);
			y = apply(b, &o);
			if (x != y)
				fail_msg("round %u step %u: kind %u port %#x reg %#x val %#x: %#llx, reloaded %#llx", round, i,
					 o.kind, o.port, o.reg, o.val, (unsigned long long)x, (unsigned long long)y);
		}
		for (unsigned i = 0; i < a->n_vdevs; i++)
			if (memcmp(vdev_fake_state(a->vdevs[i]), vdev_fake_state(b->vdevs[i]),
				   a->vdevs[i]->type->mig.state_size))
				fail_msg("round %u: %s differs at the end", round, a->vdevs[i]->type->mig.name);
		vdev_fake_free(a);
		vdev_fake_free(b);
	}
}

static bool poison(struct vdev *d)
{
	const struct mig_type *t = &d->type->mig;
	u8 *state = vdev_fake_state(d), *copy = malloc(t->state_size);
	bool ok;

	memcpy(copy, state, t->state_size);
	for (unsigned n = 1 + (unsigned)(rnd() % 4); n; n--) {
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
		vdev_fake_free(vm);
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
