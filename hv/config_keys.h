/* SPDX-License-Identifier: MIT */
/* Inside hv/config*.c only: the lines NAME=VALUE of godwit.conf (config_keys.c), and the file around them (config.c). */
#pragma once
#include "hv/config.h"

enum section { S_NONE, S_HOST, S_NETWORK, S_MIGRATION, S_DEBUG, S_GUEST, S_SWITCH, S_TIME, S_SKIP };

struct parser {
	struct config *c;
	const char *text, *end;
	u32 line;
	bool more_errors;
	enum section section;
	u64 seen[S_SKIP + 1]; /* bit per key of that section */
	u32 address_line;
	bool mode_given;
	struct guest_config guest; /* the one being read */
	const struct guest_config *base; /* what it is before any key is read; NULL: the defaults */
	u32 guest_line;
	bool guest_open, guest_bad;
	u32 nic_line[CONFIG_MAX_NICS], nic_lines[CONFIG_MAX_GUESTS][CONFIG_MAX_NICS];
	struct time_server prefer;
	struct error why; /* for checks that make their own text */
};

/* An error of that line (0: of none); it spoils the guest whose section is being read. */
void config_complain(struct parser *p, u32 line, const char *fmt, ...) __printf(3, 4);
/* A line name=value of p->section, which its header calls section: stores the value, or complains and returns false. */
bool config_key_set(struct parser *p, const char *section, const char *name, const char *value);
/* Whether a section of that kind has had a line name=. */
bool config_key_seen(const struct parser *p, enum section section, const char *name);
