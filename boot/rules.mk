# SPDX-License-Identifier: MIT
# The firmware phase, and the link of every EFI image.
# Included by the top Makefile, which sets CC, BASE_CFLAGS, HV_CFLAGS, LIB_CFLAGS, MUSL_LIB, BUILD, DEPS and OBJS.
GNUEFI := $(DEPS)/gnu-efi
BOOT_CFLAGS = $(HV_CFLAGS) -isystem $(GNUEFI)/inc -isystem $(GNUEFI)/inc/x86_64 -DGNU_EFI_USE_MS_ABI
INIH_CFLAGS := -I$(DEPS)/inih
BOOT_BASE_OBJS := $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out %_test.c,$(wildcard boot/*.c)))
BOOT_OBJS := $(BOOT_BASE_OBJS) $(BUILD)/obj/gnuefi/crt0.o $(BUILD)/obj/gnuefi/reloc.o

$(BUILD)/obj/boot/%.o: boot/%.c
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(CC) $(BOOT_CFLAGS) -c $< -o $@
$(BUILD)/obj/gnuefi/crt0.o: $(GNUEFI)/gnuefi/crt0-efi-x86_64.S
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(CC) $(LIB_CFLAGS) -c $< -o $@
# crt0 calls _relocate by name: it must not be hidden away, and runs before anything else is set up.
$(BUILD)/obj/gnuefi/reloc.o: $(GNUEFI)/gnuefi/reloc_x86_64.c
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(CC) $(LIB_CFLAGS) -mgeneral-regs-only -I$(GNUEFI)/inc -I$(GNUEFI)/inc/x86_64 -I$(GNUEFI)/inc/protocol \
		-DGNU_EFI_USE_MS_ABI -c $< -o $@

EFI_LDFLAGS := -nostdlib -pie --no-dynamic-linker -Bsymbolic -z nocombreloc -z noexecstack -z norelro -z text \
	--gc-sections --orphan-handling=error --build-id=none -T linker.ld
EFI_LIBGCC = $(shell $(CC) -print-libgcc-file-name)
EFI_SECTIONS := .text .rodata .relro .dynamic .rela .dynsym .dynstr .hash .reloc .data .bss

# A relocation of any kind but RELATIVE would be skipped by crt0 without a word, so it is an error here; so is a system
# call of the C library: there is nobody to serve it.
define EFI_LINK
@echo '  LD      $@'; ld $(EFI_LDFLAGS) -Map $(@:.efi=.map) -o $(@:.efi=.elf) $(filter %.o,$^) --start-group $(MUSL_LIB) $(EFI_LIBGCC) --end-group
@! readelf -rW $(@:.efi=.elf) | grep R_X86_64 | grep -v R_X86_64_RELATIVE || { echo "$@: relocation that crt0 cannot do"; exit 1; }
@! objdump -d $(@:.efi=.elf) | awk '/^[0-9a-f]+ <.*>:/ { f = $$2 } /\tsyscall/ { print "$@: system call in", f }' | grep .
@objcopy $(EFI_SECTIONS:%=-j %) --target=efi-app-x86_64 --subsystem=10 $(@:.efi=.elf) $@
endef

.PHONY: godwit.efi
godwit.efi: $(BUILD)/godwit.efi
$(BUILD)/godwit.efi: $(OBJS) linker.ld
	$(EFI_LINK)
