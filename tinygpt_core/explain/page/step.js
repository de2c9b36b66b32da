// The view of one step: the graph that can be opened and pointed at, and the player. The panel beside it has a file of its own.

function stepView(data) {
  const graph = data.graph, tree = buildTree(graph), steps = graph.steps;
  const names = namesOf(graph), { nameOf, leafName } = names;
  const stepOf = { forward: new Map(), backward: new Map() };
  steps.forEach(([phase, op], place) => stepOf[phase].set(op, place));
  const forwardSteps = stepOf.forward.size, slowest = Math.max(...graph.operations.map((operation) => operation.seconds || 0), 1e-9);
  let current = 0, playing = null, zoom = 1, shown = new Map(), nodes = new Map();

  const svg = drawing("svg", { class: "graph", role: "group", "aria-label": "Graph of operations. Up and down move, Enter opens a block or shows an operation." });
  const canvas = element("div", { class: "canvas" }, svg);
  const { panel, explain, showLeaf } = operationPanel(graph, data.batch_tokens, names, stepOf, { go, light, hideTip });
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
        layers.node.push(nodePicture(graph, item, slowest));
        visit(item);
      } else layers.node.push(nodePicture(graph, item, slowest));
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
    // On the way back nothing flows to what has no gradient: targets, indices, constants.
    operation.inputs.forEach((tensor, i) => { if (phase === "forward" || (operation.grads && operation.grads[i] !== null)) flow(tensor, phase === "forward" ? "reads" : "writes"); });
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
