// Tokens: what the model expected at each position, and what came.

function tokensView(data) {
  const { texts, positions, uniform } = data.tokens;
  const largest = Math.max(uniform, ...positions.map((position) => position.loss || 0));
  const chips = [], text = element("div", { class: "chips", role: "group", "aria-label": "The tokens; choose one to see what was expected there" });
  const chart = element("section", { class: "expected", "aria-live": "polite" });
  const generated = data.tokens.prompt_length;

  texts.forEach((token, place) => {
    const before = place ? positions[place - 1] : null, loss = before ? before.loss : null;
    const chip = element("button", { type: "button", class: `chip ${generated !== null && place >= generated ? "made" : ""}`, "aria-pressed": "false",
      style: loss === null ? "" : `--surprise:${Math.round(100 * Math.min(1, loss / largest))}%`, disabled: place === 0,
      title: loss === null ? "given" : `loss ${number(loss)} nats`, "aria-label": `position ${place + 1}: ${token}${loss === null ? "" : `, loss ${number(loss)}`}`, on: { click: () => choose(place) } }, visible(token));
    chips.push(chip);
    text.append(chip);
  });
  if (positions.length >= texts.length) {
    const target = positions[texts.length - 1].target;
    chips.push(element("button", { type: "button", class: "chip next", "aria-pressed": "false", "aria-label": "what comes next", style: positions[texts.length - 1].loss === null ? "" : `--surprise:${Math.round((100 * positions[texts.length - 1].loss) / largest)}%`, on: { click: () => choose(texts.length) } }, target ? visible(target.text) : "?"));
    text.append(chips[chips.length - 1]);
  }

  function choose(place) {
    chips.forEach((chip, i) => chip.setAttribute("aria-pressed", String(i === place)));
    bars.forEach((item, i) => item.classList.toggle("now", i === place - 1));
    const position = positions[place - 1], target = position.target, counts = data.tokens.has_counting, most = Math.max(...position.top.map(([, share, , counted]) => Math.max(share, counted)));
    const rows = position.top.map(([token, share, id, counted]) => bar(visible(token), share, most, `token ${id}`, target && target.id === id ? "true" : "", percent(share), counted));
    if (target && !position.top.some(([, , id]) => id === target.id)) rows.push(element("li", { class: "gap", "aria-hidden": "true" }, "⋮"), bar(visible(target.text), target.probability, most, `token ${target.id}`, "true", percent(target.probability), target.counted));
    if (counts) rows.unshift(element("li", { class: "bar names" }, element("span", {}), element("span", {}), element("span", { class: "value" }, "model"), element("span", { class: "value counted" }, "counting")));
    chart.replaceChildren(
      element("h2", {}, "After ", element("q", {}, visible(texts.slice(Math.max(0, place - 12), place).join("")))),
      element("p", { class: "note" }, target ? ["The model gave ", element("b", {}, visible(target.text)), `, which came next, ${percent(target.probability)}: place ${target.rank} of ${data.tokens.vocabulary.toLocaleString("en")}. `,
        `Loss = −ln ${number(target.probability)} = ${number(position.loss)} nats.`] : "Nothing came after it, so there is no loss."),
      element("h3", {}, "The ten most probable tokens"), ...(counts ? [element("p", { class: "note" }, "The green line and the last column are what counting alone says.")] : []),
      element("ol", { class: counts ? "weights with-counting" : "weights" }, rows));
  }

  // The loss of each token, as bars.
  const width = 1000, height = 150, step = width / Math.max(1, positions.length), bars = [];
  const losses = drawing("svg", { class: "losses", viewBox: `0 0 ${width} ${height + 4}`, preserveAspectRatio: "none", role: "img", "aria-label": `loss by token, ${positions.map((position) => number(position.loss)).join(", ")}` });
  positions.forEach((position, i) => {
    const size = ((position.loss || 0) / largest) * height;
    const item = drawing("rect", { x: i * step + step * 0.1, width: step * 0.8, y: height - size, height: size + 2, on: { click: () => choose(i + 1) } }, drawing("title", {}, `${texts[i + 1] ?? ""}: ${number(position.loss)}`));
    bars.push(item);
    losses.append(item);
  });
  const level = height - (uniform / largest) * height;
  losses.append(drawing("line", { class: "uniform", x1: 0, x2: width, y1: level, y2: level }));
  const known = positions.filter((position) => position.loss !== null), mean = known.reduce((sum, position) => sum + position.loss, 0) / Math.max(1, known.length);
  const view = element("div", { class: "tokens" },
    element("section", {}, element("h2", {}, "The text"), element("p", { class: "note" }, generated === null
      ? "The deeper the colour, the more the token surprised the model. Choose a token to see what the model expected in its place."
      : "The underlined part was written by the model. The deeper the colour, the less probable the token was. Choose a token to see what the model expected in its place."), text,
    element("h2", {}, "Loss by token"), losses,
    element("p", { class: "note" }, `Mean ${number(mean)} nats over ${count(known.length, "token")}; the dashed line is ln ${data.tokens.vocabulary.toLocaleString("en")} = ${number(uniform)}, the loss of guessing blindly. ${data.tokens.cut || ""}`), reconciled(data, mean, known.length)), chart);
  view.shown = () => choose(Math.min(positions.length, Math.max(1, Math.ceil(positions.length / 2))));
  return view;
}

// Three losses that are not the same number: of a token, of this sequence, and of the batch, which is what training makes smaller.
function reconciled(data, mean, tokens) {
  const loss = factOf(data, "loss"), batch = factOf(data, "batch");
  if (!loss || !batch) return null;
  return element("p", { class: "note", id: "three-losses" }, `The loss of the step is ${loss}: the mean over all tokens of the batch, ${batch}. This sequence is one row of it, and the mean of its ${count(tokens, "token")} is ${number(mean)}. The loss of one token is what its bar shows.`);
}
