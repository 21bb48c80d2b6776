package wscaddy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-ffb73231/wsproxy"
)

// This file holds the upstreams and how one is selected.

// An Upstream is a server to proxy to.
type Upstream struct {
	// Target is host:port, a URL with the scheme http, https, ws or wss and
	// perhaps a path, or unix//path/to/socket. A port may be a range. The host
	// is localhost by default, and the port 80, or 443 with TLS. Placeholders
	// that do not depend on the request are replaced: {env.*}, {file.*}.
	Target string `json:"target"`

	// Address is the host:port to connect to in place of the target's host.
	Address string `json:"address,omitempty"`

	Weight      int `json:"weight,omitempty"`       // the share of the sessions; default: 1
	MaxSessions int `json:"max_sessions,omitempty"` // default: no limit
}

// DynamicUpstreams takes the upstreams from a name server.
type DynamicUpstreams struct {
	// Type is "a", for the addresses of the target's host, or "srv", for the SRV
	// records of the target's host, such as http://_ws._tcp.chat.internal.
	Type   string `json:"type"`
	Target string `json:"target"`

	Refresh     caddy.Duration `json:"refresh,omitempty"`      // default: 30s
	Resolvers   []string       `json:"resolvers,omitempty"`    // host:port; default: the system's
	MaxSessions int            `json:"max_sessions,omitempty"` // of each; default: no limit

	// KeepRemoved lets the sessions of an upstream that the name server no
	// longer has continue. Default: they are ended with Close 1012.
	KeepRemoved bool `json:"keep_removed,omitempty"`
}

// LoadBalancing selects the upstream of a session.
type LoadBalancing struct {
	// Policy is least_conn (the default), round_robin, weighted_round_robin,
	// random, random_choose, first, ip_hash, client_ip_hash, uri_hash, query,
	// header or cookie, as in reverse_proxy.
	Policy string `json:"policy,omitempty"`

	Key     string `json:"key,omitempty"`     // the name of the query's parameter, the header field or the cookie
	Choose  int    `json:"choose,omitempty"`  // how many upstreams random_choose draws; default: 2
	Weights []int  `json:"weights,omitempty"` // of the upstreams, for weighted_round_robin

	Secret string         `json:"secret,omitempty"`  // of the cookie, at least 16 bytes
	MaxAge caddy.Duration `json:"max_age,omitempty"` // of the cookie; default: until the browser is closed
	Secure bool           `json:"secure,omitempty"`  // the browser sends the cookie over https only

	RetryShare     *float64 `json:"retry_share,omitempty"`      // retries with another upstream, as a share of all handshakes; default: 0.2
	RetryAfterSend bool     `json:"retry_after_send,omitempty"` // retry also when an upstream may have acted on the request
}

// replace replaces the placeholders that do not depend on a request.
func (h *Handler) replace() error {
	fields := []*string{}
	for i := range h.Upstreams {
		fields = append(fields, &h.Upstreams[i].Target, &h.Upstreams[i].Address)
	}
	if d := h.DynamicUpstreams; d != nil {
		fields = append(fields, &d.Target)
	}
	if l := h.LoadBalancing; l != nil {
		fields = append(fields, &l.Secret)
	}
	repl := caddy.NewReplacer()
	for _, field := range fields {
		text, err := repl.ReplaceOrErr(*field, true, true)
		if err != nil {
			return fmt.Errorf("%q: %w", *field, err)
		}
		*field = text
	}
	return nil
}

// members returns the upstreams as members of the proxy.
func (h *Handler) members() (members []wsproxy.Member, err error) {
	if (len(h.Upstreams) > 0) == (h.DynamicUpstreams != nil) {
		return nil, errors.New("want upstreams, or dynamic upstreams, and not both")
	}
	for _, u := range h.Upstreams {
		targets, err := h.targets(u.Target)
		if err != nil {
			return nil, fmt.Errorf("upstream %q: %w", u.Target, err)
		}
		for _, target := range targets {
			members = append(members, wsproxy.Member{Target: target, Address: u.Address, Weight: u.Weight, MaxSessions: u.MaxSessions})
		}
	}
	l := h.LoadBalancing
	if l == nil || l.Policy != "weighted_round_robin" {
		return members, nil
	}
	if len(l.Weights) != len(members) {
		return nil, fmt.Errorf("weighted_round_robin has %d weights for %d upstreams", len(l.Weights), len(members))
	}
	for i, weight := range l.Weights {
		if weight <= 0 {
			return nil, fmt.Errorf("weighted_round_robin: weight %d is not above 0", weight)
		}
		members[i].Weight = weight
	}
	return members, nil
}

