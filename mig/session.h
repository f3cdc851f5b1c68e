/* SPDX-License-Identifier: MIT */
/* What both ends of a move share. Private to mig/. */
#pragma once
#include "hv/vm/blk.h"
#include "mig/ledger.h"
#include "mig/mig.h"
#include "mig/ram.h"
#include "mig/state.h"
#include "mig/wire.h"

#define MIG_MAX_MOVES 8u
#define MIG_MAX_OUTWARD 4u /* of these; no more than net_connect() makes connections */
#define MIG_MAX_SESSIONS (MIG_MAX_MOVES + 2u) /* the others can only ask what became of a move */
#define MIG_HISTORY (2u * VM_MAX)
#define MIG_POLL_BYTES (256u << 10)   /* page bytes handled in one poll of one session */

/* Microseconds. The guest is frozen only in freeze and commit; after `commit` the source asks over a new connection. */
struct mig_timeouts {
	u64 connect;    /* TCP, TLS, HELLO, CONFIG to READY */
	u64 disks;      /* target: until the guest's disks answer */
	u64 drain;      /* source: until the guest's devices have nothing under way */
	u64 precopy;    /* no byte taken or received for so long */
	u64 freeze;     /* the same, guest stopped, until PREPARED */
	u64 frozen;     /* guest stopped, all in all, until PREPARED: bytes that trickle must not hold it for ever */
	u64 commit;     /* COMMIT to COMMITTED, or PREPARED to COMMIT on the target */
	u64 silence;    /* target: nothing from the source */
	u64 keepalive;  /* busy with something long: say so this often */
	u64 retry_max;  /* longest wait between two attempts to ask the target */
	u64 linger;     /* to let the last words out */
};
extern struct mig_timeouts mig_timeouts;

enum mig_step {
	/* source */
	SRC_CONNECT, SRC_HELLO, SRC_CONFIG, SRC_PRECOPY, SRC_FREEZE, SRC_VERIFY, SRC_STATE, SRC_FINAL, SRC_COMMIT,
	SRC_WAIT, SRC_RECONNECT, SRC_REHELLO, SRC_RESOLVE,
	/* target */
	TGT_HELLO, TGT_CONFIG, TGT_DISKS, TGT_RECEIVE, TGT_PREPARED,
	/* both: nothing left to do but to get the last frame out */
	MIG_LINGER, MIG_ENDED,
};

struct mig_session {
	bool source;
	enum mig_step step;
	struct stream *stream;
	struct wire_in in;
	struct wire_out out;
	struct vm *vm;                   /* NULL before CONFIG on the target, and after the guest's fate is settled */
	struct mig_info *info;           /* in mig_host; NULL before CONFIG on the target */
	struct mig_params params;        /* source */
	char peer[NAME_MAX_LEN];
	struct ledger_key key;
	u64 peer_boot;
	u64 started_us, step_us;         /* of the move, of this step */
	u64 started_ticks;               /* service_ticks then */
	u64 moved_us, spoke_us;          /* last byte either way; last frame we finished */
	struct ram ram;                  /* ram.vm is NULL before there is one */
	bool cancel;
	struct lan_forward *forward;     /* source, after the move: frames that still come for the guest */
	bool peer_ended;                 /* its last word has come: nothing to say, nothing to wait for */
	/* source */
	u64 move_boot;                   /* the target's boot id when the move began */
	bool frozen, was_paused, gave_up, waited;
	bool given;                      /* this host has on record that the target has the guest */
	bool round_done, awaiting, freeze_due; /* all pages of the round queued; its echo is to come; freeze as soon as possible */
	bool disks_unknown;              /* CONFIG said so of at least one: the guest waits for it, no vCPU has run */
	u64 last_todo;          /* pages that were left at the end of the round before */
	u64 drain_us;                    /* since when the guest's devices come to rest; 0: they work */
	bool drained;                    /* they do rest */
	u64 freeze_us, freeze_tsc;
	u64 round_us, rate;              /* rate: page bytes per second, 0 unknown */
	u64 console_sent, console_due;   /* offsets; due: what this round brings, or a guest that prints for ever would never be moved */
	struct { u64 gfn; u32 count; } zero_runs[WIRE_MAX_ZERO_RUNS];
	u32 n_zero_runs, n_zero_pages;
	u32 retry;
	u64 retry_us;
	/* both */
	u64 work;                        /* done in this turn, in bytes sent or as much work as that */
	u8 *state;                       /* STATE_PAGES frames */
	size_t state_len, state_sent;
	/* target */
	bool last_round, full_pending;   /* ROUND_END(last) has come; memory is being re-read before anything else is looked at */
	u64 stopped_wall_us;             /* UTC when the source stopped the guest's clock, 0: unknown */
	struct blk_info disks[CONFIG_MAX_DISKS]; /* as the guest knows them */
	u64 disks_us;                    /* when they were looked at last */
	bool takes_lan;                  /* the guest runs here now; the connection still brings frames that came for it there */
	bool unrecorded;                 /* the guest came and runs, what must survive a restart is still to be written */
	struct vm *stale;                /* the inactive entry of that name that stood here before, not in vms[] now; or NULL */
};

