/* SPDX-License-Identifier: MIT */
#include "mig/ledger.h"

#include <string.h>

static bool same(const struct ledger_key *a, const struct ledger_key *b)
{
	return a->id == b->id && a->epoch == b->epoch && !strcmp(a->source, b->source) && !strcmp(a->guest, b->guest);
}

/* The entry of that key, or LEDGER_ENTRIES. */
static u32 find(const struct ledger *l, const struct ledger_key *k)
{
	u32 i = 0;

	while (i < LEDGER_ENTRIES && (l->entries[i].outcome == LEDGER_NONE || !same(&l->entries[i].key, k)))
		i++;
	return i;
}

enum ledger_outcome ledger_get(const struct ledger *l, const struct ledger_key *k)
{
	u32 i = find(l, k);

	return i < LEDGER_ENTRIES ? l->entries[i].outcome : LEDGER_NONE;
}

void ledger_set(struct ledger *l, const struct ledger_key *k, enum ledger_outcome o)
{
	u32 i = find(l, k);

	if (i == LEDGER_ENTRIES) {
		i = l->next;
		l->next = (l->next + 1) % LEDGER_ENTRIES;
		l->forgot |= l->entries[i].outcome != LEDGER_NONE;
		l->entries[i].key = *k;
	}
	l->entries[i].outcome = o;
}
