package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seed-ffb73231/wsproxy"
)

// ways are the keys that say where a route's members come from. One of them is
// required.
var ways = []string{"target", "upstreams", "addresses_of", "srv", "upstreams_file"}

// readMembers reads the keys about a route's members.
func (r *route) readMembers() {
	t := r.at
	r.every = 10 * time.Second
	given := slices.DeleteFunc(slices.Clone(ways), func(key string) bool { return !t.has(key) })
	switch len(given) {
	case 0:
		t.doc.mistake(t.path, "no target; set one of %s", strings.Join(ways, ", "))
		return
	case 1:
	default:
		t.mistake(given[1], "cannot be combined with %s", given[0])
	}
	if every := t.duration("every", r.every); t.has("every") {
		r.every = every
		r.cite("WithSource", t.at("every"), every)
	}
	if target, ok := get[string](t, "target"); ok {
		r.members = []wsproxy.Member{{Target: target}}
		r.cite("member target", t.at("target"), 0)
	}
	upstreams := t.tables("upstreams")
	if t.has("upstreams") && len(upstreams) == 0 {
		t.mistake("upstreams", "no upstreams")
	}
	for i, m := range upstreams {
		r.members = append(r.members, wsproxy.Member{
			Target:      m.text("target"),
			Address:     m.text("address"),
			Weight:      m.whole("weight"),
			MaxSessions: m.whole("max_sessions"),
		})
		for _, key := range []string{"weight", "max_sessions", "address", "target"} {
			r.cite("member "+key, m.at(key), i)
		}
		m.end()
	}
	if target, ok := get[string](t, "addresses_of"); ok {
		r.source = wsproxy.LookupHost(wsproxy.Member{Target: target}, nil)
	}
	if target, ok := get[string](t, "srv"); ok {
		r.source = wsproxy.LookupSRV(wsproxy.Member{Target: target}, nil)
	}
	if name, ok := get[string](t, "upstreams_file"); ok {
		r.source = membersFile(t.doc.file(name))
	}
	if r.source != nil {
		r.checkSource(given[0])
	}
	if t.has("every") && (t.has("target") || t.has("upstreams")) {
		t.mistake("every", "set without a source of members")
	}
}

// checkSource checks a source's settings without querying a name server. A file
// is read at once: it must be valid when the gateway starts.
func (r *route) checkSource(key string) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	members, err := r.source(ctx)
	mistake, wrong := errors.AsType[*wsproxy.OptionError](err)
	switch {
	case wrong:
		r.at.mistake(key, "%q: %s", mistake.Value, mistake.Reason)
	case key != "upstreams_file":
	case err != nil:
		r.at.mistake(key, "%v", err)
	case len(members) == 0:
		r.at.mistake(key, "no upstreams in it")
	default:
		for _, mistake := range try(wsproxy.WithUpstreams(members...)) {
			r.at.mistake(key, "%q: %s", mistake.Value, mistake.Reason)
		}
	}
}

// membersFile is a [wsproxy.Source] of our own: a JSON file that another
// program writes, and that is read at intervals. It is a list such as
//
//	[{"target": "http://10.0.0.1:9000", "weight": 2, "max_sessions": 5000}]
//
// To change it safely, write another file and rename it to this one.
func membersFile(path string) wsproxy.Source {
	return func(context.Context) ([]wsproxy.Member, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var list []struct {
			Target      string `json:"target"`
			Address     string `json:"address"`
			Weight      int    `json:"weight"`
			MaxSessions int    `json:"max_sessions"`
		}
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&list); err != nil {
			line := 1 + bytes.Count(text[:min(int(d.InputOffset()), len(text))], []byte("\n"))
			return nil, fmt.Errorf("%s:%d: %w", path, line, err)
		}
		if _, err := d.Token(); err != io.EOF {
			return nil, fmt.Errorf("%s: data after the list", path)
		}
		members := make([]wsproxy.Member, len(list))
		for i, m := range list {
			members[i] = wsproxy.Member(m)
		}
		return members, nil
	}
}

// readBalance reads how sessions are balanced, and what happens to members that
// fail.
func (r *route) readBalance() {
	t := r.at
	switch balance := t.text("balance"); balance {
	case "", "least_sessions":
		r.add(wsproxy.WithBalance(wsproxy.LeastSessions()))
	case "round_robin":
		r.add(wsproxy.WithBalance(wsproxy.RoundRobin()))
	case "two_choices":
		r.add(wsproxy.WithBalance(wsproxy.TwoChoices()))
	case "rendezvous":
		key, err := keyOf(cmp.Or(t.text("key"), "client"))
		if err != nil {
			t.mistake("key", "%v", err)
		}
		r.add(wsproxy.WithBalance(wsproxy.Rendezvous(key)))
	default:
		t.mistake("balance", "%q is none of least_sessions, round_robin, two_choices, rendezvous", balance)
	}
	if t.text("balance") != "rendezvous" && t.has("key") {
		t.mistake("key", "applies only to rendezvous")
	}
	t.text("key")
	r.readSticky()
	if retry := t.table("retry"); retry != nil {
		share := 0.2 // the library's default
		if retry.has("share") {
			share = retry.number("share")
		}
		r.add(wsproxy.WithRetry(share))
		if retry.flag("sent") {
			r.add(wsproxy.WithRetryAfterSend())
		}
		r.cite("WithRetry", retry.at("share"), share)
		retry.end()
	}
	if t.has("judge_answers") {
		n := t.whole("judge_answers")
		r.add(wsproxy.WithJudgeAnswers(n))
		r.cite("WithJudgeAnswers", t.at("judge_answers"), n)
	}
	r.readHealthCheck()
	if t.flag("keep_removed") {
		r.add(wsproxy.WithKeepRemovedMembers())
	}
	if t.has("source_addresses") {
		addresses := each(t, "source_addresses", "an IP address", netip.ParseAddr)
		r.add(wsproxy.WithSourceAddresses(addresses...))
		for i, a := range addresses {
			r.cite("WithSourceAddresses", t.at(fmt.Sprintf("source_addresses[%d]", i)), a)
		}
	}
}

