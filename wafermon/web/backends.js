// Where messages go: whether it takes them, what waits, and in words what is wrong.
import { badge, bar, bytes, count, facts, h, isNumber, list, num, quiet, rate, seconds, since,
	text } from "./kit.js";

export const title = "Backends";
export const path = () => "api/backends";

// How full its queue is, by messages or bytes, from 0 to 1.
export function fill(one) {
	const share = (used, capacity) => (capacity > 0 ? used / capacity : 0);
	return Math.max(share(one.queued_messages, one.capacity_messages),
		share(one.queued_bytes, one.capacity_bytes)) || 0;
}

// What is wrong, in words; nothing where it is up.
export function trouble(one) {
	return one.state && one.state !== "up" ? text(one.reason ?? one.state) : "";
}

export function draw({ data, summary }) {
	const backends = list(data?.backends ?? summary?.backends);
	return [h("h1", "Backends"),
		h("div.cards", backends.map((one) => card(one, data?.now_ms ?? summary?.now_ms))),
		data && !backends.length && quiet("The configuration has no backends.")];
}

function card(one, now) {
	const full = fill(one);
	const dropped = Object.entries(one.dropped || {}).filter((pair) => pair[1]);
	return h("section.card", { key: one.name },
		h("h2", h("span.wrap", one.name), h("small", ` ${text(one.type)}`)),
		h("p.state-line", badge(one.state), " ", trouble(one) &&
			h("span.wrap", trouble(one), one.since_ms && `, for ${since(one.since_ms, now)}`)),
		h("p.with-bar",
			bar(full, `queue of ${one.name}`, full > 0.8 ? "bad" : full > 0.5 ? "warn" : "calm"),
			num(`${Math.round(full * 100)} % full`)),
		facts([
			["Rate", rate(one.per_s)],
			["Delivered", `${count(one.delivered)} of ${count(one.offered)}`],
			["Waiting", `${count(one.queued_messages)} of ${count(one.capacity_messages)}`],
			["In bytes", `${bytes(one.queued_bytes)} of ${bytes(one.capacity_bytes)}`],
			one.behind_messages > 0 && ["In the journal", count(one.behind_messages)],
			["Oldest", isNumber(one.oldest_s) ? seconds(one.oldest_s) : null],
			["Circuit", text(one.circuit).replace("_", " ")],
			["Failed writes", one.failed ? `${count(one.failed)}, ${count(one.retries)} tried again` : null],
			["Dead letters", one.dead_lettered ? count(one.dead_lettered) : null],
			dropped.length && ["Dropped", dropped.map(([reason, number]) => `${reason} ${count(number)}`).join(", ")],
		]));
}
