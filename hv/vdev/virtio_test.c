/* SPDX-License-Identifier: MIT */
#include "hv/vdev/virtio.h"
#include "hv/fake/virtio_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define BUF VIRTIO_FAKE_BUFFERS
#define N 8

static struct vm *vm;
static struct vdev *rng, *con;
static struct virtio_fake drv;
static struct virtq_chain chain;

static int setup(void **unused)
{
	vm = virtio_fake_vm();
	rng = vdev_fake_add(vm, &virtio_rng_type.vdev, 0);
	con = vdev_fake_add(vm, &virtio_console_type.vdev, 0);
	vdev_fake_add(vm, &uart_type, 0);
	lapic_mmio_write(vcpu_lapic(vm->vcpus[0]), 0xf0, 0x1ff);
	return 0;
}

static int teardown(void **unused)
{
	virtio_fake_free(vm);
	return 0;
}

static u64 rd(unsigned off, unsigned size) { return virtio_fake_mmio_read(vm, drv.bar + off, size); }
static void wr(unsigned off, unsigned size, u64 val) { virtio_fake_mmio_write(vm, drv.bar + off, size, val); }

static u16 get16(u64 at)
{
	u16 v;

	assert_int_equal(guest_read(vm, gpa(at), &v, 2), 0);
	return v;
}

static void put16(u64 at, u16 v)
{
	assert_int_equal(guest_write(vm, gpa(at), &v, 2), 0);
}

static void test_capabilities(void **unused)
{
	unsigned at = virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, 0x34, 1), seen = 0, found[6] = { 0 };

	for (; at; at = virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, at + 1, 1)) {
		assert_true(++seen < 10 && at >= 0x40 && !(at & 3));
		if (virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, at, 1) != 9)
			continue;
		unsigned type = virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, at + 3, 1);

		assert_in_range(type, 1, 5);
		found[type] = at;
		assert_int_equal(virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, at + 4, 1), 0);
	}
	for (unsigned i = 1; i <= 5; i++)
		assert_true(found[i]);
	/* The access window: number of queues, by way of configuration space only. */
	virtio_fake_config_write(vm, VIRTIO_SLOT_RNG, found[5] + 4, 1, 0);
	virtio_fake_config_write(vm, VIRTIO_SLOT_RNG, found[5] + 8, 4, 18);
	virtio_fake_config_write(vm, VIRTIO_SLOT_RNG, found[5] + 12, 4, 2);
	assert_int_equal(virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, found[5] + 8, 2), 18);
	assert_int_equal(virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, found[5] + 12, 4), 2);
	assert_int_equal(virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, found[5] + 16, 2), 1);
	virtio_fake_config_write(vm, VIRTIO_SLOT_RNG, found[5] + 8, 4, 20);
	virtio_fake_config_write(vm, VIRTIO_SLOT_RNG, found[5] + 12, 4, 1);
	virtio_fake_config_write(vm, VIRTIO_SLOT_RNG, found[5] + 16, 1, VIRTIO_ACKNOWLEDGE);
	assert_int_equal(virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, found[5] + 16, 1), VIRTIO_ACKNOWLEDGE);
	/* Another BAR, widths and offsets that do not fit: nothing. */
	virtio_fake_config_write(vm, VIRTIO_SLOT_RNG, found[5] + 4, 1, 3);
	assert_int_equal(virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, found[5] + 4, 1), 3);
	assert_int_equal(virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, found[5] + 16, 1), 0);
	virtio_fake_config_write(vm, VIRTIO_SLOT_RNG, found[5] + 4, 1, 0);
	assert_int_equal(virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, found[5] + 16, 4), 0);
	for (u32 off = 0x3ffd; off; off += 0x10ffff37) {
		virtio_fake_config_write(vm, VIRTIO_SLOT_RNG, found[5] + 8, 4, off | 0x8000);
		virtio_fake_config_write(vm, VIRTIO_SLOT_RNG, found[5] + 16, 1, 0);
		if (off > 0xf0000000)
			break;
	}
	virtio_fake_config_write(vm, VIRTIO_SLOT_RNG, found[5] + 8, 4, 20);
	assert_int_equal(virtio_fake_config_read(vm, VIRTIO_SLOT_RNG, found[5] + 16, 1), VIRTIO_ACKNOWLEDGE);
}

