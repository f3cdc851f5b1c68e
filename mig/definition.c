/* SPDX-License-Identifier: MIT */
/* CONFIG: all that a target must know to make the guest and to refuse it in time, written and read. */
#include "mig/session.h"

#include <string.h>

/* Definitions, and what the guest has seen of them. */
static void put_disks(struct wire_writer *w, const struct vm *vm)
{
	wire_put_u16(w, (u16)vm->config.n_disks);
	for (u32 i = 0; i < vm->config.n_disks; i++) {
		const struct disk_config *d = &vm->config.disks[i];
		struct blk_info info = vm->disks[i] ? vm->disks[i]->info : (struct blk_info){ 0 };

		wire_put_u32(w, d->kind);
		wire_put_u32(w, (d->tls ? 1u : 0u) | (d->read_only ? 2u : 0u));
		wire_put_u64(w, d->bytes);
		wire_put_u32(w, d->address);
		wire_put_u32(w, d->timeout_ms);
		wire_put_u16(w, d->port);
		wire_put_str(w, d->image);
		wire_put_str(w, d->export_name);
		wire_put_str(w, d->serial);
		wire_put_u64(w, info.bytes);
		wire_put_u64(w, info.hash);
		wire_put_u32(w, info.block);
		wire_put_u32(w, info.features);
	}
}

int definition_send(struct mig_session *s, struct error *e)
{
	struct vm *vm = s->vm;
	const struct guest_config *c = &vm->config;
	struct wire_writer *w = session_begin(s, WIRE_CONFIG);
	u8 cpu[2048];
	int n = vm_cpu_compat_save(vm, cpu, sizeof(cpu));

	if (n < 0)
		return error_set(e, E_RANGE, "the CPU description of guest %s is too large", c->name);
	wire_put_u64(w, c->memory_bytes);
	wire_put_u64(w, vm_tsc_hz(vm));
	wire_put_u32(w, c->vcpus);
	wire_put_u32(w, c->weight);
	wire_put_u32(w, (c->debug_exit ? 1u : 0u) | (c->console_serial ? 2u : 0u));
	wire_put_str(w, c->name);
	wire_put_str(w, c->os_type);
	wire_put_str(w, c->cpu);
	wire_put_str(w, c->kernel);
	wire_put_str(w, c->initrd);
	wire_put_str(w, c->cmdline);
	wire_put_u16(w, (u16)c->n_modules);
	for (u32 i = 0; i < c->n_modules; i++)
		wire_put_str(w, c->modules[i]);
	wire_put_u16(w, (u16)c->n_nics);
	for (u32 i = 0; i < c->n_nics; i++) {
		wire_put_str(w, c->nics[i].network);
		wire_put_bytes(w, c->nics[i].mac, sizeof(c->nics[i].mac));
		wire_put_u16(w, c->nics[i].vlan);
	}
	wire_put_u16(w, (u16)n);
	wire_put_bytes(w, cpu, (size_t)n);
	put_disks(w, vm);
	s->disks_unknown = vm->disks_wait;
	return wire_end(&s->out) ? error_set(e, E_RANGE, "the definition of guest %s is too large", c->name) : 0;
}

static void read_nics(struct wire_reader *r, struct guest_config *c)
{
	c->n_nics = wire_u16(r);
	if (c->n_nics > CONFIG_MAX_NICS)
		r->bad = true;
	for (u32 i = 0; !r->bad && i < c->n_nics; i++) {
		struct nic_config *nic = &c->nics[i];
		const u8 *mac;

		wire_str(r, nic->network, sizeof(nic->network));
		mac = wire_bytes(r, sizeof(nic->mac));
		if (mac)
			memcpy(nic->mac, mac, sizeof(nic->mac));
		nic->vlan = wire_u16(r);
		r->bad |= config_name_wrong(nic->network) || !config_mac_ok(nic->mac) || nic->vlan > VLAN_MAX;
	}
}