// keyOf returns the function whose value sessions of the same member share; nil
// stands for the client's address.
func keyOf(text string) (func(*http.Request) string, error) {
	what, name, _ := strings.Cut(text, " ")
	switch {
	case text == "client":
		return nil, nil
	case what == "header" && name != "":
		return func(r *http.Request) string { return r.Header.Get(name) }, nil
	case what == "cookie" && name != "":
		return func(r *http.Request) string {
			if c, err := r.Cookie(name); err == nil {
				return c.Value
			}
			return ""
		}, nil
	case what == "query" && name != "":
		return func(r *http.Request) string { return r.URL.Query().Get(name) }, nil
	case what == "path":
		n, err := strconv.Atoi(name)
		if err != nil || n < 1 {
			break
		}
		return func(r *http.Request) string { // path 2 of /chat/lobby is lobby
			if parts := strings.Split(r.URL.Path, "/"); n < len(parts) {
				return parts[n]
			}
			return ""
		}, nil
	}
	return nil, fmt.Errorf(`%q is none of "client", "header NAME", "cookie NAME", "query NAME", "path NUMBER"`, text)
}

func (r *route) readSticky() {
	t := r.at.table("sticky")
	if t == nil {
		return
	}
	content := t.content("secret_file")
	r.addFile(t, "secret_file", content)
	secret := bytes.TrimSpace(content)
	cookie := http.Cookie{
		Name:     t.text("cookie"),
		Path:     cookiePath(r.pattern),
		MaxAge:   int(t.duration("max_age", 0).Seconds()),
		HttpOnly: true,
		Secure:   true,
		SameSite: http.SameSiteLaxMode,
	}
	if t.has("secure") {
		cookie.Secure = t.flag("secure")
	}
	switch same := t.text("same_site"); same {
	case "", "lax":
	case "strict":
		cookie.SameSite = http.SameSiteStrictMode
	case "none": // for pages of other sites
		cookie.SameSite = http.SameSiteNoneMode
		if !cookie.Secure {
			t.mistake("same_site", "browsers accept \"none\" only with secure")
		}
	default:
		t.mistake("same_site", `%q is none of "lax", "strict", "none"`, same)
	}
	if cookie.MaxAge < 0 {
		t.mistake("max_age", "negative")
	}
	t.end()
	if content == nil {
		if !t.has("secret_file") {
			t.mistake("secret_file", "no file")
		}
		secret = make([]byte, 16) // avoids a second mistake
	}
	r.add(wsproxy.WithSticky(cookie, secret))
	r.cite("WithSticky", t.at("cookie"), cookie.Name)
	r.cite("WithSticky", t.at("secret_file"), len(secret))
}

// cookiePath returns the fixed prefix of a pattern's path, so that cookies of
// different routes do not replace each other.
func cookiePath(pattern string) string {
	path, _, _ := strings.Cut(pattern[max(strings.Index(pattern, "/"), 0):], "{")
	return path
}

func (r *route) readHealthCheck() {
	t := r.at.table("health_check")
	if t == nil {
		return
	}
	check := wsproxy.HealthCheck{
		Path:     t.text("path"),
		Interval: t.duration("interval", 0),
		Timeout:  t.duration("timeout", 0),
		Fall:     t.whole("fall"),
		Rise:     t.whole("rise"),
		Close:    t.flag("close"),
	}
	if headers := t.table("headers"); headers != nil {
		check.Header = readFields(headers)
	}
	t.end()
	r.add(wsproxy.WithHealthCheck(check))
	r.cite("WithHealthCheck", t.at("path"), check.Path)
	for _, key := range []string{"Interval", "Timeout", "Fall", "Rise"} {
		r.cite("WithHealthCheck", t.at(strings.ToLower(key)), key)
	}
}

// proxy creates the route's proxy.
func (r *route) proxy(log *slog.Logger) (*wsproxy.Proxy, error) {
	options := append(slices.Clone(r.options), wsproxy.WithLogger(log.With("route", r.pattern)))
	if r.source != nil {
		options = append(options, wsproxy.WithSource(r.every, r.source))
	} else {
		options = append(options, wsproxy.WithUpstreams(r.members...))
	}
	return wsproxy.New("", options...)
}