static void test_status(void **unused)
{
	virtio_fake_start(&drv, rng, 0, N);
	assert_int_equal(virtio_fake_status(&drv), 15);
	wr(20, 1, 1); /* bits are not taken away */
	assert_int_equal(virtio_fake_status(&drv), 15);
	wr(20, 1, 0);
	assert_int_equal(virtio_fake_status(&drv), 0);
	assert_int_equal(rd(12, 4), 0);
	wr(22, 2, 0);
	assert_int_equal(rd(24, 2), 64);
	assert_int_equal(rd(28, 2), 0);
	assert_int_equal(rd(32, 8), 0);
	assert_int_equal(rd(26, 2), 0xffff);
	/* Features: VERSION_1 is a must, nothing that was not offered; frozen once accepted. */
	wr(20, 1, 3);
	wr(20, 1, 11);
	assert_int_equal(virtio_fake_status(&drv), 3);
	wr(20, 1, 7); /* not without FEATURES_OK */
	assert_int_equal(virtio_fake_status(&drv), 3);
	wr(8, 4, 1);
	wr(12, 4, 3); /* VERSION_1 and ACCESS_PLATFORM */
	wr(20, 1, 11);
	assert_int_equal(virtio_fake_status(&drv), 3);
	wr(12, 4, 1);
	wr(28, 2, 1); /* a queue before its time */
	assert_int_equal(rd(28, 2), 0);
	wr(20, 1, 11);
	assert_int_equal(virtio_fake_status(&drv), 11);
	wr(12, 4, 0);
	assert_int_equal(rd(12, 4), 1);
	wr(8, 4, 2); /* there are 64 */
	wr(12, 4, 0xff);
	assert_int_equal(rd(12, 4), 0);
	wr(0, 4, 1);
	assert_int_equal(rd(4, 4), 1);
	wr(0, 4, 0);
	assert_int_equal(rd(4, 4), 0x30000000);
	wr(0, 4, 7);
	assert_int_equal(rd(4, 4), 0);
	/* Vectors out of range. */
	wr(16, 2, 2);
	assert_int_equal(rd(16, 2), 0xffff);
	wr(16, 2, 1);
	assert_int_equal(rd(16, 2), 1);
	wr(22, 2, 1); /* there is no queue 1 */
	assert_int_equal(rd(24, 2), 0);
	wr(28, 2, 1);
	wr(32, 8, 1);
	wr(22, 2, 0);
	assert_int_equal(rd(32, 8), 0);
}

static void try_queue(u16 size, u64 desc, u64 avail, u64 used, bool good)
{
	virtio_fake_start(&drv, rng, 0, N);
	wr(20, 1, 0);
	wr(20, 1, 3);
	wr(8, 4, 1);
	wr(12, 4, 1);
	wr(20, 1, 11);
	wr(22, 2, 0);
	wr(24, 2, size);
	wr(32, 8, desc);
	wr(40, 8, avail);
	wr(48, 8, used);
	wr(28, 2, 1);
	assert_int_equal(rd(28, 2), good);
	assert_int_equal(!(virtio_fake_status(&drv) & VIRTIO_NEEDS_RESET), good);
	wr(20, 1, 15);
	wr(24, 2, 4); /* too late */
	assert_int_equal(rd(24, 2), good ? size : 4);
	virtio_fake_notify(&drv, 0);
	virtio_fake_service(vm);
}

static void test_queue_setup(void **unused)
{
	try_queue(64, 0x10000, 0x11000, 0x12000, true);
	try_queue(1, 0x10010, 0x11002, 0x12004, true);
	try_queue(0, 0x10000, 0x11000, 0x12000, false);
	try_queue(3, 0x10000, 0x11000, 0x12000, false);
	try_queue(128, 0x10000, 0x11000, 0x12000, false);
	try_queue(0x8000, 0x10000, 0x11000, 0x12000, false);
	try_queue(8, 0x10008, 0x11000, 0x12000, false);
	try_queue(8, 0x10000, 0x11001, 0x12000, false);
	try_queue(8, 0x10000, 0x11000, 0x12002, false);
	try_queue(8, 1ull << 52, 0x11000, 0x12000, false);
	try_queue(8, 0x10000, ~1ull, 0x12000, false);
	try_queue(8, 0x10000, 0x11000, ~3ull, false);
	/* Not RAM: found when it is used. */
	try_queue(8, 0x10000, VIRTIO_FAKE_RAM, 0x12000, true);
	assert_true(virtio_fake_status(&drv) & VIRTIO_NEEDS_RESET);
	try_queue(8, 0x10000, 0xfee00000, 0x12000, true);
	assert_true(virtio_fake_status(&drv) & VIRTIO_NEEDS_RESET);
	try_queue(8, 0x10000, VIRTIO_FAKE_RAM - 4, 0x12000, true);
	put16(VIRTIO_FAKE_RAM - 2, 1); /* index there, its ring not */
	virtio_fake_notify(&drv, 0);
	virtio_fake_service(vm);
	assert_true(virtio_fake_status(&drv) & VIRTIO_NEEDS_RESET);
	try_queue(8, VIRTIO_FAKE_RAM, 0x11000, 0x12000, true);
	put16(0x11002, get16(0x11002) + 1);
	virtio_fake_notify(&drv, 0);
	virtio_fake_service(vm);
	assert_true(virtio_fake_status(&drv) & VIRTIO_NEEDS_RESET);
	/* A reset makes it good again. */
	virtio_fake_start(&drv, rng, 0, N);
	assert_int_equal(virtio_fake_status(&drv), 15);
}

