//go:build linux

package main

import (
	"regexp"
	"strconv"
)

// pauses is what the garbage collector did within a measured window. A cycle
// stops the world twice: briefly before it marks, and again after.
type pauses struct {
	Cycles  int
	Longest float64 // of a single stop, in microseconds
	Total   float64 // of all stops, in microseconds
}

var (
	// A cycle's line in the trace. Of the clock figures the first and the
	// third are the stops; the second is marking, beside the program.
	gcLine = regexp.MustCompile(`(?m)^gc \d+ @([\d.]+)s +\d+%: ([\d.]+)\+[\d.]+\+([\d.]+) ms clock`)

	// A record of the log package. The runtime writes the trace piece by
	// piece, so that a record may stand in the middle of a line.
	logRecord = regexp.MustCompile(`\d{4}/\d\d/\d\d \d\d:\d\d:\d\d .*\n`)
)

// gcPauses reads what GODEBUG=gctrace=1 made a process write, and counts the
// cycles between two times, in seconds since the process began. It returns
// nil where there is no trace: the process isn't Go's, or never collected.
func gcPauses(log []byte, from, until float64) *pauses {
	lines := gcLine.FindAllSubmatch(logRecord.ReplaceAll(log, nil), -1)
	if lines == nil {
		return nil
	}
	p := &pauses{}
	for _, line := range lines {
		var n [3]float64
		for i := range n {
			n[i], _ = strconv.ParseFloat(string(line[i+1]), 64)
		}
		if n[0] < from || n[0] > until {
			continue
		}
		p.Cycles++
		p.Longest = max(p.Longest, 1e3*n[1], 1e3*n[2])
		p.Total += 1e3 * (n[1] + n[2])
	}
	return p
}
