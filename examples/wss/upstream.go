package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/coder/websocket"
)

// subprotocols are those that the upstream supports, in order of preference.
var subprotocols = []string{"echo.v2", "echo.v1"}

// maxMessage is the size of the largest message that the upstream accepts.
const maxMessage = 16 << 20

const help = "/close CODE REASON closes the session, /drop cuts the connection, everything else is echoed"

// echo is the upstream: it returns every message. Three commands show how
// sessions can end.
//
// It checks the page's origin, as Accept does by default. Behind the proxy that
// works because the proxy forwards Host as the client sent it.
func echo(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: subprotocols,
		// Between the browser and the upstream: the proxy only passes it on.
		CompressionMode: websocket.CompressionContextTakeover,
	})
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	conn.SetReadLimit(maxMessage)
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if kind == websocket.MessageText {
			switch command, arguments, _ := strings.Cut(string(message), " "); command {
			case "/close":
				code, reason, err := parseClose(arguments)
				if err == nil {
					conn.Close(code, reason)
					return
				}
				message = []byte(err.Error())
			case "/drop":
				return // with no Close frame
			case "/help":
				message = []byte(help)
			}
		}
		if err := conn.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}

// parseClose parses what follows /close. If that is empty, the code is 1000.
func parseClose(arguments string) (websocket.StatusCode, string, error) {
	if arguments == "" {
		return websocket.StatusNormalClosure, "", nil
	}
	first, reason, _ := strings.Cut(arguments, " ")
	code, err := strconv.Atoi(first)
	switch {
	// RFC 6455, 7.4: the others are undefined, or may not be sent.
	case err != nil, code < 1000, code > 1003 && code < 1007, code > 1014 && code < 3000, code > 4999:
		return 0, "", fmt.Errorf("%.20q is not a code that a Close frame may carry", first)
	case len(reason) > 123: // RFC 6455, 5.5: 125 bytes with the code
		return 0, "", fmt.Errorf("the reason has %d bytes; a Close frame has room for 123", len(reason))
	}
	return websocket.StatusCode(code), reason, nil
}
