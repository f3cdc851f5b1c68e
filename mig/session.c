/* SPDX-License-Identifier: MIT */
#include "mig/session.h"
#include "hv/keep.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/mm/frame.h"
#include "hv/vdev/virtio_net.h"
#include "net/forward.h"

#include <stdio.h>
#include <string.h>

#define SEC 1000000ull
#define PROGRAM_VERSION "0.1.0"

struct mig_timeouts mig_timeouts = {
	.connect = 30 * SEC, .disks = 10 * SEC, .drain = 10 * SEC, .precopy = 60 * SEC, .freeze = 30 * SEC, .frozen = 600 * SEC,
	.commit = 30 * SEC, .silence = 120 * SEC, .keepalive = 1 * SEC, .retry_max = 5 * SEC, .linger = 3 * SEC,
};

static struct mig_host host_default;
struct mig_host *mig_host = &host_default;

void mig_init(const char *host_name)
{
	memset(mig_host, 0, sizeof(*mig_host));
	snprintf(mig_host->name, sizeof(mig_host->name), "%s", host_name);
	/* Need not be secret, only different after every start. */
	mig_host->boot_id = ram_mix(host_tsc(), wall_seconds());
	/* Not worth doing in the middle of a freeze. */
	ram_hash_of_zero();
}

static void session_free(struct mig_session *s)
{
	u64 frames = lan_forward_end(s->forward);

	if (frames)
		log_info("mig", "guest %s: %llu frames that still came for it were sent after it to host %s", s->key.guest,
			 (unsigned long long)frames, s->peer);
	if (s->stream)
		stream_close(s->stream);
	wire_in_free(&s->in);
	wire_out_free(&s->out);
	heap_free(s);
}

/* A free place, else that of one with nothing left to say. MIG_MAX_SESSIONS: none. */
static unsigned session_place(void)
{
	unsigned i;

	for (i = 0; i < MIG_MAX_SESSIONS; i++)
		if (!mig_host->sessions[i])
			return i;
	for (i = 0; i < MIG_MAX_SESSIONS; i++) {
		struct mig_session *s = mig_host->sessions[i];

		if (s->step == MIG_LINGER && s->forward && wire_out_empty(&s->out)) {
			session_free(s);
			mig_host->sessions[i] = NULL;
			break;
		}
	}
	return i;
}

struct mig_session *session_new(bool source, struct stream *stream)
{
	unsigned i = session_place();
	struct mig_session *s;

	if (i == MIG_MAX_SESSIONS)
		return NULL;
	s = heap_calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	if (wire_in_init(&s->in) || wire_out_init(&s->out)) {
		wire_in_free(&s->in);
		wire_out_free(&s->out);
		heap_free(s);
		return NULL;
	}
	s->source = source;
	s->stream = stream;
	s->started_ticks = service_ticks;
	s->started_us = s->step_us = s->moved_us = s->spoke_us = now_us();
	mig_host->sessions[i] = s;
	return s;
}

static struct mig_record *record_of(const char *guest)
{
	for (unsigned i = 0; i < MIG_HISTORY; i++)
		if (mig_host->history[i].seq && !strcmp(mig_host->history[i].info.guest, guest))
			return &mig_host->history[i];
	return NULL;
}

struct mig_info *session_info(struct mig_session *s, const char *guest)
{
	struct mig_record *old = record_of(guest), *best = old;
	unsigned moves = 0, outward = 0;

	/* One that waits for its outcome counts: nothing may keep it from asking, or the other host from being asked. */
	for (unsigned i = 0; i < MIG_MAX_SESSIONS; i++) {
		const struct mig_session *o = mig_host->sessions[i];

		moves += o && o->info;
		outward += o && o->info && o->source;
	}
	if (moves == MIG_MAX_MOVES || (s->source && outward == MIG_MAX_OUTWARD))
		return NULL;
	/* Otherwise a free one, or the one that began longest ago. */
	for (unsigned i = 0; !old && i < MIG_HISTORY; i++) {
		struct mig_record *r = &mig_host->history[i];

		if (!r->live && (!best || r->seq < best->seq))
			best = r;
	}
	if (!best || best->live)
		return NULL;
	*best = (struct mig_record){ .seq = ++mig_host->history_seq, .live = true };
	s->info = &best->info;
	snprintf(s->info->guest, sizeof(s->info->guest), "%s", guest);
	snprintf(s->info->peer, sizeof(s->info->peer), "%s", s->peer);
	s->info->role = s->source ? "source" : "target";
	s->info->status = "none";
	s->info->phase = "check";
	return s->info;
}

void session_next_round(struct mig_session *s)
{
	if (s->info->n_rounds < MIG_MAX_ROUNDS)
		s->info->n_rounds++;
}

