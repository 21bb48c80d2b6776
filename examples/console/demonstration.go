package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// echo is the demonstration's upstream: it returns every message, and on paths
// that end in /prices it also sends messages by itself.
func echo(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the proxy has checked the origin
	})
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if strings.HasSuffix(r.URL.Path, "/prices") {
		go func() {
			for n := 0; sleep(ctx, 800*time.Millisecond); n++ {
				if conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"n":%d,"price":%.2f}`, n, 100+10*rand.Float64())) != nil {
					return
				}
			}
		}()
	}
	for {
		kind, message, err := conn.Read(ctx)
		if err != nil {
			return
		}
		if err := conn.Write(ctx, kind, message); err != nil {
			return
		}
	}
}

var (
	paths  = []string{"/chat", "/prices", "/chat", "/orders", ""}
	kinds  = []string{"desk", "phone", "kiosk", "sensor"}
	pauses = []time.Duration{200 * time.Millisecond, 700 * time.Millisecond, 2 * time.Second, 8 * time.Second, 30 * time.Second}
)

// visit is one of the demonstration's clients. It connects and disconnects
// until ctx ends or it is told to stay away.
func visit(ctx context.Context, url string, i int) {
	url = fmt.Sprintf("%s%s?user=%s-%02d", url, paths[i%len(paths)], kinds[i%len(kinds)], i)
	pause := pauses[i*7%len(pauses)]
	options := &websocket.DialOptions{}
	if i%20 == 19 { // a page of another site, which the proxy refuses
		options.HTTPHeader = http.Header{"Origin": {"https://elsewhere.example"}}
	}
	for sleep(ctx, rand.N(time.Second)) {
		conn, _, err := websocket.Dial(ctx, url, options)
		if err != nil {
			sleep(ctx, 5*time.Second+rand.N(5*time.Second))
			continue
		}
		stay := 30*time.Second + rand.N(3*time.Minute)
		code := chat(ctx, conn, pause, time.Now().Add(stay))
		conn.CloseNow()
		if code == websocket.StatusPolicyViolation || code >= 4000 {
			return
		}
		sleep(ctx, rand.N(4*time.Second))
	}
}

// chat sends messages until the session ends, in one way or another. It returns
// the code of the Close frame, if one came.
func chat(ctx context.Context, conn *websocket.Conn, pause time.Duration, until time.Time) websocket.StatusCode {
	ended := make(chan error, 1)
	go func() {
		for {
			if _, _, err := conn.Read(context.WithoutCancel(ctx)); err != nil {
				ended <- err
				return
			}
		}
	}()
	text := strings.Repeat("what there is to say, ", 100)
	ticker := time.NewTicker(pause/2 + rand.N(pause))
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			return websocket.CloseStatus(err)
		case <-ticker.C:
			if time.Now().After(until) {
				if rand.N(4) > 0 { // or it goes without a word
					conn.Close(websocket.StatusNormalClosure, "")
				}
				return -1
			}
			conn.Write(context.WithoutCancel(ctx), websocket.MessageText, []byte(text[:1+rand.N(rand.N(len(text))+1)])) // the reader sees what is wrong
		}
	}
}

// sleep reports whether the time is over before ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
