//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain is the tool if a test starts it: the tool then starts the test
// binary.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && verbs[os.Args[1]] != nil {
		main()
		return
	}
	os.Exit(m.Run())
}

// The whole tool, once, with tiny numbers: every scenario yields figures, from
// starting the processes to the -json file and its figure. Their values do not
// matter here, on a machine that is busy with other tests.
func TestEveryScenario(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.json")
	scenarios := slices.Concat(plain, tlsFront, []string{"growth-10"})
	if err := run([]string{
		"-contenders", "wsproxy,reverseproxy", "-scenarios", strings.Join(scenarios, ","), "-json", file, "-gc",
		"-rounds", "1", "-time", "100ms", "-warm", "20ms", "-settle", "20ms",
		"-conns", "4", "-paced-conns", "4", "-rate", "400", "-growth-rate", "400", "-bulk-conns", "1", "-idle", "20",
	}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r results
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if got, want := len(r.Samples), 2*len(scenarios); got != want {
		t.Errorf("samples: got %d, want %d", got, want)
	}
	for _, m := range r.Samples {
		if m.Failed != "" {
			t.Errorf("%s of %s: %s", m.Scenario, m.Contender, m.Failed)
			continue
		}
		if m.Sample.Ops == 0 || m.Sample.CPU <= 0 || m.Sample.Seconds <= 0 || m.Sample.Base == 0 {
			t.Errorf("%s of %s: a measure is missing: %+v", m.Scenario, m.Contender, m.Sample)
		}
		sessions := map[string]int{"idle": 20, "growth": 10}
		kind, _, _ := strings.Cut(m.Scenario, "-")
		if n := sessions[kind]; n != m.Sample.Sessions || n > 0 && m.Sample.Memory == 0 {
			t.Errorf("%s of %s: got %d sessions in %d KiB, want %d", m.Scenario, m.Contender, m.Sample.Sessions, m.Sample.Memory, n)
		}
	}
	for _, table := range r.Summary {
		for _, row := range table.Rows {
			for _, f := range figures(table.Scenario) {
				if _, ok := row.Figures[f.name]; !ok && !strings.HasPrefix(f.name, "gc ") {
					t.Errorf("%s of %s has no %s", table.Scenario, row.Contender, f.name)
				}
			}
			if _, ok := row.Ratios[reference]; !ok {
				t.Errorf("%s of %s has no ratio to %s", table.Scenario, row.Contender, reference)
			}
		}
	}
	var svg bytes.Buffer
	if err := r.draw(&svg); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(svg.String(), `class="title"`); got != len(panels) {
		t.Errorf("figure: got %d panels, want %d", got, len(panels))
	}
}

// A proxy that does not relay yields an error, not a figure.
func TestFailureIsReported(t *testing.T) {
	s := site{dir: t.TempDir(), upstream: freePort()} // where nothing listens
	c := builtIn()[slices.IndexFunc(builtIn(), func(c contender) bool { return c.name == "wsproxy" })]
	_, err := measure(t.Context(), c, s, load{Kind: "echo", Conns: 1, Window: 1, Duration: time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "502") {
		t.Errorf("got %v, want the 502", err)
	}
}

func TestScenarioNames(t *testing.T) {
	got, err := parseScenarios("idle-64k,growth-250,tls")
	if want := []string{"idle-64k", "growth-250", "echo-tls", "idle-tls", "handshake-tls"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"", "idle-", "growth-0", "growth-", "growth-010", "echo-64k", "250"} {
		if got, err := parseScenarios(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
	p, err := parse([]string{"-contenders", "wsproxy", "-scenarios", "growth-250", "-growth-rate", "70"})
	if err != nil {
		t.Fatal(err)
	}
	if l := p.loadOf("growth-250"); l.Conns != 250 || l.Rate != 70 || l.Window != 1 || l.Settle == 0 {
		t.Errorf("growth-250: got %+v", l)
	}
	if l := p.loadOf("idle-64k"); l.Size != 64<<10 || l.Conns != p.idle || l.TLS {
		t.Errorf("idle-64k: got %+v", l)
	}
}

// Ratios are of the same round, so that a machine that slows down for all
// contenders does not change them.
func TestRatiosAreOfARound(t *testing.T) {
	var all []measurement
	for round, slowness := range []time.Duration{1, 10, 3} {
		for name, us := range map[string]time.Duration{"wsproxy": 50, reference: 100} {
			s := sample{Ops: 1, Seconds: 1, CPU: slowness * us * time.Microsecond}
			all = append(all, measurement{Scenario: "echo", Contender: name, Round: round, Sample: s})
		}
	}
	all = append(all, measurement{Scenario: "echo", Contender: "wsproxy", Round: 3, Failed: "broken"})
	rows := summarize([]string{"echo"}, builtIn(), all)[0].Rows
	if rows[0].Contender != "wsproxy" || len(rows) != 2 {
		t.Fatalf("got the rows %+v", rows)
	}
	if got, want := rows[0].Figures["cpu us/msg"], (spread{150, 50, 500}); got != want {
		t.Errorf("figure: got %v, want %v", got, want)
	}
	if got, want := rows[0].Ratios[reference], (spread{0.5, 0.5, 0.5}); got != want {
		t.Errorf("ratio: got %v, want %v", got, want)
	}
	if want := []string{"broken"}; !slices.Equal(rows[0].Failed, want) {
		t.Errorf("failed: got %v, want %v", rows[0].Failed, want)
	}
}

func TestGCPauses(t *testing.T) {
	log := []byte(`gc 1 @0.100s 2%: 9.0+0.44+9.0 ms clock, 18+0.10/0.32/0.14+18 ms cpu, 4->4->0 MB, 4 MB goal, 0 MB stacks, 0 MB globals, 2 P
2026/01/02 03:04:05 INFO wsproxy: session ended client=127.0.0.1:1
gc 2 @1.200s 2%: 0.026+0.44+0.004 ms clock, 0.052+0.10/0.32/0.14+0.006 ms cpu, 4->4->0 MB, 4 MB goal, 0 MB stacks, 0 MB globals, 2 P
gc 3 @1.92026/01/02 03:04:05 INFO wsproxy: session ended client=127.0.0.1:2
00s 12%: 0.10+1.4+0.50 ms clock, 0.20+0.10/0.32/0.14+1.0 ms cpu, 4->4->0 MB, 4 MB goal, 0 MB stacks, 0 MB globals, 2 P (forced)
gc 4 @2.100s 2%: 9.0+0.44+9.0 ms clock, 18+0.10/0.32/0.14+18 ms cpu, 4->4->0 MB, 4 MB goal, 0 MB stacks, 0 MB globals, 2 P
`)
	got := gcPauses(log, 1, 2)
	if got == nil || got.Cycles != 2 || got.Longest != 500 || math.Abs(got.Total-630) > 0.001 {
		t.Errorf("got %+v, want 2 cycles, the longest pause of 500 us, 630 us in all", got)
	}
	if got := gcPauses([]byte("nginx: ready\n"), 0, 9); got != nil {
		t.Errorf("without a trace: got %+v, want nil", got)
	}
}

func TestFigure(t *testing.T) {
	var r results
	if err := json.Unmarshal([]byte(`{"Samples": [{"Round": 0}, {"Round": 4}], "Summary": [
		{"Scenario": "echo", "Rows": [
			{"Contender": "wsproxy", "Ratios": {"reverseproxy": {"Median": 0.87, "Min": 0.8, "Max": 0.9}}},
			{"Contender": "nginx", "Ratios": {"reverseproxy": {"Median": 7.5, "Min": 2.2, "Max": 99}}},
			{"Contender": "koding", "Ratios": {"reverseproxy": {"Median": 1.25}}},
			{"Contender": "reverseproxy", "Figures": {"cpu us/msg": {"Median": 22.84}}, "Ratios": {"reverseproxy": {"Median": 1, "Min": 1, "Max": 1}}}]},
		{"Scenario": "pipe", "Rows": [{"Contender": "haproxy", "Ratios": {"reverseproxy": {"Median": 0.66}}}]},
		{"Scenario": "up", "Rows": [{"Contender": "nginx", "Ratios": {"rawtcp": {"Median": 3.33}}}]},
		{"Scenario": "idle", "Rows": [{"Contender": "wsproxy", "Ratios": {"reverseproxy": {"Median": 0.24}}}]}]}`), &r); err != nil {
		t.Fatal(err)
	}
	var svg bytes.Buffer
	if err := r.draw(&svg); err != nil {
		t.Fatal(err)
	}
	texts, widest := map[string]int{}, 0.0
	d := xml.NewDecoder(bytes.NewReader(svg.Bytes()))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the figure is no XML: %v\n%s", err, svg.Bytes())
		}
		switch token := token.(type) {
		case xml.CharData:
			texts[string(bytes.TrimSpace(token))]++
		case xml.StartElement:
			var bar struct {
				Width float64 `xml:"width,attr"`
				Y     string  `xml:"y,attr"`
			}
			if token.Name.Local == "rect" && d.DecodeElement(&bar, &token) == nil && bar.Y != "" {
				widest = max(widest, bar.Width)
			}
		}
	}
	for text, n := range map[string]int{
		"wsproxy": 2, "nginx": 2, "reverseproxy": 2, "–": 2, // each panel has all, measured or not
		"0.87": 1, "7.50": 1, "0.24": 1, "1.00": 1, "echo; 1 is 22.8 µs": 1,
		"koding": 0, "haproxy": 0, "0.66": 0, "3.33": 0, // not drawn, not there, no panel, no ratio
	} {
		if texts[text] != n {
			t.Errorf("%q is there %d times, want %d; all: %q", text, texts[text], n, slices.Sorted(maps.Keys(texts)))
		}
	}
	if widest != plotWidth {
		t.Errorf("the longest bar is %v wide, want it cut at %v", widest, plotWidth)
	}
	if err := (results{}).draw(io.Discard); err == nil {
		t.Error("no results: got a figure, want an error")
	}
}
