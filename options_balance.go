package wsproxy

import (
	"cmp"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Defaults of the options for several upstreams. The options' comments repeat
// them.
const (
	defaultRetryShare    = 0.2
	defaultCheckInterval = 10 * time.Second
	defaultCheckTimeout  = 5 * time.Second
	defaultFall          = 3
	defaultRise          = 2

	// The number of clients with doubtful handshakes that make a failure.
	defaultDoubts = 3
	mostDoubts    = 1000
)

// WithUpstreams balances sessions over several members. The target of [New] must
// then be "". By default there is one member, the target. [WithBalance] sets the
// rule, and [Proxy.SetUpstreams] changes the set.
//
// When a handshake with a member fails, the proxy backs off from the member for
// one second, and twice as long after each further failure in a row, up to 30
// s. Then one handshake is tried alone; others follow when it has connected.
// Only failures that no client can cause count: connecting or TLS fails or
// takes too long, or the answer is not HTTP. Three different clients in a row
// that leave after connecting has taken a second also count as a failure.
// Answers to a request, including 5xx, do not count ([WithJudgeAnswers]), and
// neither does running out of descriptors, memory or ports on this machine.
// During the backoff handshakes go to other members. If no member is healthy,
// the one that has been backed off longest is tried.
//
// A handshake that failed before the request was sent is retried with another
// member within the time of [WithHandshakeTimeout], as long as retries are few:
// see [WithRetry]. While other members remain, connecting to one takes at most
// half of the remaining time, but at least 1 s and at most 5 s. If every
// healthy member has reached its MaxSessions, the client is answered 503 with
// Retry-After.
//
// [WithRewrite] is called for each member that is tried. If it changes the
// scheme or host, the rules above do not apply to the session.
func WithUpstreams(members ...Member) Option {
	return func(c *config) { c.members = append([]Member{}, members...) } // not nil
}

// WithSource calls s to get the members: once in [New], and then each time
// interval has passed since the last answer, until [Proxy.Shutdown] or
// [Proxy.Close]. If s fails or returns no members, the proxy logs that and
// keeps the current members. Until s has returned some, the members are those
// of [WithUpstreams]; if there are none, handshakes are answered 503. The
// target of New must be "", and WithUpstreams is optional.
//
// [LookupHost] and [LookupSRV] query name servers. If membership is pushed to
// you, call [Proxy.SetUpstreams], or have s block until it changes. The first
// call is limited to 10 s, or to the time of [WithHandshakeTimeout] if that is
// less. If it returns invalid members, New returns the error. By default there
// is no source.
func WithSource(interval time.Duration, s Source) Option {
	return func(c *config) {
		c.source, c.sourceInterval = s, c.positive("WithSource", interval)
		if s == nil {
			c.mistake("WithSource", nil, "nil source")
		}
	}
}

// WithBalance sets which member gets a new session. The default is
// [LeastSessions].
func WithBalance(b Balance) Option {
	return func(c *config) {
		if c.balance = b; !b.valid {
			c.mistake("WithBalance", "Balance{}", "use LeastSessions, RoundRobin, TwoChoices, Rendezvous or BalanceFunc with a function")
		}
	}
}

// WithSticky sends clients back to the member of their last session, as long as
// it is healthy and not full, by means of a cookie that is set with the 101.
// The cookie has the given attributes (Name, Path, Domain, MaxAge, Secure,
// HttpOnly, SameSite) and a value from which only holders of the secret can
// tell the member. Proxies with the same secret send a client to the same
// member. The secret must have at least 16 bytes. Clients without a valid
// cookie are placed by [WithBalance]. By default no cookie is set.
func WithSticky(cookie http.Cookie, secret []byte) Option {
	return func(c *config) {
		cookie := cookie // an Option may be used again
		cookie.Value = "x"
		if err := cookie.Valid(); err != nil {
			c.mistake("WithSticky", cookie.Name, strings.TrimPrefix(err.Error(), "http: "))
		}
		if len(secret) < 16 {
			c.mistake("WithSticky", len(secret), "secret is shorter than 16 bytes")
		}
		c.sticky = &sticky{cookie: cookie, secret: slices.Clone(secret)}
	}
}

// WithRetry limits retries with another member to a share of all handshakes,
// with a burst of up to 20. The limit keeps retries from doubling the load when
// a whole cluster fails. Retries because this machine has no port left towards
// one member do not count. Half of the 20 is reserved for handshakes that
// failed before the request was sent. The default is 0.2; 0 disables retries,
// and 1 allows all.
//
// Only handshakes that failed before the request was sent are retried, unless
// [WithRetryAfterSend] is set.
func WithRetry(share float64) Option {
	return func(c *config) {
		if c.retryShare = share; !(share >= 0 && share <= 1) {
			c.mistake("WithRetry", share, "must be from 0 to 1")
		}
	}
}

// WithRetryAfterSend also retries a handshake after the request was sent, if
// there was no answer (an invalid answer is one), or the answer was 502, 503 or
// 504. The first member may already have acted on the request. By default such
// a handshake is not retried, and its result is the client's answer.
func WithRetryAfterSend() Option {
	return func(c *config) { c.retrySent = true }
}

// WithJudgeAnswers also backs off from a member because of its answers: after
// the given number of different clients in a row, from 2 to 1000, got a status
// of 500 or above, an invalid answer, or no answer in time. Clients are
// identified by address (behind [WithTrustedProxies], the address that they
// report), and by the first 64 bits of an IPv6 address. By default answers do
// not count, because a client can cause them: it chooses the path. Anyone with
// that many addresses who knows a path that fails can make the proxy back off
// from members. [WithHealthCheck] does not have this weakness.
//
// The number also replaces the three clients of [WithUpstreams] that leave
// while the proxy connects.
func WithJudgeAnswers(clients int) Option {
	return func(c *config) {
		c.judgeAnswers, c.doubtsNeeded = true, clients
		if clients < 2 || clients > mostDoubts {
			c.mistake("WithJudgeAnswers", clients, "must be from 2 to 1000")
		}
	}
}

// WithHealthCheck checks the health of the members actively, in addition to
// observing handshakes. By default there are no checks. Checks end with
// [Proxy.Shutdown] or [Proxy.Close].
func WithHealthCheck(h HealthCheck) Option {
	return func(c *config) {
		h := h // an Option may be used again
		for _, field := range []struct {
			name  string
			value int64
		}{{"Interval", int64(h.Interval)}, {"Timeout", int64(h.Timeout)}, {"Fall", int64(h.Fall)}, {"Rise", int64(h.Rise)}} {
			if field.value < 0 {
				c.mistake("WithHealthCheck", field.name, "negative")
			}
		}
		if _, err := url.ParseRequestURI(h.Path); h.Path != "" && (err != nil || !strings.HasPrefix(h.Path, "/")) {
			path, _, _ := strings.Cut(h.Path, "?") // what follows may be a secret
			c.mistake("WithHealthCheck", path, "path must begin with a slash")
		}
		h.Header = h.Header.Clone()
		for _, name := range slices.Sorted(maps.Keys(h.Header)) {
			values := h.Header[name]
			if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
				c.mistake("WithHealthCheck", name, "invalid header field")
			}
		}
		if h.Interval > 0 && h.Interval < time.Millisecond {
			c.mistake("WithHealthCheck", h.Interval, "less than 1 ms")
		}
		h.Interval, h.Timeout = cmp.Or(h.Interval, defaultCheckInterval), cmp.Or(h.Timeout, defaultCheckTimeout)
		h.Fall, h.Rise = cmp.Or(h.Fall, defaultFall), cmp.Or(h.Rise, defaultRise)
		c.check = &h
	}
}

// WithKeepRemovedMembers lets the sessions of a member continue until they end
// by themselves when [Proxy.SetUpstreams] or [WithSource] removes the member.
// By default the proxy ends them.
func WithKeepRemovedMembers() Option {
	return func(c *config) { c.keepRemoved = true }
}

// WithSourceAddresses dials from the given addresses in turn. It cannot be
// combined with [WithDialContext]. Each source address has about 28,000 ports
// towards one address and port of an upstream (on Linux,
// net.ipv4.ip_local_port_range), which limits the number of sessions. If an
// address has no port left, the next one is tried. On Linux, connections to
// different upstreams do not use up each other's ports
// (IP_BIND_ADDRESS_NO_PORT). An upstream's addresses of the other family than
// the source address are skipped. By default the system chooses the address.
func WithSourceAddresses(addresses ...netip.Addr) Option {
	return func(c *config) {
		c.sourceAddresses = slices.Clone(addresses)
		for _, a := range addresses {
			if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
				c.mistake("WithSourceAddresses", a, "not a unicast address")
			}
		}
	}
}
