// Speech is a live transcription behind the proxy: clients stream audio and
// commands, a recognizer answers with what it has understood. The gateway in
// between checks each client's token, ends the session when the token expires, meters
// the audio, and keeps the clients when the recognizer restarts.
//
//	go run ./examples/speech
//
// The code to copy is in gateway.go. The rest is the demonstration, with a recognizer
// that understands nothing. Audio is ten times as fast as in reality: 16 kHz, 16-bit
// mono PCM in binary messages of 100 ms. Commands and events are JSON in text
// messages.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := demonstrate(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "speech:", err)
		os.Exit(1)
	}
}

func say(who, format string, args ...any) {
	fmt.Printf("%-10s %s\n", who, fmt.Sprintf(format, args...))
}