static void test_round_trip(void **unused)
{
	u64 features[] = { 0, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC };

	for (unsigned f = 0; f < ARRAY_SIZE(features); f++) {
		u32 id, len;
		u64 sum = 0;

		virtio_fake_start(&drv, rng, features[f], N);
		/* Around the ring many times, and around its 16-bit indexes. */
		for (unsigned i = 0; i < 70000; i++) {
			u64 word = 0;

			virtio_fake_desc(&drv, 0, i % N, BUF + 8 * (i % N), 8, VQ_WRITE, 0);
			virtio_fake_avail(&drv, 0, (u16)(i % N));
			virtio_fake_service(vm);
			if (!virtio_fake_used(&drv, 0, &id, &len)) { /* it was rate-limited */
				vdev_fake_run(vm, VDEV_FAKE_HZ / 50);
				virtio_fake_service(vm);
				assert_true(virtio_fake_used(&drv, 0, &id, &len));
			}
			assert_int_equal(id, i % N);
			assert_int_equal(len, 8);
			assert_int_equal(guest_read(vm, gpa(BUF + 8 * (i % N)), &word, 8), 0);
			sum |= word;
			assert_false(virtio_fake_used(&drv, 0, &id, &len));
		}
		assert_int_equal(sum, ~0ull);
		assert_int_equal(virtio_fake_status(&drv), 15);
		/* The whole ring at once. */
		for (u16 i = 0; i < N; i++) {
			virtio_fake_desc(&drv, 0, i, BUF + 8 * i, 8, VQ_WRITE, 0);
			put16(virtio_fake_ring(0) + 0x1004 + 2 * ((drv.avail_idx[0] + i) % N), i);
		}
		drv.avail_idx[0] += N;
		put16(virtio_fake_ring(0) + 0x1002, drv.avail_idx[0]);
		vdev_fake_run(vm, VDEV_FAKE_HZ);
		virtio_fake_notify(&drv, 0);
		virtio_fake_service(vm);
		for (u16 i = 0; i < N; i++) {
			assert_true(virtio_fake_used(&drv, 0, &id, &len));
			assert_int_equal(id, i);
		}
	}
}

/* Everything below takes requests from the console's transmit queue by hand. */
static int pop(void)
{
	return virtq_pop(virtio_of(con), 1, &chain);
}

static void restart(u64 features)
{
	virtio_fake_start(&drv, con, features, N);
	con->kicked = false;
}

static void expect_broken(void)
{
	assert_true(pop() < 0);
	assert_true(virtio_fake_status(&drv) & VIRTIO_NEEDS_RESET);
	assert_int_equal(pop(), 0); /* dead until reset */
	virtq_push(virtio_of(con), 1, 0, 0);
	virtq_interrupt(virtio_of(con), 1);
	assert_int_equal(get16(virtio_fake_ring(1) + 0x2002), 0);
}

