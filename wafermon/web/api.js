// Talking to the sidecar: one question every two seconds for the view that is open, one stream for
// the status line. Neither goes on while nobody sees the page.

const EVERY_MS = 2000;
const RETRY_MS = 15_000;
const TIMEOUT_MS = 20_000;

// Ask for JSON. Throws an Error with words and the status; of a 404 its words too.
export async function ask(path, signal) {
	const answer = await fetch(path, { signal, headers: { Accept: "application/json" } });
	const said = await answer.text();
	let value = null;
	try {
		value = JSON.parse(said);
	} catch {
		// An answer in words: shown below, or unfit for use.
	}
	if (answer.ok && value !== null) return value;
	const words = value?.error || said.split("\n")[0].slice(0, 200) || "no JSON";
	throw Object.assign(new Error(words), { status: answer.status });
}

// Ask a path, or several whose answers make one, again and again; slower where answers take long, so that a big one never fills the time.
export class Poll {
	constructor(path, onAnswer, onError) {
		Object.assign(this, { path, onAnswer, onError, stopped: false });
		this.wake = () => document.hidden || this.run();
		document.addEventListener("visibilitychange", this.wake);
		this.run();
	}

	async run() {
		clearTimeout(this.timer);
		if (this.stopped || this.asking) return;
		this.asking = new AbortController();
		const began = performance.now();
		const limit = setTimeout(() => this.asking?.abort(), TIMEOUT_MS);
		try {
			const { signal } = this.asking;
			const answers = await Promise.all([this.path].flat().map((path) => ask(path, signal)));
			if (!this.stopped) this.onAnswer(Object.assign({}, ...answers));
		} catch (error) {
			if (!this.stopped) this.onError(error);
		}
		clearTimeout(limit);
		this.asking = null;
		const pause = Math.max(EVERY_MS, 5 * (performance.now() - began));
		if (!this.stopped && !document.hidden) this.timer = setTimeout(() => this.run(), pause);
	}

	stop() {
		this.stopped = true;
		this.asking?.abort();
		clearTimeout(this.timer);
		document.removeEventListener("visibilitychange", this.wake);
	}
}

// The summary once a second, by server-sent events; by polling where there are too many streams.
export class Live {
	// `onSummary` is told how it came, too: live or polling.
	constructor(onSummary, onLost) {
		Object.assign(this, { onSummary, onLost });
		document.addEventListener("visibilitychange", () => (document.hidden ? this.rest() : this.open()));
		window.addEventListener("pagehide", () => this.rest());
		window.addEventListener("pageshow", () => this.open());
		this.open();
	}

	open() {
		if (this.source || document.hidden) return;
		this.source = new EventSource("api/live");
		this.source.addEventListener("summary", (event) => {
			this.endPolling();
			this.onSummary(JSON.parse(event.data), "live");
		});
		this.source.onerror = () => {
			if (this.source?.readyState === EventSource.CLOSED) this.retry();
			else this.onLost();
		};
	}

	retry() {
		this.source = null;
		this.timer = setTimeout(() => this.open(), RETRY_MS);
		this.poll ??= new Poll("api/summary", (summary) => this.onSummary(summary, "polling"),
			() => this.onLost());
	}

	endPolling() {
		this.poll?.stop();
		this.poll = null;
	}

	rest() {
		clearTimeout(this.timer);
		this.source?.close();
		this.source = null;
		this.endPolling();
	}
}

// Read JSON lines as they come, in groups, until `signal` aborts.
export async function stream(path, onLines, signal) {
	const answer = await fetch(path, { signal });
	if (!answer.ok) throw new Error((await answer.text()).split("\n")[0].slice(0, 200));
	const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
	let rest = "";
	for (;;) {
		const { done, value } = await reader.read();
		if (done) return;
		const lines = (rest + value).split("\n");
		rest = lines.pop();
		onLines(lines.filter(Boolean));
	}
}
