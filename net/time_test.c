/* SPDX-License-Identifier: MIT */
/* Time servers, good and bad, over lwIP's loopback; and each reply that must not be believed. */
#include "net/time.h"
#include "hv/lib/clock.h"
#include "lwip/etharp.h"
#include "lwip/init.h"
#include "lwip/netif.h"
#include "lwip/timeouts.h"
#include "lwip/udp.h"
#include "net/net_fake.h"
#include "net/ntp.h"
#include "netif/ethernet.h"

#include <cJSON.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* */
#include <cmocka.h>

#define LOCALHOST 0x7f000001
#define NONCE 0x123456789abcdef0ull
#define T1 1800000000000000ull /* 2027 */
#define UNIX_EPOCH 2208988800ull

static void put32(u8 *p, u32 v) { for (int i = 0; i < 4; i++) p[i] = (u8)(v >> (24 - 8 * i)); }

static void put_time(u8 *p, u64 us)
{
	put32(p, (u32)(us / 1000000 + UNIX_EPOCH)); /* wraps in 2036, as it does on the wire */
	put32(p + 4, (u32)(((us % 1000000 << 32) + 999999) / 1000000));
}

/* A good answer: leap 0, version 4, server, stratum 2; root delay 10 ms, root dispersion 5 ms. */
static void answer(u8 *p, const u8 *nonce, u64 t2, u64 t3)
{
	memset(p, 0, NTP_BYTES);
	p[0] = 0 << 6 | 4 << 3 | 4;
	p[1] = 2;
	put32(p + 4, 655);
	put32(p + 8, 328);
	memcpy(p + 12, "\x0a\x01\x02\x03", 4);
	put_time(p + 16, t2 - 1000000);
	memcpy(p + 24, nonce, 8);
	put_time(p + 32, t2);
	put_time(p + 40, t3);
}

static u8 pkt[NTP_BYTES];
static struct ntp_sample sample;

static void good(void)
{
	u8 nonce[NTP_BYTES];

	ntp_request(nonce, NONCE);
	answer(pkt, nonce + 40, T1 + 500000 + 4000, T1 + 500000 + 5000);
}

static int judge(u64 t4, struct error *e)
{
	*e = (struct error){ 0 };
	return ntp_reply(pkt, sizeof(pkt), NONCE, T1, t4, &sample, e);
}

static void refused(int code, const char *why)
{
	struct error e;
	int rc = judge(T1 + 9000, &e);

	if (rc != code || !strstr(e.text, why))
		fail_msg("wanted %d <%s>, got %d <%s>", code, why, rc, e.text);
	good();
}

static void a_good_reply(void **state)
{
	struct error e;
	u8 request[NTP_BYTES];

	ntp_request(request, NONCE);
	assert_int_equal(request[0], 0x23);
	for (int i = 1; i < 40; i++)
		assert_int_equal(request[i], 0);
	good();
	assert_int_equal(judge(T1 + 9000, &e), 0);
	assert_int_equal(sample.offset_us, 500000);
	assert_int_equal(sample.delay_us, 8000);
	assert_in_range(sample.root_us, 9900, 10100);
	assert_int_equal(sample.stratum, 2);
	assert_string_equal(sample.refid, "10.1.2.3");
	/* After 2036 the seconds begin anew. */
	good();
	put_time(pkt + 32, 2100000000ull * 1000000 + 4000);
	put_time(pkt + 40, 2100000000ull * 1000000 + 5000);
	assert_int_equal(judge(T1 + 9000, &e), 0);
	assert_int_equal(sample.offset_us, 300000000000000ll);
}

