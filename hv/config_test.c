/* SPDX-License-Identifier: MIT */
#include "hv/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct config c;

static void parse(const char *text)
{
	/* A copy of the exact size, so that ASan sees reads beyond the end. */
	size_t len = strlen(text);
	char *copy = test_malloc(len + 1);

	memcpy(copy, text, len);
	config_parse(&c, copy, len);
	test_free(copy);
}

#define HOST "[host]\nname=a\n"

/* Exactly one error, which has all of these words. */
static void one_error(const char *text, const char *where, const char *what, const char *remedy)
{
	parse(text);
	if (c.n_errors != 1)
		for (u32 i = 0; i < c.n_errors; i++)
			print_message("error %u: %s\n", i, c.errors[i].text);
	assert_int_equal(c.n_errors, 1);
	if (!strstr(c.errors[0].text, where) || !strstr(c.errors[0].text, what) || !strstr(c.errors[0].text, remedy))
		fail_msg("for <%s> wanted <%s> <%s> <%s>, got: %s", text, where, what, remedy, c.errors[0].text);
	assert_int_equal(c.errors[0].code, E_INVAL);
}

static void test_everything(void **state)
{
	parse("\xef\xbb\xbf# comment with \xc3\xa4\r\n"
		"[host]\r\n  name = node-1.lab  \r\n"
		"[network]\nmode=static\naddress=192.168.7.10/24\ngateway=192.168.7.1\nport=5000\n"
		"[guest web]\nmemory=1G\nvcpus=4\nweight=250\ncpu=x86-64-v3,+aes\nkernel=vmlinuz\ninitrd=web/initrd.gz\n"
		"cmdline=console=ttyS0 root=/dev/vda ; not=a:comment\nautostart=yes\ndebug-exit=yes\nos=linux\nconsole=serial\n"
		"; comment\n"
		"[guest t1]\nkernel=test.elf\nos=multiboot\nmodule=a.bin one two\nmodule: b.bin\n"
		"[time]\nservers=10.0.2.2:1123, 192.168.7.1\nprefer=192.168.7.1\npoll=32s\n"
		"[migration]\nfreeze-budget=2s\nmax-rounds=7\nverify=full\n"
		"[debug]\nself-migrate-exits=1000\nquit-when-idle=yes\napicv=no");
	assert_int_equal(c.n_errors, 0);
	assert_string_equal(c.host_name, "node-1.lab");
	assert_false(c.dhcp);
	assert_int_equal(c.address, 0xc0a8070a);
	assert_int_equal(c.netmask, 0xffffff00);
	assert_int_equal(c.gateway, 0xc0a80701);
	assert_int_equal(c.port, 5000);
	assert_int_equal(c.time.n_servers, 2);
	assert_int_equal(c.time.servers[0].ip, 0x0a000202);
	assert_int_equal(c.time.servers[0].port, 1123);
	assert_int_equal(c.time.servers[1].port, 123);
	assert_int_equal(c.time.prefer, 2);
	assert_int_equal(c.time.poll_s, 32);
	assert_int_equal(c.freeze_budget_ms, 2000);
	assert_int_equal(c.max_rounds, 7);
	assert_true(c.verify_full);
	assert_int_equal(c.self_migrate_exits, 1000);
	assert_true(c.quit_when_idle && !c.apicv);
	assert_int_equal(c.n_guests, 2);
	assert_string_equal(c.guests[0].name, "web");
	assert_int_equal(c.guests[0].memory_bytes, 1ull << 30);
	assert_int_equal(c.guests[0].vcpus, 4);
	assert_int_equal(c.guests[0].weight, 250);
	assert_string_equal(c.guests[0].cpu, "x86-64-v3,+aes");
	assert_int_equal(c.guests[1].vcpus, 1);
	assert_int_equal(c.guests[1].weight, 100);
	assert_string_equal(c.guests[1].cpu, "");
	assert_string_equal(c.guests[0].kernel, "vmlinuz");
	assert_string_equal(c.guests[0].initrd, "web/initrd.gz");
	assert_string_equal(c.guests[0].cmdline, "console=ttyS0 root=/dev/vda ; not=a:comment");
	assert_true(c.guests[0].autostart && c.guests[0].debug_exit && c.guests[0].console_serial);
	assert_string_equal(c.guests[0].os_type, "linux");
	assert_int_equal(c.guests[0].n_modules, 0);
	assert_string_equal(c.guests[1].name, "t1");
	assert_int_equal(c.guests[1].memory_bytes, 128ull << 20);
	assert_false(c.guests[1].autostart || c.guests[1].debug_exit || c.guests[1].console_serial);
	assert_int_equal(c.guests[1].n_modules, 2);
	assert_string_equal(c.guests[1].modules[0], "a.bin one two");
	assert_string_equal(c.guests[1].modules[1], "b.bin");
}

