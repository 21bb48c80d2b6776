const $ = id => document.getElementById(id);
let socket = null;

function log(text) {
	const entry = document.createElement("li");
	entry.textContent = text;
	$("log").append(entry);
	entry.scrollIntoView({ block: "nearest" });
}

$("enter").onsubmit = event => {
	event.preventDefault();
	socket?.close(1000);
	const url = new URL("chat", location.href);
	url.protocol = url.protocol.replace("http", "ws");
	url.search = new URLSearchParams({ room: $("room").value, name: $("name").value });
	const mine = socket = new WebSocket(url);
	mine.onopen = () => { $("text").disabled = false; $("text").focus(); };
	mine.onmessage = event => log(event.data);
	mine.onclose = event => {
		if (mine !== socket) return; // another one has taken its place
		$("text").disabled = true;
		log(`disconnected: ${event.code} ${event.reason}`);
	};
};

$("talk").onsubmit = event => {
	event.preventDefault();
	if (socket?.readyState !== WebSocket.OPEN) return;
	socket.send($("text").value);
	$("text").value = "";
};
