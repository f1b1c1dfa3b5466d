#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs in the guest, once, when a root was made: the real podman takes the
# images that recipe/customize.sh packed into its store on the root disk.
set -eu
images=/var/lib/cima-images

podman import --quiet --change 'CMD ["/bin/sh"]' "$images/tiny.tar" localhost/tiny:1
podman import --quiet --change 'CMD ["/bin/bash"]' "$images/debian.tar" localhost/debian:1
rm -r "$images"

# The first container of a store makes files that later ones find: make them now.
for image in localhost/tiny:1 localhost/debian:1; do
	podman run --rm "$image" true
done
podman images
