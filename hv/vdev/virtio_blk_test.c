/* SPDX-License-Identifier: MIT */
/* The block device from the driver's side, over a RAM disk, an image, and a back end that does what the test says. */
#include "hv/fake/fake.h"
#include "hv/fake/virtio_fake.h"
#include "hv/vm/blk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define HEAD (VIRTIO_FAKE_BUFFERS)
#define DATA (VIRTIO_FAKE_BUFFERS + 0x1000)
#define STATUS (VIRTIO_FAKE_BUFFERS + 0x80000)
#define DISK_BYTES (1u << 20)
#define F_RO BIT(5)
#define F_FLUSH BIT(9)
#define F_ALL (F_FLUSH | BIT(13) | BIT(14))

static struct virtio_fake d;
static struct vm *vm;
static struct vdev *dev;

/* --- a back end --- */

static struct {
	struct blk_backend be;
	struct blk_req *held[BLK_MAX_REQUESTS];
	unsigned n, submitted, forgotten;
	bool rest, drained, up;
} fake;

static void fake_submit(struct blk_backend *be, struct blk_req *req)
{
	assert_true(fake.n < BLK_MAX_REQUESTS);
	assert_false(fake.drained);
	fake.held[fake.n++] = req;
	fake.submitted++;
}

static void fake_forget(struct blk_backend *be) { fake.forgotten += fake.n; fake.n = 0; }
static bool fake_poll(struct blk_backend *be) { return false; }
static int fake_ready(struct blk_backend *be, struct error *e) { return fake.up ? 1 : error_set(e, E_IO, "away") * 0; }
static bool fake_drain(struct blk_backend *be) { fake.drained = fake.rest; return fake.rest; }
static void fake_undrain(struct blk_backend *be) { fake.drained = false; }
static void fake_close(struct blk_backend *be) { }
static const struct blk_ops fake_ops = { fake_submit, fake_forget, fake_poll, fake_ready, fake_drain, fake_undrain, fake_close };

/* Answers the i-th request held. */
static void fake_answer(unsigned i, int err)
{
	struct blk_req *req = fake.held[i];

	memmove(&fake.held[i], &fake.held[i + 1], (--fake.n - i) * sizeof(fake.held[0]));
	vm_lock(vm);
	fake.be.front->done(&fake.be, req, err);
	vm_unlock(vm);
	vdev_kick(dev);
}

/* --- the guest --- */

static void make(enum disk_kind kind, bool read_only)
{
	struct error e = { 0 };

	memset(&fake, 0, sizeof(fake));
	vm = virtio_fake_vm();
	vm->state = RS_RUNNING;
	strcpy(vm->config.name, "web");
	vm->config.n_disks = 1;
	vm->config.disks[0] = (struct disk_config){ .kind = kind, .bytes = DISK_BYTES, .read_only = read_only, .image = "disk.img" };
	if (kind == DISK_NBD) {
		fake.up = true;
		fake.be.ops = &fake_ops;
		fake.be.info = (struct blk_info){ DISK_BYTES, 0, 512, BLK_CAN_FLUSH | BLK_CAN_DISCARD | BLK_CAN_WRITE_ZEROES };
		snprintf(fake.be.name, sizeof(fake.be.name), "nbd://10.0.0.1:10809/root");
		vm->disks[0] = &fake.be;
	} else {
		vm->disk_base[0] = 2 << 20; /* the upper half of its memory */
		vm->disks[0] = blk_open(vm, 0, &e);
		if (!vm->disks[0])
			fail_msg("%s", e.text);
	}
	dev = vdev_fake_add(vm, &virtio_blk_type.vdev, 0);
	virtio_fake_start(&d, dev, read_only ? F_RO : kind == DISK_IMAGE ? 0 : F_ALL, 128);
	virtio_fake_service(vm);
}

static void drop(void)
{
	if (vm->disks[0] && vm->disks[0] != &fake.be)
		vm->disks[0]->ops->close(vm->disks[0]);
	virtio_fake_free(vm);
}

static void poke(u64 at, const void *buf, size_t len) { assert_int_equal(guest_write(vm, gpa(at), buf, len), 0); }
static void peek(u64 at, void *buf, size_t len) { assert_int_equal(guest_read(vm, gpa(at), buf, len), 0); }

