# SPDX-License-Identifier: Apache-2.0
# No privileges over the host.
#
# Denies a privileged container (--privileged), one of root's with every device, one without a seccomp filter, and one that
# could have a capability that is not listed.
#
# data.cima.capabilities: a list of capabilities that containers may have. If absent: those that Docker and Podman give.
#
#   {"cima": {"capabilities": ["CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN"]}}

package cima.admission

import rego.v1

deny contains "the container is privileged" if input.privileges.privileged

deny contains "the container may use every device of the host" if {
	input.privileges.all_devices

	# A user's own has no device cgroup, and opens what its user may.
	not input.container.rootless
}

deny contains "the container has no seccomp filter" if input.privileges.seccomp.mode != "filter"

deny contains reason if {
	some set in ["bounding", "effective", "permitted", "inheritable", "ambient"]
	some capability in input.privileges.capabilities[set]
	not capability in capabilities_allowed
	reason := sprintf("the container could have the capability %s", [capability])
}

capabilities_allowed := data.cima.capabilities

capabilities_allowed := [
	"CAP_AUDIT_WRITE",
	"CAP_CHOWN",
	"CAP_DAC_OVERRIDE",
	"CAP_FOWNER",
	"CAP_FSETID",
	"CAP_KILL",
	"CAP_MKNOD",
	"CAP_NET_BIND_SERVICE",
	"CAP_NET_RAW",
	"CAP_SETFCAP",
	"CAP_SETGID",
	"CAP_SETPCAP",
	"CAP_SETUID",
	"CAP_SYS_CHROOT",
] if {
	not data.cima.capabilities
}
