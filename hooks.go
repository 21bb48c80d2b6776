package wsproxy

import (
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httputil"
	"runtime/debug"
)

// This file calls what is the user's: hooks, and whatever else may panic.

// callOnOpen calls the user's hooks, each of which may refuse the session. They
// get a copy of the request, which is what goes on: what the client's
// Connection field nominates is gone before they set fields of their own.
func (p *Proxy) callOnOpen(s *Session, r *http.Request) (_ *http.Request, e *Error) {
	s.letIn = true
	if len(p.onOpen) == 0 {
		return r, nil
	}
	defer func() {
		if v := recover(); v != nil {
			e = &Error{Op: "open", Side: Neither, Status: http.StatusInternalServerError, Err: fmt.Errorf("%w: %v\n%s", errPanic, v, debug.Stack())}
		}
	}()
	r = r.Clone(r.Context())
	stripNominated(r.Header)
	r.Header["Connection"] = []string{"Upgrade"}
	for _, f := range p.onOpen {
		if err := f(s, r); err != nil {
			status := http.StatusForbidden
			if refusal, ok := errors.AsType[*Refusal](err); ok {
				status = refusal.Status
				if status < 400 || status > 599 {
					status = http.StatusInternalServerError
				}
			}
			return nil, &Error{Op: "open", Side: Neither, Status: status, Err: fmt.Errorf("%w: %w", errHook, err)}
		}
	}
	if r.URL == nil || r.Header == nil {
		return nil, &Error{Op: "open", Side: Neither, Status: http.StatusInternalServerError, Err: fmt.Errorf("%w: no URL or header left", errHook)}
	}
	return r, nil
}

// callOnClose calls the user's hooks. A panic of theirs must not reach anyone:
// the session is over.
func (p *Proxy) callOnClose(s *Session) {
	for _, f := range p.onClose {
		guarded("the logger", func() {
			defer func() {
				if v := recover(); v != nil {
					p.logger.Error("wsproxy: panic in a hook", "id", s.id, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
				}
			}()
			f(s)
		})
	}
}

// callRewrite calls the user's hook. A panic of its is an error of this
// request.
func callRewrite(f func(*httputil.ProxyRequest), in, out *http.Request) (_ *http.Request, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v\n%s", errPanic, v, debug.Stack())
		}
	}()
	pr := &httputil.ProxyRequest{In: in, Out: out}
	f(pr)
	if pr.Out == nil || pr.Out.URL == nil || pr.Out.Header == nil {
		return nil, errors.New("no request, URL or header left")
	}
	return pr.Out, nil
}

// errPanic: a user's hook panicked.
var errPanic = errors.New("panic")

// hookPanic makes an error of a panic in a hook of the user's.
func hookPanic(op string, e **Error) {
	if v := recover(); v != nil {
		*e = &Error{Op: op, Side: Neither, Status: http.StatusInternalServerError, Err: fmt.Errorf("%w: %v\n%s", errPanic, v, debug.Stack())}
	}
}

// guarded calls what is the user's. A panic in it is of no use to anyone else.
func guarded(what string, f func()) {
	defer func() {
		if v := recover(); v != nil {
			log.Printf("wsproxy: panic in %s: %v\n%s", what, v, debug.Stack())
		}
	}()
	f()
}