// targets returns the targets that an upstream of Caddy's kind stands for.
func (h *Handler) targets(text string) ([]string, error) {
	if strings.Contains(text, "://") {
		return []string{text}, nil
	}
	if path, ok := strings.CutPrefix(text, "unix:"); ok { // wsproxy's own kind
		return []string{"unix:" + path}, nil
	}
	scheme, port := "http", "80"
	if h.TLS != nil {
		scheme, port = "https", "443"
	}
	network, host, ports, err := caddy.SplitNetworkAddress(text)
	switch {
	case err != nil: // a name without a port
		return []string{scheme + "://" + text}, nil
	case network == "unix" && h.TLS != nil:
		return nil, errors.New("TLS over a unix socket is not supported")
	case network == "unix":
		return []string{"unix:" + host}, nil
	case network != "" && network != "tcp":
		return nil, fmt.Errorf("unsupported network %q", network)
	case ports == "":
		ports = port
	}
	if host == "" {
		host = "localhost"
	}
	address, err := caddy.ParseNetworkAddress(net.JoinHostPort(host, ports))
	if err != nil {
		return nil, err
	}
	var all []string
	for port := address.StartPort; port <= address.EndPort; port++ {
		all = append(all, scheme+"://"+net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10)))
	}
	return all, nil
}

// source returns the options for upstreams from a name server.
func (h *Handler) source() (all []wsproxy.Option, err error) {
	d := h.DynamicUpstreams
	targets, err := h.targets(d.Target)
	if err != nil || len(targets) != 1 {
		return nil, fmt.Errorf("dynamic upstreams %q: want one URL: %w", d.Target, err)
	}
	member := wsproxy.Member{Target: targets[0], MaxSessions: d.MaxSessions}
	resolver := resolver(d.Resolvers)
	var source wsproxy.Source
	switch d.Type {
	case "a":
		source = wsproxy.LookupHost(member, resolver)
	case "srv":
		source = wsproxy.LookupSRV(member, resolver)
	default:
		return nil, fmt.Errorf("dynamic upstreams: unknown type %q; want a or srv", d.Type)
	}
	refresh := time.Duration(d.Refresh)
	if refresh == 0 {
		refresh = 30 * time.Second
	}
	all = append(all, wsproxy.WithSource(refresh, source))
	if d.KeepRemoved {
		all = append(all, wsproxy.WithKeepRemovedMembers())
	}
	return all, nil
}

func (l *LoadBalancing) options() (all []wsproxy.Option, err error) {
	if l.RetryShare != nil {
		all = append(all, wsproxy.WithRetry(*l.RetryShare))
	}
	if l.RetryAfterSend {
		all = append(all, wsproxy.WithRetryAfterSend())
	}
	switch l.Policy {
	case "query", "header":
		if l.Key == "" {
			return nil, fmt.Errorf("lb_policy %s: no name", l.Policy)
		}
	case "cookie":
		cookie := http.Cookie{
			Name: l.Key, Path: "/", MaxAge: int(time.Duration(l.MaxAge).Seconds()), Secure: l.Secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
		}
		if cookie.Name == "" {
			cookie.Name = "lb"
		}
		return append(all, wsproxy.WithSticky(cookie, []byte(l.Secret))), nil
	}
	balance, ok := map[string]wsproxy.Balance{
		"":                     wsproxy.LeastSessions(),
		"least_conn":           wsproxy.LeastSessions(),
		"round_robin":          wsproxy.RoundRobin(),
		"weighted_round_robin": wsproxy.RoundRobin(),
		"random":               wsproxy.BalanceFunc(func(_ *http.Request, m []wsproxy.MemberState) int { return rand.IntN(len(m)) }),
		"random_choose":        wsproxy.BalanceFunc(l.randomChoose),
		"first":                wsproxy.BalanceFunc(func(*http.Request, []wsproxy.MemberState) int { return 0 }),
		"ip_hash":              wsproxy.Rendezvous(peer),
		"client_ip_hash":       wsproxy.Rendezvous(nil),
		"uri_hash":             wsproxy.Rendezvous(func(r *http.Request) string { return r.RequestURI }),
		"query":                wsproxy.Rendezvous(func(r *http.Request) string { return strings.Join(r.URL.Query()[l.Key], ",") }),
		"header":               wsproxy.Rendezvous(l.header),
	}[l.Policy]
	if !ok {
		return nil, fmt.Errorf("unknown lb_policy %q", l.Policy)
	}
	return append(all, wsproxy.WithBalance(balance)), nil
}

// randomChoose draws some members, and selects the one with the fewest sessions
// relative to its weight.
func (l *LoadBalancing) randomChoose(_ *http.Request, members []wsproxy.MemberState) int {
	choose := l.Choose
	if choose == 0 {
		choose = 2
	}
	drawn := rand.Perm(len(members))[:min(choose, len(members))]
	return slices.MinFunc(drawn, func(i, j int) int {
		return members[i].Sessions*members[j].Weight - members[j].Sessions*members[i].Weight
	})
}

// header returns the value of the field that selects the upstream.
func (l *LoadBalancing) header(r *http.Request) string {
	if strings.EqualFold(l.Key, "Host") {
		return r.Host
	}
	return strings.Join(r.Header.Values(l.Key), ",")
}

// resolver returns a resolver that asks the servers, or nil for the system's.
func resolver(servers []string) *net.Resolver {
	if len(servers) == 0 {
		return nil
	}
	return &net.Resolver{PreferGo: true, Dial: dialOneOf(servers)}
}

// dialOneOf connects to a random one of the name servers: a question that is
// not answered is asked again, probably of another.
func dialOneOf(servers []string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		server := servers[rand.IntN(len(servers))]
		if _, _, err := net.SplitHostPort(server); err != nil {
			server = net.JoinHostPort(server, "53")
		}
		return new(net.Dialer).DialContext(ctx, network, server)
	}
}