/* Request n: descriptors 4n.., its own status byte; data_len may be 0. */
static void request(unsigned n, u32 type, u64 sector, u64 data, u32 data_len, bool in)
{
	struct { u32 type, reserved; u64 sector; } head = { type, 0, sector };
	u8 status = 0xee;

	poke(HEAD + 16 * n, &head, sizeof(head));
	poke(STATUS + n, &status, 1);
	virtio_fake_desc(&d, 0, 4 * n, HEAD + 16 * n, 16, VQ_NEXT, (u16)(data_len ? 4 * n + 1 : 4 * n + 2));
	virtio_fake_desc(&d, 0, 4 * n + 1, data, data_len, (u16)(VQ_NEXT | (in ? VQ_WRITE : 0)), (u16)(4 * n + 2));
	virtio_fake_desc(&d, 0, 4 * n + 2, STATUS + n, 1, VQ_WRITE, 0);
	virtio_fake_avail(&d, 0, (u16)(4 * n));
}

static u8 status_of(unsigned n)
{
	u8 s;

	peek(STATUS + n, &s, 1);
	return s;
}

/* One request, carried out; its status. */
static u8 io(u32 type, u64 sector, u32 len, bool in)
{
	u32 id, written;

	request(0, type, sector, DATA, len, in);
	virtio_fake_service(vm);
	assert_true(virtio_fake_used(&d, 0, &id, &written));
	assert_int_equal(id, 0);
	assert_int_equal(written, in && !status_of(0) ? len + 1 : 1);
	return status_of(0);
}

static u8 range(u32 type, u64 sector, u32 sectors, u32 flags)
{
	struct { u64 sector; u32 sectors, flags; } r = { sector, sectors, flags };

	poke(DATA, &r, sizeof(r));
	return io(type, 0, sizeof(r), false);
}

static void test_ram_disk(void **state)
{
	u8 a[8192], b[8192];
	u64 capacity;

	make(DISK_RAM, false);
	capacity = virtio_fake_mmio_read(vm, d.bar + 0x2000, 4);
	assert_int_equal(capacity, DISK_BYTES / 512);
	for (unsigned i = 0; i < sizeof(a); i++)
		a[i] = (u8)(i * 7 + i / 256);
	poke(DATA, a, sizeof(a));
	assert_int_equal(io(1, 5, sizeof(a), false), 0);
	memset(b, 0, sizeof(b));
	poke(DATA, b, sizeof(b));
	assert_int_equal(io(0, 5, sizeof(b), true), 0);
	peek(DATA, b, sizeof(b));
	assert_memory_equal(a, b, sizeof(a));
	assert_int_equal(io(4, 0, 0, false), 0);
	assert_int_equal(range(13, 6, 2, 0), 0);
	assert_int_equal(range(11, 9, 1, 0), 0);
	memset(a + 512, 0, 1024);
	memset(a + 2048, 0, 512);
	assert_int_equal(io(0, 5, sizeof(b), true), 0);
	peek(DATA, b, sizeof(b));
	assert_memory_equal(a, b, sizeof(a));
	assert_int_equal(io(8, 0, 20, true), 0);
	peek(DATA, b, 20);
	assert_string_equal((char *)b, "web-0");
	drop();
}

/* What the driver must not ask for, and the last thing that it may. */
static void test_limits(void **state)
{
	make(DISK_RAM, false);
	assert_int_equal(io(0, DISK_BYTES / 512 - 1, 512, true), 0);
	assert_int_equal(io(0, DISK_BYTES / 512 - 1, 1024, true), 1);
	assert_int_equal(io(0, DISK_BYTES / 512, 512, true), 1);
	assert_int_equal(io(1, ~0ull, 512, false), 1);
	assert_int_equal(io(1, ~0ull / 512, 1024, false), 1);
	assert_int_equal(io(0, 0, 100, true), 1);
	assert_int_equal(io(0, 0, 0, true), 0);
	assert_int_equal(io(77, 0, 512, true), 2);
	assert_int_equal(io(8, 0, 19, true), 1);
	assert_int_equal(range(11, 0, ~0u, 0), 1);
	assert_int_equal(range(11, DISK_BYTES / 512, 1, 0), 1);
	assert_int_equal(range(11, 0, 1, 1), 2);
	assert_int_equal(range(13, 0, 1, 2), 2);
	assert_int_equal(range(13, 0, 1, 1), 0);
	assert_int_equal(io(11, 0, 15, false), 1);
	assert_int_equal(io(11, 0, 32, false), 1);
	assert_int_equal(virtio_fake_status(&d) & VIRTIO_NEEDS_RESET, 0);
	drop();
}

