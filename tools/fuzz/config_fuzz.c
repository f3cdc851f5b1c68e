/* SPDX-License-Identifier: MIT */
/* libFuzzer: any bytes as godwit.conf. What comes out must be in range, whatever went in. */
#include "hv/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define MUST(x) do { if (!(x)) abort(); } while (0)

static bool ends(const char *s, size_t room)
{
	return memchr(s, 0, room) != NULL;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	static struct config c;

	config_parse(&c, (const char *)data, len);
	MUST(c.n_errors <= CONFIG_MAX_ERRORS && c.n_guests <= CONFIG_MAX_GUESTS);
	MUST(ends(c.host_name, sizeof(c.host_name)) && c.host_name[0] && c.port && c.max_rounds && c.freeze_budget_ms);
	MUST(c.dhcp == !c.address);
	for (u32 i = 0; i < c.n_errors; i++)
		MUST(c.errors[i].code && c.errors[i].text[0] && ends(c.errors[i].text, sizeof(c.errors[i].text)));
	for (u32 i = 0; i < c.n_guests; i++) {
		const struct guest_config *g = &c.guests[i];

		MUST(g->name[0] && ends(g->name, sizeof(g->name)) && g->kernel[0] && ends(g->kernel, sizeof(g->kernel)));
		MUST(ends(g->initrd, sizeof(g->initrd)) && ends(g->cmdline, sizeof(g->cmdline)));
		MUST(ends(g->os_type, sizeof(g->os_type)) && g->os_type[0]);
		MUST(g->vcpus >= 1 && g->vcpus <= CONFIG_MAX_VCPUS && g->weight && ends(g->cpu, sizeof(g->cpu)) && g->memory_bytes >= 4 << 20 && !(g->memory_bytes % PAGE_2M));
		MUST(g->n_modules <= CONFIG_MAX_MODULES);
		for (u32 m = 0; m < g->n_modules; m++)
			MUST(g->modules[m][0] && g->modules[m][0] != ' ' && ends(g->modules[m], sizeof(g->modules[m])) &&
				strcspn(g->modules[m], " ") < sizeof(g->kernel));
		for (u32 j = 0; j < i; j++)
			MUST(strcmp(g->name, c.guests[j].name));
	}
	return 0;
}
