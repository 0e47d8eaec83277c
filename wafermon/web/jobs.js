// How far each job is, when it will be done, and which one needs somebody.
import { ago, asked, badge, bar, beside, choice, clip, facts, field, h, isNumber, list, listed, num, number,
	panel, percent, quiet, seconds, sourceLink, text, time, to, toneOf, when } from "./kit.js";

export const title = "Jobs";
const STEP = 500;
const STATES = ["all", "died", "failed", "stalled", "running", "done"];

export const path = (context) => asked("api/jobs", context, ["state", "q", "src"], STEP);
const keyOf = (job) => `${job.src}\n${job.job_id}`;

export function draw(context) {
	return listed(context, { title, step: STEP, rows: list(context.data?.jobs),
		fields: [field(context, "q", "Name contains"), choice(context, "state", "State", STATES)],
		show: (rows) => beside(context, "jobs", rows, keyOf, columns(context), detail),
		lesson: ["No job yet", "A job is whatever sends messages of type progress with a job_id:", "progress"] });
}

// Open a job, or close it.
function choose({ memory, redraw }, job) {
	memory.chosen = memory.chosen === keyOf(job) ? null : keyOf(job);
	redraw();
}

function columns(context) {
	return [
		{ title: "State", kind: "state", cell: (job) => badge(job.state) },
		{ title: "Job", kind: "name", by: "job_id",
			cell: (job) => h("button.plain", { type: "button", title: job.job_id,
				"aria-expanded": String(context.memory.chosen === keyOf(job)), onclick: () => choose(context, job) },
			job.job_id) },
		{ title: "Progress", kind: "progress", by: "percent", cell: progress },
		{ title: "Left", kind: "num", by: "eta_s",
			cell: (job) => h("span", { title: job.eta_method || "" }, left(job)) },
		{ title: "Usually", kind: "num mid", by: "usual_s", cell: (job) => seconds(job.usual_s) },
		{ title: "Says", kind: "wide", cell: (job) => note(job) },
		{ title: "Source", kind: "mid", by: "src", cell: (job) => sourceLink(job.src) },
		{ title: "Updated", kind: "num seen", by: "updated_ms",
			cell: (job) => ago(job.updated_ms, context.data.now_ms) },
	];
}

export function progress(job) {
	return h("span.with-bar",
		bar(job.percent / 100, `progress of ${text(job.job_id)}`, toneOf(job.state)),
		num(percent(isNumber(job.percent) ? Math.floor(job.percent) : null)));
}

function left(job) {
	if (job.state === "stalled" && isNumber(job.stalled_for_s)) return `stuck ${seconds(job.stalled_for_s)}`;
	return job.state === "running" ? seconds(job.eta_s) : "–";
}

function note(job) {
	const words = job.reason ?? job.msg;
	return h("span", { class: job.reason ? "bad-text" : "", title: text(words) }, text(words));
}

// One line of the overview.
export function jobRow(job) {
	return [badge(job.state), clip(job.job_id), progress(job), num(left(job))];
}

function detail(context, job) {
	const { now_ms: now } = context.data;
	return panel(text(job.job_id), () => choose(context, job),
		h("p", badge(job.state), job.reason && ` ${text(job.reason)}`),
		facts([
			["Source", sourceLink(job.src)], ["Says", job.msg], ["Started", when(job.started_ms, now)],
			["Updated", ago(job.updated_ms, now)],
			job.ended_ms && ["Ended", when(job.ended_ms, now)],
			isNumber(job.percent_per_s) && ["Speed", `${number(job.percent_per_s * 60)} % a minute`],
			isNumber(job.eta_s) && ["Done", `in ${seconds(job.eta_s)}, at ${time(job.eta_ms, now)}`],
			["Reckoned by", job.eta_method], ["Usually takes", isNumber(job.usual_s) ? seconds(job.usual_s) : null],
			["Runs", job.runs],
			job.tid && ["Trace", h("a", { href: to("trace", job.tid), class: "wrap" }, job.tid)],
		]),
		h("h3", "Earlier runs"), history(list(job.history), now));
}

function history(runs, now) {
	if (!runs.length) return quiet("None yet.");
	const longest = Math.max(...runs.map((run) => run.duration_s || 0), 1e-9);
	return h("ul.lines.run-lines", runs.map((run) => h("li",
		when(run.started_ms, now), badge(run.state),
		bar(run.duration_s / longest, "duration compared", toneOf(run.state)),
		num(seconds(run.duration_s)))));
}
