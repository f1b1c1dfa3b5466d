# SPDX-License-Identifier: Apache-2.0
# No namespaces of the host.
#
# Denies a container that shares the host's processes, network, IPC, mounts or control groups. Users and clocks are the host's in
# most containers, and not looked at; nor is the host's name.
#
# data.cima.host_namespaces: a list of types that may be the host's. It may be absent.
#
#   {"cima": {"host_namespaces": ["network"]}}

package cima.admission

import rego.v1

deny contains reason if {
	some type in ["pid", "network", "ipc", "cgroup", "mount"]
	input.privileges.namespaces[type] == "host"
	not host_namespace_allowed(type)
	reason := sprintf("the container is in the host's %s namespace", [type])
}

host_namespace_allowed(type) if {
	some allowed in data.cima.host_namespaces
	allowed == type
}
