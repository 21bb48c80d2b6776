package wstest

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Record is a log record: its attributes by their keys, those of a group as
// "group.key", its message as "msg" and its level as "level".
type Record = map[string]any

// Logs is a [slog.Handler] that keeps what it gets.
type Logs struct {
	Least slog.Level // what is below this level is not logged

	mu      sync.Mutex
	records []Record
	text    bytes.Buffer
	added   chan struct{} // made on demand
}

// Enabled implements [slog.Handler].
func (l *Logs) Enabled(_ context.Context, level slog.Level) bool { return level >= l.Least }

// WithAttrs implements [slog.Handler].
func (l *Logs) WithAttrs([]slog.Attr) slog.Handler { panic("not used") }

// WithGroup implements [slog.Handler].
func (l *Logs) WithGroup(string) slog.Handler { panic("not used") }

// Handle implements [slog.Handler].
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
	fmt.Fprintln(&l.text, m)
	overhear(fmt.Sprint(m))
	if l.added != nil {
		close(l.added)
		l.added = nil
	}
	return nil
}

// String returns all records as text.
func (l *Logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Records returns all records.
func (l *Logs) Records() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records)
}

// Wait returns the n-th record (from 0), once it is there.
func (l *Logs) Wait(t testing.TB, n int) Record {
	t.Helper()
	return l.wait(t, n, func(Record) bool { return true })
}

// WaitFor returns the n-th record (from 0) with that message, once it is there.
func (l *Logs) WaitFor(t testing.TB, msg string, n int) Record {
	t.Helper()
	return l.wait(t, n, func(m Record) bool { return m["msg"] == msg })
}

func (l *Logs) wait(t testing.TB, n int, wanted func(Record) bool) Record {
	t.Helper()
	timeout := time.After(Timeout)
	for {
		l.mu.Lock()
		got := 0
		for _, m := range l.records {
			if !wanted(m) {
				continue
			}
			if got == n {
				l.mu.Unlock()
				return m
			}
			got++
		}
		if l.added == nil {
			l.added = make(chan struct{})
		}
		added := l.added
		l.mu.Unlock()
		select {
		case <-added:
		case <-timeout:
			t.Fatalf("got %d log records, want %d: %s", got, n+1, l)
		}
	}
}

// Secret is what the peers of tests send as tokens, cookies and the like. It
// must not come up in anything that is logged, in all of the tests.
const Secret = "s3cr3t-that-is-planted"

// overheard is all that was logged.
var overheard struct {
	mu    sync.Mutex
	leaks []string
}

// overhear looks for the secret in a record, or another piece of text.
func overhear(text string) {
	if !strings.Contains(strings.ToLower(text), Secret) {
		return
	}
	overheard.mu.Lock()
	defer overheard.mu.Unlock()
	overheard.leaks = append(overheard.leaks, text)
}

type overhearing struct{}

func (overhearing) Write(b []byte) (int, error) { overhear(string(b)); return len(b), nil }

// ErrorLog returns a logger for an http.Server that says nothing, and looks
// for [Secret].
func ErrorLog() *log.Logger { return log.New(overhearing{}, "", 0) }

// Run runs the tests, and returns the exit code. The tests fail if [Secret] was
// logged: by [Logs], by [ErrorLog] or by a package's default logger.
func Run(m *testing.M) int {
	slog.SetDefault(slog.New(slog.NewTextHandler(overhearing{}, nil))) // and with it package log's
	code := m.Run()
	for _, text := range overheard.leaks {
		fmt.Printf("a secret was logged: %s\n", text)
		code = 1
	}
	return code
}
