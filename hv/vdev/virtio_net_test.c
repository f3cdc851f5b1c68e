/* SPDX-License-Identifier: MIT */
/* The card between its rings and a switch. The transport has tests of its own: here its state is simply set. */
#include "hv/vdev/virtio_net.h"
#include "hv/fake/fake.h"
#include "hv/fake/vdev_fake.h"
#include "hv/vm/vm.h"
#include "net/forward.h"
#include "net/vswitch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define US (FAKE_TSC_HZ / 1000000)
#define RX 0
#define TX 1
#define CTRL 2
#define QUEUE 16u
#define MRG BIT(15)
#define ANNOUNCE BIT(21)
#define FEATURES (BIT(5) | BIT(16) | BIT(17) | BIT(18) | VIRTIO_F_VERSION_1)
#define STATUS_UP (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK)

/* Guest memory: the rings of queue q at RING(q), buffers from BUFFERS. */
#define RING(q) (0x10000ull + (q) * 0x10000)
#define BUFFERS 0x100000ull
#define DESC_NEXT 1
#define DESC_WRITE 2

static const u8 mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
static u8 *ram;
static struct vm *vm;
static struct vdev *dev;
static struct vswitch *sw;
static struct { u16 avail, seen, next_desc; } ring[3];
/* The world outside. */
static struct { struct vport port; u8 frame[1600], last_types[64][2]; unsigned len, n; } world;

static bool world_deliver(struct vport *port, const u8 *frame, unsigned len, u16 vlan)
{
	memcpy(world.last_types[world.n % 64], frame + 12, 2);
	memcpy(world.frame, frame, len);
	world.len = len;
	world.n++;
	return true;
}

static const struct vport_ops world_ops = { .deliver = world_deliver };

static struct virtio_state *state(void)
{
	return (struct virtio_state *)vdev_fake_state(dev);
}

static void driver_up(u64 features)
{
	struct virtio_state *v = state();

	v->driver_features = features;
	v->status = STATUS_UP;
	v->pci.command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	memset(ring, 0, sizeof(ring));
	for (unsigned q = 0; q < 3; q++) {
		v->size[q] = QUEUE;
		v->enabled[q] = 1;
		v->desc[q] = RING(q);
		v->avail[q] = RING(q) + 0x4000;
		v->used[q] = RING(q) + 0x8000;
		v->last_avail[q] = v->used_idx[q] = v->signalled[q] = 0;
		memset(ram + RING(q), 0, 0x10000);
	}
}

static struct vdev *card_make(struct vm *of)
{
	return vdev_fake_add(of, &virtio_net_type.vdev, 0);
}

static int setup(void **unused)
{
	static bool once;

	fake_memory(64ul << 20);
	if (!once) {
		once = true;
		sw = vswitch_create();
		vnetworks[n_vnetworks++] = (struct vnetwork){ .name = "lan", .sw = sw };
		world.port = (struct vport){ .ops = &world_ops, .trunk = true };
		assert_int_equal(vswitch_add(sw, &world.port), 0);
		ram = aligned_alloc(PAGE_2M, PAGE_2M);
	}
	world.n = 0;
	memset(ram, 0, PAGE_2M);
	vm = vdev_fake_vm();
	vm->ram_2m = calloc(1, sizeof(hpa_t));
	vm->ram_2m[0] = ptr_hpa(ram);
	vm->ram_2m_count = 1;
	vm->ram_bytes = PAGE_2M;
	vm->owner = true;
	strcpy(vm->config.name, "web");
	vm->config.n_nics = 1;
	strcpy(vm->config.nics[0].network, "lan");
	memcpy(vm->config.nics[0].mac, mac, 6);
	vdev_fake_add(vm, &pci_type, 0);
	dev = card_make(vm);
	driver_up(FEATURES);
	return 0;
}

static int teardown(void **unused)
{
	free(vm->ram_2m);
	vdev_fake_free(vm);
	return 0;
}

/* Until the announcements of the new card are over. */
static void settle(void)
{
	for (unsigned i = 0; i < 300; i++) {
		vswitch_poll();
		fake_tsc_now += 10000 * US;
	}
	world.n = 0;
}