#define GUEST HOST "[guest g]\nkernel=k\n"

static void test_disks(void **state)
{
	const struct disk_config *d = c.guests[0].disks;
	char text[400] = GUEST "disk=nbd://10.0.0.1/";

	parse(GUEST "disk=ram:64M\ndisk=image:tools/root.img,serial=a\ndisk=nbd://192.168.1.5:10810/root.disk,timeout=60s\n"
	      "disk = nbds://10.0.0.1/a/b,ro,serial=01234567890123456789\n");
	assert_int_equal(c.n_errors, 0);
	assert_int_equal(c.guests[0].n_disks, 4);
	assert_int_equal(d[0].kind, DISK_RAM);
	assert_int_equal(d[0].bytes, 64u << 20);
	assert_false(d[0].read_only);
	assert_int_equal(d[1].kind, DISK_IMAGE);
	assert_string_equal(d[1].image, "tools/root.img");
	assert_string_equal(d[1].serial, "a");
	assert_true(d[1].read_only);
	assert_int_equal(d[2].kind, DISK_NBD);
	assert_int_equal(d[2].address, 0xc0a80105);
	assert_int_equal(d[2].port, 10810);
	assert_string_equal(d[2].export_name, "root.disk");
	assert_int_equal(d[2].timeout_ms, 60000);
	assert_false(d[2].tls || d[2].read_only);
	assert_int_equal(d[3].port, 10809);
	assert_string_equal(d[3].export_name, "a/b");
	assert_string_equal(d[3].serial, "01234567890123456789");
	assert_true(d[3].tls && d[3].read_only);
	parse(GUEST "disk=nbd://10.0.0.1:1\n");
	assert_int_equal(c.n_errors, 0);
	assert_string_equal(d[0].export_name, "");

	one_error(GUEST "disk=/dev/sda\n", "line 5", "disk=/dev/sda is no disk", "nbd://IP:PORT/EXPORT");
	one_error(GUEST "disk=ram:64\n", "line 5", "ram:64 is not possible", "disk=ram:64M");
	one_error(GUEST "disk=ram:1K\n", "line 5", "not possible", "whole megabytes");
	one_error(GUEST "disk=ram:99999999999G\n", "line 5", "not possible", "whole megabytes");
	one_error(GUEST "disk=image:../x\n", "line 5", "is not a file name", "at most 63");
	one_error(GUEST "disk=nbd://server/root\n", "line 5", "no IPv4 address behind //", "nbd://192.168.1.5:10809/root");
	one_error(GUEST "disk=nbd://10.0.0.1:0/root\n", "line 5", "port that is none", "nbd://192.168.1.5:10809/root");
	one_error(GUEST "disk=nbd://10.0.0.1:65536/root\n", "line 5", "port that is none", "nbd://192.168.1.5:10809/root");
	one_error(GUEST "disk=nbd://10.0.0.1x\n", "line 5", "is no disk", "nbds://IP:PORT/EXPORT");
	one_error(GUEST "disk=nbd://10.0.0.1/a b\n", "line 5", "export name", "without blanks");
	one_error(GUEST "disk=nbd://10.0.0.1/a,rw\n", "line 5", "unknown option", ",timeout=DURATION");
	one_error(GUEST "disk=nbd://10.0.0.1/a,serial=012345678901234567890\n", "line 5", "serial number", "1 to 20");
	one_error(GUEST "disk=nbd://10.0.0.1/a,timeout=10ms\n", "line 5", "timeout", "from 1s");
	one_error(GUEST "disk=ram:1M,timeout=10s\n", "line 5", "timeout", "An NBD disk");
	one_error(GUEST "disk=ram:1M\ndisk=ram:1M\ndisk=ram:1M\ndisk=ram:1M\ndisk=ram:1M\n", "line 9", "one disk too many", "at most 4");
	memset(text + strlen(text), 'x', 64);
	one_error(text, "line 5", "export name", "up to 63");
}

