/* SPDX-License-Identifier: MIT */
/* "Split Virtqueues". The driver may write to its rings at any time, also wrongly: each value is read once. */
#include "hv/vdev/virtio.h"
#include "hv/vm/vm.h"

#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4
#define AVAIL_NO_INTERRUPT 1

struct desc { u64 addr; u32 len; u16 flags, next; };
struct used_elem { u32 id, len; };

/* Ring layouts: flags, idx, then entries, then the event index. */
#define AVAIL_IDX 2
#define AVAIL_RING(i) (4 + 2ull * (i))
#define USED_IDX 2
#define USED_RING(i) (4 + 8ull * (i))

static int get16(struct virtio *vio, u64 at, u16 *val)
{
	if (guest_read(vio->dev.vm, gpa(at), val, sizeof(*val)))
		return virtio_broken(vio, "a ring is not in RAM");
	return 0;
}

/* Only if it changes something: a write makes the page dirty. */
static int put16(struct virtio *vio, u64 at, u16 val)
{
	u16 old;

	if (get16(vio, at, &old))
		return -E_PROTO;
	if (old != val && guest_write(vio->dev.vm, gpa(at), &val, sizeof(val)))
		return virtio_broken(vio, "a ring is not in RAM");
	return 0;
}

static bool usable(const struct virtio *vio, unsigned q)
{
	return virtio_ready(vio) && vio->v->enabled[q];
}

/* "Available Buffer Notification Suppression": an event index that lies behind is not reached, so of all requests only the
 * first after an empty ring is notified. A driver without event indexes always notifies. */
static int ask_for_notification(struct virtio *vio, unsigned q)
{
	const struct virtio_state *v = vio->v;
	int rc = 0;

	if (virtio_has(vio, VIRTIO_F_EVENT_IDX))
		rc = put16(vio, v->used[q] + USED_RING(v->size[q]), v->last_avail[q]);
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* asked before the index is looked at again */
	return rc;
}

/* Requests that wait, or negative. */
static int available(struct virtio *vio, unsigned q)
{
	u16 idx, n;

	if (get16(vio, vio->v->avail[q] + AVAIL_IDX, &idx))
		return -E_PROTO;
	n = (u16)(idx - vio->v->last_avail[q]);
	if (n > vio->v->size[q])
		return virtio_broken(vio, "the available index has jumped");
	__atomic_thread_fence(__ATOMIC_ACQUIRE); /* entries after the index */
	return n;
}

static int add_segment(struct virtio *vio, struct virtq_chain *c, const struct desc *d)
{
	if (!(d->flags & DESC_WRITE) && c->n_in)
		return virtio_broken(vio, "a readable descriptor follows a writable one");
	if (!d->len)
		return 0;
	c->seg[c->n_out + c->n_in] = (struct virtq_seg){ d->addr, d->len };
	if (d->flags & DESC_WRITE) {
		c->n_in++;
		c->in_len += d->len;
	} else {
		c->n_out++;
		c->out_len += d->len;
	}
	return 0;
}

/* Follows the chain from entry i of a table of n descriptors. What comes out in *indirect is the descriptor of an indirect
 * table, if the chain ends with one. With that table's a chain has VIRTQ_MAX_SIZE links at most, or it is a loop. */
static int walk(struct virtio *vio, struct virtq_chain *c, u64 table, u32 n, u32 i, struct desc *indirect)
{
	struct desc d;

	while (c->links < VIRTQ_MAX_SIZE) {
		if (i >= n)
			return virtio_broken(vio, "a descriptor's number is out of range");
		if (guest_read(vio->dev.vm, gpa(table + i * sizeof(d)), &d, sizeof(d)))
			return virtio_broken(vio, "a descriptor table is not in RAM");
		if (d.flags & DESC_INDIRECT) {
			if (!indirect || (d.flags & DESC_NEXT) || !virtio_has(vio, VIRTIO_F_INDIRECT_DESC))
				return virtio_broken(vio, "an indirect descriptor where none may be");
			*indirect = d;
			return 0;
		}
		c->links++;
		if (add_segment(vio, c, &d))
			return -E_PROTO;
		if (!(d.flags & DESC_NEXT))
			return 0;
		i = d.next;
	}
	return virtio_broken(vio, "a descriptor chain is a loop, or too long");
}

