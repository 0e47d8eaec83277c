// What an empty view says: the one line for a shell that would fill it.
import { h } from "./dom.js";
import { button, copy, empty } from "./ui.js";

const SAMPLES = {
	event: `"data":{"level":"info","msg":"it works"}`,
	progress: `"data":{"job_id":"first-job","percent":40,"msg":"half way"}`,
	metric: `"data":{"name":"wafers","value":25,"unit":"pieces"}`,
	resource: `"data":{"cpu":12.5,"mem":104857600}`,
	span: `"tid":"first-trace","sid":"1","data":{"name":"load","duration_ms":120}`,
};

// A command that sends one message of a type to this very sidecar.
export function command(type, summary) {
	const address = summary?.listen?.tcp || "127.0.0.1:17000";
	const cut = address.lastIndexOf(":");
	const host = address.slice(0, cut).replace(/^(0\.0\.0\.0|\[::\])$/, "127.0.0.1").replace(/[[\]]/g, "");
	const line = `{"v":1,"src":"hello","ts":%s000,"type":"${type}",${SAMPLES[type]}}`;
	return `printf '${line}\\n' "$(date +%s)" | nc ${host} ${address.slice(cut + 1)}`;
}

// Nothing is here yet, what would be, and how to make it so.
export function teach(title, words, type, summary) {
	const line = command(type, summary);
	return empty(title, words, h("pre", h("code", line)), copy("Copy the command", line));
}

// In place of a list: what `teach` says, unless the filters are why nothing is there.
export function none(context, ...lesson) {
	if (!context.data) return null;
	const names = [...context.params.keys()].filter((name) => name !== "sort" && name !== "limit");
	return names.length ? unmatched("Nothing matches", context) : teach(...lesson, context.summary);
}

export function unmatched(title, context) {
	return empty(title, button("Clear the filters", () => context.clear()));
}
