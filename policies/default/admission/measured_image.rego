# SPDX-License-Identifier: Apache-2.0
# cima's admission policy as it is shipped: the image is measured.
#
# All that is asked of a container is what cima is installed for, that the measurement list can say what it was made of. With
# podman, CRI-O, Docker or containerd on overlay or plain directories every image is measured, and nothing is denied. Where a
# store is of another kind, containers are denied with a reason that says so: remove this file to let them start, put one
# that denies something else in its place (a policy denies something, or it is refused), or tell cimad to have no policy.
#
# Stricter rules to add are in policies/admission/, each for itself; docs/ADMISSION.md says how to write some. Containers
# that no hook announces never come here: the measurement policy says what becomes of them.
#
# data: none.

package cima.admission

import rego.v1

deny contains reason if {
	not input.image.digest
	why := object.get(input.image, "error", "nobody says why")
	reason := sprintf("the image could not be measured: %s", [why])
}
