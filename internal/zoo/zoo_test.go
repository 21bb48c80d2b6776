//go:build linux

package zoo

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// limit is how long one wait may take. It is far above what is needed: it turns
// a hang into a failure.
const limit = 30 * time.Second

var (
	update = flag.Bool("update", false, "write the tables of docs/compatibility.md instead of comparing them")
	part   = flag.Int("part", -1, "run only this third of the slow animals: 0, 1 or 2; -1: all of them")
	awake  = flag.Bool("awake", false, "wait for real: 75 s of silence with every time-out as it comes")
)

// servers are in the order of the table.
var servers = []server{
	npmWS,
	tornado,
	mosquitto,
}

// TestServers has each server carried both ways.
func TestServers(t *testing.T) {
	slow := 0
	for _, s := range servers {
		if s.slow {
			slow++
			if *part >= 0 && slow%3 != *part {
				continue
			}
		}
		t.Run(s.name, func(t *testing.T) { carryServer(t, s) })
	}
}

// TestNames: an animal is found by its name.
func TestNames(t *testing.T) {
	var names []string
	for _, s := range servers {
		names = append(names, s.name)
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != len(servers) {
		t.Error("two servers of one name")
	}
}

// atEnd is done after all tests.
var atEnd []func()

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if code == 0 {
		if err := settle(*update); err != nil {
			fmt.Fprintln(os.Stderr, "zoo:", err)
			code = 1
		}
	}
	for _, f := range atEnd {
		f()
	}
	os.Exit(code)
}
