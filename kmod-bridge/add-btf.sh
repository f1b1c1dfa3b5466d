#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Gives a module its BTF where the kernel's headers cannot: Debian's headers for
# 6.1 have neither the kernel's BTF nor resolve_btfids. The steps are those of
# scripts/Makefile.modfinal (6.1). Without BTF no BPF program can call the kfunc.
#
# add-btf.sh MODULE, with KVER, KDIR, BTF_BASE and RESOLVE_BTFIDS as in Makefile.
set -eu
module=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

die() {
	echo "add-btf.sh: $*" >&2
	exit 1
}

has_btf() {
	readelf -SW "$1" | grep -q ' \.BTF '
}

# The kernel of a bzImage: payload_offset and payload_length of its setup header
# (Documentation/arch/x86/boot.rst), without the 4 bytes of size at the end.
number() {
	od -An -v -j "$2" -N "$3" -t "u$3" "$1" | tr -d ' '
}

unpack() {
	sectors=$(number "$1" 497 1)
	[ "$sectors" -ne 0 ] || sectors=4
	start=$(((sectors + 1) * 512 + $(number "$1" 584 4)))
	length=$(($(number "$1" 588 4) - 4))
	tail -c "+$((start + 1))" "$1" | head -c "$length" > "$scratch/packed"
	for unpacker in "xz -dc" "zstd -dc" "gzip -dc"; do
		if $unpacker < "$scratch/packed" > "$scratch/vmlinux" 2> /dev/null; then
			return 0
		fi
	done
	return 1
}

find_base() {
	if [ -n "${BTF_BASE:-}" ]; then
		echo "$BTF_BASE"
	elif [ -e "$KDIR/vmlinux" ]; then
		echo "$KDIR/vmlinux"
	elif [ "$KVER" = "$(uname -r)" ] && [ -e /sys/kernel/btf/vmlinux ]; then
		echo /sys/kernel/btf/vmlinux
	elif [ -r "/boot/vmlinuz-$KVER" ] && unpack "/boot/vmlinuz-$KVER"; then
		echo "$scratch/vmlinux"
	else
		die "there is no BTF of $KVER: name a vmlinux in BTF_BASE, or install linux-image-$KVER"
	fi
}

find_resolver() {
	for program in "${RESOLVE_BTFIDS:-}" "$KDIR/tools/bpf/resolve_btfids/resolve_btfids" \
		$(printf '%s\n' /usr/lib/linux-kbuild-*/tools/bpf/resolve_btfids/resolve_btfids | sort -rV); do
		if [ -x "$program" ]; then
			echo "$program"
			return
		fi
	done
	die "there is no resolve_btfids: install a linux-kbuild-6.12 package, or name the program in RESOLVE_BTFIDS"
}

if has_btf "$module"; then
	exit 0
fi
command -v pahole > /dev/null || die "there is no pahole: install the package pahole"
base=$(find_base)
resolver=$(find_resolver)
LLVM_OBJCOPY=objcopy pahole -J --btf_gen_floats --lang_exclude=rust --btf_base "$base" "$module"
has_btf "$module" || die "pahole made no BTF"
"$resolver" -b "$base" "$module"
echo "  BTF [M] $module, on $base"
