package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Source says who the members are now; see [WithSource]. It returns when ctx
// ends, at the latest.
type Source func(ctx context.Context) ([]Member, error)

// EachAddress makes every address of the host in m's target a member of its
// own, with m's weight and limit: a headless Service of Kubernetes, say. TLS
// still verifies the host's name. An address that is missing from an answer has
// been removed: if a name server tells only some of them at a time, use
// [WithKeepRemoved]. A nil resolver is [net.DefaultResolver].
func EachAddress(m Member, resolver *net.Resolver) Source {
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	return func(ctx context.Context) ([]Member, error) {
		u, err := sourceTarget("EachAddress", m)
		if err != nil {
			return nil, err
		}
		// One after the other: of both at once, a failure of one goes unnoticed.
		var addrs []netip.Addr
		for _, family := range []string{"ip4", "ip6"} {
			some, err := resolver.LookupNetIP(ctx, family, u.Hostname())
			if missing := (*net.DNSError)(nil); err != nil && !(errors.As(err, &missing) && missing.IsNotFound) && !as[*net.AddrError](err) {
				return nil, err
			}
			addrs = append(addrs, some...)
		}
		_, address := dialAddress(u)
		_, port, _ := net.SplitHostPort(address) // dialAddress has joined it
		members := make([]Member, 0, len(addrs))
		for _, a := range addrs {
			n := m
			n.Address = net.JoinHostPort(a.Unmap().String(), port)
			members = append(members, n)
		}
		return tidy(members), nil
	}
}

// EachServer makes every SRV record (RFC 2782) of the host in m's target, such
// as http://_ws._tcp.chat.internal/v2, a member of its own, with the record's
// host, port and weight, and m's limit. Only the records of the first priority
// count. TLS verifies the record's host. A nil resolver is [net.DefaultResolver].
func EachServer(m Member, resolver *net.Resolver) Source {
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	return func(ctx context.Context) ([]Member, error) {
		u, err := sourceTarget("EachServer", m)
		if err != nil {
			return nil, err
		}
		_, records, err := resolver.LookupSRV(ctx, "", "", u.Hostname()) // sorted by priority
		if err != nil {
			return nil, err
		}
		members := make([]Member, 0, len(records))
		for _, record := range records {
			if record.Priority != records[0].Priority {
				break
			}
			if record.Target == "." { // there is no such service
				continue
			}
			to := *u
			to.Host = net.JoinHostPort(strings.TrimSuffix(record.Target, "."), strconv.Itoa(int(record.Port)))
			n := m
			n.Target, n.Weight = to.String(), int(record.Weight)
			members = append(members, n)
		}
		return tidy(members), nil
	}
}

func sourceTarget(option string, m Member) (*url.URL, error) {
	u, err := parseTarget(m.Target)
	switch {
	case err != nil:
		return nil, &OptionError{Option: option, Value: redactTarget(m.Target), Reason: err.Error()}
	case u.Scheme == "unix", m.Address != "":
		return nil, &OptionError{Option: option, Value: redactTarget(m.Target), Reason: "has no name to look up"}
	}
	return u, nil
}

// tidy sorts members, for every answer of a name server's has another order,
// and takes out those that are there twice.
func tidy(members []Member) []Member {
	slices.SortFunc(members, func(a, b Member) int {
		if c := strings.Compare(a.Target, b.Target); c != 0 {
			return c
		}
		return strings.Compare(a.Address, b.Address)
	})
	return slices.CompactFunc(members, func(a, b Member) bool { return a.Target == b.Target && a.Address == b.Address })
}

// renew asks the source once. Whatever fails, the members stay.
func (p *Proxy) renew(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v\n%s", errPanic, v, debug.Stack())
		}
		if err != nil && p.life.Err() == nil {
			guarded("the logger", func() {
				p.logger.LogAttrs(ctx, slog.LevelWarn, "wsproxy: members not renewed", slog.String("error", withoutURL(err).Error()))
			})
		}
	}()
	members, err := p.source(ctx)
	switch {
	case err != nil:
		return err
	case len(members) == 0:
		return errors.New("the source has none")
	}
	return p.SetUpstreams(members...)
}

// withoutURL is the error without the URL that net/http tells in it: that may
// have a token in its query.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("%s: %w", e.Op, withoutURL(e.Err))
	}
	return err
}

// follow asks the source again and again, until the proxy shuts down.
func (p *Proxy) follow() {
	timer := time.NewTimer(p.sourceInterval)
	defer timer.Stop()
	for {
		select {
		case <-p.life.Done():
			return
		case <-timer.C:
		}
		p.renew(p.life) // logged
		timer.Reset(p.sourceInterval)
	}
}

// firstMembers asks the source for the first time. A name server that doesn't
// answer is no mistake of the caller's: there will be members when it does.
func (p *Proxy) firstMembers() error {
	ctx, cancel := context.WithTimeout(p.life, p.handshakeTimeout)
	defer cancel()
	err := p.renew(ctx)
	if mistake := (*OptionError)(nil); errors.As(err, &mistake) {
		return err
	}
	return nil
}
