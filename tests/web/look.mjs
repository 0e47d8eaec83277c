// Look at the dashboard in a real browser, and print what was seen as JSON. It is started by
// test_dashboard.py, which gives the addresses and judges what is found.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { connect } from "node:net";
import { chromium } from "playwright-core";

const { servers, real, artefacts, hostile } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
/** The views, with what each shows once its data has come. */
const VIEWS = { "": ".tile", sources: ".row[aria-rowindex='2']", jobs: ".row[aria-rowindex='2']",
  traces: ".row[aria-rowindex='2']", "trace/abc": ".span", services: ".row[aria-rowindex='2']",
  "sources/equipment-00001.loader": ".bar-lines", "metrics/chamber_pressure": ".row[aria-rowindex='2']", key: ".signs",
  tail: ".row[aria-rowindex='2']", metrics: ".chart", resources: ".chart", backends: ".cards .card", drops: ".row[aria-rowindex='2']", alerts: ".cards .card" };
const seen = { errors: [], foreign: [], dialogs: 0, violations: [], overflow: [], views: {} };

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });

async function tab(server, { width = 1280, colorScheme = "light", allowed = () => false } = {}) {
  const page = await browser.newPage({ viewport: { width, height: 860 }, colorScheme });
  page.setDefaultTimeout(20_000);
  page.on("console", (message) => message.type() === "error" && !allowed(message.text()) && seen.errors.push(message.text()));
  page.on("pageerror", (error) => seen.errors.push(String(error.stack)));
  page.on("dialog", (dialog) => { seen.dialogs += 1; return dialog.dismiss(); });
  page.on("request", (request) => request.url().startsWith(`http://${server}/`) || request.url().startsWith("data:")
    || seen.foreign.push(request.url()));
  page.go = async (view, shows = VIEWS[view]) => {
    await page.goto(`http://${server}/#/${view}`);
    if (shows) await page.locator(shows).first().waitFor();
  };
  return page;
}

/** All views: no violations, no scrolling sideways, a picture of each. */
async function everyView(server, width, colorScheme, axed) {
  const page = await tab(server, { width, colorScheme });
  for (const view of Object.keys(VIEWS)) {
    await page.go(view);
    const name = `${view.replace(/\W/g, "_") || "overview"}-${width}-${colorScheme}`;
    await page.screenshot({ path: `${artefacts}/${name}.png` });
    const wide = await page.evaluate(() => document.scrollingElement.scrollWidth - window.innerWidth);
    if (wide > 0) seen.overflow.push([name, wide]);
    if (axed.includes(view)) await axe(page, name);
  }
  await page.close();
}

async function axe(page, name) {
  await page.evaluate(AXE);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  for (const { id, nodes } of found.violations) {
    seen.violations.push(`${name}: ${id}: ${nodes.map((node) => node.html.slice(0, 120)).slice(0, 3).join(" | ")}`);
  }
}

/** Markup in every name stays text. */
async function hostileNames() {
  const page = await tab(servers.hostile);
  for (const view of Object.keys(VIEWS)) {
    await page.goto("about:blank"); // or what is waited for may be of the view before
    await page.go(view);
    if (view === "jobs") await page.locator(".row .plain").first().click();
    if (view === "tail") await page.locator(".row .plain").first().click();
    if (view === "trace/abc") await page.locator(".span").first().click();
    seen.views[`hostile ${view}`] = await page.evaluate((name) => ({
      shown: document.body.innerText.includes(name.slice(0, 28)),
      made: document.querySelectorAll("img, script:not([src]), iframe, [onerror]").length,
    }), hostile);
  }
  await page.close();
}

async function emptyViews() {
  const page = await tab(servers.empty);
  for (const view of Object.keys(VIEWS).filter((name) => !["trace/abc", "backends", "key", "sources/equipment-00001.loader", "metrics/chamber_pressure"].includes(name))) {
    await page.goto("about:blank");
    await page.go(view, ".empty");
    seen.views[`empty ${view}`] = await page.locator(".empty").first().innerText();
    await axe(page, `empty-${view}`);
  }
  await page.close();
}

/** What is in the document and how long the longest task took, at the top, half way and at the end. */
async function huge(view, shows) {
  const page = await tab(servers.huge);
  await page.addInitScript(() => {
    globalThis.longest = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) globalThis.longest = Math.max(globalThis.longest, entry.duration);
    }).observe({ type: "longtask", buffered: true });
  });
  await page.go(view, shows);
  const found = [];
  for (const share of [0, 0.5, 1]) {
    await page.evaluate((part) => window.scrollTo(0, part * document.scrollingElement.scrollHeight), share);
    await page.waitForFunction(() => {
      const rows = document.querySelectorAll("[aria-rowindex]");
      const places = [...rows].map((row) => row.getBoundingClientRect());
      return places.some((place) => place.bottom > window.innerHeight * 0.7);
    });
    found.push(await page.evaluate(() => ({ nodes: document.querySelectorAll("*").length,
      last: Math.max(...[...document.querySelectorAll("[aria-rowindex]")].map((row) => Number(row.getAttribute("aria-rowindex")))) })));
  }
  seen.views[`huge ${view}`] = { found, longest: await page.evaluate(() => globalThis.longest) };
  await page.close();
}

