#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# PID 1 of the guest: mounts what a scenario expects, runs /cima/guest/command
# and says on the port cima.verdict how it ended:
#   running     the command is about to start
#   exit N      the command ended with status N
# The command's output goes to the port cima.output. Nothing but the kernel
# writes to the console.
#
# Each program that is started costs tens of milliseconds under emulation: the
# shell's own commands and the static busybox are used where they do.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8

say() { echo "guest-init: $*" >/dev/kmsg; }

mount() { busybox mount "$@" || say "cannot mount: $*"; }

mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs /run
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /tmp
busybox mkdir -p /dev/pts /dev/shm /dev/virtio-ports /run/lock
mount -t devpts -o gid=5,mode=0620,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
mount -t bpf -o mode=0700 bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 out /out

busybox ln -s /proc/self/fd /dev/fd
for number in 0:stdin 1:stdout 2:stderr; do
	busybox ln -s "/proc/self/fd/${number%:*}" "/dev/${number#*:}"
done

# Opening one of these loads its module; udev would make them from modules.devname.
busybox mkdir -p /dev/net
[ -e /dev/loop-control ] || busybox mknod -m 0660 /dev/loop-control c 10 237
[ -e /dev/fuse ] || busybox mknod -m 0666 /dev/fuse c 10 229
[ -e /dev/net/tun ] || busybox mknod -m 0666 /dev/net/tun c 10 200

# podman with cgroupfs makes its groups below the root: all controllers go down.
read -r controllers </sys/fs/cgroup/cgroup.controllers
for controller in $controllers; do
	echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done

# Nothing of the guest may sit in D state for as long as this.
echo 60 >/proc/sys/kernel/hung_task_timeout_secs
# All of SysRq, for the scenarios that crash the guest on purpose.
echo 1 >/proc/sys/kernel/sysrq
read -r name </etc/hostname
echo "$name" >/proc/sys/kernel/hostname
busybox ip link set lo up

for port in /sys/class/virtio-ports/*; do
	if [ -e "$port/name" ]; then
		read -r name <"$port/name"
		busybox ln -s "/dev/${port##*/}" "/dev/virtio-ports/$name"
	fi
done
exec 3>/dev/virtio-ports/cima.verdict

cd /root || exit
if [ -e /dev/hvc0 ]; then
	echo running >&3
	setsid --ctty --wait /cima/guest/command </dev/hvc0 >/dev/hvc0 2>&1 3>&-
	status=$?
else
	# A port has one opener at a time, and a program may reopen its output by
	# name (/dev/stdout): it gets a fifo, and cat alone holds the port.
	busybox mkfifo -m 0600 /run/cima-output
	busybox cat </run/cima-output >/dev/virtio-ports/cima.output 3>&- &
	cat=$!
	echo running >&3
	setsid --wait /cima/guest/command </dev/null >/run/cima-output 2>&1 3>&-
	status=$?
	# What the command left running keeps the fifo open: do not wait for it.
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		kill -0 "$cat" 2>/dev/null || break
		busybox sleep 0.1
	done
fi

read -r parameters </proc/cmdline
case " $parameters " in
*" cima.persist "*)
	busybox mount -o remount,ro / || status="$status, and the root could not be made read-only"
	;;
esac
echo "exit $status" >&3
busybox poweroff -f
