/* SPDX-License-Identifier: MIT */
/* NBD disks over lwIP. */
#pragma once
#include "net/tls.h"

/* Lets guests have NBD disks (blk_nbd_open). id: this host's TLS identity, or NULL; why: the reason for that. */
void nbd_init(struct tls_identity *id, const struct error *why);