static void bad_replies(void **state)
{
	struct error e;

	good();
	for (size_t n = 0; n < NTP_BYTES; n++) { /* ASan sees reads beyond the end */
		u8 *copy = malloc(n + 1);

		memcpy(copy, pkt, n);
		e = (struct error){ 0 };
		assert_int_equal(ntp_reply(copy, n, NONCE, T1, T1 + 9000, &sample, &e), -E_PROTO);
		free(copy);
	}
	for (unsigned mode = 0; mode < 8; mode++)
		if (mode != 4) {
			pkt[0] = (u8)(4 << 3 | mode);
			refused(-E_PROTO, "not one of NTP");
		}
	pkt[0] = 5 << 3 | 4;
	refused(-E_PROTO, "not one of NTP");
	pkt[0] = 2 << 3 | 4;
	refused(-E_PROTO, "not one of NTP");
	pkt[0] = 3 << 6 | 4 << 3 | 4;
	refused(-E_STATE, "not synchronized");
	pkt[1] = 16;
	refused(-E_STATE, "not synchronized");
	pkt[31] ^= 1;
	refused(-E_PROTO, "another request");
	/* A forger cannot make us go away either. */
	pkt[1] = 0;
	memcpy(pkt + 12, "DENY", 4);
	pkt[24] ^= 0x80;
	refused(-E_PROTO, "another request");
	pkt[1] = 0;
	memcpy(pkt + 12, "DENY", 4);
	refused(-E_AUTH, "refuses us (DENY)");
	pkt[1] = 0;
	memcpy(pkt + 12, "RSTR", 4);
	refused(-E_AUTH, "(RSTR)");
	pkt[1] = 0;
	memcpy(pkt + 12, "RATE", 4);
	refused(-E_BUSY, "RATE");
	pkt[1] = 0;
	memcpy(pkt + 12, "\"\x01%n", 4);
	refused(-E_STATE, "(stratum 0)");
	memset(pkt + 40, 0, 8);
	refused(-E_PROTO, "has no time");
	memset(pkt + 32, 0, 8);
	refused(-E_PROTO, "has no time");
	put32(pkt + 4, 0xffffffff);
	refused(-E_STATE, "may be");
	put32(pkt + 8, 2 << 16);
	refused(-E_STATE, "may be");
	put_time(pkt + 40, T1); /* sent before it was received */
	refused(-E_PROTO, "cannot be");
	put_time(pkt + 40, T1 + 500000 + 4000 + 11000); /* held longer than the whole trip took */
	refused(-E_PROTO, "cannot be");
	assert_int_equal(judge(T1 + 2000001, &e), -E_PROTO);
	assert_int_equal(judge(T1 - 1, &e), -E_PROTO);
	/* Nothing crashes, whatever comes. */
	srand(1);
	for (int i = 0; i < 20000; i++) {
		good();
		for (int k = rand() % 6; k >= 0; k--)
			pkt[(unsigned)rand() % NTP_BYTES] = (u8)rand();
		(void)!judge(T1 + 9000, &e);
	}
}

static void majorities(void **state)
{
	bool ok[4];
	struct ntp_opinion o[4] = { { 0, 5000, 2 }, { 3000, 2000, 1 }, { 900000, 5000, 1 }, { -1000, 3000, 3 } };

	assert_int_equal(ntp_select(o, 0, -1, ok), -1);
	assert_int_equal(ntp_select(o, 1, -1, ok), 0);
	assert_int_equal(ntp_select(o, 2, -1, ok), 1);
	assert_int_equal(ntp_select(o, 2, 0, ok), 0);
	assert_int_equal(ntp_select(o, 4, 2, ok), 1); /* a liar is not preferred, whatever is configured */
	assert_true(ok[0] && ok[1] && !ok[2] && ok[3]);
	assert_int_equal(ntp_select(o + 1, 2, -1, ok), -1); /* two that disagree */
	assert_false(ok[0] || ok[1]);
}

/* --- servers on the loopback --- */

#define FAKES 3
static struct fake_server {
	struct udp_pcb *pcb;
	s64 offset;       /* of its clock against the true one */
	bool silent;
	const char *kiss;
	unsigned asked, forge;
} servers[FAKES];
static s64 true_minus_now; /* true UTC minus fake_now */
static s64 drift_ppb;      /* of fake_now against the truth */
static u64 began;

static u64 truth(void)
{
	return fake_now + (u64)true_minus_now - (u64)((s64)(fake_now - began) * drift_ppb / 1000000000);
}