static void test_chains(void **unused)
{
	u8 buf[64];

	restart(0);
	assert_int_equal(pop(), 0);
	virtio_fake_desc(&drv, 1, 5, BUF, 10, VQ_NEXT, 3);
	virtio_fake_desc(&drv, 1, 3, BUF + 100, 0, VQ_NEXT, 7); /* empty: left out */
	virtio_fake_desc(&drv, 1, 7, BUF + 200, 20, VQ_NEXT, 0);
	virtio_fake_desc(&drv, 1, 0, BUF + 300, 0xffffffff, VQ_NEXT | VQ_WRITE, 1);
	virtio_fake_desc(&drv, 1, 1, BUF + 400, 4, VQ_WRITE, 1);
	virtio_fake_avail(&drv, 1, 5);
	assert_true(con->kicked);
	assert_int_equal(pop(), 1);
	assert_int_equal(chain.head, 5);
	assert_int_equal(chain.n_out, 2);
	assert_int_equal(chain.n_in, 2);
	assert_int_equal(chain.out_len, 30);
	assert_int_equal(chain.in_len, 0x100000003ull);
	/* Copies over the seams, and not beyond the ends. */
	for (unsigned i = 0; i < 30; i++)
		buf[i] = (u8)i;
	assert_int_equal(guest_write(vm, gpa(BUF), buf, 10), 0);
	assert_int_equal(guest_write(vm, gpa(BUF + 200), buf + 10, 20), 0);
	for (unsigned from = 0; from <= 30; from++)
		for (unsigned len = 0; len <= 31; len++) {
			u8 got[32] = { 0 };
			int rc = virtq_read(virtio_of(con), &chain, from, got, len);

			assert_int_equal(rc, from + len > 30 ? -E_RANGE : 0);
			if (!rc)
				assert_memory_equal(got, buf + from, len);
		}
	assert_int_equal(virtq_read(virtio_of(con), &chain, ~0ull, buf, 2), -E_RANGE);
	assert_int_equal(virtq_write(virtio_of(con), &chain, 0xffffffff, "abcd", 4), 0);
	assert_int_equal(guest_read(vm, gpa(BUF + 400), buf, 4), 0);
	assert_memory_equal(buf, "abcd", 4);
	assert_int_equal(virtq_write(virtio_of(con), &chain, 0x100000000ull, "abcd", 4), -E_RANGE);
	assert_int_equal(virtio_fake_status(&drv), 15);
	assert_int_equal(virtq_write(virtio_of(con), &chain, 0xfffffff0, "abcd", 4), -E_PROTO); /* beyond RAM */
	assert_int_equal(virtio_fake_status(&drv), 15 | VIRTIO_NEEDS_RESET);
	/* Given back, taken again; read again by its head. */
	restart(0);
	virtio_fake_desc(&drv, 1, 0, BUF, 1, 0, 0);
	virtio_fake_desc(&drv, 1, 1, BUF, 2, 0, 0);
	virtio_fake_avail(&drv, 1, 0);
	virtio_fake_avail(&drv, 1, 1);
	assert_int_equal(pop(), 1);
	assert_int_equal(pop(), 1);
	virtq_unpop(virtio_of(con), 1, 2);
	assert_int_equal(pop(), 1);
	assert_int_equal(chain.out_len, 1);
	assert_int_equal(virtq_chain_at(virtio_of(con), 1, 1, &chain), 0);
	assert_int_equal(chain.out_len, 2);
	assert_true(virtq_chain_at(virtio_of(con), 1, N, &chain) < 0);
	/* Without bus mastering it keeps its hands off. */
	restart(0);
	virtio_fake_avail(&drv, 1, 0);
	virtio_fake_config_write(vm, VIRTIO_SLOT_CONSOLE, 4, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(pop(), 0);
	con->kicked = false;
	virtio_fake_config_write(vm, VIRTIO_SLOT_CONSOLE, 4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(con->kicked);
	assert_int_equal(pop(), 1);
}

static void test_broken_rings(void **unused)
{
	/* Numbers out of range: head, next. */
	restart(0);
	virtio_fake_avail(&drv, 1, N);
	expect_broken();
	restart(0);
	virtio_fake_avail(&drv, 1, 0xffff);
	expect_broken();
	restart(0);
	virtio_fake_desc(&drv, 1, 0, BUF, 1, VQ_NEXT, N);
	virtio_fake_avail(&drv, 1, 0);
	expect_broken();
	/* Loops: onto itself; around all. */
	restart(0);
	virtio_fake_desc(&drv, 1, 0, BUF, 1, VQ_NEXT, 0);
	virtio_fake_avail(&drv, 1, 0);
	expect_broken();
	restart(0);
	for (unsigned i = 0; i < N; i++)
		virtio_fake_desc(&drv, 1, i, BUF, 0, VQ_NEXT, (u16)((i + 1) % N));
	virtio_fake_avail(&drv, 1, 0);
	expect_broken();
	/* The longest one that is none. */
	restart(0);
	for (unsigned i = 0; i < N; i++)
		virtio_fake_desc(&drv, 1, i, BUF, 1, i + 1 < N ? VQ_NEXT : 0, (u16)(i + 1));
	virtio_fake_avail(&drv, 1, 0);
	assert_int_equal(pop(), 1);
	assert_int_equal(chain.n_out, N);
	/* Readable after writable. */
	restart(0);
	virtio_fake_desc(&drv, 1, 0, BUF, 1, VQ_NEXT | VQ_WRITE, 1);
	virtio_fake_desc(&drv, 1, 1, BUF, 1, 0, 0);
	virtio_fake_avail(&drv, 1, 0);
	expect_broken();
	/* The index jumps: by more than the ring holds, backwards. */
	restart(0);
	put16(virtio_fake_ring(1) + 0x1002, N + 1);
	expect_broken();
	restart(0);
	put16(virtio_fake_ring(1) + 0x1002, 0xffff);
	expect_broken();
	restart(0);
	put16(virtio_fake_ring(1) + 0x1002, N);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(pop(), 1);
	assert_int_equal(pop(), 0);
	put16(virtio_fake_ring(1) + 0x1002, N - 1);
	expect_broken();
	/* Buffers that are no RAM, or wrap around the end of the address space. */
	static const u64 bad[] = { VIRTIO_FAKE_RAM, VIRTIO_FAKE_RAM - 1, 0xfee00000, 0xc0000000, 1ull << 52, ~0ull };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		u8 buf[16];

		restart(0);
		virtio_fake_desc(&drv, 1, 0, bad[i], 2, 0, 0);
		virtio_fake_avail(&drv, 1, 0);
		assert_int_equal(pop(), 1);
		assert_int_equal(virtq_read(virtio_of(con), &chain, 0, buf, 2), -E_PROTO);
		assert_true(virtio_fake_status(&drv) & VIRTIO_NEEDS_RESET);
	}
	restart(0);
	virtio_fake_desc(&drv, 1, 0, ~0ull - 15, 0x100, 0, 0);
	virtio_fake_avail(&drv, 1, 0);
	assert_int_equal(pop(), 1);
	u8 byte;

	assert_int_equal(virtq_read(virtio_of(con), &chain, 0x20, &byte, 1), -E_PROTO);
}

static void indirect_desc(u64 table, unsigned i, u64 addr, u32 len, u16 flags, u16 next)
{
	struct { u64 addr; u32 len; u16 flags, next; } d = { addr, len, flags, next };

	assert_int_equal(guest_write(vm, gpa(table + 16 * i), &d, sizeof(d)), 0);
}

static void test_indirect(void **unused)
{
	const u64 table = BUF + 0x10000;

	restart(VIRTIO_F_INDIRECT_DESC);
	virtio_fake_desc(&drv, 1, 0, BUF, 3, VQ_NEXT, 1); /* direct first, then a table */
	virtio_fake_desc(&drv, 1, 1, table, 32, VQ_INDIRECT, 0);
	indirect_desc(table, 0, BUF, 5, VQ_NEXT, 1);
	indirect_desc(table, 1, BUF, 7, VQ_WRITE, 0);
	virtio_fake_avail(&drv, 1, 0);
	assert_int_equal(pop(), 1);
	assert_int_equal(chain.n_out, 2);
	assert_int_equal(chain.out_len, 8);
	assert_int_equal(chain.in_len, 7);
	/* The longest table is as long as a chain may be, more than the ring has. */
	virtio_fake_desc(&drv, 1, 0, table, 16 * VIRTQ_MAX_SIZE, VQ_INDIRECT, 0);
	for (unsigned i = 0; i < VIRTQ_MAX_SIZE; i++)
		indirect_desc(table, i, BUF, 1, i + 1 < VIRTQ_MAX_SIZE ? VQ_NEXT : 0, (u16)(i + 1));
	virtio_fake_avail(&drv, 1, 0);
	assert_int_equal(pop(), 1);
	assert_int_equal(chain.n_out, VIRTQ_MAX_SIZE);
	/* And one more, before it; it counts even if it is empty. */
	virtio_fake_desc(&drv, 1, 2, BUF, 0, VQ_NEXT, 0);
	virtio_fake_avail(&drv, 1, 2);
	expect_broken();
	static const struct { u64 addr; u32 len; u16 flags; u64 features; } bad[] = {
		{ BUF, 0, VQ_INDIRECT, VIRTIO_F_INDIRECT_DESC },
		{ BUF, 15, VQ_INDIRECT, VIRTIO_F_INDIRECT_DESC },
		{ BUF, 17, VQ_INDIRECT, VIRTIO_F_INDIRECT_DESC },
		{ BUF, 16 * VIRTQ_MAX_SIZE + 16, VQ_INDIRECT, VIRTIO_F_INDIRECT_DESC },
		{ BUF, 0xfffffff0, VQ_INDIRECT, VIRTIO_F_INDIRECT_DESC },
		{ ~0ull - 7, 16, VQ_INDIRECT, VIRTIO_F_INDIRECT_DESC },
		{ VIRTIO_FAKE_RAM - 8, 16, VQ_INDIRECT, VIRTIO_F_INDIRECT_DESC },
		{ BUF, 16, VQ_INDIRECT | VQ_NEXT, VIRTIO_F_INDIRECT_DESC },
		{ BUF, 16, VQ_INDIRECT, 0 }, /* not negotiated */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		restart(bad[i].features);
		virtio_fake_desc(&drv, 1, 0, bad[i].addr, bad[i].len, bad[i].flags, 0);
		indirect_desc(BUF, 0, BUF, 1, 0, 0);
		virtio_fake_avail(&drv, 1, 0);
		expect_broken();
	}
	/* In a table: out of range, a loop, another table. */
	for (u16 next = 0; next <= 3; next++) {
		restart(VIRTIO_F_INDIRECT_DESC);
		virtio_fake_desc(&drv, 1, 0, table, 32, VQ_INDIRECT, 0);
		indirect_desc(table, 0, BUF, 1, VQ_NEXT, 1);
		indirect_desc(table, 1, BUF, 16, next == 3 ? VQ_INDIRECT : VQ_NEXT, next);
		virtio_fake_avail(&drv, 1, 0);
		expect_broken();
	}
}

static void test_interrupts(void **unused)
{
	struct virtio *vio = virtio_of(con);

	/* By flag. */
	restart(0);
	virtio_fake_msix(&drv);
	for (unsigned i = 0; i < 4; i++)
		virtio_fake_avail(&drv, 1, 0);
	assert_int_equal(pop(), 1);
	virtq_interrupt(vio, 1);
	assert_int_equal(vdev_fake_interrupt(vm), 0); /* nothing was pushed */
	virtq_push(vio, 1, 0, 0);
	virtq_interrupt(vio, 1);
	assert_int_equal(vdev_fake_interrupt(vm), 0x41);
	virtq_interrupt(vio, 1);
	assert_int_equal(vdev_fake_interrupt(vm), 0);
	put16(virtio_fake_ring(1) + 0x1000, 1);
	virtq_push(vio, 1, 0, 0);
	virtq_interrupt(vio, 1);
	assert_int_equal(vdev_fake_interrupt(vm), 0);
	put16(virtio_fake_ring(1) + 0x1000, 0);
	virtq_push(vio, 1, 0, 0);
	virtq_interrupt(vio, 1);
	assert_int_equal(vdev_fake_interrupt(vm), 0x41);
	virtio_config_changed(vio);
	assert_int_equal(vdev_fake_interrupt(vm), 0x42);
	assert_int_equal(rd(21, 1), 1);
	/* Notifications: it wants to be told of each. */
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pop(), 1);
	assert_int_equal(pop(), 0);
	assert_int_equal(get16(virtio_fake_ring(1) + 0x2000), 0);
	/* By event index: when it is passed. */
	restart(VIRTIO_F_EVENT_IDX);
	virtio_fake_msix(&drv);
	put16(virtio_fake_ring(1) + 0x1004 + 2 * N, 2);
	for (unsigned i = 0; i < 6; i++) {
		virtq_push(vio, 1, 0, 0);
		virtq_interrupt(vio, 1);
		assert_int_equal(vdev_fake_interrupt(vm), i == 2 ? 0x41 : 0);
	}
	put16(virtio_fake_ring(1) + 0x1004 + 2 * N, 8);
	for (unsigned i = 0; i < 5; i++)
		virtq_push(vio, 1, 0, 0);
	virtq_interrupt(vio, 1); /* once for all */
	assert_int_equal(vdev_fake_interrupt(vm), 0x41);
	virtq_push(vio, 1, 0, 0);
	virtq_interrupt(vio, 1);
	assert_int_equal(vdev_fake_interrupt(vm), 0);
	virtio_fake_avail(&drv, 1, 0);
	assert_int_equal(pop(), 1);
	assert_int_equal(get16(virtio_fake_ring(1) + 0x2004 + 8 * N), 0);
	assert_int_equal(pop(), 0);
	assert_int_equal(get16(virtio_fake_ring(1) + 0x2004 + 8 * N), 1);
	/* By INTA. */
	restart(0);
	virtio_fake_config_write(vm, VIRTIO_SLOT_CONSOLE, 0x42, 2, 0);
	assert_int_equal(rd(0x1000, 1), 0);
	virtq_push(vio, 1, 0, 0);
	virtq_interrupt(vio, 1);
	assert_int_equal(vio->v->pci.intx, 1);
	virtio_config_changed(vio);
	assert_int_equal(rd(0x1001, 1), 0);
	assert_int_equal(rd(0x1000, 1), 3);
	assert_int_equal(vio->v->pci.intx, 0);
	assert_int_equal(rd(0x1000, 1), 0);
	/* NEEDS_RESET tells the driver. */
	restart(0);
	virtio_fake_msix(&drv);
	assert_int_equal(virtio_broken(vio, "test"), -E_PROTO);
	assert_int_equal(vdev_fake_interrupt(vm), 0x42);
	virtio_broken(vio, "test");
	assert_int_equal(vdev_fake_interrupt(vm), 0);
}

