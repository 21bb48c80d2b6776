package console

import (
	"cmp"
	"maps"
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
	filter     string // a text that they contain somewhere; "": all
	sort       string // a key of orders
	descending bool
}

// A snapshot is what a page shows. Pairs are indexed by [wsproxy.Side].
type snapshot struct {
	Title    string `json:"title"`
	Notice   string `json:"notice"`
	Users    bool   `json:"users"`    // whether rows have users
	Routes   bool   `json:"routes"`   // whether rows have routes
	CanClose bool   `json:"canClose"` // what the page may do
	CanDrain bool   `json:"canDrain"`

	Rows     []row `json:"rows"`
	Matching int   `json:"matching"` // sessions that match the filter

	Open       int         `json:"open"`
	Handshakes int         `json:"handshakes"`
	Opened     uint64      `json:"opened"`
	Ended      []tally     `json:"ended"`
	Failed     []tally     `json:"failed"` // handshakes
	Messages   [2]uint64   `json:"messages"`
	Bytes      [2]uint64   `json:"bytes"`
	Members    []member    `json:"members"`
	Drain      *drainState `json:"drain,omitempty"`
}

type tally struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

type member struct {
	Route    string `json:"route"`
	Name     string `json:"name"`
	Sessions int    `json:"sessions"`
	Down     bool   `json:"down"`
}

type drainState struct {
	Total int `json:"total"`
	Told  int `json:"told"`
	Open  int `json:"open"`
	Cut   int `json:"cut"`
}

// A row is one session. Times are in milliseconds.
type row struct {
	Route     string     `json:"route"`
	ID        uint64     `json:"id"` // unique within its route
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

// take takes a snapshot.
func (h *handler) take(v view) *snapshot {
	routes := h.routes()
	snap := &snapshot{
		Title:    cmp.Or(h.options.Title, "Sessions"),
		Notice:   h.options.Notice,
		Users:    h.options.User != nil,
		Routes:   slices.ContainsFunc(routes, func(r Route) bool { return r.Name != "" }),
		CanClose: !h.options.ReadOnly,
		CanDrain: h.options.Drain != nil,
		Members:  []member{},
	}
	ended, failed := make(map[string]uint64), make(map[string]uint64)
	drain, draining := drainState{}, 0
	for _, r := range routes {
		st := r.Proxy.Stats()
		snap.Open += st.Open
		snap.Handshakes += st.Handshakes
		snap.Opened += st.Opened
		for outcome, n := range st.Ended {
			ended[outcome.String()] += n
		}
		for kind, n := range st.Failed {
			failed[string(kind)] += n
		}
		for side, n := range [2]wsproxy.Counts{wsproxy.Client: st.FromClients, wsproxy.Upstream: st.FromUpstreams} {
			snap.Messages[side] += n.Messages
			snap.Bytes[side] += n.Bytes
		}
		for _, m := range st.Members {
			snap.Members = append(snap.Members, member{r.Name, presentable(m.Name, 100), m.Sessions, m.Down})
		}
		if d := st.Drain; !d.Began.IsZero() {
			draining++
			drain.Total, drain.Told, drain.Cut = drain.Total+d.Total, drain.Told+d.Told, drain.Cut+d.Cut
		}
	}
	snap.Ended, snap.Failed = tallies(ended), tallies(failed)
	// A route that has been replaced drains, too; the others still accept
	// sessions then.
	if draining > 0 && draining == len(routes) {
		drain.Open = snap.Open
		snap.Drain = &drain
	}
	h.takeRows(snap, routes, v)
	return snap
}

// tallies returns the counts that are not 0, by name. Some names are present
// from the start.
func tallies(counts map[string]uint64) []tally {
	list := make([]tally, 0, len(counts))
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		if n := counts[name]; n > 0 {
			list = append(list, tally{name, n})
		}
	}
	return list
}

// takeRows adds the rows that the view shows to a snapshot.
func (h *handler) takeRows(snap *snapshot, routes []Route, v view) {
	order := orders[v.sort] // nil: as the sessions have opened
	compare := func(a, b row) int {
		n := 0
		if order != nil {
			n = order(a, b)
		}
		if n = cmp.Or(n, cmp.Compare(a.ID, b.ID), cmp.Compare(a.Route, b.Route)); v.descending {
			return -n
		}
		return n
	}
	// Rows beyond the first ones are dropped now and then, so that memory does
	// not grow with the number of sessions.
	snap.Rows = make([]row, 0, min(snap.Open, 2*most))
	keep := func() {
		slices.SortFunc(snap.Rows, compare)
		snap.Rows = snap.Rows[:min(len(snap.Rows), most)]
	}
	now := time.Now()
	filter := strings.ToLower(strings.TrimSpace(v.filter))
	for _, route := range routes {
		for s := range route.Proxy.Sessions() {
			r := h.read(route.Name, s, now)
			if !r.has(filter) {
				continue
			}
			if snap.Matching++; len(snap.Rows) == 2*most {
				keep()
			}
			snap.Rows = append(snap.Rows, r)
		}
	}
	keep()
}

// read returns the row of a session.
func (h *handler) read(route string, s *wsproxy.Session, now time.Time) row {
	r := row{
		Route:    route,
		ID:       s.ID(),
		Client:   presentable(s.Client(), 64),
		Path:     presentable(s.Path(), 200),
		Upstream: presentable(s.Upstream(), 100),
		Age:      max(now.Sub(s.Start()), 0).Milliseconds(),
		Idle:     max(now.Sub(s.LastActivity()), 0).Milliseconds(),
	}
	if h.options.User != nil {
		r.User = presentable(h.options.User(s), 64)
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
	for _, field := range []string{strconv.FormatUint(r.ID, 10), r.Route, r.User, r.Client, r.Path, r.Upstream} {
		if strings.Contains(strings.ToLower(field), text) {
			return true
		}
	}
	return false
}

// orders holds the ways to sort rows.
var orders = map[string]func(a, b row) int{
	"id":       func(a, b row) int { return cmp.Compare(a.ID, b.ID) },
	"route":    func(a, b row) int { return cmp.Compare(a.Route, b.Route) },
	"user":     func(a, b row) int { return cmp.Compare(a.User, b.User) },
	"client":   func(a, b row) int { return cmp.Compare(a.Client, b.Client) },
	"path":     func(a, b row) int { return cmp.Compare(a.Path, b.Path) },
	"upstream": func(a, b row) int { return cmp.Compare(a.Upstream, b.Upstream) },
	"age":      func(a, b row) int { return cmp.Compare(a.Age, b.Age) },
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
	}, text)
	if utf8.RuneCountInString(text) > most {
		return string([]rune(text)[:most]) + "…"
	}
	return text
}
