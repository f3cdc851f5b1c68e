/* SPDX-License-Identifier: MIT */
/* What lwIP has received for a TCP connection and its owner has not taken yet, in order. It is bounded by the window: nothing is
 * given back to the peer here. */
#pragma once
#include "hv/lib/err.h"

struct pbuf;

#define RX_QUEUE_SLOTS 256

struct rx_queue {
	struct pbuf *slot[RX_QUEUE_SLOTS];
	u32 head, tail, off; /* off: bytes of slot[tail] already taken */
};

static inline bool rx_queue_empty(const struct rx_queue *q) { return q->head == q->tail; }
/* Takes p over; false: no room, and lwIP keeps it (ERR_MEM) and offers it again. */
bool rx_queue_put(struct rx_queue *q, struct pbuf *p) __must_check;
/* The byte that is taken next; the queue is not empty. */
u8 rx_queue_first(const struct rx_queue *q);
/* Moves up to len bytes to buf, or drops them (NULL). Returns how many. */
size_t rx_queue_take(struct rx_queue *q, u8 *buf, size_t len);
