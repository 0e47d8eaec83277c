// The page: its address says which view is open; whatever changes is drawn in the next frame.
import { Live, Poll } from "./api.js";
import { h, render } from "./dom.js";
import { time } from "./format.js";
import { nav, statusLine, statusWords } from "./status.js";
import * as alerts from "./alerts.js";
import * as backends from "./backends.js";
import * as drops from "./drops.js";
import * as key from "./key.js";
import * as jobs from "./jobs.js";
import * as metrics from "./metrics.js";
import * as overview from "./overview.js";
import * as resources from "./resources.js";
import * as services from "./services.js";
import * as sources from "./sources.js";
import * as tail from "./tail.js";
import * as trace from "./trace.js";
import * as traces from "./traces.js";

// Each has a `title`, and `draw(context)`; most have `path(context)`, what to ask the sidecar for;
// some `start(context)`, which may give a function that ends it.
const VIEWS = { "": overview, sources, jobs, traces, trace, services, tail, metrics, resources,
	backends, drops, alerts, key };
// Typing asks the sidecar once it pauses.
const TYPING_MS = 250;
const RATES = 60;

// What the page knows.
const page = { summary: null, link: "connecting", rates: [], said: "" };
// What the open view knows: `params` and `rest` of its address, the `data` of its last answer or
// the `error` instead, and a `memory` of its own.
let context = null;
let poll = null;
let end = null;
let drawing = false;

const part = (id) => document.getElementById(id);

function redraw() {
	if (drawing) return;
	drawing = true;
	requestAnimationFrame(() => {
		drawing = false;
		draw();
	});
}

function draw() {
	const faults = trouble();
	document.body.classList.toggle("stale", Boolean(faults));
	render(part("top"), statusLine(page));
	render(part("nav"), nav(VIEWS, context.name, page.summary));
	context.summary = page.summary;
	context.now = page.summary?.now_ms ?? context.data?.now_ms ?? Date.now();
	render(part("main"), h("div", { class: `view view-${context.name || "overview"}`, key: context.name },
		faults, context.view.draw(context)));
}

function trouble() {
	const { error, at = page.at } = context;
	if (error?.status === 404 || (!error && page.link !== "lost")) return null;
	const words = error?.status ? error.message : "the sidecar does not answer";
	return h("p.trouble", { role: "alert" }, `Not up to date${at ? ` since ${time(at)}` : ""}: ${words}`);
}

// Where the address leads: `#/trace/TID?x=1`.
function address() {
	const [path, query] = location.hash.slice(1).split("?");
	const [, name = "", ...rest] = path.split("/");
	let text = rest.join("/");
	try {
		text = decodeURIComponent(text);
	} catch {
		// Somebody wrote it so: it is taken as it stands.
	}
	return { name: Object.hasOwn(VIEWS, name) ? name : "", rest: text, params: new URLSearchParams(query) };
}

function open() {
	const { name, rest, params } = address();
	const isNew = !context || context.name !== name || context.rest !== rest;
	if (isNew) {
		end?.();
		const isFirst = !context;
		const view = VIEWS[name];
		context = { name, rest, params, view, memory: {}, data: null, error: null, redraw, put,
			clear: () => move(new URLSearchParams()) };
		document.title = `${rest ? `${rest.slice(0, 60)} · ` : ""}${view.title} · wafermon`;
		end = view.start?.(context);
		if (!isFirst) {
			part("main").focus({ preventScroll: true });
			window.scrollTo(0, 0);
		}
	}
	context.params = params;
	follow();
	context.view.changed?.(context);
	redraw();
	const current = () => part("nav").querySelector("[aria-current]");
	if (isNew) requestAnimationFrame(() => current()?.scrollIntoView({ block: "nearest" }));
}

// Ask for what the address wants, where that differs from what is asked already.
function follow() {
	const path = context.view.path?.(context) ?? null;
	if (String(poll?.path) === String(path) && poll?.context === context) return;
	poll?.stop();
	poll = null;
	if (path === null) return;
	const mine = context;
	poll = new Poll(path, (data) => {
		Object.assign(mine, { data, error: null, at: Date.now() });
		if (mine.view.isSettled?.(data)) poll.stop();
		redraw();
	}, (error) => {
		mine.error = error;
		if (error.status === 404) mine.data = null;
		redraw();
	});
	poll.context = mine;
}

// Change parameters of the address; null or "" takes one away.
function put(changes) {
	const params = new URLSearchParams(context.params);
	for (const [name, value] of Object.entries(changes)) {
		if (value === null || value === "") params.delete(name);
		else params.set(name, value);
	}
	move(params);
}

let typing = 0;
function move(params) {
	const rest = context.rest && `/${encodeURIComponent(context.rest)}`;
	const query = String(params);
	history.replaceState(null, "", `#/${context.name}${rest}${query && `?${query}`}`);
	context.params = params;
	redraw();
	clearTimeout(typing);
	typing = setTimeout(open, TYPING_MS);
}

function heard(summary, link) {
	Object.assign(page, { summary, link, at: Date.now() });
	page.rates = [...page.rates, summary?.messages?.per_s ?? 0].slice(-RATES);
	const said = statusWords(summary);
	if (said !== page.said) part("status").textContent = page.said = said;
	redraw();
}

part("skip").onclick = (event) => {
	event.preventDefault(); // the address belongs to the views
	part("main").focus();
};
window.addEventListener("hashchange", open);
window.addEventListener("scroll", redraw, { passive: true });
window.addEventListener("resize", redraw);
open();
new Live(heard, () => {
	page.link = "lost";
	redraw();
});