static void test_rng_limits(void **unused)
{
	u32 id, len, total = 0;

	virtio_fake_start(&drv, rng, 0, N);
	/* A huge buffer gets what a turn has. */
	virtio_fake_desc(&drv, 0, 0, BUF, 0x100000, VQ_WRITE, 0);
	virtio_fake_avail(&drv, 0, 0);
	assert_int_equal(virtio_fake_service(vm), 1);
	assert_true(virtio_fake_used(&drv, 0, &id, &len));
	assert_in_range(len, 64, 4096);
	/* In one second no more than the rate, whatever the guest does. */
	for (unsigned i = 0; i < 100000; i++) {
		if (drv.avail_idx[0] == drv.used_seen[0])
			virtio_fake_avail(&drv, 0, 0);
		virtio_fake_notify(&drv, 0);
		virtio_fake_service(vm);
		if (virtio_fake_used(&drv, 0, &id, &len))
			total += len;
		vdev_fake_run(vm, VDEV_FAKE_HZ / 100000);
	}
	assert_in_range(total, 100000, 250000);
	/* Nor by resetting it. */
	total = 0;
	for (unsigned i = 0; i < 1000; i++) {
		virtio_fake_start(&drv, rng, 0, N);
		virtio_fake_desc(&drv, 0, 0, BUF, 0x100000, VQ_WRITE, 0);
		virtio_fake_avail(&drv, 0, 0);
		virtio_fake_service(vm);
		if (virtio_fake_used(&drv, 0, &id, &len))
			total += len;
		vdev_fake_run(vm, VDEV_FAKE_HZ / 100000);
	}
	assert_in_range(total, 1, 5000);
	/* Readable buffers, no buffer: used up, nothing written. */
	vdev_fake_run(vm, VDEV_FAKE_HZ);
	virtio_fake_service(vm);
	while (virtio_fake_used(&drv, 0, &id, &len))
		;
	vdev_fake_run(vm, VDEV_FAKE_HZ);
	virtio_fake_desc(&drv, 0, 1, BUF, 16, 0, 0);
	virtio_fake_avail(&drv, 0, 1);
	virtio_fake_service(vm);
	assert_true(virtio_fake_used(&drv, 0, &id, &len));
	assert_int_equal(id, 1);
	assert_int_equal(len, 0);
	/* A buffer at the end of RAM. */
	vdev_fake_run(vm, VDEV_FAKE_HZ);
	virtio_fake_desc(&drv, 0, 1, VIRTIO_FAKE_RAM - 12, 16, VQ_WRITE, 0);
	virtio_fake_avail(&drv, 0, 1);
	virtio_fake_service(vm);
	assert_true(virtio_fake_status(&drv) & VIRTIO_NEEDS_RESET);
}

