/* SPDX-License-Identifier: MIT */
/* godwit create, change, delete: definitions of guests on running hosts. */
#ifndef GODWIT_DEFINE_H
#define GODWIT_DEFINE_H

int define_main(int argc, char **argv);

#endif
