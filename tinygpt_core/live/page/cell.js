// The drawer: how the number in a cell was made.
import { button, byId, element, fill, number, plural, token } from "./dom.js";
import { newestOnly } from "./engine.js";
import { ask, on, state, subject, tell } from "./store.js";

const SHOWN_PRODUCTS = 3; // in a line, and so many steps; of more the last one
let opener = null, cell = null; // the cell that the drawer shows, if it shows one

export function openDrawer(...content) {
  const drawer = byId("drawer");
  if (drawer.hidden) opener = document.activeElement;
  drawer.hidden = false;
  cell = null;
  const close = button("Close", closeDrawer, { class: "close" }), within = drawer.contains(document.activeElement);
  fill(drawer, close, ...content);
  if (within) close.focus(); // what had the keyboard is gone
}

export function closeDrawer() {
  if (opener && opener.isConnected) opener.focus();
  hide();
}

function hide() {
  byId("drawer").hidden = true;
  opener = cell = null;
}

export const showCell = newestOnly(async (view, row, column, head = 0) => {
  try {
    const found = await ask("cell", { ...subject(), view, row, column, head });
    const place = [found.head === null ? null : `head ${found.head + 1}`, `${found.axes.at(-2)} ${row}`, `${found.axes.at(-1)} ${column}`].filter(Boolean).join(", ");
    const at = state.forward.tokens[row];
    openDrawer(
      element("p", { class: "eyebrow" }, viewName(view)),
      element("h2", {}, found.title), element("p", { class: "dim" }, place, at ? [" (", token(at.text), ")"] : ""),
      element("p", { class: "value" }, number(found.value, 7)),
      element("p", { class: "formula" }, found.formula),
      found.note ? element("p", {}, found.note) : null,
      found.steps.length ? element("table", { class: "steps" }, element("tbody", {}, found.steps.map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, number(value, 6)))))) : null,
      found.terms.length ? products(found) : null,
      element("p", { class: "note" }, "Computed again in double precision: ", element("b", {}, number(found.computed, 7)), "."));
    cell = [view, row, column, head];
  } catch (problem) { tell("problem", problem.message); }
});

// How a cell was made, in a line: the formula and the largest products, or the numbers that went into it. Null where that cannot be said now.
export async function howMade(view, row, column, head = 0) {
  try {
    const found = await ask("cell", { ...subject(), view, row, column, head });
    if (found.terms.length) return `${found.formula} = ${sumOf(found)}`;
    return found.steps.length ? `${found.formula}: ${stepsOf(found.steps)}` : found.note || found.formula;
  } catch { return null; } // the text has changed meanwhile
}

function sumOf(found) {
  const shown = found.terms.slice(0, SHOWN_PRODUCTS), more = found.terms.length + found.other_terms - shown.length;
  const products = shown.map(([, x, , y]) => `${number(x, 3)} · ${number(y, 3)}`).join(" + ");
  return `${products}${more ? ` + ${plural(more, "smaller product")}` : ""}${found.steps.length ? `; ${stepsOf(found.steps.length > SHOWN_PRODUCTS ? found.steps.slice(-1) : found.steps)}` : ""}`;
}

const stepsOf = (steps) => steps.map(([name, value]) => `${name} ${number(value, 3)}`).join(", ");

// What the drawer shows is of the text and the run that are open.
on("forward", () => {
  if (!cell) return;
  if (cell[1] < state.forward.tokens.length) showCell(...cell);
  else hide();
});
on("about", () => { if (cell) hide(); });

function products(found) {
  const most = Math.max(...found.terms.map((term) => Math.abs(term[4])), 1e-30);
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The products" }, element("table", { class: "steps" },
    element("caption", {}, `A sum of ${plural(found.terms.length + found.other_terms, "product")}, the largest first`),
    element("tbody", {}, found.terms.map(([a, x, b, y, value]) => element("tr", {},
      element("th", { scope: "row" }, `${a} · ${b}`), element("td", {}, `${number(x)} · ${number(y)}`),
      element("td", { class: value < 0 ? "weight negative" : "weight" }, element("span", { class: "fill", style: { width: `${(100 * Math.abs(value)) / most}%` } }), element("span", {}, number(value))))),
    found.other_terms ? element("tr", {}, element("th", { scope: "row", colspan: "2" }, `the other ${found.other_terms}`), element("td", {}, number(found.other_sum))) : null)));
}

// "blocks.0.query" as one reads it.
export function viewName(name) {
  const pieces = name.split(".");
  return pieces[0] === "blocks" ? `Block ${Number(pieces[1]) + 1} · ${pieces[2]}` : name;
}
