/* SPDX-License-Identifier: MIT */
#include "net/time.h"
#include "hv/lib/clock.h"
#include "hv/lib/log.h"
#include "hv/lib/wall.h"
#include "lwip/udp.h"
#include "net/ntp.h"
#include "net/port/port.h"

#include <cJSON.h>
#include <stdio.h>
#include <string.h>

#define BURST 4u                    /* the first answers are asked for faster */
#define BURST_US 2000000ull
#define BACK_OFF 6u                 /* without them, that doubles from the second time on: to 64 s */
#define ANSWER_US 1500000ull        /* a later answer is none */
#define MAX_POLL_US (3600 * 1000000ull)
#define STEP_US 125000              /* what is more than this off is not slewed (RFC 5905 STEPT): that would take hours */
#define SPIKE_US 1000ull            /* a round trip this much longer than usual (and half as long again) says little */
#define LEARN_US (30 * 1000000ull)  /* a shorter time says nothing about the rate */
#define LOST_US 250000ull           /* nobody vouches any more for a clock that may be this much off */

struct server {
	u32 ip; u16 port;               /* host byte order */
	char name[24];
	u64 nonce, sent_us, poll_us;    /* sent_us: 0 before the first question */
	bool waiting, denied, valid, good, said;
	u8 reach;                       /* of the last eight questions those that were answered */
	u8 answers, missed;             /* up to BURST; BACK_OFF: questions in a row without one */
	struct ntp_sample last;
	u64 utc_minus_now, at_us;       /* UTC by the server minus now_us(), when that came */
	u64 usual_delay;
	struct error why;               /* why its last answer was not used */
};

static struct server servers[CONFIG_MAX_TIME_SERVERS];
static unsigned n_servers;
static int prefer, source; /* index, -1: none */
static u64 poll_us;
static struct udp_pcb *pcb;
static bool stepped, holdover, disagreed;
static s64 last_offset, rate_ppb;
static u64 corrected_us, slew_end_us, corrected_error; /* at corrected_us */
static s64 slew;

static s64 abs64(s64 v) { return v < 0 ? -v : v; }

/* What the clock is still to be slewed by. */
static s64 slew_left(void)
{
	u64 left = slew_end_us > now_us() ? (slew_end_us - now_us()) * WALL_SLEW_PPM / 1000000 : 0;

	return slew < 0 ? -(s64)left : (s64)left;
}

/* The burst ends with its answers, not its questions: a host that misses them at boot would be without time for a whole poll_us. */
static bool due(const struct server *s)
{
	u64 wait = s->answers < BURST ? MIN(BURST_US << (MAX(s->missed, 1) - 1), s->poll_us) : s->poll_us;

	return !s->denied && (!s->sent_us || now_us() - s->sent_us >= wait);
}

static void missed(struct server *s)
{
	s->waiting = false;
	s->missed = (u8)MIN(s->missed + 1u, BACK_OFF);
}

/* How far off a server's last answer may be by now. */
static u64 server_error(const struct server *s)
{
	return s->last.root_us + s->last.delay_us / 2 + (now_us() - s->at_us) * NTP_PHI_PPM / 1000000;
}

/* How far off the wall clock may be: since it was last corrected, not since somebody last spoke who may not be believed. */
static u64 dispersion(void)
{
	if (!stepped)
		return 0;
	return corrected_error + (now_us() - corrected_us) * NTP_PHI_PPM / 1000000 + (u64)abs64(slew_left());
}

static void correct(s64 offset)
{
	u64 now = now_us(), since = now - corrected_us;
	s64 off_rate = offset - slew_left();
	bool step = !stepped || abs64(offset) > STEP_US;

	last_offset = offset;
	if (step) {
		rate_ppb = stepped ? rate_ppb : 0;
		slew = 0;
		log_info("time", "clock stepped by %s%lld.%06lld s, as %s says", offset < 0 ? "-" : "", (long long)abs64(offset) / 1000000,
			 (long long)abs64(offset) % 1000000, servers[source].name);
	} else {
		/* A quarter of the error that has grown since: it is noisy. */
		if (since >= LEARN_US)
			rate_ppb = MAX(MIN(rate_ppb + off_rate * 1000000 / (s64)(since / 1000) / 4, WALL_RATE_MAX_PPB), -WALL_RATE_MAX_PPB);
		slew = offset;
	}
	wall_discipline(step ? offset : 0, slew, rate_ppb);
	slew_end_us = now + (u64)abs64(slew) * (1000000 / WALL_SLEW_PPM);
	corrected_us = now;
	corrected_error = server_error(&servers[source]);
	stepped = true;
}

