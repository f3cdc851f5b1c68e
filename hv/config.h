/* SPDX-License-Identifier: MIT */
/* godwit.conf: parsing and checking. Pure; the same code runs in the firmware phase and in host tests. */
#pragma once
#include "hv/lib/err.h"
#include "hv/limits.h"

#define CONFIG_MAX_GUESTS 16
#define CONFIG_MAX_ERRORS 8
#define CONFIG_MAX_MODULES 4
#define CONFIG_MAX_VCPUS 8
#define CONFIG_MAX_WEIGHT 1000
#define CONFIG_DEFAULT_WEIGHT 100
#define CONFIG_CPU_BYTES 128 /* of cpu=, with its NUL */

#define CONFIG_MAX_DISKS 4
#define CONFIG_MAX_NICS 4

/* disk=ram:64M | image:FILE | nbd://IP:PORT/EXPORT | nbds://IP:PORT/EXPORT (TLS), then any of ,ro ,serial=TEXT
 * ,timeout=DURATION (how long a server may be away before the guest gets I/O errors; none: it waits for ever). */
enum disk_kind { DISK_RAM, DISK_IMAGE, DISK_NBD };
struct disk_config {
	u32 kind;                 /* enum disk_kind */
	u64 bytes;                /* DISK_RAM */
	char image[64];           /* DISK_IMAGE: file in \godwit\ */
	u32 address;              /* DISK_NBD: IPv4, host byte order */
	u16 port;
	bool tls, read_only;
	char export_name[64];
	char serial[21];          /* virtio-blk ID; empty: made from guest and number */
	u32 timeout_ms;           /* 0: none */
};

#define CONFIG_MAX_SWITCHES 8
#define VLAN_MAX 4094

/* nic=NETWORK[,mac=52:54:00:...][,vlan=ID]; NETWORK names a [switch] section. Without mac one is made from the guest's name
 * and the card's number, so that it stays with the guest; vlan overrides the switch's. */
struct nic_config {
	char network[NAME_MAX_LEN];
	u8 mac[6];
	u16 vlan;                 /* 0: the switch's */
};

/* [switch NAME]: a network for guests. Switches on one card differ in their VLAN. */
struct switch_config {
	char name[NAME_MAX_LEN];
	enum { UPLINK_NONE, UPLINK_NUMBER, UPLINK_ADDRESS } uplink;
	u8 number;                /* UPLINK_NUMBER: network card by PCI order, from 0 */
	u8 bus, dev, fn;          /* UPLINK_ADDRESS */
	u16 vlan;                 /* 802.1Q tag on the uplink; 0: untagged */
};

#define CONFIG_MAX_TIME_SERVERS 4

/* [time]: NTP servers that set the host's clock. */
struct time_config {
	struct time_server { u32 ip; u16 port; } servers[CONFIG_MAX_TIME_SERVERS]; /* host byte order */
	u32 n_servers;
	u32 prefer;               /* 1 + its place in servers; 0: none */
	u32 poll_s;
};

struct guest_config {
	char name[NAME_MAX_LEN];
	u64 memory_bytes;         /* multiple of 2 MiB, 4 MiB..1 TiB */
	u32 vcpus;                /* 1..CONFIG_MAX_VCPUS */
	u32 weight;               /* share of CPU time against other guests, 1..CONFIG_MAX_WEIGHT */
	char cpu[CONFIG_CPU_BYTES]; /* baseline, see hv/vm/cpu_model.h; empty: host */
	char kernel[64];          /* file in \godwit\ */
	char initrd[64];          /* empty: none */
	char cmdline[512];
	char modules[CONFIG_MAX_MODULES][128]; /* "FILE ARGS", multiboot only */
	u32 n_modules;
	char os_type[16];         /* shown by status only */
	bool autostart, debug_exit, console_serial;
	struct disk_config disks[CONFIG_MAX_DISKS];
	u32 n_disks;
	struct nic_config nics[CONFIG_MAX_NICS];
	u32 n_nics;
};

struct config {
	char host_name[NAME_MAX_LEN];
	bool keep_records;             /* what must survive a restart goes into the firmware's variables */
	bool dhcp;
	u32 address, netmask, gateway; /* IPv4, host byte order */
	u16 port;                      /* control and migration, default 4789 */
	struct time_config time;
	u32 freeze_budget_ms;          /* default 300 */
	u32 max_rounds;                /* default 30 */
	bool verify_full;
	u64 self_migrate_exits;        /* 0: off */
	bool quit_when_idle;
	bool apicv;                    /* APIC virtualization is used where it is present; default yes */
	struct guest_config guests[CONFIG_MAX_GUESTS];
	u32 n_guests;
	struct switch_config switches[CONFIG_MAX_SWITCHES];
	u32 n_switches;
	struct error errors[CONFIG_MAX_ERRORS]; /* each names line and key; the rest of the file is used */
	u32 n_errors;
};

/* Parses text (len bytes, not NUL-terminated) into *c. Never fails: what is wrong is in c->errors
 * (a guest with an error is left out), what is missing has its default. */
void config_parse(struct config *c, const char *text, size_t len);
/* NULL: a good name for a host, guest or network, which needs no quoting anywhere; otherwise what to write instead. */
const char *config_name_wrong(const char *s);
/* A station's IPv4 address (neither 0.0.0.0 nor above 223) at the beginning of s, and where a port follows it, that: port NULL, or
 * not changed without one. *rest: what is behind. */
bool config_station(const char *s, u32 *ip, u16 *port, const char **rest) __must_check;
/* The MAC address of a guest's n-th card if its definition names none: locally administered, from a hash of both. */
void config_default_mac(const char *guest, u32 n, u8 mac[6]);
/* Whether a station can have it: neither multicast nor zero. */
static inline bool config_mac_ok(const u8 mac[6])
{
	return !(mac[0] & 1) && (mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]);
}
/* One guest, from text of the form of one [guest NAME] section, checked as config_parse() does against host's switches. base:
 * what the keys that are not given keep (a guest that is changed), NULL: the defaults. scratch: for the work. -E_INVAL with *e. */
int config_parse_guest(const struct config *host, struct config *scratch, const char *text, size_t len, const struct guest_config *base,
		       struct guest_config *out, struct error *e) __must_check;
/* The [guest] section that gives this definition when it is parsed, with its NUL. Returns its length, or -E_RANGE. */
int config_guest_text(const struct guest_config *g, char *text, size_t room) __must_check;
