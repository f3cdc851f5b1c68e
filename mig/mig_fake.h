/* SPDX-License-Identifier: MIT */
/* Two hosts in one process, for tests of mig/ alone: guests are RAM, a counter and a few bytes of state; links are
 * byte queues that break on demand; time moves when a test says so. Nothing of hv/ but error texts is used. */
#pragma once
#include "hv/keep.h"
#include "mig/session.h"
#include "net/forward.h"

enum { FAKE_A, FAKE_B, FAKE_HOSTS };
#define FAKE_GUEST "g1"
#define FAKE_GUEST_BYTES (4ul << 20)

/* The state struct of the fake CPU; `even` must be even, or post_load refuses it. */
struct fake_cpu { u64 counter, even; u32 regs[8]; u8 bytes[16]; };
struct fake_vm { struct vm vm; u8 *ram; struct fake_cpu cpu; u64 rng; bool drained; struct blk_backend *disks; };
static inline struct fake_vm *fake_vm(struct vm *vm) { return container_of(vm, struct fake_vm, vm); }

enum fake_fault { FAULT_NONE, FAULT_CUT, FAULT_CUT_ONE_SIDE, FAULT_BLACK_HOLE, FAULT_FLIP };
/* What happens to the n-th link made (0..) when `at` bytes have gone in direction dir (0: from the connecting side). */
struct fake_plan { enum fake_fault fault; unsigned link, dir; u64 at; u8 flip; };

struct fake_world {
	struct mig_host mig[FAKE_HOSTS];
	struct vm *vms[FAKE_HOSTS][VM_MAX];
	int host;                        /* whose code runs now */
	u64 now_us;
	bool wall_synced;                /* both hosts' wall clocks are right */
	unsigned links;                  /* made so far */
	bool net_down;                   /* connections fail */
	struct fake_plan plan;
	u64 record[2][4096];             /* frame starts seen on link 0, per direction */
	unsigned n_record[2];
	u64 carried[2];                  /* bytes on link 0 */
	s64 allocs_left;                 /* on host B; < 0: no limit */
	u64 live_allocs;
	u64 frozen_digest;               /* of the guest when it was frozen last */
	unsigned resumes, kills;
	u32 writes_per_run;              /* pages the guest dirties in one turn */
	bool prints;                     /* the guest, as fast as its move sends: it has another CPU than mig/ */
	bool never_drains, disk_refused;
	u32 drain_turns, disk_away;      /* calls that say no before one says yes */
	struct disk_config disks[CONFIG_MAX_DISKS]; /* of the guest, see fake_disks() */
	lan_forward_fn give;             /* frames for a guest that has moved away; NULL: no longer */
	void *give_arg;
	unsigned injected;               /* that came to it; the last one: */
	u32 injected_card, injected_len;
	u8 injected_byte;
	bool autostart[FAKE_HOSTS];      /* its godwit.conf has the guest, and starts it */
	u32 nvram_writes;                /* to the firmware's variables, on both hosts */
	u32 cut_at;                      /* the power of the host that begins this write (1: the first) goes; 0: never */
	bool cut_after;                  /* just after it is done, else just before */
	enum err nvram_fails;            /* what every write ends with instead */
	bool bad_state;                  /* the source's state is one that post_load refuses */
};
extern struct fake_world *world;

/* A fresh world with both hosts up and a running guest on A: about a quarter of its pages have content. */
void fake_setup(u64 seed);
/* Frees everything and returns how many allocations were still live besides guests (must be 0). */
u64 fake_teardown(void);
/* Gives the guest n disks, and what it has seen of them. */
void fake_disks(u32 n);
void fake_switch(int host);
/* Forgets everything that a restart would (guests too), then starts what the host would start by itself. */
void fake_restart(int host);
/* One turn of both hosts: guests run, moves go on, time passes; checks the invariants that hold always. */
void fake_step(u64 us);
struct vm *fake_guest(int host);
u64 fake_digest(struct vm *vm);
int fake_move(int from, bool full, struct error *e);
/* Whether any move is still going on, on either host. */
bool fake_busy(void);
/* Breaks the link under s for both ends; what is in flight is lost. */
void fake_cut(struct stream *s);
/* A pipe whose far end is `far`: for tests and fuzzers that play the peer by hand. */
struct stream *fake_pipe(const char *near_peer, const char *far_peer, struct stream **far);
