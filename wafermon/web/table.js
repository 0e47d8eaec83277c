// A table of any length: only the rows in sight are in the document. It scrolls with the page.
import { h } from "./dom.js";
import { filters, foot } from "./ui.js";
import { none } from "./teach.js";

// Rows beyond the edges of the window, so that scrolling shows no gap.
const SPARE = 12;
// Windows up to this width have rows of two lines; app.css has the same number.
const NARROW = 1100;

// A view of rows: `fields` to filter by, what `show(rows)` makes of them, and how many there are of
// how many, a `step` more on demand; without any the `lesson` how there would be some.
export function listed(context, { title, fields, rows, step, show, lesson }) {
	return [
		h("h1.wrap", title),
		fields && filters(title, fields),
		rows.length ? [show(rows), foot(rows.length, context.data.total, context, step)] : none(context, ...lesson),
	];
}

// A table of rows that open, and the panel of the one that is open: `memory.chosen` is its key.
export function beside(context, name, rows, keyOf, columns, detail, heights) {
	const chosen = rows.find((row) => keyOf(row) === context.memory.chosen);
	return h("div", { class: chosen && "split" },
		table({ name, label: context.view.title, rows, context, columns, keyOf, heights, isChosen: (row) => row === chosen }),
		chosen && detail(context, chosen));
}

// Which of `total` rows of so many pixels are in sight, from what is in the document now.
export function inSight(id, total, height) {
	const place = document.getElementById(id)?.getBoundingClientRect();
	const from = Math.max(0, Math.floor(-(place ? place.top : 0) / height) - SPARE);
	const first = Math.min(from, Math.max(0, total - 1));
	return [first, Math.min(total, first + Math.ceil(window.innerHeight / height) + 2 * SPARE)];
}

// Where the rows in sight go: a box as high as all of them.
export function box(total, first, height) {
	return { height: `${total * height}px`, "padding-top": `${first * height}px` };
}

// `columns` of {title, cell(row), by: what the sidecar is to sort by, kind: class of its cells}; `.NAME`
// in app.css says how wide they are. `heights` of a row in pixels: in a wide window, and a narrow one.
export function table({ name, label, columns, rows, keyOf, context, isChosen, heights = [34, 54] }) {
	const height = heights[window.innerWidth <= NARROW ? 1 : 0];
	const [first, end] = inSight(`${name}-rows`, rows.length, height);
	const head = columns.map((column) => header(column, context));
	const body = rows.slice(first, end).map((row, index) => {
		const cells = columns.map(({ kind, cell }) => h("div", { role: "cell", class: kind }, cell(row)));
		return h("div.row", { role: "row", key: keyOf(row), class: isChosen?.(row) && "chosen",
			"aria-rowindex": first + index + 2 }, cells);
	});
	return h("div.table", { class: name, role: "table", "aria-label": label,
			"aria-rowcount": rows.length + 1 },
		h("div.head", { role: "rowgroup" }, h("div.row", { role: "row", "aria-rowindex": 1 }, head)),
		h("div.rows", { role: "rowgroup", id: `${name}-rows`, style: box(rows.length, first, height) }, body));
}

// A click sorts the biggest first (names from A on), one more the other way, a third gives back the
// usual order. The sidecar sorts, as it has all rows.
function header({ by, kind, title }, context) {
	if (!by) return h("div", { role: "columnheader", class: kind }, title);
	const orders = kind.startsWith("name") ? ["up", "down"] : ["down", "up"];
	const sorts = ["", ...orders.map((order) => `${by}:${order}`)];
	const at = Math.max(0, sorts.indexOf(context.params.get("sort")));
	const isUp = orders[at - 1] === "up";
	return h("div", { role: "columnheader", class: kind,
			"aria-sort": at === 0 ? "none" : isUp ? "ascending" : "descending" },
		h("button.sort", { type: "button", onclick: () => context.put({ sort: sorts[at + 1] ?? "" }) },
			title, h("span", { "aria-hidden": "true" }, at === 0 ? "" : isUp ? " ↑" : " ↓")));
}
