# SPDX-License-Identifier: MIT
# Test guests: $(BUILD)/guests/NAME.elf (32-bit ELF, Multiboot 1), NAME64.elf (the same as ELF64)
# and initrd.cpio of the real Linux guest. Part of the top Makefile; by itself: make -f rules.mk
BUILD ?= build
GUEST_SRC := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
GUEST_OUT := $(BUILD)/guests

GUEST_NAMES := $(patsubst $(GUEST_SRC)/%/main.c,%,$(wildcard $(GUEST_SRC)/*/main.c))
# Those that also exist as ELF64: the loader's other path.
GUEST_NAMES64 := hello memory

GUEST_CFLAGS := -std=gnu11 -O2 -g0 -m64 -ffreestanding -fno-pie -fno-stack-protector \
	-fcf-protection=none -fno-asynchronous-unwind-tables -mno-red-zone -mgeneral-regs-only \
	-mcmodel=small -Wall -Wextra -Werror -I$(GUEST_SRC)/lib -fmacro-prefix-map=$(GUEST_SRC)/=
GUEST_LDFLAGS := -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,max-page-size=4096 \
	-Wl,--no-warn-rwx-segments -Wl,-T,$(GUEST_SRC)/lib/guest.ld

GUEST_LIB := $(patsubst $(GUEST_SRC)/lib/%,$(GUEST_OUT)/obj/lib/%.o,\
	$(wildcard $(GUEST_SRC)/lib/*.c $(GUEST_SRC)/lib/*.S))

GUESTS := $(GUEST_NAMES:%=$(GUEST_OUT)/%.elf) $(GUEST_NAMES64:%=$(GUEST_OUT)/%64.elf)

.PHONY: guests guest-initrd debian-guest
guests: $(GUESTS)
guest-initrd: $(GUEST_OUT)/initrd.cpio $(GUEST_OUT)/initrd-net.cpio
# The Debian system on a disk; a minute or two, then nothing until its recipe changes.
debian-guest:
	@$(GUEST_SRC)/debian/mkdisk.sh $(BUILD)/debian

$(GUEST_OUT)/obj/%.c.o: $(GUEST_SRC)/%.c $(GUEST_SRC)/lib/guest.h
	@mkdir -p $(@D)
	@echo '  GUESTCC $<'; gcc $(GUEST_CFLAGS) -c -o $@ $<

$(GUEST_OUT)/obj/%.S.o: $(GUEST_SRC)/%.S
	@mkdir -p $(@D)
	@echo '  GUESTCC $<'; gcc $(GUEST_CFLAGS) -c -o $@ $<

$(GUEST_OUT)/obj/%.elf64: $(GUEST_OUT)/obj/%/main.c.o $(GUEST_LIB) $(GUEST_SRC)/lib/guest.ld
	@gcc $(GUEST_LDFLAGS) -o $@ $(filter %.o,$^)

$(GUEST_OUT)/%64.elf: $(GUEST_OUT)/obj/%.elf64
	@cp $< $@

# The code is 64-bit; only the container changes.
$(GUEST_OUT)/%.elf: $(GUEST_OUT)/obj/%.elf64
	@echo '  GUEST   $@'; objcopy -O elf32-i386 $< $@

$(GUEST_OUT)/initrd.cpio: $(wildcard $(GUEST_SRC)/linux/*)
	@echo '  INITRD  $@'; $(GUEST_SRC)/linux/mkinitrd.sh $@

$(GUEST_OUT)/initrd-net.cpio: $(wildcard $(GUEST_SRC)/linux/* $(BUILD)/linux/modules/*)
	@echo '  INITRD  $@'; $(GUEST_SRC)/linux/mkinitrd.sh $@ $(BUILD)/linux/modules

.SECONDARY: $(GUEST_NAMES:%=$(GUEST_OUT)/obj/%.elf64) $(GUEST_LIB) \
	$(GUEST_NAMES:%=$(GUEST_OUT)/obj/%/main.c.o)
