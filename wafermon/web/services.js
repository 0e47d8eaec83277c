// Who calls whom, how often, how long it takes, and how often it fails: out of the spans.
import { asked, clip, count, duration, h, list, listed, percent, plural, quiet, rate, sourceLink, table,
	to } from "./kit.js";

export const title = "Services";
const STEP = 500;
export const path = (context) => asked("api/services", context, [], STEP);

export function draw(context) {
	const { services, edges, evicted } = context.data || {};
	return listed(context, { title, step: STEP, rows: list(services),
		show: (rows) => [table({ name: "services", label: "Operations of each service", rows, context,
			keyOf: (row) => `${row.src}\n${row.name}`, columns: COLUMNS }),
		list(edges).length > 0 && [h("h2", "Who calls whom"),
			table({ name: "edges", label: "Calls between services", rows: edges, context,
				keyOf: (row) => `${row.from}\n${row.to}`, columns: EDGES })],
		evicted > 0 && quiet(`${plural(evicted, "operation")} not shown, as there are too many.`)],
		lesson: ["No spans yet", "Spans say who does what and for how long. From a shell:", "span"] });
}

const COLUMNS = [
	{ title: "Service", kind: "name half", by: "src", cell: (row) => sourceLink(row.src) },
	{ title: "Span", kind: "name second", by: "name",
		cell: (row) => h("a", { href: to("traces", "", { src: row.src, q: row.name }), title: row.name }, row.name) },
	{ title: "Calls", kind: "num", by: "calls", cell: (row) => count(row.calls) },
	{ title: "Rate", kind: "num mid", by: "rate_per_s", cell: (row) => rate(row.rate_per_s) },
	{ title: "Errors", kind: "num", by: "errors", cell: errors },
	...["p50", "p95", "p99"].map((by) => ({ title: by, by, kind: by === "p95" ? "num" : "num mid",
		cell: (row) => duration(row.duration_ms?.[by]) })),
];

function errors(row) {
	if (!row.errors) return "0";
	return h("b.bad-text", { title: percent((100 * row.errors) / row.calls) }, count(row.errors));
}

const EDGES = [
	{ title: "From", kind: "name half", cell: (row) => sourceLink(row.from) },
	{ title: "To", kind: "second", cell: (row) => clip(`→ ${row.to}`) },
	...COLUMNS.filter((one) => ["calls", "errors"].includes(one.by)).map((one) => ({ ...one, by: "" })),
];
