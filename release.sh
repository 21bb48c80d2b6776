#!/usr/bin/env bash
# Makes the commits and tags of a release. It pushes nothing; it says what to push.
#
#   ./release.sh v0.2.0            the libraries, on the current branch
#   ./release.sh v0.2.0 program    cmd/wsproxy, once the libraries are pushed
#
# All modules have the same version. Within this repository they find each other
# by replace lines, whatever version they require. Users of the libraries don't
# see these lines, so the required versions must be right. go install refuses a
# program that has such lines at all: the commit that is tagged for cmd/wsproxy
# is a commit beside the branch, which drops them.
set -euo pipefail
cd "$(dirname "$0")"
export GOTOOLCHAIN=local GOWORK=off

root=github.com/seed-ffb73231/wsproxy
libraries=(metrics/prometheus metrics/otel caddy) # besides the root
version=${1:-} what=${2:-libraries}
[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$ ]] || { sed -n '2,5p' "$0"; exit 2; }
# quietly runs a command, and prints something only if it fails.
quietly() { "$@" >/dev/null || { echo "failed: $*"; exit 1; }; }

case $what in
libraries)
	[ -z "$(git status --porcelain)" ] || { echo 'commit or stash first'; exit 1; }
	git ls-files '*go.mod' | while read -r mod; do
		sed -i -E "s#^((require)?[[:space:]]+$root(/[^ ]*)?) v[^ ]+#\1 $version#" "$mod"
	done
	git ls-files '*.md' | xargs sed -i '/^(*Until there is a release/d'
	sed -i "s/^## \[Unreleased\]$/&\n\n## [${version#v}] - $(date -u +%F)/" CHANGELOG.md
	git ls-files '*go.mod' | while read -r mod; do (cd "$(dirname "$mod")" && quietly go list -m all); done
	quietly git commit -qam "release $version"
	tags=("$version")
	for m in "${libraries[@]}"; do tags+=("$m/$version"); done
	for tag in "${tags[@]}"; do git tag -a -m "$tag" "$tag"; done
	echo "git push --atomic origin HEAD ${tags[*]}"
	echo "./release.sh $version program"
	;;
program)
	dir=$(mktemp -d)
	trap 'git worktree remove --force "$dir"' EXIT
	quietly git worktree add -q --detach "$dir" "$version"
	cd "$dir/cmd/wsproxy"
	sed -i '/^\/\/ A release drops these/d' go.mod
	go mod edit -dropreplace="$root" -dropreplace="$root/metrics/prometheus"
	go mod tidy # which fetches what was pushed, for its checksums
	go vet .
	quietly git commit -qam "cmd/wsproxy: $version, without replace lines"
	git tag -a -m "cmd/wsproxy/$version" "cmd/wsproxy/$version"
	echo "git push origin cmd/wsproxy/$version"
	;;
*)
	sed -n '2,5p' "$0"
	exit 2
	;;
esac
