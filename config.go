package wsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy/internal/message"
	"github.com/seed-ffb73231/wsproxy/internal/pool"
	"github.com/seed-ffb73231/wsproxy/internal/protocol"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
)

// config is the validated configuration of a Proxy. It does not change after
// [New].
type config struct {
	relay            relay.Settings        // of all sessions
	members          []Member              // of WithUpstreams
	first            []pool.Spec[endpoint] // the members when New returns
	balance          Balance
	retryShare       float64 // the share of handshakes that may be retried
	retrySent        bool
	judgeAnswers     bool
	doubtsNeeded     int // clients; see judge
	check            *HealthCheck
	keepRemoved      bool
	sticky           *sticky
	source           Source
	sourceInterval   time.Duration
	sourceAddresses  []netip.Addr
	handshakeTimeout time.Duration
	detach           bool
	host             string // "": the client's
	targetsHost      bool   // use the target's host instead
	targetPath       bool   // use the target's path instead of the joined path
	via              string // "": none
	fallback         http.Handler
	rewrite          func(*httputil.ProxyRequest)
	rewriteAnswer    func(*http.Response)
	origins          []originPattern
	anyOrigin        bool
	trusted          []netip.Prefix
	trustUnix        bool
	dialContext      func(ctx context.Context, network, address string) (net.Conn, error)
	tls              *tls.Config
	skipVerify       bool
	logger           *slog.Logger
	errorHandler     func(http.ResponseWriter, *http.Request, *Error)
	onOpen           []func(*Session, *http.Request) error
	onClose          []func(*Session)
	onMessage        []func(context.Context, *Session, *Message) error
	taps             []func(*Session, Message)
	messages         bool                    // sessions have a stage
	stage            message.Settings        // of all sessions, if messages is set
	compression      [2]*message.Compression // by side; nil: not set
	resume           *Resume                 // nil: sessions end with their upstream
	drainWindow      time.Duration
	drainCode        websocket.StatusCode
	maxSessions      int
	maxHandshakes    int
	maxPerClient     int
	clientKeyOf      func(*http.Request) string

	mistakes []error
}

func (c *config) mistake(option string, value any, reason string) {
	c.mistakes = append(c.mistakes, &OptionError{Option: option, Value: value, Reason: reason})
}

// positive reports a duration that is not above zero as a mistake.
func (c *config) positive(option string, d time.Duration) time.Duration {
	if d <= 0 {
		c.mistake(option, d, "must be positive")
	}
	return d
}

// count reports a negative number as a mistake.
func (c *config) count(option string, n int) int {
	if n < 0 {
		c.mistake(option, n, "negative")
	}
	return n
}

// longest is the largest valid duration. It is small enough that a few can be
// added without overflow.
const longest = 50 * 365 * 24 * time.Hour

// shortest is the smallest valid duration above zero.
const shortest = time.Millisecond

// plausible reports as a mistake the first of an option's durations that would
// overflow or is obviously unintended: WithPing(25, 10) would ping every 25
// nanoseconds.
func (c *config) plausible(option string, durations ...time.Duration) {
	for _, d := range durations {
		switch {
		case d > longest:
			c.mistake(option, d, "exceeds 50 years")
			return
		case d > 0 && d < shortest:
			reason := "less than 1 ms; did you mean seconds?"
			if d < shortest/10 {
				reason = fmt.Sprintf("less than 1 ms; did you mean %d*time.Second?", d)
			}
			c.mistake(option, d, reason)
			return
		}
	}
}

// checkDurations checks the durations that the options themselves do not check.
func (c *config) checkDurations() {
	check := HealthCheck{}
	if c.check != nil {
		check = *c.check
	}
	c.plausible("WithIdleTimeout", c.relay.Policy.Idle)
	c.plausible("WithWriteTimeout", c.relay.Policy.Write)
	c.plausible("WithHandshakeTimeout", c.handshakeTimeout)
	c.plausible("WithCloseTimeout", c.relay.Policy.Close)
	c.plausible("WithMaxAge", c.relay.Policy.Age)
	c.plausible("WithDrain", c.drainWindow)
	c.plausible("WithSource", c.sourceInterval)
	c.plausible("WithHealthCheck", check.Interval, check.Timeout)
}

// limit returns the limits of the side.
func (c *config) limit(option string, from Side) *protocol.Limits {
	if from != Client && from != Upstream {
		c.mistake(option, from, "must be Client or Upstream")
		return new(protocol.Limits)
	}
	return &c.relay.Limits[from]
}

// newConfig validates all arguments and returns all mistakes at once.
func newConfig(target string, options []Option) (*config, error) {
	c := &config{
		balance:      LeastSessions(),
		retryShare:   defaultRetryShare,
		doubtsNeeded: defaultDoubts,
		relay: relay.Settings{
			Policy: protocol.Policy{
				Pings: [2]protocol.Pinging{
					{Interval: defaultPingInterval, Timeout: defaultPongTimeout},
					{Interval: defaultPingInterval, Timeout: defaultPongTimeout},
				},
				Write: defaultWriteTimeout,
				Close: defaultCloseTimeout,
			},
		},
		handshakeTimeout: defaultHandshakeTimeout,
		tls:              new(tls.Config),
		logger:           slog.Default(),
		errorHandler:     writeError,
		drainCode:        websocket.StatusGoingAway,
		via:              randomName(),
	}
	for _, o := range options {
		if o == nil {
			c.mistake("Option", nil, "nil option")
			continue
		}
		o(c)
	}
	c.checkDurations()
	c.useMessages()
	c.useMembers(target)
	if c.dialContext != nil && len(c.sourceAddresses) > 0 {
		c.mistake("WithSourceAddresses", "", "cannot be combined with WithDialContext")
	}
	if c.dialContext == nil {
		d := new(net.Dialer)
		// With Go's defaults, TCP's keep-alive drops a dead peer after 15 s
		// and nine probes 15 s apart. Pings that are at least as fast replace it,
		// if the proxy can see whether the peer's kernel acknowledges them;
		// otherwise only the keep-alive detects that a peer that answers no Ping
		// is gone.
		if p := c.relay.Policy.Pings[Upstream]; relay.AcksTell && p.Interval > 0 && p.Interval+p.Timeout <= 150*time.Second {
			d.KeepAlive = -1
		}
		c.dialContext = dialFrom(d, c.sourceAddresses)
	}
	completeTLS(c.tls)
	c.tls.InsecureSkipVerify = c.tls.InsecureSkipVerify || c.skipVerify
	if c.anyOrigin && len(c.origins) > 0 {
		c.mistake("WithInsecureAnyOrigin", "", "cannot be combined with WithOrigins")
	}
	return c, errors.Join(c.mistakes...)
}

// useMembers creates the initial members from the arguments of New.
func (c *config) useMembers(target string) {
	earlier := c.mistakes
	c.mistakes = nil // report mistakes in the target first
	defer func() { c.mistakes = append(c.mistakes, earlier...) }()
	switch {
	case target == "" && (c.members != nil || c.source != nil):
	case c.members != nil:
		c.mistake("target", redactTarget(target), "must be empty with WithUpstreams")
	case c.source != nil:
		c.mistake("target", redactTarget(target), "must be empty with WithSource")
	default:
		m, err := c.newMember(Member{Target: target})
		if err != nil {
			c.mistake("target", redactTarget(target), err.Error())
			return
		}
		c.first = []pool.Spec[endpoint]{m}
	}
	if c.members != nil {
		first, mistakes := c.newMembers(c.members)
		c.first, c.mistakes = first, append(c.mistakes, mistakes...)
	}
}
