# SPDX-License-Identifier: MIT
MIG_CFLAGS := -isystem $(DEPS)/xxhash
