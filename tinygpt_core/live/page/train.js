// Training in this page: settings, start, pause, step; the loss, samples and weights as they change.
import { button, drawing, element, number, plural, visible } from "./dom.js";
import { heatMap } from "./heat.js";
import { help } from "./help.js";
import { ask, opened, refresh, tell } from "./store.js";
import { weightSection } from "./weight.js";

const SLICE = 150; // milliseconds of training between two looks at what else is asked

export function trainView() {
  let running = false, training = null, losses = [], lastSample = 0, lastPicture = 0, shows = false, busy = false, ended = null;
  const text = element("textarea", { id: "own-text", rows: "4", spellcheck: "false", dir: "auto" });
  const corpus = element("select", { id: "corpus" });
  const fields = element("div", { class: "fields" });
  const inputs = {};
  for (const [name, label, low, high, step, initial] of [["layers", "Blocks", 1, 6, 1, 1], ["heads", "Heads", 1, 8, 1, 2], ["width", "Width", 4, 128, 4, 16], ["context_length", "Context", 4, 64, 1, 32], ["batch_size", "Batch", 1, 32, 1, 8], ["learning_rate", "Learning rate", 0.0001, 0.2, "any", 0.015], ["steps", "Steps", 10, 20000, 10, 1100]]) {
    inputs[name] = element("input", { type: "number", id: `new-${name}`, min: low, max: high, step, value: initial });
    fields.append(element("label", { for: `new-${name}` }, label, " ", inputs[name]));
  }
  const byLine = element("input", { type: "checkbox", id: "by-line", checked: true });
  const begin = button("New model", () => make(false), { id: "train-new", class: "main" });
  const more = button("Go on with this run", () => make(true), { id: "train-continue" });
  const start = button("Start", toggle, { id: "train-start", class: "main" });
  const step = button("One step, recorded", single, { id: "train-step" });
  const look = button("Look into this model", lookInto, { id: "train-look" });
  const facts = element("p", { class: "numbers", id: "train-facts", "aria-live": "off" });
  const curve = element("div", { class: "curve" }), samples = element("div", { class: "samples" }), picture = element("div"), parameter = element("select", { id: "weights-of" });
  parameter.addEventListener("change", () => paintWeights());
  const weight = weightSection();
  const stage = element("div", { class: "training", hidden: true },
    element("div", { class: "player" }, start, step, look, help("learning_rate")), facts,
    element("div", { class: "columns" }, element("section", { "aria-label": "Loss" }, element("h2", {}, "Loss", help("nats")), curve, element("h2", {}, "What it writes"), samples),
      element("section", { "aria-label": "Weights" }, element("h2", {}, "Weights"), element("label", { for: "weights-of" }, "Parameter "), parameter, picture)),
    weight.view);
  const setup = element("section", { class: "setup", "aria-label": "A new training" }, element("h2", {}, "Train in this page"),
    element("p", { class: "note" }, "The very code that `tinygpt train` runs. Choose a text and sizes, or go on with the run that is open."),
    element("div", { class: "fields" }, element("label", { for: "corpus" }, "Text ", corpus)),
    element("label", { for: "own-text" }, "Own text"), text,
    element("div", { class: "fields" }, element("label", { for: "by-line" }, byLine, " each line is a text by itself")), fields, element("div", { class: "buttons" }, begin, more));
  const view = element("div", { class: "single" }, setup, stage);
  text.addEventListener("input", () => { corpus.value = "own"; });

  async function make(continues) {
    running = false;
    const params = { show: false, continue_run: continues };
    if (corpus.value === "own") Object.assign(params, { own_text: text.value, by_line: byLine.checked });
    else params.corpus = corpus.value;
    for (const [name, input] of Object.entries(inputs)) params[name] = Number(input.value);
    facts.textContent = "Preparing …";
    try {
      if (shows) await unlook();
      training = await ask("train_new", params);
      losses = [];
      lastSample = lastPicture = 0;
      stage.hidden = false;
      const chosen = parameter.value;
      parameter.replaceChildren(...training.parameters.map(({ name, shape }) => element("option", { value: name }, `${name} (${shape.join(" × ")})`)));
      if (training.parameters.some(({ name }) => name === chosen)) parameter.value = chosen;
      weight.clear();
      shown();
      paintCurve();
      await Promise.all([paintWeights(), sample()]);
      tell("problem", "");
      start.focus();
    } catch (problem) { tell("problem", problem.message); facts.textContent = ""; }
  }
  function shown() {
    start.textContent = running ? "Pause" : "Start";
    step.disabled = look.disabled = running;
    if (!training) return;
    const last = losses.at(-1);
    facts.textContent = `${training.sizes}, ${plural(training.count, "parameter")}. ${last ? `Step ${last.step} of ${training.steps}: loss ${number(last.loss)} nats a token, learning rate ${number(last.learning_rate, 3)}, gradient norm ${number(last.gradient_norm, 3)}, ${number(last.seconds * 1000, 3)} ms.` : `At step ${training.step} of ${training.steps}.`}`;
  }
  async function toggle() {
    running = !running;
    shown();
    if (running && !busy) await (ended = loop());
  }
  async function loop() {
    busy = true;
    weight.clear();
    try {
      while (running && view.isConnected) {
        const { steps, is_done: done } = await ask("train_run", { milliseconds: SLICE });
        losses.push(...steps);
        if (losses.length > 4000) losses = losses.filter((_, i) => i % 2 === 0);
        shown();
        paintCurve();
        if (Date.now() - lastPicture > 1500) await paintWeights();
        if (Date.now() - lastSample > 4000) await sample();
        if (done) { running = false; tell("problem", "The training is done: all its steps were made."); }
      }
    } catch (problem) { running = false; tell("problem", problem.message); }
    busy = false;
    shown();
    if (shows) refresh();
  }
  async function single() {
    try {
      const event = await ask("train_step");
      losses.push(event);
      shown();
      paintCurve();
      await weight.show(event);
      await paintWeights();
      if (shows) refresh();
    } catch (problem) { tell("problem", problem.message); }
  }
  async function lookInto() {
    if (shows) return unlook();
    shows = true;
    look.textContent = "Back to the run";
    await opened(await ask("train_show", { show: true }));
    await refresh();
  }
  async function unlook() {
    shows = false;
    look.textContent = "Look into this model";
    await opened(await ask("train_show", { show: false }));
    await refresh();
  }
  async function sample() {
    lastSample = Date.now();
    const found = await ask("train_sample", { count: 3, seed: losses.length });
    samples.prepend(element("p", {}, element("span", { class: "dim" }, `step ${found.step} `), found.texts.map((each) => [element("bdi", { class: "sample" }, visible(each)), " "])));
    while (samples.children.length > 8) samples.lastChild.remove();
  }
  async function paintWeights() {
    if (!training) return;
    lastPicture = Date.now();
    const found = await ask("train_weights", { parameter: parameter.value });
    const isVector = found.shape.length === 1, across = found.name === "head.weights";
    const map = heatMap({ rows: found.rows, rowNames: found.tokens && !across ? found.tokens : null, columnNames: found.tokens && across ? found.tokens : null, axes: isVector ? ["", "size"] : ["row", "column"], label: found.name, onChoose: (r, c) => weight.explain(found.name, isVector ? [c] : [r, c]) });
    picture.replaceChildren(map, element("p", { class: "note" }, found.cut ? `${found.cut} ` : "", "After a recorded step, choose a weight to see why it moved."));
  }
  function paintCurve() {
    const width = 560, height = 200, points = losses;
    const svg = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": points.length ? `loss from ${number(points[0].loss)} to ${number(points.at(-1).loss)}` : "no steps yet" });
    if (training) {
      const top = Math.max(training.uniform * 1.05, ...points.map((each) => each.loss)), bottom = Math.min(0.8 * training.unigram, ...points.map((each) => each.loss));
      const first = points.length ? points[0].step : 0, last = Math.max(first + 1, points.length ? points.at(-1).step : 1);
      const x = (value) => 44 + ((width - 54) * (value - first)) / (last - first), y = (value) => 8 + ((height - 30) * (top - value)) / (top - bottom || 1);
      for (const [value, name] of [[training.uniform, "guessing evenly"], [training.unigram, "knowing how often each token comes"]]) {
        svg.append(drawing("line", { class: "guide", x1: 44, x2: width - 10, y1: y(value), y2: y(value) }), drawing("text", { class: "axis", x: width - 10, y: y(value) - 4, "text-anchor": "end", "font-size": 11 }, `${number(value, 3)}: ${name}`));
      }
      for (const value of [top, bottom]) svg.append(drawing("text", { class: "axis", x: 40, y: y(value), "text-anchor": "end", "dominant-baseline": value === top ? "hanging" : "auto", "font-size": 11 }, number(value, 3)));
      svg.append(drawing("text", { class: "axis", x: 44, y: height - 4, "font-size": 11 }, `step ${first}`), drawing("text", { class: "axis", x: width - 10, y: height - 4, "text-anchor": "end", "font-size": 11 }, last));
      if (points.length) svg.append(drawing("path", { class: "loss-line", d: points.map((each, i) => `${i ? "L" : "M"}${x(each.step).toFixed(1)} ${y(each.loss).toFixed(1)}`).join("") }));
      if (points.length === 1) svg.append(drawing("circle", { class: "loss-dot", cx: x(points[0].step), cy: y(points[0].loss), r: 3 }));
    }
    curve.replaceChildren(svg);
  }
  view.about = (about) => {
    if (about.shows_training) return;
    shows = false; // another run was opened
    look.textContent = "Look into this model";
    const chosen = corpus.value;
    corpus.replaceChildren(...about.corpora.map((name) => element("option", { value: name }, name)), element("option", { value: "own" }, "own text (below)"));
    if ([...corpus.options].some(({ value }) => value === chosen)) corpus.value = chosen;
  };
  view.shown = () => { if (training) { shown(); } };
  view.begin = make;
  view.single = single;
  view.pause = async () => { running = false; shown(); await ended; };
  view.isBegun = () => training !== null;
  shown();
  return view;
}
