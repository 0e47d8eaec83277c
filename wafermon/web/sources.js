// Which script is where: everyone who sent something, with its rate; and all about one of them.
import { ago, asked, badge, choice, clip, count, field, h, list, listed, plural, rate, seconds, sourceLink,
	sparkline, table } from "./kit.js";
import { one } from "./source.js";

export const title = "Sources";
const STEP = 500;
const STATES = ["all", "missing", "late", "live", "finished"];

export const path = (context) => context.rest ? `api/sources/${encodeURIComponent(context.rest)}`
	: asked("api/sources", context, ["state", "q"], STEP);

export function draw(context) {
	if (context.rest) return one(context);
	return listed(context, { title, step: STEP, rows: list(context.data?.sources),
		fields: [field(context, "q", "Name contains"), choice(context, "state", "State", STATES)],
		show: (rows) => table({ name: "sources", label: title, rows, context,
			keyOf: (row) => row.src, columns: COLUMNS(context) }),
		lesson: ["No source yet", "A source is known from its first message on. From a shell:", "event"] });
}

const COLUMNS = ({ data, now }) => [
	{ title: "State", kind: "state", cell: (row) => badge(row.state) },
	{ title: "Source", kind: "name", by: "src", cell: (row) => sourceLink(row.src) },
	{ title: "Last 5 minutes", kind: "graph",
		cell: (row) => sparkline(row.rates, `rate of the last 5 minutes, now ${rate(row.per_s)}`) },
	{ title: "Rate", kind: "num", by: "per_s", cell: (row) => rate(row.per_s) },
	{ title: "Messages", kind: "num mid", by: "messages", cell: (row) => count(row.messages) },
	{ title: "By type", kind: "types wide", cell: (row) => types(row.by_type) },
	{ title: "Dropped", kind: "num mid", by: "dropped",
		cell: (row) => row.dropped ? h("b.bad-text", count(row.dropped)) : "0" },
	{ title: "Heartbeat", kind: "wide", by: "interval_s", cell: heartbeat },
	{ title: "Last seen", kind: "num seen", by: "last_seen_ms",
		cell: (row) => h("span", { title: plural(row.connections, "connection") },
			ago(row.last_seen_ms, data?.now_ms ?? now)) },
];

function types(byType) {
	const pairs = Object.entries(byType || {}).filter((pair) => pair[1]).sort((a, b) => b[1] - a[1]);
	const words = pairs.map(([type, number]) => `${type} ${count(number)}`).join(" · ");
	return clip(words);
}

export function heartbeat(row) {
	if (!row.interval_s) return h("span.quiet", "none");
	const from = row.interval_from ? ` (${row.interval_from})` : "";
	return `every ${seconds(row.interval_s)}${from}`;
}
