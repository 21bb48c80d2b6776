//go:build linux && (amd64 || arm64) && wsproxy_simulated

package main

import (
	"strings"
	"testing"
	"time"
)

// The whole tool, with few sessions and short times: all of them open, answer Pings,
// come and go and are drained, and nothing of them is left. The figures do not
// matter here, apart from memory.
func TestMillion(t *testing.T) {
	r, err := measure(2000, &plan{ping: 300 * time.Millisecond, rest: 700 * time.Millisecond, churn: 500 * time.Millisecond,
		drain: 300 * time.Millisecond, rate: 2000, burst: 200})
	if err != nil {
		t.Fatal(err)
	}
	if r.Heap == 0 || r.Heap > 2048 {
		t.Errorf("a session takes %d bytes of heap, want 2 KiB at most", r.Heap)
	}
	if r.LeftHeap > 0.2 {
		t.Errorf("%.0f %% of the heap is left when all sessions are over", 100*r.LeftHeap)
	}
	if sends := r.PingCalls["send"]; sends < 0.9 || sends > 1.2 {
		t.Errorf("%.2f writes for an answered Ping, want one", sends)
	}
	var table strings.Builder
	printTable(&table, []*result{r, r})
	if rows := strings.Count(table.String(), "\n"); rows != len(figures)+2 || strings.Count(table.String(), "|") != 4*rows {
		t.Errorf("the table is\n%s", &table)
	}
}
