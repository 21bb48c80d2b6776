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

// The columns: a key to sort by, a title, what a session has there, and
// whether it is shown at all.
const columns = [
	{ key: "id", title: "ID", kind: "number", text: r => String(r.id) },
	{ key: "route", title: "Route", kind: "text mono wide", text: r => r.route, when: s => s.routes },
	{ key: "user", title: "User", kind: "text wide", text: r => r.user || "–", when: s => s.users },
	{ key: "client", title: "Client", kind: "text mono wide", text: r => r.client },
	{ key: "path", title: "Path", kind: "text mono wide", text: r => r.path },
	{ key: "upstream", title: "Upstream", kind: "text mono wide", text: r => r.upstream },
	{ key: "age", title: "Age", kind: "number", text: r => duration(r.age) },
	{ key: "idle", title: "Idle", kind: "number", text: r => duration(r.idle) },
	{ key: "messages", title: "Messages", kind: "number wide", text: r => pair(r.messages, count) },
	{ key: "bytes", title: "Bytes", kind: "number wide", text: r => pair(r.bytes, size) },
	{ key: "rtt", title: "Round trip", kind: "number wide", text: r => trips(r.roundTrip) },
];
let shown = []; // those of them that are shown

const view = { filter: "", sort: "id", descending: false };

// Asking for snapshots: every second, and less often if they take long.

const interval = 1000;
const limit = 10000; // for an answer

let asking = null; // the last request
let timer = 0;

function show(state, text = state) {
	$("state").dataset.state = state;
	put($("state"), text);
	document.body.setAttribute("aria-busy", String(state !== "live"));
}

async function look() {
	clearTimeout(timer);
	asking?.abort();
	const mine = asking = new AbortController();
	const began = performance.now();
	let pause = interval;
	try {
		const resp = await fetch(`snapshot?${new URLSearchParams(view)}`, {
			redirect: "manual", // to a login
			signal: AbortSignal.any([mine.signal, AbortSignal.timeout(limit)]),
		});
		if (!resp.ok) throw new Error(resp.status ? `refused with ${resp.status}` : "reload the page to sign in");
		const s = await resp.json();
		if (asking !== mine) return;
		draw(s);
		show("live");
		pause = Math.max(interval, 9 * (performance.now() - began));
	} catch (e) {
		if (asking !== mine) return;
		show("lost", e.constructor === Error ? e.message : "connection lost");
		$("drain").disabled = true;
		before = null;
		pause += Math.random() * interval;
	}
	if (!document.hidden) timer = setTimeout(look, pause);
}

document.addEventListener("visibilitychange", () => {
	if (document.hidden) clearTimeout(timer);
	else look();
});

// act changes something, and returns what was wrong with that, or "".
async function act(path, body) {
	try {
		const resp = await fetch(path, {
			method: "POST",
			headers: { "Content-Type": "application/json" },
			body: JSON.stringify(body),
			redirect: "manual",
			signal: AbortSignal.timeout(limit),
		});
		if (resp.ok) return "";
		if (resp.headers.get("Content-Type")?.startsWith("text/plain")) return (await resp.text()).trim();
		return resp.status ? `refused with ${resp.status}` : "reload the page to sign in";
	} catch {
		return "the console can't be reached";
	}
}

// The page.

let drained = false;

let before = null; // the last snapshot's sums, and when that was

function draw(s) {
	document.title = `${s.title} – wsproxy`;
	put($("title"), s.title);
	put($("notice"), s.notice);
	$("notice").hidden = !s.notice;
	$("drain").hidden = !s.canDrain;
	layout(s);
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
	tally("failed", s.failed);
	put($("members"), `${count(s.members.filter(m => !m.down).length)} of ${count(s.members.length)} up`);
	list("members-by", s.members, m => m.route ? `${m.route} ${m.name}` : m.name, m => m.down ? "down" : count(m.sessions));
	drawDrain(s.drain);
	drawRows(s.rows);

	let text = `${count(s.matching)} of ${count(s.open)}`;
	if (s.rows.length < s.matching) text += `, the first ${count(s.rows.length)} shown`;
	put($("shown"), text);
	$("none").hidden = s.rows.length > 0;
	put($("none"), s.open ? "No session holds that text." : "No sessions.");
}

