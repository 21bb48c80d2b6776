package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/seed-ffb73231/wsproxy"
)

// bytesPerSecond is the rate of 16 kHz, 16-bit mono PCM.
const bytesPerSecond = 16000 * 2

// A gateway lets clients with a token speak to the recognizer, and meters what they
// say.
type gateway struct {
	secret []byte // of the tokens
	proxy  *wsproxy.Proxy

	mu    sync.Mutex
	audio map[string]time.Duration // guarded by mu; how much each user has been transcribed
}

func newGateway(recognizer string, secret []byte) (g *gateway, err error) {
	g = &gateway{secret: secret, audio: make(map[string]time.Duration)}
	g.proxy, err = wsproxy.New(recognizer,
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
		wsproxy.WithOnOpen(g.admit),
		wsproxy.WithOnMessage(g.remember),
		wsproxy.WithTap(g.meter),
		wsproxy.WithResume(wsproxy.Resume{Window: 20 * time.Second, OnResume: g.resume}),
		wsproxy.WithOnClose(g.bill),
		wsproxy.WithMaxMessageSize(wsproxy.Client, 64<<10)) // 2 s of audio
	return g, err
}

// A speaker is what the gateway knows about a session.
type speaker struct {
	user  string
	bytes atomic.Int64 // of audio

	mu    sync.Mutex
	start []byte // guarded by mu; the command that has begun the transcription, until that stops
}

// speakerKey is the key of the session's speaker.
type speakerKey struct{}

// admit refuses clients without a valid token. The session ends when the token
// expires.
func (g *gateway) admit(s *wsproxy.Session, r *http.Request) error {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	user, expires, err := g.check(token)
	if err != nil {
		return &wsproxy.Refusal{Status: http.StatusUnauthorized, Text: err.Error(), Header: http.Header{"Www-Authenticate": {"Bearer"}}}
	}
	s.Set(speakerKey{}, &speaker{user: user})
	// The recognizer trusts the gateway, and does not see tokens.
	r.Header.Del("Authorization")
	r.Header.Set("X-User", user)
	return s.SetExpiry(expires, 4001, "token expired")
}

// remember keeps the command with which the client has begun.
func (g *gateway) remember(_ context.Context, s *wsproxy.Session, m *wsproxy.Message) error {
	if m.From != wsproxy.Client || m.Type != websocket.MessageText {
		return nil
	}
	sp := s.Value(speakerKey{}).(*speaker)
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.start = nil
	if bytes.Contains(m.Data, []byte("StartTranscription")) {
		sp.start = bytes.Clone(m.Data)
	}
	return nil
}

// resume tells another recognizer what the client has told the old one.
func (g *gateway) resume(ctx context.Context, s *wsproxy.Session, attempt int) error {
	sp := s.Value(speakerKey{}).(*speaker)
	sp.mu.Lock()
	defer sp.mu.Unlock()
	say("gateway", "the recognizer is back for %s at attempt %d", sp.user, attempt)
	if sp.start == nil {
		return nil
	}
	return s.Send(ctx, wsproxy.Upstream, websocket.MessageText, sp.start)
}

// meter counts the audio. It gets copies, and holds nobody up.
func (g *gateway) meter(s *wsproxy.Session, m wsproxy.Message) {
	if m.From == wsproxy.Client && m.Type == websocket.MessageBinary {
		s.Value(speakerKey{}).(*speaker).bytes.Add(int64(len(m.Data)))
	}
}

// bill adds what the session has used: all of it has been metered by now.
func (g *gateway) bill(s *wsproxy.Session) {
	sp, ok := s.Value(speakerKey{}).(*speaker)
	if !ok {
		return // it was refused
	}
	audio := time.Duration(sp.bytes.Load()) * time.Second / bytesPerSecond
	g.mu.Lock()
	g.audio[sp.user] += audio
	g.mu.Unlock()
	say("gateway", "%s has used %v of audio; %v", sp.user, audio, s.Err())
}

// used returns how much audio of a user was transcribed.
func (g *gateway) used(user string) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.audio[user]
}

// token makes a token for a user: name, expiry and signature.
func (g *gateway) token(user string, expires time.Time) string {
	claim := user + "." + strconv.FormatInt(expires.UnixMilli(), 10)
	return claim + "." + g.sign(claim)
}

// check returns who a token is for, and when it expires.
func (g *gateway) check(token string) (user string, expires time.Time, err error) {
	at := strings.LastIndexByte(token, '.')
	if at < 0 || !hmac.Equal([]byte(token[at+1:]), []byte(g.sign(token[:at]))) {
		return "", expires, errors.New("invalid token")
	}
	user, milli, _ := strings.Cut(token[:at], ".")
	n, err := strconv.ParseInt(milli, 10, 64)
	if expires = time.UnixMilli(n); err != nil || !time.Now().Before(expires) {
		return "", expires, errors.New("expired token")
	}
	return user, expires, nil
}

func (g *gateway) sign(claim string) string {
	mac := hmac.New(sha256.New, g.secret)
	mac.Write([]byte(claim))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
