/* SPDX-License-Identifier: MIT */
/* godwit status: the hosts and their guests. */
#ifndef GODWIT_STATUS_H
#define GODWIT_STATUS_H

int status_main(int argc, char **argv);

#endif
