/* SPDX-License-Identifier: MIT */
/* COM1, a 16550 UART: output only. */
#pragma once
#include "hv/lib/types.h"

/* 115200 8N1, FIFO on. A machine without the UART is noticed; writes then go nowhere. */
void uart_init(void);
/* Sends bytes as they are. wait: all of them (but gives up on a UART that stands still); otherwise what the FIFO takes now.
 * Returns bytes taken; len if there is no UART. */
size_t uart_write(const char *buf, size_t len, bool wait);
