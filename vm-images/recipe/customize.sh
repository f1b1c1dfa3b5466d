#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs on the host, as root, when Debian's packages are installed under $1.
# Sets up the tree for our own init and for podman, and packs the two container
# images that recipe/provision.sh gives to podman.
set -eu
root=$1

echo cima-guest >"$root/etc/hostname"
printf '127.0.0.1\tlocalhost cima-guest\n' >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
mkdir -p "$root/cima" "$root/out" "$root/usr/lib/modules"

mkdir -p "$root/etc/containers"
cat >"$root/etc/containers/containers.conf" <<'EOF'
# The guest has no systemd, no journal and no network.
[containers]
netns = "none"
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
EOF
cat >"$root/etc/containers/storage.conf" <<'EOF'
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
EOF

# Who runs containers without root.
echo 'user:x:1000:1000::/home/user:/bin/sh' >>"$root/etc/passwd"
echo 'user:x:1000:' >>"$root/etc/group"
echo 'user:100000:65536' | tee "$root/etc/subuid" >"$root/etc/subgid"

images=$root/var/lib/cima-images
mkdir -p "$images"

# localhost/tiny:1, a static userland: busybox and a link for each applet.
tiny=$(mktemp -d)
debian=$(mktemp -d)
trap 'rm -rf "$tiny" "$debian"' EXIT
chmod 0755 "$tiny" "$debian"
mkdir -p "$tiny/bin" "$tiny/etc" "$tiny/root" "$tiny/dev" "$tiny/proc" "$tiny/sys"
mkdir -m 1777 "$tiny/tmp"
cp "$root/usr/bin/busybox" "$tiny/bin/busybox"
for applet in $("$tiny/bin/busybox" --list); do
	[ "$applet" = busybox ] || ln -s busybox "$tiny/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$tiny/etc/passwd"
echo 'root:x:0:' >"$tiny/etc/group"
tar --numeric-owner --owner=0 --group=0 --sort=name -C "$tiny" -cf "$images/tiny.tar" .

# localhost/debian:1, a dynamic userland: the files of these packages, without
# what only a reader or a translator wants, and the libraries they load.
packages='base-files bash bsdutils coreutils dash debianutils diffutils findutils
	grep gzip hostname libc-bin libc6 login mawk ncurses-base ncurses-bin perl-base
	procps sed tar util-linux util-linux-extra'
merge_usr='s,^/(bin|sbin|lib|lib64)(/|$),/usr/\1\2,'
# shellcheck disable=SC2086 # one word per package
chroot "$root" dpkg-query -L $packages |
	sed -E -e '/^\/usr\/share\/(doc|man|info|locale|lintian|bash-completion)(\/|$)/d' \
		-e '/^\/usr\/lib\/x86_64-linux-gnu\/(gconv|security)(\/|$)/d' \
		-e "$merge_usr" -e '/^\/\.$/d' |
	sort -u >"$debian/of-packages"
grep -E '^/usr/s?bin/' "$debian/of-packages" | chroot "$root" xargs ldd 2>/dev/null |
	sed -En 's,.*=> (/[^ ]*) .*,\1,p' | sed -E "$merge_usr" |
	sort -u >"$debian/links"
chroot "$root" xargs readlink -f <"$debian/links" >"$debian/libraries"
sed 's,^/,,' "$debian/of-packages" "$debian/links" "$debian/libraries" >"$debian/files"
cat >>"$debian/files" <<'EOF'
bin
sbin
lib
lib64
etc/passwd
etc/group
etc/nsswitch.conf
etc/ld.so.cache
usr/bin/awk
etc/alternatives/awk
EOF
# A configuration file that its package made and later removed is not there.
( cd "$root" && while IFS= read -r file; do
	if [ -e "$file" ] || [ -L "$file" ]; then echo "$file"; fi
done ) <"$debian/files" | sort -u >"$debian/present"
tar --numeric-owner --sort=name --no-recursion -C "$root" \
	-T "$debian/present" -cf "$images/debian.tar"
mkdir "$debian/root"
tar -C "$debian/root" -xf "$images/debian.tar"
# Each must find all its libraries in there.
chroot "$debian/root" /bin/bash -ec \
	'perl -v; awk "BEGIN { exit 0 }"; tar --version; findmnt --version; free --version' >/dev/null

# Not needed in a guest, and the image is smaller without.
rm -rf "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/* \
	"$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
