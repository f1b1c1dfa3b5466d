# SPDX-License-Identifier: Apache-2.0
# The command is pinned, image by image.
#
# Denies a container that runs another command than those that are listed for its image, all arguments included. An
# image that is not listed may not run at all.
#
# data.cima.commands: an object, from each digest of an image (`cima digest SOURCE`) to a list of commands, each a list of
# its arguments, or to "any" for an image that may run every command.
#
#   {"cima": {"commands": {"sha256:8c2f…": [["/usr/bin/web", "--listen", "0.0.0.0:8080"]], "sha256:77ab…": "any"}}}

package cima.admission

import rego.v1

deny contains reason if {
	not command_listed
	reason := sprintf("the command %s is not listed for the image %s", [
		json.marshal(input.process.args),
		object.get(input.image, "digest", "that could not be measured"),
	])
}

command_listed if data.cima.commands[input.image.digest] == "any"

command_listed if {
	commands := data.cima.commands[input.image.digest]
	is_array(commands)
	some command in commands
	command == input.process.args
}
