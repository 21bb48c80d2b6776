package wscaddy

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/dustin/go-humanize"
)

// This file reads the directive of a Caddyfile.

func init() {
	httpcaddyfile.RegisterHandlerDirective("wsproxy", parseCaddyfile)
	// What is no WebSocket goes on to a reverse_proxy of the same site.
	httpcaddyfile.RegisterDirectiveOrder("wsproxy", httpcaddyfile.Before, "reverse_proxy")
}

func parseCaddyfile(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h := new(Handler)
	return h, h.UnmarshalCaddyfile(helper.Dispenser)
}

// UnmarshalCaddyfile implements [caddyfile.Unmarshaler]. Syntax:
//
//	wsproxy [<matcher>] [<upstreams...>] {
//		name <name>
//
//		# upstreams
//		to       <upstreams...>
//		upstream <upstream> {
//			address      <host:port>
//			weight       <n>
//			max_sessions <n>
//		}
//		dynamic a|srv <target> {
//			refresh      <duration>
//			resolvers    <addresses...>
//			max_sessions <n>
//			keep_removed
//		}
//		target_path
//
//		# selecting one
//		lb_policy <policy> [<options...>]
//		lb_retry_share <share>
//		lb_retry_after_send
//
//		# health
//		health_uri       <uri>
//		health_websocket
//		health_headers {
//			<field> [<values...>]
//		}
//		health_interval  <duration>
//		health_timeout   <duration>
//		health_passes    <n>
//		health_fails     <n>
//		health_close
//		judge_answers    <clients>
//
//		# TLS to the upstreams
//		tls
//		tls_client_auth <automate_name> | <cert_file> <key_file>
//		tls_trust_pool <module> [<options...>]
//		tls_server_name <name>
//		tls_curves <curves...>
//		tls_insecure_skip_verify
//
//		# requests and answers
//		origins     <patterns...>
//		header_up   [+|-]<field> [<value|regexp> [<replacement>]]
//		header_down [+|-]<field> [<value|regexp> [<replacement>]]
//
//		# time
//		ping [client|upstream] off | <interval> [<timeout>]
//		idle_timeout      <duration>
//		write_timeout     <duration>
//		handshake_timeout <duration>
//		close_timeout     <duration>
//		max_age           <duration>
//		drain             <duration> [<code>]
//		lost_code         <code>
//
//		# limits
//		max_sessions            <n>
//		max_sessions_per_client <n>
//		max_handshakes          <n>
//		max_message_size [client|upstream] <size>
//		max_frame_size   [client|upstream] <size>
//		rate_limit       [client|upstream] {
//			messages <per second>
//			frames   <per second>
//			bytes    <size per second>
//			burst    <duration>
//			close
//		}
//
//		detach
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive
	h.to(d.RemainingArgs())
	for d.NextBlock(0) {
		if err := h.subdirective(d); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) to(targets []string) {
	for _, target := range targets {
		h.Upstreams = append(h.Upstreams, Upstream{Target: target})
	}
}

