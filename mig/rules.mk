# SPDX-License-Identifier: MIT
MIG_CFLAGS := -isystem $(DEPS)/xxhash
MIG_SRCS := $(filter-out %_test.c %_fake.c,$(wildcard mig/*.c))

# mig/ alone over its own fake of everything else.
MIG_FAKE_NEEDS := hv/keep.c $(CONFIG_SRCS) hv/lib/err.c
MIG_TEST_OBJS := $(patsubst %.c,$(BUILD)/tests/obj/%.o,$(MIG_SRCS) mig/mig_fake.c $(MIG_FAKE_NEEDS))
$(BUILD)/tests/mig_move_test: $(BUILD)/tests/obj/mig/move_test.o $(MIG_TEST_OBJS)
$(BUILD)/tests/mig_wire_test: $(BUILD)/tests/obj/mig/wire_test.o $(MIG_TEST_OBJS)
$(BUILD)/tests/mig_move_test $(BUILD)/tests/mig_wire_test:
	@echo '  LD      $@'; $(HOSTCC) -fsanitize=address,undefined -o $@ $^ -lcmocka

# The state of real guests: over hv/ on its fake hardware. (PURE_OBJS is known only after this file was read.)
.SECONDEXPANSION:
$(BUILD)/tests/mig_state_test: $(BUILD)/tests/obj/mig/state_test.o $(MIG_SRCS:%.c=$(BUILD)/tests/obj/%.o) $$(PURE_OBJS) $$(PURE_LIB_OBJS)
	@echo '  LD      $@'; $(HOSTCC) -fsanitize=address,undefined -Wl,--wrap=vm_mig_instance -o $@ $^ -lcmocka

UNIT_TESTS += $(addprefix $(BUILD)/tests/,mig_move_test mig_wire_test mig_state_test)

# For tools/fuzz/rules.mk.
FUZZ_SRCS_wire := $(MIG_SRCS) mig/mig_fake.c $(MIG_FAKE_NEEDS)
FUZZ_SRCS_target := $(FUZZ_SRCS_wire)
FUZZ_SRCS_state = $(MIG_SRCS) $$(PURE_SRCS) $$(ZYDIS_SRCS)
FUZZ_CFLAGS_wire := $(MIG_CFLAGS)
FUZZ_CFLAGS_target := $(MIG_CFLAGS)
FUZZ_CFLAGS_state = $(MIG_CFLAGS) $(ZYDIS_CFLAGS) -I$(ZYDIS_DIR)/src -w
