#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds the initramfs of the real guest: busybox, heartbeat and /init, nothing else; with MODULES (a folder) also a driver
# for its network card. Usage: mkinitrd.sh OUT [MODULES]   (environment: BUSYBOX=a static busybox, MUSL_GCC=musl-gcc)
#
# The cpio archive is not compressed: unpacking it then costs a copy, not a decompression, which
# is what counts in an emulated machine. It is reproducible: same inputs, same bytes.
set -eu

die() {
	echo "mkinitrd.sh: $*" >&2
	exit 1
}

[ $# = 1 ] || [ $# = 2 ] || die "usage: mkinitrd.sh OUT [MODULES]"
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$(dirname "$1")"
out=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
cc=${MUSL_GCC:-musl-gcc}
command -v "$cc" >/dev/null || die "$cc is missing: apt-get install musl-tools"
command -v cpio >/dev/null || die "cpio is missing: apt-get install cpio"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

is_static() {
	[ -f "$1" ] && ! readelf -lW "$1" 2>/dev/null | grep -q INTERP
}

# A static busybox: the one named, the one `make deps` unpacked, the system's, or the package's.
busybox=${BUSYBOX:-}
if [ -z "$busybox" ]; then
	for f in "$here/../../build/linux/busybox" /bin/busybox; do
		if is_static "$f"; then
			busybox=$f
			break
		fi
	done
fi
if [ -z "$busybox" ]; then
	(cd "$work" && apt-get -q download busybox-static >&2 && dpkg-deb -x busybox-static_*.deb bb) ||
		die "no static busybox: apt-get install busybox-static, or set BUSYBOX="
	busybox=$work/bb/bin/busybox
fi
is_static "$busybox" || die "$busybox is not a static program"

root=$work/root
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp"
cp "$busybox" "$root/bin/busybox"
for applet in sh mount umount ls cat echo dmesg ps free sleep dd date poweroff reboot; do
	ln -s busybox "$root/bin/$applet"
done
if [ $# = 2 ]; then
	[ -e "$2/virtio_net.ko" ] || die "$2/virtio_net.ko is missing. Run 'tools/deps.sh kernel'."
	mkdir "$root/modules"
	cp "$2"/*.ko "$root/modules/"
	for applet in insmod ip nc; do
		ln -s busybox "$root/bin/$applet"
	done
fi
cp "$here/init" "$root/init"
"$cc" -static -Os -std=gnu11 -pthread -Wall -Wextra -Werror -s -Wl,--build-id=none \
	-o "$root/bin/heartbeat" "$here/heartbeat.c"
chmod 755 "$root/init" "$root/bin/busybox" "$root/bin/heartbeat"
find "$root" -exec touch -h -d @0 {} +
# A new file each time, so that nobody reads a half-written one.
(cd "$root" && find . | LC_ALL=C sort | cpio --quiet --reproducible -o -H newc -R 0:0) >"$out.tmp"
mv "$out.tmp" "$out"
