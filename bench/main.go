//go:build linux

// Command bench compares WebSocket proxies side by side: CPU per operation,
// memory per session, throughput and latency. See README.md.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	err := dispatch(os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// verbs are the tool's other modes. All but figure are its own processes, which
// it starts itself.
var verbs = map[string]func(string) error{
	"proxy": runProxy, "upstream": runUpstream, "load": runLoad, "figure": runFigure,
}

func dispatch(args []string) error {
	if len(args) == 2 && verbs[args[0]] != nil {
		return verbs[args[0]](args[1])
	}
	return run(args)
}

// plan is what the flags request. Its load holds what scenarios share.
type plan struct {
	load       // sizes and times
	bulkConns  int
	pacedConns int
	idle       int
	growthRate int
	workers    int
	rounds     int
	gc         bool
	contenders []contender
	scenarios  []string
	json       string
}

var (
	plain    = []string{"echo", "pipe", "paced", "down", "up", "idle", "idle-64k", "handshake"}
	tlsFront = []string{"echo-tls", "idle-tls", "handshake-tls"}
	growth   = []string{"growth-10", "growth-100", "growth-1000", "growth-3000", "growth-9000"}

	// groups are names for several scenarios.
	groups = map[string][]string{"plain": plain, "tls": tlsFront, "growth": growth, "all": slices.Concat(plain, tlsFront, growth)}
)

// parseScenarios resolves groups, and takes growth-N for any N.
func parseScenarios(list string) (scenarios []string, err error) {
	for name := range strings.SplitSeq(list, ",") {
		digits, _ := strings.CutPrefix(name, "growth-")
		n, _ := strconv.Atoi(digits)
		switch {
		case groups[name] != nil:
			scenarios = append(scenarios, groups[name]...)
		case slices.Contains(groups["all"], name), n > 0 && name == fmt.Sprintf("growth-%d", n):
			scenarios = append(scenarios, name)
		default:
			return nil, fmt.Errorf("no such scenario: %s", name)
		}
	}
	return scenarios, nil
}

func parse(args []string) (*plan, error) {
	p := &plan{}
	known := builtIn()
	var extra []contender
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	scenarios := fs.String("scenarios", "plain", "comma-separated: "+strings.Join(groups["all"], ",")+", growth-N for any N; or plain, tls, growth, all")
	names := fs.String("contenders", "", "comma-separated built-in contenders (default all that are installed)")
	fs.Func("ours", "`[NAME=]COMMAND`, a further contender (repeatable): started with LISTEN=host:port and UPSTREAM=http://host:port in its environment, and TLS_CERT and TLS_KEY for the -tls scenarios", func(s string) error {
		name, command, ok := strings.Cut(s, "=")
		if !ok || strings.ContainsAny(name, " /") {
			name, command = "ours", s
		}
		if strings.TrimSpace(command) == "" {
			return errors.New("no command")
		}
		extra = append(extra, ours(name, command))
		return nil
	})
	fs.IntVar(&p.rounds, "rounds", 3, "times that every contender is measured, taking turns")
	fs.DurationVar(&p.Duration, "time", time.Second, "measured time of a load")
	fs.DurationVar(&p.Warm, "warm", 400*time.Millisecond, "unmeasured time before it")
	fs.IntVar(&p.Conns, "conns", 100, "connections of echo and pipe")
	fs.IntVar(&p.Size, "size", 128, "bytes of a small message")
	fs.IntVar(&p.Window, "window", 32, "messages in flight on a connection of pipe")
	fs.IntVar(&p.Rate, "rate", 8000, "messages a second of paced, over all connections")
	fs.IntVar(&p.pacedConns, "paced-conns", 500, "connections of paced")
	fs.IntVar(&p.bulkConns, "bulk-conns", 4, "connections of down and up")
	fs.IntVar(&p.idle, "idle", 5000, "sessions of idle")
	fs.IntVar(&p.growthRate, "growth-rate", 4000, "messages a second of growth, over all connections")
	fs.DurationVar(&p.Settle, "settle", 6*time.Second, "time before the memory of sessions is read")
	fs.IntVar(&p.workers, "workers", 2, "nginx workers and haproxy threads")
	fs.BoolVar(&p.gc, "gc", false, "report garbage collection pauses; writing the trace costs a little")
	fs.StringVar(&p.json, "json", "", "`file` for all samples and the summary")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	var err error
	if p.scenarios, err = parseScenarios(*scenarios); err != nil {
		return nil, err
	}
	var wanted []string
	if *names != "" {
		wanted = strings.Split(*names, ",")
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(known, func(c contender) bool { return c.name == name }) {
			return nil, fmt.Errorf("no such contender: %s", name)
		}
	}
	for _, c := range known {
		if wanted == nil {
			if _, err := exec.LookPath(c.name); err != nil && (c.name == "nginx" || c.name == "haproxy" || c.name == "caddy") {
				fmt.Fprintln(os.Stderr, "left out, not installed:", c.name)
				continue
			}
		} else if !slices.Contains(wanted, c.name) {
			continue
		}
		p.contenders = append(p.contenders, c)
	}
	p.contenders = append(p.contenders, extra...)
	if len(p.contenders) == 0 {
		return nil, errors.New("no contenders")
	}
	return p, nil
}

