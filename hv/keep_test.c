/* SPDX-License-Identifier: MIT */
#include "hv/keep.h"
#include "hv/fake/nvram_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HOST "[host]\nname=a\n"
#define WEB "[guest web]\nmemory=64M\nkernel=k\nautostart=yes\n"
#define DB "[guest db]\nkernel=k\n"

static struct config c;
static struct error e;

/* The host starts with that godwit.conf. */
static void boot(const char *conf)
{
	fake_nvram_restart();
	config_parse(&c, conf, strlen(conf));
	assert_int_equal(c.n_errors, 0);
	keep_merge(&c);
}

static int setup(void **state)
{
	memset(&fake_nvram, 0, sizeof(fake_nvram));
	e.code = 0;
	boot(HOST WEB DB);
	keep_start(c.host_name);
	return 0;
}

static const struct guest_config *guest(const char *name)
{
	for (u32 i = 0; i < c.n_guests; i++)
		if (!strcmp(c.guests[i].name, name))
			return &c.guests[i];
	return NULL;
}

static struct guest_config make(const char *text)
{
	static struct config scratch;
	struct guest_config g;

	assert_int_equal(config_parse_guest(&c, &scratch, text, strlen(text), NULL, &g, &e), 0);
	return g;
}

static void owner_is(const char *name, enum keep_owner owner, const char *host, u64 epoch)
{
	char peer[NAME_MAX_LEN] = "";
	u64 n = 0;

	assert_int_equal(keep_owner(name, peer, &n), owner);
	assert_string_equal(peer, host);
	assert_int_equal(n, epoch);
}

static void test_text(void **state)
{
	static const char all[] = HOST "[switch lan]\n[switch back]\nvlan=7\n"
		"[guest all]\nmemory=1G\nvcpus=4\nweight=250\ncpu=x86-64-v3,+aes\nkernel=web/vmlinuz\ninitrd=i\nos=linux\n"
		"cmdline=console=ttyS0 root=/dev/vda ; not=a:comment\nautostart=yes\ndebug-exit=yes\nconsole=serial\n"
		"module=a.bin one two\nmodule=b.bin\ndisk=ram:64M,serial=x\ndisk=image:d.img\n"
		"disk=nbd://10.0.0.20/\ndisk=nbds://10.1.2.3:999/root,ro,timeout=60s,serial=abc\n"
		"nic=lan\nnic=back,mac=52:54:00:12:34:56,vlan=12\n[guest small]\nkernel=k\n";
	static struct config scratch;
	struct guest_config g;
	char text[2000];

	config_parse(&c, all, strlen(all));
	assert_int_equal(c.n_errors, 0);
	for (u32 i = 0; i < 2; i++) {
		int n = config_guest_text(&c.guests[i], text, sizeof(text));

		assert_int_equal(n, strlen(text));
		assert_int_equal(config_parse_guest(&c, &scratch, text, (size_t)n, NULL, &g, &e), 0);
		assert_memory_equal(&g, &c.guests[i], sizeof(g));
		for (int room = 1; room <= n; room++) {
			char *exact = malloc((size_t)room);

			assert_int_equal(config_guest_text(&c.guests[i], exact, (size_t)room), -E_RANGE);
			free(exact);
		}
	}
}

static void test_definitions(void **state)
{
	struct guest_config g = make("[guest new]\nkernel=k\nmemory=32M\ncmdline=a=b  c\n");

	assert_int_equal(keep_define(&g, &e), 0);
	g = *guest("web");
	g.memory_bytes = 128 << 20;
	assert_int_equal(keep_define(&g, &e), 0);
	assert_int_equal(keep_define(&g, &e), 0);
	assert_int_equal(keep_delete("db", &e), 0);
	assert_int_equal(fake_nvram.writes, 3); /* not what is there already */
	boot(HOST WEB DB);
	assert_int_equal(c.n_errors, 0);
	assert_int_equal(c.n_guests, 2);
	assert_int_equal(guest("web")->memory_bytes, 128 << 20);
	assert_true(guest("web")->autostart);
	assert_string_equal(guest("new")->cmdline, "a=b  c");
	/* Deleted is forgotten, made anew counts. */
	assert_int_equal(keep_delete("new", &e), 0);
	g = make("[guest db]\nkernel=other\n");
	assert_int_equal(keep_define(&g, &e), 0);
	boot(HOST WEB DB);
	assert_null(guest("new"));
	assert_string_equal(guest("db")->kernel, "other");
	/* A section that is not there, or is wrong for once, changes nothing. */
	boot(HOST);
	assert_int_equal(c.n_guests, 2);
	boot(HOST WEB DB);
	assert_int_equal(guest("web")->memory_bytes, 128 << 20);
}

