/* SPDX-License-Identifier: MIT */
#include "boot/boot_info.h"

#include <string.h>

const struct boot_file *boot_file(const struct boot_info *bi, const char *name)
{
	for (u32 i = 0; i < bi->n_files; i++)
		if (!strcmp(bi->files[i].name, name))
			return &bi->files[i];
	return NULL;
}
