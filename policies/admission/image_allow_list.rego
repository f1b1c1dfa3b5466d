# SPDX-License-Identifier: Apache-2.0
# Only listed images.
#
# Denies a container whose image's measured digest is not in the list. The name of an image does not count: a tag can be
# moved, and the store that has it is not trusted.
#
# data.cima.images: an object, from each digest (`cima digest SOURCE`) to what people call the image, or to false for one
# that is not allowed any more. Without it every image is denied.
#
#   {"cima": {"images": {"sha256:8c2f…": "web 1.4"}}}

package cima.admission

import rego.v1

deny contains reason if {
	digest := input.image.digest
	not data.cima.images[digest]
	reason := sprintf("the image %s (%s) is not in the list of allowed images", [
		digest,
		object.get(input.image, "reference", "without a name"),
	])
}

deny contains "an image that could not be measured is in no list of allowed images" if {
	not input.image.digest
}