/* --- the driver's side --- */

static void put_desc(unsigned q, u16 i, u64 addr, u32 len, u16 flags, u16 next)
{
	u8 *d = ram + RING(q) + 16 * i;

	memcpy(d, &addr, 8);
	memcpy(d + 8, &len, 4);
	memcpy(d + 12, &flags, 2);
	memcpy(d + 14, &next, 2);
}

static void make_available(unsigned q, u16 head)
{
	memcpy(ram + RING(q) + 0x4004 + 2 * (ring[q].avail % QUEUE), &head, 2);
	ring[q].avail++;
	memcpy(ram + RING(q) + 0x4002, &ring[q].avail, 2);
}

/* A buffer in one descriptor, for each of the three queues in a part of its own. */
static u64 give_buffer(unsigned q, u64 at, u32 len, bool write)
{
	u16 i = ring[q].next_desc++ % QUEUE;

	put_desc(q, i, at, len, write ? DESC_WRITE : 0, 0);
	make_available(q, i);
	return at;
}

/* The next entry of the used ring; -1: none. */
static int used(unsigned q, u32 *len)
{
	u16 idx;
	u32 id;

	memcpy(&idx, ram + RING(q) + 0x8002, 2);
	if (idx == ring[q].seen)
		return -1;
	memcpy(&id, ram + RING(q) + 0x8004 + 8 * (ring[q].seen % QUEUE), 4);
	if (len)
		memcpy(len, ram + RING(q) + 0x8008 + 8 * (ring[q].seen % QUEUE), 4);
	ring[q].seen++;
	return (int)id;
}

static bool serve(void)
{
	return dev->type->service(dev);
}

static void frame_make(u8 *f, u8 to, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		f[i] = (u8)(i * 7 + 1);
	memcpy(f, mac, 6);
	f[5] = to;
	memcpy(f + 6, mac, 6);
	memcpy(f + 12, "\x08\0", 2);
}

static void sends(u64 at, unsigned len)
{
	memset(ram + at, 0, 12);
	frame_make(ram + at + 12, 9, len);
	give_buffer(TX, at, 12 + len, false);
}

/* From the world to the guest; source 02:..:77. */
static void arrives(const u8 *to, unsigned len)
{
	u8 f[1600];

	for (unsigned i = 0; i < len; i++)
		f[i] = (u8)(i * 3);
	memcpy(f, to, 6);
	memcpy(f + 6, "\2\0\0\0\0\x77", 6);
	memcpy(f + 12, "\x08\0", 2);
	vswitch_input(&world.port, f, len);
}

static struct virtio_net_counters count(void) { return virtio_net_counters(dev); }

/* --- tests --- */

static void test_transmit(void **unused)
{
	u32 len = 99;

	settle();
	sends(BUFFERS, 100);
	assert_false(serve());
	assert_int_equal(used(TX, &len), 0);
	assert_int_equal(len, 0);
	assert_int_equal(world.n, 0); /* until the switch has its turn */
	vswitch_poll();
	assert_true(world.n == 1 && world.len == 100);
	assert_memory_equal(world.frame, ram + BUFFERS + 12, 100);
	sends(BUFFERS, 14);
	sends(BUFFERS + 0x1000, 1514);
	assert_false(serve());
	vswitch_poll();
	assert_true(world.n == 3 && world.len == 1514);
	assert_memory_equal(world.frame, ram + BUFFERS + 0x1000 + 12, 1514);
	/* In pieces that respect no border. */
	frame_make(ram + BUFFERS + 12, 9, 60);
	put_desc(TX, 10, BUFFERS, 5, DESC_NEXT, 11);
	put_desc(TX, 11, BUFFERS + 5, 0, DESC_NEXT, 12);
	put_desc(TX, 12, BUFFERS + 5, 8, DESC_NEXT, 13);
	put_desc(TX, 13, BUFFERS + 13, 59, 0, 0);
	make_available(TX, 10);
	assert_false(serve());
	vswitch_poll();
	assert_true(world.n == 4 && world.len == 60);
	assert_memory_equal(world.frame, ram + BUFFERS + 12, 60);
	assert_int_equal(count().sent, 4);
}

