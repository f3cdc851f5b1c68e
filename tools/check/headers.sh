#!/bin/bash
# SPDX-License-Identifier: MIT
# Checks the rules of the source tree that the compiler does not check:
#   1. every own header compiles alone, and twice;
#   2. every .c file includes its own header first;
#   3. folders include one way (table below; each exception is named with its reason);
#   4. devices (hv/vdev) have no writable data of their own: each guest has its own instances;
#   5. every source file begins with its licence.
# Exit code 0: all good; 1: each breach is a line "FAIL ...". `make lint` runs it; needs `make deps`.
cd "$(dirname "$0")/../.." || exit 1
failed=0
fail() { echo "FAIL $*"; failed=1; }

# The flags are the Makefile's own (tools/rules.mk).
while IFS== read -r name value; do
	case $name in *_FLAGS) printf -v "$name" %s "$value" ;; esac
done < <(make -s --no-print-directory lint-flags)
[ -n "$HV_FLAGS" ] && [ -n "$TOOL_FLAGS" ] || { echo "FAIL make lint-flags says nothing"; exit 1; }
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
list() { git ls-files -co --exclude-standard -- "$@" | while read -r f; do [ -e "$f" ] && echo "$f"; done; }

flags_of() { # FILE: how it is compiled
	case $1 in
	hv/fake/* | */test_vm.h | */*_fake.h) echo "$TEST_FLAGS" ;;
	boot/boot.h) echo "$BOOT_FLAGS" ;;
	net/*) echo "$NET_FLAGS" ;;
	mig/*) echo "$MIG_FLAGS" ;;
	tools/godwit/*) echo "$TOOL_FLAGS" ;;
	*) echo "$HV_FLAGS" ;;
	esac
}

# --- 1 ---
n=0
for h in $(list 'boot/*.h' 'hv/*.h' 'drivers/*.h' 'net/*.h' 'mig/*.h' 'tools/godwit/*.h'); do
	n=$((n + 1))
	name=${h#hv/fake/include/} # headers there stand in for others
	printf '#include "%s"\n#include "%s"\nextern int not_empty;\n' "$name" "$name" >"$tmp/alone.c"
	if ! eval "gcc $(flags_of "$h") -fsyntax-only $tmp/alone.c" >"$tmp/log" 2>&1; then
		fail "$h does not compile alone: $(grep -m1 -E 'error' "$tmp/log")"
	fi
done
echo "headers: $n compiled alone"

# --- 2 ---
sources=$(list 'boot/*.c' 'hv/*.c' 'drivers/*.c' 'net/*.c' 'mig/*.c' 'tools/godwit/*.c')
n=0
for c in $sources; do
	h=${c%.c}.h
	# mbedTLS reaches gcm_alt.h by its own gcm.h, and only that way has what it needs.
	[ -e "$h" ] && [ "$c" != net/port/gcm_alt.c ] || continue
	n=$((n + 1))
	case $c in tools/godwit/*) h=$(basename "$h") ;; esac
	first=$(grep -m1 -E '^#\s*include' "$c" | sed 's/.*include *["<]//; s/[">].*//')
	[ "$first" = "$h" ] || fail "$c includes $first first, not its own $h"
done
echo "sources: $n include their own header first"

# --- 3 ---
# FOLDER: what it may include of ours (extended regular expressions, matched whole).
declare -A may=(
	[hv/lib]='hv/lib/.*'
	[hv/arch]='hv/(lib|arch)/.*|hv/mm/frame.h|hv/config.h|boot/boot_info.h|drivers/uart/uart.h'
	[hv/mm]='hv/(lib|mm)/.*'
	[hv/vmx]='hv/(lib|arch|mm|vmx)/.*'
	[hv/vm]='hv/(lib|arch|mm|vmx|vm)/.*|hv/(config|keep).h|boot/boot_info.h'
	[hv/vdev]='hv/(lib|vdev)/.*|hv/vm/(vdev|blk).h'
	[hv]='.*'
	[drivers]='hv/(lib|arch)/.*|hv/mm/frame.h|drivers/.*'
	[net]='(hv/lib|net)/.*|hv/(config|keep|mm/frame|vm/vm|vm/blk).h|boot/boot_info.h|drivers/nic/nic.h|mig/mig.h'
	[mig]='(hv/lib|mig)/.*|hv/mm/frame.h|hv/vm/(vm|vm_clock|blk).h|hv/(config|keep).h|net/stream.h'
	[boot]='(boot|hv/lib)/.*|hv/(config|keep).h|hv/arch/(cpu|x86|nvram).h'
)
# FILE HEADER: the exceptions.
exceptions='
hv/lib/clock.c hv/arch/x86.h            reads the TSC
hv/lib/libc.c hv/mm/frame.h             malloc() of the C library is our heap
hv/vmx/vmx.h hv/vm/vcpu_state.h         the register file that the entry code loads and saves
hv/vm/acpi_tables.c hv/vdev/devices.h   tables tell where the devices are
hv/vm/exit.c hv/vdev/devices.h          exits that belong to the local APIC
hv/vm/msr.c hv/vdev/devices.h           MSRs that belong to the local APIC
hv/vm/vcpu.c hv/vdev/devices.h          takes interrupts from the local APIC and the PIC
hv/vm/vcpu_regs.c hv/vdev/devices.h     takes the registers of the APIC out of the CPU
hv/vm/vdev.c hv/vdev/devices.h          makes the devices of a guest
hv/vm/sched.c mig/mig.h                 the run loop gives everything its turn
hv/vm/sched.c net/net.h                 the same
hv/vdev/misc_ports.c hv/vm/vm.h         ends the guest
hv/vdev/pci.c hv/vm/vm.h                knows which function is in which slot
hv/vdev/lapic.c hv/vm/vm.h              names the guest in the log
hv/vdev/virtio.c hv/vm/vm.h             the same
hv/vdev/virtq.c hv/vm/vm.h              reads and writes guest memory
hv/vdev/virtio_rng.c net/port/port.h    entropy of the host
hv/vdev/virtio_net.h hv/config.h        what a definition says of cards
hv/vdev/virtio_net.c hv/vm/vm.h         whose card it is, and whether it runs here
hv/vdev/virtio_net.c hv/mm/frame.h      keeps frames while the guest is frozen
hv/vdev/virtio_net.c net/vswitch.h      the other end of the cable
hv/vdev/virtio_net.c net/announce.h     the addresses of its guest
hv/vm/vdev.c hv/vdev/virtio_net.h       makes the devices of a guest
net/forward.c hv/vdev/virtio_net.h      the card of the guest that leaves
mig/source.c net/forward.h              frames that still come for a guest
mig/session.c net/forward.h             the same
mig/session.c hv/vdev/virtio_net.h      and the card that gets them
mig/target.c hv/vdev/virtio_net.h       whether the networks are here
hv/vm/console.c hv/vdev/devices.h       types into the UART
hv/vm/console.c hv/vdev/virtio.h        or into the virtio console
net/commands.c hv/arch/caps.h           tells what the CPU can do
net/commands.c hv/vdev/devices.h        presses the power button
net/port/rdrand.c hv/arch/x86.h         an instruction
mig/source.c net/net.h                  opens the connection
'
n=0
for f in $(list 'boot/*.[ch]' 'hv/*.[ch]' 'drivers/*.[ch]' 'net/*.[ch]' 'mig/*.[ch]'); do
	case $f in *_test.c | *_fake.[ch] | hv/fake/* | */test_vm.h) continue ;; esac # tests see everything
	case $f in
	hv/*/*) folder=${f#hv/}; folder=hv/${folder%%/*} ;;
	*) folder=${f%%/*} ;;
	esac
	n=$((n + 1))
	while read -r inc; do
		case $inc in
		'<efi.h>') [ "$folder" = boot ] || fail "$f includes <efi.h>, which only boot/ may know" ;;
		'"'boot/* | '"'hv/* | '"'drivers/* | '"'net/* | '"'mig/* | '"'tools/*)
			inc=${inc//\"/}
			[[ $inc =~ ^(${may[$folder]})$ ]] || grep -q "^$f $inc " <<<"$exceptions" ||
				fail "$f includes $inc, which is not below $folder" ;;
		esac
	done < <(grep -E '^#\s*include' "$f" | sed -E 's/^#\s*include\s*//; s/[[:space:]].*//')
