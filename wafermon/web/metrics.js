// The metrics that scripts send: one chart a name, with its series of all sources.
import { asked, clip, count, field, h, lineChart, list, listed, number, plural, quiet, sourceLink, sparkline, table, text,
	to } from "./kit.js";

export const title = "Metrics";
const STEP = 60;
const ROWS = 500;

export function path(context) {
	if (!context.rest) return asked("api/metrics", context, ["q", "src"], STEP);
	return `${asked("api/series", context, ["q", "src"], ROWS)}&name=${encodeURIComponent(context.rest)}`;
}

export function draw(context) {
	const { data, rest } = context;
	return [
		rest && h("p.crumb", h("a", { href: to("metrics") }, title)),
		listed(context, { title: rest || title, step: rest ? ROWS : STEP, rows: list(rest ? data?.series : data?.metrics),
			fields: [field(context, "q", rest ? "Source or tag contains" : "Name, source or tag contains"),
				field(context, "src", "Source, exactly")],
			show: (rows) => rest ? all(rows, context) : h("div.cards.charts", rows.map(card)),
			lesson: ["No metric yet", "Any script may send numbers to be charted:", "metric"] }),
	];
}

const written = (value, unit) => number(value) + (unit ? ` ${text(unit)}` : "");
const tags = (one) => Object.entries(one.tags || {}).map(([name, value]) => `${name}=${text(value)}`);

// The highest few as lines, with the range of all.
function card(metric) {
	const { name, kind, unit, series_total: total } = metric;
	const show = (value) => written(value, unit);
	return h("section.card", { key: `${name}\n${kind}\n${unit}` },
		h("h2", h("a.wrap", { href: to("metrics", name) }, name), h("small", ` ${text(kind)}`)),
		total === 1 ? [h("p.reading", h("b", show(metric.highest))), h("p", sourceLink(metric.series[0].src)), quiet(tags(metric.series[0]).join(" "))]
			: h("p.reading.wrap", h("b", show(metric.lowest)), " to ", h("b", show(metric.highest)),
				` now, ${plural(total, "series", "series")}`, total > metric.series.length && `; the highest ${count(metric.series.length)}:`),
		chart(name, metric.series, show));
}

function chart(name, series, show) {
	const lines = series.map((one) => ({ name: [one.src, ...tags(one)].join(" "), points: one.points }));
	return lineChart({ lines, about: text(name), show });
}

// Every series of one name; the first ones as lines, so that sorting says which.
function all(series, context) {
	return [
		h("section.card.wide-chart", chart(context.rest, series, (value) => written(value, series[0].unit))),
		table({ name: "series", label: "Series", rows: series, context, columns: COLUMNS,
			keyOf: (one) => `${one.src}\n${one.kind}\n${JSON.stringify(one.tags)}` }),
	];
}

const values = (one) => list(one.points).map((point) => point[1]);
const COLUMNS = [
	{ title: "Source", kind: "name half", by: "src", cell: (one) => sourceLink(one.src) },
	{ title: "Tags", kind: "second", cell: (one) => clip(tags(one).join(" ")) },
	{ title: "Last 10 minutes", kind: "graph", cell: (one) => sparkline(values(one), "its last 10 minutes") },
	{ title: "Now", kind: "num", by: "value", cell: (one) => written(one.value, one.unit) },
	{ title: "Lowest", kind: "num mid", cell: (one) => written(Math.min(...values(one)), one.unit) },
	{ title: "Highest", kind: "num", cell: (one) => written(Math.max(...values(one)), one.unit) },
];
