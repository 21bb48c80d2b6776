//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"

	"github.com/coder/websocket"
	"github.com/koding/websocketproxy"
	"github.com/seed-ffb73231/wsproxy"
)

// runProxy serves one of the Go contenders, each with its defaults, including
// logging to stderr. Its environment is that of a contender given by -ours:
// LISTEN, UPSTREAM, and TLS_CERT and TLS_KEY if it should serve TLS.
func runProxy(kind string) error {
	target, err := url.Parse(os.Getenv("UPSTREAM"))
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", os.Getenv("LISTEN"))
	if err != nil {
		return err
	}
	if certFile := os.Getenv("TLS_CERT"); certFile != "" {
		cert, err := tls.LoadX509KeyPair(certFile, os.Getenv("TLS_KEY"))
		if err != nil {
			return err
		}
		if strings.HasPrefix(kind, "wsproxy") {
			ln = wsproxy.NewListener(ln)
		}
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}})
	}
	var h http.Handler
	switch kind {
	case "wsproxy":
		h, err = wsproxy.New(target.String())
	case "wsproxy-detached":
		h, err = wsproxy.New(target.String(), wsproxy.WithDetach())
	case "wsproxy-messages":
		h, err = wsproxy.New(target.String(), wsproxy.WithOnMessage(func(context.Context, *wsproxy.Session, *wsproxy.Message) error { return nil }),
			wsproxy.WithMaxMessageSize(wsproxy.Client, largest), wsproxy.WithMaxMessageSize(wsproxy.Upstream, largest))
	case "rawtcp":
		return serveTCP(ln, target.Host)
	case "reverseproxy":
		h = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
		}}
	case "koding":
		ws := *target
		ws.Scheme = "ws"
		h = websocketproxy.NewProxy(&ws)
	case "coder-naive":
		h = coderNaive(target.Host)
	default:
		err = errors.New("no such proxy: " + kind)
	}
	if err != nil {
		return err
	}
	return http.Serve(ln, h)
}

// largest is the size of messages that a proxy of whole messages accepts: larger ones
// than the load sends.
const largest = 64 << 20

// serveTCP copies bytes both ways; between two TCP connections io.Copy
// splices.
func serveTCP(ln net.Listener, target string) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			up, err := net.Dial("tcp", target)
			if err != nil {
				return
			}
			defer up.Close()
			go func() {
				_, _ = io.Copy(up, c)
				up.Close()
				c.Close()
			}()
			_, _ = io.Copy(c, up)
		}()
	}
}

// coderNaive accepts, dials, and copies whole messages both ways: a proxy that
// one writes on a WebSocket library in half an hour.
func coderNaive(target string) http.Handler {
	relay := func(dst, src *websocket.Conn) {
		for {
			kind, msg, err := src.Read(context.Background())
			if err != nil {
				var ce websocket.CloseError
				if errors.As(err, &ce) {
					dst.Close(ce.Code, ce.Reason)
				} else {
					dst.CloseNow()
				}
				return
			}
			if dst.Write(context.Background(), kind, msg) != nil {
				src.CloseNow()
				return
			}
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up, _, err := websocket.Dial(r.Context(), "ws://"+target+r.URL.RequestURI(), nil)
		if err != nil {
			http.Error(w, "Bad Gateway", http.StatusBadGateway)
			return
		}
		down, err := websocket.Accept(w, r, nil)
		if err != nil {
			up.CloseNow()
			return
		}
		up.SetReadLimit(-1)
		down.SetReadLimit(-1)
		go relay(up, down)
		relay(down, up)
	})
}
