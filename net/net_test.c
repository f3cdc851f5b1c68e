/* SPDX-License-Identifier: MIT */
/* The host's own network as net.c puts it together: what it does when its surroundings change. All of TLS and lwIP is real, the
 * card and the parts above are not. */
#include "net/net.h"
#include "drivers/nic/nic.h"
#include "lwip/netif.h"
#include "mig/mig.h"
#include "net/control.h"
#include "net/lan.h"
#include "net/nbd.h"
#include "net/nbd_client.h"
#include "net/net_fake.h"
#include "net/time.h"
#include "net/tls.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* */
#include <cmocka.h>

static u8 frame[2048];
static struct tls_identity *disks_identity;

static u8 *tx_buffer(struct nic *n) { return frame; }
static void tx_commit(struct nic *n, unsigned len) {}
static unsigned rx_frame(struct nic *n, const u8 **data) { return 0; }
static void nothing(struct nic *n) {}
static bool link_up(struct nic *n) { return true; }

static const struct nic_ops ops = { tx_buffer, tx_commit, rx_frame, nothing, nothing, nothing, link_up };
static struct nic card = { &ops, "card 0", { 2, 0, 0, 0, 0, 1 } };

struct nic *nic_find(unsigned *n, struct error *e) { return &card; }
void control_init(const struct boot_info *bi) {}
void control_accept(struct stream *s) {}
bool control_poll(void) { return false; }
void mig_accept(struct stream *s) {}
void lan_init(const struct config *c, int own_card) {}
bool lan_poll(void) { return false; }
void nbd_init(struct tls_identity *id, const struct error *why) { disks_identity = id; }
void nbd_client_timers(u64 now) {}
void time_init(const struct time_config *c) {}
void time_poll(void) {}
bool time_waiting(void) { return false; }
bool time_settled(void) { return true; }

const struct boot_file *boot_file(const struct boot_info *bi, const char *name)
{
	for (u32 i = 0; i < bi->n_files; i++)
		if (!strcmp(bi->files[i].name, name))
			return &bi->files[i];
	return NULL;
}

static void start(void)
{
	static const char *const files[][2] = { { "ca.crt", "ca.crt" }, { "host.crt", "a.crt" }, { "host.key", "a.key" } };
	static struct boot_info bi;

	bi.n_files = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
		struct boot_file *f = &bi.files[bi.n_files++];
		size_t len;

		strcpy(f->name, files[i][0]);
		f->data = fake_file(files[i][1], &len);
		f->size = len;
	}
	strcpy(bi.config.host_name, "a");
	bi.config.dhcp = true;
	bi.config.port = 4789;
	net_init(&bi);
}

static void turns(unsigned n)
{
	while (n--) {
		fake_now += 1000;
		net_poll();
	}
}

static bool said(const char *text)
{
	bool yes = strstr(fake_log, text);

	fake_log[0] = 0;
	return yes;
}

static void set_address(u8 last)
{
	ip4_addr_t ip = { lwip_htonl(0x0a000000 | last) }, mask = { lwip_htonl(0xffffff00) }, none = { 0 };

	netif_set_addr(netif_default, last ? &ip : &none, last ? &mask : &none, &none);
}

/* As lwIP's DHCP does it when a lease begins and ends. */
static void a_lost_address_is_said(void **state)
{
	set_address(5);
	assert_true(said("address 10.0.0.5/24"));
	set_address(0);
	assert_true(said("no address any more"));
	set_address(6);
	assert_true(said("address 10.0.0.6/24"));
}

/* A dead battery: the firmware's clock starts long before the certificates do. */
static void time_servers_make_up_for_the_firmwares_clock(void **state)
{
	assert_true(said("control port 4789 stays closed") && !disks_identity);
	fake_wall_shift = 0;
	turns(10);
	assert_false(said("control port"));
	fake_wall_synced = true;
	turns(10);
	assert_true(said("control port 4789 open") && disks_identity);
	turns(10);
	assert_false(said("control port"));
}

static int setup_all(void **state)
{
	fake_wall_shift = -20ll * 365 * 86400;
	start();
	turns(10);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(time_servers_make_up_for_the_firmwares_clock), cmocka_unit_test(a_lost_address_is_said),
	};

	return cmocka_run_group_tests(tests, setup_all, NULL);
}
