/* SPDX-License-Identifier: MIT */
/* Network card (virtio "Network Device"). Instance n is the guest's n-th card; without a switch of its name its link is down. */
#pragma once
#include "hv/config.h"
#include "hv/vdev/virtio.h"

extern const struct virtio_type virtio_net_type;

/* Whether a guest with these cards can live here: the switches are there, and the MAC addresses are not taken. -E_NOENT,
 * -E_EXIST; *e names what is missing and the remedy. */
int virtio_net_check(const struct guest_config *g, struct error *e) __must_check;
/* Frames to and from the guest; dropped: no buffers, or the guest stands; held: kept while it was frozen in a move. */
struct virtio_net_counters { u64 received, sent, dropped, held; };
struct virtio_net_counters virtio_net_counters(struct vdev *dev);
/* A frame for a guest's card (by number), as if its switch had sent it. Nothing if there is no such card, or the length is
 * impossible. On the service CPU; takes the guest's lock. */
void virtio_net_inject(struct vm *vm, u32 card, const u8 *frame, size_t len);
/* Gives away what the card has held for its guest. */
void virtio_net_take_held(struct vm *vm, u32 card, bool (*give)(void *arg, const u8 *frame, unsigned len), void *arg);
