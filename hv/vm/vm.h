/* SPDX-License-Identifier: MIT */
/* A guest: memory, clock, devices, vCPUs, life. Everything another part may do to a guest is here. */
#pragma once
#include "hv/config.h"
#include "hv/lib/spinlock.h"
#include "hv/mm/ept.h"
#include "hv/vm/vdev.h"

#define VM_MAX_VDEVS 40
#define VM_MAX_VCPUS CONFIG_MAX_VCPUS
#define VM_MAX_RANGES 24
#define VM_MAX 16
#define CONSOLE_RING_BYTES (64u << 10)

/* QMP RunState, by QEMU's names (vm_run_state_name()). */
enum run_state { RS_PRELAUNCH, RS_RUNNING, RS_PAUSED, RS_SHUTDOWN, RS_INMIGRATE, RS_FINISH_MIGRATE, RS_POSTMIGRATE,
                 RS_INTERNAL_ERROR, RS_GUEST_PANICKED };
const char *vm_run_state_name(enum run_state s);

/* The guest's clock at a pause. */
struct vm_clock_state { u64 guest_tsc, tsc_hz, boot_wall_seconds; };

/* What CPUID shows, fixed when the guest is made, so that it sees the same for ever (cpuid.c). */
#define CPUID_MAX_ENTRIES 48
struct cpuid_table {
	u32 n, reserved;
	u32 leaf[CPUID_MAX_ENTRIES], subleaf[CPUID_MAX_ENTRIES];
	u32 eax[CPUID_MAX_ENTRIES], ebx[CPUID_MAX_ENTRIES], ecx[CPUID_MAX_ENTRIES], edx[CPUID_MAX_ENTRIES];
};

struct pci_fn;
/* KVM's clock MSRs as the guest wrote them (kvmclock.c); 0: not in use. */
struct kvmclock_state { u64 wall_clock, system_time[CONFIG_MAX_VCPUS]; };

struct bus_range { u64 base, len; unsigned width; struct vdev *dev; bus_fn fn; };

struct vm {
	struct guest_config config;
	unsigned number;                 /* 1.. */
	enum run_state state;
	char reason[300];                /* why it is dead or paused, for people */
	/* Single owner (DESIGN): this host may run the guest only while owner is true. */
	bool owner;
	char owner_name[NAME_MAX_LEN];   /* host that owns it as far as we know */
	u64 epoch;                       /* grows by one with every change of owner */
	/* Memory: GPA 0..3 GiB, the rest from 4 GiB. */
	struct ept ept;
	hpa_t *ram_2m;                   /* backing of each 2 MiB, index gpa >> 21; {0} = hole; | RAM_COLD (guest_mem.c) */
	u64 ram_2m_count;                /* entries in ram_2m */
	u64 ram_bytes;
	u64 disk_base[CONFIG_MAX_DISKS]; /* RAM disks: pages above the RAM that move with it, but are in no EPT */
	u64 disk_pages;
	u64 *dirty;                      /* bit per gfn; NULL while tracking is off */
	u64 dirty_words;
	u64 ept_generation;              /* grows with every change that the CPUs' cached translations must not survive */
	/* Clock: guest TSC = scale(host TSC) + offset while running, paused_tsc otherwise. */
	bool clock_running;
	u64 tsc_hz, tsc_offset, tsc_mult; /* tsc_mult: 16.48 fixed point, BIT(48) = 1.0 */
	u64 paused_tsc;
	u64 boot_wall_seconds;
	u64 stopped_wall_us;             /* UTC when it was stopped last, 0: no time server vouched for it */
	struct kvmclock_state kvmclock;
	struct spinlock kvmclock_lock;   /* the guest's pages of it */
	struct vm_clock_state clock_state; /* valid between vm_state_sync() and the next run */
	struct cpuid_table cpuid;
	u8 cpuid_index[3][32];           /* first entry + 1 of basic, hypervisor and extended leaves */
	/* Devices. */
	struct spinlock lock;            /* device state; vm_lock() */
	struct vdev *vdevs[VM_MAX_VDEVS];
	struct blk_backend *disks[CONFIG_MAX_DISKS];
	char drain_why[160];             /* what vm_drain() waits for, for people */
	bool disks_wait;                 /* no vCPU runs yet: what a disk of the guest is like is not known */
	unsigned n_vdevs;
	struct bus_range pio[VM_MAX_RANGES], mmio[VM_MAX_RANGES];
	unsigned n_pio, n_mmio;
	struct pci_fn *pci[32];          /* functions by slot (hv/vdev/pci.h) */
	u64 next_deadline[VM_MAX_VCPUS]; /* min over the devices that each vCPU looks after (vdev.c) */
	bool kicked;                     /* some device wants service() */
	struct vcpu *vcpus[VM_MAX_VCPUS];
	unsigned n_vcpus;
	bool want_reset, want_poweroff;  /* asked for by the guest, done on the service CPU */
	bool want_kill, want_self_migration; /* a vCPU cannot go on (reason[] says why); it is time */
	bool panicked;                   /* want_kill because its kernel said that it has crashed */
	bool attention;                  /* leave the run loop: one of the above */
	u32 hold;                        /* > 0: no vCPU runs (vm_hold()) */
	u64 reset_after;                 /* host TSC before which the guest's next own reset waits */
	/* Console history: ring of the last CONSOLE_RING_BYTES, total bytes ever. */
	u8 *console;
	u64 console_line;                /* offset of the first byte not yet copied to the host's serial */
	u64 console_total;
	u64 started_us, self_migrations, next_self_migration; /* in exits of vCPU 0 */
	u64 exits_before;                /* of vCPUs that are gone */
	u64 first_output_tsc;            /* host TSC of the first console byte */
	void *mig;                       /* migration in progress (owned by mig/), or NULL */
	int debug_exit_code;             /* -1: none */
};

