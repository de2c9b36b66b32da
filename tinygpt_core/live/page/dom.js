// Elements and numbers. Whatever text comes from a model or a person becomes a text node, never markup.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) made.addEventListener(event, handler);
    else if (name === "style") for (const [key, entry] of Object.entries(value)) made.style.setProperty(key, entry);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  append(made, children);
  return made;
}

export function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(name, String(value));
  append(made, children);
  return made;
}

function append(parent, children) {
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false) parent.append(child instanceof Node ? child : document.createTextNode(String(child)));
}

// Puts children in the place of those that are there; what is null or false is left out.
export function fill(parent, ...children) {
  parent.replaceChildren();
  append(parent, children);
}

export const byId = (id) => document.getElementById(id);

// A number in at most `digits` significant digits, with a real minus sign.
export function number(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  let text = size >= 1e6 || size < 1e-4 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
  const raised = (sign, digits) => ` · 10${sign === "-" ? "⁻" : ""}${[...digits].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`;
  text = text.replace(/e([+-])(\d+)/, (_, sign, digits) => raised(sign, digits));
  return text.replace(/^-/, "−");
}

export function percent(share) {
  if (share === 0) return "0 %";
  const value = 100 * share;
  return `${value >= 99.95 || value >= 10 ? value.toFixed(1) : value >= 0.1 ? value.toFixed(2) : number(value, 2)} %`;
}

// A token as one sees it: blanks and line ends get a sign of their own.
export function visible(text) {
  return text === "" ? "∅" : text.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥");
}

// A token among other text, kept from changing the direction of what stands beside it.
export function token(text, attributes = {}) {
  return element("bdi", { class: "token", ...attributes }, visible(text));
}

// `ghost` marks a place on the track; `counted`, another share, has a mark and a column of its own.
export function bar(label, share, most, value, kind = "", ghost = null, counted = null) {
  const fill = element("span", { class: "fill", style: { width: `${(100 * share) / Math.max(most, 1e-30)}%` } });
  const mark = (place, name) => (place === null ? null : element("span", { class: name, style: { left: `${Math.min(100, (100 * place) / Math.max(most, 1e-30))}%` } }));
  const track = element("span", { class: "track" }, fill, mark(counted, "ghost counted"), mark(ghost, "ghost"));
  return element("li", { class: `bar ${kind}` }, element("span", { class: "what" }, label), track, element("span", { class: "value" }, value), counted === null ? null : element("span", { class: "value counted" }, percent(counted)));
}

export function button(label, click, attributes = {}) {
  return element("button", { type: "button", on: { click }, ...attributes }, label);
}

export const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
