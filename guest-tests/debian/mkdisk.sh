#!/bin/bash
# SPDX-License-Identifier: MIT
# Makes the Debian guest: mkdisk.sh DIR writes
#   DIR/disk.img            a stock Debian root file system (ext4, no partition table, sparse), with the services of services.c
#   DIR/vmlinuz, initrd.img the kernel of that file system, untouched, and its initramfs
#   DIR/ssh_key             logs in as root
# and DIR/stamp, by which it knows that all of that is there. Only files are added to the packages' own: nothing of them is
# changed, but for units that are masked and the initramfs' list of modules. Packages come from where this machine gets its own.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin

SIZE=1G
KERNEL=linux-image-cloud-amd64
PACKAGES=systemd-sysv,udev,$KERNEL,initramfs-tools,openssh-server,sqlite3,stress-ng,iproute2,e2fsprogs,kmod
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

say() { echo "debian-guest: $*"; }
die() { echo "debian-guest: error: $*" >&2; exit 1; }

[ $# = 1 ] || die "usage: mkdisk.sh DIR"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)

want=$(cat "$here"/* "$here/../linux/common.h" | sha256sum | cut -c1-16)
if [ "$(cat "$dir/stamp" 2>/dev/null)" = "$want" ]; then
	say "$dir is there"
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || die "making a root file system needs root. Run as root: $0 $1"
	exec sudo "$0" "$1"
fi
for tool in mmdebstrap mke2fs musl-gcc ssh-keygen; do
	command -v "$tool" >/dev/null || die "$tool is missing. Run 'tools/deps.sh packages' first."
done

. /etc/os-release
suite=${VERSION_CODENAME:-bookworm}
sources=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' | sort -u |
	awk -v s="$suite" -v k="$KEYRING" '$2 == s || $2 == s "-updates" || $2 == s "-security" {
		print "deb [signed-by=" k "] " $1 " " $2 " main" }')
[ -n "$sources" ] || die "apt knows no mirror for $suite. Add one to /etc/apt/sources.list and run again."

work=$dir/.work
rm -rf "$work" "$dir/stamp"
mkdir -p "$work/add"
trap 'rm -rf "$work"' EXIT
start=$SECONDS
# Files get one date, so that two images differ in little more than keys.
export SOURCE_DATE_EPOCH=1700000000 E2FSPROGS_FAKE_TIME=1700000000

ssh-keygen -q -t ed25519 -N '' -C godwit-test -f "$work/ssh_key"

# What is added: put FILE <<EOF
add=$work/add
put() { mkdir -p "$add/$(dirname "$1")"; cat > "$add/$1"; }

put etc/fstab <<-E
	/dev/vda / ext4 defaults 0 0
E
put etc/hostname <<-E
	web
E
put etc/hosts <<-E
	127.0.0.1 localhost web
E
put root/.ssh/authorized_keys < "$work/ssh_key.pub"
# The LAN's address comes from the kernel command line (ip=ADDRESS::GATEWAY:NETMASK::eth0:off), by systemd-network-generator.
put etc/systemd/network/90-other.network <<-E
	[Match]
	Type=ether
	[Network]
	LinkLocalAddressing=ipv6
	IPv6AcceptRA=no
E
put etc/systemd/journald.conf.d/test.conf <<-E
	[Journal]
	Storage=volatile
E
put etc/systemd/system/godwit-test.service <<-E
	[Unit]
	Description=Services for the tests of Godwit
	[Service]
	ExecStart=/usr/local/sbin/godwit-test
	StandardInput=tty-force
	StandardOutput=tty
	StandardError=tty
	TTYPath=/dev/console
	OOMScoreAdjust=-900
	[Install]
	WantedBy=multi-user.target
E
put etc/systemd/system/godwit-up.service <<-E
	[Unit]
	Description=Says when everything is up
	After=ssh.service godwit-test.service systemd-networkd.service
	[Service]
	Type=oneshot
	ExecStart=/bin/echo GT UP
	StandardOutput=tty
	TTYPath=/dev/console
	[Install]
	WantedBy=multi-user.target
E
# Only what this guest's disk needs in the initramfs. What it has beside that is loaded by udev from the root file system.
put etc/initramfs-tools/conf.d/godwit <<-E
	MODULES=list
	BUSYBOX=n
	COMPRESS=zstd
E
put usr/share/initramfs-tools/modules.d/godwit <<-E
	virtio_pci
	virtio_blk
E
mkdir -p "$add/usr/local/sbin"
musl-gcc -static -Os -std=gnu11 -Wall -Wextra -Werror -s -Wl,--build-id=none -o "$add/usr/local/sbin/godwit-test" "$here/services.c"
find "$add" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

# Runs in the new file system before it is closed.
cat > "$work/finish" <<-'E'
	set -eu
	systemctl --quiet enable systemd-networkd.service systemd-network-generator.service godwit-test.service godwit-up.service
	# Nothing that works behind a test's back, and no login prompts on the test's console.
	systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
		systemd-tmpfiles-clean.timer e2scrub_reap.service getty.target serial-getty@ttyS0.service serial-getty@hvc0.service \
		systemd-networkd-wait-online.service systemd-pstore.service systemd-logind.service \
		sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount dev-hugepages.mount \
		proc-sys-fs-binfmt_misc.automount systemd-ask-password-console.path systemd-ask-password-wall.path
	systemctl --quiet set-default multi-user.target
	chmod 700 /root/.ssh
	rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*.log /var/log/apt
	touch /etc/.updated /var/.updated
E

say "root file system of $suite (a minute or two)"
mmdebstrap --quiet --mode=root --variant=apt --format=directory --include="$PACKAGES" \
	--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' --dpkgopt=force-unsafe-io \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
	--essential-hook="cp -r --preserve=mode,timestamps '$add'/. \"\$1\"" \
	--customize-hook="chroot \"\$1\" sh -s < '$work/finish'" \
	"$suite" "$work/root" - <<<"$sources" >"$dir/log" 2>&1 ||
	{ tail -n 20 "$dir/log" >&2; die "mmdebstrap failed, see $dir/log. If the mirror lacks a file, run apt-get update and try again."; }

# Without one, every boot is a first boot, which is slow.
echo 8f3c1d2e4b5a46978899aabbccddeeff > "$work/root/etc/machine-id"
cp "$work"/root/boot/vmlinuz-* "$work/vmlinuz"
# The kernel unpacks its initramfs in the guest's own time: what costs a moment here costs seconds in an emulated machine.
zstd -q -d < "$(echo "$work"/root/boot/initrd.img-*)" > "$work/initrd.img" 2>>"$dir/log" ||
	cp "$work"/root/boot/initrd.img-* "$work/initrd.img"
mke2fs -q -t ext4 -F -d "$work/root" -U 67f5c9d2-0b1e-4c53-9a3e-11c0ffee0001 -E hash_seed=67f5c9d2-0b1e-4c53-9a3e-11c0ffee0002,lazy_itable_init=0 \
	-m 0 -O ^metadata_csum_seed -L root "$work/disk.img" "$SIZE" >>"$dir/log"
chmod 600 "$work/ssh_key"
mv "$work/disk.img" "$work/vmlinuz" "$work/initrd.img" "$work/ssh_key" "$work/ssh_key.pub" "$dir/"
ls "$work"/root/lib/modules > "$dir/kernel.version"
echo "$want" > "$dir/stamp"
# Made by sudo: it belongs to who asked for it.
[ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID:$SUDO_GID" "$dir"
say "linux $(cat "$dir/kernel.version"), $(du -m "$dir/disk.img" | cut -f1) MiB on disk, initrd $(($(stat -c %s "$dir/initrd.img") >> 20)) MiB, $((SECONDS - start)) s"