static void test_transmit_malformed(void **unused)
{
	static const u32 bad[] = { 1, 11, 12, 25, 12 + 1515, 60000 };

	settle();
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		give_buffer(TX, BUFFERS, bad[i], false);
		assert_false(serve());
		assert_int_equal(used(TX, NULL), i);
	}
	/* Offloads that were not negotiated, and a request that is to be filled instead of read. */
	sends(BUFFERS, 60);
	ram[BUFFERS] = 1;
	assert_false(serve());
	sends(BUFFERS, 60);
	ram[BUFFERS + 1] = 1;
	assert_false(serve());
	give_buffer(TX, BUFFERS, 72, true);
	assert_false(serve());
	vswitch_poll();
	assert_int_equal(world.n, 0);
	assert_int_equal(count().dropped, ARRAY_SIZE(bad) + 3);
	assert_false(state()->status & VIRTIO_NEEDS_RESET);
	give_buffer(TX, PAGE_2M - 100, 200, false);
	assert_false(serve());
	assert_true(state()->status & VIRTIO_NEEDS_RESET);
	sends(BUFFERS, 60);
	assert_false(serve());
	assert_int_equal(count().sent, 0);
}

static void test_turns_are_bounded(void **unused)
{
	unsigned n = 0;

	settle();
	/* A ring that is refilled for ever: 16 at a time, until the switch's queue is full. */
	for (unsigned i = 0; i < 3; i++) {
		for (unsigned k = 0; k < QUEUE; k++)
			sends(BUFFERS, 60);
		assert_int_equal(serve(), i >= 1);
		while (used(TX, NULL) >= 0)
			n++;
	}
	assert_int_equal(n, VPORT_QUEUE);
	assert_true(serve());
	vswitch_poll();
	assert_int_equal(world.n, VPORT_QUEUE);
	assert_false(serve());
	vswitch_poll();
	assert_int_equal(world.n, 3 * QUEUE);
}

static void test_receive(void **unused)
{
	static const u8 header[12] = { [10] = 1 };
	u32 len;

	give_buffer(RX, BUFFERS, 1526, true);
	arrives(mac, 1514);
	assert_int_equal(used(RX, &len), 0);
	assert_int_equal(len, 1526);
	assert_memory_equal(ram + BUFFERS, header, 12);
	assert_int_equal(ram[BUFFERS + 12 + 1513], (u8)(1513 * 3));
	assert_true(state()->isr & 1);
	/* Nowhere to put it: lost, and the ring stays as it is. */
	arrives(mac, 100);
	assert_int_equal(used(RX, NULL), -1);
	assert_int_equal(count().dropped, 1);
	assert_int_equal(count().received, 1);
	/* A buffer that is too small, as long as frames are not spread. */
	give_buffer(RX, BUFFERS, 111, true);
	arrives(mac, 100);
	assert_int_equal(used(RX, NULL), -1);
	arrives(mac, 99);
	assert_int_equal(used(RX, &len), 1);
	assert_int_equal(len, 111);
	/* Not up, not running, not ours. */
	give_buffer(RX, BUFFERS, 1526, true);
	state()->status &= (u8)~VIRTIO_DRIVER_OK;
	arrives(mac, 100);
	state()->status |= VIRTIO_DRIVER_OK;
	vm->state = RS_PAUSED;
	arrives(mac, 100);
	vm->state = RS_INMIGRATE;
	vm->mig = vm;
	arrives(mac, 100);
	vm->state = RS_RUNNING;
	vm->mig = NULL;
	assert_int_equal(used(RX, NULL), -1);
	arrives(mac, 100);
	assert_int_equal(used(RX, NULL), 2);
}

