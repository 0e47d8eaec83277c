// The line at the top, and the list of views with what needs attention in each.
import { badge, count, h, list, rate, seconds, sparkline, toneOf } from "./kit.js";
import { inWords, troubles } from "./trouble.js";

const LINKS = { live: "updated each second", polling: "updated every 2 s", connecting: "connecting",
	lost: "no answer from the sidecar" };

export function statusLine({ summary, link, rates }) {
	const isLost = link === "lost";
	return [
		h("a.mark", { href: "#/" }, "wafermon"),
		h("dl.facts-line", summary && [
			item("status", status(summary, isLost), "status"),
			item("messages", [sparkline(rates, "messages per second over the last minute"),
				h("b.per-s", rate(summary.messages?.per_s))]),
			item("up for", seconds(summary.uptime_s), "mid"),
			item("config", config(summary.config), "mid"),
		]),
		h("span.link", { class: isLost && "bad-text" }, LINKS[link]),
	];
}

function item(name, value, kind = "") {
	return h("div.item", { class: kind }, h("dt", name), h("dd", value));
}

// The sidecar's own state, and what it sees that is not well.
function status(summary, isLost) {
	const found = troubles(summary);
	const words = found.map(inWords).join(", ");
	const [state, tone] = isLost ? ["unknown", "warn"]
		: summary.status === "ok" && words ? ["attention", toneOf(found[0][0])] : [summary.status];
	return [badge(state, tone), !isLost && words && h("a.clip", { href: "#/", title: words }, words)];
}

function config(state) {
	const word = state?.config ?? "unknown";
	return word === "ok" ? badge("ok") : badge(word, "warn");
}

// What a screen reader says when it changes.
export function statusWords(summary) {
	const reasons = [...list(summary?.reasons), ...troubles(summary).map(inWords)].join("; ");
	return `status ${summary?.status ?? "unknown"}${reasons && `: ${reasons}`}`;
}

// The way to each view but to that of one trace, which is reached from the list of them.
export function nav(views, open, summary) {
	const current = open === "trace" ? "traces" : open;
	return h("ul", Object.entries(views).filter(([name]) => name !== "trace").map(([name, { title }]) => {
		const needs = troubles(summary).filter((one) => one[3] === name);
		const number = count(needs.reduce((sum, one) => sum + one[1], 0));
		return h("li", { key: name },
			h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : null }, title,
				needs.length > 0 && [h("span.pin", { "aria-hidden": "true" }, number),
					h("span.unseen", ` (${needs.map(inWords).join(", ")})`)]));
	}));
}
