// The first view: what happens in this step, in the order in which it happens. Each card leads to the view that shows it in full.

function overviewView(data, show) {
  const { graph, tokens, attention, training } = data;
  const cards = [];
  const card = (view, title, picture, text) => cards.push(element("li", {}, element("article", { class: "card" },
    element("h2", {}, element("span", { class: "nth" }, cards.length + 1), title), element("div", { class: "picture" }, picture),
    element("p", { class: "note" }, text), element("button", { type: "button", "aria-label": `${title}: look closer`, on: { click: () => show(view) } }, "Look closer"))));

  if (tokens) {
    const shown = tokens.texts.slice(0, 40);
    card(data.merges ? "merges" : "tokens", "The text becomes tokens",
      element("div", { class: "chips" }, shown.map((text) => element("span", { class: "chip" }, visible(text))), tokens.texts.length > shown.length ? element("span", { class: "dim" }, "…") : null),
      `${count(tokens.texts.length, "token")}, each one of a vocabulary of ${tokens.vocabulary.toLocaleString("en")}. Each is looked up as a row of numbers.`);
  }
  const parts = partsOf(graph), hasBackward = graph.steps.some(([phase]) => phase === "backward");
  card("step", hasBackward ? "Operations run forward" : "Operations run", barList(parts.map((part) => [part.name, part.forward, duration(part.forward)]), "first"),
    `${count(graph.operations.length, "operation")}, one after another, each written down with what it read, what it wrote and how long it took.`);
  if (attention) {
    const middle = attention[Math.floor((attention.length - 1) / 2)], map = middle.heads[0], cells = decode(map.cells), canvas = element("canvas", { class: "glimpse", "aria-hidden": "true" });
    canvas.repaint = () => paintShare(canvas, cells, map.rows, map.columns);
    canvas.repaint();
    painted.add(canvas.repaint);
    card("attention", "Each token looks back", canvas, `${count(attention.length, "layer")} with ${count(middle.heads.length, "head")} each. A row is a token, a column what it looks at: only tokens before it, and itself.`);
  }
  if (tokens) {
    const places = tokens.positions.map((_, i) => i).filter((i) => tokens.positions[i].target), place = places[Math.floor(places.length / 2)] ?? 0;
    const position = tokens.positions[place], most = position.top[0][1];
    const target = position.target, shown = position.top.slice(0, 6), loss = factOf(data, "loss");
    if (target && !shown.some(([, , id]) => id === target.id)) shown[5] = [target.text, target.probability, target.id]; // what came, however far down it ranked
    const rows = shown.map(([text, share, id]) => bar(visible(text), share, most, `token ${id}`, target && target.id === id ? "true" : ""));
    card("tokens", "It says what comes next", [element("p", { class: "after" }, "After ", element("q", {}, visible(tokens.texts.slice(Math.max(0, place - 11), place + 1).join("")))), element("ol", { class: "weights" }, rows)],
      target ? ["What came is ", element("b", {}, visible(target.text)), `, to which it gave ${percent(target.probability)} (place ${target.rank}): a loss of ${number(position.loss)}.${loss ? ` The loss of the step, ${loss}, is the mean over all tokens of the batch.` : ""}`] : "Nothing came after it.");
  }
  const snapshots = training ? training.snapshots : [], latest = snapshots.length ? snapshots[snapshots.length - 1].parameters : [];
  if (hasBackward) {
    const norms = byLayer(latest, "gradient");
    card("step:backward", "The chain rule runs backward", norms.length ? barList(norms.map(([name, value]) => [name, value, number(value)]), "second") : barList(parts.map((part) => [part.name, part.backward, duration(part.backward)]), "second"),
      norms.length ? "From the loss back to the parameters: the norm of each part's gradient says how much the loss depends on it." : "From the result back to what it was made of: how long each part took.");
  }
  if (training) {
    const ratios = latest.filter((entry) => entry.ratio).map((entry) => entry.ratio).sort((a, b) => a - b), log = training.log;
    const picture = log && log.step.length > 1 ? lineChart("Loss", lossLines(training), "", 150) : element("p", { class: "note" }, "The log of this run has no steps.");
    card("training", data.is_generation ? "How it was trained" : "The parameters move", picture,
      ratios.length ? `An update moves the typical one by ${percent(ratios[Math.floor(ratios.length / 2)])} of its size. Step by step the loss falls.` : "Step by step the loss fell.");
  }
  return element("div", { class: "overview" }, element("p", { class: "story" }, data.story), element("ol", { class: "cards" }, cards), tokens && attention ? gptMap(data, show) : null);
}

