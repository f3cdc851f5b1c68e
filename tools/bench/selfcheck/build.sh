#!/bin/sh
# SPDX-License-Identifier: MIT
# Build the self-check, or another small EFI program: build.sh OUT.efi [SOURCE.c]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
source=${2:-$here/selfcheck.c}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
gcc -O2 -Wall -Wextra -Werror -ffreestanding -fpic -fshort-wchar -fno-stack-protector -mno-red-zone \
	-mgeneral-regs-only -I/usr/include/efi -I/usr/include/efi/x86_64 -DGNU_EFI_USE_MS_ABI \
	-c "$source" -o "$tmp/selfcheck.o"
ld -nostdlib -znocombreloc -shared -Bsymbolic -T /usr/lib/elf_x86_64_efi.lds \
	/usr/lib/crt0-efi-x86_64.o "$tmp/selfcheck.o" -o "$tmp/selfcheck.so" -L/usr/lib -lefi -lgnuefi --no-undefined
objcopy -j .text -j .sdata -j .data -j .rodata -j .dynamic -j .dynsym -j '.rel*' -j '.rela*' -j .reloc \
	--target efi-app-x86_64 --subsystem=10 "$tmp/selfcheck.so" "$1"
