// The first view: is all well, and if not, what is wrong.
import { h } from "./dom.js";
import { bytes, count, list, plural, rate, text } from "./format.js";
import { badge, bar, clip, num, quiet, tile, to } from "./ui.js";
import { fill, trouble } from "./backends.js";
import { jobRow } from "./jobs.js";
import { teach } from "./teach.js";

export const title = "Overview";
export const path = () => "api/jobs?limit=6";

export function draw({ summary, data }) {
  if (!summary) return h("h1", {}, "Overview");
  const { messages = {}, sources = {}, jobs = {}, alerts = {} } = summary;
  return [
    h("h1", {}, "Overview"),
    h("div", { class: "tiles" },
      tile("Messages", rate(messages.per_s), `${count(messages.received_total)} received`, to("tail")),
      tile("Sources live", count(sources.live),
        `${count(sources.late)} late, ${count(sources.missing)} missing`, to("sources"),
        sources.missing ? "bad" : sources.late ? "warn" : ""),
      tile("Jobs running", count(jobs.running),
        `${count(jobs.stalled)} stalled, ${count(jobs.died)} died`, to("jobs"),
        jobs.died || jobs.failed ? "bad" : jobs.stalled ? "warn" : ""),
      tile("Alerts firing", count(alerts.firing), alerts.firing ? "see which" : "none stands",
        to("alerts"), alerts.firing ? "bad" : ""),
      tile("Not delivered", count(messages.dropped_total),
        `${count(messages.rejected_total)} rejected frames`, to("drops"),
        messages.dropped_total ? "warn" : "")),
    messages.received_total === 0
      ? teach("Waiting for the first message",
        "Any program that writes a line of JSON to a socket is a client. From a shell:",
        "event", summary)
      : attention(summary),
    h("div", { class: "columns" }, backendList(summary), jobList(data), journalOf(summary)),
  ];
}

/** In words, the worst first. */
function attention(summary) {
  const { sources = {}, jobs = {} } = summary;
  const named = list(summary.alerts?.names);
  const lines = [
    ...named.map((name) => ["firing", `alert ${text(name)}`, to("alerts")]),
    ...list(summary.backends).filter(trouble)
      .map((one) => [one.state, `backend ${one.name}: ${trouble(one)}`, to("backends")]),
    ...list(summary.reasons).filter((words) => !text(words).startsWith("backend "))
      .map((words) => [summary.status, text(words), to("backends")]),
    [sources.missing, "missing", "source", "sources"], [jobs.died, "died", "job", "jobs"],
    [jobs.failed, "failed", "job", "jobs"], [jobs.stalled, "stalled", "job", "jobs"],
    [sources.late, "late", "source", "sources"],
  ].map((line) => typeof line[0] === "string" ? line
    : line[0] > 0 && [line[1], `${plural(line[0], line[2])}`, to(line[3], "", { state: line[1] })]);
  const shown = lines.filter(Boolean);
  return h("section", { class: "card attention" }, h("h2", {}, "Needs attention"),
    shown.length
      ? h("ul", {}, shown.map(([state, words, link]) =>
        h("li", {}, badge(state), h("a", { href: link, class: "wrap" }, words))))
      : quiet("Nothing: every source, job and backend is as it should be."));
}

function card(name, link, inside) {
  return h("section", { class: "card" },
    h("h2", {}, link ? h("a", { href: link }, name) : name), inside);
}

function backendList(summary) {
  const row = (one) => h("li", { key: one.name }, badge(one.state),
    clip(one.name), bar(fill(one), `queue of ${one.name}`, fill(one) > 0.8 ? "warn" : "calm"),
    num(rate(one.per_s)));
  return card("Backends", to("backends"),
    h("ul", { class: "lines" }, list(summary.backends).map(row)));
}

function jobList(data) {
  const jobs = list(data?.jobs);
  return card("Jobs", to("jobs"), jobs.length
    ? h("ul", { class: "lines job-lines" }, jobs.map((job) => h("li", {}, jobRow(job))))
    : quiet("No job has told of its progress."));
}

function journalOf({ journal, config, listen }) {
  const rows = [
    ["Journal", journal?.status, journal?.error],
    ["Receipts mean", journal?.receipts === "disk" ? "synced to disk" : journal?.receipts],
    ["Journal holds", journal?.bytes === undefined ? null : bytes(journal.bytes)],
    ["Configuration", config?.config, config?.config_fault],
    ["TCP", listen?.tcp], ["Unix socket", listen?.unix],
  ].filter((row) => row[1] !== undefined && row[1] !== null);
  return card("Sidecar", null, h("dl", { class: "facts" }, rows.map(([name, value, fault]) => [
    h("dt", {}, name), h("dd", { class: fault ? "bad-text" : "" }, text(value), fault && `: ${text(fault)}`)])));
}