int virtq_chain_at(struct virtio *vio, unsigned q, u16 head, struct virtq_chain *c)
{
	struct desc indirect = { 0 };

	c->head = head;
	c->links = c->n_out = c->n_in = 0;
	c->out_len = c->in_len = 0;
	if (!usable(vio, q))
		return -E_STATE;
	if (walk(vio, c, vio->v->desc[q], vio->v->size[q], head, &indirect))
		return -E_PROTO;
	if (!(indirect.flags & DESC_INDIRECT))
		return 0;
	if (!indirect.len || indirect.len % sizeof(struct desc) || indirect.len / sizeof(struct desc) > VIRTQ_MAX_SIZE ||
	    indirect.addr > ~0ull - indirect.len)
		return virtio_broken(vio, "an indirect table has an impossible size");
	return walk(vio, c, indirect.addr, indirect.len / sizeof(struct desc), 0, NULL);
}

int virtq_pop(struct virtio *vio, unsigned q, struct virtq_chain *c)
{
	struct virtio_state *v = vio->v;
	u16 head;
	int n;

	if (!usable(vio, q))
		return 0;
	n = available(vio, q);
	if (!n) {
		if (ask_for_notification(vio, q))
			return -E_PROTO;
		n = available(vio, q);
	}
	if (n <= 0)
		return n;
	if (get16(vio, v->avail[q] + AVAIL_RING(v->last_avail[q] % v->size[q]), &head))
		return -E_PROTO;
	if (virtq_chain_at(vio, q, head, c))
		return -E_PROTO;
	v->last_avail[q]++;
	return 1;
}

void virtq_unpop(struct virtio *vio, unsigned q, unsigned n)
{
	if (usable(vio, q))
		vio->v->last_avail[q] -= (u16)n;
}

static int copy(struct virtio *vio, const struct virtq_seg *seg, unsigned n, u64 offset, u8 *buf, size_t len, bool write)
{
	for (unsigned i = 0; i < n && len; i++) {
		u64 part = MIN((u64)seg[i].len - MIN(offset, (u64)seg[i].len), (u64)len), at = seg[i].gpa + offset;
		int rc;

		if (!part) {
			offset -= seg[i].len;
			continue;
		}
		rc = at < offset ? -E_RANGE : write ? guest_write(vio->dev.vm, gpa(at), buf, part) :
		     guest_read(vio->dev.vm, gpa(at), buf, part);
		if (rc)
			return virtio_broken(vio, "a buffer is not in RAM");
		buf += part;
		len -= part;
		offset = 0;
	}
	return 0;
}

int virtq_read(struct virtio *vio, const struct virtq_chain *c, u64 offset, void *buf, size_t len)
{
	if (offset > c->out_len || len > c->out_len - offset)
		return -E_RANGE;
	return copy(vio, c->seg, c->n_out, offset, buf, len, false);
}

int virtq_write(struct virtio *vio, const struct virtq_chain *c, u64 offset, const void *buf, size_t len)
{
	if (offset > c->in_len || len > c->in_len - offset)
		return -E_RANGE;
	return copy(vio, c->seg + c->n_out, c->n_in, offset, (u8 *)buf, len, true);
}

void virtq_push(struct virtio *vio, unsigned q, u16 head, u32 written)
{
	struct virtio_state *v = vio->v;
	struct used_elem elem = { head, written };

	if (!usable(vio, q))
		return;
	if (guest_write(vio->dev.vm, gpa(v->used[q] + USED_RING(v->used_idx[q] % v->size[q])), &elem, sizeof(elem))) {
		virtio_broken(vio, "a ring is not in RAM");
		return;
	}
	__atomic_thread_fence(__ATOMIC_RELEASE); /* the entry before the index */
	v->used_idx[q]++;
	if (put16(vio, v->used[q] + USED_IDX, v->used_idx[q]))
		return;
}

void virtq_interrupt(struct virtio *vio, unsigned q)
{
	struct virtio_state *v = vio->v;
	u16 event, old = v->signalled[q], new = v->used_idx[q];
	bool wanted;

	if (!usable(vio, q) || old == new)
		return;
	v->signalled[q] = new;
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* the index is out before what the driver wants is read */
	if (virtio_has(vio, VIRTIO_F_EVENT_IDX)) {
		if (get16(vio, v->avail[q] + AVAIL_RING(v->size[q]), &event))
			return;
		wanted = (u16)(new - event - 1) < (u16)(new - old);
	} else {
		if (get16(vio, v->avail[q], &event))
			return;
		wanted = !(event & AVAIL_NO_INTERRUPT);
	}
	if (wanted)
		virtio_signal(vio, v->vector[q], 1);
}
