package wscaddy

import (
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
)

// This file reads the subdirectives that belong together: balancing, health, TLS,
// header fields, and those of one side.

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
