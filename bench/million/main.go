//go:build linux && (amd64 || arm64) && wsproxy_simulated

// Command million opens up to a million sessions in one process, and measures what
// each operation costs at 1,000, 10,000, 100,000 and 1,000,000 of them.
//
// The kernel and the peers are simulated (internal/relay/simulated_linux.go), for no
// machine at hand has that many descriptors and ports. The rest is the real thing:
// handshakes go through ServeHTTP and are checked, members are selected, the event
// loop relays frames, the timers fire. Thus it shows what does not stay
// the same as sessions become more, and not what system calls cost.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// plan is what the flags request.
type plan struct {
	ping                time.Duration // interval
	rest, churn, drain  time.Duration // of the phases
	rate                int           // sessions joining, and leaving, in a second of churn
	burst               int           // operations of a kind that are measured together
	cpuProfile, mutexes string        // files
}

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "million:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var p plan
	fs := flag.NewFlagSet("million", flag.ContinueOnError)
	sizes := fs.String("sessions", "1000,10000,100000,1000000", "comma-separated numbers of sessions; each is measured in a process of its own")
	fs.DurationVar(&p.ping, "ping", 25*time.Second, "interval of WithPing")
	fs.DurationVar(&p.rest, "rest", 30*time.Second, "time in which there are only Pings")
	fs.DurationVar(&p.churn, "churn", 20*time.Second, "time in which sessions join and leave")
	fs.DurationVar(&p.drain, "drain", 60*time.Second, "window of the drain")
	fs.IntVar(&p.rate, "rate", 5000, "sessions that join, and leave, in a second of churn")
	fs.IntVar(&p.burst, "burst", 1000, "operations of a kind that are measured together")
	fs.StringVar(&p.cpuProfile, "cpuprofile", "", "`file` for a CPU profile of the times of rest and churn")
	fs.StringVar(&p.mutexes, "mutexprofile", "", "`file` for a profile of waiting for locks in the time of churn")
	one := fs.Int("one", 0, "measure one number of sessions, in this process, and print JSON")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *one > 0 {
		r, err := measure(*one, &p)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	var results []*result
	for size := range strings.SplitSeq(*sizes, ",") {
		if n, err := strconv.Atoi(size); err != nil || n < 1 {
			return fmt.Errorf("-sessions: %q is no number of sessions", size)
		}
		r := new(result)
		cmd := exec.Command(os.Args[0], append([]string{"-one", size}, args...)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err == nil {
			err = json.Unmarshal(out, r)
		}
		if err != nil {
			return fmt.Errorf("%s sessions: %w", size, err)
		}
		results = append(results, r)
	}
	printTable(os.Stdout, results)
	return nil
}
