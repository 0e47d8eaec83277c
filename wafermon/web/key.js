// What the signs mean.
import { badge, bar, card, h, sparkline } from "./kit.js";

export const title = "Key to the signs";

const STATES = {
	"All is well": { live: "heard as often as it should be", up: "takes what it is offered", done: "said so, or its root has ended" },
	"Under way": { running: "goes on", finished: "said goodbye", pending: "wrong, but not for long enough yet", open: "has not ended" },
	"Have a look": { late: "silent for twice its interval", stalled: "has not moved for three times its usual gap",
		degraded: "works in part; the reason is beside it" },
	"Needs somebody": { missing: "silent for four times its interval", died: "its source went away without a goodbye",
		failed: "said so", down: "takes nothing", firing: "what the rule forbids is so" },
};
const SIGNS = [
	[sparkline([2, 3, 2, 5, 8, 6, 7, 3, 4, 2], "an example"), "over time, from 0 to its own highest: compare forms, not heights"],
	[bar(0.6, "an example"), "how full, how far, or a share of the largest"],
	[bar(0.6, "an example of trouble", "bad"), "striped: something is wrong"],
	[h("b.bad-text", "✕"), "errors; in the picture of traces one with errors, a dot is one without"],
	[h("span.beam.critical"), "underlined: on the critical path, the whole waited for it"],
	[h("span.beam.open"), "dashed: has not ended"],
	[h("span.note.warn-text", "orphan"), "its parent has not come"],
	[h("span.note.warn-text", "cycle"), "spans that name each other as parents"],
	[h("span.note.warn-text", "skew −3 ms"), "by its clock before its parent; nothing is corrected"],
	[h("span.note.quiet", "✉ 2"), "messages that came with a span's id"],
	["–", "not known"],
];
const KEYS = [["Tab", "to the next link, field or row"], ["Enter", "open or close"], ["Esc", "close the details"],
	["↑ ↓ Home End", "in a trace: to another span"], ["← →", "fold, unfold"]];

export function draw() {
	const rows = (pairs) => h("dl.facts.signs", pairs.map(([sign, words]) => [h("dt", sign), h("dd", words)]));
	return [h("h1", title), h("div.columns",
		Object.entries(STATES).map(([name, states]) => card(name, null,
			rows(Object.entries(states).map(([state, words]) => [badge(state), words])))),
		card("Signs", null, rows(SIGNS)), card("Keys", null, rows(KEYS)))];
}