func (h *Handler) subdirective(d *caddyfile.Dispenser) error {
	switch name := d.Val(); name {
	case "name":
		return text(d, &h.Name)
	case "to":
		targets := d.RemainingArgs()
		h.to(targets)
		return wantArgs(d, len(targets) > 0)
	case "upstream":
		return h.upstream(d)
	case "dynamic":
		return h.dynamic(d)
	case "target_path":
		return flag(d, &h.TargetPath)
	case "lb_policy", "lb_retry_share", "lb_retry_after_send":
		if h.LoadBalancing == nil {
			h.LoadBalancing = new(LoadBalancing)
		}
		return h.LoadBalancing.subdirective(d)
	case "health_uri", "health_websocket", "health_headers", "health_interval", "health_timeout", "health_passes", "health_fails", "health_close":
		if h.HealthChecks == nil {
			h.HealthChecks = new(HealthChecks)
		}
		return h.HealthChecks.subdirective(d)
	case "judge_answers":
		return number(d, &h.JudgeAnswers)
	case "tls", "tls_client_auth", "tls_trust_pool", "tls_server_name", "tls_curves", "tls_insecure_skip_verify":
		if h.TLS == nil {
			h.TLS = new(reverseproxy.TLSConfig)
		}
		return tlsSubdirective(d, h.TLS)
	case "origins":
		h.Origins = append(h.Origins, d.RemainingArgs()...)
		return wantArgs(d, len(h.Origins) > 0)
	case "header_up", "header_down":
		return h.header(d)
	case "ping", "max_message_size", "max_frame_size", "rate_limit":
		return h.sides(d)
	case "idle_timeout":
		return duration(d, &h.IdleTimeout)
	case "write_timeout":
		return positive(d, &h.WriteTimeout)
	case "handshake_timeout":
		return positive(d, &h.HandshakeTimeout)
	case "close_timeout":
		return positive(d, &h.CloseTimeout)
	case "max_age":
		return duration(d, &h.MaxAge)
	case "drain":
		args := d.RemainingArgs()
		if len(args) == 2 {
			code, err := strconv.Atoi(args[1])
			if err != nil {
				return d.Errf("drain: %q is not a close code", args[1])
			}
			h.DrainCode = code
			args = args[:1]
		}
		return durationOf(d, args, &h.Drain)
	case "lost_code":
		return number(d, &h.LostCode)
	case "max_sessions":
		return number(d, &h.MaxSessions)
	case "max_sessions_per_client":
		return number(d, &h.MaxSessionsPerClient)
	case "max_handshakes":
		return number(d, &h.MaxHandshakes)
	case "detach":
		return flag(d, &h.Detach)
	}
	return d.Errf("unrecognized subdirective %q", d.Val())
}

func (h *Handler) upstream(d *caddyfile.Dispenser) error {
	var u Upstream
	if err := text(d, &u.Target); err != nil {
		return err
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "address":
			err = text(d, &u.Address)
		case "weight":
			err = number(d, &u.Weight)
		case "max_sessions":
			err = number(d, &u.MaxSessions)
		default:
			err = d.Errf("unrecognized subdirective %q of upstream", d.Val())
		}
		if err != nil {
			return err
		}
	}
	h.Upstreams = append(h.Upstreams, u)
	return nil
}

func (h *Handler) dynamic(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.ArgErr()
	}
	if h.DynamicUpstreams != nil {
		return d.Err("dynamic is already set")
	}
	u := &DynamicUpstreams{Type: args[0], Target: args[1]}
	h.DynamicUpstreams = u
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "refresh":
			err = duration(d, &u.Refresh)
		case "resolvers":
			u.Resolvers = append(u.Resolvers, d.RemainingArgs()...)
			err = wantArgs(d, len(u.Resolvers) > 0)
		case "max_sessions":
			err = number(d, &u.MaxSessions)
		case "keep_removed":
			err = flag(d, &u.KeepRemoved)
		default:
			err = d.Errf("unrecognized subdirective %q of dynamic", d.Val())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *LoadBalancing) subdirective(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "lb_retry_share":
		share := new(float64)
		l.RetryShare = share
		return decimal(d, share)
	case "lb_retry_after_send":
		return flag(d, &l.RetryAfterSend)
	}
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	if l.Policy != "" {
		return d.Err("lb_policy is already set")
	}
	l.Policy, args = args[0], args[1:]
	most := 0
	switch l.Policy {
	case "weighted_round_robin":
		for _, arg := range args {
			weight, err := strconv.Atoi(arg)
			if err != nil {
				return d.Errf("lb_policy: %q is not a weight", arg)
			}
			l.Weights = append(l.Weights, weight)
		}
		most = len(args)
	case "random_choose":
		if most = 1; len(args) == 1 {
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 2 {
				return d.Errf("lb_policy random_choose: %q is not a number from 2", args[0])
			}
			l.Choose = n
		}
	case "query", "header":
		if most = 1; len(args) == 1 {
			l.Key = args[0]
		}
	case "cookie":
		most = 2
		if len(args) > 0 {
			l.Key = args[0]
		}
		if len(args) > 1 {
			l.Secret = args[1]
		}
	}
	if len(args) > most {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch name := d.Val(); {
		case l.Policy == "cookie" && name == "max_age":
			err = duration(d, &l.MaxAge)
		case l.Policy == "cookie" && name == "secure":
			err = flag(d, &l.Secure)
		default:
			err = d.Errf("unrecognized subdirective %q of lb_policy %s", name, l.Policy)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *HealthChecks) subdirective(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "health_uri":
		return text(d, &c.URI)
	case "health_websocket":
		c.URI = ""
		return wantArgs(d, !d.NextArg())
	case "health_headers":
		c.Headers = make(http.Header)
		for nesting := d.Nesting(); d.NextBlock(nesting); {
			name := d.Val()
			for _, value := range d.RemainingArgs() {
				c.Headers.Add(name, value)
			}
		}
		return nil
	case "health_interval":
		return duration(d, &c.Interval)
	case "health_timeout":
		return duration(d, &c.Timeout)
	case "health_passes":
		return number(d, &c.Passes)
	case "health_fails":
		return number(d, &c.Fails)
	}
	return flag(d, &c.Close) // health_close
}

