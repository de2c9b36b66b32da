// The next token: the distribution at the chosen position, and the sliders that reshape it.
import { bar, element, fill, number, percent, token } from "./dom.js";
import { newestOnly } from "./engine.js";
import { help } from "./help.js";
import { drawPicture } from "./reader.js";
import { ask, on, state, subject, tell } from "./store.js";

export function nextView() {
  const bars = element("ol", { class: "bars" }), summary = element("p", { class: "note" }), drawing = element("div"), title = element("h2", {});
  const temperature = slider("Temperature", "temperature", 0, 3, 0.05, 1, (value) => number(value, 3));
  const topK = slider("Top-k", "top_k", 1, 50, 1, null, (value) => (value === null ? "all" : value));
  const topP = slider("Top-p", "top_p", 0.05, 1, 0.01, null, (value) => (value === null ? "all" : percent(value)));

  function slider(label, name, low, high, step, initial, text) {
    const open = initial === null, input = element("input", { type: "range", id: name, min: low, max: open ? high + step : high, step, value: open ? high + step : initial });
    const output = element("output", { for: name }, text(initial));
    input.addEventListener("input", () => {
      let value = Number(input.value);
      if (open && value > high + step / 2) value = null;
      state.sampling[name] = value;
      output.textContent = text(value);
      input.setAttribute("aria-valuetext", String(text(value)));
      refresh();
    });
    return element("div", { class: "slider" }, element("label", { for: name }, label), help(name), input, output);
  }

  const refresh = newestOnly(async () => {
    if (!state.forward || view.hidden) return;
    try {
      const found = await ask("distribution", { ...subject(), ...state.sampling, position: state.position });
      const at = state.forward.tokens[state.position];
      if (!at) return;
      title.replaceChildren("What comes after ", token(at.text), element("span", { class: "dim" }, ` at position ${state.position}`));
      const most = Math.max(...found.tokens.map((each) => Math.max(each.share, each.probability, each.baseline || 0, each.counted || 0)));
      const came = state.forward.tokens[state.position + 1];
      const counts = found.trust !== null;
      bars.classList.toggle("with-counting", counts);
      fill(bars, counts ? element("li", { class: "bar names" }, element("span", { class: "what" }), element("span", {}), element("span", { class: "value" }, "model"), element("span", { class: "value counted" }, "counting")) : null, found.tokens.slice(0, 24).map((each) => {
        const changed = each.baseline === null ? "" : ` (was ${percent(each.baseline)})`;
        return bar([token(each.text)], each.share, most, `${percent(each.share)}${changed}`, (each.share ? "" : "out ") + (came && came.id === each.id ? "true" : ""), each.baseline === null ? each.probability : each.baseline, each.counted);
      }));
      let text = `${found.kept} of ${found.vocabulary} tokens may be drawn. Entropy ${number(found.entropy)} nats of at most ${number(Math.log(found.vocabulary))}. The line marks what the model says at temperature 1${state.heads.length || state.parts.length ? " with everything on" : ""}.`;
      if (found.divergence !== null) text += ` What is switched off changes the prediction by ${number(found.divergence)} nats (Kullback–Leibler).`;
      if (counts) text += ` The green line and the last column are what counting alone says; the network trusts it ${number(found.trust, 3)} times here.`;
      if (came) text += " In orange: the token that came.";
      fill(summary, text, " ", help("nats"), counts ? [" ", help("counting")] : null);
      drawing.replaceChildren(drawPicture());
      document.dispatchEvent(new CustomEvent("painted", { detail: "next" }));
    } catch (problem) { tell("problem", problem.message); }
  });
  const view = element("div", { class: "columns" },
    element("section", { "aria-label": "Distribution" }, title, bars, summary),
    element("section", { "aria-label": "Sampling", id: "sampling" }, element("h2", {}, "How it is drawn"), temperature, topK, topP, drawing));
  on("forward", refresh);
  on("position", refresh);
  view.shown = refresh;
  return view;
}
