//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// figure is one number of a sample, NaN if it has none. The first figure of a
// scenario is its main one: the cost of the proxy itself.
type figure struct {
	name string
	of   func(sample) float64
	load bool // measured without a proxy too
}

func perOp(s sample) float64      { return float64(s.CPU.Nanoseconds()) / 1e3 / float64(s.Ops) }
func perGB(s sample) float64      { return s.CPU.Seconds() / max(float64(s.Bytes)/1e9, 1e-9) }
func perSession(s sample) float64 { return float64(s.Memory-s.Base) / float64(s.Sessions) }
func rate(s sample) float64       { return float64(s.Ops) / s.Seconds }
func p50(s sample) float64        { return float64(s.P50.Nanoseconds()) / 1e3 }
func p99(s sample) float64        { return float64(s.P99.Nanoseconds()) / 1e3 }
func cpuShare(s sample) float64   { return s.CPU.Seconds() / s.Seconds }

// figures returns a scenario's figures. Those of the collector are included
// only with -gc.
func figures(scenario string) (list []figure) {
	kind, _, _ := strings.Cut(scenario, "-")
	switch kind {
	case "pipe":
		list = []figure{{"cpu us/msg", perOp, false}, {"msg/s", rate, true}, {"cpu cores", cpuShare, false}}
	case "down", "up":
		list = []figure{
			{"cpu s/GB", perGB, false},
			{"GB/s", func(s sample) float64 { return float64(s.Bytes) / 1e9 / s.Seconds }, true},
			{"cpu cores", cpuShare, false},
		}
	case "idle":
		list = []figure{
			{"KiB/session", perSession, false},
			{"base MiB", func(s sample) float64 { return float64(s.Base) / 1024 }, false},
			{"total MiB", func(s sample) float64 { return float64(s.Total) / 1024 }, false},
			{"open cpu us", perOp, false},
		}
	case "handshake":
		list = []figure{{"cpu us/session", perOp, false}, {"sessions/s", rate, true}}
	case "growth":
		list = []figure{{"cpu us/msg", perOp, false}, {"KiB/session", perSession, false}, {"msg/s", rate, true}}
	default:
		list = []figure{{"cpu us/msg", perOp, false}, {"msg/s", rate, true}}
	}
	switch kind {
	case "echo", "paced", "growth", "handshake": // where latency is that of one operation alone
		list = append(list, figure{"p50 us", p50, true}, figure{"p99 us", p99, true})
	}
	collector := func(of func(*pauses) float64) func(sample) float64 {
		return func(s sample) float64 {
			if s.GC == nil {
				return math.NaN()
			}
			return of(s.GC)
		}
	}
	return append(list,
		figure{"gc cycles", collector(func(p *pauses) float64 { return float64(p.Cycles) }), false},
		figure{"gc longest us", collector(func(p *pauses) float64 { return p.Longest }), false},
		figure{"gc total us", collector(func(p *pauses) float64 { return p.Total }), false})
}

func (m measurement) line() string {
	head := fmt.Sprintf("%-13s %-16s", m.Scenario, m.Contender)
	if m.Failed != "" {
		return head + " FAILED: " + m.Failed
	}
	for _, f := range figures(m.Scenario) {
		if x := f.of(m.Sample); !math.IsNaN(x) {
			head += fmt.Sprintf("  %s %s", f.name, number(x))
		}
	}
	return head
}

// spread is a figure over the rounds.
type spread struct{ Median, Min, Max float64 }

func spreadOf(v []float64) spread {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return spread{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

func (s spread) String() string {
	return fmt.Sprintf("%s (%s-%s)", number(s.Median), number(s.Min), number(s.Max))
}

func number(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// references are the contenders by which the others' main figures are divided.
var references = []string{"reverseproxy", "nginx", "rawtcp"}

type table struct {
	Scenario string
	Rows     []row
}

type row struct {
	Contender string
	Figures   map[string]spread
	Ratios    map[string]spread // of the main figure, round by round
	Failed    []string          `json:",omitempty"`
}

func summarize(scenarios []string, contenders []contender, all []measurement) (tables []table) {
	for _, scenario := range scenarios {
		main := figures(scenario)[0]
		by := map[string]map[int]sample{} // by contender and round
		failed := map[string][]string{}
		for _, m := range all {
			if m.Scenario != scenario {
				continue
			}
			if m.Failed != "" {
				failed[m.Contender] = append(failed[m.Contender], m.Failed)
				continue
			}
			if by[m.Contender] == nil {
				by[m.Contender] = map[int]sample{}
			}
			by[m.Contender][m.Round] = m.Sample
		}
		t := table{Scenario: scenario}
		for _, c := range contenders {
			r := row{Contender: c.name, Figures: map[string]spread{}, Ratios: map[string]spread{}, Failed: failed[c.name]}
			if by[c.name] == nil && r.Failed == nil {
				continue
			}
			for _, f := range figures(scenario) {
				var v []float64
				for _, s := range by[c.name] {
					if x := f.of(s); !math.IsNaN(x) {
						v = append(v, x)
					}
				}
				if len(v) > 0 && (c.start != nil || f.load) {
					r.Figures[f.name] = spreadOf(v)
				}
			}
			for _, ref := range references {
				var v []float64
				for round, s := range by[c.name] {
					if base, ok := by[ref][round]; ok && main.of(base) > 0 {
						v = append(v, main.of(s)/main.of(base))
					}
				}
				if len(v) > 0 && c.start != nil {
					r.Ratios[ref] = spreadOf(v)
				}
			}
			t.Rows = append(t.Rows, r)
		}
		tables = append(tables, t)
	}
	return tables
}

// print writes a table, without columns that are empty for all.
func (t table) print(w io.Writer) {
	var columns []string
	for _, f := range figures(t.Scenario) {
		if slices.ContainsFunc(t.Rows, func(r row) bool { _, ok := r.Figures[f.name]; return ok }) {
			columns = append(columns, f.name)
		}
	}
	fmt.Fprintf(w, "\n%s: median (min-max); ratios are of %s, round by round\n", t.Scenario, figures(t.Scenario)[0].name)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "contender\t"+strings.Join(append(columns, "x "+strings.Join(references, "\tx ")), "\t"))
	for _, r := range t.Rows {
		fmt.Fprint(tw, r.Contender)
		for _, name := range columns {
			cell := "-"
			if s, ok := r.Figures[name]; ok {
				cell = s.String()
			}
			fmt.Fprint(tw, "\t", cell)
		}
		for _, ref := range references {
			cell := "-"
			if s, ok := r.Ratios[ref]; ok {
				cell = number(s.Median)
			}
			fmt.Fprint(tw, "\t", cell)
		}
		if len(r.Failed) > 0 {
			fmt.Fprintf(tw, "\t%d FAILED: %s", len(r.Failed), r.Failed[0])
		}
		fmt.Fprintln(tw)
	}
	_ = tw.Flush()
}
