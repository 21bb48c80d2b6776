package wsproxy

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"time"
)

// This file makes every log record of a proxy's.

// report counts and logs a handshake that came to nothing.
func (p *Proxy) report(r *http.Request, e *Error) {
	kind := e.Kind()
	p.mu.Lock()
	p.stats.refused[kind]++
	p.mu.Unlock()
	p.logger.LogAttrs(r.Context(), slog.LevelWarn, "wsproxy: handshake failed",
		slog.String("client", p.clientAddr(r)),
		slog.String("path", clip(clientPath(r))),
		slog.Int("status", cmp.Or(e.Status, statusClientLeft)),
		slog.String("side", e.Side.String()),
		slog.String("op", e.Op),
		slog.String("kind", string(kind)),
		slog.String("error", e.Err.Error()))
}

// clip keeps a path, which may be a megabyte long, from filling logs.
func clip(path string) string {
	const most = 200
	if len(path) > most {
		return path[:most] + "…"
	}
	return path
}

func (p *Proxy) logOpened(ctx context.Context, s *Session) {
	p.logger.LogAttrs(ctx, slog.LevelDebug, "wsproxy: session opened",
		slog.Uint64("id", s.id),
		slog.String("client", s.client),
		slog.String("upstream", s.upstream),
		slog.String("path", s.path))
}

// logEnded logs a session that is over.
func (p *Proxy) logEnded(ctx context.Context, s *Session) {
	e := &s.ending
	attrs := []slog.Attr{
		slog.Uint64("id", s.id),
		slog.String("client", s.client),
		slog.String("upstream", s.upstream),
		slog.String("path", s.path),
		slog.Duration("duration", s.now().Round(time.Millisecond)),
		slog.String("by", e.cause.by.String()),
		slog.String("reason", string(e.cause.name)),
		slog.Int("code", int(e.code)),
		countsAttr("from_client", s.Counts(Client)),
		countsAttr("from_upstream", s.Counts(Upstream)),
	}
	if e.err != nil {
		attrs = append(attrs, slog.String("error", e.err.Error()))
	}
	p.logger.LogAttrs(ctx, slog.LevelInfo, "wsproxy: session ended", attrs...)
}

func countsAttr(key string, c Counts) slog.Attr {
	return slog.GroupAttrs(key, slog.Uint64("frames", c.Frames), slog.Uint64("messages", c.Messages), slog.Uint64("bytes", c.Bytes))
}

// logMember logs what has become of a member. The record has no request's
// context: it is about all of them.
func (p *Proxy) logMember(level slog.Level, what string, m *member, attrs ...slog.Attr) {
	guarded("the logger", func() {
		p.logger.LogAttrs(context.Background(), level, what, append([]slog.Attr{slog.String("member", m.name)}, attrs...)...)
	})
}