static void test_edited_section_counts(void **state)
{
	struct guest_config g = *guest("web");

	g.memory_bytes = 128 << 20;
	assert_int_equal(keep_define(&g, &e), 0);
	assert_int_equal(keep_delete("db", &e), 0);
	assert_int_equal(keep_given("web", "b", 2, &e), 0);
	boot(HOST WEB "vcpus=2\n" DB "weight=7\n");
	keep_start(c.host_name);
	assert_int_equal(guest("web")->memory_bytes, 64 << 20);
	assert_int_equal(guest("web")->vcpus, 2);
	assert_non_null(guest("db"));
	owner_is("web", KEEP_GIVEN, "b", 2); /* whoever edits a file does not bring a guest back */
	boot(HOST WEB DB);
	assert_int_equal(guest("web")->memory_bytes, 64 << 20);
	assert_non_null(guest("db"));
}

static void test_owner(void **state)
{
	owner_is("web", KEEP_NONE, "", 0);
	assert_int_equal(keep_given("web", "b", 7, &e), 0);
	boot(HOST WEB DB);
	owner_is("web", KEEP_GIVEN, "b", 7);
	owner_is("db", KEEP_NONE, "", 0);
	assert_int_equal(keep_here("web", 9, &e), 0);
	boot(HOST WEB DB);
	owner_is("web", KEEP_HERE, "", 9);
	/* An operator's word ends it. */
	assert_int_equal(keep_delete("web", &e), 0);
	boot(HOST WEB DB);
	owner_is("web", KEEP_NONE, "", 0);
	assert_null(guest("web"));
}

/* A guest that only passes through leaves nothing; one of this host's own keeps its definition. */
static void test_passing(void **state)
{
	struct guest_config g = make("[guest far]\nkernel=k\nmemory=32M\n"), web = *guest("web");

	assert_int_equal(keep_came(&g, 4, &e), 0);
	web.memory_bytes = 256 << 20; /* as the other host has it */
	assert_int_equal(keep_came(&web, 6, &e), 0);
	boot(HOST WEB DB);
	assert_int_equal(guest("far")->memory_bytes, 32 << 20);
	owner_is("far", KEEP_HERE, "", 4);
	assert_int_equal(guest("web")->memory_bytes, 64 << 20);
	owner_is("web", KEEP_HERE, "", 6);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(keep_given(i ? "web" : "far", "b", 8, &e), 0);
		assert_int_equal(keep_left(i ? "web" : "far", &e), 0);
	}
	boot(HOST WEB DB);
	assert_null(guest("far"));
	owner_is("far", KEEP_NONE, "", 0);
	assert_non_null(guest("web"));
	owner_is("web", KEEP_GIVEN, "b", 8);
}

/* Deleted here, come by a move, gone again: still deleted, or its section would start it a second time. */
static void test_deleted_passing(void **state)
{
	struct guest_config web = *guest("web");

	assert_int_equal(keep_delete("web", &e), 0);
	assert_int_equal(keep_came(&web, 3, &e), 0);
	boot(HOST WEB DB);
	assert_non_null(guest("web"));
	assert_int_equal(keep_given("web", "b", 4, &e), 0);
	assert_int_equal(keep_left("web", &e), 0);
	boot(HOST WEB DB);
	assert_null(guest("web"));
}

