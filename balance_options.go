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

// The options of a proxy with several upstreams. Their defaults, which the
// comments repeat:
const (
	defaultRetryShare    = 0.2
	defaultCheckInterval = 10 * time.Second
	defaultCheckTimeout  = 5 * time.Second
	defaultFall          = 3
	defaultRise          = 2
)

// WithUpstreams balances over several members; [New]'s target is then "". By
// default there is one, the target. [WithBalance] says by what rule,
// [Proxy.SetUpstreams] changes the set.
//
// A member with which a handshake fails is left alone for a second, and after
// each further failure in a row for twice as long, up to 30 s; then one
// handshake goes ahead, and others follow when it has connected. A failure is
// what no client can bring about: connecting, or TLS, fails or takes too long, or
// the answer is not HTTP. Three different clients that leave, one after the other,
// when connecting has taken a second, are a failure too. Answers to a request,
// 5xx included, are none ([WithJudgeAnswers]), nor is a lack of descriptors,
// memory or ports on this machine. Meanwhile handshakes go to others; if none is
// well, the one that has been left alone for longest is tried.
//
// A handshake that has failed before the request was sent is tried again with
// another member, as long as the time of [WithHandshakeTimeout] lasts and as long
// as retries are few: see [WithRetry]. While there are others, connecting to one
// takes at most half of the time that is left, a second at least and 5 s at most.
// When every member that is well has its MaxSessions, the client is answered 503
// and Retry-After.
//
// [WithRewrite] is called for each member that is tried. Where it goes to
// another scheme or host, all of this leaves the session alone.
func WithUpstreams(members ...Member) Option {
	return func(c *config) { c.members = append([]Member{}, members...) } // not nil
}

// WithSource asks s who the members are: once in [New], and then each time so
// long after its last answer, until [Proxy.Shutdown] or [Proxy.Close]. When it
// fails, or names none, that is logged and the last members stay; until it has
// named some, they are those of [WithUpstreams], or else handshakes are answered
// 503. Where New's target is "", that is enough.
//
// [LookupHost] and [LookupSRV] ask name servers. For what is told rather than
// asked, call [Proxy.SetUpstreams], or wait in s until there is news. The first
// call has 10 s, or the time of [WithHandshakeTimeout] if that is less; a mistake
// in what it returns is New's error. By default the members stay what they are.
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
		if c.balance = b; b.find == nil {
			c.mistake("WithBalance", "Balance{}", "made by none of LeastSessions, RoundRobin, TwoChoices, Rendezvous, BalanceFunc; or by BalanceFunc(nil)")
		}
	}
}

// WithSticky has clients come back to the member that had their last session,
// as long as it is well and not full, by a cookie that is set with the 101. The
// cookie is as given (Name, Path, Domain, MaxAge, Secure, HttpOnly, SameSite),
// with a value by which those who know the secret, and nobody else, can tell the
// member: proxies that share the secret, of at least 16 bytes, send a client to
// the same one. Clients without such a cookie are placed by [WithBalance], and by
// default all are.
func WithSticky(cookie http.Cookie, secret []byte) Option {
	return func(c *config) {
		cookie := cookie // an Option may be used again
		cookie.Value = "x"
		if err := cookie.Valid(); err != nil {
			c.mistake("WithSticky", cookie.Name, strings.TrimPrefix(err.Error(), "http: "))
		}
		if len(secret) < 16 {
			c.mistake("WithSticky", len(secret), "a secret of fewer than 16 bytes")
		}
		c.sticky = &sticky{cookie: cookie, secret: slices.Clone(secret)}
	}
}

// WithRetry sets how many handshakes may be tried again with another member: a
// share of all, and up to 20 in a row. When a whole cluster is sick, retries
// don't double its load; those for which this machine has no port towards one
// member don't count. Half of the 20 is kept for what failed before the request was
// sent. The default is 0.2; 0 is none, and 1 is all of them.
//
// What is tried again is what failed before the request was sent, unless
// [WithRetryAfterSend] says more.
func WithRetry(share float64) Option {
	return func(c *config) {
		if c.retryShare = share; !(share >= 0 && share <= 1) {
			c.mistake("WithRetry", share, "not a share from 0 to 1")
		}
	}
}

// WithRetryAfterSend has handshakes be tried again also when the request was sent,
// and got no answer (a bad one is one), or 502, 503 or 504: the first member may
// have acted on it.
// By default that is the client's answer.
func WithRetryAfterSend() Option {
	return func(c *config) { c.retrySent = true }
}

// WithJudgeAnswers also leaves a member alone for the answers that it gives: when
// that many different clients in a row, from 2 to 1000, have been answered with a
// status of 500 or above, or badly, or not in time. Clients are told apart by
// address (behind [WithTrustedProxies], the one that they tell of), of IPv6 the
// first 64 bits. By default answers count for nothing, because a client can bring
// them about: it chooses the path. Whoever has that many addresses, and knows a
// path that fails, can have members left alone. [WithHealthCheck] has no such
// weakness.
//
// The number replaces the three clients of [WithUpstreams] that leave while the
// proxy connects.
func WithJudgeAnswers(clients int) Option {
	return func(c *config) {
		c.judgeAnswers, c.doubtsNeeded = true, clients
		if clients < 2 || clients > mostDoubts {
			c.mistake("WithJudgeAnswers", clients, "not from 2 to 1000: one client must not decide for others")
		}
	}
}

// WithHealthCheck asks the members whether they are well, besides what
// handshakes tell. By default nobody is asked. Checks end with [Proxy.Shutdown]
// or [Proxy.Close].
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
			c.mistake("WithHealthCheck", path, "not a path that begins with a slash")
		}
		h.Header = h.Header.Clone()
		for _, name := range slices.Sorted(maps.Keys(h.Header)) {
			values := h.Header[name]
			if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
				c.mistake("WithHealthCheck", name, "not a valid header field")
			}
		}
		if h.Interval > 0 && h.Interval < time.Millisecond {
			c.mistake("WithHealthCheck", h.Interval, "under a millisecond")
		}
		h.Interval, h.Timeout = cmp.Or(h.Interval, defaultCheckInterval), cmp.Or(h.Timeout, defaultCheckTimeout)
		h.Fall, h.Rise = cmp.Or(h.Fall, defaultFall), cmp.Or(h.Rise, defaultRise)
		c.check = &h
	}
}

// WithKeepRemovedMembers lets sessions go on when [Proxy.SetUpstreams], or
// [WithSource], takes their member out of the set, until they end by
// themselves. By default they are told to end.
func WithKeepRemovedMembers() Option {
	return func(c *config) { c.keepRemoved = true }
}

// WithSourceAddresses dials from these addresses in turn, for [WithDialContext]
// to be left alone: towards one address and port of an upstream, each has some
// 28,000 ports of its own (on Linux, net.ipv4.ip_local_port_range), and no more
// sessions than that. Where one has no port left, the next one is tried. On
// Linux the ports of connections to different upstreams don't count together
// (IP_BIND_ADDRESS_NO_PORT). By default the system chooses the address. An
// upstream's addresses of the other family are left out.
func WithSourceAddresses(addresses ...netip.Addr) Option {
	return func(c *config) {
		c.sourceAddresses = slices.Clone(addresses)
		for _, a := range addresses {
			if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
				c.mistake("WithSourceAddresses", a, "not the address of a machine")
			}
		}
	}
}
