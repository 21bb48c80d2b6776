#!/usr/bin/env bash
# The project's habits, in one place: CI runs this, and so should you.
#
#   ./check.sh          all of it
#   ./check.sh quick    what takes seconds: format, vet, module files, tests
#   FUZZTIME=2m ./check.sh
set -euo pipefail
cd "$(dirname "$0")"
export GOTOOLCHAIN=local

modules=(. internal/interop internal/browser internal/faults internal/hosts metrics/prometheus metrics/otel
	examples/gateway examples/gateway/kubernetes bench)
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.9.0

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
for os in darwin windows freebsd; do GOOS=$os go vet . ./internal/frame ./internal/protocol; done

step arrows: packages import only what is below them
go test -run '^TestArrows' .

step quickstart and tests
go run ./examples/quickstart
if [ "${1:-}" = quick ]; then
	go test ./...
	exit
fi
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
# failures FILE…: what failed tests, and the packages, printed to go test -json.
failures() {
	local of
	of=$(grep -h '"Action":"fail"' "$@" | grep -o '"Test":"[^"]*"' | sort -u) || of=none
	{
		grep -h '"Action":"output"' "$@" | grep -F "$of" || true
		grep -h 'output"' "$@" | grep -v '"Test":' || true
	} | sed -E 's/.*"Output":"//; s/(\\n)?"\}$//; s/\\t/\t/g; s/\\u003c/</g; s/\\u003e/>/g; s/\\"/"/g' | tail -300
}
go test -json ./... >"$results/root.json" || { failures "$results/root.json"; exit 1; }
grep -o '"Output":"ok[^"]*' "$results/root.json" | cut -d'"' -f4

# Two Go releases are supported: the other one than the one that is installed.
other=go1.27.0
case $(go env GOVERSION) in go1.27*) other=go1.26.8 ;; esac
step "vet, quickstart and tests with $other"
if out=$(GOTOOLCHAIN=$other go version 2>&1); then
	(
		export GOTOOLCHAIN=$other
		go vet ./...
		go run ./examples/quickstart
		go test -json ./... >"$results/other.json" || { failures "$results/other.json"; exit 1; }
		grep -o '"Output":"ok[^"]*' "$results/other.json" | cut -d'"' -f4
	)
else
	echo "$out"
	[ "${CI:-}" != true ] || { echo "$other can't be fetched"; exit 1; }
	echo "skipped, for $other can't be fetched"
fi

step staticcheck
for m in "${modules[@]}"; do (cd "$m" && go run "$staticcheck" ./...); done

step known vulnerabilities
out=$(go run "$govulncheck" ./... 2>&1) && echo "$out" || {
	# Its database is on the network, which isn't everywhere.
	grep -q 'vuln.go.dev' <<<"$out" || { echo "$out"; exit 1; }
	echo "skipped, for the database can't be reached"
}

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

step gateway
(cd examples/gateway && go test -race -count=1 ./...)
(cd examples/gateway/kubernetes && go test -count=1 ./...)

step hosts
(cd internal/hosts && ./setup.sh && go test -count=1 ./...)

step faults, attacks, floods and a soak, and the table of them
(
	cd internal/faults
	./setup.sh
	./attacks/setup.sh
	# The soak takes half a core, beside tests that mostly wait.
	SOAK=${SOAK:-3m} go test -count=1 -timeout 20m -json ./soak >"$results/soak.json" &
	go test -p 1 -count=1 -timeout 20m -json . ./attacks ./peer ./table >"$results/faults.json" || failed=faults
	wait $! || failed+=' soak'
	go test -p 1 -count=1 -timeout 20m -json ./floods ./fuzz >"$results/floods.json" || failed+=' floods'
	[ -z "${failed:-}" ] || { failures "$results"/*.json; echo "failed: $failed"; exit 1; }
	go run ./table -check "$results"/*.json
)

step fuzzing
for dir in . internal/frame internal/protocol internal/faults/fuzz; do
	for f in $(grep -ho '^func Fuzz[A-Za-z]*' "$dir"/*_test.go | sed 's/func //' | sort); do
		(cd "$dir" && go test -run '^$' -fuzz "^$f\$" -fuzztime "${FUZZTIME:-1m}" .)
	done
done
