// One trace: its spans as a waterfall, and all about the one that is chosen.
import { h } from "./dom.js";
import { count, duration, isNumber, list, moment, plural, text } from "./format.js";
import { badge, bar, button, clip, copy, facts, levelClass, num, panel, quiet, to } from "./ui.js";
import { box, inSight } from "./table.js";

export const title = "Trace";
const ROW = 26;
const TICKS = 4;
const DEEPEST = 24;

/** A complete one does not change any more. */
export const isSettled = (data) => data.complete === true;
export const path = ({ rest }) => (rest ? `api/traces/${encodeURIComponent(rest)}` : null);

export function draw(context) {
  const { data, error, rest, memory } = context;
  if (error?.status === 404) return unknown(rest, error);
  if (!data) return h("h1", { class: "wrap" }, "Trace ", h("code", {}, rest));
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
    loose(data), services(data),
  ];
}

function unknown(tid, error) {
  return [h("h1", { class: "wrap" }, "Trace ", h("code", {}, tid)),
    h("div", { class: "empty" }, h("h2", {}, "This trace is not remembered"),
      h("p", {}, text(error.message)),
      h("p", {}, h("a", { href: to("traces") }, "All traces that are remembered")))];
}

function heading(data, spans) {
  const those = (test) => spans.filter(test).length;
  const errors = those((span) => span.status === "error");
  const orphans = those((span) => span.orphan);
  const open = those((span) => span.status === "open");
  const cycles = those((span) => span.cycle);
  const notes = [plural(spans.length, "span"), plural(list(data.services).length, "service"),
    open && `${count(open)} open`, cycles && `${count(cycles)} in a cycle`, errors && plural(errors, "error"), orphans && plural(orphans, "orphan"),
    data.roots > 1 && `${data.roots} roots`, data.loose_messages && plural(data.loose_messages, "loose message"),
    data.left_out && `${count(data.left_out)} left out`];
  return [
    h("h1", { class: "wrap" }, text(spans[0]?.name ?? data.tid), " ",
      h("small", {}, duration(data.duration_ms))),
    h("p", { class: "state-line" }, badge(data.complete ? "done" : "open"), " ",
      `started ${moment(data.start_ms)}, ${notes.filter(Boolean).join(", ")}`),
  ];
}

function tools(context, spans) {
  const { data, memory, rest } = context;
  const change = (changes) => () => {
    Object.assign(memory, changes);
    context.redraw();
  };
  const parents = spans.map((span, i) => (span.children > 0 ? i : -1)).filter((i) => i >= 0);
  return h("p", { class: "tools" },
    button("Unfold all", change({ folded: new Set() })),
    button("Fold all", change({ folded: new Set(parents) })),
    button("Critical path", change({ only: memory.only === "critical" ? null : "critical" }),
      { "aria-pressed": String(memory.only === "critical") }),
    button("Errors", change({ only: memory.only === "error" ? null : "error" }),
      { "aria-pressed": String(memory.only === "error") }),
    memory.zoom && button("Whole time", change({ zoom: null })),
    copy("Copy id", data.tid), h("a", { class: "button", href: path({ rest }) }, "JSON"),
    h("a", { class: "button", href: to("tail", "", { tid: data.tid }) }, "Live tail"));
}

/** The indices of the spans that are neither folded away nor filtered out; spans are in pre-order. */
function visible(spans, { folded, only }) {
  const shown = [];
  let under = Infinity;
  spans.forEach((span, i) => {
    if (only) {
      if (only === "critical" ? span.critical : span.status === "error") shown.push(i);
      return;
    }
    if (span.depth > under) return;
    under = folded.has(i) ? span.depth : Infinity;
    shown.push(i);
  });
  return shown;
}