static void asked(void *arg, struct udp_pcb *pcb, struct pbuf *p, const ip_addr_t *addr, u16_t port)
{
	struct fake_server *s = arg;
	u8 q[NTP_BYTES], a[NTP_BYTES];
	struct pbuf *r;

	assert_int_equal(pbuf_copy_partial(p, q, sizeof(q), 0), NTP_BYTES);
	pbuf_free(p);
	s->asked++;
	for (unsigned i = 0; i <= s->forge; i++) {
		if (s->silent && i == s->forge)
			return;
		answer(a, q + 40, truth() + (u64)s->offset, truth() + (u64)s->offset);
		if (i < s->forge) { /* forged ones come first */
			a[24 + i % 8] ^= 0xff;
			put_time(a + 40, truth() + 3600000000ull);
		} else if (s->kiss) {
			a[1] = 0;
			memcpy(a + 12, s->kiss, 4);
		}
		r = pbuf_alloc(PBUF_TRANSPORT, NTP_BYTES, PBUF_RAM);
		pbuf_take(r, a, NTP_BYTES);
		udp_sendto(pcb, r, addr, port);
		pbuf_free(r);
	}
}

static void run(u64 seconds)
{
	for (u64 i = 0; i < seconds * 100; i++) {
		fake_now += 10000;
		sys_check_timeouts();
		time_poll();
		netif_poll_all();
		netif_poll_all();
	}
}

static s64 error_us(void) { return (s64)(wall_us() - truth()); }

static void start(unsigned n, u32 poll_s, u32 prefer)
{
	struct time_config c = { .n_servers = n, .poll_s = poll_s, .prefer = prefer };

	for (unsigned i = 0; i < FAKES; i++) {
		struct udp_pcb *keep = servers[i].pcb;

		servers[i] = (struct fake_server){ .pcb = keep };
		if (!keep) {
			servers[i].pcb = udp_new();
			assert_non_null(servers[i].pcb);
			assert_int_equal(udp_bind(servers[i].pcb, IP_ADDR_ANY, (u16)(1230 + i)), ERR_OK);
		}
		udp_recv(servers[i].pcb, asked, &servers[i]);
		c.servers[i] = (struct time_server){ LOCALHOST, (u16)(1230 + i) };
	}
	fake_wall = (struct wall){ .base_us = T1 + 7500000, .at_us = fake_now };
	true_minus_now = (s64)(T1 - fake_now);
	drift_ppb = 0;
	began = fake_now;
	fake_log[0] = 0;
	time_init(&c);
}

static const char *state_of(int server)
{
	static char text[40];
	cJSON *o = time_query(), *list = cJSON_GetObjectItem(o, "servers");
	cJSON *s = server < 0 ? o : cJSON_GetArrayItem(list, server);

	snprintf(text, sizeof(text), "%s", cJSON_GetObjectItem(s, "state")->valuestring);
	cJSON_Delete(o);
	return text;
}

static double number_of(const char *key)
{
	cJSON *o = time_query(), *v = cJSON_GetObjectItem(o, key);
	double d = v ? v->valuedouble : -1e9;

	cJSON_Delete(o);
	return d;
}

static void first_a_step_then_slews(void **state)
{
	u64 last;

	start(1, 64, 0);
	assert_string_equal(state_of(-1), "waiting");
	assert_false(time_settled() || time_waiting());
	run(1);
	assert_false(time_waiting());
	assert_true(time_settled() && wall_synced());
	assert_non_null(strstr(fake_log, "clock stepped by -7.5"));
	assert_in_range(llabs(error_us()), 0, 1000);
	assert_string_equal(state_of(-1), "synchronized");
	assert_string_equal(state_of(0), "source");
	assert_int_equal(number_of("stratum"), 3);
	assert_in_range((u64)number_of("dispersion-us"), 9000, 30000);
	/* Now the server turns out 20 ms off: no step, never backwards, never faster than 500 ppm. */
	run(10);
	fake_log[0] = 0;
	servers[0].offset = -20000;
	last = wall_us();
	for (int i = 0; i < 200; i++) {
		u64 now;

		run(1);
		now = wall_us();
		assert_in_range(now - last, 999400, 1000600);
		last = now;
	}
	assert_in_range(llabs(error_us() + 20000), 0, 3000);
	assert_null(strstr(fake_log, "stepped"));
	/* And now an hour: that is stepped, and said. */
	servers[0].offset = 3600000000ll;
	run(70);
	assert_non_null(strstr(fake_log, "clock stepped by 3600.0"));
	assert_true(llabs(error_us() - 3600000000ll) < 5000);
	/* 200 ms, too: to slew that would take seven minutes, in which nobody could vouch for the clock. */
	servers[0].offset += 200000;
	run(70);
	assert_non_null(strstr(fake_log, "clock stepped by 0.2"));
	assert_true(llabs(error_us() - 3600200000ll) < 5000 && wall_synced());
}

