#!/usr/bin/env bash
# Runs the zoo. Install it first: ./setup.sh
#
#   ./zoo.sh                 what CI runs: a third of the animals, by the day, without
#                            the race detector, which takes long to compile
#   ./zoo.sh all             all of them
#   ./zoo.sh night           all of them, with silences of 75 s
#   ./zoo.sh NAME…           these
#   ./zoo.sh -update         all of them, and writes the tables of docs/compatibility.md
#   ./zoo.sh -update NAME…   these, and writes their rows
set -euo pipefail
cd "$(dirname "$0")"

update=()
if [ "${1:-}" = -update ]; then
	update=(-update)
	shift
	[ $# -gt 0 ] || set -- all
fi
zoo() { go test -count=1 -timeout 20m "$@" "${update[@]}"; }
[ $# -eq 0 ] || export GOFLAGS="${GOFLAGS:-} -race"
case ${1:-} in
'') zoo . -part=$(($(date +%s) / 86400 % 3)) ;;
all) zoo . ;;
night) zoo -timeout 60m -parallel 6 . -awake ;; # side by side: they mostly wait
*) zoo -v -run "^Test(Servers|Clients)\$/^($(IFS='|'; echo "$*" | tr ' /' _-))\$" . ;;
esac
