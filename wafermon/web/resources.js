// What each source uses of its host, by its own word.
import { lineChart } from "./chart.js";
import { h } from "./dom.js";
import { bytes, list, number, percent } from "./format.js";
import { asked, field, filters, foot, to } from "./ui.js";
import { none } from "./teach.js";

export const title = "Resources";
const STEP = 40;

export const path = (context) => asked("api/resources", context, ["src"], STEP);

export function draw(context) {
  const sources = list(context.data?.sources);
  return [
    h("h1", {}, "Resources"),
    filters("resources", field(context, "src", "Source")),
    sources.length ? [
      sources.map(section),
      foot(sources.length, context.data.total ?? sources.length, context, STEP),
    ] : none(context, "No source tells what it uses",
      "Messages of type resource are charted here:", "resource"),
  ];
}

function section(one) {
  const named = (object) => Object.entries(object || {}).map(([name, points]) => ({ name, points }));
  const about = (what) => `${what} of ${one.src}`;
  return h("section", { key: one.src, class: "resource" },
    h("h2", { class: "wrap" }, h("a", { href: to("sources", "", { q: one.src }) }, one.src)),
    h("div", { class: "cards charts" },
      chart("CPU", [{ name: "cpu", points: one.cpu }], about("CPU"), percent),
      chart("Memory", [{ name: "mem", points: one.mem }], about("memory"), bytes),
      chart("Disk", named(one.disk), about("disk"), number),
      chart("Network", named(one.net), about("network"), number)));
}

function chart(name, lines, about, show) {
  const filled = lines.filter((line) => list(line.points).length);
  if (!filled.length) return null;
  const points = list(filled[0].points);
  return h("section", { class: "card", key: name },
    h("h3", {}, name, filled.length === 1 &&
      h("b", {}, show(points[points.length - 1][1]))),
    lineChart({ lines: filled, about, show }));
}
