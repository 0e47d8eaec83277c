// How numbers, times and sizes are written. Whatever is unknown is a dash.

export const DASH = "–";
const WHOLE = new Intl.NumberFormat("en");
const FINE = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const BYTES = ["B", "KB", "MB", "GB", "TB", "PB"];

export function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** 1,234; 1.23M from a million on. */
export function count(value) {
  if (!isNumber(value)) return DASH;
  return Math.abs(value) < 1e6 ? WHOLE.format(Math.round(value)) : COMPACT.format(value);
}

/** Three digits that matter, whatever the size. */
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
  let unit = 0;
  let size = value;
  while (Math.abs(size) >= 1000 && unit < BYTES.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${FINE.format(size)} ${BYTES[unit]}`;
}

/** A span of time: 85 µs, 12.3 ms, 4.2 s, 3 min 5 s, 2 h 10 min, 3 d 4 h. */
export function duration(ms) {
  if (!isNumber(ms)) return DASH;
  if (ms < 0) return `−${duration(-ms)}`;
  if (ms < 1) return ms ? `${FINE.format(ms * 1000)} µs` : "0 ms";
  if (ms < 1000) return `${FINE.format(ms)} ms`;
  if (ms < 60_000) return `${FINE.format(ms / 1000)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return pair(seconds, 60, "min", 1, "s");
  if (seconds < 86_400) return pair(seconds, 3600, "h", 60, "min");
  return pair(seconds, 86_400, "d", 3600, "h");
}

function pair(seconds, big, bigName, small, smallName) {
  const rest = Math.floor((seconds % big) / small);
  return `${WHOLE.format(Math.floor(seconds / big))} ${bigName}${rest ? ` ${rest} ${smallName}` : ""}`;
}

export function seconds(value) {
  return isNumber(value) ? duration(value * 1000) : DASH;
}

/** How long by the sidecar's clock, in whole seconds, so that it does not flicker. */
export function since(ms, now) {
  if (!isNumber(ms) || !isNumber(now)) return DASH;
  return duration(1000 * Math.max(0, Math.round((now - ms) / 1000))).replace(/^0 ms$/, "0 s");
}

export function ago(ms, now) {
  const passed = since(ms, now);
  return passed === "0 s" ? "now" : passed === DASH ? DASH : `${passed} ago`;
}

/** Local time of day; the date too unless it is today's by the sidecar's clock. */
export function time(ms, now = Date.now(), fraction = false) {
  const moment = new Date(ms);
  if (!isNumber(ms) || Number.isNaN(moment.getTime())) return DASH;
  const two = (value) => String(value).padStart(2, "0");
  const day = `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())} `;
  const clock = `${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}`;
  const rest = fraction ? `.${String(moment.getMilliseconds()).padStart(3, "0")}` : "";
  return (moment.toDateString() === new Date(now).toDateString() ? "" : day) + clock + rest;
}

/** One name, or many. */
export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** A value of a message as text, whatever it is. */
export function text(value) {
  if (typeof value === "string") return value;
  return value === undefined || value === null ? DASH : JSON.stringify(value);
}

/** A list out of an answer, whatever the answer is. */
export function list(value) {
  return Array.isArray(value) ? value : [];
}
