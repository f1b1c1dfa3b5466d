#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# /init of the initramfs: loads the modules that reach the disks, mounts them
# and hands over to recipe/guest-init.sh, which lies on the stage disk.

die() {
	echo "cima-initramfs: $*" >/dev/kmsg
	busybox poweroff -f
}

# Disks are told apart by the serial number that the runner gave them.
disk() {
	for block in /sys/block/vd*; do
		if [ "$(busybox cat "$block/serial")" = "$1" ]; then
			echo "/dev/${block##*/}"
			return
		fi
	done
	die "there is no disk with the serial number $1"
}

export PATH=/bin
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys

for module in $(busybox cat /modules/order); do
	busybox insmod "/modules/$module" || die "cannot load $module"
done

busybox mount -t ext4 "$(disk root)" /sysroot || die "cannot mount the root disk"
busybox mount -t ext4 -o ro "$(disk stage)" /sysroot/cima || die "cannot mount the stage disk"
busybox mount -t ext4 -o ro "$(disk modules)" /sysroot/usr/lib/modules || die "cannot mount the modules disk"

for tree in dev proc sys; do
	busybox mount -o move "/$tree" "/sysroot/$tree"
done
exec busybox switch_root /sysroot /cima/guest/init
