// One trace: its spans as a waterfall, and all about the one that is chosen.
import { badge, bar, box, button, card, copy, count, duration, empty, facts, h, inSight, 
	levelClass, list, moment, num, panel, plural, sourceLink, text, to } from "./kit.js";

export const title = "Trace";
const ROW = 26;
const TICKS = 4;
const DEEPEST = 24;

// A complete one changes no more.
export const isSettled = (data) => data.complete === true;
export const path = ({ rest }) => (rest ? `api/traces/${encodeURIComponent(rest)}` : null);

export function draw(context) {
	const { data, error, rest, memory } = context;
	if (error?.status === 404) return unknown(rest, error);
	if (!data) return h("h1.wrap", "Trace ", h("code", rest));
	memory.folded ||= new Set();
	const spans = list(data.spans);
	const shown = visible(spans, memory);
	const chosen = memory.chosen === undefined ? undefined : spans[memory.chosen];
	return [
		heading(data, spans),
		tools(context, spans),
		h("div", { class: chosen ? "split" : "" },
			waterfall(context, spans, shown),
			chosen && detail(context, chosen)),
		list(data.loose).length > 0 && card("Messages of none of its spans", null, told(data.loose, data)), services(data),
	];
}

function unknown(tid, error) {
	return [h("h1.wrap", "Trace ", h("code", tid)), empty("This trace is not remembered",
		text(error.message), h("a", { href: to("traces") }, "All traces that are remembered"))];
}

function heading(data, spans) {
	const those = (test, words) => [spans.filter(test).length, words];
	const notes = [[spans.length, "span"], [list(data.services).length, "service"],
		those((span) => span.status === "open", " open"), those((span) => span.cycle, " in a cycle"),
		those((span) => span.status === "error", "error"), those((span) => span.orphan, "orphan"),
		[data.roots > 1 && data.roots, "root"], [data.loose_messages, "loose message"], [data.left_out, " left out"]]
		.filter(([number]) => number)
		.map(([number, words]) => words[0] === " " ? count(number) + words : plural(number, words));
	return [
		h("h1.wrap", text(spans[0]?.name ?? data.tid), " ",
			h("small", duration(data.duration_ms))),
		h("p.state-line", badge(data.complete ? "done" : "open"), " ",
			`started ${moment(data.start_ms)}, ${notes.join(", ")}`),
	];
}

function tools({ data, memory, rest, redraw }, spans) {
	const change = (changes) => () => redraw(Object.assign(memory, changes));
	return h("p.tools",
		button("Unfold all", change({ folded: new Set() })),
		button("Fold all", change({ folded: new Set(spans.keys()) })),
		[["critical", "Critical path"], ["error", "Errors"]].map(([only, words]) =>
			button(words, change({ only: memory.only === only ? null : only }),
				{ "aria-pressed": String(memory.only === only) })),
		memory.zoom && button("Whole time", change({ zoom: null })),
		copy("Copy id", data.tid), h("a.button", { href: path({ rest }) }, "JSON"),
		h("a.button", { href: to("tail", "", { tid: data.tid }) }, "Live tail"));
}

// The indices of the spans that are neither folded away nor filtered out; spans are in pre-order.
function visible(spans, { folded, only }) {
	let under = Infinity;
	return [...spans.keys()].filter((i) => {
		const { critical, depth, status } = spans[i];
		if (only) return only === "critical" ? critical : status === "error";
		if (depth > under) return false;
		under = folded.has(i) ? depth : Infinity;
		return true;
	});
}

function waterfall(context, spans, shown) {
	const { data, memory } = context;
	const [left, right] = memory.zoom ?? extent(data, spans);
	const [first, end] = inSight("spans", shown.length, ROW);
	const scale = (ms) => (100 * (ms - left)) / (right - left);
	const ticks = Array.from({ length: TICKS }, (_, i) => h("span",
		duration(((right - left) * i) / TICKS + left - data.start_ms)));
	return h("div.waterfall",
		h("div.ticks", { "aria-hidden": "true" }, h("span", "Span"), h("div", ticks)),
		h("div.spans", { role: "treegrid", tabindex: 0, "aria-label": "Spans; arrow keys move, left and right fold",
				"aria-rowcount": shown.length, onkeydown: (event) => keys(event, context, spans, shown),
				"aria-activedescendant": shown.includes(memory.chosen) ? `span-${memory.chosen}` : null },
			h("div", { id: "spans", role: "rowgroup", style: box(shown.length, first, ROW) },
				shown.slice(first, end).map((i, at) => row(context, spans[i], i, first + at + 1, scale)))));
}

const endOf = (one) => one.start_ms + (one.duration_ms || 0);

function extent(data, spans) {
	const left = spans.reduce((ms, span) => Math.min(ms, span.start_ms), data.start_ms);
	return [left, spans.reduce((ms, span) => Math.max(ms, endOf(span)), Math.max(endOf(data), left + 0.001))];
}

