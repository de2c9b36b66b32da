// Attention that explains itself: every head's map, and for the chosen position the row of products, scaled, masked, as shares, and the
// weighted values. Heads and parts of blocks can be switched off.
import { button, element, number, percent, token } from "./dom.js";
import { newestOnly } from "./engine.js";
import { heatMap, thumbnail } from "./heat.js";
import { help } from "./help.js";
import { howMade, showCell } from "./cell.js";
import { ask, choose, isOff, on, state, subject, tell, toggle } from "./store.js";

export function attentionView() {
  let layer = 0, head = 0;
  const grid = element("div", { class: "maps" }), large = element("div", { class: "large" }), row = element("div", { class: "row", id: "attention-row" });

  function paintMaps() {
    if (!state.forward || view.hidden) return;
    const { attention, tokens } = state.forward;
    layer = Math.min(layer, attention.length - 1);
    head = Math.min(head, attention[layer].length - 1);
    const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : null;
    grid.replaceChildren(...attention.map((heads, i) => element("div", { class: "layer" },
      element("div", { class: "layer-head" }, element("h3", {}, `Block ${i + 1}`), ...state.about.parts.map((part) => onOff(`${part === "mlp" ? "MLP" : part}`, "parts", i, part))),
      element("div", { class: "heads" }, heads.map((rows, j) => element("div", { class: isOff("heads", i, j) ? "head off" : "head" },
        element("button", { type: "button", class: "thumb", "data-key": `map-${i}-${j}`, "aria-pressed": String(i === layer && j === head), "aria-label": `Block ${i + 1}, head ${j + 1}`, on: { click: () => { layer = i; head = j; paintMaps(); } } }, thumbnail(rows, true)),
        onOff(`head ${j + 1}`, "heads", i, j)))))));
    if (focused) grid.querySelector(`[data-key="${focused}"]`)?.focus();
    const names = tokens.map((each) => each.text);
    large.replaceChildren(element("h2", {}, `Block ${layer + 1}, head ${head + 1}`, help("attention")), heatMap({
      rows: attention[layer][head], rowNames: names, columnNames: names, axes: ["position that looks", "position looked at"], label: "Attention", share: true, chosen: [state.position, state.position],
      howMade: (r, c) => howMade(`blocks.${layer}.attention`, r, c, head),
      onPoint: (r) => { if (r !== state.position) choose(r); },
      onChoose: (r, c) => { if (r !== state.position) choose(r); showCell(`blocks.${layer}.attention`, r, c, head); },
    }));
    explainRow();
    document.dispatchEvent(new CustomEvent("painted", { detail: "attention" }));
  }
  function onOff(label, kind, i, what) {
    const off = isOff(kind, i, what);
    return element("button", { type: "button", class: "switch", role: "switch", "data-key": `${kind}-${i}-${what}`, "aria-checked": String(!off), "aria-label": `Block ${i + 1}, ${label}`, on: { click: () => toggle(kind, [i, what]) } }, `${label} ${off ? "off" : "on"}`);
  }

  const explainRow = newestOnly(async () => {
    if (!state.forward || view.hidden) return;
    try {
      const shown = state.forward, found = await ask("attention", { ...subject(), layer, head, row: Math.min(state.position, shown.tokens.length - 1) });
      if (shown !== state.forward) return;
      const most = Math.max(...found.keys.map((each) => each.weight));
      const rows = found.keys.map((each, place) => element("tr", { class: each.masked ? "masked" : "" },
        element("th", { scope: "row" }, `${place} `, token(shown.tokens[place].text)),
        element("td", {}, number(each.product)), element("td", {}, each.masked ? "−∞" : number(each.scaled)),
        element("td", { class: "weight" }, element("span", { class: "fill", style: { width: `${(100 * each.weight) / most}%` } }), element("span", {}, percent(each.weight))),
        element("td", { class: "vector" }, vector(each.value)), element("td", { class: "vector" }, vector(each.weighted))));
      row.replaceChildren(
        element("h2", {}, "Position ", found.row, " ", token(shown.tokens[found.row].text), " looks back"),
        element("p", { class: "note" }, `Its query is multiplied with the key of every position (q · k), scaled by 1/√${found.query.length} = ${number(found.scale)}; what comes later is masked; softmax makes shares of the rest; the shares weigh the values, and their sum is what this head says.`, found.is_off ? " This head is switched off: its sum counts as zeros." : ""),
        element("p", { class: "numbers" }, element("b", {}, "query "), vector(found.query)),
        element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The row, step by step" }, element("table", { class: "steps" },
          element("thead", {}, element("tr", {}, ["position", "q · k", "scaled", "share", "value", "share · value"].map((name) => element("th", { scope: "col" }, name)))),
          element("tbody", {}, rows),
          element("tfoot", {}, element("tr", {}, element("th", { scope: "row", colspan: "5" }, "sum: what the head says"), element("td", { class: "vector" }, vector(found.output)))))),
        element("div", { class: "buttons" }, ["query", "key", "value"].map((name) => button(`All of ${name[0].toUpperCase()}`, () => matrixOf(name)))));
      row.append(expanded);
    } catch (problem) { tell("problem", problem.message); }
  });
  const expanded = element("div", { class: "expanded" });
  async function matrixOf(name) {
    const full = `blocks.${layer}.${name}`, shared = name === "query" ? head : Math.floor(head / (state.about.heads / state.about.key_value_heads));
    const found = await ask("view", { ...subject(), view: full, head: shared });
    expanded.replaceChildren(element("h3", {}, `${name}, block ${layer + 1}, head ${shared + 1}`), heatMap({ rows: found.matrices[0], rowNames: state.forward.tokens.map((each) => each.text), axes: ["position", "size of a head"], label: name, cell: 20, howMade: (r, c) => howMade(full, r, c, shared), onChoose: (r, c) => showCell(full, r, c, shared) }));
  }
  const view = element("div", { class: "attention" }, element("section", { "aria-label": "Blocks and heads" }, element("h2", {}, "Heads"), element("p", { class: "note" }, "A row for every token that looks, a column for every token looked at. Switch one off and see what the prediction loses."), grid), element("section", { "aria-label": "One head" }, large), row);
  on("forward", () => { expanded.replaceChildren(); paintMaps(); }); // what is expanded is of the text before
  on("position", () => { explainRow(); });
  on("about", () => { layer = head = 0; expanded.replaceChildren(); });
  view.shown = paintMaps;
  return view;
}

const vector = (values) => element("span", { class: "vector-values" }, values.map((value) => element("span", {}, number(value, 3))));
