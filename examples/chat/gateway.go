package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// newGateway returns the proxy for chat servers at the URLs.
func newGateway(servers []string) (*wsproxy.Proxy, error) {
	members := make([]wsproxy.Member, len(servers))
	for i, url := range servers {
		members[i] = wsproxy.Member{Target: url}
	}
	return wsproxy.New("",
		wsproxy.WithUpstreams(members...),
		// Everyone in a room has to get to the same server. When that is down, they
		// all get to the same other one.
		wsproxy.WithBalance(wsproxy.Rendezvous(func(r *http.Request) string { return r.FormValue("room") })),
		wsproxy.WithOnOpen(admit),
		wsproxy.WithOnMessage(moderate),
		// The servers keep nothing of a client but the room and the name, which are in
		// the URL: so OnResume has nothing to send.
		wsproxy.WithResume(wsproxy.Resume{Window: 10 * time.Second}),
		wsproxy.WithMaxMessageSize(wsproxy.Client, 4<<10),
		wsproxy.WithRateLimit(wsproxy.Client, wsproxy.RateLimit{Messages: 20}),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
}

// warnings is the key of the session's number of warnings.
type warnings struct{}

func admit(s *wsproxy.Session, _ *http.Request) error {
	s.Set(warnings{}, new(atomic.Int32))
	return nil
}

// rude is what nobody wants to read.
var rude = regexp.MustCompile(`(?i)\b(darn|heck)\b`)

// mostWarnings is how often a client may be rude.
const mostWarnings = 3

// moderate hides rude words. Who does not stop is disconnected. Advertisements are
// dropped.
func moderate(_ context.Context, s *wsproxy.Session, m *wsproxy.Message) error {
	if m.From != wsproxy.Client {
		return nil
	}
	if bytes.Contains(m.Data, []byte("http://")) {
		return wsproxy.ErrDrop
	}
	if !rude.Match(m.Data) {
		return nil
	}
	if s.Value(warnings{}).(*atomic.Int32).Add(1) > mostWarnings {
		return &wsproxy.CloseError{Code: 4003, Reason: "you were warned"}
	}
	m.Data = rude.ReplaceAll(m.Data, []byte("****"))
	return nil
}

// announce sends a text to all clients, and returns how many got it. A client that
// takes nothing delays the others by two seconds at most.
func announce(ctx context.Context, p *wsproxy.Proxy, text string) (n int) {
	for s := range p.Sessions() {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		if s.Send(ctx, wsproxy.Client, websocket.MessageText, []byte("announcement: "+text)) == nil {
			n++
		}
		cancel()
	}
	return n
}
