package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

// Commands, which a client sends in text messages.
const (
	start = `{"message":"StartTranscription","audio_format":{"type":"raw","encoding":"pcm_s16le","sample_rate":16000}}`
	stop  = `{"message":"StopTranscription"}`
)

// An event is what the recognizer answers.
type event struct {
	Message    string  `json:"message"` // RecognitionStarted, AddTranscript, EndOfTranscript
	Transcript string  `json:"transcript,omitempty"`
	End        float64 `json:"end_time,omitempty"` // seconds
}

// A recognizer is the upstream.
type recognizer struct {
	addr   string
	server *http.Server
	crash  context.CancelFunc
}

func startRecognizer(addr string) (*recognizer, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &recognizer{ln.Addr().String(), &http.Server{
		Handler:           http.HandlerFunc(recognize),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 5 * time.Second,
	}, cancel}
	go r.server.Serve(ln)
	return r, nil
}

// kill ends the recognizer as a crash does: its connections end without a Close frame.
func (r *recognizer) kill() {
	r.server.Close()
	r.crash()
}

// recognize serves a client: it hears a word every half second. Audio before
// StartTranscription is an error.
func recognize(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	if err := transcribe(r.Context(), conn); err != nil {
		conn.Close(websocket.StatusPolicyViolation, err.Error())
		return
	}
	conn.Close(websocket.StatusNormalClosure, "")
}

func transcribe(ctx context.Context, conn *websocket.Conn) error {
	const word = bytesPerSecond / 2
	started, heard, words := false, 0, 0
	for {
		kind, data, err := conn.Read(ctx)
		switch {
		case err != nil:
			return err
		case kind == websocket.MessageBinary && !started:
			return errors.New("audio before StartTranscription")
		case kind == websocket.MessageBinary:
			for heard += len(data); heard >= (words+1)*word; {
				words++
				if err := wsjson.Write(ctx, conn, event{"AddTranscript", fmt.Sprint("word-", words), float64(words) / 2}); err != nil {
					return err
				}
			}
		case string(data) == stop:
			return wsjson.Write(ctx, conn, event{Message: "EndOfTranscript", End: float64(heard) / bytesPerSecond})
		case string(data) == start:
			started = true
			if err := wsjson.Write(ctx, conn, event{Message: "RecognitionStarted"}); err != nil {
				return err
			}
		default:
			return errors.New("unknown command")
		}
	}
}
