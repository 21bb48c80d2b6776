//go:build linux

// Soak has thousands of sessions open, talk, idle and die in every way that
// there is, and looks every minute at whether all is as it must be: what was
// sent has arrived, the proxies' counts are right, and nothing is left over.
//
//	go run ./soak -for 3m
//
// It prints a line of figures each minute, and exits with 1 if anything was
// wrong.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/faults/wire"
)

func main() {
	st := settings{out: os.Stdout}
	flag.DurationVar(&st.length, "for", 3*time.Minute, "how `long` to open sessions")
	flag.DurationVar(&st.every, "every", time.Minute, "`time` between checks")
	flag.IntVar(&st.rate, "rate", 100, "sessions opened each second")
	flag.IntVar(&st.stay, "stay", 400, "sessions that stay from the first to the last")
	flag.DurationVar(&st.pause, "pause", 400*time.Millisecond, "longest `time` between what a session says")
	flag.Parse()
	fmt.Printf("%d descriptors\n", wire.RaiseFiles())
	if run(st) > 0 {
		os.Exit(1)
	}
}
