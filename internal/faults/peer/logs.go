package peer

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"
)

// A Record is one log record: its attributes by their keys, those of a group
// as "group.key", and the message as "msg".
type Record map[string]any

// Logs is a slog.Handler that keeps what it gets.
type Logs struct {
	mu      sync.Mutex
	records []Record // guarded by mu
}

// Enabled takes everything.
func (l *Logs) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs is not used by the proxy.
func (l *Logs) WithAttrs([]slog.Attr) slog.Handler { panic("not used") }

// WithGroup is not used by the proxy.
func (l *Logs) WithGroup(string) slog.Handler { panic("not used") }

// Handle keeps a record.
func (l *Logs) Handle(_ context.Context, r slog.Record) error {
	m := Record{"msg": r.Message, "level": r.Level}
	r.Attrs(func(a slog.Attr) bool {
		if a.Value.Kind() == slog.KindGroup {
			for _, b := range a.Value.Group() {
				m[a.Key+"."+b.Key] = b.Value.Any()
			}
		} else {
			m[a.Key] = a.Value.Any()
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, m)
	return nil
}

// What the proxy's records say.
const (
	opened = "wsproxy: session opened"
	ended  = "wsproxy: session ended"
	failed = "wsproxy: handshake failed"
)

// all returns the records with that message; "": those with any other one than
// the three above.
func (l *Logs) all(msg string) []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []Record
	for _, r := range l.records {
		got := r["msg"].(string)
		if got == msg || msg == "" && got != opened && got != ended && got != failed {
			found = append(found, r)
		}
	}
	return found
}

// every returns all records.
func (l *Logs) every() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records)
}

// wait returns the n-th record (from 0) with that message, once it is there.
func (l *Logs) wait(t testing.TB, msg string, n int) Record {
	t.Helper()
	var found []Record
	if !Until(func() bool { found = l.all(msg); return len(found) > n }) {
		t.Fatalf("got %d records %q, want %d; others: %v", len(found), msg, n+1, l.records)
	}
	return found[n]
}

// Patience is how long a test waits for what must come.
const Patience = 20 * time.Second

// Until polls until the condition holds, and says whether it does.
func Until(condition func() bool) bool {
	deadline := time.Now().Add(Patience)
	for {
		if condition() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(time.Millisecond) // between two looks, not in place of one
	}
}
