// The pieces that views share.
import { h } from "./dom.js";
import { count, moment, text, time } from "./format.js";

// How a state is told apart: by its word, by a sign, and last by a colour.
export const TONES = {
	good: ["●", "ok", "up", "live", "done", "closed", "resolved"],
	calm: ["◐", "running", "finished", "pending", "open", "draining"],
	warn: ["▲", "late", "stalled", "degraded", "half_open"],
	bad: ["■", "missing", "died", "failed", "down", "firing", "error", "stuck"],
};

export const LEVELS = ["debug", "info", "warn", "error", "fatal"];
// The class of a level: a sender may write any word, even a class of this page.
export const levelClass = (word) => `level${LEVELS.includes(word) ? ` level-${word}` : ""}`;

export function toneOf(state) {
	for (const [tone, states] of Object.entries(TONES)) if (states.includes(state)) return tone;
	return "calm";
}

export const num = (value) => h("span.num", value);
export const clip = (value) => h("span.clip", { title: text(value) }, text(value));
// A time in short; all of it as its title.
export const when = (ms, ...how) => h("span.num.clip", { title: moment(ms) }, time(ms, ...how));
export const quiet = (...words) => h("p.quiet", words);

// The word of a state with its sign.
export function badge(state, tone = toneOf(state)) {
	return h("span.badge", { class: tone },
		h("span", { "aria-hidden": "true" }, TONES[tone][0]), " ", text(state));
}

// A bar from 0 to 1 with its text beside it.
export function bar(share, label, tone = "calm") {
	const part = Math.max(0, Math.min(1, share || 0));
	return h("span.bar", { class: tone, role: "meter", "aria-label": label, "aria-valuemin": 0,
			"aria-valuemax": 100, "aria-valuenow": Math.round(part * 100) },
		h("span", { style: { width: `${(part * 100).toFixed(2)}%` } }));
}

// A number with its name, which leads to more.
export function tile(name, value, note, link, tone) {
	return h("a.tile", { class: tone, href: link }, h("span.tile-name", name), h("b.tile-value", value),
		h("span.tile-note", note));
}

// The address of a view.
export function to(view, rest = "", params = {}) {
	const given = Object.entries(params).filter((pair) => pair[1]);
	const query = given.length ? `?${new URLSearchParams(given)}` : "";
	return `#/${view}${rest && `/${encodeURIComponent(rest)}`}${query}`;
}

// A source by its name, with the way to all about it.
export const sourceLink = (src) => h("a.wrap", { href: to("sources", src), title: src }, src);

// What to ask for: a path with those parameters of the view's address that it takes.
export function asked(path, { params }, names, limit) {
	const query = new URLSearchParams({ limit: params.get("limit") || limit });
	for (const name of [...names, "sort"]) if (params.get(name)) query.set(name, params.get(name));
	return `${path}?${query}`;
}

export function filters(what, fields) {
	return h("div.filters", { role: "search", "aria-label": `Filter ${what}` }, fields);
}

// What is typed or chosen goes into the address, so that it can be shared.
const bound = ({ params, put }, name) => ({ value: params.get(name) || "",
	oninput: (event) => put({ [name]: event.target.value }) });

// A field of a filter.
export const field = (context, name, label, props) => h("label.field", h("span", label),
	h("input", { type: "search", autocomplete: "off", spellcheck: "false", ...bound(context, name), ...props }));

// A choice of a filter; the first one is for all.
export const choice = (context, name, label, options) => h("label.field", h("span", label),
	h("select", bound(context, name), options.map((option, i) => h("option", { value: i ? option : "" }, option))));

export function check(context, name, label) {
	return h("label.check",
		h("input", { type: "checkbox", checked: context.params.get(name) === "1",
			onchange: (event) => context.put({ [name]: event.target.checked ? "1" : "" }) }), label);
}

export const button = (label, onclick, props) => h("button.button", { type: "button", onclick, ...props }, label);

// A button that puts a text on the clipboard and says that it did.
export function copy(label, value) {
	return button(label, async ({ currentTarget: source }) => {
		const done = await navigator.clipboard?.writeText(value).then(() => true, () => false);
		document.getElementById("status").textContent = done ? "copied" : "this browser gives no clipboard here";
		source.classList.toggle("did", Boolean(done));
		setTimeout(() => source.classList.remove("did"), 1200);
	});
}

// What is beside or below the list: all about the one that was chosen.
export function panel(title, onclose, ...inside) {
	return h("section.panel", { "aria-label": `Details: ${title}`,
			onkeydown: (event) => event.key === "Escape" && onclose() },
		h("div.panel-head", h("h2.wrap", title), button("Close", onclose)),
		inside);
}

// A part of a view, with the way to the whole of it.
export function card(name, link, ...inside) {
	return h("section.card", h("h2", link ? h("a", { href: link }, name) : name), inside);
}

// In place of what is not there.
export function empty(title, ...words) {
	return h("div.empty", h("h2", title), words.map((one) => h("div", one)));
}

// Numbers by name as bars, the biggest first.
export function bars(pairs, tone) {
	const sorted = pairs.filter((pair) => pair[1]).sort((a, b) => b[1] - a[1]);
	return h("ul.lines.bar-lines", sorted.map(([name, value]) => h("li", { key: name }, clip(name),
		bar(value / sorted[0][1], `share of ${text(name)}`, tone), num(count(value)))));
}

// Names and values.
export function facts(pairs) {
	const shown = pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== undefined);
	return h("dl.facts", shown.map(([name, value]) => [
		h("dt", name), h("dd", typeof value === "object" && value.tag ? value : text(value))]));
}

// How many of how many are shown, and a way to more.
export function foot(shown, total, { put }, step) {
	return h("p.foot.quiet", `${count(shown)} of ${count(total)}`, total > shown &&
		button(`Show ${count(Math.min(step, total - shown))} more`, () => put({ limit: String(shown + step) })));
}