static void say(const char *text)
{
	assert_int_equal(guest_write(vm, gpa(BUF), text, strlen(text)), 0);
	virtio_fake_desc(&drv, 1, 0, BUF, (u32)strlen(text), 0, 0);
	virtio_fake_avail(&drv, 1, 0);
	virtio_fake_service(vm);
}

static void test_console(void **unused)
{
	u8 buf[16] = { 0 };
	u32 id, len;

	assert_int_equal(vm_console_in(vm, (const u8 *)"a", 1), 1); /* to the UART: nobody else is there */
	assert_int_equal(vdev_fake_in(vm, 0x3f8, 1), 'a');
	virtio_fake_start(&drv, con, 0, N);
	assert_int_equal(rd(0x2000, 8), 0);
	say("hvc0\n");
	assert_memory_equal(vm->console, "hvc0\n", 5);
	assert_true(virtio_fake_used(&drv, 1, &id, &len));
	/* Input follows the last output: no buffer yet, then two. */
	assert_int_equal(vm_console_in(vm, (const u8 *)"abcdef", 6), 0);
	virtio_fake_desc(&drv, 0, 3, BUF + 64, 4, VQ_WRITE, 0);
	virtio_fake_desc(&drv, 0, 4, BUF + 68, 4, VQ_WRITE, 0);
	virtio_fake_avail(&drv, 0, 3);
	virtio_fake_avail(&drv, 0, 4);
	assert_int_equal(vm_console_in(vm, (const u8 *)"abcdef", 6), 6);
	assert_true(virtio_fake_used(&drv, 0, &id, &len));
	assert_int_equal(id, 3);
	assert_int_equal(len, 4);
	assert_true(virtio_fake_used(&drv, 0, &id, &len));
	assert_int_equal(len, 2);
	assert_int_equal(guest_read(vm, gpa(BUF + 64), buf, 6), 0);
	assert_memory_equal(buf, "abcdef", 6);
	vdev_fake_out(vm, 0x3f8, 1, 'x');
	assert_int_equal(vm_console_in(vm, (const u8 *)"b", 1), 1);
	assert_int_equal(vdev_fake_in(vm, 0x3f8, 1), 'b');
	say("again");
	assert_true(virtio_console_active(vm));
	wr(20, 1, 0); /* its driver goes */
	assert_false(virtio_console_active(vm));
	/* A long request comes out in turns, once. */
	virtio_fake_start(&drv, con, 0, N);
	for (unsigned i = 0; i < 10000; i++) {
		u8 c = (u8)('a' + i % 26);

		assert_int_equal(guest_write(vm, gpa(BUF + i), &c, 1), 0);
	}
	id = (u32)vm->console_total;
	virtio_fake_desc(&drv, 1, 0, BUF, 10000, 0, 0);
	virtio_fake_avail(&drv, 1, 0);
	assert_in_range(virtio_fake_service(vm), 8, 20);
	assert_int_equal(vm->console_total, id + 10000);
	for (unsigned i = 0; i < 10000; i++)
		assert_int_equal(vm->console[(id + i) % CONSOLE_RING_BYTES], 'a' + i % 26);
	/* Paused: nothing moves. */
	vm->state = RS_PAUSED;
	say("not now");
	assert_int_equal(vm->console_total, id + 10000);
	vm->state = RS_RUNNING;
	virtio_fake_service(vm);
	assert_int_equal(vm->console_total, id + 10007);
}

