// How numbers, times and sizes are written. Whatever is unknown is a dash.

export const DASH = "–";
const WHOLE = new Intl.NumberFormat("en");
const FINE = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const MONTH = new Intl.DateTimeFormat("en", { month: "short" });
const STAMP = new Intl.DateTimeFormat("sv", { dateStyle: "short", timeStyle: "medium" });
const BYTES = ["B", "KB", "MB", "GB", "TB", "PB"];

export function isNumber(value) {
	return typeof value === "number" && Number.isFinite(value);
}

// 1,234; 1.23M from a million on.
export function count(value) {
	if (!isNumber(value)) return DASH;
	return Math.abs(value) < 1e6 ? WHOLE.format(Math.round(value)) : COMPACT.format(value);
}

// Three digits that matter, whatever the size.
export function number(value) {
	if (!isNumber(value)) return DASH;
	const size = Math.abs(value);
	if (size && (size < 1e-3 || size >= 1e15)) return value.toExponential(2);
	if (size >= 1e6) return COMPACT.format(value);
	return size >= 100 ? WHOLE.format(Math.round(value)) : FINE.format(value);
}

export function rate(value) {
	return isNumber(value) ? `${number(value)}/s` : DASH;
}

export function percent(value) {
	return isNumber(value) ? `${number(value)} %` : DASH;
}

export function bytes(value) {
	if (!isNumber(value)) return DASH;
	const power = value ? Math.floor(Math.log10(Math.abs(value)) / 3) : 0;
	const unit = Math.max(0, Math.min(BYTES.length - 1, power));
	return `${FINE.format(value / 1000 ** unit)} ${BYTES[unit]}`;
}

// A span of time: 85 µs, 12.3 ms, 4.2 s, 3 min 5 s, 2 h 10 min, 3 d 4 h.
export function duration(ms) {
	if (!isNumber(ms)) return DASH;
	if (ms < 0) return `−${duration(-ms)}`;
	if (ms < 1) return ms ? `${FINE.format(ms * 1000)} µs` : "0 ms";
	if (ms < 1000) return `${FINE.format(ms)} ms`;
	if (ms < 60_000) return `${FINE.format(ms / 1000)} s`;
	const whole = Math.round(ms / 1000);
	const [big, bigName, small, smallName] = whole < 3600 ? [60, "min", 1, "s"]
		: whole < 86_400 ? [3600, "h", 60, "min"] : [86_400, "d", 3600, "h"];
	const rest = Math.floor((whole % big) / small);
	return `${WHOLE.format(Math.floor(whole / big))} ${bigName}${rest ? ` ${rest} ${smallName}` : ""}`;
}

export function seconds(value) {
	return isNumber(value) ? duration(value * 1000) : DASH;
}

// How long by the sidecar's clock, in whole seconds, so that it does not flicker.
export function since(ms, now) {
	if (!isNumber(ms) || !isNumber(now)) return DASH;
	return duration(1000 * Math.max(0, Math.round((now - ms) / 1000))).replace(/^0 ms$/, "0 s");
}

export function ago(ms, now) {
	const passed = since(ms, now);
	return passed === "0 s" ? "now" : passed === DASH ? DASH : `${passed} ago`;
}

// Local date and time to the millisecond: 2025-11-22 23:50:10.123.
export function moment(ms) {
	const date = new Date(ms);
	if (!isNumber(ms) || Number.isNaN(date.getTime())) return DASH;
	return `${STAMP.format(date)}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

// The time of day; if not of today, 22 Nov 23:50, and the year if not this one.
export function time(ms, now = Date.now(), fraction = false) {
	const [day, clock] = moment(ms).split(" ");
	if (!clock) return day;
	const [date, today] = [new Date(ms), new Date(now)];
	if (date.toDateString() === today.toDateString()) return clock.slice(0, fraction ? 12 : 8);
	const year = date.getFullYear() === today.getFullYear() ? "" : ` ${date.getFullYear()}`;
	return `${date.getDate()} ${MONTH.format(date)}${year} ${clock.slice(0, 5)}`;
}

// One name, or many.
export function plural(value, one, many = `${one}s`) {
	return `${count(value)} ${value === 1 ? one : many}`;
}

// A value of a message as text, whatever it is.
export function text(value) {
	if (typeof value === "string") return value;
	return value === undefined || value === null ? DASH : JSON.stringify(value);
}

// A list out of an answer, whatever the answer is.
export function list(value) {
	return Array.isArray(value) ? value : [];
}