static void test_defaults(void **state)
{
	parse(HOST);
	assert_int_equal(c.n_errors, 0);
	assert_true(c.dhcp);
	assert_int_equal(c.port, 4789);
	assert_int_equal(c.freeze_budget_ms, 300);
	assert_int_equal(c.max_rounds, 30);
	assert_false(c.verify_full || c.quit_when_idle || !c.apicv);
	assert_int_equal(c.self_migrate_exits, 0);
	assert_int_equal(c.n_guests, 0);
	one_error("", "godwit.conf", "[host] name= is missing", "like name=a");
	assert_string_equal(c.host_name, "unnamed");
	one_error("[host]\nrecords=no\n", "godwit.conf", "[host] name= is missing", "like name=a");
}

static void test_network(void **state)
{
	parse(HOST "[network]\naddress=10.0.2.13/30\n");
	assert_int_equal(c.n_errors, 0);
	assert_false(c.dhcp);
	one_error(HOST "[network]\nmode=static\n", "godwit.conf", "needs address=", "DHCP is used");
	assert_true(c.dhcp);
	one_error(HOST "[network]\nmode=dhcp\naddress=10.0.0.1/8\n", "line 5", "address= does not go with mode=dhcp", "Remove");
	assert_int_equal(c.address, 0);
	one_error(HOST "[network]\naddress=10.0.2.15/24\ngateway=10.0.3.2\n", "godwit.conf", "gateway=", "no gateway is used");
	assert_int_equal(c.gateway, 0);
	assert_int_equal(c.address, 0x0a00020f);
	one_error(HOST "[network]\naddress=10.0.2.15/24\ngateway=10.0.2.15\n", "godwit.conf", "gateway=", "no gateway is used");
	one_error(HOST "[network]\nmode=auto\n", "line 4", "mode=auto is unknown", "mode=dhcp");
	static const char *const bad[] = { "10.0.2.15", "10.0.2/24", "10.0.2.256/24", "10.0.2.15/31", "10.0.2.15/0", "10.0.2.15/",
		"10.0.2.15/24x", "10.0.2.15.1/24", "1e.0.2.15/24", "-1.0.2.15/24", "10..2.15/24", "fe80::1/64", "0010.0.2.15/24" };
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char text[100];

		snprintf(text, sizeof(text), HOST "[network]\naddress=%s\n", bad[i]);
		one_error(text, "line 4", "is not an IPv4 address", "192.168.1.10/24");
		assert_int_equal(c.address, 0);
	}
	one_error(HOST "[network]\naddress=10.0.2.0/24\n", "line 4", "the network's own", "address of this host");
	one_error(HOST "[network]\naddress=10.0.2.255/24\n", "line 4", "broadcast", "address of this host");
	one_error(HOST "[network]\naddress=224.0.0.5/24\n", "line 4", "reserved", "address of this host");
	one_error(HOST "[network]\naddress=127.0.0.1/8\n", "line 4", "reserved", "address of this host");
	one_error(HOST "[network]\ngateway=10.0.2\n", "line 4", "gateway=10.0.2 is not an IPv4", "like gateway=");
	one_error(HOST "[network]\nport=0\n", "line 4", "port=0", "1 to 65535");
	one_error(HOST "[network]\nport=65536\n", "line 4", "port=65536", "1 to 65535");
	one_error(HOST "[network]\nport=47x\n", "line 4", "port=47x", "1 to 65535");
	assert_int_equal(c.port, 4789);
}

