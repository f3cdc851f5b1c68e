# SPDX-License-Identifier: MIT
# The guests' DSDT, compiled into a C array.
$(BUILD)/gen/dsdt_aml.h: hv/vm/dsdt.asl
	@mkdir -p $(@D)
	@echo '  IASL    $<'; iasl -vs -we -p $(BUILD)/gen/dsdt -tc $< > $(BUILD)/gen/dsdt.log || { cat $(BUILD)/gen/dsdt.log; false; }
	@sed 's/^unsigned char/static const unsigned char/' $(BUILD)/gen/dsdt.hex > $@
$(BUILD)/obj/hv/vm/acpi_tables.o $(BUILD)/tests/obj/hv/vm/acpi_tables.o: $(BUILD)/gen/dsdt_aml.h

# Fuzzers of the devices (tools/fuzz/rules.mk); bus is a whole guest.
FUZZ_SRCS_virtio = $$(PURE_SRCS) $$(ZYDIS_SRCS)
FUZZ_CFLAGS_virtio = $(ZYDIS_CFLAGS) $(INIH_CFLAGS) -I$(ZYDIS_DIR)/src -w
FUZZ_SRCS_blk = $(FUZZ_SRCS_virtio)
FUZZ_CFLAGS_blk = $(FUZZ_CFLAGS_virtio)
FUZZ_SRCS_bus = $(FUZZ_SRCS_state)
FUZZ_CFLAGS_bus = $(FUZZ_CFLAGS_state) $(INIH_CFLAGS)