function row(context, span, i, place, scale) {
	const { memory } = context;
	const at = (ms) => Math.max(0, Math.min(100, scale(ms)));
	const isFolded = memory.folded.has(i);
	const [from, to] = [at(span.start_ms), at(endOf(span))];
	const kind = [span.status === "error" && "bad", span.status === "open" && "open", span.critical && "critical"]
		.filter(Boolean).join(" ");
	const isParent = span.children > 0 && !memory.only;
	return h("div.span", { role: "row", id: `span-${i}`, key: i, class: memory.chosen === i && "chosen",
			"aria-level": span.depth + 1, "aria-rowindex": place, "aria-selected": String(memory.chosen === i),
			"aria-expanded": isParent ? String(!isFolded) : null, onclick: () => choose(context, i) },
		h("div", { role: "gridcell", class: "span-name",
				style: { "--deep": Math.min(memory.only ? 0 : span.depth, DEEPEST) } },
			h("span.fold", { "aria-hidden": "true", onclick: isParent && ((event) => fold(event, context, i)) },
				isParent ? (isFolded ? "▸" : "▾") : ""),
			marks(span), h("span.clip", { title: `${span.src}: ${span.name}` },
				h("span.quiet", span.src), " ", text(span.name))),
		h("div", { role: "gridcell", class: "span-bar" },
			h("span.beam", { class: kind, style: { left: `${from}%`, width: `${to - from}%` } }),
			h("span.span-time", { class: to > 85 && from < 15 && "inside", style: timePlace(from, to) },
				span.status === "open" ? "open" : duration(span.duration_ms))));
}

// Where the text of a bar has room: behind it, before it, or in it.
function timePlace(from, to) {
	const [left, right] = to <= 85 ? [`${to}%`, "auto"] : ["auto", `${100 - (from < 15 ? to : from)}%`];
	return { left, right };
}

// What is out of the ordinary with a span, in a word each.
function marks(span) {
	const odd = [span.orphan && "orphan", span.cycle && "cycle", span.skew_ms && `skew ${duration(span.skew_ms)}`];
	return [span.status === "error" && h("span.note.bad-text", "✕ error"),
		odd.filter(Boolean).map((words) => h("span.note.warn-text", words)),
		span.messages > 0 && h("span.note.quiet", `✉ ${count(span.messages)}`)];
}

function choose({ memory, redraw }, i) {
	memory.chosen = memory.chosen === i ? undefined : i;
	redraw();
}

function fold(event, { memory, redraw }, i) {
	event?.stopPropagation();
	if (!memory.folded.delete(i)) memory.folded.add(i);
	redraw();
}

// As in any tree: up and down, left and right, home and end.
function keys(event, context, spans, shown) {
	const { memory } = context;
	const at = shown.indexOf(memory.chosen);
	const span = spans[memory.chosen];
	const steps = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: shown.length - 1, PageDown: at + 20, PageUp: at - 20 };
	let goal = null;
	const isFolded = memory.folded.has(memory.chosen);
	if (event.key in steps) goal = shown[Math.max(0, Math.min(shown.length - 1, steps[event.key]))];
	else if (at < 0) return;
	else if (event.key === (isFolded ? "ArrowRight" : span.children > 0 && "ArrowLeft")) fold(null, context, memory.chosen);
	else if (event.key === "ArrowLeft") goal = Math.max(0, spans.findLastIndex((one, i) => i < memory.chosen && one.depth < span.depth));
	else if (event.key === "Escape") memory.chosen = undefined;
	else return;
	event.preventDefault();
	if (goal !== null) {
		memory.chosen = goal;
		reveal(shown.indexOf(goal));
	}
	context.redraw();
}

// Scroll so that a row is between the line at the top and the bottom.
function reveal(index) {
	const top = document.getElementById("spans").getBoundingClientRect().top + index * ROW;
	const [low, high] = [140, window.innerHeight - 60];
	if (top < low) window.scrollBy(0, top - low);
	else if (top + ROW > high) window.scrollBy(0, top + ROW - high);
}

function detail(context, span) {
	const { data, memory } = context;
	const zoom = () => {
		memory.zoom = [span.start_ms, Math.max(endOf(span), span.start_ms + 0.001)];
		context.redraw();
	};
	const events = list(span.events);
	return panel(text(span.name), () => choose(context, memory.chosen),
		h("p", badge(span.status === "ok" ? "ok" : span.status), span.critical && " on the critical path",
			span.orphan && " · its parent has not come", span.cycle && " · its parents form a cycle"),
		h("p.tools", copy("Copy span id", span.sid), button("Zoom to it", zoom)),
		facts([["Source", sourceLink(span.src)], ["Span", span.sid], ["Parent", span.parent], ["Kind", span.kind],
			["Starts", `${moment(span.start_ms)}, after ${duration(span.start_ms - data.start_ms)}`],
			["Takes", duration(span.duration_ms)], ["Itself", duration(span.self_ms)],
			span.skew_ms && ["Clock skew", duration(span.skew_ms)], ["Children", span.children]]),
		span.ctx && [h("h3", "Context"), facts(Object.entries(span.ctx).map(([name, value]) => [name, text(value)]))],
		h("h3", plural(span.messages || events.length, "message")),
		events.length > 0 && told(events, span));
}

// Messages, each with its time after a start.
function told(events, { start_ms: start, src }) {
	const after = (ms) => `${ms < 0 ? "" : "+"}${duration(ms)}`;
	return h("ol.events", events.map((event) => h("li",
		h("span.num.quiet", { title: moment(event.ts) }, after(event.ts - start)),
		h("b.clip", { class: levelClass(event.level) }, text(event.level ?? event.type)),
		h("span.wrap", text(event.msg ?? ""), event.src !== src && h("small", " ", text(event.src))))));
}

function services(data) {
	const all = list(data.services);
	const most = Math.max(...all.map((one) => one.self_ms || 0), 1e-9);
	return all.length > 1 && card("Time by service", null,
		h("ul.lines.service-lines", all.map((one) => h("li", { key: one.src }, sourceLink(one.src), bar(one.self_ms / most, `own time of ${one.src}`),
			num(duration(one.self_ms)), h("span.num.quiet", plural(one.spans, "span")),
			h("b.bad-text", one.errors > 0 && plural(one.errors, "error"))))));
}