static void test_receive_spread(void **unused)
{
	u16 buffers;
	u32 len;

	driver_up(FEATURES | MRG);
	for (unsigned i = 0; i < 3; i++)
		give_buffer(RX, BUFFERS + 0x1000 * i, 40, true);
	arrives(mac, 28);
	assert_int_equal(used(RX, &len), 0);
	assert_int_equal(len, 40);
	memcpy(&buffers, ram + BUFFERS + 10, 2);
	assert_int_equal(buffers, 1);
	/* 28 + 40 + 1: one short, so it takes none; then it is there. */
	arrives(mac, 28 + 40 + 1);
	assert_int_equal(used(RX, NULL), -1);
	give_buffer(RX, BUFFERS + 0x3000, 40, true);
	arrives(mac, 28 + 40 + 1);
	assert_int_equal(used(RX, &len), 1);
	assert_int_equal(len, 40);
	assert_int_equal(used(RX, &len), 2);
	assert_int_equal(len, 40);
	assert_int_equal(used(RX, &len), 3);
	assert_int_equal(len, 1);
	assert_int_equal(used(RX, NULL), -1);
	memcpy(&buffers, ram + BUFFERS + 0x1000 + 10, 2);
	assert_int_equal(buffers, 3);
	assert_int_equal(ram[BUFFERS + 0x3000], (u8)(68 * 3));
	assert_int_equal(ram[BUFFERS + 0x2000], (u8)(28 * 3));
	/* A header that does not fit into the first one. */
	give_buffer(RX, BUFFERS, 12, true);
	give_buffer(RX, BUFFERS, 1526, true);
	arrives(mac, 60);
	assert_int_equal(used(RX, NULL), -1);
	assert_false(state()->status & VIRTIO_NEEDS_RESET);
}

/* A buffer of 128 bytes, each with a descriptor of its own in an indirect table. */
static void give_crumbs(u64 at)
{
	struct { u64 addr; u32 len; u16 flags, next; } table[128];
	u16 i = ring[RX].next_desc++ % QUEUE;

	for (u16 n = 0; n < 128; n++) {
		table[n].addr = at + sizeof(table) + n;
		table[n].len = 1;
		table[n].flags = DESC_WRITE | (n < 127 ? DESC_NEXT : 0);
		table[n].next = n + 1;
	}
	memcpy(ram + at, table, sizeof(table));
	put_desc(RX, i, at, sizeof(table), 4, 0);
	make_available(RX, i);
}

/* What a guest can make others pay for each frame that comes for it. */
static void test_receive_is_bounded(void **unused)
{
	driver_up(FEATURES | MRG | VIRTIO_F_INDIRECT_DESC);
	for (unsigned i = 0; i < 3; i++)
		give_crumbs(BUFFERS + 0x1000 * i);
	arrives(mac, 2 * 128 - 12 + 1);
	assert_int_equal(used(RX, NULL), -1);
	assert_int_equal(count().dropped, 1);
	arrives(mac, 2 * 128 - 12);
	assert_int_equal(used(RX, NULL), 0);
	assert_int_equal(used(RX, NULL), 1);
	assert_int_equal(used(RX, NULL), -1);
	assert_false(state()->status & VIRTIO_NEEDS_RESET);
}

static u8 control(const char *request, unsigned len)
{
	u16 i = ring[CTRL].next_desc;

	memcpy(ram + BUFFERS + 0x20000, request, len);
	ram[BUFFERS + 0x21000] = 0x55;
	put_desc(CTRL, i % QUEUE, BUFFERS + 0x20000, len, DESC_NEXT, (u16)((i + 1) % QUEUE));
	put_desc(CTRL, (u16)((i + 1) % QUEUE), BUFFERS + 0x21000, 1, DESC_WRITE, 0);
	ring[CTRL].next_desc += 2;
	make_available(CTRL, i % QUEUE);
	serve();
	assert_int_equal(used(CTRL, NULL), i % QUEUE);
	return ram[BUFFERS + 0x21000];
}

static bool gets(const char *to)
{
	give_buffer(RX, BUFFERS, 1526, true);
	arrives((const u8 *)to, 60);
	if (used(RX, NULL) >= 0)
		return true;
	ring[RX].avail--; /* take it back */
	ring[RX].next_desc--;
	memcpy(ram + RING(RX) + 0x4002, &ring[RX].avail, 2);
	return false;
}

