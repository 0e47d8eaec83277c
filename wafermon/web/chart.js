// Lines over time as SVG, each with its text for who cannot see it.
import { h } from "./dom.js";
import { isNumber, list, number, time } from "./format.js";
import { clip } from "./ui.js";

const WIDE = 400;
const HIGH = 100;
// Lines of one chart; each has a colour and a pattern of dashes of its own.
export const MAX_LINES = 5;

// A small picture of a row of numbers, from 0 to the highest.
export function sparkline(values, label) {
	const numbers = list(values).map((value) => (isNumber(value) ? value : 0));
	const top = Math.max(...numbers, 1e-9);
	const step = 100 / Math.max(1, numbers.length - 1);
	const points = numbers.map((value, i) => `${(i * step).toFixed(1)},${(19 - 17 * value / top).toFixed(1)}`);
	return h("svg.spark", { viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img",
			"aria-label": label },
		points.length > 1 && [
			h("polygon", { points: `0,20 ${points.join(" ")} 100,20` }),
			h("polyline", { points: points.join(" ") }),
		]);
}

// `lines` of {name, points: [[ms, value], ...]}; `about` begins the text alternative; `show` writes a value.
export function lineChart({ lines, about, show = number }) {
	const drawn = lines.slice(0, MAX_LINES).map((line) => ({ ...line, points: good(line.points) }));
	const all = drawn.flatMap((line) => line.points);
	if (!all.length) return h("p.quiet.chart-none", "no values yet");
	const [left, right] = span(all.map(([ms]) => ms));
	const [low, top] = range([...all.map(([, value]) => value), 0]);
	const high = top > low ? top : 1;
	const x = (ms) => (WIDE * (ms - left)) / (right - left);
	const y = (value) => HIGH - ((HIGH - 4) * (value - low)) / (high - low) - 2;
	const place = ([ms, value]) => `${x(ms).toFixed(1)},${y(value).toFixed(1)}`;
	return [frame([WIDE, HIGH], [show(high), show(low), time(left), time(right)], inWords(drawn, about, show), "",
		h("path.grid", { d: "M0,25h400m-400,25h400m-400,25h400" }),
		drawn.map((line, i) => line.points.length > 1
			? h("polyline.line", { class: `line-${i}`, points: line.points.map(place).join(" ") })
			: h("path.line.dot", { class: `line-${i}`, d: line.points.map((point) => `M${place(point)}h0.01`).join("") }))),
	lines.length > 1 && legend(lines, drawn, show)];
}

// A picture of so many units with what its edges are: top, foot, left, right.
export function frame([wide, high], [top, low, left, right], label, note, ...inside) {
	return h("figure.chart",
		h("div.plot", h("span.top-label", { title: top }, top), h("span.low-label", { title: low }, low),
			h("svg", { viewBox: `0 0 ${wide} ${high}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, inside)),
		h("div.times", h("span", left), h("span", { "aria-hidden": "true" }, note), h("span", right)));
}

function good(points) {
	return list(points).filter((point) => Array.isArray(point) && point.every(isNumber));
}

function range(values) {
	return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
}

// The times of the axis: a minute around a moment, as one point has no width.
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
	const entry = ({ name, points }, i) => h("li",
		h("svg.key", { viewBox: "0 0 20 4", "aria-hidden": "true" },
			h("polyline.line", { class: `line-${i}`, points: "0,2 20,2" })),
		clip(name),
		h("b", show(points.length ? points[points.length - 1][1] : null)));
	const more = lines.length - drawn.length;
	return h("ul.legend", drawn.map(entry), more > 0 && h("li", h("span"), `and ${more} more`));
}
