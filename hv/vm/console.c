/* SPDX-License-Identifier: MIT */
/* The guest's console: output is a ring of history, optionally copied line by line to the host's own serial port. */
#include "hv/vm/vm.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/vdev/devices.h"
#include "hv/vdev/virtio.h"

#include <string.h>

#define LINE_MAX 240

static void copy_line(struct vm *vm)
{
	char line[NAME_MAX_LEN + LINE_MAX + 3];
	unsigned n = (unsigned)strlen(vm->config.name), end = n + 2 + LINE_MAX;

	memcpy(line, vm->config.name, n);
	line[n++] = '|';
	line[n++] = ' ';

	for (; vm->console_line < vm->console_total; vm->console_line++) {
		u8 c = vm->console[vm->console_line % CONSOLE_RING_BYTES];

		if (c >= ' ' && c < 0x7f && n < end)
			line[n++] = (char)c;
	}
	line[n++] = '\n';
	log_raw(line, n);
}

void vm_console_out(struct vm *vm, u8 byte)
{
	if (!vm->first_output_tsc)
		vm->first_output_tsc = host_tsc();
	vm->console[vm->console_total % CONSOLE_RING_BYTES] = byte;
	__atomic_store_n(&vm->console_total, vm->console_total + 1, __ATOMIC_RELEASE); /* the service CPU reads up to it */
	if (vm->config.console_serial && (byte == '\n' || vm->console_total - vm->console_line >= LINE_MAX))
		copy_line(vm);
}

size_t vm_console_in(struct vm *vm, const u8 *buf, size_t len)
{
	struct vdev *uart = vm_vdev(vm, &uart_type, 0);
	size_t n;

	vm_lock(vm);
	n = virtio_console_active(vm) ? virtio_console_input(vm, buf, len) : uart ? uart_input(uart, buf, len) : 0;
	vm_unlock(vm);
	return n;
}