static void test_values(void **state)
{
	one_error("[host]\nname=a b\n", "line 2", "name=a b is not a good name", "1 to 31 letters");
	one_error("[host]\nname=01234567890123456789012345678901\n", "line 2", "not a good name", "1 to 31 letters");
	parse("[host]\nname=0123456789012345678901234567890\n");
	assert_int_equal(c.n_errors, 0);
	one_error("[host]\nname=.x\n", "line 2", "not a good name", "1 to 31 letters");
	one_error("[host]\nname=\n", "line 2", "has no value", "Write one");
	one_error("[host]\nname=a\nname=b\n", "line 3", "[host] name= is there twice", "Remove one");
	assert_string_equal(c.host_name, "a");
	one_error("[host]\nname=a\nfoo=1\n", "line 3", "no key foo", "It knows name");
	one_error(HOST "[hots]\nname=b\n", "line 3", "[hots] is unknown", "[guest NAME]");
	assert_string_equal(c.host_name, "a");
	one_error("name=a\n" HOST, "line 1", "before any section", "[host]");
	one_error(HOST "[migration]\nfreeze-budget=300\n", "line 4", "freeze-budget=300", "300ms");
	one_error(HOST "[migration]\nfreeze-budget=0ms\n", "line 4", "freeze-budget=0ms", "300ms");
	one_error(HOST "[migration]\nfreeze-budget=61s\n", "line 4", "freeze-budget=61s", "60s");
	one_error(HOST "[migration]\nfreeze-budget=18446744073709551615s\n", "line 4", "freeze-budget", "60s");
	one_error(HOST "[migration]\nmax-rounds=0\n", "line 4", "max-rounds=0", "1 to 1000");
	one_error(HOST "[migration]\nmax-rounds=99999999999999999999999\n", "line 4", "max-rounds=9", "1 to 1000");
	one_error(HOST "[migration]\nverify=yes\n", "line 4", "verify=yes", "verify=fold");
	static const char *const bad_servers[] = { "ntp.example", "10.0.0.1;", "10.0.0.1,", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:",
		"224.0.1.1", "0.0.0.0", "10.0.0.1 10.0.0.2", "10.0.0" };
	for (size_t i = 0; i < ARRAY_SIZE(bad_servers); i++) {
		char text[100];

		snprintf(text, sizeof(text), HOST "[time]\nservers=%s\n", bad_servers[i]);
		one_error(text, "line 4", "is not made of IPv4 addresses", "192.168.1.1,192.168.1.2");
		assert_int_equal(c.time.n_servers, 0);
	}
	one_error(HOST "[time]\nservers=1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4,1.1.1.5\n", "line 4", "one server too many", "4");
	one_error(HOST "[time]\nservers=1.1.1.1\nprefer=1.1.1.2\n", "[time]", "prefer= is none of", "Name one");
	one_error(HOST "[time]\npoll=7s\n", "line 4", "poll=7s", "8s to 3600s");
	one_error(HOST "[time]\npoll=64\n", "line 4", "poll=64", "64s");
	one_error(HOST "[debug]\nself-migrate-exits=-1\n", "line 4", "self-migrate-exits=-1", "0 for off");
	one_error(HOST "[debug]\nquit-when-idle=1\n", "line 4", "quit-when-idle=1", "yes nor no");
	/* A value that is wrong leaves the default. */
	one_error(HOST "[debug]\nself-migrate-exits=7x\n", "line 4", "self-migrate-exits=7x", "0 for off");
	assert_int_equal(c.self_migrate_exits, 0);
	one_error(HOST "[network]\ngateway=10.0.2.1x\n", "line 4", "gateway=10.0.2.1x", "like gateway=");
	assert_int_equal(c.gateway, 0);
	one_error(HOST "[time]\nservers=1.1.1.1\nprefer=1.1.1.2x\n", "line 5", "prefer=1.1.1.2x", "servers=192");
	one_error(HOST "records=jes\n", "line 3", "records=jes", "yes nor no");
	assert_true(c.keep_records);
}

/* A guest section with this line; the guest must be left out, the one before and after stay. */
static void bad_guest_line(const char *line, const char *what, const char *remedy)
{
	char text[3000];

	snprintf(text, sizeof(text), HOST "[guest x]\nkernel=k\n[guest y]\nkernel=k\n%s\n[guest z]\nkernel=k\n", line);
	one_error(text, "line 7", what, remedy);
	assert_int_equal(c.n_guests, 2);
	assert_string_equal(c.guests[0].name, "x");
	assert_string_equal(c.guests[1].name, "z");
}