static void test_filter(void **unused)
{
	char many[2 + 4 + 40 * 6 + 4] = "\1\0\0\0\0\0\x28";

	/* Until the driver says otherwise: all. */
	assert_true(gets("\x52\x54\0\x99\x99\x99"));
	assert_true(gets("\1\0\x5e\0\0\1"));
	assert_int_equal(control("\0\0\0", 3), 0);
	assert_true(gets((const char *)mac));
	assert_true(gets("\xff\xff\xff\xff\xff\xff"));
	assert_false(gets("\x52\x54\0\x99\x99\x99"));
	assert_false(gets("\1\0\x5e\0\0\1"));
	assert_int_equal(control("\0\1\1", 3), 0);
	assert_true(gets("\1\0\x5e\0\0\1"));
	assert_int_equal(control("\0\1\0", 3), 0);
	assert_int_equal(control("\1\0\1\0\0\0\x52\x54\0\x99\x99\x99\1\0\0\0\1\0\x5e\0\0\2", 22), 0);
	assert_true(gets("\x52\x54\0\x99\x99\x99"));
	assert_true(gets("\1\0\x5e\0\0\2"));
	assert_false(gets("\1\0\x5e\0\0\1"));
	assert_int_equal(control("\1\0\0\0\0\0\0\0\0\0", 10), 0);
	assert_false(gets("\x52\x54\0\x99\x99\x99"));
	/* More than there is room for: all. */
	assert_int_equal(control(many, sizeof(many)), 0);
	assert_true(gets("\1\0\x5e\0\0\1"));
	assert_false(gets("\x52\x54\0\x99\x99\x99"));
	/* Nonsense. */
	assert_int_equal(control("\0\0", 2), 1);
	assert_int_equal(control("\1", 1), 1);
	assert_int_equal(control("\0\7\1", 3), 1);
	assert_int_equal(control("\7\0\1", 3), 1);
	assert_int_equal(control("\1\0\2\0\0\0\x52\x54\0\x99\x99\x99", 12), 1);
	assert_int_equal(control("\1\0\xff\xff\xff\xff", 6), 1);
	assert_false(state()->status & VIRTIO_NEEDS_RESET);
}

static u16 config_status(void)
{
	u8 config[256] = { 0 };
	u16 status;

	virtio_net_type.config_read(virtio_of(dev), config);
	assert_memory_equal(config, mac, 6);
	memcpy(&status, config + 6, 2);
	return status;
}

static void sends_arp(void)
{
	u8 *f = ram + BUFFERS + 12;

	memset(ram + BUFFERS, 0, 12 + 60);
	memset(f, 0xff, 6);
	memcpy(f + 6, mac, 6);
	memcpy(f + 12, "\x08\6\0\1\x08\0\6\4\0\1\x52\x54\0\1\2\3\x0a\0\0\7", 20);
	give_buffer(TX, BUFFERS, 72, false);
	serve();
	vswitch_poll();
}

