# SPDX-License-Identifier: MIT
# Godwit. `make demo` and `make test` do everything, set-up included; see README.md.
.DEFAULT_GOAL := all
BUILD := build
DEPS := $(BUILD)/deps
CC := gcc
HOSTCC := gcc
MUSL_INC := /usr/include/x86_64-linux-musl
MUSL_LIB := /usr/lib/x86_64-linux-musl/libc.a

help:
	@echo 'make demo   set-up, then a guest moved live between two emulated hosts'
	@echo 'make test   set-up, then every test          make bench  set-up, then the measurements'
	@echo 'make        godwit.efi, the godwit command, the guests (after make deps)'

# Set-up changes what make would read (library sources), so the work is done by a second make.
deps:
	tools/deps.sh all
demo: deps
	@$(MAKE) --no-print-directory -j2 all
	tools/demo/demo.py
test: deps
	@$(MAKE) --no-print-directory -j2 all debian-guest $(BUILD)/godwit-asan unit-tests fuzzers
	@tools/bench/runner.py -k '^(?!($(SOAK_TESTS))$$)' $(UNIT_TESTS) $(SCRIPT_TESTS)
# Tests that take too long for every change.
soak: deps
	@$(MAKE) --no-print-directory -j2 all debian-guest
	@tools/bench/runner.py -k '^($(SOAK_TESTS))$$'
SOAK_TESTS := debian_soak|debian_stress|debian_disk_faults|debian_disk_faults_tls|debian_power_cut
bench: deps
	@$(MAKE) --no-print-directory -j2 all
	tools/bench/measure.py

all: godwit.efi $(BUILD)/godwit guests guest-initrd

.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# Everything is compiled position-independent: the firmware loads the image where it likes. -fbuiltin: a memcpy of eight
# bytes is a load and a store, which checksums and ciphers are full of; -ffreestanding alone makes it a call.
BASE_CFLAGS := -std=gnu11 -O2 -g -ffreestanding -fbuiltin -fno-stack-protector -mno-red-zone -fPIE -fvisibility=hidden \
	-fno-strict-aliasing -fno-asynchronous-unwind-tables -nostdinc -isystem $(shell $(CC) -print-file-name=include) \
	-isystem $(MUSL_INC) -I. -I$(BUILD)/gen -MMD -MP
WARN := -Wall -Wextra -Werror -Wmissing-prototypes -Wstrict-prototypes -Wno-unused-parameter -Wno-missing-field-initializers -Wno-format-truncation
# The hypervisor proper never touches vector registers: the guest's are live there. Services may: they run after a save.
HV_CFLAGS := $(BASE_CFLAGS) -mgeneral-regs-only $(WARN)
SVC_CFLAGS := $(BASE_CFLAGS) $(WARN)
LIB_CFLAGS := $(BASE_CFLAGS) -w

# godwit.conf, and what it needs.
CONFIG_SRCS := hv/config.c hv/config_keys.c hv/vm/cpu_model.c

include $(wildcard boot/rules.mk hv/rules.mk hv/vm/rules.mk hv/vdev/rules.mk net/rules.mk mig/rules.mk tools/rules.mk \
	tools/godwit/rules.mk tools/fuzz/rules.mk guest-tests/rules.mk)

