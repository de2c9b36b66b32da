// The graph of a forward pass: every value in the order in which it is made, with what it was made from, as small heat maps; one of them
// large, whose cells say how they were made.
import { element, fill, visible } from "./dom.js";
import { newestOnly } from "./engine.js";
import { heatMap, thumbnail } from "./heat.js";
import { help } from "./help.js";
import { howMade, showCell, viewName } from "./cell.js";
import { ask, on, state, subject, tell } from "./store.js";

export function valuesView() {
  let chosen = "stream", head = 0;
  const list = element("div", { class: "flow", id: "flow" }), large = element("div", { class: "large" });

  const refresh = newestOnly(async () => {
    if (!state.forward || view.hidden) return;
    paintFlow();
    await paintView();
    document.dispatchEvent(new CustomEvent("painted", { detail: "values" }));
  });

  function paintFlow() {
    const { views, streams } = state.forward, small = new Map(streams.map((each) => [each.name, each.values]));
    small.set("embedding", state.forward.embedding);
    if (!views.some((each) => each.name === chosen)) chosen = "stream";
    const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.view : null;
    const sections = new Map();
    for (const each of views) {
      if (!sections.has(each.section)) sections.set(each.section, []);
      sections.get(each.section).push(each);
    }
    list.replaceChildren(...[...sections].map(([section, members]) => element("div", { class: "flow-section" },
      element("h3", {}, section === "embedding" ? "Tokens become vectors" : section === "head" ? "What comes next" : `Block ${Number(section) + 1}`),
      element("div", { class: "flow-nodes" }, members.map((each) => element("button", {
        type: "button", class: small.has(each.name) ? "flow-node stream" : "flow-node", "data-view": each.name, "aria-pressed": String(each.name === chosen), on: { click: () => { chosen = each.name; head = 0; refresh(); } },
      }, element("span", { class: "flow-title" }, each.title), element("span", { class: "dim" }, each.shape.join(" × ")), small.has(each.name) ? thumbnail(small.get(each.name), false) : null,
        each.inputs.length ? element("span", { class: "from" }, `← ${each.inputs.map((name) => (name.split(".")[0] === "blocks" ? name.split(".")[2] : name)).join(", ")}`) : null))))));
    if (focused) list.querySelector(`[data-view="${focused}"]`)?.focus({ preventScroll: true });
  }

  async function paintView() {
    const about = state.forward.views.find((each) => each.name === chosen), shown = state.forward;
    try {
      const found = await ask("view", { ...subject(), view: chosen });
      if (shown !== state.forward) return;
      const count = found.matrices.length;
      head = Math.min(head, count - 1);
      const names = shown.tokens.map((each) => each.text), rows = found.matrices[head];
      const columns = about.axes.at(-1).startsWith("position") ? names : found.columns;
      const heads = count > 1 ? element("div", { class: "buttons", role: "group", "aria-label": "Head" }, found.matrices.map((_, i) => element("button", { type: "button", "aria-pressed": String(i === head), on: { click: () => { head = i; paintView(); } } }, `head ${i + 1}`))) : null;
      fill(large, element("p", { class: "eyebrow" }, viewName(chosen)), element("h2", {}, about.title, help(chosen.split(".").at(-1))), element("p", { class: "formula" }, about.formula),
        element("p", { class: "note" }, `batch 1 × ${about.axes.map((name, i) => `${name} ${about.shape[i]}`).join(" × ")}. Point at a cell for its value and what made it; click it, or press Enter, for all of that.`), heads,
        heatMap({ rows, rowNames: names, columnNames: columns, axes: about.axes.slice(-2), label: about.title, share: ["attention", "probabilities"].includes(chosen.split(".").at(-1)), howMade: (r, c) => howMade(chosen, r, c, head), onChoose: (r, c) => showCell(chosen, r, c, head) }),
        found.cut ? element("p", { class: "note" }, found.cut) : null);
    } catch (problem) { tell("problem", problem.message); }
  }
  const view = element("div", { class: "values" }, element("section", { "aria-label": "Every value, in order" }, element("h2", {}, "From the text to what comes next"), list), element("section", { "aria-label": "One value" }, large));
  on("forward", refresh);
  view.shown = refresh;
  view.choose = (name) => { chosen = name; head = 0; return refresh(); };
  return view;
}

// Where the text becomes tokens: merge after merge.
export function tokensView() {
  const chunks = element("div", { class: "merge-chunks" }), note = element("p", { class: "note" });
  const refresh = newestOnly(async () => {
    if (!state.forward || view.hidden) return;
    try {
      const found = await ask("merges", { text: state.text.slice(0, 300) });
      note.textContent = found.note;
      chunks.replaceChildren(...found.chunks.map((chunk) => {
        let pieces = [...chunk.pieces];
        const lines = [line(pieces, -1, "bytes")];
        for (const [place, , text] of chunk.steps) {
          pieces = [...pieces.slice(0, place), text, ...pieces.slice(place + 2)];
          lines.push(line(pieces, place, ""));
        }
        return element("div", { class: "merge-chunk" }, lines);
      }));
    } catch (problem) { tell("problem", problem.message); }
  });
  const line = (pieces, fresh) => element("div", { class: "merge-line" }, pieces.map((text, i) => element("bdi", { class: i === fresh ? "piece fresh" : "piece" }, visible(text))));
  const view = element("div", { class: "single" }, element("h2", {}, "How the text becomes tokens", help("tokenizer")), note, chunks);
  on("forward", refresh);
  view.shown = refresh;
  return view;
}
