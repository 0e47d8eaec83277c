// The line at the top, and the list of views with what needs attention in each.
import { sparkline } from "./chart.js";
import { h } from "./dom.js";
import { bytes, count, list, percent, rate, seconds } from "./format.js";
import { badge } from "./ui.js";

const VIEWS = [["", "Overview"], ["sources", "Sources"], ["jobs", "Jobs"], ["traces", "Traces"],
  ["services", "Services"], ["tail", "Live tail"], ["metrics", "Metrics"],
  ["resources", "Resources"], ["backends", "Backends"], ["drops", "Drops"], ["alerts", "Alerts"]];
const LINKS = { live: "updated each second", polling: "updated every 2 s", connecting: "connecting",
  lost: "no answer from the sidecar" };

export function statusLine({ summary, link, rates }) {
  const isLost = link === "lost";
  const parts = summary ? [
    item("status", badge(isLost ? "unknown" : summary.status, isLost ? "warn" : undefined)),
    item("messages", [sparkline(rates, "messages per second over the last minute"),
      h("b", { class: "per-s" }, rate(summary.messages?.per_s))]),
    item("up for", seconds(summary.uptime_s)),
    item("config", config(summary.config)),
    item("memory", bytes(summary.memory_bytes), "wide"),
    item("CPU", percent(summary.cpu_percent), "wide"),
    item("version", summary.version, "wide"),
  ] : [];
  return [
    h("a", { class: "mark", href: "#/" }, h("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" },
      h("circle", { cx: 8, cy: 8, r: 7 }),
      h("path", { d: "M1.5 8h13M8 1.5v13M3 4h10M3 12h10" })), "wafermon"),
    h("dl", { class: "facts-line" }, parts),
    h("span", { class: `link ${isLost ? "bad-text" : ""}` }, LINKS[link]),
  ];
}

function item(name, value, kind = "") {
  return h("div", { class: `item ${kind}` }, h("dt", {}, name), h("dd", {}, value));
}

function config(state) {
  const word = state?.config ?? "unknown";
  return word === "ok" ? badge("ok") : badge(word, "warn");
}

/** What a screen reader says when it changes. */
export function statusWords(summary) {
  const reasons = list(summary?.reasons).join("; ");
  return `status ${summary?.status ?? "unknown"}${reasons && `: ${reasons}`}`;
}

/** How many things need attention in each view, and what they are. */
function attention(summary) {
  const { sources = {}, jobs = {}, alerts = {} } = summary || {};
  const down = list(summary?.backends).filter((one) => one.state && one.state !== "up").length;
  return {
    sources: [(sources.missing || 0) + (sources.late || 0), "missing or late"],
    jobs: [(jobs.stalled || 0) + (jobs.died || 0) + (jobs.failed || 0), "stalled, died or failed"],
    backends: [down, "down or degraded"],
    alerts: [alerts.firing || 0, "firing"],
  };
}

export function nav(open, summary) {
  const needs = attention(summary);
  const current = open === "trace" ? "traces" : open;
  return h("ul", {}, VIEWS.map(([name, title]) => {
    const [number, words] = needs[name] || [0, ""];
    return h("li", { key: name },
      h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : null }, title,
        number > 0 && [h("span", { class: "pin", "aria-hidden": "true" }, count(number)),
          h("span", { class: "unseen" }, ` (${count(number)} ${words})`)]));
  }));
}