// The picture of a GPT that the book begins with. Its parts lead to the views that show them at work.
function gptMap(data, show) {
  const views = { tokenizer: data.merges ? "merges" : "tokens", block: "step", MLP: "step", LayerNorm: "step", "causal self-attention": "attention", head: "tokens", counting: "tokens", softmax: "tokens", embedding: data.training ? "training" : "step" };
  const picture = document.getElementById("map").content.firstElementChild.cloneNode(true);
  if (!data.graph.calls.some((call) => call.kind === "NgramPrior")) picture.querySelectorAll('[data-part^="counting"]').forEach((part) => part.remove()); // this model did not count
  for (const part of picture.querySelectorAll("[data-part]")) {
    const name = part.dataset.part, view = views[name];
    if (!view) continue;
    const go = () => show(view);
    fill(part, { role: "button", tabindex: 0, "aria-label": `${name}: look closer`, on: { click: go, keydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); go(); } } } }, []);
  }
  // Its colours in the dark follow the page's theme, not the system's alone.
  const style = picture.querySelector("style"), rules = style.textContent.match(/\[[^\]]+\]\{[^}]+\}/g);
  const inside = (root) => rules.map((rule) => `${root} .map ${rule}`).join("");
  style.textContent = `@media (prefers-color-scheme: dark){${inside(':root:not([data-theme="light"])')}}${inside(':root[data-theme="dark"]')}`;
  picture.removeAttribute("role"); // its parts can be pressed
  return element("section", { class: "map" }, element("h2", {}, "Where each part stands"), element("p", { class: "note" }, "A GPT, as the book draws it. Press a part to see it at work in this step."), element("div", { class: "scrolled" }, picture));
}

// The parts of the outermost module that has several, and what lies beside it, with the time they took.
function partsOf(graph) {
  const tree = buildTree(graph);
  const blocks = (item) => item.children.filter((child) => child.kind === "call");
  let found = blocks(tree.root);
  while (found.length < 3) { // a block in which half of the time went is shown by its parts
    const large = found.find((item) => item.seconds >= tree.root.seconds / 2 && blocks(item).length);
    if (!large) break;
    found = found.flatMap((item) => (item === large ? blocks(item) : [item]));
  }
  const parts = found.map((item) => ({ name: shortName(item.name) || item.type, forward: item.seconds, backward: item.backwardSeconds }));
  if (!parts.length) {
    const kinds = new Map();
    for (const operation of graph.operations) {
      const part = kinds.get(operation.kind) || { name: operation.kind, forward: 0, backward: 0 };
      part.forward += operation.seconds || 0;
      part.backward += operation.backward_seconds || 0;
      kinds.set(operation.kind, part);
    }
    return [...kinds.values()];
  }
  const rest = { name: "the rest", forward: tree.root.seconds, backward: tree.root.backwardSeconds };
  for (const part of parts) { rest.forward -= part.forward; rest.backward -= part.backward; }
  return [...parts, rest].filter((part) => part.forward > 1e-12 || part.backward > 1e-12);
}

// The norm of each layer, from those of its parameters.
function byLayer(entries, field) {
  const layers = new Map();
  for (const entry of entries) {
    if (entry[field] === null || entry[field] === undefined) continue;
    const name = layerOf(entry.name);
    layers.set(name, Math.hypot(layers.get(name) || 0, entry[field]));
  }
  return [...layers];
}

function layerOf(name) {
  const pieces = name.split("."), place = pieces.findIndex((piece) => /^\d+$/.test(piece));
  return shortName(place >= 0 ? pieces.slice(0, place + 1).join(".") : pieces[0]);
}

// "transformer_blocks.3" of a longer path; a number keeps the name before it.
function shortName(name) {
  const pieces = name.split(".");
  return /^\d+$/.test(pieces[pieces.length - 1]) ? pieces.slice(-2).join(".") : pieces[pieces.length - 1];
}

function barList(rows, style) {
  const most = Math.max(...rows.map(([, value]) => value), 1e-30);
  return element("ol", { class: "weights wide" }, rows.slice(0, 16).map(([name, value, text]) => bar(name, value, most, "", style, text)));
}
