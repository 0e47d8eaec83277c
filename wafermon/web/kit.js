// All that views are made of.
export * from "./dom.js";
export * from "./format.js";
export * from "./ui.js";
export * from "./table.js";
export * from "./chart.js";
export * from "./teach.js";
