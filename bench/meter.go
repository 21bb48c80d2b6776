//go:build linux

package main

import "time"

// load is one measurement: one scenario against one address. It runs in a
// process of its own, which reads the proxy's CPU time and memory itself, so
// that the readings fall on the edges of the measured window.
type load struct {
	Kind     string
	Addr     string
	TLS      bool
	Pid      int // the proxy's; 0 for none
	Conns    int
	Window   int           // messages in flight on a connection
	Size     int           // of a message
	Rate     int           // messages a second; 0 for as many as go through
	Warm     time.Duration // before the measured window
	Duration time.Duration // of the measured window
	Settle   time.Duration // before memory is read; 0 for not reading it
}

// sample is what a load measured.
type sample struct {
	At       time.Time     // when the window began
	Seconds  float64       // its length
	Ops      int64         // operations in it
	Bytes    int64         // payload bytes of these
	CPU      time.Duration // the proxy's, in the window
	P50, P99 time.Duration // latency of an operation
	Base     int           // KiB of the proxy before the load, without files
	Memory   int           // KiB after it settled, without files
	Total    int           // KiB after it settled
	Sessions int           // open then
	GC       *pauses       `json:",omitempty"` // the proxy's, in the window
}

// meter counts operations within the measured window, which opens when the
// load has warmed up: proxies grow stacks and fill pools at first.
type meter struct {
	load
	sample
	pids          []int
	from, until   time.Time // of the window
	begun, over   bool
	cpu           time.Duration // used before the window
	startOps, ops int64
	latencies     []time.Duration
}

// start sets the window; the proxy's processes are all there by then.
func (m *meter) start() {
	if m.Pid != 0 {
		m.pids = tree(m.Pid)
	}
	m.from = time.Now().Add(m.Warm)
	m.latencies = make([]time.Duration, 0, 1<<20)
}

// tick reads the clock, and returns false after the window. On a busy machine
// the window may be late; it lasts until at least one operation is in it,
// because there is no figure without one.
func (m *meter) tick(now time.Time) bool {
	if !m.begun && !now.Before(m.from) {
		m.begun = true
		m.startOps, m.cpu, m.At, m.until = m.ops, cpuTime(m.pids), now, now.Add(m.Duration)
	}
	if m.begun && !m.over && !now.Before(m.until) && m.ops > m.startOps {
		m.over = true
		m.CPU = cpuTime(m.pids) - m.cpu
		m.Ops = m.ops - m.startOps
		m.Seconds = now.Sub(m.At).Seconds()
	}
	return !m.over
}

func (m *meter) done(n int, latency time.Duration) {
	m.ops += int64(n)
	if m.begun && latency > 0 {
		m.latencies = append(m.latencies, latency)
	}
}

// settle reads the memory that idle sessions use.
func (m *meter) settle() {
	time.Sleep(m.Settle)
	m.Total, m.Memory = memory(tree(m.Pid))
	m.Sessions = m.Conns
}