function waterfall(context, spans, shown) {
  const { data, memory } = context;
  const [left, right] = memory.zoom ?? extent(data, spans);
  const [first, end] = inSight("spans", shown.length, ROW);
  const scale = (ms) => (100 * (ms - left)) / (right - left);
  const ticks = Array.from({ length: TICKS }, (_, i) => h("span", {},
    duration(((right - left) * i) / TICKS + left - data.start_ms)));
  return h("div", { class: "waterfall" },
    h("div", { class: "ticks", "aria-hidden": "true" }, h("span", {}, "Span"), h("div", {}, ticks)),
    h("div", { class: "spans", role: "treegrid", tabindex: 0, "aria-label": "Spans; arrow keys move, left and right fold",
        "aria-rowcount": shown.length, onkeydown: (event) => keys(event, context, spans, shown),
        "aria-activedescendant": shown.includes(memory.chosen) ? `span-${memory.chosen}` : null },
      h("div", { id: "spans", role: "rowgroup", style: box(shown.length, first, ROW) },
        shown.slice(first, end).map((i, at) => row(context, spans[i], i, first + at + 1, scale)))));
}

function extent(data, spans) {
  let [left, right] = [data.start_ms, data.start_ms + (data.duration_ms || 0)];
  for (const span of spans) {
    left = Math.min(left, span.start_ms);
    right = Math.max(right, span.start_ms + (span.duration_ms || 0));
  }
  return [left, Math.max(right, left + 0.001)];
}

function row(context, span, i, place, scale) {
  const { memory } = context;
  const isFolded = memory.folded.has(i);
  const from = Math.max(0, Math.min(100, scale(span.start_ms)));
  const to = Math.max(0, Math.min(100, scale(span.start_ms + (span.duration_ms || 0))));
  const kind = `${span.status === "error" ? "bad" : span.status === "open" ? "open" : ""} ${span.critical ? "critical" : ""}`;
  const parent = span.children > 0 && !memory.only;
  return h("div", { role: "row", id: `span-${i}`, key: i, class: `span ${memory.chosen === i ? "chosen" : ""}`,
      "aria-level": span.depth + 1, "aria-rowindex": place, "aria-selected": String(memory.chosen === i),
      "aria-expanded": parent ? String(!isFolded) : null, onclick: () => choose(context, i) },
    h("div", { role: "gridcell", class: "span-name",
        style: { "--deep": Math.min(memory.only ? 0 : span.depth, DEEPEST) } },
      h("span", { class: "fold", "aria-hidden": "true", onclick: parent ? (event) => fold(event, context, i) : null },
        parent ? (isFolded ? "▸" : "▾") : ""),
      marks(span), h("span", { class: "clip", title: `${span.src}: ${span.name}` },
        h("span", { class: "quiet" }, span.src), " ", text(span.name))),
    h("div", { role: "gridcell", class: "span-bar" },
      h("span", { class: `beam ${kind}`, style: { left: `${from}%`, width: `${to - from}%` } }),
      h("span", { class: to > 85 && from < 15 ? "span-time inside" : "span-time", style: beside(from, to) },
        span.status === "open" ? "open" : duration(span.duration_ms))));
}

/** Where the text of a bar has room: behind it, before it, or in it. */
function beside(from, to) {
  if (to <= 85) return { left: `${to}%`, right: "auto" };
  return { left: "auto", right: from < 15 ? `${100 - to}%` : `${100 - from}%` };
}

/** What is out of the ordinary with a span, in a word each. */
function marks(span) {
  return [span.status === "error" && ["✕ error", "bad-text"], span.orphan && ["orphan", "warn-text"],
    span.cycle && ["cycle", "warn-text"], isNumber(span.skew_ms) && span.skew_ms !== 0 && [`skew ${duration(span.skew_ms)}`, "warn-text"],
    span.messages > 0 && [`✉ ${count(span.messages)}`, "quiet"]]
    .filter(Boolean).map(([words, kind]) => h("span", { class: `note ${kind}` }, words));
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

/** As in any tree: up and down, left and right, home and end. */
function keys(event, context, spans, shown) {
  const { memory } = context;
  const at = shown.indexOf(memory.chosen);
  const span = spans[memory.chosen];
  const steps = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: shown.length - 1, PageDown: at + 20, PageUp: at - 20 };
  let goal = null;
  if (event.key in steps) goal = shown[Math.max(0, Math.min(shown.length - 1, steps[event.key]))];
  else if (at < 0) return;
  else if (event.key === "ArrowLeft" && span.children > 0 && !memory.folded.has(memory.chosen)) fold(null, context, memory.chosen);
  else if (event.key === "ArrowLeft") goal = above(spans, memory.chosen);
  else if (event.key === "ArrowRight" && memory.folded.has(memory.chosen)) fold(null, context, memory.chosen);
  else if (event.key === "Escape") memory.chosen = undefined;
  else return;
  event.preventDefault();
  if (goal !== null) {
    memory.chosen = goal;
    reveal(shown.indexOf(goal));
  }
  context.redraw();
}

