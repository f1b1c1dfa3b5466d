#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes reference.json by cima itself: `make.sh CIMA`, the path of the command.
# ledger.ascii is four lines of `cima log` of a guest's list (`cargo xtask vm run engines --kernel 6.12`): an image, two of
# its executables, a violation.
set -eu
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/bin/sub"
cd "$tree/bin"
printf '#!/bin/sub/x\n' > s
for name in 'a b' "$(printf '\\\377%%')" sub.x sub/x; do printf '%s' "$name" > "$name"; done
chmod 755 s 'a b' "$(printf '\\\377%%')" sub.x sub/x
cd "$OLDPWD"
"$1" reference "dir:$tree" -o "$(dirname "$0")/reference.json"
