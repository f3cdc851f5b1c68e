/* SPDX-License-Identifier: MIT */
#include "mig/ledger.h"

#include <string.h>

static bool same(const struct ledger_key *a, const struct ledger_key *b)
{
	return a->id == b->id && a->epoch == b->epoch && !strcmp(a->source, b->source) && !strcmp(a->guest, b->guest);
}

enum ledger_outcome ledger_get(const struct ledger *l, const struct ledger_key *k)
{
	for (u32 i = 0; i < LEDGER_ENTRIES; i++)
		if (l->entries[i].outcome != LEDGER_NONE && same(&l->entries[i].key, k))
			return l->entries[i].outcome;
	return LEDGER_NONE;
}

void ledger_set(struct ledger *l, const struct ledger_key *k, enum ledger_outcome o)
{
	u32 i;

	for (i = 0; i < LEDGER_ENTRIES; i++)
		if (l->entries[i].outcome != LEDGER_NONE && same(&l->entries[i].key, k)) {
			l->entries[i].outcome = o;
			return;
		}
	i = l->next;
	l->next = (l->next + 1) % LEDGER_ENTRIES;
	if (l->entries[i].outcome != LEDGER_NONE)
		l->forgot = true;
	l->entries[i].key = *k;
	l->entries[i].outcome = o;
}
