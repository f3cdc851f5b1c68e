/* SPDX-License-Identifier: MIT */
/* godwit start, stop, reset: one guest on the host that has it. */
#ifndef GODWIT_GUEST_H
#define GODWIT_GUEST_H

/* argv[0] is "godwit start", "godwit stop" or "godwit reset". */
int guest_main(int argc, char **argv);

#endif