static void session_figures(struct mig_session *s)
{
	struct mig_info *i = s->info;

	if (!i)
		return;
	i->total_us = now_us() - s->started_us;
	i->busy_ticks = service_ticks - s->started_ticks;
	if (s->stream && !s->waited) /* not those that only ask for the outcome */
		i->transferred = s->source ? s->stream->wire_out : s->stream->wire_in;
	if (s->ram.vm)
		i->hash = s->ram.fold;
	if (i->total_us)
		i->mbps = i->transferred * 8 / i->total_us;
	if (s->source && s->ram.vm)
		i->remaining = s->ram.todo_pages * PAGE_SIZE;
}

void session_set(struct mig_session *s, enum mig_step step, const char *status, const char *phase)
{
	s->step = step;
	s->step_us = s->moved_us = now_us();
	if (!s->info)
		return;
	session_figures(s);
	if (s->info->status == status && s->info->phase == phase)
		return;
	s->info->status = status;
	s->info->phase = phase;
	mig_changed(s->info);
}

void session_end(struct mig_session *s)
{
	ram_free(&s->ram);
	if (s->state)
		frame_free_n(s->state, STATE_PAGES);
	s->state = NULL;
	if (s->vm)
		s->vm->mig = NULL;
	s->vm = NULL;
	if (s->info)
		container_of(s->info, struct mig_record, info)->live = false;
	s->info = NULL;
	s->step = MIG_LINGER;
	s->step_us = now_us();
}

int session_send_text(struct mig_session *s, enum wire_type type, const char *text)
{
	wire_put_str(wire_begin(&s->out, type), text);
	return wire_end(&s->out);
}

struct wire_writer *session_begin(struct mig_session *s, enum wire_type type)
{
	struct wire_writer *w = wire_begin(&s->out, type);

	wire_put_u64(w, s->key.id);
	wire_put_u64(w, s->key.epoch);
	return w;
}

bool session_read_key(const struct mig_session *s, struct wire_reader *r)
{
	u64 id = wire_u64(r), epoch = wire_u64(r);

	return !r->bad && id == s->key.id && epoch == s->key.epoch;
}

int session_send_hello(struct mig_session *s)
{
	struct wire_writer *w = wire_begin(&s->out, WIRE_HELLO);

	wire_put_u64(w, WIRE_MAGIC);
	wire_put_u32(w, WIRE_VERSION);
	wire_put_u32(w, 0);
	wire_put_u64(w, 0); /* features: none defined yet */
	wire_put_u64(w, mig_host->boot_id);
	wire_put_str(w, PROGRAM_VERSION);
	wire_put_str(w, mig_host->name);
	return wire_end(&s->out);
}

int session_check_hello(struct mig_session *s, struct wire_reader *r, struct error *e)
{
	u64 magic = wire_u64(r);
	u32 version = wire_u32(r);
	char program[32], host[NAME_MAX_LEN];

	if (r->bad || magic != WIRE_MAGIC)
		return error_set(e, E_PROTO, "%s does not speak Godwit's migration protocol", s->stream->peer_addr);
	if (version != WIRE_VERSION)
		return error_set(e, E_UNSUPPORTED,
				 "host %s speaks migration protocol %u, this host %u: run the same version of Godwit on both",
				 s->stream->peer_name, version, WIRE_VERSION);
	wire_u32(r);
	wire_u64(r);
	s->peer_boot = wire_u64(r);
	wire_str(r, program, sizeof(program));
	wire_str(r, host, sizeof(host));
	if (!wire_done(r))
		return error_set(e, E_PROTO, "host %s sent a malformed HELLO", s->stream->peer_name);
	if (strcmp(host, s->stream->peer_name))
		return error_set(e, E_AUTH, "the host at %s calls itself %s, but its certificate says %s: correct name= in its "
				 "godwit.conf", s->stream->peer_addr, host, s->stream->peer_name);
	return 0;
}

int session_flush(struct mig_session *s, struct error *e)
{
	int n = wire_flush(&s->out, s->stream);

	if (n < 0)
		return error_set(e, (enum err)-n, "%s", s->stream->error.code ? s->stream->error.text
								: "the connection was closed");
	if (n > 0)
		s->moved_us = s->spoke_us = now_us();
	return n;
}

void session_keepalive(struct mig_session *s)
{
	if (now_us() - s->spoke_us < mig_timeouts.keepalive || !wire_out_empty(&s->out))
		return;
	s->spoke_us = now_us();
	wire_begin(&s->out, WIRE_KEEPALIVE);
	if (wire_end(&s->out))
		return;
}

int session_peer_text(struct mig_session *s, struct wire_reader *r, const char *what, struct error *e)
{
	char text[WIRE_MAX_TEXT];

	s->peer_ended = true;
	wire_text(r, text, sizeof(text));
	return error_set(e, E_STATE, "host %s %s: %.240s", s->peer, what, text[0] ? text : "it gave no reason");
}