static void test_moves(void **unused)
{
	u8 *moved;

	driver_up(FEATURES | ANNOUNCE);
	vswitch_poll();
	assert_int_equal(config_status(), 3); /* it has begun to run here */
	assert_int_equal(control("\3\0", 2), 0);
	assert_int_equal(config_status(), 1);
	sends_arp();
	assert_int_equal(control("\0\0\0", 3), 0);
	/* Frozen: frames wait, memory stays as it is. */
	vm->mig = vm;
	vm->state = RS_FINISH_MIGRATE;
	give_buffer(RX, BUFFERS + 0x1000, 1526, true);
	give_buffer(RX, BUFFERS + 0x2000, 1526, true);
	for (unsigned i = 0; i < 40; i++)
		arrives(mac, 100 + i);
	vswitch_poll();
	assert_int_equal(used(RX, NULL), -1);
	assert_int_equal(count().held, 32);
	assert_int_equal(count().dropped, 8);
	/* The move fails: they come in order, as many as there is room for. */
	vm->mig = NULL;
	vm->state = RS_RUNNING;
	vswitch_poll();
	assert_int_equal(used(RX, &(u32){ 0 }), 0);
	assert_int_equal(used(RX, NULL), 1);
	assert_int_equal(used(RX, NULL), -1);
	/* On another host, from what has moved. */
	moved = malloc(virtio_net_type.vdev.mig.state_size);
	memcpy(moved, vdev_fake_state(dev), virtio_net_type.vdev.mig.state_size);
	teardown(NULL);
	setup(NULL);
	vm->state = RS_INMIGRATE;
	vm->owner = false;
	memcpy(vdev_fake_state(dev), moved, virtio_net_type.vdev.mig.state_size);
	free(moved);
	assert_int_equal(virtio_net_type.vdev.mig.post_load(dev, NULL), 0);
	world.n = 0;
	vswitch_poll();
	assert_int_equal(world.n, 0);
	vm->state = RS_RUNNING;
	vswitch_poll();
	assert_int_equal(world.n, 0); /* not its owner yet */
	vm->owner = true;
	vswitch_poll();
	assert_int_equal(world.n, 2);
	assert_memory_equal(world.last_types[0], "\x80\x35", 2);
	assert_memory_equal(world.last_types[1], "\x08\6", 2);
	assert_memory_equal(world.frame + 28, "\x0a\0\0\7", 4);
	assert_int_equal(config_status(), 3);
	for (unsigned i = 0; i < 300; i++) {
		fake_tsc_now += 10000 * US;
		vswitch_poll();
	}
	assert_int_equal(world.n, 12);
	/* The driver's filter has come along. */
	assert_int_equal(((u8 *)vdev_fake_state(dev))[virtio_net_type.vdev.mig.state_size - 6], 0);
}

static struct { unsigned n; u16 card; unsigned last_len; } given;

static bool give(void *arg, u16 card, const u8 *frame, unsigned len)
{
	given.n++;
	given.card = card;
	given.last_len = len;
	return arg == &given;
}

/* It leaves: what was held, and what comes later, goes after it, and is taken on the other side. */
static void test_forward(void **unused)
{
	static const u8 frame[100] = { 1 };
	struct lan_forward *f;
	u32 len;

	settle();
	vm->mig = vm;
	vm->state = RS_FINISH_MIGRATE;
	arrives(mac, 100);
	arrives(mac, 101);
	f = lan_forward_begin(vm, give, &given);
	assert_true(given.n == 2 && given.card == 0 && given.last_len == 101);
	dev->type->destroy(dev);
	vm->n_vdevs--;
	free(dev);
	arrives(mac, 102);
	assert_true(given.n == 3 && given.last_len == 102);
	arrives((const u8 *)"\xff\xff\xff\xff\xff\xff", 100);
	assert_int_equal(given.n, 3);
	assert_int_equal(lan_forward_end(f), 3);
	arrives(mac, 103);
	assert_int_equal(given.n, 3);
	assert_int_equal(vnetworks[0].forwarded, 3);
	assert_int_equal(lan_forward_end(NULL), 0);

	vm->mig = NULL;
	vm->state = RS_RUNNING;
	dev = card_make(vm);
	driver_up(FEATURES);
	virtio_net_take_held(vm, 7, NULL, NULL);
	for (unsigned i = 0; i < 4; i++)
		give_buffer(RX, BUFFERS, 1526, true);
	virtio_net_inject(vm, 0, frame, 100);
	assert_int_equal(used(RX, &len), 0);
	assert_int_equal(len, 112);
	virtio_net_inject(vm, 1, frame, 100);
	virtio_net_inject(vm, 0, frame, 13);
	virtio_net_inject(vm, 0, frame, 1515);
	assert_int_equal(used(RX, NULL), -1);
	vm->config.n_nics = 0;
	assert_null(lan_forward_begin(vm, give, &given));
	vm->config.n_nics = 1;
}

static void test_hostile_state(void **unused)
{
	u8 *s = vdev_fake_state(dev), copy[8];
	u32 tail = virtio_net_type.vdev.mig.state_size - 8;

	memcpy(copy, s + tail, 8);
	for (unsigned i = 0; i < 5; i++) {
		memcpy(s + tail, copy, 8);
		assert_int_equal(virtio_net_type.vdev.mig.post_load(dev, NULL), 0);
		s[tail + i] = 77;
		assert_int_equal(virtio_net_type.vdev.mig.post_load(dev, NULL), -E_INVAL);
	}
}

