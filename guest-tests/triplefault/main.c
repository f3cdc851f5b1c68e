/* SPDX-License-Identifier: MIT */
/* triplefault: the guest kills itself; its host must notice, say so, and live on. */
#include "guest.h"

int main(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) none = { 0, 0 };

	printf("TRIPLEFAULT now\n");
	__asm__ volatile("lidt %0; ud2" : : "m"(none));
	CHECK("triplefault", false, "still alive");
	return 0;
}
