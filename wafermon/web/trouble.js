// What needs somebody: in the line at the top, beside the names of the views, and first of all.
import { list, plural } from "./format.js";

// The worst first: [state, how many, of what, its view].
export function troubles(summary) {
	const { sources = {}, jobs = {}, alerts = {}, backends } = summary || {};
	const states = list(backends).map((one) => one.state).filter((state) => state && state !== "up");
	return [
		["firing", alerts.firing, "alert", "alerts"],
		...[...new Set(states)].map((state) =>
			[state, states.filter((one) => one === state).length, "backend", "backends"]),
		["missing", sources.missing, "source", "sources"],
		["died", jobs.died, "job", "jobs"], ["failed", jobs.failed, "job", "jobs"],
		["stalled", jobs.stalled, "job", "jobs"], ["late", sources.late, "source", "sources"],
	].filter((one) => one[1] > 0);
}

// 2 sources missing.
export const inWords = ([state, number, what]) => `${plural(number, what)} ${state}`;
