# SPDX-License-Identifier: MIT
# make lint: rules of the source tree that the compiler does not check.
.PHONY: lint lint-flags
lint: $(BUILD)/gen/dsdt_aml.h
	@tools/check/headers.sh
	@tools/check/errors.py

# The compilers' flags, for tools/check/headers.sh: NAME=flags, a line each, quoted as a shell wants them.
LINT_FLAGS = $(info $(1)_FLAGS=$(filter-out -MMD -MP,$(2)))
lint-flags:
	$(call LINT_FLAGS,HV,$(HV_CFLAGS) $(ZYDIS_CFLAGS) $(INIH_CFLAGS))
	$(call LINT_FLAGS,BOOT,$(BOOT_CFLAGS))
	$(call LINT_FLAGS,NET,$(SVC_CFLAGS) $(NET_CFLAGS))
	$(call LINT_FLAGS,MIG,$(SVC_CFLAGS) $(MIG_CFLAGS))
	$(call LINT_FLAGS,TEST,$(TEST_CFLAGS) $(ZYDIS_CFLAGS) $(MIG_CFLAGS) $(NET_CFLAGS))
	$(call LINT_FLAGS,TOOL,$(GODWIT_CFLAGS) $(GODWIT_WARN) -I.)