/** By keys alone: past the navigation, into a trace, down, fold, and the details. */
async function keyboard() {
  const page = await tab(servers.normal);
  await page.go("");
  const stops = [];
  for (let i = 0; i < 15; i += 1) {
    await page.keyboard.press("Tab");
    stops.push(await page.evaluate(() => [document.activeElement.innerText.split("\n")[0],
      getComputedStyle(document.activeElement).outlineStyle]));
  }
  await page.go("trace/abc");
  await page.locator(".spans").focus();
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowDown");
  const active = () => page.locator(".spans").getAttribute("aria-activedescendant");
  const rows = () => page.locator(".span").count();
  await page.waitForFunction(() => document.querySelector(".spans").getAttribute("aria-activedescendant") === "span-1");
  const details = await page.locator(".panel h2").innerText();
  await page.keyboard.press("ArrowUp");
  await page.waitForFunction(() => document.querySelector(".spans").getAttribute("aria-activedescendant") === "span-0");
  const before = await rows();
  await page.keyboard.press("ArrowLeft");
  await page.waitForFunction((count) => document.querySelectorAll(".span").length < count, before);
  seen.views.keyboard = { stops, details, before, folded: await rows(), active: await active() };
  await page.keyboard.press("Escape");
  await page.locator(".panel").waitFor({ state: "detached" });
  await page.close();
}

/** The link, the filter, the panel and the way back. */
async function addresses() {
  const page = await tab(servers.normal, { allowed: (text) => text.includes("404") });
  await page.go("sources");
  await page.getByLabel("Name contains").fill("00007");
  await page.waitForFunction(() => document.querySelectorAll(".rows .row").length === 1);
  const filtered = page.url().split("#")[1];
  await page.getByLabel("Name contains").fill("no such name");
  await page.getByText("Nothing matches").waitFor();
  await page.getByRole("button", { name: "Clear the filters" }).click();
  await page.waitForFunction(() => document.querySelectorAll(".rows .row").length > 5);
  const sorted = page.waitForResponse((answer) => answer.url().includes("sort=per_s%3Adown"));
  await page.getByRole("button", { name: "Rate" }).click();
  await sorted;
  await page.waitForFunction(() => document.querySelector("[aria-sort='descending']")
    && document.querySelector(".sources .row[aria-rowindex='2'] .name").innerText !== "equipment-00000.loader");
  const first = await page.locator(".sources .row[aria-rowindex='2'] .name").innerText();
  await page.getByRole("link", { name: first }).click();
  await page.getByText("Last errors").waitFor();
  const opened = page.url().split("#")[1];
  await page.go("sources/unknown", ".empty");
  const noSource = await page.locator(".empty").innerText();
  await page.go("trace/unknown", ".empty");
  const unknown = await page.locator(".empty").innerText();
  seen.views.addresses = { filtered, first, opened, noSource, unknown };
  await page.close();
}

