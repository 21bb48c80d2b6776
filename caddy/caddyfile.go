package wscaddy

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
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

var _ caddyfile.Unmarshaler = (*Handler)(nil)