static void test_unplugged(void **unused)
{
	dev->type->destroy(dev);
	vm->n_vdevs--;
	free(dev);
	strcpy(vm->config.nics[0].network, "nowhere");
	dev = card_make(vm);
	driver_up(FEATURES);
	settle();
	assert_int_equal(config_status(), 0);
	for (unsigned i = 0; i < QUEUE; i++)
		sends(BUFFERS, 60);
	assert_false(serve());
	vswitch_poll();
	assert_int_equal(world.n, 0);
	assert_int_equal(count().dropped, QUEUE);
}

static void test_check(void **unused)
{
	struct guest_config g = vm->config;
	struct error e = { 0 };

	vms[3] = vm;
	assert_int_equal(virtio_net_check(&g, &e), 0); /* itself */
	strcpy(g.name, "db");
	assert_int_equal(virtio_net_check(&g, &e), -E_EXIST);
	assert_non_null(strstr(e.text, "52:54:00:01:02:03"));
	e.code = 0;
	g.nics[0].mac[5]++;
	assert_int_equal(virtio_net_check(&g, &e), 0);
	strcpy(g.nics[0].network, "dmz");
	assert_int_equal(virtio_net_check(&g, &e), -E_NOENT);
	assert_non_null(strstr(e.text, "[switch dmz]"));
	vms[3] = NULL;
}

/* Rings and requests at random: nothing crashes, every turn ends, and what comes out is a frame. */
static void test_random(void **unused)
{
	unsigned sent = 0, received = 0;

	srand(7);
	for (unsigned round = 0; round < 3000; round++) {
		if (round % 2 == 0)
			driver_up(FEATURES | (rand() & 1 ? MRG : 0) | (rand() & 1 ? ANNOUNCE : 0));
		for (unsigned q = 0; q < 3; q++) {
			for (unsigned i = 0; i < QUEUE; i++) {
				static const u32 lens[] = { 0, 1, 12, 26, 72, 100, 1526, 4096, 65536, ~0u };
				bool odd = rand() % 64 == 0;
				u64 at = odd ? PAGE_2M - (u64)(rand() % 2000) : BUFFERS + (u64)(rand() % 4096);
				u16 flags = (q == RX ? DESC_WRITE : 0) | (i < QUEUE - 1 && rand() % 4 == 0 ? DESC_NEXT : 0);

				put_desc(q, (u16)i, at, lens[rand() % (odd ? 10 : 8)], odd ? (u16)(rand() % 8) : flags,
					 odd ? (u16)(rand() % (QUEUE + 1)) : (u16)(i + 1));
			}
			for (unsigned n = rand() % QUEUE; n; n--)
				make_available(q, (u16)(rand() % (rand() % 64 ? QUEUE : 65536)));
		}
		memset(ram + BUFFERS, rand() & 1 ? 0 : 2, 8192);
		for (unsigned i = 0; i < 100; i++)
			ram[BUFFERS + (u64)(rand() % 4096)] = (u8)rand();
		for (unsigned turn = 0; serve(); turn++) {
			assert_true(turn < 10);
			vswitch_poll();
		}
		vswitch_poll();
		arrives(rand() & 1 ? mac : (const u8 *)"\xff\xff\xff\xff\xff\xff", 14 + (unsigned)rand() % 1501);
		assert_int_equal(virtio_net_type.vdev.mig.post_load(dev, NULL), 0);
		sent = (unsigned)count().sent;
		received = (unsigned)count().received;
	}
	if (sent < 100 || received < 50)
		fail_msg("%u sent, %u received: that tests little", sent, received);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_transmit), T(test_transmit_malformed), T(test_turns_are_bounded), T(test_receive), T(test_receive_spread),
		T(test_receive_is_bounded),
		T(test_filter), T(test_moves), T(test_forward), T(test_hostile_state), T(test_unplugged), T(test_check), T(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
