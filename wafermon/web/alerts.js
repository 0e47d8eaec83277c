// What the rules of the configuration say.
import { ago, badge, clip, empty, h, list, number, plural, quiet, since, text, when } from "./kit.js";

export const title = "Alerts";
export const path = () => "api/alerts";

export function draw({ data }) {
	const alerts = list(data?.alerts);
	const recent = list(data?.recent);
	return [h("h1", title),
		alerts.length ? h("div.cards", alerts.map((alert) => card(alert, data.now_ms)))
			: data && empty("No alerts are configured", "The sidecar can watch sources, jobs, events, metrics, backends and drops:",
				h("pre", h("code", EXAMPLE))),
		recent.length > 0 && [h("h2", "What happened"), h("ul.lines.recent", recent.map((one) => h("li",
			when(one.at_ms, data.now_ms), badge(one.state), clip(one.name), h("span.wrap", text(one.message)))))]];
}

function card(alert, now) {
	return h("section.card", { class: alert.state === "firing" && "alarm", key: `${alert.name} ${alert.subject || ""}` },
		h("h2", h("span.wrap", alert.name), h("small", ` ${alert.kind} ${alert.subject ?? ""}`)),
		h("p", badge(alert.state), ` for ${since(alert.since_ms, now)}`),
		alert.message && h("p.wrap", text(alert.message)),
		quiet(alert.fired ? `fired ${plural(alert.fired, "time")}, last ${ago(alert.last_fired_ms, now)}`
			: "has never fired", typeof alert.value === "number" && `; value ${number(alert.value)}`));
}

const EXAMPLE = `alerts:
  config-service-is-silent:
    source: config-service
    every: 30s
  nightly-load-is-late:
    job: nightly-load
    by: "06:00"`;
