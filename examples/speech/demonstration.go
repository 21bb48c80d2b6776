package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"

	"github.com/seed-ffb73231/wsproxy"
)

// demonstrate lets four clients speak: one without a token, one until it is done, one
// until its token expires, and one while the recognizer restarts.
func demonstrate(ctx context.Context) error {
	upstream, err := startRecognizer("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { upstream.kill() }()

	secret := make([]byte, 32)
	rand.Read(secret)
	g, err := newGateway("http://"+upstream.addr, secret)
	if err != nil {
		return err
	}
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/transcribe", g.proxy)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go server.Serve(front)
	defer server.Close()
	url := "ws://" + front.Addr().String() + "/v1/transcribe"
	say("gateway", "listens on %s", url)

	_, err = speak(ctx, url, "stranger", "stranger.99999999999999.forged", time.Second, nil)
	if err == nil || !strings.Contains(err.Error(), "401") {
		return fmt.Errorf("a client with a forged token was let in: %w", err)
	}
	say("stranger", "was refused: %v", err)

	words, err := speak(ctx, url, "ann", g.token("ann", time.Now().Add(time.Hour)), 5*time.Second, nil)
	if err != nil {
		return fmt.Errorf("ann: %w", err)
	}
	if words != 10 {
		return fmt.Errorf("ann got %d words for 5 s of audio, want 10", words)
	}

	_, err = speak(ctx, url, "bob", g.token("bob", time.Now().Add(2*time.Second)), time.Hour, nil)
	if code := websocket.CloseStatus(err); code != 4001 {
		return fmt.Errorf("bob's session ended with %w, want Close 4001", err)
	}
	say("bob", "was closed: %v", err)

	var restarted error
	words, err = speak(ctx, url, "eve", g.token("eve", time.Now().Add(time.Hour)), 10*time.Second, func(words int) {
		if words != 5 {
			return
		}
		say("recognizer", "crashes, and starts again")
		upstream.kill()
		again, err := startRecognizer(upstream.addr)
		if restarted = err; err == nil {
			upstream = again
		}
	})
	if err := errors.Join(restarted, err); err != nil {
		return fmt.Errorf("eve: %w", err)
	}
	if words < 10 || words > 20 { // what the old recognizer had not transcribed is lost
		return fmt.Errorf("eve got %d words for 10 s of audio, want nearly 20", words)
	}

	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := wsproxy.ShutdownServer(ctx, server, g.proxy); err != nil {
		return err
	}
	if used := g.used("ann"); used != 5*time.Second {
		return fmt.Errorf("ann was billed %v of audio, want 5s", used)
	}
	if used := g.used("eve"); used != 10*time.Second {
		return fmt.Errorf("eve was billed %v of audio, want 10s", used)
	}
	if used := g.used("bob"); used <= 0 || used > 30*time.Second {
		return fmt.Errorf("bob was billed %v of audio, want about 20s", used)
	}
	st := g.proxy.Stats()
	say("gateway", "%d sessions, %d refused, %d resumed, %d messages of clients, %d not metered", st.Opened, st.Failed[wsproxy.KindHook], st.Resumes, st.FromClients.Messages, st.Untapped)
	if st.Untapped > 0 {
		return errors.New("audio was not metered")
	}
	return nil
}

// speak transcribes so much audio, and returns the number of words. It calls heard,
// unless that is nil, with the number after each word.
func speak(ctx context.Context, url, user, token string, audio time.Duration, heard func(words int)) (words int, err error) {
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err != nil {
		return 0, err
	}
	defer conn.CloseNow()
	if err := conn.Write(ctx, websocket.MessageText, []byte(start)); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	spoken := make(chan error, 1)
	defer func() {
		cancel()
		<-spoken
	}()
	go func() { spoken <- stream(ctx, conn, audio) }()
	var transcript []string
	for {
		var e event
		if err := wsjson.Read(ctx, conn, &e); err != nil {
			return len(transcript), err
		}
		switch e.Message {
		case "AddTranscript":
			transcript = append(transcript, e.Transcript)
			if heard != nil {
				heard(len(transcript))
			}
		case "EndOfTranscript":
			say(user, "%.1f s of audio: %s", e.End, strings.Join(transcript, " "))
			return len(transcript), conn.Close(websocket.StatusNormalClosure, "")
		}
	}
}

// stream sends so much audio, and then the command to stop.
func stream(ctx context.Context, conn *websocket.Conn, audio time.Duration) error {
	const piece = 100 * time.Millisecond
	chunk := make([]byte, bytesPerSecond*piece/time.Second)
	tick := time.NewTicker(piece / 10) // ten times as fast as speech
	defer tick.Stop()
	for ; audio > 0; audio -= piece {
		if err := conn.Write(ctx, websocket.MessageBinary, chunk); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return conn.Write(ctx, websocket.MessageText, []byte(stop))
}
