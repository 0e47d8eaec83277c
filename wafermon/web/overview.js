// The first view: is all well, and if not, what is wrong.
import { badge, bar, bytes, card, clip, count, facts, h, list, num, percent, quiet, rate, since, teach, text, tile,
	to, toneOf } from "./kit.js";
import { fill, trouble } from "./backends.js";
import { jobRow } from "./jobs.js";
import { inWords, troubles } from "./trouble.js";

export const title = "Overview";
// The most urgent ones come first.
export const path = () => ["api/jobs?limit=6", "api/sources?limit=6"];

export function draw({ summary, data }) {
	if (!summary) return h("h1", "Overview");
	const { messages = {}, sources = {}, jobs = {}, alerts = {} } = summary;
	const tone = (view) => toneOf(troubles(summary).find((one) => one[3] === view)?.[0]);
	return [
		h("h1", "Overview"),
		h("div.tiles",
			tile("Messages", rate(messages.per_s), `${count(messages.received_total)} received`, to("tail")),
			tile("Sources live", count(sources.live),
				`${count(sources.late)} late, ${count(sources.missing)} missing`, to("sources"), tone("sources")),
			tile("Jobs running", count(jobs.running),
				`${count(jobs.stalled)} stalled, ${count(jobs.died + jobs.failed)} died or failed`, to("jobs"), tone("jobs")),
			tile("Alerts firing", count(alerts.firing), alerts.firing ? "see which" : "none stands",
				to("alerts"), tone("alerts")),
			tile("Not delivered", count(messages.dropped_total),
				`${count(messages.rejected_total)} rejected frames`, to("drops"),
				messages.dropped_total ? "warn" : "")),
		messages.received_total === 0
			? teach("Waiting for the first message",
				"Any program that writes a line of JSON to a socket is a client. From a shell:",
				"event", summary)
			: attention(summary, data),
		h("div.columns", backendList(summary), jobList(data), sidecar(summary)),
	];
}

// Each by its name, the worst first; where there are too many to name, how many more.
function attention(summary, data) {
	const found = troubles(summary);
	const named = {
		alert: list(summary.alerts?.names).map((name) => ["firing", `alert ${text(name)}`, to("alerts")]),
		backend: list(summary.backends).filter(trouble)
			.map((one) => [one.state, `backend ${one.name}: ${trouble(one)}`, to("backends")]),
		source: list(data?.sources).map((one) => [one.state, `source ${one.src}: ${one.state} for ${
			since(one.since_ms, data.now_ms)}`, to("sources", one.src)]),
		job: list(data?.jobs).map((one) => [one.state, `job ${text(one.job_id)} of ${one.src}: ${
			text(one.reason ?? one.msg ?? one.state)}`, to("jobs", "", { q: one.job_id })]),
	};
	const lines = list(summary.reasons).filter((words) => !text(words).startsWith("backend "))
		.map((words) => [summary.status, text(words), to("backends")]);
	for (const [state, number, what, view] of found) {
		const those = named[what].filter((line) => line[0] === state);
		const more = number - those.length;
		lines.push(...those);
		if (more > 0) lines.push([state, `${those.length ? "and " : ""}${inWords([those.length ? "more" : state, more, what])}`,
			to(view, "", { state })]);
	}
	return h("section.card.attention", h("h2", "Needs attention"), lines.length
		? h("ul.lines", lines.map(([state, words, link]) =>
			h("li", badge(state, toneOf(state)), h("a.wrap", { href: link }, words))))
		: quiet("Nothing: every source, job and backend is as it should be."));
}

function backendList(summary) {
	const row = (one) => h("li", { key: one.name }, badge(one.state),
		clip(one.name), bar(fill(one), `queue of ${one.name}`, fill(one) > 0.8 ? "warn" : "calm"),
		num(rate(one.per_s)));
	return card("Backends", to("backends"), h("ul.lines", list(summary.backends).map(row)));
}

function jobList(data) {
	const jobs = list(data?.jobs);
	return card("Jobs", to("jobs"), jobs.length
		? h("ul.lines.job-lines", jobs.map((job) => h("li", jobRow(job))))
		: quiet("No job has told of its progress."));
}

function sidecar({ journal, config, listen, version, memory_bytes: memory, cpu_percent: cpu }) {
	const told = (word, fault) => word && (fault ? h("b.bad-text", `${text(word)}: ${text(fault)}`) : text(word));
	return card("Sidecar", null, facts([
		["Version", version], ["Memory, CPU", `${bytes(memory)}, ${percent(cpu)}`],
		["Journal", told(journal?.status, journal?.error)],
		["Receipts mean", journal?.receipts === "disk" ? "synced to disk" : journal?.receipts],
		["Journal holds", journal?.bytes === undefined ? null : bytes(journal.bytes)],
		["Configuration", told(config?.config, config?.config_fault)],
		["TCP", listen?.tcp], ["Unix socket", listen?.unix],
	]));
}