function tally(id, tallies) {
	put($(id), count(tallies.reduce((n, t) => n + t.count, 0)));
	list(`${id}-by`, tallies, t => t.name, t => count(t.count));
}

// list shows items with two texts each.
function list(id, items, left, right) {
	const ul = $(id);
	while (ul.childElementCount > items.length) ul.lastElementChild.remove();
	items.forEach((item, i) => {
		let li = ul.children[i];
		if (!li) {
			li = document.createElement("li");
			li.append(document.createElement("span"), document.createElement("span"));
			ul.append(li);
		}
		put(li.children[0], left(item));
		put(li.children[1], right(item));
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

const rows = new Map(); // by the session's key: the element, its cells and the session

const keyOf = r => `${r.id} ${r.route}`; // IDs are unique within a route

// layout makes the table's head, if other columns are to be shown than before.
let acting = false;
function layout(s) {
	const now = columns.filter(c => !c.when || c.when(s));
	if (now.length === shown.length && now.every((c, i) => c === shown[i]) && acting === s.canClose) return;
	shown = now;
	acting = s.canClose;
	$("head").replaceChildren();
	$("sort").replaceChildren();
	$("rows").replaceChildren();
	rows.clear();
	for (const c of shown) {
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
	if (acting) {
		const th = document.createElement("th");
		th.setAttribute("role", "columnheader");
		th.ariaLabel = "Action";
		$("head").append(th);
	}
	drawSort();
}

function newRow(r) {
	const tr = document.createElement("tr");
	tr.setAttribute("role", "row");
	tr.dataset.key = keyOf(r);
	const cells = shown.map(c => {
		const td = document.createElement("td");
		td.setAttribute("role", "cell");
		td.className = c.kind;
		td.dataset.label = c.title;
		const span = document.createElement("span");
		td.append(span);
		tr.append(td);
		return span;
	});
	if (!acting) return { tr, cells, session: r };
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
	const there = new Set(list.map(keyOf));
	for (const [key, row] of rows) {
		if (there.has(key)) continue;
		row.tr.remove();
		rows.delete(key);
	}
	const focused = document.activeElement;
	const body = $("rows");
	let next = body.firstElementChild;
	for (const r of list) {
		let row = rows.get(keyOf(r));
		if (!row) rows.set(keyOf(r), row = newRow(r));
		row.session = r;
		shown.forEach((c, i) => {
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
	chosen = rows.get(e.target.closest("tr").dataset.key).session;
	put($("kick-title"), `End session ${chosen.id}?`);
	put($("kick-who"), [chosen.user, chosen.client, chosen.path].filter(Boolean).join(" · "));
	put($("kick-error"), "");
	$("code").value ||= 1008;
	$("kick-do").disabled = false;
	$("kick").showModal();
	$("code").focus();
});

$("kick-form").addEventListener("submit", async e => {
	e.preventDefault();
	const { id, route } = chosen;
	const code = $("code").valueAsNumber;
	$("kick-do").disabled = true;
	const error = await act("close", { route, session: id, code, reason: $("reason").value });
	$("kick-do").disabled = false;
	put($("kick-error"), error);
	if (error) return;
	$("kick").close();
	tell(`Session ${id} is ended, with code ${code}.`, true);
	look();
});

$("drain").addEventListener("click", () => $("sure").showModal());
$("sure-form").addEventListener("submit", async e => {
	e.preventDefault();
	$("sure").close();
	const error = await act("drain", {});
	if (error) tell(error, false);
	else look();
});
for (const b of document.querySelectorAll(".cancel")) b.addEventListener("click", () => b.closest("dialog").close());

show("connecting");
look();
document.documentElement.dataset.ready = "true";
