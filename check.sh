#!/usr/bin/env bash
# The project's habits, in one place: CI runs this, and so should you.
#
#   ./check.sh          all of it
#   ./check.sh quick    what takes seconds: format, vet, module files, tests
#   ./check.sh night    what takes too long for CI: a long soak, whole floods and
#                       hosts without the race detector, Caddy with it, all of the zoo
#   FUZZTIME=2m ./check.sh
set -euo pipefail
cd "$(dirname "$0")"
export GOTOOLCHAIN=local

modules=(. internal/interop internal/browser internal/faults internal/hosts internal/zoo metrics/prometheus metrics/otel
	cmd/wsproxy cmd/wsproxy/kubernetes caddy bench)
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.9.0

# step NAME…: starts a step and records how long the previous one took.
steps= now= began=0
step() {
	[ -z "$now" ] || steps+="$((SECONDS - began)) s  $now"$'\n'
	now=$* began=$SECONDS
	printf '\n== %s\n' "$now"
}
# must_be_empty WHAT COMMAND…: fails with what the command prints, apart from
# stderr, where go reports its downloads.
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
for os in darwin windows freebsd; do GOOS=$os go vet . ./internal/...; done

step arrows: packages import only what is below them
go test -run '^TestArrows' .

step quickstart and tests
go run ./examples/quickstart
if [ "${1:-}" = quick ]; then
	go test ./...
	exit
fi
results=$(mktemp -d) # NAME.json: what go test -json printed
# Data races are reported to found.PID, also by processes that tests start and kill.
export GORACE=log_path=$results/found
# failures FILE…: the output of failed tests and packages, from go test -json.
failures() {
	local of
	of=$(grep -h '"Action":"fail"' "$@" | grep -o '"Test":"[^"]*"' | sort -u) || of=none
	{
		grep -h '"Action":"output"' "$@" | grep -F "$of" || true
		grep -h 'output"' "$@" | grep -v '"Test":' || true
	} | sed -E 's/.*"Output":"//; s/(\\n)?"\}$//; s/\\t/\t/g; s/\\u003c/</g; s/\\u003e/>/g; s/\\"/"/g' | tail -300
}
# races: prints the reports of data races. It fails if there are any.
races() { ! cat "$results"/found.* 2>/dev/null; }
# tests NAME ARGUMENT…: runs go test; NAME names its result files.
tests() {
	go test -json "${@:2}" >"$results/$1.json" || { failures "$results/$1.json"; races; return 1; }
	races || return 1
	sed -nE '/"Test":/d; /"Output":"ok/ { s/.*"Output":"//; s/\\n"\}$//; s/\\t/\t/g; p }' "$results/$1.json"
}
# longest: the steps and the tests that took longest.
longest() {
	step "what took longest of $SECONDS s"
	sort -rn <<<"$steps"
	for f in "$results"/*.json; do
		sed -nE 's/.*"Action":"(pass|fail)".*"Test":"([^"/]*)","Elapsed":([0-9.]+).*/\3 s  '"$(basename "$f" .json)"': \2/p' "$f"
	done | sort -rn | sed -n 1,15p
}

# What the tests further down need is installed meanwhile.
for s in internal/{interop,browser,faults,faults/attacks,hosts,zoo} metrics/prometheus; do "$s/setup.sh" || exit; done >"$results/setup.log" 2>&1 &
setup=$!
trap 'kill $setup 2>/dev/null || true; longest; rm -rf "$results"' EXIT

if [ "${1:-}" = night ]; then
	step installing
	wait $setup || { cat "$results/setup.log"; exit 1; }
	setup=
	step "night: a long soak and Caddy with the race detector"
	# With it, Caddy's own packages take two minutes to compile.
	(cd caddy && tests caddy -race -count=1 ./...)
	(cd internal/faults && SOAK=${SOAK:-30m} tests soak -race -count=1 -timeout 90m ./soak)
	step night: floods and hosts without the race detector
	(cd internal/faults && tests floods -count=1 -timeout 20m ./floods)
	(cd internal/hosts && tests hosts -count=1 ./...)
	step night: the zoo with the race detector
	(cd internal/zoo && ./zoo.sh night)
	exit
