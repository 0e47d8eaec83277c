// Traces by time and duration; each leads to its waterfall.
import { asked, bar, check, clip, count, duration, field, frame, h, isNumber, list, listed, num, plural, table,
	text, time, to, when } from "./kit.js";

export const title = "Traces";
const STEP = 200;
const FILTERS = ["src", "q", "min_ms", "errors"];

export const path = (context) => asked("api/traces", context, FILTERS, STEP);

export function draw(context) {
	return listed(context, { title, step: STEP, rows: list(context.data?.traces),
		fields: [field(context, "q", "Name or id contains"), field(context, "src", "Source"),
			field(context, "min_ms", "Longer than, ms", { type: "number", min: 0, inputmode: "numeric" }),
			check(context, "errors", "Only with errors")],
		show: (rows) => [scatter(rows), table({ name: "traces", label: title, rows, context,
			keyOf: (row) => row.tid, columns: COLUMNS(context, rows) })],
		lesson: ["No trace yet", "Spans of one tid make a trace. From a shell:", "span"] });
}

function COLUMNS({ data }, rows) {
	const longest = Math.max(...rows.map((row) => row.duration_ms || 0), 1e-9);
	return [
		{ title: "Started", kind: "num", by: "start_ms",
			cell: (row) => when(row.start_ms, data.now_ms) },
		{ title: "Trace", kind: "name", cell: (row) =>
			h("a", { href: to("trace", row.tid), title: row.tid }, row.name ?? row.tid) },
		{ title: "Source", kind: "mid", by: "src", cell: (row) => clip(row.src) },
		{ title: "Duration", kind: "with-bar", by: "duration_ms", cell: (row) => [
			bar(row.duration_ms / longest, "duration compared", row.errors ? "bad" : "calm"),
			num(duration(row.duration_ms))] },
		{ title: "Spans", kind: "num mid", by: "spans", cell: (row) => count(row.spans) },
		{ title: "Errors", kind: "num", by: "errors",
			cell: (row) => row.errors ? h("b.bad-text", `✕ ${count(row.errors)}`) : "0" },
		{ title: "Notes", kind: "wide", cell: notes },
	];
}

function notes(row) {
	const words = [row.open && `${count(row.open)} open`, row.orphans && plural(row.orphans, "orphan"),
		row.complete === false && "incomplete", list(row.services).length > 1 && plural(row.services.length, "service")]
		.filter(Boolean).join(", ");
	return h("span", { title: list(row.services).join(", ") }, words);
}

const WIDE = 1000;
const HIGH = 120;

// Duration, on a scale of decades, by start. The list below says the same for who cannot see it.
function scatter(rows) {
	const timed = rows.filter((row) => isNumber(row.duration_ms) && isNumber(row.start_ms));
	if (timed.length < 2) return null;
	const starts = timed.map((row) => row.start_ms);
	const logs = timed.map((row) => Math.log10(Math.max(row.duration_ms, 0.001)));
	const [left, right] = [Math.min(...starts), Math.max(...starts)];
	const [low, high] = [Math.floor(Math.min(...logs)), Math.ceil(Math.max(...logs) + 0.01)];
	const x = (ms) => 10 + ((WIDE - 20) * (ms - left)) / Math.max(right - left, 1);
	const y = (log) => HIGH - 8 - ((HIGH - 16) * (log - low)) / Math.max(high - low, 1);
	const decades = Array.from({ length: high - low + 1 }, (_, i) => low + i);
	return h("section.card.scatter", frame([WIDE, HIGH], [duration(10 ** high), duration(10 ** low), time(left), time(right)],
		`Duration of ${plural(timed.length, "trace")} by start; the table has the same`, "● ok   ✕ with errors",
		decades.map((log) => h("line.grid", { x1: 0, x2: WIDE, y1: y(log), y2: y(log) })),
		timed.map((row, i) => mark(row, x(row.start_ms), y(logs[i])))));
}

// A dot, or a cross: strokes, as those keep their form however wide the picture is.
function mark(row, x, y) {
	const go = () => { location.hash = to("trace", row.tid); };
	const d = row.errors ? `M${x - 4},${y - 4}l8,8m0,-8l-8,8` : `M${x},${y}h0.01`;
	return h("path", { key: row.tid, class: row.errors ? "mark bad" : "mark", d, onclick: go },
		h("title", `${row.name ?? row.tid}: ${duration(row.duration_ms)}`));
}
