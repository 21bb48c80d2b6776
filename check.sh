#!/usr/bin/env bash
# The project's habits, in one place: CI runs this, and so should you.
#
#   ./check.sh          all of it
#   ./check.sh quick    what takes seconds: format, vet, module files, tests
#   FUZZTIME=2m ./check.sh
set -euo pipefail
cd "$(dirname "$0")"
export GOTOOLCHAIN=local

modules=(. internal/interop internal/browser metrics/prometheus metrics/otel bench)
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2

step() { printf '\n== %s\n' "$*"; }
# must_be_empty WHAT COMMAND…: fails with what the command prints, apart from
# stderr, where go tells of its downloads.
must_be_empty() {
	local what=$1 out
	shift
	out=$("$@") || { printf '%s: %s failed:\n%s\n' "$what" "$*" "$out"; exit 1; }
	[ -z "$out" ] || { printf '%s:\n%s\n' "$what" "$out"; exit 1; }
}

step format, vet, fix, tidy
must_be_empty 'gofmt would change' gofmt -l .
for m in "${modules[@]}"; do
	(
		cd "$m"
		go vet ./...
		must_be_empty 'go fix would change' go fix -diff ./...
		must_be_empty 'go mod tidy would change' go mod tidy -diff
	)
done
for os in darwin windows freebsd; do GOOS=$os go vet .; done

step the two commands of the README
go run ./examples/quickstart
go test ./...
[ "${1:-}" != quick ] || exit 0

step staticcheck
for m in "${modules[@]}"; do (cd "$m" && go run "$staticcheck" ./...); done

step race detector, shuffled
go test -race -shuffle=on -count="${COUNT:-1}" ./...

step bench
(cd bench && go test -count=1 ./...)

step real peers
(cd internal/interop && ./setup.sh && go test -race -count=1 ./...)

step a real browser
(cd internal/browser && ./setup.sh && go test -race -count=1 ./...)

step metrics
(cd metrics/prometheus && ./setup.sh && go test -race -count=1 ./...)
(cd metrics/otel && go test -race -count=1 ./...)

step fuzzing
for f in $(grep -ho '^func Fuzz[A-Za-z]*' ./*_test.go | sed 's/func //' | sort); do
	go test -run '^$' -fuzz "^$f\$" -fuzztime "${FUZZTIME:-10s}" .
done
