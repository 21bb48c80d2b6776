package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/seed-ffb73231/wsproxy"
)

// In this file the library checks a route's settings, so that its rules are in
// one place. Its mistakes are reported under the keys of the file.

// try passes options to [wsproxy.New] and returns its mistakes.
func try(options ...wsproxy.Option) (mistakes []*wsproxy.OptionError) {
	quiet := wsproxy.WithLogger(slog.New(slog.DiscardHandler))
	p, err := wsproxy.New("", append([]wsproxy.Option{quiet}, options...)...)
	if err == nil {
		p.Close()
		return nil
	}
	// They are joined by errors.Join, each an OptionError.
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		if mistake, ok := errors.AsType[*wsproxy.OptionError](err); ok {
			mistakes = append(mistakes, mistake)
		}
	}
	return mistakes
}

// check has [wsproxy.New] check the route, and reports its mistakes under their
// keys.
func (r *route) check() {
	if len(r.members) > 0 && len(try(wsproxy.WithUpstreams(r.members...))) > 0 {
		r.checkMembers()
	}
	// The other options are checked without members, so that nothing is
	// dialled.
	nobody := func(context.Context) ([]wsproxy.Member, error) { return nil, nil }
	options := append(slices.Clone(r.options), wsproxy.WithSource(r.every, nobody))
	for _, mistake := range try(options...) {
		r.mistake(mistake.Option, fmt.Sprint(mistake.Value), mistake)
	}
}

// checkMembers checks each member together with those before it, to find out
// which one is wrong.
func (r *route) checkMembers() {
	var good []wsproxy.Member
	for i, m := range r.members {
		mistakes := try(wsproxy.WithUpstreams(append(good, m)...))
		for _, mistake := range mistakes {
			r.mistake("member "+memberKey(m, mistake), fmt.Sprint(i), mistake)
		}
		if len(mistakes) == 0 {
			good = append(good, m)
		}
	}
}

// memberKey returns the key of m that a mistake is about: the one without which
// m does not have the mistake.
func memberKey(m wsproxy.Member, e *wsproxy.OptionError) string {
	same := func(other *wsproxy.OptionError) bool { return other.Reason == e.Reason }
	wrong := func(m wsproxy.Member) bool { return slices.ContainsFunc(try(wsproxy.WithUpstreams(m)), same) }
	weight, limit, address := m, m, m
	weight.Weight, limit.MaxSessions, address.Address = 0, 0, ""
	switch {
	case !wrong(m): // it is a duplicate of another member
		return "target"
	case !wrong(weight):
		return "weight"
	case !wrong(limit):
		return "max_sessions"
	case !wrong(address):
		return "address"
	}
	return "target"
}

// mistake reports a mistake in an option at the key that it comes from: the one
// with the value, or else the first.
func (r *route) mistake(option, value string, e *wsproxy.OptionError) {
	path := ""
	for _, c := range r.cited {
		if c.option == option && (path == "" || c.value == value) {
			path = c.path
		}
	}
	text := e.Reason
	if value := fmt.Sprint(e.Value); value != "" {
		text = fmt.Sprintf("%q: %s", value, e.Reason)
	}
	r.at.doc.mistake(cmp.Or(path, r.at.path), "%s", text)
}
