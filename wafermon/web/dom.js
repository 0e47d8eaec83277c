// Views describe elements, and `render` changes only what differs, so that focus, selection and
// scroll positions stay while values tick. Text of messages reaches the page by text nodes and
// attributes alone: nothing in here turns a string into markup.

const SVG = "http://www.w3.org/2000/svg";
// Set as properties, as the attribute is only where they begin.
const PROPERTIES = new Set(["value", "checked", "indeterminate"]);

// Describe an element: `h("p.quiet", { title }, ...)`, with classes behind its tag; properties may
// be left out. Children are descriptions, text, numbers, or nested lists of these; null, undefined
// and false are left out. A `key` keeps an element through reordering.
export function h(name, ...rest) {
	const [tag, ...classes] = name.split(".");
	const props = isProps(rest[0]) ? { ...rest.shift() } : {};
	if (classes.length) props.class = [...classes, props.class].filter(Boolean).join(" ");
	return { tag, props, children: rest.flat(9).filter(isShown) };
}

function isProps(value) {
	return typeof value === "object" && value !== null && !Array.isArray(value) && !value.tag;
}

function isShown(child) {
	return child !== null && child !== undefined && child !== false;
}

// Make the children of an element what the descriptions say.
export function render(parent, ...children) {
	patch(parent, children.flat(9).filter(isShown));
}

function patch(parent, children) {
	const keyed = dropGone(parent, children);
	let next = parent.firstChild;
	for (const child of children) {
		const isText = typeof child !== "object";
		const node = (isText ? sameText(next) : sameElement(child, next, keyed)) || made(child, parent);
		if (node === next) next = next.nextSibling;
		else parent.insertBefore(node, next);
		if (!isText) update(node, child);
		else if (node.data !== plain(child)) node.data = plain(child);
	}
	while (next) {
		const gone = next;
		next = next.nextSibling;
		gone.remove();
	}
}

// What would turn around or hide the text beside it is shown by its number.
function plain(text) {
	return String(text).replace(/[\u0000-\u0008\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g,
		(char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// Remove keyed elements first that are no more, or all behind them would be moved.
function dropGone(parent, children) {
	const wanted = new Set();
	for (const child of children) if (child.props?.key !== undefined) wanted.add(child.props.key);
	const keyed = new Map();
	for (const node of [...parent.childNodes]) {
		if (node.key === undefined) continue;
		if (wanted.has(node.key)) keyed.set(node.key, node);
		else node.remove();
	}
	return keyed;
}

function sameText(node) {
	return node && node.nodeType === Node.TEXT_NODE ? node : null;
}

function sameElement(child, next, keyed) {
	const { key } = child.props;
	const node = key === undefined ? next : keyed.get(key);
	const fits = node && node.nodeType === Node.ELEMENT_NODE && node.localName === child.tag;
	keyed.delete(key); // a key that stands twice is another element
	return fits && node.key === key ? node : null;
}

function made(child, parent) {
	if (typeof child !== "object") return document.createTextNode(plain(child));
	const space = child.tag === "svg" ? SVG : parent.namespaceURI;
	const node = document.createElementNS(space, child.tag);
	node.key = child.props.key;
	return node;
}

function update(node, { props, children }) {
	const before = node.props || {};
	for (const name in before) if (!(name in props)) set(node, name, null);
	patch(node, children); // before the value of a <select>, which has to have its options
	for (const name in props) {
		if (before[name] !== props[name] || PROPERTIES.has(name)) set(node, name, props[name]);
	}
	node.props = props;
}

function set(node, name, value) {
	if (name === "key") return;
	if (name.startsWith("on")) {
		node[name] = typeof value === "function" ? value : null;
	} else if (name === "style") {
		for (const [property, text] of Object.entries(value || {})) {
			node.style.setProperty(property, text);
		}
	} else if (PROPERTIES.has(name)) {
		if (node[name] !== (value ?? "")) node[name] = value ?? "";
	} else if (value === null || value === undefined || value === false) {
		node.removeAttribute(name);
	} else {
		node.setAttribute(name, value === true ? "" : value);
	}
}