// tlsSubdirective reads what reverse_proxy's http transport has by the same
// names.
func tlsSubdirective(d *caddyfile.Dispenser, t *reverseproxy.TLSConfig) error {
	switch d.Val() {
	case "tls":
		return wantArgs(d, !d.NextArg())
	case "tls_client_auth":
		switch args := d.RemainingArgs(); len(args) {
		case 1:
			t.ClientCertificateAutomate = args[0]
		case 2:
			t.ClientCertificateFile, t.ClientCertificateKeyFile = args[0], args[1]
		default:
			return d.ArgErr()
		}
		return nil
	case "tls_trust_pool":
		if !d.NextArg() {
			return d.ArgErr()
		}
		if t.CARaw != nil {
			return d.Err("tls_trust_pool is already set")
		}
		name := d.Val()
		module, err := caddyfile.UnmarshalModule(d, "tls.ca_pool.source."+name)
		if err != nil {
			return err
		}
		pool, ok := module.(caddytls.CA)
		if !ok {
			return d.Errf("%T is not a pool of certificates", module)
		}
		t.CARaw = caddyconfig.JSONModuleObject(pool, "provider", name, nil)
		return nil
	case "tls_server_name":
		return text(d, &t.ServerName)
	case "tls_curves":
		t.Curves = d.RemainingArgs()
		return wantArgs(d, len(t.Curves) > 0)
	}
	return flag(d, &t.InsecureSkipVerify) // tls_insecure_skip_verify
}

