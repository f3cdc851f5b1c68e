/* SPDX-License-Identifier: MIT */
/* Live migration: what the rest of Godwit calls. */
#pragma once
#include "hv/vm/vm.h"
#include "net/stream.h"

#define MIG_MAX_ROUNDS 64

struct mig_params {
	char host[NAME_MAX_LEN];   /* target's name, as in its certificate */
	u32 ip; u16 port;          /* host byte order */
	bool verify_full;
	u32 freeze_budget_ms, max_rounds;
};

struct mig_round { u64 pages, zero, bytes, us; };

/* What query-migrate shows. Times in microseconds unless named; enum texts by QMP names. */
struct mig_info {
	const char *status, *phase, *role;
	char guest[NAME_MAX_LEN], peer[NAME_MAX_LEN];
	u32 round;
	u64 total_bytes, transferred, remaining, zero_pages, normal_pages, resent_pages;
	u64 mbps, expected_downtime_us, downtime_us, downtime_ticks, total_us, setup_us, busy_ticks;
	struct mig_round rounds[MIG_MAX_ROUNDS];
	u32 n_rounds;
	bool verify_full, hash_verified;
	u64 hash, epoch;
	struct error error;
};

/* Once, before anything else: this host's name, as in its certificate. Fresh start: earlier moves are forgotten. */
void mig_init(const char *host_name);
/* Starts moving vm away. 0: accepted, progress by mig_query. */
int mig_start(struct vm *vm, const struct mig_params *p, struct error *e) __must_check;
/* Asks to give up; works in every phase before COMMIT. */
int mig_cancel(struct vm *vm, struct error *e) __must_check;
/* For a copy that waits for the outcome of its move and has been stopped (vm_stop): its host owns the name again, under an
 * epoch above all that the target may have. Only an operator can know that the guest does not run there. -E_STATE. */
int mig_give_up(struct vm *vm, struct error *e) __must_check;
/* Latest migration of that guest name on this host (kept after it ended). -E_NOENT: never. */
int mig_query(const char *guest, struct mig_info *out) __must_check;
/* A peer with role host connected with ALPN godwit-mig/1: takes over the stream. */
void mig_accept(struct stream *s);
/* Work for all migrations; bounded (a few hundred KiB). Returns true if there was something to do. */
bool mig_poll(void);
/* Save, wipe and reload in place; used by [debug] self-migrate-exits. Kills the guest if it differs. */
void mig_self(struct vm *vm);
/* Called on every MIGRATION status or phase change; net/ sends the event. */
void mig_changed(const struct mig_info *info);