static void test_read_only(void **state)
{
	static u8 image[4096 + 100];
	u8 b[4096];

	memset(image, 0x5a, sizeof(image));
	fake_boot_info.n_files = 1;
	strcpy(fake_boot_info.files[0].name, "disk.img");
	fake_boot_info.files[0].data = image;
	fake_boot_info.files[0].size = sizeof(image);
	make(DISK_IMAGE, true);
	assert_int_equal(virtio_fake_mmio_read(vm, d.bar + 0x2000, 4), 8);
	assert_int_equal(io(0, 0, 4096, true), 0);
	peek(DATA, b, sizeof(b));
	assert_memory_equal(b, image, sizeof(b));
	assert_int_equal(io(1, 0, 512, false), 1);
	assert_int_equal(range(11, 0, 1, 0), 1);
	assert_int_equal(range(13, 0, 1, 0), 1);
	assert_int_equal(image[0], 0x5a);
	drop();
	make(DISK_RAM, true);
	assert_int_equal(io(1, 0, 512, false), 1);
	drop();
	fake_boot_info.n_files = 0;
}

static void expect_broken(void)
{
	virtio_fake_service(vm);
	assert_true(virtio_fake_status(&d) & VIRTIO_NEEDS_RESET);
	/* The driver resets it, and it works again. */
	virtio_fake_start(&d, dev, F_ALL, 128);
	assert_int_equal(io(0, 0, 512, true), 0);
	drop();
}

static void test_hostile(void **state)
{
	/* No room for the status. */
	make(DISK_RAM, false);
	virtio_fake_desc(&d, 0, 0, HEAD, 16, 0, 0);
	virtio_fake_avail(&d, 0, 0);
	expect_broken();
	/* No header: an error, not the end. */
	make(DISK_RAM, false);
	virtio_fake_desc(&d, 0, 0, HEAD, 15, VQ_NEXT, 1);
	virtio_fake_desc(&d, 0, 1, STATUS, 1, VQ_WRITE, 0);
	virtio_fake_avail(&d, 0, 0);
	virtio_fake_service(vm);
	assert_int_equal(status_of(0), 1);
	drop();
	/* Data, header, status outside of memory. */
	for (int what = 0; what < 4; what++) {
		u64 nowhere = what < 3 ? 1ull << 40 : ~0ull - 100;

		make(DISK_RAM, false);
		request(0, what & 1, 0, what == 3 || what == 0 || what == 1 ? nowhere : DATA, 4096, !(what & 1));
		if (what == 2) {
			virtio_fake_desc(&d, 0, 2, nowhere, 1, VQ_WRITE, 0);
		}
		expect_broken();
	}
}

static unsigned used(void)
{
	u32 id, len;
	unsigned n = 0;

	while (virtio_fake_used(&d, 0, &id, &len))
		n++;
	return n;
}

/* A back end that takes its time, answers in another order, and fails. */
static void test_asynchronous(void **state)
{
	u32 id, len;

	make(DISK_NBD, false);
	for (unsigned n = 0; n < 30; n++)
		request(n, n & 1, n, DATA, 512, !(n & 1));
	virtio_fake_service(vm);
	assert_int_equal(fake.n, 30);
	assert_int_equal(used(), 0);
	fake_answer(3, 0);
	fake_answer(0, -E_IO);
	virtio_fake_service(vm);
	assert_true(virtio_fake_used(&d, 0, &id, &len));
	assert_int_equal(id, 12);
	assert_int_equal(status_of(3), 0);
	assert_true(virtio_fake_used(&d, 0, &id, &len));
	assert_int_equal(id, 0);
	assert_int_equal(status_of(0), 1);
	while (fake.n)
		fake_answer(fake.n - 1, 0);
	virtio_fake_service(vm);
	assert_int_equal(used(), 28);
	drop();
}