/** Numbers tick and nothing moves; a page that nobody sees asks for nothing. */
async function calm() {
  const page = await tab(servers.normal);
  await page.go("sources");
  await page.evaluate(() => {
    globalThis.moved = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) globalThis.moved += entry.value;
    }).observe({ type: "layout-shift" });
  });
  const rate = () => page.locator(".per-s").innerText();
  for (let i = 0; i < 3; i += 1) {
    const before = await rate();
    await page.waitForFunction((text) => document.querySelector(".per-s").innerText !== text, before);
  }
  const moved = await page.evaluate(() => globalThis.moved);
  const ended = page.waitForEvent("requestfailed", (request) => request.url().endsWith("/api/live"));
  await page.evaluate(() => {
    Object.defineProperty(document, "hidden", { value: true });
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await ended;
  seen.views.calm = { moved, rests: true };
  await page.close();
}

/** No cell goes beyond its table, with and without a panel beside it. */
async function edges() {
  const found = [];
  for (const width of [1440, 1280, 1101, 900, 390]) {
    const page = await tab(servers.normal, { width });
    for (const view of ["sources", "jobs", "traces", "services", "drops", "metrics/chamber_pressure", "tail"]) {
      await page.go(view);
      if (view === "jobs") await page.locator(".row .plain").first().click();
      found.push(...await page.evaluate((name) => {
        const right = (node) => node.getBoundingClientRect().right;
        const beyond = (outer, inner) => [...document.querySelectorAll(outer)].flatMap((box) =>
          [...box.querySelectorAll(inner)].filter((node) => right(node) > right(box) + 0.5).map((node) => `${name}: ${node.innerText}`));
        return [...beyond(".table", "[role=cell], [role=columnheader]"), ...beyond(".run-lines", "li > *")];
      }, `${view} ${width}`));
    }
    await page.close();
  }
  seen.views.edges = found;
}

/** Words of senders and odd answers, in the views that show them. */
async function oddities() {
  const page = await tab(servers.odd);
  const texts = (what) => page.locator(what).allInnerTexts();
  const found = {};
  await page.go("tail");
  found.classes = await page.locator(".tail .level").evaluateAll((all) => all.map((one) => one.className));
  await page.go("metrics");
  found.axis = [await texts(".top-label"), await page.locator(".times").first().evaluate((times) => {
    // Around midnight the day stands before a time.
    const [left, , right] = [...times.children].map((one) => new Date(`2000-01-01T${one.innerText.match(/[0-9:]+$/)}`).getTime());
    return (right - left + 86_400_000) % 86_400_000;
  })];
  found.unit = await page.locator(".top-label").evaluateAll((all) => Math.max(...all.map((one) => one.getBoundingClientRect().width)));
  await page.go("trace/abc");
  found.state = await page.locator(".state-line").innerText();
  found.loose = await page.locator(".card", { hasText: "Messages of none" }).innerText();
  await page.locator(".span").first().click();
  await page.locator(".panel .events").waitFor();
  found.times = await texts(".panel .events .num");
  found.time = await page.evaluate(async () => {
    const { time } = await import("/web/format.js");
    const at = (...given) => new Date(...given).getTime();
    const now = at(2025, 10, 23, 9);
    return [time(at(2025, 10, 23, 8, 5, 1), now), time(at(2025, 10, 22, 23, 50), now), time(at(2024, 10, 22, 23, 50), now)];
  });
  seen.views.oddities = found;
  await page.close();
}

/** Without an answer the page says since when it is old, and is grey. */
async function lost() {
  const page = await tab(servers.odd, { allowed: (text) => text.includes("ERR_") });
  await page.go("sources");
  await page.route("**/api/**", (route) => route.abort());
  const words = await page.locator(".trouble").innerText();
  seen.views.lost = { words, opacity: await page.locator(".sources").evaluate((one) => getComputedStyle(one).opacity) };
  await page.close();
}

/** All about a source is reached at every width, the words of the status line as well. */
async function narrowSource() {
  const found = [];
  for (const width of [390, 768, 1100, 1280]) {
    const page = await tab(servers.normal, { width });
    await page.go("sources");
    await page.locator(".sources .rows a").nth(1).click();
    await page.locator(".bar-lines").first().waitFor();
    const main = await page.locator("main").innerText();
    found.push(["Messages by type", "event", "queue_full", "Last errors", "no such file", "Newest traces", "Resources"]
      .filter((words) => !main.includes(words)));
    found.push(await page.locator(".status").evaluate((one) => one.getBoundingClientRect().right <= window.innerWidth));
    await page.close();
  }
  seen.views.narrowSource = found;
}

/** What a real sidecar got from real scripts. */
async function realSidecar() {
  const page = await tab(real.admin);
  const text = async (view, shows) => {
    await page.go(view, shows);
    await page.locator(shows).first().waitFor();
    return page.locator("main").innerText();
  };
  const found = {
    overview: await text("", ".tile"), sources: await text("sources", ".rows .row"), jobs: await text("jobs", ".rows .row"),
    metrics: await text("metrics", ".chart"), resources: await text("resources", ".chart"),
    backends: await text("backends", ".cards .card"), drops: await text("drops", ".rows .row"), alerts: await text("alerts", ".cards .card"),
    services: await text("services", ".rows .row"), traces: await text("traces", ".rows .row"),
  };
  await page.go("");
  found.status = await page.locator(".status").innerText();
  found.source = await text("sources/perl-loader", ".bar-lines");
  found.metric = await text("metrics/load_time", ".rows .row");
  await page.go("traces", ".rows .row");
  await page.locator(".traces").getByRole("link", { name: real.span }).first().click();
  await page.locator(".span").first().waitFor();
  await page.locator(".span").first().click();
  found.trace = await page.locator("main").innerText();
  await page.screenshot({ path: `${artefacts}/real-trace.png` });
  await page.go("tail", "h1");
  const [host, port] = real.tcp;
  let number = 0;
  const send = () => connect(port, host).end(`${JSON.stringify({ v: 1, src: "late-comer", ts: Date.now(), type: "event",
    data: { level: "warn", msg: `${real.hostile} ${number += 1}` } })}\n`);
  send();
  const again = setInterval(send, 500); // the page may have begun to listen after the first one
  await page.locator(".tail .rows .row").first().waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  clearInterval(again);
  await page.getByText("paused").waitFor();
  found.tail = await page.locator("main").innerText();
  seen.views.real = found;
  seen.views.realMade = await page.evaluate(() => document.querySelectorAll("img, iframe").length);
  await page.close();
}

const ALL = Object.keys(VIEWS);
const STEPS = [
  () => everyView(servers.normal, 1280, "light", ALL), () => everyView(servers.normal, 1280, "dark", ALL),
  () => everyView(servers.normal, 390, "light", ["sources", "trace/abc", "tail"]), () => everyView(servers.normal, 2560, "light", []),
  hostileNames, emptyViews, () => huge("sources?limit=10000", ".row[aria-rowindex='2']"), () => huge("trace/abc", ".span"),
  keyboard, addresses, calm, edges, oddities, lost, narrowSource, realSidecar,
];
for (const step of STEPS) {
  await step();
}
await browser.close();
process.stdout.write(JSON.stringify(seen));
