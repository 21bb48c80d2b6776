const $ = id => document.getElementById(id);

// The page's own origin: the only one that the proxy lets in by default.
const url = new URL("websocket", location.href);
url.protocol = url.protocol.replace("http", "ws");

const most = 500; // entries that the log keeps

let socket = null;
let waiting = []; // what was sent and has no answer yet, oldest first
let trips = []; // milliseconds, as the page sees them: its own drawing is in them

// The codes of RFC 6455, 7.4.1, and of the registry that it began.
const meanings = {
	1000: "Normal closure: whoever closed had nothing more to say.",
	1001: "Going away: the server is shutting down, the session was idle for too long, or the page was left.",
	1002: "Protocol error: this side broke the WebSocket protocol.",
	1003: "Unsupported data: the other side doesn't take messages of this kind.",
	1005: "No code: the Close frame had none.",
	1006: "No Close frame: the handshake was refused, the certificate isn't trusted, or the connection broke. Browsers don't tell a page which.",
	1007: "Invalid data: a message was not what its kind promises, such as text that isn't UTF-8.",
	1008: "Policy violation: the other side refuses what it was sent.",
	1009: "Message too big.",
	1010: "Extension missing: the browser expected one that wasn't negotiated.",
	1011: "Internal error: from the proxy this means that the upstream is lost.",
	1012: "Service restart: connect again.",
	1013: "Try again later: overloaded.",
	1014: "Bad gateway: a proxy got nothing usable from its upstream.",
	1015: "TLS handshake failed.",
};

function meaning(code) {
	if (code in meanings) return meanings[code];
	if (code >= 4000) return "The application's own code: what it means is between this page and the upstream.";
	if (code >= 3000) return "A registered code of a library or framework.";
	return "A code with no meaning that is known here.";
}

function show(state) {
	$("state").textContent = $("state").dataset.state = state;
	const open = state === "open";
	$("connect").disabled = state !== "closed";
	$("protocols").disabled = state !== "closed";
	$("disconnect").disabled = state !== "open" && state !== "connecting";
	for (const b of [$("send-text"), $("send-binary"), ...$("commands").children]) b.disabled = !open;
}

function log(kind, what, detail = "") {
	const list = $("log");
	const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
	const entry = document.createElement("li");
	entry.className = kind;
	const now = new Date();
	const time = document.createElement("time");
	time.dateTime = now.toISOString();
	time.textContent = now.toLocaleTimeString([], { hour12: false });
	const marks = { sent: ["↑", "sent"], received: ["↓", "received"], bad: ["×", "error"], note: ["·", "note"] };
	const mark = document.createElement("span");
	mark.className = "mark";
	mark.setAttribute("role", "img");
	[mark.textContent, mark.ariaLabel] = marks[kind];
	const text = document.createElement("span");
	text.className = "what";
	text.textContent = what.length > 300 ? what.slice(0, 300) + "…" : what;
	const more = document.createElement("span");
	more.className = "detail";
	more.textContent = detail;
	entry.append(time, mark, text, more);
	list.append(entry);
	while (list.childElementCount > most) list.firstElementChild.remove();
	if (atEnd) list.scrollTop = list.scrollHeight;
}

function size(bytes) {
	if (bytes < 1024) return `${bytes} B`;
	if (bytes < 1 << 20) return `${+(bytes / 1024).toFixed(1)} KiB`;
	return `${+(bytes / (1 << 20)).toFixed(1)} MiB`;
}