static void test_guest_values(void **state)
{
	static const char *const sizes[] = { "12", "M", "1.5G", "0x10M", "-4M", "128MB", "128 M", "99999999999999999999M",
		"17179869184G" };
	static const char *const impossible[] = { "0M", "2M", "5M", "4097K", "2048G" };
	static const char *const files[] = { "a b", "../x", "a/../b", "/abs", "a\\b", "x:y", "x*", "dir/", "a|b",
		"0123456789012345678901234567890123456789012345678901234567890123" };
	char line[1200];

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		snprintf(line, sizeof(line), "memory=%s", sizes[i]);
		bad_guest_line(line, "is not a size", "like memory=128M");
	}
	for (size_t i = 0; i < ARRAY_SIZE(impossible); i++) {
		snprintf(line, sizeof(line), "memory=%s", impossible[i]);
		bad_guest_line(line, "is not possible", "multiple of 2M");
	}
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(line, sizeof(line), "initrd=%s", files[i]);
		bad_guest_line(line, "is not a file name", "folder godwit");
		if (!strcmp(files[i], "a b"))
			continue; /* file and argument */
		snprintf(line, sizeof(line), "module=%s", files[i]);
		bad_guest_line(line, "is not a file name", "folder godwit");
	}
	bad_guest_line("vcpus=9", "vcpus=9", "vcpus=8");
	bad_guest_line("vcpus=0", "vcpus=0", "vcpus=1");
	bad_guest_line("weight=0", "weight=0", "1 to 1000");
	bad_guest_line("weight=1001", "weight=1001", "1 to 1000");
	bad_guest_line("cpu=x86-64-v5", "names 'x86-64-v5', which is no CPU baseline", "x86-64-v2, x86-64-v3");
	bad_guest_line("cpu=host,+quantum", "names 'quantum', which is no feature", "/proc/cpuinfo");
	bad_guest_line("autostart=maybe", "autostart=maybe", "yes nor no");
	bad_guest_line("debug-exit=on", "debug-exit=on", "yes nor no");
	bad_guest_line("os=windows", "os=windows", "os=other");
	bad_guest_line("console=tty", "console=tty", "console=serial");
	bad_guest_line("memroy=1G", "no key memroy", "memory, vcpus, weight");
	bad_guest_line("name=q", "no key name", "memory, vcpus, weight");
	bad_guest_line("kernel=again", "[guest y] kernel= is there twice", "Remove one");
	bad_guest_line("autostart", "\"autostart\" is neither", "key=value");
	bad_guest_line("=5", "no key", "It knows");
	bad_guest_line("cmdline=a\x01", "character 0x01", "ASCII");
	bad_guest_line("cmdline=\xc3\xa4", "character 0xc3", "ASCII");
	bad_guest_line("cmdline=a\rb", "character 0x0d", "ASCII");
	memset(line, 'x', sizeof(line));
	memcpy(line, "cmdline=", 8);
	line[8 + 512] = 0;
	bad_guest_line(line, "is too long", "511");
	memset(line + 8, 'x', 993);
	line[1001] = 0;
	bad_guest_line(line, "the line is too long (1001", "At most 1000");
	one_error(HOST "[guest y]\nkernel=k\nmodule=1\nmodule=2\nmodule=3\nmodule=4\nmodule=5\n", "line 9", "one module too many",
		"at most 4");
	snprintf(line, sizeof(line), "module=f %0126d", 1);
	bad_guest_line(line, "is too long", "127");
}

static void test_tabs_are_blanks(void **state)
{
	static struct config c;
	const char *text = HOST "[guest a]\nkernel\t=\tk\ncmdline=quiet\tro\n";

	config_parse(&c, text, strlen(text));
	assert_int_equal(c.n_errors, 0);
	assert_string_equal(c.guests[0].kernel, "k");
	assert_string_equal(c.guests[0].cmdline, "quiet ro");
}

static void test_cmdline_fits(void **state)
{
	char text[700] = HOST "[guest a]\nkernel=k\ncmdline=";
	size_t n = strlen(text);

	memset(text + n, 'y', 511);
	parse(text);
	assert_int_equal(c.n_errors, 0);
	assert_int_equal(strlen(c.guests[0].cmdline), 511);
}