/* After each answer: whom do we believe? */
static void choose(unsigned newest)
{
	struct ntp_opinion o[CONFIG_MAX_TIME_SERVERS];
	unsigned of[CONFIG_MAX_TIME_SERVERS], n = 0;
	bool good[CONFIG_MAX_TIME_SERVERS] = { 0 };
	int best, want = -1;
	u64 now = now_us(), wall = wall_us();

	for (unsigned i = 0; i < n_servers; i++) {
		struct server *s = &servers[i];

		s->good = false;
		if (!s->valid || !s->reach)
			continue;
		o[n] = (struct ntp_opinion){
			.offset_us = (s64)(s->utc_minus_now + now - wall), .stratum = s->last.stratum,
			.error_us = server_error(s) + 1000,
		};
		if ((int)i == prefer)
			want = (int)n;
		of[n++] = i;
	}
	best = ntp_select(o, n, want, good);
	for (unsigned i = 0; i < n; i++)
		servers[of[i]].good = good[i];
	if (best < 0 && !disagreed && n)
		log_warn("time", "the %u time servers disagree, none is followed: name a third in [time] servers=", n);
	disagreed = best < 0 && n;
	if (best < 0)
		return;
	if (source != (int)of[best])
		log_info("time", "follows %s, stratum %u", servers[of[best]].name, o[best].stratum);
	source = (int)of[best];
	/* At the first, or when the one that is followed has just spoken. */
	if (source == (int)newest || !stepped) {
		correct(o[best].offset_us);
		if (holdover)
			log_info("time", "time servers answer again");
		holdover = false;
	}
	wall_set_synced(dispersion() < LOST_US);
}

static void answered(struct server *s, const struct ntp_sample *sample, u64 now, u64 wall)
{
	bool spike = s->valid && sample->delay_us > s->usual_delay + MAX(s->usual_delay / 2, SPIKE_US);

	s->waiting = s->said = false;
	s->reach |= 1;
	s->answers = (u8)MIN(s->answers + 1u, BURST);
	s->missed = 0;
	s->why.code = 0;
	/* The usual one is the shortest, but grows, so that it finds a new, longer path. */
	s->usual_delay = !s->valid || sample->delay_us < s->usual_delay ? sample->delay_us :
			 s->usual_delay + (sample->delay_us - s->usual_delay) / 8;
	if (spike) {
		error_set(&s->why, E_STATE, "its last answer took long");
		return;
	}
	s->last = *sample;
	s->utc_minus_now = wall + (u64)sample->offset_us - now;
	s->at_us = now;
	s->valid = true;
	choose((unsigned)(s - servers));
}

static void received(void *arg, struct udp_pcb *from_pcb, struct pbuf *p, const ip_addr_t *addr, u16_t port)
{
	u64 now = now_us(), wall = wall_us(), t4;
	struct ntp_sample sample;
	u8 packet[NTP_BYTES];
	struct error e = { 0 };
	struct server *s = servers;
	size_t len = pbuf_copy_partial(p, packet, sizeof(packet), 0);
	int rc;

	pbuf_free(p);
	while (s < servers + n_servers && (s->ip != lwip_ntohl(ip_2_ip4(addr)->addr) || s->port != port || !s->waiting))
		s++;
	if (s == servers + n_servers)
		return;
	/* The interval by the clock that is never set, the instant by the other. */
	t4 = wall;
	rc = ntp_reply(packet, len, s->nonce, t4 - (now - s->sent_us), t4, &sample, &e);
	if (rc == -E_PROTO) { /* it may be somebody else's: the true one can still come */
		s->why = e;
		return;
	}
	if (!rc) {
		answered(s, &sample, now, wall);
		return;
	}
	missed(s);
	s->why = e;
	if (!s->said)
		log_warn("time", "time server %s is not used: %s", s->name, e.text);
	s->said = true;
	if (rc == -E_BUSY) {
		s->poll_us = MIN(s->poll_us * 2, MAX_POLL_US);
		s->answers = BURST;
	}
	s->denied = rc == -E_AUTH;
}

static void ask(struct server *s)
{
	struct pbuf *p = pbuf_alloc(PBUF_TRANSPORT, NTP_BYTES, PBUF_RAM);
	ip_addr_t to = IPADDR4_INIT(lwip_htonl(s->ip));

	s->reach <<= 1;
	s->nonce = (u64)net_rand32() << 32 | net_rand32();
	s->sent_us = now_us();
	s->waiting = true;
	if (!p)
		return;
	ntp_request(p->payload, s->nonce);
	if (udp_sendto(pcb, p, &to, s->port) != ERR_OK)
		error_set(&s->why, E_IO, "no way to it");
	pbuf_free(p);
}