int session_malformed(const struct mig_session *s, u32 type, struct error *e)
{
	return error_set(e, E_PROTO, "host %s sent a malformed %s", s->peer, wire_type_name(type));
}

int session_misplaced(const struct mig_session *s, u32 type, struct error *e)
{
	return error_set(e, E_PROTO, "host %s sent %s, which does not belong here", s->peer, wire_type_name(type));
}

struct mig_session *session_find_incoming(const char *guest, const char *source)
{
	for (unsigned i = 0; i < MIG_MAX_SESSIONS; i++) {
		struct mig_session *s = mig_host->sessions[i];

		if (s && s->vm && !s->source && !strcmp(s->key.guest, guest) && !strcmp(s->peer, source))
			return s;
	}
	return NULL;
}

/* Target: takes the frames that the source still got for the guest it has handed over. */
static int linger_receive(struct mig_session *s)
{
	struct error e = { 0 };
	struct wire_reader r;
	size_t read = 0;
	int rc = wire_recv(&s->in, s->stream, &r, &read, &e);
	struct vm *vm = rc > 0 && s->in.type == WIRE_LAN ? vm_find(s->key.guest) : NULL;

	if (vm && vm->owner && vm->epoch == s->key.epoch) {
		u16 card = wire_u16(&r);

		if (!r.bad)
			virtio_net_inject(vm, card, r.p, (size_t)(r.end - r.p));
	}
	return rc < 0 ? rc : (int)read;
}

/* Last words go out; what still comes in is thrown away, so that the peer's TCP does not reset before it has read them. */
static bool linger_poll(struct mig_session *s)
{
	struct vm *vm = s->unrecorded ? vm_find(s->key.guest) : NULL;
	int n = 0;

	/* Only now: writing takes milliseconds, COMMITTED is on its way and the guest has had its first turn. Until it is done
	 * no record says that the guest is here. */
	if (vm && vm->owner && vm->epoch == s->key.epoch)
		(void)!keep_came(&vm->config, vm->epoch, NULL);
	s->unrecorded = false;

	if (s->stream && !s->stream->error.code && !stream_connecting(s->stream) &&
	    now_us() - s->step_us < mig_timeouts.linger) {
		n = wire_flush(&s->out, s->stream);
		if (n >= 0)
			n = s->takes_lan ? linger_receive(s) : stream_read(s->stream, s->in.buf, WIRE_MAX_PAYLOAD);
		if (n >= 0)
			return n > 0;
	}
	s->step = MIG_ENDED;
	return true;
}

bool mig_poll(void)
{
	bool any = false;

	for (unsigned i = 0; i < MIG_MAX_SESSIONS; i++) {
		struct mig_session *s = mig_host->sessions[i];
		bool did;

		if (!s)
			continue;
		if (s->step == MIG_ENDED)
			did = true; /* by the turn of another */
		else if (s->step == MIG_LINGER)
			did = linger_poll(s);
		else
			did = s->source ? source_poll(s) : target_poll(s);
		any |= did;
		if (did)
			session_figures(s);
		if (s->step == MIG_ENDED) {
			mig_host->sessions[i] = NULL;
			session_free(s);
		}
	}
	return any;
}

int mig_query(const char *guest, struct mig_info *out)
{
	const struct mig_record *r = record_of(guest);

	if (!r)
		return -E_NOENT;
	*out = r->info;
	return 0;
}

int mig_cancel(struct vm *vm, struct error *e)
{
	struct mig_session *s = vm->mig;

	if (!s)
		return error_set(e, E_STATE, "guest %s is not being moved", vm->config.name);
	if (s->gave_up)
		return error_set(e, E_STATE, "host %s has been told to take guest %s over: too late to cancel, its answer decides",
				 s->peer, vm->config.name);
	if (s->cancel)
		return 0;
	s->cancel = true;
	session_set(s, s->step, "cancelling", s->info->phase);
	return 0;
}

void mig_accept(struct stream *stream)
{
	struct mig_session *s;

	if (strcmp(stream->peer_role, "host")) {
		log_warn("mig", "%s: %s has role '%s', migration needs role 'host': refused", stream->peer_addr,
			 stream->peer_name, stream->peer_role);
		stream_close(stream);
		return;
	}
	s = session_new(false, stream);
	if (!s) {
		log_warn("mig", "%s: too many moves at a time, host %s is refused", stream->peer_addr, stream->peer_name);
		stream_close(stream);
		return;
	}
	snprintf(s->peer, sizeof(s->peer), "%s", stream->peer_name);
	s->step = TGT_HELLO;
}
