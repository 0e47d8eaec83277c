// All about one source, and the ways to the rest.
import { ago, badge, bars, card, clip, count, duration, empty, facts, h, levelClass, list, num, quiet, rate,
	since, sparkline, text, to, when } from "./kit.js";
import { jobRow } from "./jobs.js";
import { charts } from "./resources.js";
import { heartbeat } from "./sources.js";

export function one({ data, error, rest }) {
	if (error?.status === 404) {
		return [h("h1.wrap", rest), empty("This source is not known", text(error.message),
			h("a", { href: to("sources") }, "All sources that are known"))];
	}
	if (!data) return h("h1.wrap", rest);
	const { source, now_ms: now } = data;
	const { src } = source;
	const link = (view, words, params = { src }) => h("a.button", { href: to(view, "", params) }, words);
	return [
		h("p.crumb", h("a", { href: to("sources") }, "Sources")),
		h("h1.wrap", src),
		h("p.state-line", badge(source.state), ` for ${since(source.since_ms, now)}, last seen ${ago(source.last_seen_ms, now)}`),
		h("p.tools", link("tail", "Live tail"), link("tail", "Errors as they come", { src, level: "error" }),
			link("traces", "Traces"), link("jobs", "Jobs"), link("metrics", "Metrics")),
		h("div.columns",
			card("Rate of the last 5 minutes", null, h("p.big-spark", sparkline(source.rates, "messages per second")),
				facts([["Now", rate(source.per_s)], ["Highest", rate(Math.max(...list(source.rates), 0))],
					["Messages", count(source.messages)], ["Heartbeat", heartbeat(source)],
					["Connections", count(source.connections)], ["First seen", when(source.first_seen_ms, now)]])),
			card("Messages by type", null, bars(Object.entries(source.by_type || {}))),
			card("Dropped", to("drops"), list(data.drops).length
				? bars(data.drops.map((drop) => [`${drop.reason} · ${drop.where}`, drop.count]), "warn")
				: quiet("None of its messages was lost.")),
			card("Last errors", to("tail", "", { src, level: "error" }), errors(data, now)),
			card("Jobs", to("jobs", "", { src }), list(data.jobs).length
				? h("ul.lines.job-lines", data.jobs.map((job) => h("li", jobRow(job))))
				: quiet("It has told of no job.")),
			card("Newest traces", to("traces", "", { src }), traces(list(data.traces), now))),
		h("h2", "Resources"), charts(data.resources) || quiet("It has not told what it uses."),
	];
}

function errors({ errors: told, errors_sampled: isSampled }, now) {
	return [list(told).length
		? h("ol.events", told.map((error) => h("li", when(error.ts, now),
			h("b", { class: levelClass(error.level) }, error.level),
			error.tid ? h("a.wrap", { href: to("trace", error.tid) }, text(error.msg)) : h("span.wrap", text(error.msg)))))
		: quiet("It has told of none since the sidecar was started."),
	isSampled && quiet("At times more came than could be looked through, so there may be others.")];
}

function traces(rows, now) {
	if (!rows.length) return quiet("No span of it is remembered.");
	return h("ul.lines.trace-lines", rows.map((row) => h("li", { key: row.tid }, when(row.start_ms, now),
		h("a.clip", { href: to("trace", row.tid), title: row.tid }, text(row.name ?? row.tid)),
		row.errors ? h("b.bad-text", `✕ ${count(row.errors)}`) : clip(""), num(duration(row.duration_ms)))));
}
