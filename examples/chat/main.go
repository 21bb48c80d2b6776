// Chat is a chat with rooms behind the proxy: everyone in a room gets to the same
// one of three servers, messages are moderated on their way, the operator announces
// something to everybody, and when a server dies its rooms go on at the others,
// without anybody being disconnected.
//
//	go run ./examples/chat          # runs the demonstration and exits
//	go run ./examples/chat -serve   # serves a page: open it in two browsers
//
// The code to copy is in gateway.go. The servers in rooms.go know nothing of each
// other, or of the proxy.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

func main() {
	serving := flag.Bool("serve", false, "serve the page until interrupted; lines on standard input are announced to all, and \"kill\" kills a server")
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on with -serve")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *serving {
		err = serve(ctx, *addr, os.Stdin)
	} else {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		err = demonstrate(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

func say(who, format string, args ...any) {
	fmt.Printf("%-10s %s\n", who, fmt.Sprintf(format, args...))
}