const milliseconds = ms => `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;

function duration(ms) {
	if (ms < 1000) return `${ms} ms`;
	if (ms < 120_000) return `${ms / 1000} s`;
	return `${+(ms / 60_000).toFixed(1)} min`;
}

function connect() {
	const offered = $("protocols").value.split(/[\s,]+/).filter(Boolean);
	let s;
	try {
		s = new WebSocket(url, offered);
	} catch (err) { // a subprotocol that is not a token, or is named twice
		log("bad", err.message);
		return;
	}
	socket = s;
	s.binaryType = "arraybuffer";
	waiting = [];
	trips = [];
	$("ending").hidden = true;
	for (const id of ["protocol", "extensions", "trips"]) $(id).textContent = "–";
	show("connecting");
	log("note", `connecting${offered.length ? `, offering ${offered.join(", ")}` : ""}`);
	const began = performance.now();
	s.addEventListener("open", () => {
		$("protocol").textContent = s.protocol || "none";
		$("extensions").textContent = s.extensions || "none";
		show("open");
		log("note", "open", milliseconds(performance.now() - began));
	});
	s.addEventListener("message", e => received(e.data));
	s.addEventListener("error", () => log("bad", "error"));
	s.addEventListener("close", ended);
}

function ended(e) {
	socket = null;
	const normal = e.wasClean && (e.code < 1002 || e.code === 1005);
	$("code").textContent = e.code;
	$("reason").textContent = e.reason && `“${e.reason}”`;
	$("clean").textContent = e.wasClean ? "clean" : "not clean";
	$("meaning").textContent = meaning(e.code);
	$("ending").className = normal ? "clean" : "";
	$("ending").hidden = false;
	show("closed");
	log(normal ? "note" : "bad", `closed: ${e.code}${e.reason && ` “${e.reason}”`}`, e.wasClean ? "clean" : "not clean");
}

function send(data) {
	const text = typeof data === "string";
	waiting.push({ data, at: performance.now() });
	socket.send(data);
	log("sent", text ? data : "binary", size(text ? new Blob([data]).size : data.byteLength));
}

function received(data) {
	const now = performance.now();
	const text = typeof data === "string";
	const was = waiting.shift();
	const details = [size(text ? new Blob([data]).size : data.byteLength)];
	if (was) {
		const command = typeof was.data === "string" && was.data.startsWith("/");
		if (!command && !same(was.data, data)) details.push("not what was sent");
		trips.push(now - was.at);
		details.push(milliseconds(now - was.at));
		const sorted = trips.toSorted((a, b) => a - b);
		$("trips").textContent = `${trips.length}: fastest ${milliseconds(sorted[0])}, median ${milliseconds(sorted[trips.length >> 1])}`;
	}
	log("received", text ? data : "binary", details.join(", "));
}

function same(a, b) {
	if (typeof a !== typeof b) return false;
	if (typeof a === "string") return a === b;
	const x = new Uint8Array(a), y = new Uint8Array(b);
	return x.length === y.length && x.every((v, i) => v === y[i]);
}

function randomBytes(n) {
	const bytes = new Uint8Array(n);
	const step = 65536; // the most that getRandomValues gives at once
	for (let i = 0; i < n; i += step) crypto.getRandomValues(bytes.subarray(i, i + step));
	return bytes.buffer;
}

function onSubmit(form, f) {
	$(form).addEventListener("submit", e => {
		e.preventDefault();
		f();
	});
}

onSubmit("session", () => socket || connect());
onSubmit("text-form", () => socket?.readyState === WebSocket.OPEN && send($("text").value));
onSubmit("binary-form", () => socket?.readyState === WebSocket.OPEN && send(randomBytes($("size").valueAsNumber * 1024)));
$("disconnect").addEventListener("click", () => {
	if (socket.readyState === WebSocket.OPEN) show("closing");
	socket.close(1000, "disconnected");
});
$("commands").addEventListener("click", e => e.target.matches("button") && send(e.target.textContent));
$("clear").addEventListener("click", () => $("log").replaceChildren());

$("url").textContent = url;
show("closed");

try {
	const s = await (await fetch("settings")).json();
	$("protocols").value = s.subprotocols.join(", ");
	$("size").max = s.maxMessage / 1024;
	$("ping").textContent = s.ping ? `after ${duration(s.ping)} of silence, answer within ${duration(s.pingTimeout)}` : "off";
	$("idle").textContent = s.idle ? `${duration(s.idle)} without a message` : "none";
} catch (err) {
	log("bad", `the settings can't be read: ${err.message}`);
}
document.documentElement.dataset.ready = "true";