static void test_guests(void **state)
{
	char text[4000] = HOST;

	one_error(HOST "[guest a]\n", "line 3", "[guest a] has no kernel=", "kernel=vmlinuz");
	one_error(HOST "[guest a]\nmemory=4M\n[debug]\n", "line 3", "[guest a] has no kernel=", "kernel=vmlinuz");
	assert_int_equal(c.n_guests, 0);
	one_error(HOST "[guest a]\nkernel=k\nmemory=8M\n[guest a]\nkernel=l\nmemory=16M\n", "line 6", "[guest a] is there twice",
		"name of its own");
	assert_int_equal(c.n_guests, 1);
	assert_string_equal(c.guests[0].kernel, "k");
	assert_int_equal(c.guests[0].memory_bytes, 8 << 20);
	one_error(HOST "[guest a/b]\nkernel=k\n", "line 3", "[guest a/b]", "1 to 31");
	one_error(HOST "[guest ]\nkernel=k\n", "line 3", "[guest ]", "1 to 31");
	one_error(HOST "[guest]\nkernel=k\n", "line 3", "[guest] is unknown", "[guest NAME]");
	one_error(HOST "[guest 01234567890123456789012345678901]\nkernel=k\n", "line 3", "guest 0123", "1 to 31");
	one_error(HOST "[guest 0123456789012345678901234567890123456789012345]\nkernel=k\n", "line 3", "too long", "[guest web]");
	for (int i = 0; i < CONFIG_MAX_GUESTS + 1; i++)
		snprintf(text + strlen(text), 100, "[guest g%d]\nkernel=k\n", i);
	one_error(text, "line 35", "[guest g16] is one guest too many", "at most 16");
	assert_int_equal(c.n_guests, CONFIG_MAX_GUESTS);
}

static void test_sections(void **state)
{
	/* What follows a broken section line belongs to nobody, and the guest before it is not harmed. */
	one_error(HOST "[guest a]\nkernel=k\n[debug\nquit-when-idle=yes\nkernel=x\n", "line 5", "no ]", "[host]");
	assert_int_equal(c.n_guests, 1);
	assert_false(c.quit_when_idle);
	one_error(HOST "[guest a]\nkernel=k\n[debug] x\nquit-when-idle=yes\n", "line 5", "after the section's ]", "[host]");
	assert_int_equal(c.n_guests, 1);
	one_error(HOST "[guest a]\nkernel=k\n[d\xc3]\nquit-when-idle=yes\nnonsense\n", "line 5", "character 0xc3", "ASCII");
	assert_int_equal(c.n_guests, 1);
	one_error(HOST "[]\nx=y\n", "line 3", "section [] is unknown", "[host]");
	one_error(HOST "[!]\nx=y\n", "line 3", "section [!] is unknown", "[host]");
}

static void test_binary(void **state)
{
	static const char nul[] = HOST "[guest a]\nkernel=k\0evil\n[debug]\nquit-when-idle=yes\n";
	char noise[4096];
	u32 seed = 1;

	config_parse(&c, nul, sizeof(nul) - 1);
	assert_int_equal(c.n_errors, 1);
	assert_non_null(strstr(c.errors[0].text, "line 4: binary data"));
	assert_int_equal(c.n_guests, 0);
	assert_true(c.quit_when_idle);
	for (int round = 0; round < 200; round++) {
		for (size_t i = 0; i < sizeof(noise); i++)
			noise[i] = (seed = seed * 1664525 + 1013904223) >> (round & 1 ? 24 : 25);
		config_parse(&c, noise, sizeof(noise) - round);
		assert_true(c.n_errors > 0);
	}
	memset(noise, ' ', sizeof(noise)); /* blanks in front are no part of the line */
	memcpy(noise + 4000, "[host]\n", 7);
	memcpy(noise + 4080, "name=b", 6);
	config_parse(&c, noise, sizeof(noise));
	assert_int_equal(c.n_errors, 0);
	assert_string_equal(c.host_name, "b");
}

