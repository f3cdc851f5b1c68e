#!/bin/bash
# SPDX-License-Identifier: MIT
# Get everything that building, testing and showing Godwit needs: tools/deps.sh [packages|libs|kernel|bochs|all]
#   packages  apt packages of this Debian 12 machine (the only step that needs root)
#   libs      library sources -> build/deps/FOLDER
#   kernel    stock Debian kernels for guests -> build/linux/vmlinuz, vmlinuz-generic
#   bochs     a private Bochs >= 3.1 -> build/bochs/bochs (the machine's own packages are not touched)
# What is already there is left alone; remove the folder to get it anew.
set -euo pipefail
shopt -s nullglob

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
B=$TOP/build
LIST=$TOP/tools/deps.list
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

PACKAGES="gcc make binutils libc6-dev gnu-efi musl-dev libzycore-dev acpica-tools mtools dosfstools
	ovmf qemu-system-x86 bochs vgabios clang libclang-rt-14-dev libcmocka-dev python3 openssl
	busybox-static cpio xz-utils zstd dpkg-dev iproute2 util-linux e2fsprogs openssh-client musl-tools
	mmdebstrap nbdkit qemu-utils nbd-server chrony"

say() { echo "deps: $*"; }
die() { echo "deps: error: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || die "$1 is missing. Run 'tools/deps.sh packages' first."; }

# Rows of deps.list of kind $1: "folder package suite version"
rows() { awk -v k="$1" '$1 == k { print $2, $3, $4, $5 }' "$LIST"; }

own_suite() { . /etc/os-release; echo "${VERSION_CODENAME:-bookworm}"; }

# The mirror this machine already uses for its own suite.
mirror() {
	local s
	s=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' |
		awk -v r="$(own_suite)" '$2 == r { print $1; exit }')
	[ -n "$s" ] || die "apt knows no mirror for $(own_suite). Add one to /etc/apt/sources.list and run again."
	echo "$s"
}

# papt DIR SUITE deb|deb-src COMMAND...: apt-get in DIR, on a private state (own sources, lists, cache) under build/apt.
# Signatures stay checked. The index is refreshed once per run, and only if something must be fetched.
declare -A FRESH
papt() {
	local dir=$1 suite=$2 type=$3 d=$B/apt/$2-$3 opts
	shift 3
	opts=(-qq -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$d/sources.d"
		-o "Dir::State::Lists=$d/lists" -o "Dir::Cache=$d/cache"
		-o Dir::Etc::PreferencesParts=/dev/null -o Acquire::Languages=none
		-o APT::Sandbox::User= -o Acquire::Retries=2)
	if [ -z "${FRESH[$suite-$type]:-}" ]; then
		mkdir -p "$d/sources.d" "$d/lists/partial" "$d/cache/archives/partial"
		printf 'Types: %s\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' \
			"$type" "$(mirror)" "$suite" "$KEYRING" > "$d/sources.d/godwit.sources"
		say "index of $suite ($type)" >&2
		apt-get "${opts[@]}" update || return 1
		FRESH[$suite-$type]=1
	fi
	(cd "$dir" && apt-get "${opts[@]}" "$@")
}

