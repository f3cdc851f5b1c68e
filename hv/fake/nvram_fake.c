/* SPDX-License-Identifier: MIT */
#include "hv/fake/nvram_fake.h"
#include "hv/arch/nvram.h"

#include <stdlib.h>
#include <string.h>

struct fake_nvram fake_nvram;

void nvram_init(const struct boot_info *bi) { }

int nvram_write(u32 i, const void *buf, size_t len, struct error *e)
{
	struct keep_slot *s = &fake_nvram.slots[i];

	if (i >= KEEP_SLOTS || len > sizeof(s->bytes))
		abort();
	if (fake_nvram.fail)
		return error_set(e, fake_nvram.fail, "a fault that the test wants");
	fake_nvram.writes++;
	s->len = (u16)len;
	if (len)
		memcpy(s->bytes, buf, len);
	return 0;
}

void fake_nvram_restart(void)
{
	memset(keep, 0, sizeof(*keep));
	memcpy(keep->slots, fake_nvram.slots, sizeof(keep->slots));
}
