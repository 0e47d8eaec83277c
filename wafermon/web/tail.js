// Messages as they pass, newest first; as many as one can look through.
import { LEVELS, beside, button, choice, clip, copy, count, duration, field, filters, h, isNumber,
	levelClass, panel, plural, teach, text, to, unmatched, when } from "./kit.js";
import { stream } from "./api.js";

export const title = "Live tail";
const KEPT = 2000;
const RETRY_MS = 3000;
const TYPES = ["all", "event", "metric", "progress", "resource", "span", "heartbeat", "goodbye"];
const FILTERS = ["src", "type", "level", "text", "tid"];

export function start({ memory }) {
	Object.assign(memory, { rows: [], frozen: null, number: 0, missed: 0, fault: null });
	const wake = () => (document.hidden ? memory.reader?.abort() : memory.again?.());
	document.addEventListener("visibilitychange", wake);
	return () => {
		document.removeEventListener("visibilitychange", wake);
		memory.ended = true;
		clearTimeout(memory.timer);
		memory.reader?.abort();
	};
}

// The address has changed: where the filters have, listen anew.
export function changed(context) {
	const { memory, params } = context;
	const asked = new URLSearchParams(FILTERS.map((name) => [name, params.get(name)]).filter((pair) => pair[1]));
	const path = `tail?${asked}`;
	if (memory.path === path) return;
	memory.path = path;
	memory.again = () => listen(context);
	Object.assign(memory, { rows: [], missed: 0, frozen: memory.frozen && [] });
	memory.again();
}

async function listen(context) {
	const { memory, redraw } = context;
	clearTimeout(memory.timer);
	memory.reader?.abort();
	const reader = new AbortController();
	memory.reader = reader;
	try {
		memory.fault = null;
		await stream(memory.path, (lines) => take(memory, lines) && redraw(), reader.signal);
		memory.fault = "the stream has ended";
	} catch (error) {
		if (reader.signal.aborted) return;
		memory.fault = error.message;
	}
	redraw();
	if (!memory.ended) memory.timer = setTimeout(memory.again, RETRY_MS);
}

// Keep the newest.
function take(memory, lines) {
	const fresh = [];
	for (const line of lines.slice(-KEPT)) {
		const message = parsed(line);
		if (isNumber(message?.missed) && !message.type) memory.missed += message.missed;
		else if (message) fresh.push({ message, line, key: memory.number += 1 });
	}
	memory.rows = [...fresh.reverse(), ...memory.rows].slice(0, KEPT);
	return true;
}

function parsed(line) {
	try {
		return JSON.parse(line);
	} catch {
		return null;
	}
}

// While paused, what was there at that moment is shown.
function pause({ memory, redraw }) {
	Object.assign(memory, { frozen: memory.frozen ? null : memory.rows, frozenAt: memory.number });
	redraw();
}

export function draw(context) {
	const { memory } = context;
	const rows = memory.frozen ?? memory.rows;
	return [
		h("h1", "Live tail"),
		filters(title, [field(context, "text", "Text contains"), field(context, "src", "Source, * for any text"),
			choice(context, "type", "Type", TYPES), choice(context, "level", "Level from", ["all", ...LEVELS]),
			field(context, "tid", "Trace id"),
			button(memory.frozen ? "Go on" : "Pause", () => pause(context), { "aria-pressed": String(Boolean(memory.frozen)) })]),
		h("p.quiet.tail-state", state(memory)),
		rows.length ? beside(context, "tail", rows, (one) => one.key, columns(context), detail, [24, 44]) : empty(context),
	];
}

function state({ frozen, frozenAt, number, missed, fault, rows }) {
	const parts = [fault ? `not connected: ${fault}` : frozen ? `paused, ${plural(number - frozenAt, "newer message")}` : "following",
		rows.length >= KEPT && `the newest ${count(KEPT)} are kept`,
		missed > 0 && `missed ${plural(missed, "message")}, which came too fast to show`];
	return parts.filter(Boolean).join(" · ");
}

function empty(context) {
	if (context.memory.frozen || FILTERS.some((name) => context.params.get(name))) {
		return unmatched("Nothing that matches has passed yet", context);
	}
	return teach("Nothing has passed yet", "Messages appear here as they come. From a shell:", "event", context.summary);
}

function columns(context) {
	const choose = ({ key }) => {
		context.memory.chosen = key;
		if (context.memory.frozen) context.redraw();
		else pause(context);
	};
	const level = ({ type, data }) => text(type === "event" ? data?.level ?? "" : type);
	return [
		{ title: "Time", kind: "quiet", cell: ({ message }) => when(message.ts, context.now, true) },
		{ title: "Source", kind: "clip", cell: ({ message }) => clip(message.src) },
		{ title: "Level", kind: "level-of",
			cell: ({ message }) => h("span", { class: levelClass(level(message)), title: level(message) }, level(message)) },
		{ title: "Message", kind: "says", cell: (one) =>
			h("button.plain.clip", { type: "button", onclick: () => choose(one) }, says(one.message)) },
	];
}

// What a message says in one line; payloads are open, so what does not fit is shown as it is.
function says({ type, data }) {
	const given = data && typeof data === "object" ? data : {};
	const words = {
		event: () => text(given.msg) + pairs(given.ctx),
		metric: () => `${text(given.name)} = ${text(given.value)} ${text(given.unit ?? "")}${pairs(given.tags)}`,
		progress: () => `${text(given.job_id)}: ${text(given.percent)} % ${text(given.status ?? "running")} ${text(given.msg ?? "")}`,
		span: () => `${text(given.name)} ${given.status === "open" ? "begins" : duration(given.duration_ms)} ${text(given.status ?? "ok")}`,
	};
	return (Object.hasOwn(words, type) && words[type]().slice(0, 500)) || text(data ?? {}).slice(0, 500);
}

function pairs(values) {
	return values && typeof values === "object"
		? Object.entries(values).map(([name, value]) => `  ${name}=${text(value)}`).join("") : "";
}

function detail(context, { message, line }) {
	const close = () => { context.memory.chosen = null; context.redraw(); };
	return panel(`${text(message.type)} of ${text(message.src)}`, close,
		h("p.tools", copy("Copy the line", line),
			typeof message.tid === "string" && h("a.button", { href: to("trace", message.tid) }, "Its trace")),
		h("pre", h("code", JSON.stringify(message, null, 2))));
}
