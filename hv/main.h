/* SPDX-License-Identifier: MIT */
/* Access to what the firmware phase handed over. */
#pragma once
#include "boot/boot_info.h"

const struct boot_info *boot_info_get(void);