static void the_rate_is_learned_and_held(void **state)
{
	start(1, 64, 0);
	drift_ppb = 40000; /* our TSC is 40 ppm fast */
	run(3600);
	assert_in_range((u64)(number_of("rate-ppb") + 40000 + 6000), 0, 12000);
	assert_true(llabs(error_us()) < 1500);
	servers[0].silent = true;
	run(64 * 9);
	assert_string_equal(state_of(-1), "holdover");
	assert_non_null(strstr(fake_log, "no time server answers any more"));
	run(3600);
	assert_true(llabs(error_us()) < 30000); /* without: 144 ms */
	assert_true(wall_synced());
	assert_true(number_of("dispersion-us") > 60000);
	assert_true(llabs(error_us()) < number_of("dispersion-us"));
	run(14400);
	assert_false(wall_synced());
	assert_non_null(strstr(fake_log, "may be 250 ms off"));
	servers[0].silent = false;
	run(70);
	assert_string_equal(state_of(-1), "synchronized");
	assert_true(wall_synced() && llabs(error_us()) < 300000);
}

static void a_liar_among_three(void **state)
{
	start(3, 16, 2);
	servers[1].offset = 5000000; /* preferred, and wrong */
	run(30);
	assert_true(llabs(error_us()) < 2000);
	assert_string_equal(state_of(1), "falseticker");
	assert_string_not_equal(state_of(0), "falseticker");
	servers[1].offset = 0;
	run(40);
	assert_string_equal(state_of(1), "source");
	/* Two that disagree: nobody is followed. */
	start(2, 16, 0);
	servers[0].offset = 400000;
	servers[0].silent = true;
	run(2);
	assert_true(llabs(error_us()) < 2000);
	servers[0].silent = false;
	run(40);
	assert_true(llabs(error_us()) < 2000);
	assert_non_null(strstr(fake_log, "disagree"));
	assert_string_equal(state_of(-1), "holdover");
	/* The clock is nobody's then, so in the end nobody vouches for it, however often they speak. */
	assert_true(wall_synced());
	run(20000);
	assert_false(wall_synced());
	assert_true(number_of("dispersion-us") > 250000);
}

static void kisses_of_death(void **state)
{
	unsigned before;

	start(2, 16, 0);
	servers[0].kiss = "DENY";
	servers[1].kiss = "RATE";
	run(1);
	assert_string_equal(state_of(0), "denied");
	assert_int_equal(servers[0].asked, 1);
	run(15);
	before = servers[1].asked;
	assert_in_range(before, 1, 1);
	servers[1].kiss = NULL;
	run(20);
	assert_int_equal(servers[0].asked, 1);
	assert_int_equal(servers[1].asked, 2);
	assert_true(wall_synced());
}

/* At boot a switch port, a gateway or the server may still be starting; with the longest poll, that is an hour without time. */
static void the_first_answers_are_insisted_on(void **state)
{
	start(1, 3600, 0);
	servers[0].silent = true;
	run(3);
	servers[0].silent = false;
	run(12);
	assert_true(wall_synced());
	assert_int_equal(servers[0].asked, 2 + 4); /* at 0, 2, then 6, 8, 10 and 12 s */
	run(1000);
	assert_int_equal(servers[0].asked, 2 + 4);
	/* The last of the four is lost. */
	start(1, 3600, 0);
	run(5);
	servers[0].silent = true;
	run(2);
	servers[0].silent = false;
	run(10);
	assert_int_equal(servers[0].asked, 3 + 1 + 1);
	/* Nobody is there for long: asked ever less often, each minute in the end, and found. */
	start(1, 3600, 0);
	servers[0].silent = true;
	run(640);
	assert_in_range(servers[0].asked, 10, 20);
	servers[0].silent = false;
	run(65);
	assert_true(wall_synced());
	/* A server without time of its own is asked no more often. */
	start(1, 3600, 0);
	servers[0].kiss = "INIT";
	run(640);
	assert_in_range(servers[0].asked, 10, 20);
}

