package wsproxy

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/seed-ffb73231/wsproxy/internal/message"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
)

// An upstreamConn is the upstream's side of a finished handshake.
type upstreamConn struct {
	conn        net.Conn
	early       []byte      // received after the 101
	header      http.Header // of the 101, for the client
	subprotocol string      // for the client
	extensions  string
	deflate     message.Deflate // if the proxy has negotiated compression itself
	rsvMessage  byte            // the RSV bits that the extensions define; see frame.Scanner
	rsvAny      byte
	refusal     *upstreamRefusal // if set, the upstream has refused, and the other fields are not set
}

// dial performs the upstream's handshake with a member for the client's request
// r. It returns the answer, which may be a refusal whose body has not been read
// yet, and what was dialled, in the form of [Session.Upstream]: WithRewrite may
// have chosen another target. It returns when limit ends, which ends with ctx.
// share, if not 0, limits the time for the part that can be retried with
// another member.
func (p *Proxy) dial(ctx, limit context.Context, s *Session, m *member, at *search, r *http.Request, asked *offer, share time.Duration) (up *upstreamConn, to string, e *Error) {
	place := m.Target()
	target := place.url
	out := requests.Get().(*request)
	defer out.release()
	sent, err := p.outgoing(limit, out, asked.from, r, target)
	if err != nil {
		return nil, place.origin, &Error{Op: "rewrite", Side: Self, Status: http.StatusInternalServerError, Err: err}
	}
	to, address := place.origin, place.address
	if out.url.Scheme != target.Scheme || out.url.Host != target.Host {
		to, address, share = out.url.Scheme+"://"+out.url.Host, "", 0
		p.pool.Release(&s.seat) // the session is not placed with the member
	}
	part := limit
	if share > 0 {
		var cancel context.CancelFunc
		part, cancel = context.WithTimeout(limit, share)
		defer cancel()
	}
	fail := func(op string, err error) (*upstreamConn, string, *Error) {
		return nil, to, dialError(ctx, part, op, err)
	}
	conn, op, err := p.connect(part, out.url, address)
	if err != nil {
		return fail(op, err)
	}
	p.pool.Connected(&s.seat, at)
	if !p.retrySent {
		part = limit
	}
	done := false
	defer func() { // a custom connection may panic
		if v := recover(); v != nil {
			up, _, e = fail("answer", newPanic("connection", v))
		}
		if !done {
			defer func() { _ = recover() }()
			conn.Close()
		}
	}()
	// From here on a deadline on the connection replaces the context.
	stop := interruptAt(part, conn)
	up, err = handshake(conn, out, sent, asked)
	if !stop() && err == nil {
		err = part.Err()
	}
	if err != nil {
		return fail("answer", fmt.Errorf("GET %s: %w", askedFor(out), err))
	}
	conn.SetDeadline(time.Time{})
	done = true
	return up, to, nil
}

// askedFor returns the loggable part of a request's target: the path, truncated
// and quoted if necessary, without the query.
func askedFor(out *request) string {
	path, _, _ := strings.Cut(out.target, "?")
	path = clip(path)
	if quoted := strconv.Quote(path); quoted != `"`+path+`"` {
		return quoted
	}
	return path
}

// interruptAt makes I/O on conn fail once ctx has ended, until stop is called.
func interruptAt(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		// A custom connection may panic here, too; the current I/O then continues
		// until it returns by itself.
		defer func() { _ = recover() }()
		// A custom connection may not support deadlines (a channel of an SSH
		// connection does not).
		if conn.SetDeadline(longAgo) != nil {
			conn.Close()
		}
	})
}

var longAgo = time.Unix(1, 0)

// connect returns a connection for HTTP to u's host, which may be at another
// address, or the step that failed. A panic in a user's hook (WithDialContext,
// the callbacks of a tls.Config) becomes an error of this handshake.
func (c *config) connect(ctx context.Context, u *url.URL, address string) (conn net.Conn, op string, err error) {
	op = "dial"
	defer func() {
		if v := recover(); v != nil {
			hook := "WithDialContext"
			if op == "tls" {
				hook = "WithTLSConfig"
			}
			err = newPanic(hook, v)
		}
		if err != nil && conn != nil {
			conn.Close()
		}
	}()
	network, named := dialAddress(u)
	conn, err = c.dialContext(ctx, network, cmp.Or(address, named))
	if isAny(err, syscall.EMFILE, syscall.ENFILE) && relay.FreeDescriptors() {
		conn, err = c.dialContext(ctx, network, cmp.Or(address, named))
	}
	if err != nil {
		return nil, op, err
	}
	if conn == nil {
		return nil, op, errors.New("dialer returned neither a connection nor an error")
	}
	if u.Scheme == "https" || u.Scheme == "wss" {
		op = "tls"
		secure, err := clientTLS(ctx, conn, c.tls, u.Hostname())
		if err != nil {
			return conn, op, err // the caller closes it
		}
		conn = secure
	}
	return conn, op, nil
}

// dialAddress returns the network and address to connect to for a URL.
func dialAddress(u *url.URL) (network, address string) {
	if u.Scheme == "unix" {
		return "unix", u.Host
	}
	return "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), defaultPort(u.Scheme)))
}

// handshake sends the request and reads the answer, except for the body of a
// refusal. sent is the offer of the request, and asked that of the client.
func handshake(conn net.Conn, out *request, sent, asked *offer) (*upstreamConn, error) {
	sent.key = newKey()
	sent.addTo(out)
	out.add("Upgrade", "websocket")
	out.add("Connection", "Upgrade")

	b := headers.Get().(*bytes.Buffer)
	b.Reset()
	out.write(b)
	_, err := relay.Write(conn, b.Bytes())
	headers.Put(b)
	if err != nil {
		return nil, err
	}
	limit := &io.LimitedReader{R: conn, N: maxHandshakeHeader}
	br := answerReaders.Get().(*bufio.Reader)
	br.Reset(limit)
	resp, err := readAnswer(br)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		f := &upstreamRefusal{conn: conn, limit: limit, resp: resp, request: askedFor(out)}
		if _, secure := conn.(*tls.Conn); !secure && resp.StatusCode == http.StatusBadRequest {
			peeked, _ := br.Peek(br.Buffered()) // buffered: can't fail
			f.wantsTLS = saysTLS(peeked)
		}
		if err := f.frame(br); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
		}
		return &upstreamConn{refusal: f}, nil // its body has not been read yet; it is read through br
	}
	defer func() {
		br.Reset(nil)
		answerReaders.Put(br)
	}()
	if err != nil {
		if limit.N <= 0 {
			err = fmt.Errorf("%w: header exceeds 64 KiB", ErrBadAnswer)
		}
		return nil, err
	}
	up, err := checkAnswer(resp, sent, asked)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	if n := br.Buffered(); n > 0 {
		peeked, _ := br.Peek(n) // buffered: can't fail
		up.early = bytes.Clone(peeked)
	}
	up.conn = conn
	return up, nil
}

// headers holds buffers for writing handshakes.
var headers = sync.Pool{New: func() any { return new(bytes.Buffer) }}
