/* SPDX-License-Identifier: MIT */
/* The control server: QMP over TLS, one JSON object per line. What a session may do is in its certificate (role). */
#pragma once
#include "boot/boot_info.h"
#include "net/stream.h"

#define CONTROL_MAX_SESSIONS 16
#define CONTROL_MAX_PER_NAME 12           /* so that a client that forgets to hang up keeps only itself out */
#define CONTROL_MAX_LINE (64u << 10)      /* a longer request ends the session */
#define CONTROL_PAUSE_BYTES (64u << 10)   /* above this much unsent output no request is read and no console output sent */
#define CONTROL_MAX_OUTPUT (512u << 10)   /* above it the session ends */
#define CONTROL_IDLE_US (30 * 60 * 1000000ull) /* without a request, unless a console is attached */

void control_init(const struct boot_info *bi);
/* Takes over an authenticated stream with ALPN godwit-qmp/1. */
void control_accept(struct stream *s);
/* One bounded turn. true if there was something to do. */
bool control_poll(void);
unsigned control_sessions(void);
