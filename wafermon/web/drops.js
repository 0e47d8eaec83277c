// What is lost, and why.
import { h } from "./dom.js";
import { count, list, text } from "./format.js";
import { bar, quiet, to } from "./ui.js";

export const title = "Drops";

export function draw({ summary }) {
  const drops = [...list(summary?.drops)].sort((a, b) => b.count - a.count);
  const most = drops.length ? drops[0].count : 1;
  return [h("h1", {}, "Drops"),
    quiet("Since the sidecar was started. Every message is delivered, waiting, a dead letter, or here."),
    drops.length ? h("table", { class: "plain-table" },
      h("thead", {}, h("tr", {}, ["Where", "Reason", "", "Messages"].map((name, i) =>
        h("th", { scope: "col", class: i === 3 ? "num" : "" }, name || h("span", { class: "unseen" }, "Share"))))),
      h("tbody", {}, drops.map((drop) => h("tr", { key: `${drop.where}\n${drop.reason}` },
        h("td", { class: "wrap" }, text(drop.where)),
        h("td", {}, h("b", { class: "wrap" }, text(drop.reason)), h("small", { class: "block quiet" }, text(drop.about ?? ""))),
        h("td", { class: "bar-cell" }, bar(drop.count / most, `share of ${drop.reason}`, "warn")),
        h("td", { class: "num" }, count(drop.count))))))
      : summary && h("div", { class: "empty" }, h("h2", {}, "Nothing was lost"),
        h("p", {}, "What was refused, by backends or on the way in, can be read and sent again by ", h("code", {}, "wafermon dead-letters"), "."),
        h("p", {}, h("a", { href: to("backends") }, "See how full the queues are")))];
}