static void test_faults(void **state)
{
	static const enum err faults[] = { E_UNSUPPORTED, E_RANGE, E_IO };
	struct guest_config g = make("[guest new]\nkernel=k\n");

	assert_int_equal(keep_given("db", "b", 2, &e), 0);
	for (u32 i = 0; i < 3; i++) {
		fake_nvram.fail = faults[i];
		e.code = 0;
		assert_int_equal(keep_given("web", "b", 2, &e), -(int)faults[i]);
		assert_non_null(strstr(e.text, "guest web"));
		assert_non_null(strstr(e.text, "a fault that the test wants"));
		assert_string_equal(keep->problem.text, e.text);
		owner_is("web", KEEP_NONE, "", 0);
		assert_int_equal(keep_here("db", 3, NULL), -(int)faults[i]);
		owner_is("db", KEEP_GIVEN, "b", 2);
		assert_int_equal(keep_define(&g, NULL), -(int)faults[i]);
		assert_int_equal(keep_delete("db", NULL), -(int)faults[i]);
		assert_int_equal(keep->problem.code, faults[i]);
	}
	fake_nvram.fail = 0;
	assert_int_equal(keep_define(&g, &e), 0);
	assert_int_not_equal(keep->problem.code, 0); /* of another guest */
	assert_int_equal(keep_delete("db", &e), 0);
	assert_int_equal(keep->problem.code, 0);
	boot(HOST WEB DB);
	assert_null(guest("db"));
}

static void test_limits(void **state)
{
	struct guest_config g = make("[guest long]\nkernel=k\n");
	char name[NAME_MAX_LEN];
	u32 n;

	memset(g.cmdline, 'x', sizeof(g.cmdline) - 1);
	for (g.n_modules = 0; g.n_modules < CONFIG_MAX_MODULES; g.n_modules++)
		memset(g.modules[g.n_modules], 'y', sizeof(g.modules[0]) - 1);
	for (g.n_disks = 0; g.n_disks < CONFIG_MAX_DISKS; g.n_disks++) {
		g.disks[g.n_disks] = (struct disk_config){ .kind = DISK_NBD, .port = 10809, .address = ~0u };
		memset(g.disks[g.n_disks].export_name, 'z', 63);
		memset(g.disks[g.n_disks].serial, 's', 20);
	}
	memset(g.kernel, 'k', 63);
	memset(g.initrd, 'i', 63);
	memset(g.cpu, 'c', sizeof(g.cpu) - 1);
	for (g.n_nics = 0; g.n_nics < CONFIG_MAX_NICS; g.n_nics++)
		memset(g.nics[g.n_nics].network, 'n', NAME_MAX_LEN - 1);
	assert_int_equal(keep_define(&g, &e), -E_RANGE);
	assert_non_null(strstr(e.text, "too long"));
	assert_int_equal(fake_nvram.writes, 0);
	/* That its owner is recorded does not make the definition right. */
	assert_int_equal(keep_came(&g, 2, &e), -E_RANGE);
	owner_is("long", KEEP_HERE, "", 2);
	assert_int_equal(keep->problem.code, E_RANGE);
	assert_int_equal(keep_delete("long", NULL), 0);
	assert_int_equal(keep->problem.code, 0);
	/* No more bytes than all may have; what is there stays. */
	g.n_disks = g.n_nics = 0;
	for (n = 0, e.code = 0; n < KEEP_SLOTS; n++) {
		snprintf(g.name, sizeof(g.name), "g%u", n);
		if (keep_define(&g, &e))
			break;
	}
	assert_in_range(n, 8, 16);
	assert_non_null(strstr(e.text, "16384 bytes"));
	for (u32 i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "g%u", i);
		assert_int_equal(keep_delete(name, NULL), 0);
	}
	/* No more records than there are places. */
	for (n = 0, e.code = 0; n <= KEEP_SLOTS; n++) {
		snprintf(name, sizeof(name), "g%u", n);
		if (keep_given(name, "b", 1, &e))
			break;
	}
	assert_int_equal(n, KEEP_SLOTS);
	assert_non_null(strstr(e.text, "as many records"));
	owner_is("g47", KEEP_GIVEN, "b", 1);
}

