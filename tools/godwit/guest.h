/* SPDX-License-Identifier: MIT */
/* godwit start, stop, reset, pause, resume: one guest on the host that has it. */
#ifndef GODWIT_GUEST_H
#define GODWIT_GUEST_H

/* argv[0] is "godwit start", "godwit stop" and so on. */
int guest_main(int argc, char **argv);

#endif