static void test_many_errors(void **state)
{
	parse("[host]\na=1\nb=1\nc=1\nd=1\ne=1\nf=1\ng=1\nh=1\ni=1\nj=1\n[guest x]\nkernel=k\nmemory=1\n");
	assert_int_equal(c.n_errors, CONFIG_MAX_ERRORS);
	assert_non_null(strstr(c.errors[0].text, "line 2"));
	assert_non_null(strstr(c.errors[CONFIG_MAX_ERRORS - 1].text, "more errors"));
	assert_int_equal(c.n_guests, 0); /* left out, even though its error found no room */
}

/* Every prefix of a good file parses without a crash, and a cut never makes a half-read guest run. */
static void test_truncation(void **state)
{
	static const char text[] = HOST "[network]\naddress=10.0.2.15/24\n[guest a]\nkernel=k\nmemory=16M\nmodule=m x\n";

	for (size_t n = 0; n < sizeof(text); n++) {
		char *copy = test_malloc(n + 1);

		memcpy(copy, text, n);
		config_parse(&c, copy, n);
		test_free(copy);
		for (u32 i = 0; i < c.n_errors; i++)
			assert_true(strlen(c.errors[i].text) < sizeof(c.errors[i].text) - 1);
	}
	assert_int_equal(c.n_guests, 1);
}