/* All of mig/'s state. One per host; tests have two and switch. */
struct mig_host {
	char name[NAME_MAX_LEN];
	u64 boot_id;                     /* changes with every start of this host */
	u64 move_count;
	struct mig_session *sessions[MIG_MAX_SESSIONS];
	struct mig_record { struct mig_info info; u64 seq; bool live; } history[MIG_HISTORY]; /* seq 0: free */
	u64 history_seq;
	struct ledger ledger;
};
extern struct mig_host *mig_host;

/* --- session.c --- */
struct mig_session *session_new(bool source, struct stream *stream);
/* Takes the history slot for that guest, and s is one of the moves of this host. NULL: there are as many as may be. */
struct mig_info *session_info(struct mig_session *s, const char *guest);
/* The round that goes on now. */
static inline struct mig_round *session_round(struct mig_session *s)
{
	return &s->info->rounds[s->info->n_rounds - 1];
}
/* One more; the last slot collects all rounds that the table has no room for. */
void session_next_round(struct mig_session *s);
void session_set(struct mig_session *s, enum mig_step step, const char *status, const char *phase);
/* Frees everything that belongs to the move (not the guest) and lets the last frame out. */
void session_end(struct mig_session *s);
/* Frames without much in them. All return 0 or -E_RANGE. */
int session_send_text(struct mig_session *s, enum wire_type type, const char *text) __must_check;
int session_send_hello(struct mig_session *s) __must_check;
/* Starts a frame that begins with the move's id and epoch; and checks those of one that has come. */
struct wire_writer *session_begin(struct mig_session *s, enum wire_type type);
bool session_read_key(const struct mig_session *s, struct wire_reader *r);
int session_check_hello(struct mig_session *s, struct wire_reader *r, struct error *e) __must_check;
/* Flushes; a stream error is returned with *e set. */
int session_flush(struct mig_session *s, struct error *e) __must_check;
/* Sends KEEPALIVE if nothing was said for long. */
void session_keepalive(struct mig_session *s);
/* The peer gave up or complained: its text, with its name, into *e. */
int session_peer_text(struct mig_session *s, struct wire_reader *r, const char *what, struct error *e);
/* What came is not what its type wants; or is not for now. -E_PROTO. */
int session_malformed(const struct mig_session *s, u32 type, struct error *e);
int session_misplaced(const struct mig_session *s, u32 type, struct error *e);
/* The incoming move of that guest from that host that is not settled yet, or NULL. */
struct mig_session *session_find_incoming(const char *guest, const char *source);

/* --- definition.c --- */
struct definition { struct guest_config config; u64 tsc_hz; const u8 *cpu; u16 cpu_len; }; /* cpu: in the frame */
/* Source: queues CONFIG. -E_RANGE. */
int definition_send(struct mig_session *s, struct error *e) __must_check;
/* Target: reads and checks it; the key and what the guest has seen of its disks go into s. -E_PROTO, -E_UNSUPPORTED. */
int definition_read(struct mig_session *s, struct wire_reader *r, struct definition *d, struct error *e) __must_check;

/* --- precopy.c: the source's rounds, from READY until all of the guest's memory is on its way --- */
int precopy_begin(struct mig_session *s, struct error *e) __must_check;
/* The output is empty: queues what comes next of the round, or freezes the guest. 1: something was done, 0: waiting for the
 * target or for the guest's devices. After the last round the step is SRC_VERIFY. */
int precopy_produce(struct mig_session *s, struct error *e) __must_check;
/* The target has worked off that round. -E_PROTO: there is no such. */
int precopy_echo(struct mig_session *s, struct wire_reader *r, struct error *e) __must_check;

/* --- source.c, target.c: one bounded turn; true if there was something to do --- */
bool source_poll(struct mig_session *s);
bool target_poll(struct mig_session *s);
/* Ends a move on the target before COMMIT; the source is told why. */
void target_abort(struct mig_session *s, const char *text);
