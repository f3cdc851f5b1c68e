/* SPDX-License-Identifier: MIT */
/* godwit time: how right the hosts' clocks are. */
#ifndef GODWIT_HOSTTIME_H
#define GODWIT_HOSTTIME_H

int time_main(int argc, char **argv);

#endif
