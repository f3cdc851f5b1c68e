/* SPDX-License-Identifier: MIT */
#include "net/rx_queue.h"
#include "lwip/pbuf.h"

bool rx_queue_put(struct rx_queue *q, struct pbuf *p)
{
	if (q->head - q->tail == RX_QUEUE_SLOTS)
		return false;
	q->slot[q->head++ % RX_QUEUE_SLOTS] = p;
	return true;
}

u8 rx_queue_first(const struct rx_queue *q)
{
	return pbuf_get_at(q->slot[q->tail % RX_QUEUE_SLOTS], (u16)q->off);
}

size_t rx_queue_take(struct rx_queue *q, u8 *buf, size_t len)
{
	size_t n = 0;

	while (n < len && !rx_queue_empty(q)) {
		struct pbuf *p = q->slot[q->tail % RX_QUEUE_SLOTS];
		u16 k = (u16)MIN(len - n, (size_t)(p->tot_len - q->off));

		if (buf)
			pbuf_copy_partial(p, buf + n, k, (u16)q->off);
		n += k;
		q->off += k;
		if (q->off == p->tot_len) {
			q->off = 0;
			q->tail++;
			pbuf_free(p);
		}
	}
	return n;
}
