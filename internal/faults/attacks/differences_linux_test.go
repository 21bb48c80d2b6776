package attacks

import "strings"

// requestDifferences are clients' handshakes, in front of an upstream that
// answers 101 to everything.
var requestDifferences = []difference{
	{"C1", "plain", handshake(""), nil, []string{"Upgrade", "Sec-WebSocket-Key"}, nil, "with a key of its own, nobody but the upstream can know the right answer"},
	{"A11", "a frame behind the handshake", handshake("") + mark, nil, nil, nil, ""},
	{"A1", "version 777, the upstream answers 426", edited("Version: 13", "Version: 777"), says("HTTP/1.1 426 No\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n"), nil, []string{"Sec-WebSocket-Version"}, "a version that we don't speak needs no upstream; all pass 426 on, and none makes a tunnel of it"},
	{"A1", "version 777, the upstream answers 101", edited("Version: 13", "Version: 777"), nil, nil, nil, "the others believe the upstream about a protocol that none of them knows"},
	{"A15", "POST", edited("GET /", "POST /"), nil, nil, nil, "RFC 6455, 4.1: the method must be GET"},
	{"A13", "a body by length", edited(upgradeLine, upgradeLine+"Content-Length: 5\r\n") + "hello", nil, []string{"Content-Length"}, nil, "its bytes would be frames; HAProxy, too, lets no upgrade pass a body that isn't through"},
	{"A13", "a body in chunks", edited(upgradeLine, upgradeLine+"Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n0\r\n\r\n", nil, []string{"Transfer-Encoding"}, nil, "the same; ReverseProxy sends the chunks, coding and all, nginx takes the coding off"},
	{"A13", "a body by both", edited(upgradeLine, upgradeLine+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", nil, []string{"Content-Length", "Transfer-Encoding"}, nil, "two readers, two lengths"},
	{"A14", "Expect", handshake("Expect: 100-continue\r\n"), nil, []string{"Expect"}, nil, "without a body nothing has to be said; nginx says it in place of the upstream"},
	{"A16", "HTTP/1.0", edited("HTTP/1.1", "HTTP/1.0"), nil, nil, nil, "RFC 9110, 7.8: Upgrade counts for nothing in HTTP/1.0"},
	{"A17", "no key", edited(keyOfClient, ""), nil, nil, nil, "RFC 6455, 4.2.1"},
	{"A17", "the key twice", edited(keyOfClient, keyOfClient+keyOfClient), nil, nil, nil, ""},
	{"A17", "a key whose padding bits are set", edited(key, "AQIDBAUGBwgJCgsMDQ4PEC=="), nil, nil, nil, ""},
	{"A17", "the version twice", edited(versionLine, versionLine+versionLine), nil, []string{"Sec-WebSocket-Version"}, nil, "one is left"},
	{"A34", "subprotocols with a gap and a repeat", handshake("Sec-WebSocket-Protocol: a,, b, a\r\n"), nil, []string{"Sec-WebSocket-Protocol"}, nil, "what goes on is tidy: many servers refuse such lists"},
	{"A34", "an empty subprotocol field", handshake("Sec-WebSocket-Protocol:\r\n"), nil, []string{"Sec-WebSocket-Protocol"}, nil, "the same"},
	{"A34", "an extension that ends in a semicolon", handshake("Sec-WebSocket-Extensions: x-a;\r\n"), nil, []string{"Sec-WebSocket-Extensions"}, nil, "the same"},
	{"A34", "subprotocols in quotes", handshake("Sec-WebSocket-Protocol: \"a, b\"\r\n"), nil, nil, nil, "one subprotocol or two"},
	{"A62", "300 fields", handshake(strings.Repeat("A: a\r\n", 300)), nil, nil, nil, "each costs more than its bytes; HAProxy takes 101"},
	{"A17", "two keys", edited(keyOfClient, keyOfClient+"Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==\r\n"), nil, nil, nil, "RFC 6455, 11.3.1: at most one; who takes which is anyone's guess"},
	{"A17", "a key of 15 bytes", edited(key, "dGhlIHNhbXBsZSBub25j"), nil, nil, nil, "RFC 6455, 4.2.1"},
	{"A12", "Upgrade: h2c", edited(upgradeLine, "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n", "Connection: Upgrade", "Connection: Upgrade, HTTP2-Settings"), says("HTTP/1.1 101 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"), []string{"Upgrade", "HTTP2-Settings"}, nil, "what is said in HTTP/2 would go past the rules that a proxy has for requests"},
	{"A12", "Upgrade: websocket, h2c", edited("Upgrade: websocket", "Upgrade: websocket, h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"), nil, []string{"Upgrade", "HTTP2-Settings"}, nil, "the upstream might choose what we can't follow; it is offered websocket alone"},
	{"A22", "Connection: not-upgrade", edited("Connection: Upgrade", "Connection: not-upgrade"), nil, []string{"Upgrade", "Connection"}, nil, "not the token; the usual nginx configuration adds it where there is Upgrade"},
	{"A23", "Connection: close, upgrade", edited("Connection: Upgrade", "Connection: close, upgrade"), nil, nil, nil, ""},
	{"A21", "X-Forwarded-For nominated", edited("Connection: Upgrade", "Connection: Upgrade, X-Forwarded-For"), nil, []string{"X-Forwarded-For"}, nil, ""},
	{"A21", "Cookie nominated", edited("Connection: Upgrade", "Connection: Upgrade, Cookie\r\nCookie: a"), nil, []string{"Cookie"}, nil, "who is asking can't be nominated away"},
	{"A25", "X-Forwarded-For forged", handshake("X-Forwarded-For: 192.0.2.1\r\n"), nil, []string{"X-Forwarded-For"}, nil, "a stranger's word is replaced; nginx and HAProxy keep it before their own, and leave it to the upstream to count from the right"},
	{"A25", "X-Forwarded-Proto forged", handshake("X-Forwarded-Proto: https\r\n"), nil, []string{"X-Forwarded-Proto"}, nil, "nginx and HAProxy replace only what they are configured to"},
	{"A26", "X_Forwarded_For forged", handshake("X_Forwarded_For: 192.0.2.1\r\n"), nil, []string{"X_Forwarded_For"}, nil, "many upstreams can't tell it from the other; nginx drops all such names"},
	{"A30", "hop-by-hop fields", edited("Connection: Upgrade", "Connection: Upgrade, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: x"), nil, []string{"X-Hop", "Keep-Alive", "TE", "Proxy-Connection"}, nil, "RFC 9110, 7.6.1; nginx and HAProxy know of fewer, and not of those that Connection nominates"},
	{"A31", "target of another host", edited("GET / ", "GET http://evil.test/x "), nil, []string{"", "Host"}, nil, "RFC 9112, 3.2.2: the target's host counts, though never for where we connect to; `$http_host` is the other one, and HAProxy wants them to agree"},
	{"A33", "escapes and dots", edited("GET / ", "GET /a%2fb/../c//d?e=%zz;f "), nil, []string{""}, nil, "passed as it is; ReverseProxy takes out of a query what it can't parse"},
	{"A37", "two Hosts", handshake("Host: evil.test\r\n"), nil, []string{"Host"}, nil, ""},
	{"A37", "no Host", edited("Host: front.test\r\n", ""), nil, nil, nil, "RFC 9112, 3.2"},
	{"A37", "a folded line", handshake("X-A: a\r\n b\r\n"), nil, []string{"X-A"}, nil, "net/http puts it on one line, as RFC 9112, 5.2 allows"},
	{"A37", "CR in a line", handshake("X-A: a\rX-B: b\r\n"), nil, []string{"X-B"}, nil, ""},
	{"A37", "NUL in a line", handshake("X-A: a\x00b\r\n"), nil, nil, nil, "RFC 9110, 5.5: invalid and dangerous"},
	{"A37", "space before the colon", handshake("X-A : a\r\n"), nil, []string{"X-A"}, nil, ""},
	{"A37", "lines that end in LF", strings.ReplaceAll(handshake(""), "\r\n", "\n"), nil, nil, nil, ""},
	{"A39", "a page of another origin", handshake("Origin: http://evil.test\r\n"), nil, nil, nil, "RFC 6455, 10.2: the upstream has to look there, unless the proxy does"},
	{"A62", "a header of 100 KiB", handshake(strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 100)), nil, nil, nil, "64 KiB is our limit; ReverseProxy's is the server's megabyte"},
	{"A5 C9", "no handshake, and the upstream answers 101", "GET / HTTP/1.1\r\nHost: front.test\r\n\r\n", says("HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), nil, nil, "it is no WebSocket, so nothing is asked; nginx holds on to the 101 until the upstream ends"},
}

// answerDifferences are upstreams' answers to the plain handshake.
var answerDifferences = []difference{
	{"C5", "right", handshake(""), tells(""), nil, nil, ""},
	{"A6", "no accept", handshake(""), says(status101 + upgradeLine + connectionLine + "\r\n"), nil, nil, "RFC 6455, 4.1: what isn't the answer to our key isn't an answer to us"},
	{"A6", "wrong accept", handshake(""), says(status101 + upgradeLine + connectionLine + "Sec-WebSocket-Accept: x\r\n\r\n"), nil, nil, "the same; HAProxy wants one, whatever it says"},
	{"A6", "two accepts", handshake(""), tells("Sec-WebSocket-Accept: x\r\n"), nil, nil, "the same"},
	{"A7", "Upgrade: h2c", handshake(""), func(head string) string { return strings.Replace(answer(head, ""), "websocket", "h2c", 1) }, nil, nil, "RFC 6455, 4.1"},
	{"A7", "no Upgrade, no Connection", handshake(""), func(head string) string {
		return strings.Replace(answer(head, ""), upgradeLine+connectionLine, "", 1)
	}, nil, nil, "RFC 6455, 4.1; for nginx the status alone counts"},
	{"A8", "101 of HTTP/1.0", handshake(""), func(head string) string { return strings.Replace(answer(head, ""), "1.1", "1.0", 1) }, nil, nil, "HTTP/1.0 has no 101"},
	{"A9", "101 with a length", handshake(""), tells("Content-Length: 5\r\n"), nil, nil, "RFC 9110, 8.6 forbids it, and whoever believes it takes frames for a body"},
	{"A9", "101 with a length of 0", handshake(""), tells("Content-Length: 0\r\n"), nil, []string{"Content-Length"}, "it says nothing (RFC 9112, 6.3), so it doesn't go on"},
	{"A9", "101 in chunks", handshake(""), tells("Transfer-Encoding: chunked\r\n"), nil, []string{"Transfer-Encoding"}, "the same"},
	{"A35", "an empty subprotocol", handshake(""), tells("Sec-WebSocket-Protocol:\r\n"), nil, []string{"Sec-WebSocket-Protocol"}, "it doesn't go on: browsers and others refuse it"},
	{"A35", "two subprotocols", handshake("Sec-WebSocket-Protocol: a, b\r\n"), tells("Sec-WebSocket-Protocol: a, b\r\n"), nil, nil, "RFC 6455, 4.2.2: one of them"},
	{"A35", "an extension that wasn't offered", handshake(""), tells("Sec-WebSocket-Extensions: permessage-deflate\r\n"), nil, nil, "RFC 6455, 4.1: the client would have to fail"},
	{"A36", "space before a colon", handshake(""), tells("X-A : a\r\n"), nil, []string{"X-A"}, "RFC 9112, 5.1: a proxy removes it"},
	{"A36", "a line without a colon", handshake(""), tells("X-A\r\n"), nil, nil, "a field, or what is left of one"},
	{"A7", "Upgrade twice", handshake(""), tells("Upgrade: websocket\r\n"), nil, []string{"Upgrade"}, "one is left: browsers refuse two"},
	{"F9", "two spaces before the status", handshake(""), func(head string) string { return strings.Replace(answer(head, ""), " ", "  ", 1) }, nil, nil, ""},
	{"F9", "no reason", handshake(""), func(head string) string { return strings.Replace(answer(head, ""), " Switching Protocols", "", 1) }, nil, nil, ""},
	{"A63", "300 fields", handshake(""), tells(strings.Repeat("A: a\r\n", 300)), nil, nil, "as with requests"},
	{"A10", "100 before it", handshake(""), func(head string) string { return "HTTP/1.1 100 Continue\r\n\r\n" + answer(head, "") }, nil, nil, "passed over: the client hasn't asked for it; nginx 1.22 takes it for the answer, and HAProxy 2.6 for a bad one"},
	{"A10", "103 before it", handshake(""), func(head string) string {
		return "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(head, "")
	}, nil, nil, "the same; ReverseProxy passes it on"},
	{"A35", "a subprotocol that wasn't offered", handshake("Sec-WebSocket-Protocol: chat\r\n"), tells("Sec-WebSocket-Protocol: other\r\n"), nil, nil, "RFC 6455, 4.1: the client would have to fail"},
	{"A24", "hop-by-hop fields", handshake(""), tells("Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n"), nil, []string{"X-Hop", "Keep-Alive", "Proxy-Authenticate"}, "RFC 9110, 7.6.1, for answers, too"},
	{"A36", "a folded line", handshake(""), tells("X-A: a\r\n b\r\n"), nil, nil, "RFC 9112, 5.2; we take no line that can be read in two ways"},
	{"A36", "CR in a line", handshake(""), tells("X-A: a\rX-B: b\r\n"), nil, nil, ""},
	{"A36", "NUL in a line", handshake(""), tells("X-A: \x00\r\n"), nil, nil, "RFC 9110, 5.5"},
	{"A63", "a header of 100 KiB", handshake(""), tells(strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 100)), nil, nil, "64 KiB is our limit; ReverseProxy's is ten megabytes"},
	{"A3", "200", handshake(""), says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), nil, []string{"Connection"}, "RFC 9931: bytes that were meant as frames must not be read as a request"},
	{"A3", "200 with all the rest of a 101", handshake(""), func(head string) string {
		return strings.Replace(answer(head, "Content-Length: 2\r\n"), "101 Switching Protocols", "200 OK", 1) + "ok"
	}, nil, []string{"Upgrade", "Sec-WebSocket-Accept"}, "no tunnel with any of them; what looks like a handshake's end is taken out"},
	{"A4", "302 to another host", handshake(""), says("HTTP/1.1 302 There\r\nLocation: http://evil.test/\r\nContent-Length: 0\r\n\r\n"), nil, []string{"Location"}, ""},
	{"A2 A18", "403 that keeps the connection", handshake(""), says("HTTP/1.1 403 No\r\nContent-Length: 0\r\nKeep-Alive: timeout=5\r\n\r\n"), nil, []string{"Connection"}, "as with 200"},
	{"A2", "403 of no type", handshake(""), says("HTTP/1.1 403 No\r\nContent-Length: 8\r\n\r\n<script>"), nil, []string{"Content-Type"}, "net/http guesses a type where none is given; we have it leave that"},
	{"A2 A18", "403, and frames behind the handshake", handshake("") + mark, says("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"), nil, nil, ""},
	{"A5", "no HTTP", handshake(""), says("+OK\r\n\r\n"), nil, nil, "nginx takes it for HTTP/0.9, passes it on, and waits for its end"},
}

// says returns an answer that does not depend on the request.
func says(s string) func(string) string { return func(string) string { return s } }

// tells returns the valid 101 with additional lines.
func tells(lines string) func(string) string {
	return func(head string) string { return answer(head, lines) }
}
