// Messages as they pass, newest first; as many as one can look through.
import { stream } from "./api.js";
import { h } from "./dom.js";
import { count, duration, isNumber, plural, text } from "./format.js";
import { LEVELS, button, choice, copy, field, filters, levelClass, panel, to, when } from "./ui.js";
import { NARROW, box, inSight } from "./table.js";
import { teach, unmatched } from "./teach.js";

export const title = "Live tail";
/** Pixels of a row: of two lines in a narrow window. */
const row = () => (window.innerWidth <= NARROW ? 44 : 24);
const KEPT = 2000;
const RETRY_MS = 3000;
const TYPES = ["all", "event", "metric", "progress", "resource", "span", "heartbeat", "goodbye"];
const FILTERS = ["src", "type", "level", "text", "tid"];

export function start({ memory }) {
  Object.assign(memory, { rows: [], held: [], number: 0, missed: 0, isPaused: false, fault: null });
  const wake = () => (document.hidden ? memory.reader?.abort() : memory.again?.());
  document.addEventListener("visibilitychange", wake);
  return () => {
    document.removeEventListener("visibilitychange", wake);
    memory.ended = true;
    clearTimeout(memory.timer);
    memory.reader?.abort();
  };
}

/** The address has changed: where the filters have, listen anew. */
export function changed(context) {
  const { memory, params } = context;
  const asked = new URLSearchParams(FILTERS.map((name) => [name, params.get(name)]).filter((pair) => pair[1]));
  const path = `tail?${asked}`;
  if (memory.path === path) return;
  memory.path = path;
  memory.again = () => listen(context);
  Object.assign(memory, { rows: [], held: [], missed: 0 });
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

/** Keep the newest; while paused a page more, and count the rest. */
function take(memory, lines) {
  const fresh = [];
  for (const line of lines.slice(-KEPT)) {
    const message = parsed(line);
    if (isNumber(message?.missed) && !message.type) memory.missed += message.missed;
    else if (message) fresh.push({ message, line, key: memory.number += 1 });
  }
  const store = memory.isPaused ? "held" : "rows";
  memory[store] = [...fresh.reverse(), ...memory[store]].slice(0, KEPT);
  return true;
}

function parsed(line) {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

function pause(context) {
  const { memory } = context;
  memory.isPaused = !memory.isPaused;
  if (!memory.isPaused) {
    memory.rows = [...memory.held, ...memory.rows].slice(0, KEPT);
    memory.held = [];
  }
  context.redraw();
}

export function draw(context) {
  const { memory } = context;
  const { rows } = memory;
  const chosen = rows.find((one) => one.key === memory.chosen);
  return [
    h("h1", {}, "Live tail"),
    filters("messages", field(context, "text", "Text contains"), field(context, "src", "Source, * for any text"),
      choice(context, "type", "Type", TYPES), choice(context, "level", "Level from", ["all", ...LEVELS]),
      field(context, "tid", "Trace id"),
      button(memory.isPaused ? "Go on" : "Pause", () => pause(context), { "aria-pressed": String(memory.isPaused) })),
    h("p", { class: "quiet tail-state" }, state(memory)),
    rows.length ? h("div", { class: chosen ? "split" : "" }, lines(context, rows), chosen && detail(context, chosen))
      : empty(context),
  ];
}

function state({ isPaused, held, missed, fault, rows }) {
  const parts = [fault ? `not connected: ${fault}` : isPaused ? `paused, ${plural(held.length, "newer message")} held` : "following",
    rows.length >= KEPT && `the newest ${count(KEPT)} are kept`,
    missed > 0 && `missed ${plural(missed, "message")}, which came too fast to show`];
  return parts.filter(Boolean).join(" · ");
}

function empty(context) {
  if (context.memory.isPaused || FILTERS.some((name) => context.params.get(name))) {
    return unmatched("Nothing that matches has passed yet", context);
  }
  return teach("Nothing has passed yet", "Messages appear here as they come. From a shell:", "event", context.summary);
}

function lines(context, rows) {
  const [first, end] = inSight("tail-rows", rows.length, row());
  return h("div", { class: "tail", role: "table", "aria-label": "Messages, newest first", "aria-rowcount": rows.length },
    h("div", { role: "rowgroup", id: "tail-rows", style: box(rows.length, first, row()) },
      rows.slice(first, end).map((one, at) => line(context, one, first + at + 1))));
}

function line(context, { message, key }, place) {
  const level = message.type === "event" ? text(message.data?.level ?? "") : message.type;
  const choose = () => {
    context.memory.chosen = key;
    if (context.memory.isPaused) context.redraw();
    else pause(context);
  };
  return h("div", { role: "row", key, "aria-rowindex": place,
      class: `line-row ${key === context.memory.chosen ? "chosen" : ""}` },
    h("span", { role: "cell", class: "block quiet clip" }, when(message.ts, context.now, true)),
    h("span", { role: "cell", class: "clip", title: message.src }, message.src),
    h("span", { role: "cell", class: `clip ${levelClass(level)}`, title: level }, level),
    h("span", { role: "cell" }, h("button", { type: "button", class: "plain clip", onclick: choose }, says(message))));
}

/** What a message says in one line; payloads are open, so what does not fit is shown as it is. */
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
    h("p", { class: "tools" }, copy("Copy the line", line),
      typeof message.tid === "string" && h("a", { class: "button", href: to("trace", message.tid) }, "Its trace")),
    h("pre", {}, h("code", {}, JSON.stringify(message, null, 2))));
}
