// The view of one step: the graph, the panel that explains an operation, and the player.

function stepView(data) {
  const graph = data.graph, tree = buildTree(graph), steps = graph.steps;
  const writer = new Map(graph.operations.map((operation, index) => [operation.output, index]));
  const stepOf = { forward: new Map(), backward: new Map() };
  steps.forEach(([phase, op], place) => stepOf[phase].set(op, place));
  const forwardSteps = stepOf.forward.size, slowest = Math.max(...graph.operations.map((operation) => operation.seconds || 0), 1e-9);
  let current = 0, playing = null, zoom = 1, shown = new Map(), nodes = new Map();

  const svg = drawing("svg", { class: "graph", role: "group", "aria-label": "Graph of operations. Up and down move, Enter opens a block or shows an operation." });
  const canvas = element("div", { class: "canvas" }, svg);
  const panel = element("section", { class: "panel", "aria-label": "The operation of this step", tabindex: 0 });
  const announce = element("p", { class: "sr", "aria-live": "polite" });

  // ---- the graph

  tree.leaves.forEach((leaf) => { leaf.label = leafName(leaf.tensor, leaf.parent.name); });
  openFew();
  function openFew() {
    const queue = tree.root.children.filter((item) => item.kind === "call");
    let visibleItems = tree.root.children.length;
    while (queue.length) {
      const call = queue.shift();
      if (visibleItems + call.children.length > 40) continue;
      call.open = true;
      visibleItems += call.children.length;
      if (call.depth < 2) queue.push(...call.children.filter((item) => item.kind === "call"));
    }
  }

  function draw(focusKey) {
    const segments = layout(tree), layers = { block: [], edge: [], hit: [], node: [] };
    shown = new Map();
    const visit = (block) => block.children.forEach((item) => {
      shown.set(item.key, item);
      if (item.kind === "call" && item.open) {
        layers.block.push(drawing("rect", { class: `block depth${item.depth % 2}`, x: item.x, y: item.y, width: item.width, height: item.height, rx: 10 }));
        layers.node.push(node(item));
        visit(item);
      } else layers.node.push(node(item));
    });
    visit(tree.root);
    for (const segment of segments) {
      layers.edge.push(drawing("path", { class: "edge", d: segment.path, "data-tensor": segment.tensor }));
      layers.hit.push(drawing("path", { class: "hit", d: segment.path, "data-tensor": segment.tensor }));
    }
    svg.replaceChildren(...layers.block, ...layers.edge, ...layers.hit, ...layers.node);
    nodes = new Map(layers.node.map((drawn) => [drawn.dataset.key, drawn]));
    svg.setAttribute("viewBox", `0 0 ${tree.root.width} ${tree.root.height}`);
    resize();
    mark();
    const focus = nodes.get(focusKey);
    roving(focus || svg.querySelector(".node"));
    if (focus) focus.focus({ preventScroll: true });
  }

  function resize() {
    svg.setAttribute("width", tree.root.width * zoom);
    svg.setAttribute("height", tree.root.height * zoom);
  }

  function roving(target) {
    svg.querySelectorAll('[tabindex="0"]').forEach((other) => other.setAttribute("tabindex", -1));
    if (target) target.setAttribute("tabindex", 0);
  }

  function node(item) {
    if (item.kind === "call" && item.open) {
      const label = item.name ? shortName(item.name) : "model";
      return drawing("g", { class: "node header", "data-key": item.key, role: "button", tabindex: -1, "aria-expanded": "true", "aria-label": `Fold ${label}, ${item.type}` },
        drawing("rect", { class: "grip", x: item.x + 6, y: item.y + 5, width: 26 + 8 * (label.length + item.type.length + 2), height: 21, rx: 5 }),
        drawing("text", { x: item.x + 14, y: item.y + 20 }, "▾ ", drawing("tspan", { class: "name" }, label), drawing("tspan", { class: "kind" }, `  ${item.type}`)));
    }
    const { x, y, width, height } = item, middle = x + width / 2;
    if (item.kind === "call") {
      const call = graph.calls[item.index], label = item.name ? shortName(item.name) : "model";
      const about = `${count(item.operations, "operation")} · ${duration(item.seconds)}${call.parameters ? ` · ${short(call.parameters)} parameters` : ""}`;
      return drawing("g", { class: "node call", "data-key": item.key, role: "button", tabindex: -1, "aria-expanded": "false", "aria-label": `Open ${label}, ${item.type}: ${about}` },
        drawing("rect", { class: "behind", x: x + 4, y: y + 4, width, height, rx: 9 }), drawing("rect", { class: "box", x, y, width, height, rx: 9 }),
        drawing("text", { class: "title", x: x + 14, y: y + 21 }, "▸ ", fit(label, 26)), drawing("text", { class: "sub", x: x + 14, y: y + 39 }, about));
    }
    if (item.kind === "leaf") {
      const tensor = graph.tensors[item.tensor], { label } = item;
      return drawing("g", { class: `node leaf ${tensor.kind}`, "data-key": item.key, role: "button", tabindex: -1, "aria-label": `${tensor.kind} ${label}, ${shapeOf(tensor)}` },
        drawing("rect", { class: "box", x, y, width, height, rx: height / 2 }),
        drawing("text", { class: "title", x: middle, y: y + 15, "text-anchor": "middle" }, fit(label, 28)),
        drawing("text", { class: "sub", x: middle, y: y + 29, "text-anchor": "middle" }, shapeOf(tensor)));
    }
    const operation = graph.operations[item.index], output = graph.tensors[operation.output];
    return drawing("g", { class: "node op", "data-key": item.key, role: "button", tabindex: -1, "aria-label": `${operation.kind} number ${item.index + 1}, result ${shapeOf(output)}, ${duration(operation.seconds)}` },
      drawing("rect", { class: "box", x, y, width, height, rx: 7 }),
      drawing("rect", { class: "spent", x: x + 1, y: y + height - 4, width: (width - 2) * Math.sqrt((operation.seconds || 0) / slowest), height: 3, rx: 1.5 }),
      drawing("text", { class: "title", x: middle, y: y + 18, "text-anchor": "middle" }, fit(operation.kind, 24)),
      drawing("text", { class: "sub", x: middle, y: y + 34, "text-anchor": "middle" }, `${shapeOf(output)} · ${output.dtype}`),
      drawing("text", { class: "sub", x: middle, y: y + 49, "text-anchor": "middle" }, operation.bytes === null ? "" : `${duration(operation.seconds)} · ${operation.view ? "a view" : bytes(operation.bytes)}`));
  }

  function short(value) {
    return value < 1e4 ? value.toLocaleString("en") : value < 1e6 ? `${number(value / 1e3)}k` : `${number(value / 1e6)}M`;
  }

  function fit(text, most) {
    return text.length <= most ? text : `…${text.slice(text.length - most + 1)}`;
  }

  // What an input or parameter is called inside the block of that name.
  function leafName(index, block = "") {
    const tensor = graph.tensors[index];
    if (tensor.name) return block && tensor.name.startsWith(`${block}.`) ? tensor.name.slice(block.length + 1) : tensor.name;
    if (!tensor.shape.length && tensor.values && tensor.values.max !== null) return number(tensor.values.max, 4);
    const user = graph.operations.find((operation) => operation.inputs.includes(index));
    if (!user) return "";
    const name = inputName(user, user.inputs.indexOf(index));
    return name.startsWith("input") || name.length < 2 ? (tensor.kind === "parameter" ? "leaf" : "input") : name;
  }

  function nameOf(index) {
    const tensor = graph.tensors[index];
    if (tensor.kind === "gradient") return `gradient of ${tensor.of === null || tensor.of === undefined ? "an input" : nameOf(tensor.of)}`;
    if (writer.has(index)) return `${graph.operations[writer.get(index)].kind} #${writer.get(index) + 1}`;
    return tensor.name || leafName(index);
  }

  // ---- what is pointed at

  const tip = document.getElementById("tip");

  function pointAt(event) {
    const target = event.target.closest("[data-tensor], .node");
    if (!target) return hideTip();
    let tensor = target.dataset.tensor;
    if (tensor === undefined) {
      const item = shown.get(target.dataset.key);
      if (item.kind === "call") return hideTip();
      tensor = item.kind === "leaf" ? item.tensor : graph.operations[item.index].output;
    }
    tensor = Number(tensor);
    light(tensor);
    const box = target.getBoundingClientRect();
    if (tip.hidden || tip.dataset.tensor !== String(tensor)) fillTip(tensor);
    moveTip(event.clientX || box.right, event.clientY || box.top);
  }

  function fillTip(index) {
    tip.dataset.tensor = index;
    const tensor = graph.tensors[index], parts = [element("strong", {}, nameOf(index)), element("span", { class: "dim" }, `${shapeOf(tensor)} · ${tensor.dtype}`)];
    if (tensor.values) parts.push(heatMap(tensor.values, 264, 160), statistics(tensor.values));
    else parts.push(element("span", { class: "dim" }, "its values were not recorded"));
    tip.replaceChildren(...parts);
    tip.hidden = false;
  }

  function moveTip(x, y) {
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(x + 16, window.innerWidth - box.width - 8))}px`;
    tip.style.top = `${Math.max(8, Math.min(y + 16, window.innerHeight - box.height - 8))}px`;
  }

  function hideTip() {
    tip.hidden = true;
    svg.querySelectorAll(".lit").forEach((edge) => edge.classList.remove("lit"));
  }

  function light(tensor) {
    svg.querySelectorAll(".lit").forEach((edge) => edge.classList.remove("lit"));
    svg.querySelectorAll(`.edge[data-tensor="${tensor}"]`).forEach((edge) => edge.classList.add("lit"));
  }

  svg.addEventListener("mousemove", pointAt);
  svg.addEventListener("mouseleave", hideTip);
  svg.addEventListener("focusin", pointAt);
  svg.addEventListener("focusout", hideTip);
  svg.addEventListener("click", (event) => {
    const target = event.target.closest(".node");
    if (target) activate(target);
  });
  svg.addEventListener("keydown", (event) => {
    const target = event.target.closest(".node");
    if (!target) return;
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); activate(target); }
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const sorted = [...nodes.values()].sort((a, b) => order(a) - order(b));
      const next = sorted[sorted.indexOf(target) + (event.key === "ArrowDown" ? 1 : -1)];
      if (next) { roving(next); next.focus({ preventScroll: true }); reveal(shown.get(next.dataset.key)); }
    }
    if (event.key === "Escape") hideTip();
  });

  function order(target) {
    const item = shown.get(target.dataset.key);
    return item.y * 1e4 + item.x;
  }

  function activate(target) {
    const item = shown.get(target.dataset.key);
    if (item.kind === "call") {
      item.open = !item.open;
      hideTip();
      draw(item.key);
      announce.textContent = `${item.name || "model"} ${item.open ? "opened" : "folded"}`;
    } else if (item.kind === "op") {
      const phase = steps[current][0];
      go(stepOf[phase].has(item.index) ? stepOf[phase].get(item.index) : stepOf.forward.get(item.index));
    } else showLeaf(item.tensor);
  }

  function foldAll(open) {
    tree.calls.forEach((call) => { call.open = open || call.parent === tree.root; });
    draw();
    reveal(shownAs(tree.ops[steps[current][1]]));
  }

  // ---- the step that is shown

  function mark() {
    const [phase, index] = steps[current], operation = graph.operations[index];
    svg.querySelectorAll(".now, .reads, .writes").forEach((other) => other.classList.remove("now", "reads", "writes", "forward", "backward"));
    for (const [key, item] of shown) {
      if (item.kind === "op") nodes.get(key).classList.toggle("done", stepOf[phase].get(item.index) <= current);
    }
    const target = nodes.get(shownAs(tree.ops[index]).key);
    if (target) target.classList.add("now", phase);
    stage.classList.toggle("backward", phase === "backward");
    const flow = (tensor, role) => svg.querySelectorAll(`.edge[data-tensor="${tensor}"]`).forEach((edge) => edge.classList.add(role, phase));
    operation.inputs.forEach((tensor) => flow(tensor, phase === "forward" ? "reads" : "writes"));
    flow(operation.output, phase === "forward" ? "writes" : "reads");
  }

  function reveal(item) {
    const left = item.x * zoom, top = item.y * zoom, width = canvas.clientWidth, height = canvas.clientHeight;
    const outside = top < canvas.scrollTop + 40 || top + 90 * zoom > canvas.scrollTop + height || left < canvas.scrollLeft || left + item.width * zoom > canvas.scrollLeft + width;
    const smooth = !matchMedia("(prefers-reduced-motion: reduce)").matches && playing === null;
    if (outside) canvas.scrollTo({ left: left + (item.width * zoom - width) / 2, top: top - height / 2.5, behavior: smooth ? "smooth" : "auto" });
  }

  function go(place) {
    current = Math.max(0, Math.min(steps.length - 1, place));
    const [phase, index] = steps[current];
    slider.value = current;
    const within = phase === "forward" ? current + 1 : current + 1 - forwardSteps;
    const text = `${phase === "forward" ? "Forward" : "Backward"} ${within} of ${phase === "forward" ? forwardSteps : steps.length - forwardSteps}: ${graph.operations[index].kind}`;
    slider.setAttribute("aria-valuetext", text);
    place_.textContent = text;
    cursor.style.left = `${(100 * (current + 0.5)) / steps.length}%`;
    mark();
    reveal(shownAs(tree.ops[index]));
    explain(phase, index);
  }

  function path(call) {
    const names = [];
    for (let index = call; index >= 0; index = graph.calls[index].parent) names.unshift(graph.calls[index].name ? shortName(graph.calls[index].name) : graph.calls[index].kind);
    return names.join(" › ");
  }

  function explain(phase, index) {
    const operation = graph.operations[index], about = graph.classes[operation.kind], forward = phase === "forward";
    const tensor = (number_, role) => tensorCard(number_, role);
    const options = Object.entries(operation.options || {}).filter(([, value]) => value !== "None").map(([key, value]) => `${key}=${value}`).join(", ");
    const facts = forward
      ? [["time", duration(operation.seconds)], ["new memory", operation.view ? "none, a view" : bytes(operation.bytes)], ["kept for backward", bytes(operation.kept)]]
      : [["time", duration(operation.backward_seconds)], ["forward took", duration(operation.seconds)]];
    if (forward && options) facts.push(["options", options]);
    const contents = [
      element("p", { class: `eyebrow ${phase}` }, forward ? "Forward: what it computes" : "Backward: the chain rule"),
      element("h2", {}, operation.kind, element("span", { class: "dim" }, ` #${index + 1}`)),
      element("p", { class: "path" }, path(operation.call) || "outside of any module"),
      element("div", { class: "switch", role: "group", "aria-label": "Which way" },
        ["forward", "backward"].map((way) => element("button", { type: "button", "aria-pressed": String(way === phase), disabled: !stepOf[way].has(index), on: { click: () => { go(stepOf[way].get(index)); panel.querySelector(`.switch button:nth-child(${way === "forward" ? 1 : 2})`).focus(); } } }, way === "forward" ? "Forward" : "Backward"))),
      element("dl", { class: "facts" }, facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))),
    ];
    if (forward) {
      contents.push(element("h3", {}, "Formula"), prose(about.formula));
      contents.push(element("h3", {}, "Reads"), operation.inputs.map((input, place) => (input === null ? null : tensor(input, inputName(operation, place)))));
      contents.push(element("h3", {}, "Writes"), tensor(operation.output, "y"));
    } else {
      contents.push(element("h3", {}, "Chain rule"), prose(about.rule || about.formula));
      const users = graph.operations.map((other, place) => [other, place]).filter(([other]) => other.grads && other.inputs.includes(operation.output)).map(([other, place]) => `${other.kind} #${place + 1}`);
      contents.push(element("p", { class: "note" }, users.length > 1
        ? `g = dL/dy is the sum of what ${users.join(", ").replace(/, ([^,]*)$/, " and $1")} hand back: y is used in ${users.length} places, and the chain rule adds over all of them.`
        : users.length === 1 ? `g = dL/dy is what ${users[0]} hands back.` : "g = dL/dy begins here with ones: this is what is differentiated."));
      contents.push(element("h3", {}, "Reads"), tensor(operation.grad, "g = dL/dy"));
      contents.push(element("h3", {}, "Writes"), operation.grads.map((gradient, place) => {
        const name = inputName(operation, place), input = operation.inputs[place];
        if (input === null) return null;
        if (gradient === null) return element("p", { class: "note" }, `Nothing for ${name} (${nameOf(input)}): it needs no gradient.`);
        const target = writer.has(input) ? `goes to ${nameOf(input)}` : `adds to the .grad of ${nameOf(input)}`;
        return [tensor(gradient, `dL/d${name}`), element("p", { class: "note" }, graph.tensors[gradient].part ? `${target}; only this part of it is not zero` : target)];
      }).flat());
    }
    if (operation.kept_values && operation.kept_values.length) {
      contents.push(element("h3", {}, "Kept since the forward"), operation.kept_values.map(([name, index_]) => tensor(index_, name)));
    }
    const source = about[phase];
    contents.push(element("h3", {}, "Source"));
    if (about.implementation) contents.push(element("p", { class: "note" }, "The textbook version. Here ", element("code", {}, about.implementation), " ran, which computes the same faster."));
    if (source) contents.push(element("p", { class: "file" }, `${source.file}, line ${source.line}`), element("pre", { tabindex: 0, "aria-label": `source of ${operation.kind}.${phase}` }, code(source.text)));
    else contents.push(element("p", { class: "note" }, "There is no source file for this operation."));
    panel.replaceChildren(...contents.flat().filter((part) => part !== null));
    panel.scrollTop = 0;
  }

  // The names in a formula: those of the parameters of `forward`.
  function inputName(operation, place) {
    const source = graph.classes[operation.kind].forward;
    const found = source && /def \w+\(([^)]*)\)/s.exec(source.text);
    const names = found ? found[1].split(",").map((part) => part.split(/[:=]/)[0].trim()).filter((name) => name && name !== "self" && name !== "cls") : [];
    const name = names[place];
    return name && !name.startsWith("*") ? name : `input ${place + 1}`;
  }

  function prose(text) {
    return element("p", { class: "formula" }, text || "The class has no docstring.");
  }

  function code(text) {
    const parts = text.split(/("""[\s\S]*?"""|#[^\n]*|\b(?:def|return|lambda|if|else|for|in|not|is|None|and|or|self)\b)/g);
    return element("code", {}, parts.map((part, i) => (i % 2 ? element("span", { class: part.startsWith("#") || part.startsWith('"""') ? "comment" : "keyword" }, part) : part)));
  }

  function tensorCard(index, role) {
    const value = graph.tensors[index], info = element("div", {},
      element("p", { class: "role" }, element("b", {}, role), ` ${value.kind === "gradient" ? "" : nameOf(index)}`),
      element("p", { class: "dim" }, `${shapeOf(value)} · ${value.dtype}`));
    const card = element("div", { class: `tensor ${value.kind}` }, info);
    if (value.values) {
      info.append(statistics(value.values));
      card.append(element("figure", {}, heatMap(value.values, 132, 96), element("figcaption", {}, sampled(value.values))));
    } else info.append(element("p", { class: "note" }, "Its values were not recorded."));
    card.addEventListener("mouseenter", () => light(value.kind === "gradient" ? value.of : index));
    card.addEventListener("mouseleave", hideTip);
    return card;
  }

  function showLeaf(index) {
    const value = graph.tensors[index];
    const gradients = graph.operations.flatMap((operation) => (operation.grads || []).filter((gradient, place) => gradient !== null && operation.inputs[place] === index));
    panel.replaceChildren(
      element("p", { class: "eyebrow" }, value.kind === "parameter" ? "A parameter: training changes it" : "An input: it comes from outside"),
      element("h2", {}, leafName(index)), element("p", { class: "path" }, value.name || "no name"), tensorCard(index, ""),
      element("h3", {}, "Its gradient"), ...(gradients.length ? gradients.map((gradient) => tensorCard(gradient, "part")) : [element("p", { class: "note" }, "None was computed.")]));
    panel.scrollTop = 0;
  }

  // ---- the player

  const place_ = element("output", { class: "place", for: "steps" });
  const slider = element("input", { type: "range", id: "steps", min: 0, max: steps.length - 1, value: 0, "aria-label": "Step", on: { input: () => { stop(); go(Number(slider.value)); } } });
  const cursor = element("span", { class: "cursor" });
  const play = button("▶ Play", "Play", () => (playing === null ? start() : stop()));
  const speed = element("select", { id: "speed" }, [["slow", 1600], ["medium", 700], ["fast", 160]].map(([name, pause]) => element("option", { value: pause, selected: name === "medium" }, name)));

  function button(text, label, click) {
    return element("button", { type: "button", "aria-label": label, title: label, on: { click } }, text);
  }

  function start() {
    if (current === steps.length - 1) go(0);
    play.textContent = "❚❚ Pause";
    play.setAttribute("aria-label", "Pause");
    const tick = () => {
      if (current >= steps.length - 1) return stop();
      go(current + 1);
      playing = setTimeout(tick, Number(speed.value));
    };
    playing = setTimeout(tick, Number(speed.value) / 2);
  }

  function stop() {
    clearTimeout(playing);
    playing = null;
    play.textContent = "▶ Play";
    play.setAttribute("aria-label", "Play");
  }

  function moveBy(distance) { stop(); go(current + distance); }

  // How long each step took, drawn above the slider; heights are square roots, so that short ones can be seen.
  function times() {
    const spent = steps.map(([phase, op]) => (phase === "forward" ? graph.operations[op].seconds : graph.operations[op].backward_seconds) || 0);
    const most = Math.max(...spent, 1e-9), strip = element("div", { class: "times", "aria-hidden": "true", title: "time of each step" });
    const picture = drawing("svg", { viewBox: `0 0 ${steps.length} 1`, preserveAspectRatio: "none" });
    const paths = { forward: "", backward: "" };
    steps.forEach(([phase], i) => { const height = Math.max(0.05, Math.sqrt(spent[i] / most)); paths[phase] += `M${i + 0.1} 1V${1 - height}H${i + 0.9}V1Z`; });
    for (const phase of ["forward", "backward"]) picture.append(drawing("path", { class: phase, d: paths[phase] }));
    strip.append(picture, cursor);
    return strip;
  }

  const player = element("div", { class: "player", role: "group", "aria-label": "Player" },
    element("div", { class: "buttons" }, button("⇤", "First step", () => moveBy(-steps.length)), button("◀", "Step back", () => moveBy(-1)), play,
      button("▶", "Step on", () => moveBy(1)), button("⇥", "Last step", () => moveBy(steps.length)),
      stepOf.backward.size ? button("∂ Backward", "To the beginning of the backward pass", () => { stop(); go(forwardSteps); }) : null,
      element("label", { for: "speed" }, "Speed "), speed),
    element("div", { class: "track" }, times(), slider), place_);

  const tools = element("div", { class: "tools" },
    button("Open all", "Open all blocks", () => foldAll(true)), button("Fold all", "Fold all blocks", () => foldAll(false)),
    button("−", "Smaller", () => { zoom = Math.max(0.3, zoom / 1.2); resize(); }), button("+", "Larger", () => { zoom = Math.min(2.5, zoom * 1.2); resize(); }),
    element("ul", { class: "legend", "aria-label": "Colours" }, element("li", { class: "op" }, "operation"), element("li", { class: "call" }, "module"), element("li", { class: "parameter" }, "parameter"), element("li", { class: "input" }, "input")));

  const stage = element("div", { class: "stage" }, tools, canvas), view = element("div", { class: "step" }, stage, panel, player, announce);
  view.shown = () => { draw(); go(current); };
  view.keys = (event) => {
    if (event.target.closest("select, [role=tab]")) return;
    const moves = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10, Home: -steps.length, End: steps.length };
    if (event.target === slider ? event.key === "PageUp" || event.key === "PageDown" : event.key in moves && !(event.target === panel && event.key.startsWith("Page"))) {
      if (!(event.key in moves)) return;
      event.preventDefault();
      moveBy(moves[event.key]);
    } else if (event.key === " " && !event.target.closest("button, .node")) { event.preventDefault(); play.click(); }
  };
  view.open = (phase) => { if (phase === "backward" && stepOf.backward.size) { stop(); go(forwardSteps); } };
  painted.add(() => view.querySelectorAll("canvas").forEach((map) => map.repaint && map.repaint()));
  return view;
}