/* A record that is damaged, or somebody else's: said, not used, and the host starts. */
static void test_damaged(void **state)
{
	u8 good[KEEP_RECORD_BYTES];
	size_t len;

	assert_int_equal(keep_given("web", "b", 7, &e), 0);
	len = fake_nvram.slots[0].len;
	memcpy(good, fake_nvram.slots[0].bytes, len);
	for (size_t i = 0; i < 8 * len; i++) {
		fake_nvram.slots[0].bytes[i / 8] ^= (u8)BIT(i % 8);
		boot(HOST WEB DB);
		assert_int_equal(c.n_errors, 1);
		assert_non_null(strstr(c.errors[0].text, "record 0"));
		owner_is("web", KEEP_LOST, "", 0);
		owner_is("db", KEEP_LOST, "", 0);
		assert_int_equal(c.n_guests, 2);
		memcpy(fake_nvram.slots[0].bytes, good, len);
	}
	for (size_t i = 1; i < len; i++) {
		fake_nvram.slots[0].len = (u16)i;
		boot(HOST WEB DB);
		assert_int_equal(c.n_errors, 1);
		owner_is("web", KEEP_LOST, "", 0);
		owner_is("db", KEEP_LOST, "", 0);
	}
	fake_nvram.slots[0].len = KEEP_UNREADABLE;
	boot(HOST WEB DB);
	assert_int_equal(c.n_errors, 1);
	keep_start(c.host_name);
	/* It is not overwritten, one that is merely damaged may be. */
	assert_int_equal(keep_given("web", "b", 8, &e), 0);
	assert_int_equal(fake_nvram.slots[0].len, KEEP_UNREADABLE);
	/* Said once, however many; and which guests are here is known again when it is recorded. */
	fake_nvram.slots[2].len = KEEP_UNREADABLE;
	boot(HOST WEB DB);
	assert_int_equal(c.n_errors, 1);
	owner_is("web", KEEP_GIVEN, "b", 8);
	owner_is("db", KEEP_LOST, "", 0);
	assert_int_equal(keep_here("db", 1, &e), 0);
	boot(HOST WEB DB);
	owner_is("db", KEEP_HERE, "", 1);
	fake_nvram.slots[0].len = (u16)len;
	fake_nvram.slots[1].len = fake_nvram.slots[2].len = fake_nvram.slots[3].len = 0;
	boot(HOST WEB DB);
	assert_int_equal(c.n_errors, 0);
	owner_is("web", KEEP_GIVEN, "b", 7);
	owner_is("db", KEEP_NONE, "", 0);
}

static void test_other_host(void **state)
{
	struct guest_config g = make("[guest new]\nkernel=k\n");

	assert_int_equal(keep_given("web", "b", 7, &e), 0);
	assert_int_equal(keep_define(&g, &e), 0);
	boot("[host]\nname=x\n" WEB DB);
	keep_start(c.host_name);
	owner_is("web", KEEP_NONE, "", 0);
	assert_null(guest("new"));
	assert_int_equal(keep_here("web", 3, &e), 0);
	boot(HOST WEB DB);
	owner_is("web", KEEP_GIVEN, "b", 7);
	assert_non_null(guest("new"));
}

/* What the host has lost since (a switch) leaves the guest out, or as godwit.conf has it; the owner stays known. */
static void test_definition_unusable(void **state)
{
	struct guest_config g;

	boot(HOST "[switch lan]\n" WEB);
	g = make("[guest new]\nkernel=k\nnic=lan\n");
	assert_int_equal(keep_define(&g, &e), 0);
	assert_int_equal(keep_given("new", "b", 2, &e), 0);
	g = make("[guest web]\nkernel=k\nnic=lan\n");
	assert_int_equal(keep_define(&g, &e), 0);
	boot(HOST WEB);
	assert_int_equal(c.n_errors, 2);
	assert_non_null(strstr(c.errors[0].text, "guest new"));
	assert_non_null(strstr(c.errors[0].text, "[switch lan]"));
	assert_null(guest("new"));
	assert_int_equal(guest("web")->n_nics, 0);
	owner_is("new", KEEP_GIVEN, "b", 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_text, setup),
		cmocka_unit_test_setup(test_definitions, setup),
		cmocka_unit_test_setup(test_edited_section_counts, setup),
		cmocka_unit_test_setup(test_owner, setup),
		cmocka_unit_test_setup(test_passing, setup),
		cmocka_unit_test_setup(test_deleted_passing, setup),
		cmocka_unit_test_setup(test_faults, setup),
		cmocka_unit_test_setup(test_limits, setup),
		cmocka_unit_test_setup(test_damaged, setup),
		cmocka_unit_test_setup(test_other_host, setup),
		cmocka_unit_test_setup(test_definition_unusable, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
