/* SPDX-License-Identifier: MIT */
/* The network: lwIP over the physical NIC, TLS streams, the control server. */
#pragma once
#include "boot/boot_info.h"
#include "net/stream.h"

/* A host whose godwit.conf is missing takes the name in its certificate, so that its control port can say what is wrong. */
void net_name_host(struct boot_info *bi);
/* Brings up NIC, lwIP, TLS identity and the control port. A host without NIC or certificate logs it and goes on. */
void net_init(const struct boot_info *bi);
/* Before the first guest starts: gives time servers, if there are any, a few seconds to set the clock. */
void net_wait_time(void);
/* One bounded turn: receive, timers, TLS, control. true if there was something to do. */
bool net_poll(void);
/* Whether somebody is connected, or a time server's answer awaited: then what comes is to be seen at once. */
bool net_waits(void);
/* Opens TCP + TLS to a host; its certificate must carry that name and role host. Returns at once, handshake goes on in net_poll. */
struct stream *net_connect(u32 ip, u16 port, const char *host, const char *alpn, struct error *e);
