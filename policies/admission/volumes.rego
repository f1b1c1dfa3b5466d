# SPDX-License-Identifier: Apache-2.0
# No volumes, or only listed ones.
#
# Denies a container that sees files of the host, unless each is listed. A listed directory stands for what is below it,
# too. What an engine mounts by itself (resolv.conf, hosts, hostname and the like) is listed here, for podman, CRI-O and Docker
# run as root with their default directories. Others, and what a kubelet mounts, are to be listed: they are named after
# a pod, and which pod a container is of only its annotations say, which anybody can set.
#
# data.cima.volumes: a list of objects. `source`: the path on the host, without symbolic links. `destination`: where it is
# seen; if absent, anywhere. `writable`: true if it may be written; if absent, it may not.
# Without data.cima.volumes every volume but the engines' own is denied.
#
#   {"cima": {"volumes": [{"source": "/srv/web", "destination": "/srv"}, {"source": "/var/lib/web", "writable": true}]}}

package cima.admission

import rego.v1

deny contains reason if {
	some volume in input.volumes
	not volume_of_engine(volume)
	not volume_listed(volume)
	reason := sprintf("the volume %s at %s (%s) is not listed", [
		volume.source,
		volume.destination,
		volume_access(volume),
	])
}

volume_access(volume) := "writable" if volume.writable

volume_access(volume) := "read-only" if not volume.writable

volume_listed(volume) if {
	some listed in data.cima.volumes
	volume_below(volume.source, listed.source)
	object.get(listed, "destination", volume.destination) == volume.destination
	volume_writable_enough(volume, listed)
}

# `/srv/web` stands for itself and for `/srv/web/…`, not for `/srv/webmail`.
volume_below(path, top) if path == top

volume_below(path, top) if startswith(path, concat("", [trim_suffix(top, "/"), "/"]))

volume_writable_enough(volume, _) if not volume.writable

volume_writable_enough(_, listed) if listed.writable == true

# Made by the engine for each container, in its own directories.
volume_of_engine(volume) if {
	some directory in [
		"/var/lib/containers/storage/overlay-containers/",
		"/run/containers/storage/overlay-containers/",
		"/var/lib/docker/containers/",
	]
	startswith(volume.source, directory)
	contains(volume.source, input.container.id)
	volume.destination in {
		"/etc/resolv.conf",
		"/etc/hosts",
		"/etc/hostname",
		"/run/.containerenv",
		"/run/secrets",
		"/dev/shm",
	}
}
