# SPDX-License-Identifier: Apache-2.0
# Nothing is executed from a volume.
#
# Denies a container with a volume that is not mounted `noexec`, and one with another file system that can be both written
# and executed (a tmpfs): what is in them is no part of the image that was measured. Files that are mapped are measured
# all the same. An interpreter reads scripts from `noexec` mounts, too.
#
# data.cima.executable: a list of paths in the container of mounts that may be executed from. It may be absent.
# The engines' own single files (resolv.conf, hosts, hostname, .containerenv) are mounted without `noexec`, and may.
#
#   {"cima": {"executable": ["/opt/plugins"]}}

package cima.admission

import rego.v1

deny contains reason if {
	some volume in input.volumes
	volume.executable
	not executable_allowed(volume.destination)
	not executable_stub(volume)
	reason := sprintf("files can be executed from the volume %s at %s: mount it noexec", [
		volume.source,
		volume.destination,
	])
}

deny contains reason if {
	some mount in input.mounts
	mount.type == "tmpfs"
	mount.executable
	mount.writable
	# A runtime makes /dev so, and fills it before the container starts.
	mount.destination != "/dev"
	not executable_allowed(mount.destination)
	reason := sprintf("files can be written to the tmpfs at %s and executed: mount it noexec", [mount.destination])
}

executable_allowed(destination) if {
	some allowed in data.cima.executable
	allowed == destination
}

executable_stub(volume) if {
	volume.source_kind == "file"
	volume.destination in {"/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/run/.containerenv"}
	contains(volume.source, input.container.id)
}
