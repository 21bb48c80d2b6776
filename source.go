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

// A Source says who the members are now; see [WithSource]. It returns when ctx
// ends, at the latest.
type Source func(ctx context.Context) ([]Member, error)

// LookupHost makes every address of the host in m's target a member of its
// own, with m's weight and limit: a headless Service of Kubernetes, say. TLS
// still verifies the host's name. A nil resolver is [net.DefaultResolver].
//
// An address that is missing from an answer stays for now, for a name server
// may tell only some of the addresses at a time, or lose one for a moment. It is
// removed when it is missing from five answers in a row, that is after five times
// the interval of [WithSource]. A lookup that fails, and an answer with no
// address at all, count for nothing. Where a name server tells a few of many
// addresses at random, use [WithKeepRemovedMembers] as well.
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
		return tidy(remember(ctx, source, members, nil)), nil
	}
}

// LookupSRV makes every SRV record (RFC 2782) of the host in m's target, such
// as http://_ws._tcp.chat.internal/v2, a member of its own, with the record's
// host, port and weight, and m's limit. Only the records of the first priority
// count. TLS verifies the record's host. A nil resolver is [net.DefaultResolver].
//
// A record that is missing from an answer stays for now, as with [LookupHost].
// One that is there with a lower priority is removed at once.
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

// mostMissing is from how many answers in a row a member has to be missing to
// be removed.
const mostMissing = 5

// memories are what a proxy remembers of the answers of name servers: of each
// source, the members of the last mostMissing answers. An answer is limited in
// size, so the memory is as well, whatever a name server tells.
type memories struct {
	mu      sync.Mutex
	sources map[*byte]map[memberKey]memory // guarded by mu
}

type memory struct {
	Member
	missing int // from the last answers
}

// memoryOf is the key of a context's memories.
type memoryOf struct{}

// A memberKey is what members are told apart by.
type memberKey struct{ target, address string }

// remember returns the members of a source's new answer, and those that are
// missing from it but not yet for long. Those in gone are said to be none. It
// remembers for the proxy that asks, which the context tells: nothing, if the
// source is called by somebody else.
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
			err = newPanic("WithSource", v)
		}
		if err != nil && p.life.Err() == nil {
			p.log(ctx, slog.LevelWarn, "wsproxy: members not renewed", slog.String("error", withoutURL(err).Error()))
			p.logPanic(0, err)
		}
	}()
	members, err := p.source(context.WithValue(ctx, memoryOf{}, p.memories))
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

// firstAnswer is how long New waits for the source at most.
const firstAnswer = 10 * time.Second

// firstMembers asks the source for the first time. A name server that doesn't
// answer is no mistake of the caller's: there will be members when it does.
func (p *Proxy) firstMembers() error {
	ctx, cancel := context.WithTimeout(p.life, min(p.handshakeTimeout, firstAnswer))
	defer cancel()
	err := p.renew(ctx)
	if mistake := (*OptionError)(nil); errors.As(err, &mistake) {
		return err
	}
	return nil
}