void time_init(const struct time_config *c)
{
	n_servers = 0;
	prefer = (int)c->prefer - 1;
	source = -1;
	stepped = holdover = disagreed = false;
	rate_ppb = slew = last_offset = 0;
	slew_end_us = 0;
	poll_us = c->poll_s * 1000000ull;
	wall_set_synced(false);
	if (!c->n_servers)
		return;
	if (!pcb)
		pcb = udp_new();
	if (!pcb || udp_bind(pcb, IP_ADDR_ANY, 0) != ERR_OK) {
		log_err("time", "no memory for asking time servers");
		return;
	}
	udp_recv(pcb, received, NULL);
	for (u32 i = 0; i < c->n_servers; i++) {
		struct server *s = &servers[n_servers++];

		*s = (struct server){ .ip = c->servers[i].ip, .port = c->servers[i].port, .poll_us = poll_us };
		snprintf(s->name, sizeof(s->name), "%u.%u.%u.%u", s->ip >> 24, s->ip >> 16 & 255, s->ip >> 8 & 255, s->ip & 255);
		if (s->port != NTP_PORT)
			snprintf(s->name + strlen(s->name), sizeof(s->name) - strlen(s->name), ":%u", s->port);
	}
}

void time_poll(void)
{
	u64 now = now_us();
	bool any = false;

	for (unsigned i = 0; i < n_servers; i++) {
		struct server *s = &servers[i];

		if (s->waiting && now - s->sent_us > ANSWER_US) {
			missed(s);
			if (!s->why.code)
				error_set(&s->why, E_TIMEOUT, "it does not answer");
		}
		if (due(s))
			ask(s);
		any |= s->reach != 0;
	}
	if (stepped && !any && !holdover) {
		holdover = true;
		log_warn("time", "no time server answers any more: the clock goes on by what was learned of its rate (%lld ppb)",
			 (long long)rate_ppb);
	}
	if (wall_synced() && dispersion() >= LOST_US) {
		wall_set_synced(false);
		log_warn("time", "no time server has answered for so long that the clock may be %llu ms off", (unsigned long long)LOST_US / 1000);
	}
}

bool time_waiting(void)
{
	for (unsigned i = 0; i < n_servers; i++)
		if (servers[i].waiting)
			return true;
	return false;
}

bool time_settled(void)
{
	return stepped || !n_servers;
}

struct cJSON *time_query(void)
{
	cJSON *o = cJSON_CreateObject(), *list, *item;
	u64 now = now_us();

#define NUM(obj, key, val) cJSON_AddNumberToObject(obj, key, (double)(val))
	cJSON_AddStringToObject(o, "state", !n_servers ? "no-servers" : !stepped ? "waiting" : holdover || disagreed ? "holdover" :
				"synchronized");
	cJSON_AddBoolToObject(o, "synchronized", wall_synced());
	NUM(o, "wall-us", wall_us());
	cJSON_AddStringToObject(o, "source", source >= 0 ? servers[source].name : "");
	if (source >= 0) {
		const struct server *s = &servers[source];

		NUM(o, "stratum", s->last.stratum + 1);
		NUM(o, "offset-us", last_offset);
		NUM(o, "slew-us", slew_left());
		NUM(o, "dispersion-us", dispersion());
		NUM(o, "rate-ppb", rate_ppb);
		NUM(o, "last-answer-us", now - s->at_us);
	}
	NUM(o, "poll-s", poll_us / 1000000);
	list = cJSON_AddArrayToObject(o, "servers");
	for (unsigned i = 0; i < n_servers; i++) {
		const struct server *s = &servers[i];

		item = cJSON_CreateObject();
		cJSON_AddStringToObject(item, "address", s->name);
		cJSON_AddStringToObject(item, "state", (int)i == source && s->good ? "source" : s->denied ? "denied" :
					!s->reach ? "unreachable" : s->good ? "candidate" : s->valid ? "falseticker" : "unusable");
		cJSON_AddBoolToObject(item, "preferred", (int)i == prefer);
		NUM(item, "reach", s->reach);
		NUM(item, "poll-s", s->poll_us / 1000000);
		if (s->valid) {
			NUM(item, "stratum", s->last.stratum);
			NUM(item, "offset-us", (s64)(s->utc_minus_now + now - wall_us()));
			NUM(item, "delay-us", s->last.delay_us);
			NUM(item, "dispersion-us", s->last.root_us);
			NUM(item, "last-answer-us", now - s->at_us);
			cJSON_AddStringToObject(item, "reference", s->last.refid);
		}
		if (s->why.code)
			cJSON_AddStringToObject(item, "error", s->why.text);
		if (!list || !cJSON_AddItemToArray(list, item))
			cJSON_Delete(item);
	}
#undef NUM
	return o;
}
