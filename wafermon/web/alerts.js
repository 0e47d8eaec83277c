// What the rules of the configuration say.
import { h } from "./dom.js";
import { ago, count, list, number, since, text, time } from "./format.js";
import { badge, quiet } from "./ui.js";

export const title = "Alerts";
export const path = () => "api/alerts";

export function draw({ data }) {
  const alerts = list(data?.alerts);
  return [h("h1", {}, "Alerts"),
    alerts.length ? h("div", { class: "cards" }, alerts.map((alert) => card(alert, data.now_ms)))
      : data && none(),
    list(data?.recent).length > 0 && [h("h2", {}, "What happened"), happened(data.recent, data.now_ms)]];
}

function card(alert, now) {
  return h("section", { class: `card ${alert.state === "firing" ? "alarm" : ""}`, key: `${alert.name} ${alert.subject || ""}` },
    h("h2", {}, h("span", { class: "wrap" }, alert.name), h("small", {}, ` ${alert.kind} ${alert.subject ?? ""}`)),
    h("p", {}, badge(alert.state), ` for ${since(alert.since_ms, now)}`),
    alert.message && h("p", { class: "wrap" }, text(alert.message)),
    quiet(alert.fired ? `fired ${count(alert.fired)} times, last ${ago(alert.last_fired_ms, now)}`
      : "has never fired", typeof alert.value === "number" && `; value ${number(alert.value)}`));
}

function happened(recent, now) {
  return h("ul", { class: "lines recent" }, recent.map((one) => h("li", {},
    h("time", { class: "num" }, time(one.at_ms, now)), badge(one.state),
    h("b", { class: "clip", title: one.name }, one.name), h("span", { class: "wrap" }, text(one.message)))));
}

const EXAMPLE = `alerts:
  config-service-is-silent:
    source: config-service
    every: 30s
  nightly-load-is-late:
    job: nightly-load
    by: "06:00"`;

function none() {
  return h("div", { class: "empty" }, h("h2", {}, "No alerts are configured"),
    h("p", {}, "The sidecar can watch sources, jobs, events, metrics, backends and drops:"),
    h("pre", {}, h("code", {}, EXAMPLE)));
}
