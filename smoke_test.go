package wsproxy_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/seed-ffb73231/wsproxy"
)

func TestSmoke(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		c.SetReadLimit(-1)
		for {
			mt, b, err := c.Read(r.Context())
			if err != nil {
				fmt.Println("up:", err)
				return
			}
			c.Write(r.Context(), mt, b)
		}
	}))
	p, err := wsproxy.New(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(p)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, front.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(-1)
	for _, n := range []int{0, 1, 125, 126, 70000, 5 << 20} {
		go c.Write(ctx, websocket.MessageBinary, make([]byte, n))
		_, b, err := c.Read(ctx)
		if err != nil || len(b) != n {
			t.Fatal(n, len(b), err)
		}
	}
	fmt.Println(c.Close(4000, "bye"))
	fmt.Println(p.Shutdown(ctx))
}
