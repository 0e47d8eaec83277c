// Lines over time as SVG, each with its text for who cannot see it.
import { h } from "./dom.js";
import { isNumber, list, number, time } from "./format.js";
import { clip } from "./ui.js";

const WIDE = 400;
const HIGH = 100;
/** Lines of one chart; each has a colour and a pattern of dashes of its own. */
export const MAX_LINES = 5;

/** A small picture of a row of numbers, from 0 to the highest. */
export function sparkline(values, label) {
  const numbers = list(values).map((value) => (isNumber(value) ? value : 0));
  const top = Math.max(...numbers, 1e-9);
  const step = 100 / Math.max(1, numbers.length - 1);
  const points = numbers.map((value, i) => `${(i * step).toFixed(1)},${(19 - 17 * value / top).toFixed(1)}`);
  return h("svg", { class: "spark", viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img",
      "aria-label": label },
    points.length > 1 && [
      h("polygon", { points: `0,20 ${points.join(" ")} 100,20` }),
      h("polyline", { points: points.join(" ") }),
    ]);
}

/**
 * `lines` of {name, points: [[ms, value], ...]}; `about` begins the text alternative; `show` writes
 * a value.
 */
export function lineChart({ lines, about, show = number }) {
  const drawn = lines.slice(0, MAX_LINES).map((line) => ({ ...line, points: good(line.points) }));
  const all = drawn.flatMap((line) => line.points);
  if (!all.length) return h("p", { class: "quiet chart-none" }, "no values yet");
  const [left, right] = span(all.map(([ms]) => ms));
  const [low, top] = range([...all.map(([, value]) => value), 0]);
  const high = top > low ? top : 1;
  const x = (ms) => (WIDE * (ms - left)) / (right - left);
  const y = (value) => HIGH - ((HIGH - 4) * (value - low)) / (high - low) - 2;
  const place = ([ms, value]) => `${x(ms).toFixed(1)},${y(value).toFixed(1)}`;
  return h("figure", { class: "chart" },
    h("div", { class: "plot" },
      h("span", { class: "top-label", title: show(high) }, show(high)),
      h("span", { class: "low-label", title: show(low) }, show(low)),
      h("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img",
          "aria-label": inWords(drawn, about, show) },
        h("path", { class: "grid", d: "M0,25h400m-400,25h400m-400,25h400" }),
        drawn.map((line, i) => line.points.length > 1
          ? h("polyline", { class: `line line-${i}`, points: line.points.map(place).join(" ") })
          : h("path", { class: `line line-${i} dot`, d: dots(line.points, place) })))),
    h("div", { class: "times" }, h("span", {}, time(left)), h("span", {}, time(right))),
    lines.length > 1 && legend(lines, drawn, show));
}

/** A line that is too short to be seen is a dot. */
function dots(points, place) {
  return points.map((point) => `M${place(point)}h0.01`).join("");
}

function good(points) {
  return list(points).filter((point) => Array.isArray(point) && point.every(isNumber));
}

function range(values) {
  return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
}

/** The times of the axis: a minute around a moment, as one point has no width. */
function span(times) {
  const [first, last] = range(times);
  return last - first < 1000 ? [first - 30_000, last + 30_000] : [first, last];
}

function inWords(lines, about, show) {
  const each = lines.filter((line) => line.points.length).map(({ name, points }) => {
    const values = points.map((point) => point[1]);
    const [low, high] = range(values);
    const last = values[values.length - 1];
    return `${name}: now ${show(last)}, between ${show(low)} and ${show(high)}`;
  });
  return `${about}. ${each.join(". ")}`;
}

function legend(lines, drawn, show) {
  const entry = ({ name, points }, i) => h("li", {},
    h("svg", { class: "key", viewBox: "0 0 20 4", "aria-hidden": "true" },
      h("polyline", { class: `line line-${i}`, points: "0,2 20,2" })),
    clip(name),
    h("b", {}, show(points.length ? points[points.length - 1][1] : null)));
  const more = lines.length - drawn.length;
  return h("ul", { class: "legend" }, drawn.map(entry), more > 0 && h("li", {}, `and ${more} more`));
}