done
while read -r f inc _; do
	[ -z "$f" ] || grep -q "include \"$inc\"" "$f" || fail "tools/check/headers.sh: exception is not needed: $f $inc"
done <<<"$exceptions"
echo "includes: $n files looked at"

# --- 4 ---
n=0
for c in $(list 'hv/vdev/*.c'); do
	case $c in *_test.c) continue ;; esac
	n=$((n + 1))
	if ! eval "gcc $HV_FLAGS -O2 -c $c -o $tmp/vdev.o" 2>"$tmp/log"; then
		fail "$c does not compile: $(grep -m1 error "$tmp/log")"
		continue
	fi
	# Sections .data.rel.ro are constant once loaded. A log line's rate limit (log_guest) is the host's, not the guest's.
	while read -r name; do
		fail "$c has writable data outside of its instances: $name"
	done < <(objdump -t "$tmp/vdev.o" | awk '$3 == "O" && $4 ~ /^(\.data|\.bss|\.tdata|\.tbss|\*COM\*)/ &&
		$4 !~ /^\.data\.rel\.ro/ && $NF !~ /^limit_\.[0-9]+$/ { print $NF }')
done
echo "devices: $n without writable data of their own"

# --- 5 ---
n=0
for f in $(list '*.c' '*.h' '*.S' '*.py' '*.sh' '*.mk' '*.ld' '*.asl' Makefile); do
	n=$((n + 1))
	head -n 3 "$f" | grep -q 'SPDX-License-Identifier: MIT' || fail "$f does not begin with its licence (SPDX line)"
done
echo "licences: $n files looked at"

[ $failed = 0 ] && echo "tree: good"
exit $failed
