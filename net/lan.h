/* SPDX-License-Identifier: MIT */
/* Guests' networks on this host: the switches of godwit.conf and the cards that are their uplinks. */
#pragma once
#include "hv/config.h"

/* Makes the switches; own_card: the number of the card that carries the host's own network, -1: none. */
void lan_init(const struct config *c, int own_card);
/* One bounded turn: frames from the uplinks and from guests. true if there was something to do. */
bool lan_poll(void);