static void read_disks(struct wire_reader *r, struct guest_config *c, struct blk_info *info)
{
	c->n_disks = wire_u16(r);
	if (c->n_disks > CONFIG_MAX_DISKS)
		r->bad = true;
	for (u32 i = 0; !r->bad && i < c->n_disks; i++) {
		struct disk_config *d = &c->disks[i];
		u32 flags;

		d->kind = wire_u32(r);
		flags = wire_u32(r);
		d->tls = flags & 1;
		d->read_only = flags >> 1 & 1;
		d->bytes = wire_u64(r);
		d->address = wire_u32(r);
		d->timeout_ms = wire_u32(r);
		d->port = wire_u16(r);
		wire_str(r, d->image, sizeof(d->image));
		wire_str(r, d->export_name, sizeof(d->export_name));
		wire_str(r, d->serial, sizeof(d->serial));
		info[i].bytes = wire_u64(r);
		info[i].hash = wire_u64(r);
		info[i].block = wire_u32(r);
		info[i].features = wire_u32(r);
		if (d->kind > DISK_NBD || flags > 3 || (d->kind == DISK_RAM && (!d->bytes || d->bytes % 512 || d->bytes > 1ull << 40)) ||
		    (d->kind == DISK_NBD && !d->port) || (d->kind == DISK_IMAGE && !d->image[0]) || info[i].bytes % 512 ||
		    (info[i].bytes && (info[i].block < 512 || info[i].block > 4096 || info[i].block & (info[i].block - 1))))
			r->bad = true;
	}
}

int definition_read(struct mig_session *s, struct wire_reader *r, struct definition *d, struct error *e)
{
	struct guest_config *c = &d->config;
	u32 flags;

	s->key.id = wire_u64(r);
	s->key.epoch = wire_u64(r);
	c->memory_bytes = wire_u64(r);
	d->tsc_hz = wire_u64(r);
	c->vcpus = wire_u32(r);
	c->weight = wire_u32(r);
	flags = wire_u32(r);
	c->debug_exit = flags & 1;
	c->console_serial = flags >> 1 & 1;
	wire_str(r, c->name, sizeof(c->name));
	wire_str(r, c->os_type, sizeof(c->os_type));
	wire_str(r, c->cpu, sizeof(c->cpu));
	wire_str(r, c->kernel, sizeof(c->kernel));
	wire_str(r, c->initrd, sizeof(c->initrd));
	wire_str(r, c->cmdline, sizeof(c->cmdline));
	c->n_modules = wire_u16(r);
	if (c->n_modules > CONFIG_MAX_MODULES)
		r->bad = true;
	for (u32 i = 0; !r->bad && i < c->n_modules; i++)
		wire_str(r, c->modules[i], sizeof(c->modules[i]));
	read_nics(r, c);
	d->cpu_len = wire_u16(r);
	d->cpu = wire_bytes(r, d->cpu_len);
	read_disks(r, c, s->disks);
	if (!wire_done(r) || flags > 3)
		return error_set(e, E_PROTO, "host %s sent a malformed guest definition", s->peer);
	if (config_name_wrong(c->name))
		return error_set(e, E_PROTO, "host %s sent a guest with an unusable name", s->peer);
	if (c->memory_bytes % PAGE_2M || c->memory_bytes < (4u << 20) || c->memory_bytes > 1ull << 40)
		return error_set(e, E_PROTO, "guest %s has %llu bytes of memory, which cannot be", c->name,
				 (unsigned long long)c->memory_bytes);
	if (c->vcpus < 1 || c->vcpus > VM_MAX_VCPUS)
		return error_set(e, E_UNSUPPORTED, "guest %s has %u vCPUs, this version of Godwit runs guests with 1 to %u", c->name,
				 c->vcpus, VM_MAX_VCPUS);
	if (c->weight == 0 || c->weight > CONFIG_MAX_WEIGHT)
		return error_set(e, E_PROTO, "guest %s has the weight %u, which cannot be", c->name, c->weight);
	if (s->key.epoch == 0)
		return error_set(e, E_PROTO, "guest %s comes with epoch 0", c->name);
	return 0;
}
