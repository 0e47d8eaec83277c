// Which script is where: everyone who sent something, with its rate.
import { sparkline } from "./chart.js";
import { h } from "./dom.js";
import { ago, count, list, plural, rate, seconds } from "./format.js";
import { asked, badge, choice, field, filters, foot, to } from "./ui.js";
import { table } from "./table.js";
import { none } from "./teach.js";

export const title = "Sources";
const STEP = 500;
const STATES = ["all", "missing", "late", "live", "finished"];

export const path = (context) => asked("api/sources", context, ["state", "q"], STEP);

export function draw(context) {
  const rows = list(context.data?.sources);
  return [
    h("h1", {}, "Sources"),
    filters("sources", field(context, "q", "Name contains"), choice(context, "state", "State", STATES)),
    rows.length ? [
      table({ name: "sources", label: "Sources", rows, context, keyOf: (row) => row.src,
        columns: COLUMNS(context) }),
      foot(rows.length, context.data.total, context, STEP),
    ] : none(context, "No source yet",
      "A source is known from its first message on. From a shell:", "event"),
  ];
}

const COLUMNS = ({ data, now }) => [
  { title: "State", kind: "state", cell: (row) => badge(row.state) },
  { title: "Source", kind: "name", by: (row) => row.src,
    cell: (row) => h("a", { href: to("tail", "", { src: row.src }), title: row.src }, row.src) },
  { title: "Last minutes", kind: "graph",
    cell: (row) => sparkline(row.rates, `rate of the last 5 minutes, now ${rate(row.per_s)}`) },
  { title: "Rate", kind: "num", by: (row) => row.per_s, cell: (row) => rate(row.per_s) },
  { title: "Messages", kind: "num mid", by: (row) => row.messages, cell: (row) => count(row.messages) },
  { title: "By type", kind: "types wide", cell: (row) => types(row.by_type) },
  { title: "Dropped", kind: "num mid", by: (row) => row.dropped,
    cell: (row) => row.dropped ? h("b", { class: "bad-text" }, count(row.dropped)) : "0" },
  { title: "Heartbeat", kind: "wide", by: (row) => row.interval_s, cell: heartbeat },
  { title: "Last seen", kind: "num seen", by: (row) => row.last_seen_ms,
    cell: (row) => h("span", { title: plural(row.connections, "connection") },
      ago(row.last_seen_ms, data?.now_ms ?? now)) },
];

function types(byType) {
  const pairs = Object.entries(byType || {}).filter((pair) => pair[1]).sort((a, b) => b[1] - a[1]);
  const words = pairs.map(([type, number]) => `${type} ${count(number)}`).join(" · ");
  return h("span", { title: words }, words);
}

function heartbeat(row) {
  if (!row.interval_s) return h("span", { class: "quiet" }, "none");
  const from = row.interval_from ? ` (${row.interval_from})` : "";
  return `every ${seconds(row.interval_s)}${from}`;
}
