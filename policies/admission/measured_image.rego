# SPDX-License-Identifier: Apache-2.0
# The image is measured.
#
# Denies a container whose image has no measured digest: the measurement list could not say what it was made of, and no
# other rule about its digest could hold. The reason says why there is none.
#
# data: none.

package cima.admission

import rego.v1

deny contains reason if {
	not input.image.digest
	why := object.get(input.image, "error", "nobody says why")
	reason := sprintf("the image could not be measured: %s", [why])
}