fi

tests root ./...

# In all other steps, the event loop carries what it can have.
step tests without the event loop: goroutines drive all sessions
tests noloop -tags noloop . ./internal/relay

# Two Go releases are supported: the other one than the one that is installed.
other=go1.27.0
case $(go env GOVERSION) in go1.27*) other=go1.26.8 ;; esac
step "vet, quickstart and tests with $other"
if out=$(GOTOOLCHAIN=$other go version 2>&1); then
	(
		export GOTOOLCHAIN=$other
		go vet ./...
		go run ./examples/quickstart
		tests other ./...
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

step more than a thousand upstreams that die under sessions
tests deaths -run '^TestResumeUnderFaults$' -count=3 .

step race detector, shuffled
tests race -race -shuffle=on -count="${COUNT:-1}" ./...

step bench
(cd bench && tests bench -count=1 ./...)
go vet -tags wsproxy_simulated ./internal/relay
(cd bench && go vet -tags wsproxy_simulated ./million && tests million -race -tags wsproxy_simulated -count=1 ./million)

step metrics and the program
(cd metrics/otel && tests otel -race -count=1 ./...)
(cd cmd/wsproxy && tests program -race -count=1 ./...)
(cd cmd/wsproxy/kubernetes && tests kubernetes -count=1 ./...)

step caddy
(cd caddy && tests caddy -count=1 ./...)

step installing, which began with the tests
wait $setup || { cat "$results/setup.log"; exit 1; }
setup=

step real peers, browsers, hosts and Prometheus
(cd internal/interop && tests interop -race -count=1 ./...)
(cd internal/browser && tests browser -race -count=1 ./...)
(cd internal/hosts && tests hosts -race -count=1 ./...)
(cd metrics/prometheus && tests prometheus -race -count=1 ./...)

step the zoo, a third of it
(cd internal/zoo && ./zoo.sh)

step faults, attacks, floods and a soak, and the table of them
(
	cd internal/faults
	# Side by side, for they mostly wait. TestLost waits for 40 sessions' lingers
	# of 5 s, one after the other, for it counts what the process has: it gets a
	# process of its own.
	SOAK=${SOAK:-3m} tests soak -race -count=1 -timeout 20m ./soak &
	soak=$!
	{
		tests lost -race -count=1 -timeout 20m -run '^TestLost$' . || exit
		tests attacks -race -p 1 -count=1 -timeout 20m ./attacks ./table
	} &
	lost=$!
	tests faults -race -p 1 -count=1 -timeout 20m -skip '^TestLost$' . ./peer || failed=faults
	wait $lost || failed+=' lost, attacks'
	wait $soak || failed+=' soak'
	# Floods take all the memory that the kernel has for TCP: other tests beside
	# them would see its sockets stall. With the race detector, they don't check
	# resident memory: the worst of them do that without it.
	tests resident -count=1 -run '^TestStuckBothWays$' ./floods || failed+=' resident'
	tests floods -race -p 1 -count=1 -timeout 20m ./floods ./fuzz || failed+=' floods'
	[ -z "${failed:-}" ] || { echo "failed: $failed"; exit 1; }
	go run ./table -check "$results"/{root,soak,lost,attacks,faults,floods}.json
)

step fuzzing
for dir in . internal/frame internal/protocol internal/faults/fuzz; do
	for f in $(grep -ho '^func Fuzz[A-Za-z]*' "$dir"/*_test.go | sed 's/func //' | sort); do
		# Minimizing inputs of concurrent targets would take all of the time.
		(cd "$dir" && go test -run '^$' -fuzz "^$f\$" -fuzztime "${FUZZTIME:-15s}" -fuzzminimizetime 10x .)
	done
done
