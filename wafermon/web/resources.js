// What each source uses of its host, by its own word.
import { asked, bytes, field, h, lineChart, list, listed, number, percent, sourceLink } from "./kit.js";

export const title = "Resources";
const STEP = 20;

export const path = (context) => asked("api/resources", context, ["src", "q"], STEP);

export function draw(context) {
	return listed(context, { title, step: STEP, rows: list(context.data?.sources),
		fields: [field(context, "q", "Source contains")],
		show: (rows) => rows.map((one) => h("section.resource", { key: one.src },
			h("h2", sourceLink(one.src)), charts(one))),
		lesson: ["No source tells what it uses", "Messages of type resource are charted here:", "resource"] });
}

// The charts of one source; null where it tells nothing.
export function charts(one) {
	const named = (object) => Object.entries(object || {}).map(([name, points]) => ({ name, points }));
	const drawn = [
		chart("CPU", [{ name: "cpu", points: one.cpu }], one.src, percent),
		chart("Memory", [{ name: "mem", points: one.mem }], one.src, bytes),
		chart("Disk", named(one.disk), one.src, number),
		chart("Network", named(one.net), one.src, number)].filter(Boolean);
	return drawn.length ? h("div.cards.charts", drawn) : null;
}

function chart(name, lines, src, show) {
	const filled = lines.filter((line) => list(line.points).length);
	if (!filled.length) return null;
	return h("section.card", { key: name },
		h("h3", name, filled.length === 1 && h("b", show(filled[0].points.at(-1)[1]))),
		lineChart({ lines: filled, about: `${name} of ${src}`, show }));
}
