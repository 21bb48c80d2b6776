package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"reflect"
	"runtime"
	"runtime/debug"

	"github.com/seed-ffb73231/wsproxy/internal/protocol"
	"github.com/seed-ffb73231/wsproxy/internal/relay"
)

// This file calls user code: hooks, and whatever else may panic.

// callOnOpen calls the user's hooks, each of which may refuse the session. They
// get a copy of the request, which is then used for the upstream. The fields
// that the client's Connection field nominates are removed before the hooks set
// fields of their own. The copy's context is the handshake's, ctx.
func (p *Proxy) callOnOpen(ctx context.Context, s *Session, r *http.Request) (_ *http.Request, e *Error) {
	s.letIn = true
	if len(p.onOpen) == 0 {
		return r, nil
	}
	defer hookPanic("open", "WithOnOpen", &e)
	r = r.Clone(ctx)
	stripNominated(r.Header)
	r.Header["Connection"] = []string{"Upgrade"}
	for _, f := range p.onOpen {
		if err := f(s, r); err != nil {
			status := http.StatusForbidden
			refusal, ok := errors.AsType[*Refusal](err)
			switch {
			case ctx.Err() != nil && !ok:
				return nil, handshakeEnded(ctx) // usually the cause of err
			case ok:
				status = refusal.Status
				if status < 400 || status > 599 {
					status = http.StatusInternalServerError
				}
			}
			return nil, &Error{Op: "open", Side: Self, Status: status, Err: fmt.Errorf("%w: %w", errHook, err)}
		}
	}
	if r.URL == nil || r.Header == nil {
		return nil, &Error{Op: "open", Side: Self, Status: http.StatusInternalServerError, Err: fmt.Errorf("%w: it set the URL or Header to nil", errHook)}
	}
	return r, nil
}

// handshakeEnded returns the error for a handshake whose context has ended.
func handshakeEnded(ctx context.Context) *Error { return dialError(ctx, ctx, "open", ctx.Err()) }

// calledBack reports whether the caller was called by a proxy, in a goroutine
// of one of its sessions: from a hook, the logger, a custom connection or the
// like. Code that waits for all sessions must not wait there. Only the stack
// can tell, because a hook may pass on a context other than its own.
func calledBack() bool {
	face, below := reflect.TypeFor[Proxy]().PkgPath()+".", reflect.TypeFor[relay.Session]().PkgPath()+"."
	pcs := make([]uintptr, 64)
	n := runtime.Callers(2, pcs)
	for n == len(pcs) {
		pcs = make([]uintptr, 2*len(pcs))
		n = runtime.Callers(2, pcs)
	}
	frames := runtime.CallersFrames(pcs[:n])
	for {
		f, more := frames.Next()
		switch f.Function {
		case face + "(*Proxy).serve", below + "(*pump).run", below + "(*Session).tick", below + "callOvers", face + "(*tap).run":
			return true
		}
		if !more {
			return false
		}
	}
}

// callOnMessage calls the user's hooks with a message, until one returns an error. A
// panic becomes an error, too.
func (p *Proxy) callOnMessage(ctx context.Context, s *Session, m *Message) (err error) {
	returned := false
	defer func() {
		if v := recover(); v != nil {
			err = newPanic("WithOnMessage", v)
		} else if !returned { // runtime.Goexit: this direction has no goroutine any more
			s.relay.Stop(protocol.CausePanic, newPanic("WithOnMessage", "runtime.Goexit"))
		}
	}()
	for _, f := range p.onMessage {
		if err = f(ctx, s, m); err != nil {
			break
		}
	}
	returned = true
	return err
}

// callOnClose calls the user's hooks. It recovers their panics, because the
// session is over.
func (p *Proxy) callOnClose(s *Session) {
	for _, f := range p.onClose {
		func() {
			defer func() {
				if v := recover(); v != nil {
					p.logPanic(s.id, newPanic("WithOnClose", v))
				}
			}()
			f(s)
		}()
	}
}

// callTaps calls the user's functions with a message. It recovers their panics,
// because the message has gone on.
func (p *Proxy) callTaps(s *Session, m Message) {
	for _, f := range p.taps {
		func() {
			defer func() {
				if v := recover(); v != nil {
					p.logPanic(s.id, newPanic("WithTap", v))
				}
			}()
			f(s, m)
		}()
	}
}

// callErrorHandler calls the user's handler. If it panics, it may have written
// part of the answer, so the connection is aborted.
func (c *config) callErrorHandler(w http.ResponseWriter, r *http.Request, e *Error) {
	defer func() {
		switch v := recover(); v {
		case nil:
			return
		case http.ErrAbortHandler:
		default:
			c.logPanic(e.id, newPanic("WithErrorHandler", v))
		}
		panic(http.ErrAbortHandler)
	}()
	c.errorHandler(w, r, e)
}

// callRewrite calls the user's hook. It turns a panic into an error of this
// request.
func callRewrite(f func(*httputil.ProxyRequest), in, out *http.Request) (_ *http.Request, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = newPanic("WithRewrite", v)
		}
	}()
	pr := &httputil.ProxyRequest{In: in, Out: out}
	f(pr)
	if pr.Out == nil || pr.Out.URL == nil || pr.Out.Header == nil {
		return nil, errors.New("hook set the request, its URL or its Header to nil")
	}
	return pr.Out, nil
}

// callRewriteAnswer calls the user's hook with the answer that up holds. If the
// hook panics, it closes the upstream's connection.
func (c *config) callRewriteAnswer(r *http.Request, up *upstreamConn) (e *Error) {
	if c.rewriteAnswer == nil {
		return nil
	}
	conn, answer := up.conn, &http.Response{StatusCode: http.StatusSwitchingProtocols, Header: up.header, Request: r}
	if f := up.refusal; f != nil {
		conn, answer.StatusCode, answer.Header = f.conn, f.resp.StatusCode, answerHeader(f.resp.Header)
	}
	defer func() {
		if e != nil {
			conn.Close()
		}
	}()
	defer hookPanic("answer", "WithRewriteAnswer", &e)
	c.rewriteAnswer(answer)
	if answer.Header == nil { // all fields removed
		answer.Header = make(http.Header)
	}
	if up.refusal != nil {
		up.refusal.resp.Header = answer.Header // relayRefusal strips it again
	} else {
		up.header = answerHeader(answer.Header)
	}
	return nil
}

// hookPanic turns a panic in a user's hook into an error. It must be deferred.
func hookPanic(op, hook string, e **Error) {
	if v := recover(); v != nil {
		*e = &Error{Op: op, Side: Self, Status: http.StatusInternalServerError, Err: newPanic(hook, v)}
	}
}

// errPanic means that a user's hook or a custom connection panicked.
var errPanic = errors.New("panic")

// A panicError is a panic in user code. Its text omits the stack, which has a
// record of its own (logPanic).
type panicError struct {
	hook  string // the option that it belongs to, or "connection"
	value string
	stack []byte
}

// newPanic must be called where the panic is recovered, so that the stack shows
// its origin.
func newPanic(hook string, v any) *panicError {
	return &panicError{hook, fmt.Sprint(v), debug.Stack()}
}

func (e *panicError) Error() string { return "panic: " + e.value }

func (e *panicError) Unwrap() error { return errPanic }
