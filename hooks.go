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
)

// This file calls what is the user's: hooks, and whatever else may panic.

// callOnOpen calls the user's hooks, each of which may refuse the session. They
// get a copy of the request, which is what goes on: what the client's
// Connection field nominates is gone before they set fields of their own.
// The copy's context is the handshake's, ctx.
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
				return nil, handshakeEnded(ctx) // as a rule that is what err says
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
		return nil, &Error{Op: "open", Side: Self, Status: http.StatusInternalServerError, Err: fmt.Errorf("%w: no URL or header left", errHook)}
	}
	return r, nil
}

// handshakeEnded says why a handshake whose context has ended did so.
func handshakeEnded(ctx context.Context) *Error { return dialError(ctx, ctx, "open", ctx.Err()) }

// calledBack says whether the caller was called by a proxy itself, in a
// goroutine of one of its sessions: by way of a hook, the logger, a connection of
// the user's or the like. What waits for all sessions must not wait there. Only
// the stack can tell: a hook may well pass another context on than its own.
func calledBack() bool {
	own := reflect.TypeFor[Proxy]().PkgPath() + "."
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
		case own + "(*Proxy).serve", own + "(*pump).run", own + "(*Session).tick":
			return true
		}
		if !more {
			return false
		}
	}
}

// callOnClose calls the user's hooks. A panic of theirs must not reach anyone:
// the session is over.
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

// callErrorHandler calls the user's handler. If it panics, it may have written
// a part of the answer, so the connection is aborted.
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

// callRewrite calls the user's hook. A panic of its is an error of this
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
		return nil, errors.New("no request, URL or header left")
	}
	return pr.Out, nil
}

// hookPanic, deferred, makes an error of a panic in a hook of the user's.
func hookPanic(op, hook string, e **Error) {
	if v := recover(); v != nil {
		*e = &Error{Op: op, Side: Self, Status: http.StatusInternalServerError, Err: newPanic(hook, v)}
	}
}

// errPanic: a hook of the user's, or a connection, panicked.
var errPanic = errors.New("panic")

// A panicError is a panic in what is the user's. Its text is without the stack,
// which has a record of its own (logPanic).
type panicError struct {
	hook  string // the option that it belongs to, or "connection"
	value string
	stack []byte
}

// newPanic is called where the panic is recovered, so that the stack shows
// where it came from.
func newPanic(hook string, v any) *panicError {
	return &panicError{hook, fmt.Sprint(v), debug.Stack()}
}

func (e *panicError) Error() string { return "panic: " + e.value }

func (e *panicError) Unwrap() error { return errPanic }
