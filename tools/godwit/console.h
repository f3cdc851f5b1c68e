/* SPDX-License-Identifier: MIT */
/* godwit console: a guest's serial console. */
#ifndef GODWIT_CONSOLE_H
#define GODWIT_CONSOLE_H

int console_main(int argc, char **argv);

#endif
