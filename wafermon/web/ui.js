// The pieces that views share.
import { h } from "./dom.js";
import { count, moment, text, time } from "./format.js";

/** How a state is told apart: by its word, by a sign, and last by a colour. */
const TONES = {
  good: ["●", "ok", "up", "live", "done", "closed", "resolved"],
  calm: ["◐", "running", "finished", "pending", "open", "draining"],
  warn: ["▲", "late", "stalled", "degraded", "half_open"],
  bad: ["■", "missing", "died", "failed", "down", "firing", "error", "stuck"],
};

export const LEVELS = ["debug", "info", "warn", "error", "fatal"];
/** The class of a level: a sender may write any word, even a class of this page. */
export const levelClass = (word) => `level${LEVELS.includes(word) ? ` level-${word}` : ""}`;

export function toneOf(state) {
  for (const [tone, states] of Object.entries(TONES)) if (states.includes(state)) return tone;
  return "calm";
}

export const num = (value) => h("span", { class: "num" }, value);
export const clip = (value) => h("span", { class: "clip", title: text(value) }, text(value));
/** A time in short; all of it as its title. */
export const when = (ms, ...how) => h("span", { class: "num clip", title: moment(ms) }, time(ms, ...how));
export const quiet = (...words) => h("p", { class: "quiet" }, words);

/** The word of a state with its sign. */
export function badge(state, tone = toneOf(state)) {
  return h("span", { class: `badge ${tone}` },
    h("span", { "aria-hidden": "true" }, TONES[tone][0]), " ", text(state));
}

/** A bar from 0 to 1 with its text beside it. */
export function bar(share, label, tone = "calm") {
  const part = Math.max(0, Math.min(1, share || 0));
  return h("span", { class: `bar ${tone}`, role: "meter", "aria-label": label, "aria-valuemin": 0,
      "aria-valuemax": 100, "aria-valuenow": Math.round(part * 100) },
    h("span", { style: { width: `${(part * 100).toFixed(2)}%` } }));
}

/** A number with its name. */
export function tile(name, value, note, link, tone = "") {
  const inside = [h("span", { class: "tile-name" }, name), h("b", { class: "tile-value" }, value),
    h("span", { class: "tile-note" }, note || "\u00a0")];
  return link ? h("a", { class: `tile ${tone}`, href: link }, inside)
    : h("div", { class: `tile ${tone}` }, inside);
}

/** The address of a view. */
export function to(view, rest = "", params = {}) {
  const given = Object.entries(params).filter((pair) => pair[1]);
  const query = given.length ? `?${new URLSearchParams(given)}` : "";
  return `#/${view}${rest && `/${encodeURIComponent(rest)}`}${query}`;
}

/** What to ask for: a path with those parameters of the view's address that it takes. */
export function asked(path, { params }, names, limit) {
  const query = new URLSearchParams({ limit: params.get("limit") || limit });
  for (const name of names) if (params.get(name)) query.set(name, params.get(name));
  return `${path}?${query}`;
}

export function filters(what, ...fields) {
  return h("div", { class: "filters", role: "search", "aria-label": `Filter ${what}` }, fields);
}

/** A field of a filter; what is typed goes into the address, so that it can be shared. */
export function field(context, name, label, props = {}) {
  return h("label", { class: "field" }, h("span", {}, label),
    h("input", { type: "search", autocomplete: "off", spellcheck: "false",
      value: context.params.get(name) || "", ...props,
      oninput: (event) => context.put({ [name]: event.target.value }) }));
}

/** A choice of a filter; the first one is for all. */
export function choice(context, name, label, options) {
  return h("label", { class: "field" }, h("span", {}, label),
    h("select", { value: context.params.get(name) || "",
        onchange: (event) => context.put({ [name]: event.target.value }) },
      options.map((option, i) => h("option", { value: i ? option : "" }, option))));
}

export function check(context, name, label) {
  return h("label", { class: "check" },
    h("input", { type: "checkbox", checked: context.params.get(name) === "1",
      onchange: (event) => context.put({ [name]: event.target.checked ? "1" : "" }) }), label);
}

export function button(label, onclick, props = {}) {
  return h("button", { type: "button", class: "button", onclick, ...props }, label);
}

/** A button that puts a text on the clipboard and says that it did. */
export function copy(label, value) {
  return button(label, async (event) => {
    const source = event.currentTarget;
    try {
      await navigator.clipboard.writeText(value);
      document.getElementById("status").textContent = `copied ${value}`;
      source.classList.add("did");
    } catch {
      document.getElementById("status").textContent = "this browser gives no clipboard here";
    }
    setTimeout(() => source.classList.remove("did"), 1200);
  });
}

/** What is beside or below the list: all about the one that was chosen. */
export function panel(title, onclose, ...inside) {
  return h("section", { class: "panel", "aria-label": `Details: ${title}`,
      onkeydown: (event) => event.key === "Escape" && onclose() },
    h("div", { class: "panel-head" }, h("h2", { class: "wrap" }, title), button("Close", onclose)),
    inside);
}

/** Names and values. */
export function facts(pairs) {
  const shown = pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== undefined);
  return h("dl", { class: "facts" }, shown.map(([name, value]) => [
    h("dt", {}, name), h("dd", {}, typeof value === "object" && value.tag ? value : text(value))]));
}

/** How many of how many are shown, and a way to more. */
export function foot(shown, total, context, limit) {
  const more = total > shown && h("span", {}, " ",
    button(`Show ${count(Math.min(limit, total - shown))} more`,
      () => context.put({ limit: String(shown + limit) })));
  return h("p", { class: "foot quiet" }, `${count(shown)} of ${count(total)}`, more);
}