function above(spans, i) {
  for (let j = i - 1; j >= 0; j -= 1) if (spans[j].depth < spans[i].depth) return j;
  return i;
}

/** Scroll so that a row is between the line at the top and the bottom. */
function reveal(index) {
  const top = document.getElementById("spans").getBoundingClientRect().top + index * ROW;
  const [low, high] = [140, window.innerHeight - 60];
  if (top < low) window.scrollBy(0, top - low);
  else if (top + ROW > high) window.scrollBy(0, top + ROW - high);
}

function detail(context, span) {
  const { data, memory } = context;
  const close = () => choose(context, memory.chosen);
  const zoom = () => {
    memory.zoom = [span.start_ms, span.start_ms + Math.max(span.duration_ms || 0, 0.001)];
    context.redraw();
  };
  const events = list(span.events);
  return panel(text(span.name), close,
    h("p", {}, badge(span.status === "ok" ? "ok" : span.status), span.critical && " on the critical path",
      span.orphan && " · its parent has not come", span.cycle && " · its parents form a cycle"),
    h("p", { class: "tools" }, copy("Copy span id", span.sid), button("Zoom to it", zoom)),
    facts([["Source", span.src], ["Span", span.sid], ["Parent", span.parent], ["Kind", span.kind],
      ["Starts", `${moment(span.start_ms)}, after ${duration(span.start_ms - data.start_ms)}`],
      ["Takes", duration(span.duration_ms)], ["Itself", duration(span.self_ms)],
      isNumber(span.skew_ms) && span.skew_ms !== 0 && ["Clock skew", duration(span.skew_ms)], ["Children", span.children]]),
    span.ctx && [h("h3", {}, "Context"), facts(Object.entries(span.ctx).map(([name, value]) => [name, text(value)]))],
    h("h3", {}, plural(span.messages || events.length, "message")),
    events.length ? told(events, span) : quiet("None came with this span's id."));
}

/** Messages, each with its time after a start. */
function told(events, { start_ms: start, src }) {
  const after = (ms) => `${ms < 0 ? "" : "+"}${duration(ms)}`;
  return h("ol", { class: "events" }, events.map((event) => h("li", {},
    h("span", { class: "num quiet", title: moment(event.ts) }, after(event.ts - start)),
    h("b", { class: `clip ${levelClass(event.level)}` }, text(event.level ?? event.type)),
    h("span", { class: "wrap" }, text(event.msg ?? ""), event.src !== src && h("small", {}, " ", text(event.src))))));
}

/** What came with the trace's id, and with that of none of its spans. */
function loose(data) {
  const events = list(data.loose);
  return events.length > 0 && h("section", { class: "card loose" }, h("h2", {}, "Messages of the trace"), told(events, data));
}

function services(data) {
  const all = list(data.services);
  const most = Math.max(...all.map((one) => one.self_ms || 0), 1e-9);
  if (all.length < 2) return null;
  return h("section", { class: "card" }, h("h2", {}, "Time by service"),
    h("ul", { class: "lines service-lines" }, all.map((one) => h("li", { key: one.src },
      clip(one.src), bar(one.self_ms / most, `own time of ${one.src}`),
      num(duration(one.self_ms)), h("span", { class: "num quiet" }, plural(one.spans, "span")),
      one.errors ? h("b", { class: "bad-text" }, plural(one.errors, "error")) : h("span", {})))));
}
