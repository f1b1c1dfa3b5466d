# SPDX-License-Identifier: Apache-2.0
# Nothing was written over the image.
#
# Denies a container over whose image something was written before it started, but for the stubs of engines: a container
# that ran before and wrote something does not start again, since what it would run is no more what was measured. Denies
# one for which that could not be looked at, too.
#
# data: none.

package cima.admission

import rego.v1

deny contains reason if {
	some finding in input.upper.findings
	reason := sprintf("%s was written over the image: %s", [finding.path, finding.why])
}

deny contains reason if {
	input.upper.dirty
	count(input.upper.findings) == 0
	reason := "something was written over the image"
}

deny contains reason if {
	input.upper.more > 0
	reason := sprintf("%d more files were written over the image", [input.upper.more])
}

deny contains "nobody could look for what was written over the image" if not input.upper.audited