func (h *Handler) header(d *caddyfile.Dispenser) error {
	if h.Headers == nil {
		h.Headers = new(headers.Handler)
	}
	var ops *headers.HeaderOps
	if d.Val() == "header_up" {
		if h.Headers.Request == nil {
			h.Headers.Request = new(headers.HeaderOps)
		}
		ops = h.Headers.Request
	} else {
		if h.Headers.Response == nil {
			h.Headers.Response = &headers.RespHeaderOps{HeaderOps: new(headers.HeaderOps)}
		}
		ops = h.Headers.Response.HeaderOps
	}
	var err error
	switch args := d.RemainingArgs(); len(args) {
	case 1:
		err = headers.CaddyfileHeaderOp(ops, args[0], "", nil)
	case 2:
		err = headers.CaddyfileHeaderOp(ops, args[0], args[1], nil)
	case 3:
		err = headers.CaddyfileHeaderOp(ops, args[0], args[1], &args[2])
	default:
		return d.ArgErr()
	}
	if err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// sides reads a subdirective that applies to one side, or to both.
func (h *Handler) sides(d *caddyfile.Dispenser) error {
	name, args := d.Val(), d.RemainingArgs()
	sides := []*Side{&h.Client, &h.Upstream}
	if len(args) > 0 {
		switch args[0] {
		case "client":
			sides, args = sides[:1], args[1:]
		case "upstream":
			sides, args = sides[1:], args[1:]
		}
	}
	var read Side
	switch name {
	case "ping":
		read.Ping = new(Ping)
		if err := read.Ping.read(d, args); err != nil {
			return err
		}
	case "rate_limit":
		if len(args) > 0 {
			return d.ArgErr()
		}
		read.RateLimit = new(RateLimit)
		if err := read.RateLimit.read(d); err != nil {
			return err
		}
	default:
		if len(args) != 1 {
			return d.ArgErr()
		}
		n, err := size(args[0])
		if err != nil {
			return d.Errf("%s: %v", name, err)
		}
		read.MaxMessageSize = n
	}
	for _, side := range sides {
		switch name {
		case "ping":
			side.Ping = read.Ping
		case "rate_limit":
			side.RateLimit = read.RateLimit
		case "max_message_size":
			side.MaxMessageSize = read.MaxMessageSize
		case "max_frame_size":
			side.MaxFrameSize = read.MaxMessageSize
		}
	}
	return nil
}

func (p *Ping) read(d *caddyfile.Dispenser, args []string) error {
	if len(args) == 1 && args[0] == "off" {
		return nil
	}
	if len(args) == 2 {
		if err := durationOf(d, args[1:], &p.Timeout); err != nil {
			return err
		}
		args = args[:1]
	}
	if err := durationOf(d, args, &p.Interval); err != nil {
		return err
	}
	if p.Interval == 0 {
		return d.Err("ping: the interval is 0; to disable pings, write off")
	}
	return nil
}

func (r *RateLimit) read(d *caddyfile.Dispenser) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "messages":
			err = decimal(d, &r.Messages)
		case "frames":
			err = decimal(d, &r.Frames)
		case "bytes":
			var arg string
			if err = text(d, &arg); err == nil {
				var n int
				n, err = size(arg)
				r.Bytes = float64(n)
			}
		case "burst":
			err = duration(d, &r.Burst)
		case "close":
			err = flag(d, &r.Close)
		default:
			err = d.Errf("unrecognized subdirective %q of rate_limit", d.Val())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// The functions below read the arguments of a subdirective.

func wantArgs(d *caddyfile.Dispenser, right bool) error {
	if !right {
		return d.ArgErr()
	}
	return nil
}

func text(d *caddyfile.Dispenser, to *string) error {
	args := d.RemainingArgs()
	if len(args) != 1 {
		return d.ArgErr()
	}
	*to = args[0]
	return nil
}

func flag(d *caddyfile.Dispenser, to *bool) error {
	*to = true
	return wantArgs(d, !d.NextArg())
}

func number(d *caddyfile.Dispenser, to *int) (err error) {
	name, arg := d.Val(), ""
	if err := text(d, &arg); err != nil {
		return err
	}
	if *to, err = strconv.Atoi(arg); err != nil {
		return d.Errf("%s: %q is not a whole number", name, arg)
	}
	return nil
}

func decimal(d *caddyfile.Dispenser, to *float64) (err error) {
	name, arg := d.Val(), ""
	if err := text(d, &arg); err != nil {
		return err
	}
	if *to, err = strconv.ParseFloat(arg, 64); err != nil {
		return d.Errf("%s: %q is not a number", name, arg)
	}
	return nil
}

func duration(d *caddyfile.Dispenser, to *caddy.Duration) error {
	name := d.Val()
	if err := durationOf(d, d.RemainingArgs(), to); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// positive reads a duration for which 0 does not mean that there is none.
func positive(d *caddyfile.Dispenser, to *caddy.Duration) error {
	name := d.Val()
	if err := duration(d, to); err != nil {
		return err
	}
	if *to <= 0 {
		return d.Errf("%s: must be above 0", name)
	}
	return nil
}

func durationOf(d *caddyfile.Dispenser, args []string, to *caddy.Duration) error {
	if len(args) != 1 {
		return d.ArgErr()
	}
	t, err := caddy.ParseDuration(args[0])
	if err != nil {
		return d.Errf("%q is not a duration", args[0])
	}
	*to = caddy.Duration(t)
	return nil
}

// size reads a number of bytes, such as 512, 64KiB or 10MB.
func size(text string) (int, error) {
	n, err := humanize.ParseBytes(text)
	switch {
	case err != nil:
		return 0, err
	case n > math.MaxInt:
		return 0, errors.New("too large")
	}
	return int(n), nil
}

var _ caddyfile.Unmarshaler = (*Handler)(nil)
