// A table of any length: only the rows in sight are in the document. It scrolls with the page.
import { h } from "./dom.js";
import { count } from "./format.js";

/** Rows beyond the edges of the window, so that scrolling shows no gap. */
const SPARE = 12;
/** Windows up to this width have rows of two lines; app.css has the same number. */
export const NARROW = 1100;

/** Which of `total` rows of so many pixels are in sight, from what is in the document now. */
export function inSight(id, total, height) {
  const place = document.getElementById(id)?.getBoundingClientRect();
  const from = Math.max(0, Math.floor(-(place ? place.top : 0) / height) - SPARE);
  const first = Math.min(from, Math.max(0, total - 1));
  return [first, Math.min(total, first + Math.ceil(window.innerHeight / height) + 2 * SPARE)];
}

/** Where the rows in sight go: a box as high as all of them. */
export function box(total, first, height) {
  return { height: `${total * height}px`, "padding-top": `${first * height}px` };
}

/**
 * @param name  id and class: see `.NAME .row` in app.css
 * @param label what screen readers call it
 * @param columns of {title, cell(row), by(row) to sort by, kind: class of its cells}
 * @param rows  in the sidecar's order
 * @param keyOf a name of a row that stays
 * @param context of the view: the sorting is in the address
 */
export function table({ name, label, columns, rows, keyOf, context, rowClass }) {
  const height = window.innerWidth <= NARROW ? 54 : 34;
  const [sorting, sign] = sortOf(context.params.get("sort"), columns);
  const shown = sorting ? sorted(rows, sorting.by, sign) : rows;
  const [first, end] = inSight(`${name}-rows`, shown.length, height);
  const head = columns.map((column) => header(column, column === sorting ? sign : 0, context));
  const body = shown.slice(first, end).map((row, index) => {
    const cells = columns.map(({ kind, cell }) => h("div", { role: "cell", class: kind }, cell(row)));
    return h("div", { role: "row", key: keyOf(row), class: `row ${rowClass?.(row) ?? ""}`,
      "aria-rowindex": first + index + 2 }, cells);
  });
  const total = context.data?.total;
  return [sorting && total > rows.length && h("p", { class: "quiet" },
    `Sorted among the first ${count(rows.length)} of ${count(total)}`),
  h("div", { class: `table ${name}`, role: "table", "aria-label": label,
      "aria-rowcount": shown.length + 1 },
    h("div", { role: "rowgroup", class: "head" },
      h("div", { role: "row", class: "row", "aria-rowindex": 1 }, head)),
    h("div", { role: "rowgroup", id: `${name}-rows`, class: "rows",
      style: box(shown.length, first, height) }, body))];
}

function sortOf(text, columns) {
  const [title, sign] = (text || "").split(":");
  const column = columns.find((one) => one.by && one.title === title);
  return [column, sign === "up" ? 1 : -1];
}

function sorted(rows, by, sign) {
  const compare = (a, b) => (a === b ? 0 : a === null || a === undefined ? 1
    : b === null || b === undefined ? -1 : sign * (a < b ? -1 : 1));
  return rows.map((row) => [by(row), row]).sort((a, b) => compare(a[0], b[0])).map((one) => one[1]);
}

/** A click sorts the biggest first, one more the smallest, a third gives back the usual order. */
function header(column, sign, context) {
  if (!column.by) return h("div", { role: "columnheader", class: column.kind }, column.title);
  const next = sign === 0 ? `${column.title}:down` : sign < 0 ? `${column.title}:up` : null;
  const order = sign === 0 ? "none" : sign < 0 ? "descending" : "ascending";
  return h("div", { role: "columnheader", class: column.kind, "aria-sort": order },
    h("button", { type: "button", class: "sort", onclick: () => context.put({ sort: next }) },
      column.title, h("span", { "aria-hidden": "true" }, sign === 0 ? "" : sign < 0 ? " ↓" : " ↑")));
}
