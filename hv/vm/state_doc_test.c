/* SPDX-License-Identifier: MIT */
/* docs/STATE.md has one table row per field of what moves with a guest; this compares them with the registered
 * descriptions. What virtio devices have in common (fields v.*) is there once. GODWIT_PRINT=1 prints the rows as they should be. */
#include "hv/vm/vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static char *doc;

static void row_text(char *row, size_t size, const struct mig_field *f)
{
	if (f->count == 1)
		snprintf(row, size, "| %u | `%s` | u%u | %u |", f->tag, f->name, 8 * f->width, f->since);
	else
		snprintf(row, size, "| %u | `%s` | u%u[%u] | %u |", f->tag, f->name, 8 * f->width, f->count, f->since);
}

/* The part of the document under one heading, without the rest. */
static char *section_of(const char *head)
{
	char *from, *to, *copy;

	from = strstr(doc, head);
	if (!from)
		fail_msg("docs/STATE.md has no heading \"%.*s\"", (int)strlen(head) - 1, head);
	to = strstr(from + 1, "\n## ");
	copy = strdup(from);
	if (to)
		copy[to - from + 1] = 0;
	return copy;
}

static void check_type(const struct mig_type *t)
{
	char head[64], row[128], *text, *shared = section_of("## Common to all virtio devices\n");
	unsigned rows = 0, n_shared = 0;

	snprintf(head, sizeof(head), "## `%s`, version %u\n", t->name, t->version);
	text = section_of(head);
	for (unsigned i = 0; i < t->n_fields; i++) {
		bool is_shared = !strncmp(t->fields[i].name, "v.", 2);

		n_shared += is_shared;
		row_text(row, sizeof(row), &t->fields[i]);
		if (!strstr(is_shared ? shared : text, row))
			fail_msg("docs/STATE.md, %s: this row is missing: %s", t->name, row);
	}
	for (const char *p = text; (p = strstr(p, "\n| ")); p++)
		rows += p[3] >= '0' && p[3] <= '9';
	if (rows != t->n_fields - n_shared)
		fail_msg("docs/STATE.md, %s: %u rows, but there are %u fields", t->name, rows, t->n_fields - n_shared);
	free(text);
	free(shared);
}

static void test_document(void **unused)
{
	bool print = getenv("GODWIT_PRINT") != NULL;
	char row[128];

	for (const struct mig_type *const *t = __start_migratable; t < __stop_migratable; t++) {
		for (unsigned i = 0; print && i < (*t)->n_fields; i++) {
			if (!i)
				printf("\n## `%s`, version %u\n\n| Tag | Field | Type | Since | |\n|---|---|---|---|---|\n", (*t)->name,
				       (*t)->version);
			row_text(row, sizeof(row), &(*t)->fields[i]);
			printf("%s |\n", row);
		}
		if (!print)
			check_type(*t);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = { cmocka_unit_test(test_document) };
	FILE *f = fopen("docs/STATE.md", "r");
	size_t size = 1 << 20;

	doc = calloc(1, size);
	if (f && doc) {
		size_t n = fread(doc, 1, size - 1, f);

		doc[n] = 0;
		fclose(f);
	}
	if (!doc)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
