// The panel beside the graph: one operation, what it reads and writes, its formula or chain rule, and its source; or one input.

function operationPanel(graph, texts, { writer, leafName, nameOf, inputName }, stepOf, { go, light, hideTip }) {
  const panel = element("section", { class: "panel", "aria-label": "The operation of this step", tabindex: 0 });

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
      card.append(element("figure", {}, heatMap(value.values, 132, 96), element("figcaption", {}, sampled(value.values), tokensOfRows(value))));
    } else info.append(element("p", { class: "note" }, "Its values were not recorded."));
    card.addEventListener("mouseenter", () => light(value.kind === "gradient" ? value.of : index));
    card.addEventListener("mouseleave", hideTip);
    return card;
  }

  // The tokens of the rows that are shown, where a row is a position of the text.
  function tokensOfRows(value) {
    const owner = value.kind === "gradient" && graph.tensors[value.of] ? graph.tensors[value.of] : value;
    if (!texts.length || value.values.matrix[0] !== texts.length || owner.kind === "parameter") return null;
    const shown = Array.from({ length: value.values.grid[0] }, (_, i) => visible(texts[i * value.values.every[0]]));
    return element("span", { class: "row-tokens" }, ` Rows: ${shown.join(" ")}`);
  }

  function showLeaf(index) {
    const value = graph.tensors[index];
    const gradients = graph.operations.flatMap((operation) => (operation.grads || []).filter((gradient, place) => gradient !== null && operation.inputs[place] === index));
    panel.replaceChildren(
      element("p", { class: "eyebrow" }, value.kind === "parameter" ? "A parameter: training changes it" : "An input: it comes from outside"),
      element("h2", {}, leafName(index)), element("p", { class: "path" }, value.name || what(index)), tensorCard(index, ""), ...(value.about ? [element("p", { class: "note" }, value.about)] : []),
      element("h3", {}, "Its gradient"), ...(gradients.length ? gradients.map((gradient) => tensorCard(gradient, "part")) : [element("p", { class: "note" }, "None was computed.")]));
    panel.scrollTop = 0;
  }

  // What an input without a name is: a number of the program, or what an operation calls it.
  function what(index) {
    const value = graph.tensors[index], user = graph.operations.findIndex((operation) => operation.inputs.includes(index));
    if (user < 0) return "no name";
    const use = `${graph.operations[user].kind} #${user + 1} reads it as ${inputName(graph.operations[user], graph.operations[user].inputs.indexOf(index))}`;
    return value.shape.length ? use : `A number that the program wrote, such as the count of tokens that a mean is divided by: ${use}.`;
  }

  return { panel, explain, showLeaf };
}
