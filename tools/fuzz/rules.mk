# SPDX-License-Identifier: MIT
# make fuzz [FUZZ_SECONDS=30]: libFuzzer over every input that comes from outside. A target is tools/fuzz/NAME_fuzz.c, its
# seeds tools/fuzz/corpus/NAME/, and the sources it needs FUZZ_SRCS_NAME. What a run finds stays in build/fuzz/.
FUZZ_SECONDS ?= 30
FUZZ_CC := clang
FUZZ_CFLAGS := -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -fno-strict-aliasing -Wall -Wextra \
	-Wno-unused-parameter -Wno-missing-field-initializers -Ihv/fake/include -I. -I$(BUILD)/gen
FUZZ_SRCS_config := $(CONFIG_SRCS) hv/lib/err.c hv/lib/log.c hv/lib/clock.c hv/lib/bug.c
FUZZERS := $(patsubst tools/fuzz/%_fuzz.c,%,$(wildcard tools/fuzz/*_fuzz.c))

define FUZZ_RULE
$(BUILD)/fuzz/$(1)_fuzz: tools/fuzz/$(1)_fuzz.c $$(FUZZ_SRCS_$(1)) $$(wildcard tools/fuzz/*.h) | $$(BUILD)/gen/dsdt_aml.h
	@mkdir -p $$(@D)
	@echo '  FUZZCC  $$@'; $$(FUZZ_CC) $$(FUZZ_CFLAGS) $$(FUZZ_CFLAGS_$(1)) $$(INIH_CFLAGS) $$(filter %.c,$$^) -o $$@
fuzz-$(1): $(BUILD)/fuzz/$(1)_fuzz
	@mkdir -p $(BUILD)/fuzz/corpus-$(1)
	@echo '  FUZZ    $(1)'; cd $(BUILD)/fuzz && ./$(1)_fuzz -max_total_time=$$(FUZZ_SECONDS) -max_len=8192 -print_final_stats=1 \
		-verbosity=0 corpus-$(1) $(CURDIR)/tools/fuzz/corpus/$(1)
.PHONY: fuzz-$(1)
endef
$(foreach f,$(FUZZERS),$(eval $(call FUZZ_RULE,$(f))))
.PHONY: fuzz
fuzz: $(FUZZERS:%=fuzz-%)
fuzzers: $(FUZZERS:%=$(BUILD)/fuzz/%_fuzz)
