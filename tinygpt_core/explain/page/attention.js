// Attention: a small map for every layer and head, and one of them large, over the tokens themselves.

function attentionView(data) {
  const layers = data.attention, texts = (data.tokens ? data.tokens.texts : []).map(visible);
  const maps = layers.map((layer) => layer.heads.map((head) => ({ rows: head.rows, columns: head.columns, cells: decode(head.cells) })));
  const token = (place) => texts[place] ?? String(place);
  let layer = 0, head = 0, query = Math.min(maps[0][0].rows - 1, Math.floor(maps[0][0].rows / 2)), key = 0;

  const grid = element("div", { class: "maps", role: "group", "aria-label": "Layers and heads" });
  const large = element("div", { class: "large" }), line = element("p", { class: "reading", "aria-live": "polite" });
  const row = element("ol", { class: "weights", "aria-label": "What this token looks at most" });
  const experts = element("ol", { class: "weights", "aria-label": "The experts that this token is sent to" });
  const thumbnails = [];
  maps.forEach((heads, l) => {
    const thumbs = heads.map((map, h) => {
      const canvas = element("canvas", { "aria-hidden": "true" });
      canvas.repaint = () => paintShare(canvas, map.cells, map.rows, map.columns);
      canvas.repaint();
      const thumb = element("button", { type: "button", class: "thumb", "aria-label": `${layers[l].name}, head ${h + 1}`, title: `head ${h + 1}`, on: { click: () => { layer = l; head = h; choose(); } } }, canvas);
      thumbnails.push([l, h, thumb]);
      return thumb;
    });
    grid.append(element("div", { class: "layer" }, element("span", { class: "dim" }, layers[l].label), element("div", { class: "heads" }, thumbs)));
  });

  function choose() {
    const map = maps[layer][head];
    thumbnails.forEach(([l, h, thumb]) => thumb.setAttribute("aria-pressed", String(l === layer && h === head)));
    query = Math.min(query, map.rows - 1);
    const seen = [...map.cells.slice(query * map.columns, (query + 1) * map.columns)];
    key = seen.indexOf(Math.max(...seen));
    const label = 84, room = Math.min(680, (large.clientWidth || 680) - label - 6), cell = Math.max(7, Math.min(32, Math.floor(room / map.columns)));
    const canvas = element("canvas", { role: "img", tabindex: 0, "aria-label": `attention of ${layers[layer].name}, head ${head + 1}; arrow keys move`,
      style: `width:${cell * map.columns}px;height:${cell * map.rows}px;left:${label}px;top:${label}px` });
    canvas.repaint = () => paintShare(canvas, map.cells, map.rows, map.columns);
    canvas.repaint();
    const names = drawing("svg", { width: label + cell * map.columns + 4, height: label + cell * map.rows + 4, "aria-hidden": "true" });
    const size = Math.min(13, Math.max(7, cell - 1.5)), clip = (text) => (text.length > 9 ? `${text.slice(0, 8)}…` : text);
    for (let i = 0; i < map.rows; i++) names.append(drawing("text", { class: "axis", style: `font-size:${size}px`, x: label - 6, y: label + (i + 0.5) * cell, "text-anchor": "end", "dominant-baseline": "central" }, clip(token(i))));
    for (let i = 0; i < map.columns; i++) names.append(drawing("text", { class: "axis", style: `font-size:${size}px`, transform: `translate(${label + (i + 0.5) * cell} ${label - 6}) rotate(-90)`, "dominant-baseline": "central" }, clip(token(i))));
    const frame = drawing("rect", { class: "frame", width: cell * map.columns, height: cell, x: label }), dot = drawing("rect", { class: "dot", width: cell, height: cell });
    names.append(frame, dot);
    const read = () => {
      frame.setAttribute("y", label + query * cell);
      dot.setAttribute("x", label + key * cell);
      dot.setAttribute("y", label + query * cell);
      const share = shareOf(map.cells[query * map.columns + key]);
      line.replaceChildren("Position ", element("b", {}, `${query + 1} “${token(query)}”`), " looks at position ", element("b", {}, `${key + 1} “${token(key)}”`), ` with ${percent(share)} of its attention.`);
      const best = [...map.cells.slice(query * map.columns, (query + 1) * map.columns)].map((value, place) => [shareOf(value), place]).sort((a, b) => b[0] - a[0]).slice(0, 8).filter(([value]) => value > 0);
      row.replaceChildren(...best.map(([value, place]) => bar(`${token(place)}`, value, best[0][0], `position ${place + 1}`)));
      const chosen = (layers[layer].experts || [])[query] || [];
      experts.replaceChildren(...chosen.map(([expert, weight]) => bar(`expert ${expert}`, weight, chosen[0][1], `of the MLPs of this layer, number ${expert}`)));
    };
    const pointAt = (event) => {
      const box = canvas.getBoundingClientRect();
      key = Math.max(0, Math.min(map.columns - 1, Math.floor((event.clientX - box.left) / cell)));
      query = Math.max(0, Math.min(map.rows - 1, Math.floor((event.clientY - box.top) / cell)));
      read();
    };
    canvas.addEventListener("mousemove", pointAt);
    canvas.addEventListener("click", pointAt);
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!move) return;
      event.preventDefault();
      query = Math.max(0, Math.min(map.rows - 1, query + move[0]));
      key = Math.max(0, Math.min(map.columns - 1, key + move[1]));
      read();
    });
    const box = element("div", { class: "plot", style: `width:${label + cell * map.columns + 4}px;height:${label + cell * map.rows + 4}px` }, names, canvas);
    large.replaceChildren(element("h2", {}, layers[layer].name, element("span", { class: "dim" }, ` head ${head + 1} of ${maps[layer].length}`)), box);
    read();
  }

  const view = element("div", { class: "attention" },
    element("section", { class: "side" }, element("h2", {}, "Layers and heads"), element("p", { class: "note" }, "Each square is one head: a row for every token that looks, a column for every token looked at. The stronger the colour, the more it looks there; each row adds up to 1."), grid),
    large, element("section", { class: "side", "aria-label": "Reading" }, element("h2", {}, "One token"), line, row,
      layers.some((layer) => layer.experts) ? element("p", { class: "note" }, "Then the router of this layer sends it to these experts:") : null, experts,
      layers[0].cut ? element("p", { class: "note" }, layers[0].cut) : null));
  view.shown = choose;
  painted.add(() => view.querySelectorAll("canvas").forEach((canvas) => canvas.repaint()));
  return view;
}

// A line of a bar chart; `counted`, what counting gives the same, has a mark and a column of its own.
function bar(label, share, most, title, extra = "", text = percent(share), counted = null) {
  const place = (value) => Math.min(100, (100 * value) / Math.max(most, 1e-30));
  return element("li", { class: `bar ${extra}`, title }, element("span", { class: "what" }, label),
    element("span", { class: "track" }, element("span", { class: "fill", style: `width:${place(share)}%` }), counted === null ? null : element("span", { class: "mark", style: `left:${place(counted)}%` })),
    element("span", { class: "value" }, text), counted === null ? null : element("span", { class: "value counted" }, percent(counted)));
}