/* A kernel that starts another one forbids its devices the memory, and says no more to them than that. */
static void test_no_bus_master(void **state)
{
	make(DISK_NBD, false);
	request(0, 0, 0, DATA, 512, true);
	virtio_fake_service(vm);
	assert_int_equal(fake.n, 1);
	virtio_fake_config_write(vm, VIRTIO_SLOT_BLK, 4, 2, PCI_COMMAND_MEMORY);
	virtio_fake_service(vm);
	assert_int_equal(fake.n, 0);
	assert_int_equal(fake.forgotten, 1);
	/* Should it have meant nothing by it, nothing is lost. */
	virtio_fake_config_write(vm, VIRTIO_SLOT_BLK, 4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	virtio_fake_service(vm);
	assert_int_equal(fake.n, 1);
	fake_answer(0, 0);
	virtio_fake_service(vm);
	assert_int_equal(used(), 1);
	assert_int_equal(status_of(0), 0);
	drop();
}

/* A guest that has its RAM disk cleared again and again gets turns, as everybody else. */
static void test_turn(void **state)
{
	struct { u64 sector; u32 sectors, flags; } all = { 0, DISK_BYTES / 512, 0 };
	unsigned first;

	make(DISK_RAM, false);
	poke(DATA, &all, sizeof(all));
	for (unsigned n = 0; n < 20; n++)
		request(n, 13, 0, DATA, sizeof(all), false);
	assert_true(vm_service(vm));
	first = used();
	assert_in_range(first, 1, 10);
	virtio_fake_service(vm);
	assert_int_equal(first + used(), 20);
	drop();
}

/* More than it takes at a time: the rest waits in the ring. */
static void test_full(void **state)
{
	make(DISK_NBD, false);
	for (unsigned round = 0; round < 4; round++)
		for (unsigned n = 0; n < 30; n++)
			request(n, 0, n, DATA, 512, true);
	virtio_fake_service(vm);
	assert_int_equal(fake.n, BLK_MAX_REQUESTS);
	for (unsigned n = 0; n < 120; n++) {
		assert_true(fake.n);
		fake_answer(0, 0);
		virtio_fake_service(vm);
	}
	assert_int_equal(fake.n, 0);
	assert_int_equal(used(), 120);
	drop();
}

/* Before a move: nothing new goes out, what is left is state, and another instance carries it out. */
static void test_drain_and_load(void **state)
{
	u8 *saved;
	struct error e = { 0 };
	u32 size = virtio_blk_type.vdev.mig.state_size;

	make(DISK_NBD, false);
	for (unsigned n = 0; n < 5; n++)
		request(n, 1, n, DATA, 512, false);
	virtio_fake_service(vm);
	assert_false(vm_drain(vm));
	assert_non_null(strstr(vm->drain_why, "its disk 0 has requests that nbd://10.0.0.1:10809/root does not answer"));
	request(5, 1, 5, DATA, 512, false);
	virtio_fake_service(vm);
	assert_int_equal(fake.submitted, 5);
	fake_answer(1, 0);
	fake.rest = true; /* the connection is dead */
	assert_true(vm_drain(vm));
	assert_int_equal(fake.forgotten, 4);
	virtio_fake_service(vm);
	assert_int_equal(fake.n, 0);
	/* The move is off: done anew, in order, and then the one that waited. */
	vm_undrain(vm);
	virtio_fake_service(vm);
	assert_int_equal(fake.n, 5);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(fake.held[i]->offset, 512 * (i ? i + 1 : 0));
	assert_true(vm_drain(vm));
	/* As on the target: all that is not state is gone. */
	saved = malloc(size);
	memcpy(saved, vdev_fake_state(dev), size);
	memset((u8 *)dev + sizeof(struct virtio) + size, 0, virtio_blk_type.vdev.size - sizeof(struct virtio) - size);
	memcpy(vdev_fake_state(dev), saved, size);
	fake.n = 0;
	fake.drained = false;
	assert_int_equal(virtio_blk_type.vdev.mig.post_load(dev, &e), 0);
	virtio_fake_service(vm);
	assert_int_equal(fake.n, 5);
	while (fake.n)
		fake_answer(0, 0);
	virtio_fake_service(vm);
	assert_int_equal(used(), 6);
	for (unsigned n = 0; n < 6; n++)
		assert_int_equal(status_of(n), 0);
	free(saved);
	drop();
}

static void test_bad_state(void **state)
{
	struct error e = { 0 };
	u64 *n_taken;
	u16 *taken;

	make(DISK_NBD, false);
	n_taken = (u64 *)((u8 *)vdev_fake_state(dev) + sizeof(struct virtio_state));
	taken = (u16 *)(n_taken + 1);
	assert_int_equal(virtio_blk_type.vdev.mig.post_load(dev, &e), 0);
	*n_taken = BLK_MAX_REQUESTS + 1;
	assert_int_equal(virtio_blk_type.vdev.mig.post_load(dev, &e), -E_INVAL);
	*n_taken = 1;
	taken[0] = 128;
	assert_int_equal(virtio_blk_type.vdev.mig.post_load(dev, &e), -E_INVAL);
	taken[0] = 127;
	assert_int_equal(virtio_blk_type.vdev.mig.post_load(dev, &e), 0);
	taken[1] = 1;
	assert_int_equal(virtio_blk_type.vdev.mig.post_load(dev, &e), -E_INVAL);
	taken[1] = 0;
	/* It loads, and then its chain is nonsense: the device is broken, not the host. */
	virtio_fake_desc(&d, 0, 127, HEAD, 16, VQ_NEXT, 127);
	virtio_fake_service(vm);
	assert_true(virtio_fake_status(&d) & VIRTIO_NEEDS_RESET);
	drop();
}

/* The driver resets the device while requests are under way: they are forgotten before anything new is taken. */
static void test_reset(void **state)
{
	make(DISK_NBD, false);
	request(0, 0, 0, DATA, 512, true);
	request(1, 1, 1, DATA, 512, false);
	virtio_fake_service(vm);
	assert_int_equal(fake.n, 2);
	virtio_fake_start(&d, dev, F_ALL, 128);
	request(2, 1, 7, DATA, 512, false);
	virtio_fake_service(vm);
	assert_int_equal(fake.forgotten, 2);
	assert_int_equal(fake.n, 1);
	assert_int_equal(fake.held[0]->offset, 7 * 512);
	fake_answer(0, 0);
	virtio_fake_service(vm);
	assert_int_equal(used(), 1);
	drop();
}

/* A driver without FLUSH counts on every write being durable. */
static void test_write_through(void **state)
{
	make(DISK_NBD, false);
	request(0, 1, 0, DATA, 512, false);
	virtio_fake_service(vm);
	assert_false(fake.held[0]->fua);
	virtio_fake_start(&d, dev, 0, 128);
	request(0, 1, 0, DATA, 512, false);
	virtio_fake_service(vm);
	assert_true(fake.held[0]->fua);
	drop();
}

/* The vCPUs wait until all disks are known; the check before a move says what differs. */
static void test_known(void **state)
{
	struct error e = { 0 };
	struct blk_info was;

	make(DISK_NBD, false);
	assert_false(vm->disks_wait);
	was = fake.be.info;
	fake.be.info.bytes = 0;
	fake.up = false;
	vm_disks_known(vm);
	assert_true(vm->disks_wait);
	assert_non_null(strstr(vm->reason, "waits for its disk 0: away"));
	assert_int_equal(vm_disks_check(vm, &was, &e), 0);
	fake.up = true;
	fake.be.info = was;
	fake.be.info.features |= BLK_CAN_FUA;
	assert_int_equal(vm_disks_check(vm, &was, &e), 1);
	assert_false(vm->disks_wait);
	assert_int_equal(fake.be.info.features, was.features);
	for (int i = 0; i < 4; i++) {
		struct blk_info other = was;

		e.code = 0;
		switch (i) {
		case 0: other.bytes += 512; break;
		case 1: other.features |= BLK_READ_ONLY; break;
		case 2: other.hash++; break;
		case 3: other.features |= BLK_CAN_FUA; break;
		}
		assert_int_equal(vm_disks_check(vm, &other, &e), -E_STATE);
		assert_non_null(strstr(e.text, "is another one here"));
	}
	drop();
}

static unsigned polled;

static bool count_poll(struct blk_backend *be)
{
	polled++;
	return false;
}

/* One disk that is away does not keep the next from being connected. */
static void test_all_are_polled(void **state)
{
	struct blk_ops ops = fake_ops;
	struct blk_backend second = { .ops = &ops };
	struct blk_info was[2] = { 0 };
	struct error e = { 0 };

	make(DISK_NBD, false);
	ops.poll = count_poll;
	vm->disks[1] = &second;
	vm->config.n_disks = 2;
	fake.up = false;
	polled = 0;
	assert_int_equal(vm_disks_check(vm, was, &e), 0);
	assert_int_equal(polled, 1);
	assert_non_null(strstr(e.text, "disk 0 of guest web: away"));
	vm->config.n_disks = 1;
	vm->disks[1] = NULL;
	drop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_are_polled), cmocka_unit_test(test_ram_disk), cmocka_unit_test(test_limits), cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_hostile), cmocka_unit_test(test_asynchronous), cmocka_unit_test(test_full),
		cmocka_unit_test(test_drain_and_load), cmocka_unit_test(test_bad_state), cmocka_unit_test(test_reset),
		cmocka_unit_test(test_write_through), cmocka_unit_test(test_no_bus_master),
		cmocka_unit_test(test_turn), cmocka_unit_test(test_known),
	};

	fake_memory(16u << 20);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
