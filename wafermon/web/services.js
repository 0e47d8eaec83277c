// Who calls whom, how often, how long it takes, and how often it fails: out of the spans.
import { h } from "./dom.js";
import { count, duration, list, percent, plural, rate } from "./format.js";
import { clip, quiet, to } from "./ui.js";
import { table } from "./table.js";
import { none } from "./teach.js";

export const title = "Services";
export const path = () => "api/services";

export function draw(context) {
  const services = list(context.data?.services);
  const edges = list(context.data?.edges);
  if (!services.length) {
    return [h("h1", {}, "Services"), none(context, "No spans yet",
      "Spans say who does what and for how long. From a shell:", "span")];
  }
  return [h("h1", {}, "Services"),
    table({ name: "services", label: "Operations of each service", rows: services, context,
      keyOf: (row) => `${row.src}\n${row.name}`, columns: COLUMNS }),
    edges.length > 0 && [h("h2", {}, "Who calls whom"),
      table({ name: "edges", label: "Calls between services", rows: edges, context: fixed(context),
        keyOf: (row) => `${row.from}\n${row.to}`, columns: EDGES })],
    context.data.evicted > 0 && quiet(
      `${plural(context.data.evicted, "operation")} not shown, as there are too many.`)];
}

const COLUMNS = [
  { title: "Service", kind: "name half", by: (row) => row.src,
    cell: (row) => h("a", { href: to("traces", "", { src: row.src }), title: row.src }, row.src) },
  { title: "Span", kind: "second", by: (row) => row.name,
    cell: (row) => clip(row.name) },
  { title: "Calls", kind: "num", by: (row) => row.calls, cell: (row) => count(row.calls) },
  { title: "Rate", kind: "num mid", by: (row) => row.rate_per_s, cell: (row) => rate(row.rate_per_s) },
  { title: "Errors", kind: "num", by: (row) => row.errors, cell: errors },
  ...["p50", "p95", "p99"].map((name) => ({ title: name, kind: name === "p95" ? "num" : "num mid",
    by: (row) => row.duration_ms?.[name], cell: (row) => duration(row.duration_ms?.[name]) })),
];

function errors(row) {
  if (!row.errors) return "0";
  return h("b", { class: "bad-text", title: percent((100 * row.errors) / row.calls) }, count(row.errors));
}

const EDGES = [
  { title: "From", kind: "name half", cell: (row) => clip(row.from) },
  { title: "To", kind: "second", cell: (row) => h("span", { title: row.to }, "→ ", row.to) },
  { title: "Calls", kind: "num", cell: (row) => count(row.calls) },
  { title: "Errors", kind: "num", cell: errors },
];

/** The address holds the order of one table only. */
function fixed(context) {
  return { ...context, params: new URLSearchParams() };
}