/* --- lifecycle.c --- */
extern struct vm *vms[VM_MAX]; /* NULL slots */
/* Host TSC ticks that network, control and moves have worked, waiting left out. Kept by hv/vm/sched.c. */
extern u64 service_ticks;
struct vm *vm_find(const char *name);
/* Makes an entry without memory or devices, as the config file has it (state PRELAUNCH, not owner). NULL with *e: name taken, too many. */
struct vm *vm_define(const struct guest_config *cfg, struct error *e);
/* Makes a guest whole (vm_define, then memory, devices, vCPUs in reset state). *e tells why not. */
struct vm *vm_create(const struct guest_config *cfg, struct error *e);
/* Whether it holds memory, devices and vCPUs (dead, defined and moved-away guests do not). */
bool vm_is_populated(const struct vm *vm);
/* Frees memory, devices and vCPUs; entry, console history and state stay. */
void vm_release(struct vm *vm);
/* Frees everything, removes it from vms[]. */
void vm_destroy(struct vm *vm);
/* Takes an entry that holds nothing any more out of vms[], so that its name is free; and puts it back. false: there is no place. */
void vm_delist(struct vm *vm);
bool vm_enlist(struct vm *vm) __must_check;
/* Loads kernel images (from boot files) into a fresh or dead guest, resets it and runs it. */
int vm_start(struct vm *vm, struct error *e) __must_check;
/* Hard off: state SHUTDOWN, memory contents dropped at next start. */
void vm_stop(struct vm *vm, const char *reason);
/* As by the reset button. What is paused stays so. */
int vm_reset(struct vm *vm, struct error *e) __must_check;
/* Stops vCPUs at the top of the run loop and the clock with them; nests not. state: PAUSED or FINISH_MIGRATE. */
void vm_pause(struct vm *vm, enum run_state state);
int vm_resume(struct vm *vm, struct error *e) __must_check; /* -E_STATE if not the owner */
/* The guest is broken (by its own hand): state INTERNAL_ERROR, reason kept and logged. */
void vm_kill(struct vm *vm, const char *fmt, ...) __printf(2, 3);
bool vm_is_dead(const struct vm *vm);
u64 vm_exits(const struct vm *vm);
/* CPU time that its vCPUs have had on this host since it started or came here, in microseconds of host time. */
u64 vm_run_us(const struct vm *vm);
/* Keeps all vCPUs out of the guest and of the exit handlers until vm_unhold(): for whatever is done to a guest as a whole.
 * Nests. On the service CPU, without the guest's lock. */
void vm_hold(struct vm *vm);
void vm_unhold(struct vm *vm);
/* Called by state changes; net/ sends the event. Weak no-op in tests. */
void vm_state_changed(struct vm *vm);

/* --- guest_mem.c: the only ways to guest memory. Every hypervisor write marks the page dirty. --- */
int guest_read(struct vm *vm, gpa_t at, void *buf, size_t len) __must_check;        /* -E_RANGE outside RAM */
int guest_write(struct vm *vm, gpa_t at, const void *buf, size_t len) __must_check;
/* A whole page of RAM for reading only, valid until the guest is destroyed; NULL if gfn is not RAM. */
const void *guest_page(const struct vm *vm, u64 gfn);
/* First gfn >= gfn that is RAM, or ~0. */
u64 guest_next_gfn(const struct vm *vm, u64 gfn);
u64 guest_gfn_end(const struct vm *vm); /* one past the highest gfn */
u64 guest_ram_pages(const struct vm *vm); /* RAM disks included */

/* --- dirty.c: log of pages written since the last harvest, by the guest (EPT D bits) or by us --- */
int dirty_start(struct vm *vm) __must_check;  /* splits EPT, all clean; -E_NOMEM leaves tracking off */
void dirty_stop(struct vm *vm);
void dirty_mark(struct vm *vm, u64 gfn);
/* ORs what was written since the last harvest into bitmap (words as vm->dirty_words) and clears the log. Guest must be at the
 * top of the run loop. Returns the number of bits newly set in bitmap. */
u64 dirty_harvest(struct vm *vm, u64 *bitmap);

/* --- console.c --- */
/* Bytes typed, for the port that the guest has written to last. Returns how many were taken. Takes the guest's lock. */
size_t vm_console_in(struct vm *vm, const u8 *buf, size_t len);

/* --- vm_state.c: what moves. Iterates over clock, devices, vCPUs, sorted by phase. --- */
/* i-th instance (0..), false at the end. */
bool vm_mig_instance(struct vm *vm, unsigned i, struct mig_instance *out);
/* Before a save: vCPU hardware state -> vcpu_state. After a load: vcpu_state -> hardware, interrupt lines settled. */
void vm_state_sync(struct vm *vm);
void vm_state_loaded(struct vm *vm);

/* --- what mig/ needs besides (hv/vm/) --- */
/* What this guest may have seen of this host's CPU (XCR0, feature words, TSC rate...), opaque to mig/: fills buf.
 * Returns bytes used, or -E_RANGE. */
int vm_cpu_compat_save(struct vm *vm, u8 *buf, size_t cap) __must_check;
/* Whether this host can run a guest that saw that; the block is hostile until checked. -E_UNSUPPORTED with *e
 * naming what is missing, -E_PROTO if it is malformed. */
int vm_cpu_compat_check(const u8 *buf, size_t len, struct error *e) __must_check;
/* The guest lives on host `to` from now on: frees memory, devices and vCPUs; the entry stays (POSTMIGRATE, not owner). */
void vm_moved_away(struct vm *vm, const char *to, u64 epoch);
