/* SPDX-License-Identifier: MIT */
/* A property over and over, while the guest is moved. */
#include "guest.h"

volatile bool loop_on, loop_holding;
static u64 turns, seq, next_line;
static bool hold_wanted, end_wanted;

bool loop_asked(void)
{
	return arg_is("loop", NULL) || arg_u64("turns", 0);
}

static int typed(void)
{
	if (console_in)
		return console_in();
	return inb(COM1 + 5) & 1 ? inb(COM1) : -1;
}

static void listen(void)
{
	for (int c; (c = typed()) >= 0;)
		switch (c) {
		case 'h': hold_wanted = true; break;
		case 'g': hold_wanted = false; break;
		case 'q': end_wanted = true; break;
		}
}

bool loop_turn(void)
{
	u64 limit = arg_u64("turns", 0), now;

	listen();
	loop_on = !end_wanted && (!limit || turns < limit) && guest_failures() <= 20;
	if (!loop_on) {
		printf("LOOP end turns=%lu\n", turns);
		return false;
	}
	now = rdtsc();
	if (now >= next_line) {
		next_line = now + arg_u64("line-ms", 100) * tsc_khz();
		printf("LOOP seq=%lu turns=%lu tsc=%lu chk=%s\n", ++seq, turns, now, guest_failures() ? "BAD" : "OK");
	}
	turns++;
	return true;
}

void loop_hold(void)
{
	u64 start = rdtsc();

	listen();
	if (!hold_wanted) {
		sleep_us(4000);
		return;
	}
	loop_holding = true;
	printf("HOLD turns=%lu\n", turns);
	while (hold_wanted && !end_wanted) {
		sleep_us(2000);
		listen();
	}
	printf("HOLD end us=%lu\n", tsc_us(rdtsc() - start));
	loop_holding = false;
}