static void test_networks(void **state)
{
	static const char lan[] = HOST "[guest web]\nkernel=k\nnic=lan\nnic=lan,mac=52:54:00:Ab:cd:01\nnic = back,vlan=7,mac=06:00:00:00:00:02\n"
		"[guest db]\nkernel=k\nnic=lan\n"
		"[switch lan]\nuplink=1\n[switch back]\nuplink=00:04.0\nvlan=20\n[switch inside]\n[switch none]\nuplink=none\n";
	static const u8 second[6] = { 0x52, 0x54, 0x00, 0xab, 0xcd, 0x01 };
	u8 mac[6];

	parse(lan);
	assert_int_equal(c.n_errors, 0);
	assert_int_equal(c.n_switches, 4);
	assert_string_equal(c.switches[0].name, "lan");
	assert_int_equal(c.switches[0].uplink, UPLINK_NUMBER);
	assert_int_equal(c.switches[0].number, 1);
	assert_int_equal(c.switches[0].vlan, 0);
	assert_int_equal(c.switches[1].uplink, UPLINK_ADDRESS);
	assert_true(c.switches[1].bus == 0 && c.switches[1].dev == 4 && c.switches[1].fn == 0);
	assert_int_equal(c.switches[1].vlan, 20);
	assert_int_equal(c.switches[2].uplink, UPLINK_NONE);
	assert_int_equal(c.switches[3].uplink, UPLINK_NONE);
	assert_int_equal(c.guests[0].n_nics, 3);
	assert_int_equal(c.guests[1].n_nics, 1);
	assert_string_equal(c.guests[0].nics[0].network, "lan");
	assert_memory_equal(c.guests[0].nics[1].mac, second, 6);
	assert_int_equal(c.guests[0].nics[2].vlan, 7);
	assert_int_equal(c.guests[0].nics[2].mac[0], 6);
	/* The address follows from the guest's name and the card's number: the same on every host, different for each. */
	config_default_mac("web", 0, mac);
	assert_memory_equal(c.guests[0].nics[0].mac, mac, 6);
	assert_true(mac[0] == 0x52 && mac[1] == 0x54 && mac[2] == 0);
	assert_memory_not_equal(c.guests[1].nics[0].mac, mac, 6);
	config_default_mac("web", 1, mac);
	assert_memory_not_equal(c.guests[0].nics[0].mac, mac, 6);

#define SW "[switch lan]\n"
#define G HOST SW "[guest web]\nkernel=k\n"
	one_error(G "nic=wan\n", "line 6", "there is no [switch wan]", "Add one");
	assert_int_equal(c.n_guests, 0);
	one_error(G "nic=,mac=52:54:00:00:00:01\n", "line 6", "name of a network", "nic=lan");
	one_error(G "nic=a b\n", "line 6", "name of a network", "nic=lan");
	one_error(G "nic=lan,speed=1\n", "line 6", "unknown option", ",vlan=ID");
	one_error(G "nic=lan,\n", "line 6", "unknown option", ",vlan=ID");
	one_error(G "nic=lan,mac=52:54:00:00:00\n", "line 6", "MAC address that is none", "52:54:00:12:34:56");
	one_error(G "nic=lan,mac=52:54:00:00:00:0g\n", "line 6", "MAC address that is none", "52:54:00:12:34:56");
	one_error(G "nic=lan,mac=52:54:00:00:00-01\n", "line 6", "MAC address that is none", "52:54:00:12:34:56");
	one_error(G "nic=lan,mac=52:54:00:00:00:011\n", "line 6", "MAC address that is none", "52:54:00:12:34:56");
	one_error(G "nic=lan,mac=53:54:00:00:00:01\n", "line 6", "multicast", "52:54:00");
	one_error(G "nic=lan,mac=ff:ff:ff:ff:ff:ff\n", "line 6", "multicast", "52:54:00");
	one_error(G "nic=lan,mac=00:00:00:00:00:00\n", "line 6", "zero", "52:54:00");
	one_error(G "nic=lan,vlan=0\n", "line 6", "VLAN", "1 to 4094");
	one_error(G "nic=lan,vlan=4095\n", "line 6", "VLAN", "1 to 4094");
	one_error(G "nic=lan\nnic=lan\nnic=lan\nnic=lan\nnic=lan\n", "line 10", "one network card too many", "at most 4");
	one_error(G "nic=lan,mac=52:54:00:00:00:01\nnic=lan,mac=52:54:00:00:00:01\n", "line 7", "has the MAC address of", "mac=");
	one_error(G "nic=lan,mac=52:54:00:00:00:01\n[guest db]\nkernel=k\nnic=lan,mac=52:54:00:00:00:01\n", "line 9",
		"card of guest web", "mac=");
	assert_int_equal(c.n_guests, 1);
	/* The one in the middle is left out, the one behind it is judged by its own line. */
	parse(G "[guest db]\nkernel=k\nnic=wan\n[guest mail]\nkernel=k\nnic=lan,mac=02:00:00:00:00:01\nnic=lan,mac=02:00:00:00:00:01\n"
		"[guest last]\nkernel=k\n");
	assert_int_equal(c.n_errors, 2);
	assert_non_null(strstr(c.errors[1].text, "line 12"));
	assert_int_equal(c.n_guests, 2);
	assert_string_equal(c.guests[1].name, "last");

	one_error(HOST "[switch ]\n", "line 3", "name", "1 to 31");
	one_error(HOST SW SW "vlan=99999\n", "line 4", "twice", "name of its own");
	one_error(HOST SW "uplink=eth0\n", "line 4", "no network card", "PCI order");
	one_error(HOST SW "uplink=00:20.0\n", "line 4", "no network card", "00:04.0");
	one_error(HOST SW "uplink=00:04.8\n", "line 4", "no network card", "00:04.0");
	one_error(HOST SW "uplink=1\nuplink=2\n", "line 5", "twice", "Remove one");
	one_error(HOST SW "vlan=5000\n", "line 4", "VLAN", "1 to 4094");
	one_error(HOST SW "port=1\n", "line 4", "no key port", "uplink, vlan");
	one_error(HOST SW "uplink=1\nvlan=5\n[switch b]\nuplink=1\nvlan=5\n", "godwit.conf:", "one network", "another vlan=");
	parse(HOST SW "uplink=1\nvlan=5\n[switch b]\nuplink=1\nvlan=6\n[switch c]\nuplink=00:03.0\n[switch d]\nuplink=00:03.1\n");
	assert_int_equal(c.n_errors, 0);
	one_error(HOST "[switch a]\n[switch b]\n[switch c]\n[switch d]\n[switch e]\n[switch f]\n[switch g]\n[switch h]\n[switch i]\n",
		"line 11", "one switch too many", "at most 8");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_everything),
		cmocka_unit_test(test_disks), cmocka_unit_test(test_networks), cmocka_unit_test(test_defaults), cmocka_unit_test(test_network),
		cmocka_unit_test(test_values), cmocka_unit_test(test_guest_values), cmocka_unit_test(test_cmdline_fits),
		cmocka_unit_test(test_tabs_are_blanks),
		cmocka_unit_test(test_guests), cmocka_unit_test(test_sections), cmocka_unit_test(test_binary),
		cmocka_unit_test(test_many_errors), cmocka_unit_test(test_truncation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
