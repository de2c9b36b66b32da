// Small helpers: elements, numbers as text.

function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function drawing(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") for (const [type, handler] of Object.entries(value)) node.addEventListener(type, handler);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(Math.max(0, digits - 2)).replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}

function percent(share) {
  if (share === 0) return "0 %";
  if (share < 0.001) return share < 1e-6 ? "< 0.0001 %" : `${number(100 * share, 1)} %`;
  return `${share >= 0.1 ? (100 * share).toFixed(0) : (100 * share).toFixed(1)} %`;
}

function bytes(count) {
  if (count === null || count === undefined) return "–";
  if (count < 1000) return `${count} B`;
  const units = ["kB", "MB", "GB"];
  let value = count / 1000, unit = 0;
  while (value >= 1000 && unit < 2) { value /= 1000; unit += 1; }
  return `${number(value)} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1e-3) return `${number(seconds * 1e6, 2)} µs`;
  return seconds < 1 ? `${number(seconds * 1e3, 2)} ms` : `${number(seconds, 3)} s`;
}

function count(value, noun) {
  return `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`;
}

// One of the page's facts, such as its loss, or undefined.
function factOf(data, wanted) {
  return (data.facts.find(([name]) => name === wanted) || [])[1];
}

function shapeOf(tensor) {
  return tensor.shape.length ? tensor.shape.join(" × ") : "scalar";
}

function decode(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

// What a token looks like: blanks and line ends become visible, and many blanks become few.
function visible(text) {
  return text === "" ? "∅" : text.replace(/ {5,}/g, (run) => `␣×${run.length}`).replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥");
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
