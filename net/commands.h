/* SPDX-License-Identifier: MIT */
/* The control server's commands. */
#pragma once
#include "boot/boot_info.h"
#include "net/stream.h"

#define GODWIT_VERSION "0.1.0"
#define GODWIT_PROTOCOL 1

struct cJSON;
struct session;
struct vm;

enum role { ROLE_VIEWER, ROLE_OPERATOR, ROLE_ADMIN };

struct command_call {
	struct session *session;
	const struct stream *who;
	enum role role;
	struct vm *vm;           /* the guest that the command is about, if it takes one */
	struct cJSON *ret;       /* the answer; NULL: {} */
	const char *error_class; /* NULL: it worked; else error.text is the description */
	struct error error;
};

void commands_init(const struct boot_info *bi);
/* The scheduler runs: for query-host's boot-ticks. */
void commands_started(void);
/* Runs one command; args may be NULL. */
void command_run(struct command_call *call, const char *name, const struct cJSON *args);
/* Feeds typed input to guests. true if some went. */
bool commands_poll(void);

/* Hangs item into parent (key NULL: an array), or frees it if there is no memory or no parent. */
void json_attach(struct cJSON *parent, const char *key, struct cJSON *item);

/* --- control.c, for console-attach and -detach --- */
bool control_console_attach(struct session *s, const struct vm *vm, bool history);
void control_console_detach(struct session *s, const char *guest);
