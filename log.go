package wsproxy

import (
	"cmp"
	"context"
	"log"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"
	"unicode/utf8"
)

// This file writes all log records of a proxy.

// log is the only function that a proxy logs with.
func (c *config) log(ctx context.Context, level slog.Level, message string, attrs ...slog.Attr) {
	logTo(c.logger, ctx, level, message, attrs...)
}

// logTo writes a record. It recovers a panic in the logger, which must not
// affect what is being logged.
func logTo(logger *slog.Logger, ctx context.Context, level slog.Level, message string, attrs ...slog.Attr) {
	defer func() {
		if v := recover(); v != nil {
			defer func() { _ = recover() }() // package log may write to the same logger: slog.SetDefault
			log.Printf("wsproxy: panic in the logger: %v\n%s", v, debug.Stack())
		}
	}()
	logger.LogAttrs(ctx, level, message, attrs...)
}

// logs reports whether a record of the level would be written: gathering its
// attributes costs more than asking. If the logger panics, the record is
// written all the same, and logTo reports the panic.
func (c *config) logs(ctx context.Context, level slog.Level) (enabled bool) {
	defer func() {
		if recover() != nil {
			enabled = true
		}
	}()
	return c.logger.Enabled(ctx, level)
}

// report counts and logs a failed handshake.
func (p *Proxy) report(r *http.Request, e *Error) {
	kind := e.Kind()
	p.stats.fail(kind)
	defer p.logPanic(e.id, e.Err)
	if !p.logs(r.Context(), e.level()) {
		return
	}
	attrs := make([]slog.Attr, 0, 9)
	if e.id != 0 {
		attrs = append(attrs, slog.Uint64("id", e.id))
	}
	if e.Upstream != "" {
		attrs = append(attrs, slog.String("upstream", e.Upstream))
	}
	attrs = append(attrs,
		slog.String("client", p.clientAddr(r)),
		slog.String("path", clip(clientPath(r))),
		slog.Int("status", cmp.Or(e.Status, statusClientLeft)),
		slog.String("side", e.Side.String()),
		slog.String("op", e.Op),
		slog.String("kind", string(kind)),
		errorAttr(e))
	p.log(r.Context(), e.level(), "wsproxy: handshake failed", attrs...)
}

// errorAttr returns the error's text as an attribute, without the URLs that
// net/http adds, which may have a token in their queries.
func errorAttr(e *Error) slog.Attr { return slog.String("error", withoutURL(e.Err).Error()) }

// level returns warn for failures that the operator or the upstream is
// responsible for, and info for those that any client can cause at will.
func (e *Error) level() slog.Level {
	switch e.Kind() {
	case KindBadHandshake, KindForbiddenOrigin, KindHTTPVersion, KindClientLeft, KindLimit, KindClosedByProxy, KindShuttingDown:
		return slog.LevelInfo
	case KindRefusal, KindHook: // 4xx means that the client is at fault
		if e.Status >= 400 && e.Status < 500 {
			return slog.LevelInfo
		}
	}
	return slog.LevelWarn
}

// logPanic logs a panic in a hook, if err is one.
func (c *config) logPanic(id uint64, err error) {
	e, ok := err.(*panicError)
	if !ok {
		return
	}
	attrs := make([]slog.Attr, 0, 4)
	if id != 0 {
		attrs = append(attrs, slog.Uint64("id", id))
	}
	c.log(context.Background(), slog.LevelError, "wsproxy: panic in a hook", append(attrs,
		slog.String("hook", e.hook),
		slog.String("panic", e.value),
		slog.String("stack", string(e.stack)))...)
}

// clip truncates a path, which may be a megabyte long, for logs. It cuts
// between characters.
func clip(path string) string {
	const most = 200
	if len(path) <= most {
		return path
	}
	end := most
	for end > most-utf8.UTFMax && !utf8.RuneStart(path[end]) {
		end--
	}
	if !utf8.RuneStart(path[end]) { // not UTF-8
		end = most
	}
	return path[:end] + "…"
}

func (p *Proxy) logOpened(ctx context.Context, s *Session) {
	if !p.logs(ctx, slog.LevelDebug) {
		return
	}
	p.log(ctx, slog.LevelDebug, "wsproxy: session opened",
		slog.Uint64("id", s.id),
		slog.String("client", s.Client()),
		slog.String("upstream", s.Upstream()),
		slog.String("path", s.Path()))
}

// logEnded logs a session that is over.
func (p *Proxy) logEnded(ctx context.Context, s *Session) {
	c, code, err := s.relay.Result()
	defer p.logPanic(s.id, err)
	if !p.logs(ctx, slog.LevelInfo) {
		return
	}
	attrs := []slog.Attr{
		slog.Uint64("id", s.id),
		slog.String("client", s.Client()),
		slog.String("upstream", s.Upstream()),
		slog.String("path", s.Path()),
		slog.Duration("duration", time.Since(s.Start()).Round(time.Millisecond)),
		slog.String("by", Side(c.By).String()),
		slog.String("reason", c.Reason),
		slog.Int("code", int(code)),
		countsAttr("from_client", s.Counts(Client)),
		countsAttr("from_upstream", s.Counts(Upstream)),
	}
	for _, side := range []Side{Client, Upstream} {
		if s.IgnoresPings(side) {
			attrs = append(attrs, slog.Bool(side.String()+"_ignores_pings", true))
		}
	}
	if n := s.Resumes(); n > 0 {
		attrs = append(attrs, slog.Int("resumes", n))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	p.log(ctx, slog.LevelInfo, "wsproxy: session ended", attrs...)
}

func countsAttr(key string, c Counts) slog.Attr {
	return slog.GroupAttrs(key, slog.Uint64("frames", c.Frames), slog.Uint64("messages", c.Messages), slog.Uint64("bytes", c.Bytes))
}

// logMember logs a change of a member's state. The record has no request's
// context, because it concerns all requests.
func (p *Proxy) logMember(level slog.Level, what string, m *member, attrs ...slog.Attr) {
	p.log(context.Background(), level, what, append([]slog.Attr{slog.String("member", m.Name())}, attrs...)...)
}
