// The metrics that scripts send, one chart a series.
import { lineChart } from "./chart.js";
import { h } from "./dom.js";
import { list, number, text } from "./format.js";
import { asked, field, filters, foot, to } from "./ui.js";
import { none } from "./teach.js";

export const title = "Metrics";
const STEP = 60;

export const path = (context) => asked("api/series", context, ["q"], STEP);

export function draw(context) {
  const series = list(context.data?.series);
  return [
    h("h1", {}, "Metrics"),
    filters("metrics", field(context, "q", "Name, source or tag contains")),
    series.length ? [
      h("div", { class: "cards charts" }, series.map(card)),
      foot(series.length, context.data.total, context, STEP),
    ] : none(context, "No metric yet", "Any script may send numbers to be charted:", "metric"),
  ];
}

function card(one) {
  const unit = one.unit ? ` ${text(one.unit)}` : "";
  const tags = Object.entries(one.tags || {});
  return h("section", { class: "card", key: `${one.src}\n${one.name}\n${JSON.stringify(tags)}` },
    h("h2", { class: "wrap" }, one.name, h("small", {}, ` ${text(one.kind)}`)),
    h("p", { class: "reading wrap" }, h("b", {}, number(one.value)), unit),
    h("p", { class: "tags" }, h("a", { class: "wrap", href: to("sources", "", { q: one.src }) }, one.src),
      tags.map(([name, value]) => h("span", { class: "tag wrap" }, `${name}=${text(value)}`))),
    lineChart({ lines: [{ name: text(one.name), points: one.points }],
      about: `${text(one.name)} of ${text(one.src)}`, show: (value) => number(value) + unit }));
}
