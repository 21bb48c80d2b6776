package main

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/seed-ffb73231/wsproxy"
)

// most is the maximum number of rows in a snapshot. There may be far more
// sessions than a person can read, or a browser can draw every second.
const most = 500

// A view says which rows a page wants to see.
type view struct {
	Filter     string `json:"filter"` // what they hold somewhere; "": all
	Sort       string `json:"sort"`   // a key of orders
	Descending bool   `json:"descending"`
}

// A snapshot is what a page shows. Pairs are indexed by [wsproxy.Side].
type snapshot struct {
	Rows     []row `json:"rows"`
	Matching int   `json:"matching"` // sessions that the filter lets through

	Open       int         `json:"open"`
	Handshakes int         `json:"handshakes"`
	Opened     uint64      `json:"opened"`
	Ended      []tally     `json:"ended"`
	Refused    []tally     `json:"refused"`
	Messages   [2]uint64   `json:"messages"`
	Bytes      [2]uint64   `json:"bytes"`
	Drain      *drainState `json:"drain,omitempty"`
}

type tally struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

type drainState struct {
	Total int `json:"total"`
	Told  int `json:"told"`
	Open  int `json:"open"`
	Cut   int `json:"cut"`
}

// A row is one session. Times are in milliseconds.
type row struct {
	ID        uint64     `json:"id"`
	User      string     `json:"user"`
	Client    string     `json:"client"`
	Path      string     `json:"path"`
	Upstream  string     `json:"upstream"`
	Age       int64      `json:"age"`
	Idle      int64      `json:"idle"`
	Messages  [2]uint64  `json:"messages"`
	Bytes     [2]uint64  `json:"bytes"`
	RoundTrip [2]float64 `json:"roundTrip"` // 0: not known
}

// take takes a snapshot of a proxy.
func take(proxy *wsproxy.Proxy, v view) *snapshot {
	st := proxy.Stats()
	snap := &snapshot{
		Open:       st.Open,
		Handshakes: st.Handshakes,
		Opened:     st.Opened,
		Ended:      make([]tally, 0, len(st.Ended)),
		Refused:    make([]tally, 0, len(st.Failed)),
		Messages:   [2]uint64{st.FromClients.Messages, st.FromUpstreams.Messages},
		Bytes:      [2]uint64{st.FromClients.Bytes, st.FromUpstreams.Bytes},
	}
	for outcome, n := range st.Ended {
		if n > 0 { // some are there from the beginning on
			snap.Ended = append(snap.Ended, tally{outcome.String(), n})
		}
	}
	for kind, n := range st.Failed {
		if n > 0 {
			snap.Refused = append(snap.Refused, tally{string(kind), n})
		}
	}
	for _, tallies := range [][]tally{snap.Ended, snap.Refused} {
		slices.SortFunc(tallies, func(a, b tally) int { return cmp.Compare(a.Name, b.Name) })
	}
	if d := st.Drain; !d.Began.IsZero() {
		snap.Drain = &drainState{d.Total, d.Told, st.Open, d.Cut}
	}

	rows := make([]row, 0, st.Open)
	now := time.Now()
	filter := strings.ToLower(strings.TrimSpace(v.Filter))
	for s := range proxy.Sessions() {
		if r := read(s, now); r.has(filter) {
			rows = append(rows, r)
		}
	}
	order := orders[v.Sort] // by age, which is as they come, for want of another
	slices.SortStableFunc(rows, func(a, b row) int {
		n := 0
		if order != nil {
			n = order(a, b)
		}
		if n = cmp.Or(n, cmp.Compare(a.ID, b.ID)); v.Descending {
			return -n
		}
		return n
	})
	snap.Matching = len(rows)
	snap.Rows = rows[:min(len(rows), most)]
	return snap
}

// read returns the row of a session.
func read(s *wsproxy.Session, now time.Time) row {
	user, _ := s.Value(userKey{}).(string)
	r := row{
		ID:       s.ID(),
		User:     user,
		Client:   presentable(s.Client(), 64),
		Path:     presentable(s.Path(), 200),
		Upstream: presentable(s.Upstream(), 100),
		Age:      max(now.Sub(s.Start()), 0).Milliseconds(),
		Idle:     max(now.Sub(s.LastActivity()), 0).Milliseconds(),
	}
	for _, side := range []wsproxy.Side{wsproxy.Client, wsproxy.Upstream} {
		counts := s.Counts(side)
		r.Messages[side], r.Bytes[side] = counts.Messages, counts.Bytes
		r.RoundTrip[side] = float64(s.RoundTrip(side).Microseconds()) / 1000
	}
	return r
}

// has reports whether the row contains a text, in lower case.
func (r row) has(text string) bool {
	if text == "" {
		return true
	}
	for _, field := range []string{strconv.FormatUint(r.ID, 10), r.User, r.Client, r.Path, r.Upstream} {
		if strings.Contains(strings.ToLower(field), text) {
			return true
		}
	}
	return false
}

// orders holds the ways to sort rows.
var orders = map[string]func(a, b row) int{
	"id":       func(a, b row) int { return cmp.Compare(a.ID, b.ID) },
	"user":     func(a, b row) int { return cmp.Compare(a.User, b.User) },
	"client":   func(a, b row) int { return cmp.Compare(a.Client, b.Client) },
	"path":     func(a, b row) int { return cmp.Compare(a.Path, b.Path) },
	"upstream": func(a, b row) int { return cmp.Compare(a.Upstream, b.Upstream) },
	"age":      func(a, b row) int { return cmp.Compare(b.ID, a.ID) },
	"idle":     func(a, b row) int { return cmp.Compare(a.Idle, b.Idle) },
	"messages": func(a, b row) int { return cmp.Compare(sum(a.Messages), sum(b.Messages)) },
	"bytes":    func(a, b row) int { return cmp.Compare(sum(a.Bytes), sum(b.Bytes)) },
	"rtt":      func(a, b row) int { return cmp.Compare(sum(a.RoundTrip), sum(b.RoundTrip)) },
}

func sum[T uint64 | float64](pair [2]T) T { return pair[0] + pair[1] }

// presentable makes a client's text safe to show: it is truncated to most
// characters, and characters that are not visible are replaced, such as those
// that reverse the direction of text.
func presentable(text string, most int) string {
	text = strings.Map(func(c rune) rune {
		if !unicode.IsGraphic(c) {
			return utf8.RuneError
		}
		return c
	}, text) // a copy, not a part of a whole request
	if utf8.RuneCountInString(text) > most {
		return string([]rune(text)[:most]) + "…"
	}
	return strings.Clone(text)
}