NOT_TEST = $(filter-out %_test.c %_fake.c,$(1))
HV_SRCS := $(call NOT_TEST,$(wildcard hv/*.c hv/lib/*.c hv/arch/*.c hv/mm/*.c hv/vmx/*.c hv/vm/*.c hv/vdev/*.c drivers/*/*.c))
HV_ASMS := $(wildcard hv/arch/*.S hv/vmx/*.S)
SVC_SRCS := $(call NOT_TEST,$(wildcard net/*.c net/port/*.c mig/*.c))
OBJS := $(HV_SRCS:%.c=$(BUILD)/obj/%.o) $(HV_ASMS:%.S=$(BUILD)/obj/%.o) $(SVC_SRCS:%.c=$(BUILD)/obj/%.o) $(BOOT_OBJS) $(LIB_OBJS)

$(BUILD)/obj/hv/%.o: hv/%.c
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(CC) $(HV_CFLAGS) $(ZYDIS_CFLAGS) $(INIH_CFLAGS) -c $< -o $@
$(BUILD)/obj/hv/%.o: hv/%.S
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(CC) $(HV_CFLAGS) -c $< -o $@
$(BUILD)/obj/drivers/%.o: drivers/%.c
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(CC) $(HV_CFLAGS) -c $< -o $@
$(BUILD)/obj/net/%.o: net/%.c
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(CC) $(SVC_CFLAGS) $(NET_CFLAGS) -c $< -o $@
$(BUILD)/obj/mig/%.o: mig/%.c
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(CC) $(SVC_CFLAGS) $(MIG_CFLAGS) -c $< -o $@

# Virtual cards call these, also while a guest's registers are live; and they are tested like the devices.
GUEST_NET_SRCS := net/vswitch.c net/announce.c net/forward.c
GUEST_NET_TESTS := $(wildcard $(GUEST_NET_SRCS:.c=_test.c))
$(GUEST_NET_SRCS:%.c=$(BUILD)/obj/%.o): SVC_CFLAGS += -mgeneral-regs-only

$(BUILD)/godwit.efi: $(OBJS)

# --- unit tests: the same sources over hv/fake, with sanitizers ---
TEST_CFLAGS := -std=gnu11 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-strict-aliasing -Wall -Wextra \
	-Werror -Wno-unused-parameter -Wno-missing-field-initializers -Ihv/fake/include -I. -I$(BUILD)/gen -MMD -MP
PURE_SRCS := $(filter-out hv/vm/fpu.c hv/vm/sched.c,$(CONFIG_SRCS) hv/keep.c hv/lib/err.c hv/vmx/event.c \
	$(call NOT_TEST,$(wildcard hv/mm/*.c hv/vm/*.c hv/vdev/*.c))) $(wildcard hv/fake/*.c) $(GUEST_NET_SRCS)
PURE_OBJS := $(PURE_SRCS:%.c=$(BUILD)/tests/obj/%.o) $(PURE_LIB_OBJS)
HV_TEST_SRCS := $(wildcard hv/*_test.c hv/*/*_test.c drivers/*/*_test.c) $(GUEST_NET_TESTS)
HV_TESTS := $(patsubst %.c,$(BUILD)/tests/%,$(notdir $(HV_TEST_SRCS)))
UNIT_TESTS += $(HV_TESTS)
# Programs that test what is not linked into a unit test; each exits 0 or not.
SCRIPT_TESTS := tools/fuzz/short tools/bench/nbd_test.py tools/godwit/test/command-asan tools/godwit/test/command tools/bench/proxy_test.py tools/bench/lan_test.py tools/bench/servers_test.py tools/bench/lanclient_test.py tools/demo/verdict_test.py tools/check/headers.sh tools/check/errors.py

$(BUILD)/tests/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(HOSTCC) $(TEST_CFLAGS) $(ZYDIS_CFLAGS) $(INIH_CFLAGS) $(MIG_CFLAGS) -c $< -o $@
$(BUILD)/tests/obj/lib/%.o: $(DEPS)/%.c
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(HOSTCC) -O1 -g -w $(ZYDIS_CFLAGS) $(INIH_CFLAGS) -I$(ZYDIS_DIR)/src -c $< -o $@
PURE_LIB_OBJS += $(ZYDIS_SRCS:$(DEPS)/%.c=$(BUILD)/tests/obj/lib/%.o)
define HV_TEST_RULE
$(BUILD)/tests/$(basename $(notdir $(1))): $(BUILD)/tests/obj/$(1:.c=.o) $$(PURE_OBJS) $$(PURE_LIB_OBJS)
	@echo '  LD      $$@'; $$(HOSTCC) -fsanitize=address,undefined -o $$@ $$^ -lcmocka
endef
$(foreach t,$(HV_TEST_SRCS),$(eval $(call HV_TEST_RULE,$(t))))

unit-tests: $(UNIT_TESTS) $(UNIT_TEST_TOOLS)
.PHONY: help deps demo test soak bench all unit-tests fuzzers
.SECONDARY:

-include $(shell find $(BUILD)/obj $(BUILD)/tests -name '*.d' 2>/dev/null)