static void test_post_load(void **unused)
{
	struct virtio_state *s, good;

	virtio_fake_start(&drv, con, VIRTIO_F_EVENT_IDX, N);
	s = virtio_of(con)->v;
	good = *s;
	con->kicked = false;
	assert_int_equal(con->type->mig.post_load(con, NULL), 0);
	assert_true(con->kicked);
#define BAD(change) do { *s = good; change; assert_int_equal(con->type->mig.post_load(con, NULL), -E_INVAL); *s = good; } while (0)
	BAD(s->status |= 0x20);
	BAD(s->status &= ~VIRTIO_FEATURES_OK);
	BAD(s->isr = 4);
	BAD(s->driver_features = 0);
	BAD(s->driver_features |= 1);
	BAD(s->config_vector = 3);
	BAD(s->vector[7] = 3);
	BAD(s->enabled[0] = 2);
	BAD(s->enabled[2] = 1);
	BAD(s->size[0] = 0);
	BAD(s->size[0] = 6);
	BAD(s->size[0] = 128);
	BAD(s->desc[1] |= 8);
	BAD(s->avail[1] |= 1);
	BAD(s->used[1] |= 2);
	BAD(s->used[1] |= BIT(60));
	assert_int_equal(con->type->mig.post_load(con, NULL), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_capabilities), T(test_status), T(test_queue_setup), T(test_round_trip), T(test_chains), T(test_broken_rings),
		T(test_indirect), T(test_interrupts), T(test_rng_limits), T(test_console), T(test_post_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
