/* SPDX-License-Identifier: MIT */
/* lwIP's view of the compiler and of us. */
#pragma once
#include "hv/lib/err.h"
#include "net/port/port.h"

#define LWIP_RAND() net_rand32()
#define LWIP_PLATFORM_DIAG(x) do { net_diag x; } while (0)
/* lwIP asserts about its own state; going on would mean memory that is not what it seems. */
#define LWIP_PLATFORM_ASSERT(x) bug(__FILE__, __LINE__, x)
