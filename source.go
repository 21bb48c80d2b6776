package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Source returns the current members; see [WithSource]. It must return when
// ctx is done.
type Source func(ctx context.Context) ([]Member, error)

// LookupHost returns a [Source] that makes every address of the host in m's
// target a member, with the weight and limit of m. It suits, for example, a
// headless Service of Kubernetes. TLS still verifies the host's name. If
// resolver is nil, [net.DefaultResolver] is used.
//
// An address that is missing from an answer is kept at first, because a name
// server may return only some of the addresses, or omit one temporarily. It is
// removed when it is missing from five answers in a row, which takes five times
// the interval of [WithSource]. Failed lookups and answers without any address
// do not count. If a name server returns a random few of many addresses, also
// use [WithKeepRemovedMembers].
func LookupHost(m Member, resolver *net.Resolver) Source {
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	source := new(byte)
	return func(ctx context.Context) ([]Member, error) {
		u, err := sourceTarget("LookupHost", m)
		if err != nil {
			return nil, err
		}
		// One after the other: a lookup of both at once hides the failure of one.
		var addrs []netip.Addr
		for _, family := range []string{"ip4", "ip6"} {
			some, err := resolver.LookupNetIP(ctx, family, u.Hostname())
			if missing := (*net.DNSError)(nil); err != nil && !(errors.As(err, &missing) && missing.IsNotFound) && !as[*net.AddrError](err) {
				return nil, err
			}
			addrs = append(addrs, some...)
		}
		_, address := dialAddress(u)
		_, port, _ := net.SplitHostPort(address) // dialAddress joined it
		members := make([]Member, 0, len(addrs))
		for _, a := range addrs {
			n := m
			n.Address = net.JoinHostPort(a.Unmap().String(), port)
			members = append(members, n)
		}
		return tidy(remember(ctx, source, members, nil)), nil
	}
}

// LookupSRV returns a [Source] that makes every SRV record (RFC 2782) of the
// host in m's target, such as http://_ws._tcp.chat.internal/v2, a member, with
// the host, port and weight of the record and the limit of m. Only records of
// the most preferred priority are used. TLS verifies the record's host. If
// resolver is nil, [net.DefaultResolver] is used.
//
// A record that is missing from an answer is kept at first, as with
// [LookupHost]. A record that is present with a less preferred priority is
// removed at once.
func LookupSRV(m Member, resolver *net.Resolver) Source {
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	source := new(byte)
	return func(ctx context.Context) ([]Member, error) {
		u, err := sourceTarget("LookupSRV", m)
		if err != nil {
			return nil, err
		}
		_, records, err := resolver.LookupSRV(ctx, "", "", u.Hostname()) // sorted by priority
		if err != nil {
			return nil, err
		}
		var members, spare []Member
		for _, record := range records {
			if record.Target == "." { // there is no such service
				continue
			}
			to := *u
			to.Host = net.JoinHostPort(strings.ToLower(strings.TrimSuffix(record.Target, ".")), strconv.Itoa(int(record.Port)))
			n := m
			n.Target, n.Weight = to.String(), int(record.Weight)
			if record.Priority == records[0].Priority {
				members = append(members, n)
			} else {
				spare = append(spare, n)
			}
		}
		return tidy(remember(ctx, source, members, spare)), nil
	}
}

// mostMissing is the number of answers in a row that a member must be missing
// from to be removed.
const mostMissing = 5

// memories holds a proxy's memory of the answers of name servers: for each
// source, the members in its last mostMissing answers. The size of an answer is
// limited, and so is the memory.
type memories struct {
	mu      sync.Mutex
	sources map[*byte]map[memberKey]memory // guarded by mu
}

type memory struct {
	Member
	missing int // from how many of the last answers
}

// memoryOf is the context key of a proxy's memories.
type memoryOf struct{}

// A memberKey identifies a member.
type memberKey struct{ target, address string }

// remember returns the members of a source's new answer, and those that are
// missing from it but not long enough to be removed. The members in gone are
// removed at once. It uses the memories of the proxy in ctx; without one, the
// source was called by other code, and nothing is remembered.
func remember(ctx context.Context, source *byte, answer, gone []Member) []Member {
	all, _ := ctx.Value(memoryOf{}).(*memories)
	if all == nil || len(answer) == 0 {
		return answer
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	known := all.sources[source]
	if known == nil {
		known = make(map[memberKey]memory)
		all.sources[source] = known
	}
	for _, m := range gone {
		delete(known, memberKey{m.Target, m.Address})
	}
	for key, m := range known {
		if m.missing++; m.missing < mostMissing {
			known[key] = m
		} else {
			delete(known, key)
		}
	}
	for _, m := range answer {
		known[memberKey{m.Target, m.Address}] = memory{Member: m}
	}
	members := slices.Clip(answer)
	for _, m := range known {
		if m.missing > 0 {
			members = append(members, m.Member)
		}
	}
	return members
}

func sourceTarget(option string, m Member) (*url.URL, error) {
	u, err := parseTarget(m.Target)
	switch {
	case err != nil:
		return nil, &OptionError{Option: option, Value: redactTarget(m.Target), Reason: err.Error()}
	case u.Scheme == "unix", m.Address != "":
		return nil, &OptionError{Option: option, Value: redactTarget(m.Target), Reason: "no host name to look up"}
	}
	return u, nil
}

// tidy sorts members, because name servers vary the order of their answers, and
// removes duplicates.
func tidy(members []Member) []Member {
	slices.SortFunc(members, func(a, b Member) int {
		if c := strings.Compare(a.Target, b.Target); c != 0 {
			return c
		}
		return strings.Compare(a.Address, b.Address)
	})
	return slices.CompactFunc(members, func(a, b Member) bool { return a.Target == b.Target && a.Address == b.Address })
}

// renew calls the source once. If it fails, the members stay.
func (p *Proxy) renew(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = newPanic("WithSource", v)
		}
		if err != nil && p.life.Err() == nil {
			p.log(ctx, slog.LevelWarn, "wsproxy: members not updated", slog.String("error", withoutURL(err).Error()))
			p.logPanic(0, err)
		}
	}()
	members, err := p.source(context.WithValue(ctx, memoryOf{}, p.memories))
	switch {
	case err != nil:
		return err
	case len(members) == 0:
		return errors.New("source returned no members")
	}
	return p.SetUpstreams(members...)
}

// withoutURL returns the error without the URL that net/http adds, which may
// have a token in its query.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("%s: %w", e.Op, withoutURL(e.Err))
	}
	return err
}

// follow calls the source repeatedly until the proxy shuts down.
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

// firstAnswer limits how long New waits for the source.
const firstAnswer = 10 * time.Second

// firstMembers calls the source for the first time. It returns only mistakes of
// the caller: if a name server does not answer now, there will be members once
// it does.
func (p *Proxy) firstMembers() error {
	ctx, cancel := context.WithTimeout(p.life, min(p.handshakeTimeout, firstAnswer))
	defer cancel()
	err := p.renew(ctx)
	if mistake := (*OptionError)(nil); errors.As(err, &mistake) {
		return err
	}
	return nil
}
