# SPDX-License-Identifier: MIT
# Zydis, the instruction decoder: only its decoder, without C library, formatter, encoder and instruction sets that no guest
# uses on MMIO. Of Zycore only headers are needed.
ZYDIS_DIR := $(DEPS)/zydis
ZYDIS_CFLAGS := -DZYAN_NO_LIBC -DZYDIS_STATIC_BUILD -DZYCORE_STATIC_BUILD -DZYDIS_DISABLE_FORMATTER -DZYDIS_DISABLE_ENCODER \
	-DZYDIS_DISABLE_AVX512 -DZYDIS_DISABLE_KNC -isystem $(ZYDIS_DIR)/include -isystem $(DEPS)/zycore/include
# Named rather than globbed: the sources may not be unpacked yet when make reads this.
ZYDIS_SRCS := $(patsubst %,$(ZYDIS_DIR)/src/%.c,Decoder DecoderData Register SharedData)
ZYDIS_OBJS := $(ZYDIS_SRCS:$(ZYDIS_DIR)/src/%.c=$(BUILD)/obj/zydis/%.o)
LIB_OBJS += $(ZYDIS_OBJS)

# Runs inside of exits, so without vector registers like hv/.
$(BUILD)/obj/zydis/%.o: $(ZYDIS_DIR)/src/%.c
	@mkdir -p $(@D)
	$(CC) $(LIB_CFLAGS) -mgeneral-regs-only $(ZYDIS_CFLAGS) -I$(ZYDIS_DIR)/src -c $< -o $@

# Fuzzers of this folder (tools/fuzz/rules.mk).
FUZZ_VM := hv/lib/err.c hv/fake/fake.c hv/mm/frame.c
FUZZ_SRCS_linux_load := hv/vm/load.c hv/vm/load_linux.c hv/vm/load_multiboot.c $(FUZZ_VM)
FUZZ_SRCS_multiboot := $(FUZZ_SRCS_linux_load)
FUZZ_SRCS_emulate := hv/vm/emulate.c hv/vm/emulate_alu.c hv/vm/emulate_decode.c hv/vm/gva.c hv/vm/bus.c $(FUZZ_VM) $(ZYDIS_SRCS)
FUZZ_CFLAGS_emulate := $(ZYDIS_CFLAGS) -I$(ZYDIS_DIR)/src