// loadOf returns the load of a scenario. Its name is the kind of load, and
// for some a variant: tls, 64k, or growth's number of sessions.
func (p *plan) loadOf(scenario string) load {
	l := p.load
	kind, variant, _ := strings.Cut(scenario, "-")
	l.Kind, l.TLS, l.Settle = kind, variant == "tls", 0
	switch kind {
	case "echo":
		l.Window, l.Rate = 1, 0
	case "pipe":
		l.Rate = 0
	case "paced":
		l.Window, l.Conns = 1, p.pacedConns
	case "down", "up":
		l.Window, l.Conns = 2, p.bulkConns
	case "growth":
		l.Window, l.Rate, l.Settle = 1, p.growthRate, p.Settle
		l.Conns, _ = strconv.Atoi(variant)
	case "idle":
		l.Conns, l.Settle = p.idle, p.Settle
		if variant == "64k" {
			l.Size = 64 << 10
		}
	}
	return l
}

// fit reduces a load to what a contender supports, and returns false if nothing
// comparable is left.
func (l *load) fit(c contender) bool {
	if c.start == nil {
		return !l.TLS && l.Settle == 0 // no proxy, no memory; the upstream server has no TLS
	}
	most := openFiles()/6 - 100
	if c.name != "rawtcp" || l.Settle == 0 || l.Conns <= most { // it holds a pipe each way
		return true
	}
	l.Conns = most
	return l.Kind == "idle" // growth has its number in its name
}

// measurement is one sample and its origin.
type measurement struct {
	Scenario, Contender string
	Round               int
	Sample              sample
	Failed              string `json:",omitempty"`
}

// results is written by -json and read by figure.
type results struct {
	Args    []string
	Samples []measurement
	Summary []table
}

func run(args []string) error {
	p, err := parse(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	sessions := 0
	for _, scenario := range p.scenarios {
		sessions = max(sessions, p.loadOf(scenario).Conns)
	}
	raiseFiles(uint64(6*sessions + 4096)) // rawtcp's need; the others take a third of it
	if limit := openFiles(); 2*sessions+256 > limit {
		return fmt.Errorf("%d sessions need more open files than the limit of %d", sessions, limit)
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := site{dir: dir, upstream: freePort(), workers: p.workers, sessions: sessions, gc: p.gc}
	cert, key, both := writeCert(dir)
	up, err := launch(self("upstream", s.upstream), os.Environ(), filepath.Join(dir, "upstream.log"))
	if err != nil {
		return err
	}
	defer up.stop()
	if err := up.listens(ctx, s.upstream); err != nil {
		return err
	}

	var all []measurement
	began, before := time.Now(), loadAverage()
rounds:
	for round := range p.rounds {
		for _, scenario := range p.scenarios {
			for i := range p.contenders {
				// Contenders take turns within a scenario, so that those
				// compared run close together. The first one has the machine at
				// its best or worst, so each round begins with another one.
				c := p.contenders[(i+round)%len(p.contenders)]
				l := p.loadOf(scenario)
				if !l.fit(c) {
					continue
				}
				s := s
				if l.TLS {
					s.cert, s.key, s.both = cert, key, both
				}
				m := measurement{Scenario: scenario, Contender: c.name, Round: round}
				if m.Sample, err = measure(ctx, c, s, l); err != nil {
					m.Failed = err.Error()
				}
				if ctx.Err() != nil {
					break rounds // report what there is
				}
				fmt.Fprintf(os.Stderr, "%4.0fs round %d/%d %s\n", time.Since(began).Seconds(), round+1, p.rounds, m.line())
				all = append(all, m)
			}
		}
	}
	fmt.Printf("%d rounds of %v; load average %s at first, %s at last\n", p.rounds, p.Duration, before, loadAverage())
	tables := summarize(p.scenarios, p.contenders, all)
	for _, t := range tables {
		t.print(os.Stdout)
	}
	if p.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(results{args, all, tables}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(p.json, text, 0o644)
}

// measure starts a contender, puts a load on it, and ends it. Every
// measurement has a fresh process: what an earlier load left in a heap would
// count as the next one's.
func measure(ctx context.Context, c contender, s site, l load) (out sample, err error) {
	l.Addr = s.upstream
	log := filepath.Join(s.dir, c.name+".log")
	launched := time.Now()
	if c.start != nil {
		s.listen = freePort()
		l.Addr = s.listen
		proxy, err := launch(c.start(s), s.env(), log)
		if err != nil {
			return out, err
		}
		defer proxy.stop()
		if err := proxy.listens(ctx, s.listen); err != nil {
			text, _ := os.ReadFile(log)
			return out, fmt.Errorf("%w: %s", err, lastLine(text))
		}
		time.Sleep(l.Warm / 2) // some listen before they have started wholly
		l.Pid = proxy.pid
	}
	arg, err := json.Marshal(l)
	if err != nil {
		return out, err
	}
	// A proxy that hangs fails; one on a slow machine has a minute to open all
	// sessions.
	ctx, cancel := context.WithTimeout(ctx, l.Warm+l.Duration+l.Settle+60*time.Second)
	defer cancel()
	cmd := self("load", string(arg))
	cmd = exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		return out, fmt.Errorf("%w: %s", err, lastLine(stderr.Bytes()))
	}
	if err := json.Unmarshal(stdout.Bytes(), &out); err != nil || !s.gc || c.start == nil {
		return out, err
	}
	text, err := os.ReadFile(log)
	from := out.At.Sub(launched).Seconds()
	out.GC = gcPauses(text, from, from+out.Seconds)
	return out, err
}

func lastLine(text []byte) string {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(lines[len(lines)-1])
}

// loadAverage indicates how busy the machine is with other work.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
