const $ = id => document.getElementById(id);

// What is shown comes from strangers: it goes into the page by textContent, and
// by nothing else.
function put(node, text) {
	if (node.textContent !== text) node.textContent = text;
}

function count(n) {
	return n.toLocaleString("en");
}

function size(n) {
	if (n < 1024) return `${Math.round(n)} B`;
	const units = ["KiB", "MiB", "GiB", "TiB"];
	let i = -1;
	while (n >= 1024 && i < units.length - 1) {
		n /= 1024;
		i++;
	}
	return `${n.toFixed(n < 10 ? 1 : 0)} ${units[i]}`;
}

function duration(ms) {
	const s = Math.floor(ms / 1000);
	if (s < 60) return `${s} s`;
	const m = Math.floor(s / 60);
	if (m < 60) return `${m} m ${s % 60} s`;
	const h = Math.floor(m / 60);
	if (h < 24) return `${h} h ${m % 60} m`;
	return `${Math.floor(h / 24)} d ${h % 24} h`;
}

function trip(ms) {
	if (ms === 0) return "–";
	if (ms < 0.1) return "<0.1 ms";
	return `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
}

const pair = (p, f) => `↑ ${f(p[0])}  ↓ ${f(p[1])}`;
const trips = p => p[0] || p[1] ? pair(p, trip) : "–";

// The columns: a key to sort by, a title, and what a session has there.
const columns = [
	{ key: "id", title: "ID", kind: "number", text: r => String(r.id) },
	{ key: "user", title: "User", kind: "text wide", text: r => r.user || "–" },
	{ key: "client", title: "Client", kind: "text mono wide", text: r => r.client },
	{ key: "path", title: "Path", kind: "text mono wide", text: r => r.path },
	{ key: "upstream", title: "Upstream", kind: "text mono wide", text: r => r.upstream },
	{ key: "age", title: "Age", kind: "number", text: r => duration(r.age) },
	{ key: "idle", title: "Idle", kind: "number", text: r => duration(r.idle) },
	{ key: "messages", title: "Messages", kind: "number wide", text: r => pair(r.messages, count) },
	{ key: "bytes", title: "Bytes", kind: "number wide", text: r => pair(r.bytes, size) },
	{ key: "rtt", title: "Round trip", kind: "number wide", text: r => trips(r.roundTrip) },
];

const view = { filter: "", sort: "id", descending: false };

// The WebSocket. It comes back by itself, and so does the view.

let socket = null;
let lastCommand = 0;
const replies = new Map(); // what to do with them, by the command's number

function show(state, text = state) {
	$("state").dataset.state = state;
	put($("state"), text);
	document.body.setAttribute("aria-busy", String(state !== "live"));
}

function connect() {
	const url = new URL("feed", location.href);
	url.protocol = url.protocol.replace("http", "ws");
	const s = socket = new WebSocket(url);
	s.addEventListener("open", () => {
		show("live");
		look();
	});
	s.addEventListener("message", e => {
		const m = JSON.parse(e.data);
		if (m.hello) greet(m.hello);
		if (m.snapshot) draw(m.snapshot);
		if (m.reply) {
			replies.get(m.reply.id)?.(m.reply.error ?? "");
			replies.delete(m.reply.id);
		}
	});
	s.addEventListener("close", () => {
		show("lost", "connection lost");
		$("drain").disabled = true;
		before = null;
		for (const f of replies.values()) f("the console's connection is lost");
		replies.clear();
		setTimeout(connect, 1000 + Math.random() * 1000);
	});
}

function command(c, then = () => {}) {
	if (socket?.readyState !== WebSocket.OPEN) {
		then("the console isn't connected");
		return;
	}
	c.id = ++lastCommand;
	if (c.do !== "view") replies.set(c.id, then); // a view is answered by a snapshot
	socket.send(JSON.stringify(c));
}

function look() {
	if (socket?.readyState === WebSocket.OPEN) command({ do: "view", ...view });
}

// The page.

let most = Infinity;
let drained = false;

function greet(h) {
	most = h.most;
	put($("public"), h.public);
	$("notice").hidden = false;
	$("notice").className = h.local ? "soft" : "notice bad";
	put($("notice"), h.local
		? "Served to this machine only, because there is no login: whoever reaches this page can end sessions."
		: "There is no login here, and other machines may reach this page: whoever does can end sessions.");
	put($("sure-text"), `Their ends are spread over ${h.window}. From now on new handshakes are refused with 503, until the program is started again.`);
}

let before = null; // the last snapshot's sums, and when that was

function draw(s) {
	put($("open"), count(s.open));
	put($("handshakes"), `${count(s.opened)} opened, ${count(s.handshakes)} in handshake`);

	const now = { at: performance.now(), messages: s.messages[0] + s.messages[1], bytes: s.bytes[0] + s.bytes[1] };
	if (before === null || now.at - before.at > 500) { // not after a mere change of the view
		const seconds = before && (now.at - before.at) / 1000;
		put($("message-rate"), before ? `${count(Math.round((now.messages - before.messages) / seconds))}/s` : "–");
		put($("byte-rate"), before ? `${size((now.bytes - before.bytes) / seconds)}/s` : "–");
		before = now;
	}
	put($("message-sums"), pair(s.messages, count));
	put($("byte-sums"), pair(s.bytes, size));
	tally("ended", s.ended);
	tally("refused", s.refused);
	drawDrain(s.drain);
	drawRows(s.rows);

	let shown = `${count(s.matching)} of ${count(s.open)}`;
	if (s.rows.length < s.matching) shown += `, the first ${count(s.rows.length)} shown`;
	put($("shown"), shown);
	$("none").hidden = s.rows.length > 0;
	put($("none"), s.open ? "No session holds that text." : "No sessions.");
}

function tally(id, list) {
	put($(id), count(list.reduce((n, t) => n + t.count, 0)));
	const ul = $(`${id}-by`);
	while (ul.childElementCount > list.length) ul.lastElementChild.remove();
	list.forEach((t, i) => {
		let li = ul.children[i];
		if (!li) {
			li = document.createElement("li");
			li.append(document.createElement("span"), document.createElement("span"));
			ul.append(li);
		}
		put(li.children[0], t.name);
		put(li.children[1], count(t.count));
	});
}

function drawDrain(d) {
	drained = Boolean(d);
	$("drain").disabled = drained;
	$("draining").hidden = !drained;
	if (!drained) return;
	const share = d.total ? Math.min(Math.max((d.total - d.open) / d.total, 0), 1) : 1;
	$("progress").value = share;
	const percent = Math.floor(share * 100);
	put($("draining-title"), percent === 100 && d.open === 0 ? "Drained" : "Draining");
	put($("progress-text"), `${percent} %: ${count(d.told)} of ${count(d.total)} sessions told, ${count(d.open)} still open, ${count(d.cut)} cut. New handshakes are refused with 503.`);
}

// The table. A row stays the same element for as long as its session is shown.

const rows = new Map(); // by the session's ID: the element, its cells and the session

function newRow(r) {
	const tr = document.createElement("tr");
	tr.setAttribute("role", "row");
	tr.dataset.id = r.id;
	const cells = columns.map(c => {
		const td = document.createElement("td");
		td.setAttribute("role", "cell");
		td.className = c.kind;
		td.dataset.label = c.title;
		const span = document.createElement("span");
		td.append(span);
		tr.append(td);
		return span;
	});
	const td = document.createElement("td");
	td.setAttribute("role", "cell");
	td.className = "act";
	const button = document.createElement("button");
	button.type = "button";
	button.textContent = "End…";
	button.setAttribute("aria-label", `End session ${r.id}…`);
	td.append(button);
	tr.append(td);
	return { tr, cells, session: r };
}

function drawRows(list) {
	const there = new Set(list.map(r => r.id));
	for (const [id, row] of rows) {
		if (there.has(id)) continue;
		row.tr.remove();
		rows.delete(id);
	}
	const focused = document.activeElement;
	const body = $("rows");
	let next = body.firstElementChild;
	for (const r of list) {
		let row = rows.get(r.id);
		if (!row) rows.set(r.id, row = newRow(r));
		row.session = r;
		columns.forEach((c, i) => {
			const text = c.text(r);
			if (row.cells[i].textContent === text) return;
			row.cells[i].textContent = text;
			if (c.kind.startsWith("text")) row.cells[i].parentElement.title = text; // it may be cut short
		});
		if (row.tr === next) next = next.nextElementSibling;
		else body.insertBefore(row.tr, next);
	}
	if (document.activeElement !== focused && focused.isConnected) focused.focus({ preventScroll: true }); // it was moved
}

// Of numbers the large ones are what one looks for.
const largest = new Set(["age", "idle", "messages", "bytes", "rtt"]);

function sortBy(key) {
	view.descending = view.sort === key ? !view.descending : largest.has(key);
	view.sort = key;
	drawSort();
	look();
}

function drawSort() {
	for (const th of $("head").children) {
		if (th.dataset.key === view.sort) th.setAttribute("aria-sort", view.descending ? "descending" : "ascending");
		else th.removeAttribute("aria-sort");
	}
	$("sort").value = view.sort;
	put($("direction"), view.descending ? "↓" : "↑");
}

for (const c of columns) {
	const th = document.createElement("th");
	th.scope = "col";
	th.setAttribute("role", "columnheader");
	th.className = c.kind;
	th.dataset.key = c.key;
	const button = document.createElement("button");
	button.type = "button";
	button.textContent = c.title;
	button.addEventListener("click", () => sortBy(c.key));
	th.append(button);
	$("head").append(th);
	$("sort").add(new Option(c.title, c.key));
}
{
	const th = document.createElement("th");
	th.setAttribute("role", "columnheader");
	th.ariaLabel = "Action";
	$("head").append(th);
}
$("sort").addEventListener("change", e => sortBy(e.target.value));
$("direction").addEventListener("click", () => sortBy(view.sort));

let typing = 0;
$("filter").addEventListener("input", e => {
	view.filter = e.target.value;
	clearTimeout(typing);
	typing = setTimeout(look, 150);
});

// The dialogs.

const codes = [
	[1008, "policy"],
	[4401, "unauthorized"],
	[4403, "forbidden"],
	[1001, "going away"],
	[1012, "restart"],
];
for (const [code, meaning] of codes) {
	const button = document.createElement("button");
	button.type = "button";
	button.textContent = `${code} ${meaning}`;
	button.addEventListener("click", () => $("code").value = code);
	$("codes").append(button);
}

let forget = 0;
function tell(text, good) {
	$("outcome").hidden = false;
	$("outcome").className = `notice ${good ? "good" : "bad"}`;
	put($("outcome"), text);
	clearTimeout(forget);
	forget = setTimeout(() => $("outcome").hidden = true, 8000);
}

let chosen = null; // the session that the dialog is about

$("rows").addEventListener("click", e => {
	if (!e.target.matches("button")) return;
	chosen = rows.get(Number(e.target.closest("tr").dataset.id)).session;
	put($("kick-title"), `End session ${chosen.id}?`);
	put($("kick-who"), [chosen.user, chosen.client, chosen.path].filter(Boolean).join(" · "));
	put($("kick-error"), "");
	$("code").value ||= 1008;
	$("kick-do").disabled = false;
	$("kick").showModal();
	$("code").focus();
});

$("kick-form").addEventListener("submit", e => {
	e.preventDefault();
	const { id } = chosen;
	const code = $("code").valueAsNumber;
	$("kick-do").disabled = true;
	command({ do: "kick", session: id, code, reason: $("reason").value }, error => {
		$("kick-do").disabled = false;
		put($("kick-error"), error);
		if (error) return;
		$("kick").close();
		tell(`Session ${id} is ended, with code ${code}.`, true);
		look();
	});
});

$("drain").addEventListener("click", () => $("sure").showModal());
$("sure-form").addEventListener("submit", e => {
	e.preventDefault();
	$("sure").close();
	command({ do: "drain" }, error => {
		if (error) tell(error, false);
		else look();
	});
});
for (const b of document.querySelectorAll(".cancel")) b.addEventListener("click", () => b.closest("dialog").close());

drawSort();
show("connecting");
connect();
document.documentElement.dataset.ready = "true";
