package wsproxy

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// This file adds the proxy's name to requests, and detects requests that already
// carry it. Such a request would loop until the descriptors run out.

// randomName returns the default of WithVia.
func randomName() string { return "wsproxy-" + strings.ToLower(rand.Text()[:10]) }

// checkLoop refuses a request that has passed this proxy before.
func (c *config) checkLoop(r *http.Request) *Error {
	if c.via == "" {
		return nil
	}
	for hop := range elements(r.Header["Via"]) { // a match in a comment is harmless
		_, by, _ := strings.Cut(strings.ReplaceAll(hop, "\t", " "), " ")
		by, _, _ = strings.Cut(strings.TrimLeft(by, " "), " ")
		if strings.EqualFold(by, c.via) {
			return &Error{Op: "handshake", Side: Self, Status: http.StatusLoopDetected,
				Err: fmt.Errorf("%w: the request has passed this proxy before; the proxy may be its own upstream", ErrLoop)}
		}
	}
	return nil
}

// addVia adds the proxy's name to the Via field.
func (c *config) addVia(r *http.Request, h http.Header) {
	if c.via == "" {
		return
	}
	hop := strconv.Itoa(r.ProtoMajor) + " " + c.via
	if r.ProtoMajor == 1 {
		hop = "1." + strconv.Itoa(r.ProtoMinor) + " " + c.via
	}
	hops := slices.DeleteFunc(h["Via"], func(v string) bool { return v == "" })
	h["Via"] = []string{strings.Join(append(hops, hop), ", ")}
}
