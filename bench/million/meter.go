//go:build linux && (amd64 || arm64) && wsproxy_simulated

package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"syscall"
	"time"
)

// cpu returns the CPU time of the process.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// memory returns the live heap after a collection, and what is resident without
// files, in bytes.
func memory() (heap, resident uint64) {
	runtime.GC()
	runtime.GC() // what has a finalizer, or is in a pool, takes two
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		var kib uint64
		if n, _ := fmt.Sscanf(line, "RssAnon: %d kB", &kib); n == 1 {
			resident = kib << 10
		}
	}
	return m.HeapAlloc, resident
}

// A collection is what the garbage collector has done.
type collection struct {
	Cycles  uint64
	Longest time.Duration // of a single stop; the upper bound of its bucket
	CPU     time.Duration
	before  *metrics.Float64Histogram
	cycles0 uint64
	cpu0    float64
}

var gcMetrics = []string{"/sched/pauses/total/gc:seconds", "/gc/cycles/total:gc-cycles", "/cpu/classes/gc/total:cpu-seconds"}

func readGC() (pauses *metrics.Float64Histogram, cycles uint64, seconds float64) {
	samples := make([]metrics.Sample, len(gcMetrics))
	for i, name := range gcMetrics {
		samples[i].Name = name
	}
	metrics.Read(samples)
	h := samples[0].Value.Float64Histogram()
	return &metrics.Float64Histogram{Counts: slices.Clone(h.Counts), Buckets: h.Buckets}, samples[1].Value.Uint64(), samples[2].Value.Float64()
}

// startGC starts to look at the garbage collector.
func startGC() *collection {
	c := new(collection)
	c.before, c.cycles0, c.cpu0 = readGC()
	return c
}

// stop ends that.
func (c *collection) stop() {
	h, cycles, seconds := readGC()
	c.Cycles, c.CPU = cycles-c.cycles0, time.Duration((seconds-c.cpu0)*1e9)
	for i := range h.Counts {
		if h.Counts[i] > c.before.Counts[i] {
			bound := h.Buckets[i+1]
			if math.IsInf(bound, 1) {
				bound = h.Buckets[i]
			}
			c.Longest = time.Duration(bound * 1e9)
		}
	}
	c.before = nil
}

// latencies collects how long calls took.
type latencies []time.Duration

func (l *latencies) time(f func()) {
	began := time.Now()
	f()
	*l = append(*l, time.Since(began))
}

// at returns the latency that a share of the calls did not exceed.
func (l latencies) at(share float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	slices.Sort(l)
	return l[min(int(share*float64(len(l))), len(l)-1)]
}

// short formats a duration with three digits.
func short(d time.Duration) string {
	switch f := float64(d); {
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", d)
	case d < time.Millisecond:
		return fmt.Sprintf("%.3g µs", f/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", f/1e6)
	default:
		return fmt.Sprintf("%.3g s", f/1e9)
	}
}

// printTable prints the results as a table in Markdown, one column for each number of
// sessions.
func printTable(w io.Writer, results []*result) {
	row := func(name string, cell func(r *result) string) {
		fmt.Fprintf(w, "| %s |", name)
		for _, r := range results {
			fmt.Fprintf(w, " %s |", cell(r))
		}
		fmt.Fprintln(w)
	}
	row("sessions", func(r *result) string { return fmt.Sprint(r.Sessions) })
	row("---", func(*result) string { return "---" })
	for _, f := range figures {
		row(f.name, f.cell)
	}
}
