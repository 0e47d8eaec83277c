// What is lost, and why.
import { bar, clip, count, empty, h, list, quiet, table, text, to } from "./kit.js";

export const title = "Drops";

export function draw(context) {
	const { summary } = context;
	const rows = [...list(summary?.drops)].sort((a, b) => b.count - a.count);
	return [h("h1", title),
		quiet("Since the sidecar was started. Every message is delivered, waiting, a dead letter, or here."),
		rows.length ? table({ name: "drops", label: "Drops", rows, context, columns: COLUMNS(rows[0].count),
			keyOf: (drop) => `${drop.where}\n${drop.reason}` })
			: summary && empty("Nothing was lost", ["What was refused, by backends or on the way in, can be read and sent again by ",
				h("code", "wafermon dead-letters"), "."], h("a", { href: to("backends") }, "See how full the queues are"))];
}

const COLUMNS = (most) => [
	{ title: "Reason", kind: "name half", cell: (drop) => h("b", { title: drop.about }, text(drop.reason)) },
	{ title: "Where", kind: "second", cell: (drop) => clip(drop.where) },
	{ title: "Which means", kind: "about quiet", cell: (drop) => clip(drop.about) },
	{ title: "Messages", kind: "with-bar", cell: (drop) => [
		bar(drop.count / most, `share of ${drop.reason}`, "warn"), h("span.num", count(drop.count))] },
];