do_packages() {
	local missing=() p sudo=
	for p in $PACKAGES; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
	done
	if [ ${#missing[@]} = 0 ]; then
		say "packages: all there"
		return
	fi
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null ||
			die "installing packages needs root. Run as root: apt-get install ${missing[*]}"
		sudo=sudo
	fi
	say "packages: installing ${missing[*]}"
	$sudo apt-get -qq update || say "warning: apt-get update failed, trying with the lists that are there"
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
		-o Dpkg::Use-Pty=0 install "${missing[@]}" >"$B/deps-packages.log" 2>&1 ||
		{ tail -n 15 "$B/deps-packages.log" >&2; die "apt-get install failed, see build/deps-packages.log"; }
}

# get_src FOLDER PACKAGE SUITE VERSION
get_src() {
	local tmp=$B/deps/.tmp-$1 dsc keep
	rm -rf "$tmp"; mkdir -p "$tmp"
	papt "$tmp" "$3" deb-src source --download-only "$2=$4" >"$tmp/log" || return 1
	dsc=("$tmp"/*.dsc)
	# Signatures were checked by apt through the index; the .dsc's own one would need every developer's key.
	dpkg-source --no-check -x "${dsc[0]}" "$tmp/tree" >>"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; return 1; }
	keep=$(awk -v f="$1" '$1 == "keep" && $2 == f { for (i = 3; i <= NF; i++) print $i }' "$LIST")
	if [ -n "$keep" ]; then
		mv "$tmp/tree" "$tmp/all"; mkdir "$tmp/tree"
		(cd "$tmp/all" && cp --parents -t ../tree $keep) || return 1
	fi
	echo "$2 $4" > "$tmp/tree/.godwit-version"
	mv "$tmp/tree" "$B/deps/$1"
	rm -rf "$tmp"
}

# get_deb FOLDER PACKAGE SUITE VERSION: headers of a binary package -> FOLDER/include
get_deb() {
	local tmp=$B/deps/.tmp-$1 deb
	rm -rf "$tmp"; mkdir -p "$tmp/tree"
	papt "$tmp" "$3" deb download "$2=$4" || return 1
	deb=("$tmp"/*.deb)
	dpkg-deb -x "${deb[0]}" "$tmp/x"
	mv "$tmp/x/usr/include" "$tmp/tree/include"
	echo "$2 $4" > "$tmp/tree/.godwit-version"
	mv "$tmp/tree" "$B/deps/$1"
	rm -rf "$tmp"
}

do_libs() {
	local kind folder package suite version
	need dpkg-source
	mkdir -p "$B/deps"
	for kind in src deb; do
		while read -r folder package suite version; do
			[ -e "$B/deps/$folder/.godwit-version" ] && continue
			say "$folder $version ($suite)"
			"get_$kind" "$folder" "$package" "$suite" "$version" ||
				say "warning: $package $version is not to be had from $suite"
		done < <(rows "$kind")
	done
	while read -r folder _; do
		[ -e "$B/deps/$folder/.godwit-version" ] ||
			die "$folder: no version in tools/deps.list could be fetched. Check the network, or add a newer version there."
	done < <(rows src; rows deb)
	say "libs: all in build/deps"
}

do_kernel() {
	local name meta pkg deb tmp=$B/linux/.tmp v
	mkdir -p "$B/linux"
	while read -r name meta _; do
		[ -e "$B/linux/$name" ] && { [ "$name" != vmlinuz ] || [ -e "$B/linux/modules/virtio_net.ko" ]; } && continue
		pkg=$(apt-cache depends "$meta" 2>/dev/null | awk '$1 == "Depends:" { print $2; exit }')
		[ -n "$pkg" ] || die "apt does not know $meta. Run apt-get update and try again."
		say "$name from $pkg"
		rm -rf "$tmp"; mkdir -p "$tmp"
		(cd "$tmp" && apt-get -qq -o APT::Sandbox::User= download "$pkg") ||
			die "$pkg cannot be downloaded. Run apt-get update and try again."
		deb=("$tmp"/*.deb)
		dpkg-deb -x "${deb[0]}" "$tmp/x"
		v=("$tmp"/x/boot/vmlinuz-*)
		cp "$tmp"/x/boot/config-* "$B/linux/$name.config"
		basename "${deb[0]}" > "$B/linux/$name.version"
		cp "${v[0]}" "$B/linux/$name"
		# For a guest with a network card and nothing else (guest-tests/linux).
		if [ "$name" = vmlinuz ]; then
			mkdir -p "$B/linux/modules"
			find "$tmp/x/lib/modules" \( -name 'virtio.ko' -o -name 'virtio_ring.ko' -o -name 'virtio_pci*.ko' -o \
				-name 'virtio_net.ko' -o -name '*failover.ko' \) -exec cp {} "$B/linux/modules/" ';'
		fi
		rm -rf "$tmp"
	done < <(rows kernel)
	say "kernels: build/linux"
}

# get_bochs_pkg PACKAGE DIR: the first suite that has it in a good version
get_bochs_pkg() {
	local package suite version deb have
	while read -r _ package suite version; do
		[ "$package" = "$1" ] || continue
		rm -f "$2"/*.deb
		papt "$2" "$suite" deb download "$package/$suite" || continue
		deb=("$2"/*.deb)
		have=$(dpkg-deb -f "${deb[0]}" Version)
		dpkg --compare-versions "$have" ge "${version#>=}" || continue
		dpkg-deb -x "${deb[0]}" "$2/root"
		echo "$package $have" >> "$2/version"
		return 0
	done < <(rows bochs)
	die "$1 cannot be fetched from any suite in tools/deps.list. Check the network."
}

do_bochs() {
	local tmp=$B/.bochs-tmp p root=$B/bochs/root
	need gcc
	if [ ! -e "$B/bochs/version" ]; then
		rm -rf "$tmp"; mkdir -p "$tmp/root"
		for p in $(rows bochs | awk '!seen[$2]++ { print $2 }'); do
			say "bochs: $p"
			get_bochs_pkg "$p" "$tmp"
		done
		rm -f "$tmp"/*.deb; rm -rf "$B/bochs"
		mv "$tmp" "$B/bochs"
	fi
	gcc -O2 -Wall -Wextra -Werror -shared -fPIC -o "$B/bochs/preload.so" \
		"$TOP/tools/bench/bochs_cures.c" "$TOP/tools/bench/bochs_aes.c" "$TOP/tools/bench/loopback_only.c"
	cat > "$B/bochs/bochs.new" <<-'EOF'
	#!/bin/sh
	# Written by tools/deps.sh: Bochs with the C library it was built for. A closed socket must not end it (SIGPIPE).
	D=$(dirname "$(readlink -f "$0")")
	R=$D/root
	L=/usr/lib/x86_64-linux-gnu
	export LTDL_LIBRARY_PATH=$R$L/bochs/plugins BXSHARE=$R/usr/share/bochs
	trap '' PIPE
	exec "$R$L/ld-linux-x86-64.so.2" --library-path "$R$L:$L" --preload "$D/preload.so" "$R/usr/bin/BINARY" "$@"
	EOF
	p=$(cd "$root/usr/bin" && ls | grep -x -e bochs-bin -e bochs | tail -n 1)
	sed -i "s/BINARY/$p/" "$B/bochs/bochs.new"
	chmod +x "$B/bochs/bochs.new"
	mv "$B/bochs/bochs.new" "$B/bochs/bochs"
	say "bochs: $(awk '$1 == "bochs" { print $2 }' "$B/bochs/version") in build/bochs"
}

mkdir -p "$B"
case "${1:-all}" in
packages) do_packages ;;
libs) do_libs ;;
kernel) do_kernel ;;
bochs) do_bochs ;;
all) do_packages; do_libs; do_kernel; do_bochs ;;
*) die "usage: tools/deps.sh [packages|libs|kernel|bochs|all]" ;;
esac
