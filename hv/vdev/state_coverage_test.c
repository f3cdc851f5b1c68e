/* SPDX-License-Identifier: MIT */
/* For every registered state description, whatever it is: the fields cover each byte of the state once. */
#include "hv/vdev/devices.h"
#include "hv/vdev/virtio.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static unsigned count_types(void)
{
	return (unsigned)(__stop_migratable - __start_migratable);
}

static void check_fields(const struct mig_type *t)
{
	u8 *seen = calloc(1, t->state_size);

	assert_non_null(seen);
	for (unsigned i = 0; i < t->n_fields; i++) {
		const struct mig_field *f = &t->fields[i];
		u64 len = (u64)f->width * f->count;

		if ((f->width != 1 && f->width != 2 && f->width != 4 && f->width != 8) || !f->count || !f->tag ||
		    f->since < 1 || f->since > t->version || f->offset % f->width || f->offset + len > t->state_size)
			fail_msg("%s.%s: width, count, tag, version or offset is wrong", t->name, f->name);
		for (unsigned j = 0; j < i; j++)
			if (t->fields[j].tag == f->tag)
				fail_msg("%s: %s and %s share tag %u", t->name, t->fields[j].name, f->name, f->tag);
		for (u64 b = 0; b < len; b++)
			if (seen[f->offset + b]++)
				fail_msg("%s.%s: byte %llu is described twice", t->name, f->name,
					 (unsigned long long)(f->offset + b));
	}
	for (u32 b = 0; b < t->state_size; b++)
		if (!seen[b])
			fail_msg("%s: byte %u of the state is in no field: it would be lost in a migration", t->name, b);
	free(seen);
}

static void test_coverage(void **unused)
{
	assert_true(count_types() >= 9);
	for (unsigned i = 0; i < count_types(); i++) {
		const struct mig_type *t = __start_migratable[i];

		assert_non_null(t->name);
		if (strlen(t->name) < 1 || strlen(t->name) > 15)
			fail_msg("%s: name must have 1 to 15 characters", t->name);
		if (!t->min_version || t->min_version > t->version || t->phase > MIG_PHASE_VCPU)
			fail_msg("%s: version or phase is wrong", t->name);
		for (unsigned j = 0; j < i; j++)
			if (!strcmp(t->name, __start_migratable[j]->name))
				fail_msg("%s: registered twice", t->name);
		check_fields(t);
	}
}

static void test_devices_registered(void **unused)
{
	static const struct vdev_type *const all[] = { &lapic_type, &ioapic_type, &pic_type, &pit_type, &rtc_type,
						       &pm_type, &uart_type, &pci_type,
						       &virtio_rng_type.vdev, &virtio_console_type.vdev };

	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		bool found = false;

		for (unsigned j = 0; j < count_types(); j++)
			found |= __start_migratable[j] == &all[i]->mig;
		if (!found)
			fail_msg("%s: VDEV_REGISTER() is missing", all[i]->mig.name);
		assert_true(all[i]->state_offset >= sizeof(struct vdev));
		assert_true(all[i]->state_offset + all[i]->mig.state_size <= all[i]->size);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_coverage),
		cmocka_unit_test(test_devices_registered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
