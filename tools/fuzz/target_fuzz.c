/* SPDX-License-Identifier: MIT */
/* libFuzzer: a hostile source in front of a target host. The first byte says how far the opening goes by the rules
 * (bit 0: HELLO, bit 1: CONFIG), and whether the rest is raw (bit 2) or frames as {u8 type, u16 length, payload}. */
#include "mig/mig_fake.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define MUST(x) do { if (!(x)) abort(); } while (0)
#define ID 7ull
#define EPOCH 2ull

static void put_config(struct wire_out *o)
{
	struct wire_writer *w = wire_begin(o, WIRE_CONFIG);

	wire_put_u64(w, ID);
	wire_put_u64(w, EPOCH);
	wire_put_u64(w, 4ul << 20);
	wire_put_u64(w, 1000000000);
	wire_put_u32(w, 1);
	wire_put_u32(w, 100);
	wire_put_u32(w, 0);
	wire_put_str(w, FAKE_GUEST);
	wire_put_str(w, "linux");
	wire_put_str(w, "x86-64-v2");
	wire_put_str(w, "vmlinuz");
	wire_put_str(w, "");
	wire_put_str(w, "quiet");
	wire_put_u16(w, 0); /* modules */
	wire_put_u16(w, 0); /* network cards */
	wire_put_u16(w, 4);
	wire_put_bytes(w, "cpu1", 4);
	wire_put_u16(w, 0);
	MUST(wire_end(o) == 0);
}

static void put_hello(struct wire_out *o)
{
	struct wire_writer *w = wire_begin(o, WIRE_HELLO);

	wire_put_u64(w, WIRE_MAGIC);
	wire_put_u32(w, WIRE_VERSION);
	wire_put_u32(w, 0);
	wire_put_u64(w, 0);
	wire_put_u64(w, 5);
	wire_put_str(w, "0.1.0");
	wire_put_str(w, "a");
	MUST(wire_end(o) == 0);
}

/* Whatever comes back is read, so that the target is never stuck with it. */
static void drain(struct stream *near)
{
	u8 buf[4096];

	while (stream_read(near, buf, sizeof(buf)) > 0)
		;
}

static void say(struct wire_out *o, struct stream *near)
{
	while (!wire_out_empty(o)) {
		if (wire_flush(o, near) < 0)
			o->sent = o->len;
		mig_poll();
		drain(near);
	}
}

static void feed(struct wire_out *o, struct stream *near, const u8 *data, size_t len, bool raw)
{
	while (len) {
		size_t n;

		if (raw) {
			n = MIN(len, (size_t)200);
			if (stream_write(near, data, n) < 0)
				return;
			mig_poll();
			drain(near);
		} else {
			size_t body;

			if (len < 3)
				return;
			body = MIN((size_t)(data[1] | data[2] << 8), len - 3);
			n = body + 3;
			wire_put_bytes(wire_begin(o, data[0] % WIRE_TYPE_END), data + 3, body);
			if (wire_end(o) == 0)
				say(o, near);
		}
		data += n;
		len -= n;
		world->now_us += 100;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	struct stream *far, *near;
	struct wire_out o;
	struct vm *vm;

	if (!len)
		return 0;
	memset(world, 0, sizeof(*world));
	world->allocs_left = -1;
	world->now_us = 1000000;
	/* A fault-free link on which only contents count; the digest of a freeze does not exist here. */
	world->bad_state = true;
	fake_switch(FAKE_B);
	mig_init("b");
	near = fake_pipe("b", "a", &far);
	mig_accept(far);
	MUST(wire_out_init(&o) == 0);
	if (data[0] & 1)
		put_hello(&o);
	if (data[0] & 2)
		put_config(&o);
	say(&o, near);
	/* What follows is to meet a guest that is arriving. */
	for (int i = 0; (data[0] & 3) == 3 && !vm_find(FAKE_GUEST); i++) {
		MUST(i < 10);
		mig_poll();
		drain(near);
	}
	feed(&o, near, data + 1, len - 1, data[0] & 4);
	vm = vm_find(FAKE_GUEST);
	/* It runs only if COMMIT came after all the rest; then its memory is whole and its state accepted. */
	if (vm && vm->owner)
		MUST(vm->epoch == EPOCH && !(fake_vm(vm)->cpu.even & 1) && !vm->mig);
	else if (vm)
		MUST(vm->state != RS_RUNNING);
	stream_close(near);
	for (int i = 0; i < 40; i++)
		mig_poll();
	/* The source is gone: either it had committed, or nothing is left of it. */
	vm = vm_find(FAKE_GUEST);
	MUST(!vm || vm->owner);
	if (vm)
		vm_destroy(vm);
	world->now_us += 1000000000;
	mig_poll();
	wire_out_free(&o);
	MUST(world->live_allocs == 0);
	return 0;
}