static void forged_replies_do_not_count(void **state)
{
	start(1, 16, 0);
	servers[0].forge = 5;
	run(20);
	assert_true(wall_synced());
	assert_true(llabs(error_us()) < 2000);
	start(1, 16, 0);
	servers[0].forge = 5;
	servers[0].silent = true; /* only forged ones */
	run(1);
	assert_true(time_waiting());
	run(1);
	assert_false(time_waiting()); /* too late for it */
	run(18);
	assert_false(wall_synced());
	assert_true(llabs(error_us() - 7500000) < 1000);
	assert_string_equal(state_of(-1), "waiting");
}

/* --- servers behind a gateway --- */

#define ETH_IP 0x0a090001
#define GATEWAY_IP 0x0a090002
static const u8 eth_mac[6] = { 2, 0, 0, 0, 0, 1 }, gateway_mac[6] = { 2, 0, 0, 0, 0, 2 };
static unsigned arp_requests, questions;

static err_t eth_output(struct netif *n, struct pbuf *p)
{
	u16 type = (u16)(pbuf_get_at(p, 12) << 8 | pbuf_get_at(p, 13));

	arp_requests += type == ETHTYPE_ARP && pbuf_get_at(p, 21) == 1 && pbuf_get_at(p, 41) == (GATEWAY_IP & 255);
	questions += type == ETHTYPE_IP && pbuf_memcmp(p, 0, gateway_mac, 6) == 0;
	return ERR_OK;
}

static err_t eth_init(struct netif *n)
{
	memcpy(n->hwaddr, eth_mac, 6);
	n->hwaddr_len = 6;
	n->mtu = 1500;
	n->output = etharp_output;
	n->linkoutput = eth_output;
	n->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP;
	return ERR_OK;
}

/* While its MAC is asked for, none of the first questions is lost. */
static void questions_wait_for_the_gateway(void **state)
{
	struct netif eth;
	ip4_addr_t ip = { lwip_htonl(ETH_IP) }, mask = { lwip_htonl(0xffffff00) }, gateway = { lwip_htonl(GATEWAY_IP) };
	struct time_config c = { .n_servers = CONFIG_MAX_TIME_SERVERS, .poll_s = 64 };
	u8 reply[42] = { 0 };
	struct pbuf *p;

	for (unsigned i = 0; i < c.n_servers; i++)
		c.servers[i] = (struct time_server){ 0xc0a80001 + i, NTP_PORT };
	assert_non_null(netif_add(&eth, &ip, &mask, &gateway, NULL, eth_init, ethernet_input));
	netif_set_default(&eth);
	netif_set_up(&eth);
	time_init(&c);
	time_poll();
	assert_true(arp_requests > 0);
	assert_int_equal(questions, 0);
	memcpy(reply, eth_mac, 6);
	memcpy(reply + 6, gateway_mac, 6);
	memcpy(reply + 12, "\x08\x06\0\1\x08\0\6\4\0\2", 10);
	memcpy(reply + 22, gateway_mac, 6);
	put32(reply + 28, GATEWAY_IP);
	memcpy(reply + 32, eth_mac, 6);
	put32(reply + 38, ETH_IP);
	p = pbuf_alloc(PBUF_RAW, sizeof(reply), PBUF_RAM);
	pbuf_take(p, reply, sizeof(reply));
	assert_int_equal(eth.input(p, &eth), ERR_OK);
	assert_int_equal(questions, CONFIG_MAX_TIME_SERVERS);
	netif_remove(&eth);
}

static void without_servers(void **state)
{
	struct time_config c = { .poll_s = 64 };

	time_init(&c);
	assert_true(time_settled());
	assert_false(wall_synced());
	assert_string_equal(state_of(-1), "no-servers");
	assert_false(time_waiting());
}

static int setup_all(void **state)
{
	lwip_init();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_good_reply), cmocka_unit_test(bad_replies), cmocka_unit_test(majorities),
		cmocka_unit_test(first_a_step_then_slews), cmocka_unit_test(the_rate_is_learned_and_held),
		cmocka_unit_test(a_liar_among_three), cmocka_unit_test(kisses_of_death),
		cmocka_unit_test(the_first_answers_are_insisted_on), cmocka_unit_test(forged_replies_do_not_count), cmocka_unit_test(questions_wait_for_the_gateway), cmocka_unit_test(without_servers),
	};

	return cmocka_run_group_tests(tests, setup_all, NULL);
}
