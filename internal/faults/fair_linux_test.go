package faults

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seed-ffb73231/wsproxy"
	"github.com/seed-ffb73231/wsproxy/internal/faults/peer"
	"github.com/seed-ffb73231/wsproxy/internal/remains"
	"github.com/seed-ffb73231/wsproxy/internal/wstest"
)

func init() { roles["fair"] = fairProcess }

// fairProcess is a proxy to the target with the given number of processors. It
// prints its address: the path /ours is wsproxy's, every other path
// httputil.ReverseProxy's.
func fairProcess(args []string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	n, err := strconv.Atoi(args[0])
	fail(err)
	runtime.GOMAXPROCS(n)
	target, err := url.Parse(args[1])
	fail(err)
	ours, err := wsproxy.New(args[1], wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
	fail(err)
	mux := http.NewServeMux()
	mux.Handle("/ours/", ours)
	mux.Handle("/", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	fail(err)
	fmt.Println(ln.Addr())
	go http.Serve(ln, mux)
	untilStdinEnds()
	ours.Close()
	remains.Exit(0)
}

// sinkAndEcho is an upstream: it discards what arrives in a session whose path
// ends in /sink, and echoes everything else.
func sinkAndEcho(t *testing.T) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	serve := func(c net.Conn) {
		defer c.Close()
		br := bufio.NewReader(c)
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		io.WriteString(c, peer.Answer(r.Header.Get("Sec-WebSocket-Key"), ""))
		if strings.HasSuffix(r.URL.Path, "/sink") {
			io.Copy(io.Discard, br)
			return
		}
		// A frame of 4 bytes, masked by zeros, and the answer.
		for b := make([]byte, 10); ; {
			if _, err := io.ReadFull(br, b); err != nil || b[1] != 0x84 {
				return
			}
			c.Write([]byte("\x82\x04echo"))
		}
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return ln
}

// Senders of small frames at full speed do not delay another session's frames
// longer than they would with httputil.ReverseProxy, however few processors
// there are.
func TestSmallFramesAreFair(t *testing.T) {
	t.Attr("case", "F53")
	up := sinkAndEcho(t)
	for _, processors := range []int{1, 2} {
		t.Run(fmt.Sprint(processors), func(t *testing.T) {
			p := start(t, "fair", strconv.Itoa(processors), "http://"+up.Addr().String())
			address := p.line(t)
			var ours, theirs [2]time.Duration
			for try := range 3 {
				theirs = underFlood(t, address, "/theirs")
				ours = underFlood(t, address, "/ours")
				t.Logf("round trips, p50 and p90: %v, ReverseProxy's %v", ours, theirs)
				const least = 20 * time.Millisecond // a busy scheduler polls every 10 ms, for each way
				if ours[0] <= max(2*theirs[0], least) && ours[1] <= max(2*theirs[1], least) {
					return
				}
				t.Logf("try %d was not fair", try+1)
			}
			t.Errorf("round trips take %v, want at most twice ReverseProxy's %v", ours, theirs)
		})
	}
}

// underFlood returns the median and the 90th percentile of an echo's round trip
// beside five senders of small frames.
func underFlood(t *testing.T, address, path string) [2]time.Duration {
	t.Helper()
	open := func(path string) net.Conn {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		w := wstest.NewWire(t, c, true)
		w.Send(peer.Request(path, ""))
		w.WantStatus(http.StatusSwitchingProtocols)
		return c
	}
	small := []byte(strings.Repeat("\x82\xfd\x00\x00\x00\x00"+strings.Repeat("x", 125), 500))
	for range 5 {
		c := open(path + "/sink")
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		go func() {
			for {
				if _, err := c.Write(small); err != nil {
					return
				}
			}
		}()
	}
	c := open(path + "/echo")
	defer c.Close()
	c.SetDeadline(time.Now().Add(wstest.Timeout))
	var trips []time.Duration
	answer := make([]byte, 6)
	for began := time.Now(); len(trips) < 20 || time.Since(began) < 1500*time.Millisecond; {
		sent := time.Now()
		io.WriteString(c, "\x82\x84\x00\x00\x00\x00echo")
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Fatal(err)
		}
		trips = append(trips, time.Since(sent))
	}
	slices.Sort(trips)
	return [2]time.Duration{trips[len(trips)/2], trips[len(trips)*9/10]}
}
